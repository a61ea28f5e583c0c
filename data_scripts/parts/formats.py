"""The forms in which face sets are handed out, each read as a stream of images with identities.

Each reader is `reader(path, wanted)`, a generator of `Found`. It asks `wanted(identity, name)`
before it reads an image where the form allows it, and raises UserError for a file that is not what
it seems. Nothing in a file runs, and no name in one is a path.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from labkit.data import FaceFolder
from labkit.data.bins import load_plain, read_bin
from labkit.data.images import Source, read_source
from labkit.data.records import find_records
from labkit.utils import UserError, read_file
from parts.names import decode
from parts.sources import RAW_EXTENSIONS, Archive, Raw, Tree
from parts.zips import Limits, Refused, Zips

Wanted = Callable[[str, str], bool]
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LISTS = (".txt", ".lst", ".csv", ".tsv")
LABELS = ("label", "labels", "identity", "identity_id", "person", "subject", "class", "cls", "id")
SET_LIMITS = Limits(members=20_000_000, total_bytes=2_000_000_000_000)


@dataclass
class Found:
    """One image of a set, or the reason why it is none."""

    title: str  # what to call it in the log
    identity: str = ""
    name: str = ""  # of the file, without its ending
    content: Source = b""
    problem: str = ""


def recognize(path: Path) -> tuple[str, Callable[[Path, Wanted], Iterator[Found]]]:
    """Return what a face set is, in words, and its reader; UserError when it is nothing known."""
    if find_records(path):
        return "RecordIO", read_packed
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if (path / "data.mdb").is_file() or path.suffix in (".lmdb", ".mdb"):
        return "LMDB", read_lmdb
    if path.suffix == ".bin":
        return "verification set", read_pairs
    for kind, endings, reader in (
        ("zip archives", (".zip",), read_zips),
        ("parquet", (".parquet",), read_parquet),
        ("tar", TARS, read_tars),
    ):
        if _files(path, endings):
            return kind, reader
    if path.is_dir():
        return "image folder", read_tree
    if path.suffix in LISTS:
        return "list of images", read_list
    known = "a RecordIO folder, .bin, LMDB, zips, parquet, tars, a folder of identities, a list"
    raise UserError(f"{path} is no face set that is known here: expected {known}")


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the file that a path is, or those directly in it, with one of the endings."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and file.name.lower().endswith(endings)]


def called(label: object) -> str:
    """Return the name of the identity with a label: numbers get six digits, text stays."""
    if isinstance(label, bytes):
        label = decode(label)
    with suppress(TypeError, ValueError, OverflowError):  # no number, NaN, infinite
        number = float(label)
        return f"{int(number):06d}" if number == int(number) else str(label)
    return str(label).strip()


def read_packed(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read a packed set, whose images are in the order of their identities."""
    folder = FaceFolder.scan(path)
    for i in range(len(folder)):
        identity, _, name = folder.name(i).partition("/")
        name = _flat(name)
        if wanted(called(identity), name):
            yield _read(folder.source(i), called(identity), name)


def _read(source: Source, identity: str, name: str) -> Found:
    try:
        return Found(str(source), identity, name, read_source(source))
    except UserError as error:
        return Found(str(source), problem=f"unreadable: {error}")


def _flat(name: str) -> str:
    """Return a relative path as one name without its ending."""
    return str(PurePosixPath(name).with_suffix("")).replace("/", "_")


def read_pairs(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read a verification set: the two images of a target pair are one identity, else two."""
    images, labels = read_bin(path)
    for i, image in enumerate(images):
        identity = f"{i // 2:05d}" + ("" if labels[i // 2] else "ab"[i % 2])
        if wanted(identity, str(1 + i % 2)):
            yield Found(f"image {i} of {path}", identity, str(1 + i % 2), bytes(image))


def read_lmdb(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read an LMDB of (image, label, …), as msgpack (HSFace) or pickle, or of images by path."""
    lmdb = _library("lmdb")
    try:
        base = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False)
        with base, base.begin() as reading:
            for key, value in reading.cursor():
                title, key = f"{decode(key)} of {path}", decode(key)
                if not key.startswith("__"):
                    yield from _of_value(key, value, title, wanted)
    except lmdb.Error as error:
        raise UserError(f"{path} is no LMDB, or damaged: {error}") from None


def _of_value(key: str, value: bytes, title: str, wanted: Wanted) -> Iterator[Found]:
    if value.startswith((b"\xff\xd8", b"\x89PNG")):
        image, (label, _, key) = value, key.rpartition("/")
        found = label and (label,)
    else:
        msgpack = _library("msgpack")
        try:
            if value[:1] == b"\x80":
                found, image = _sequence(load_plain(value, title))
            else:
                found, image = _sequence(msgpack.unpackb(value, strict_map_key=False))
        except (ValueError, msgpack.UnpackException):
            found = None
    if not found:
        yield Found(title, problem="no image with a label")
    elif wanted(called(found[0]), _flat(key)):
        yield Found(title, called(found[0]), _flat(key), image)


def _sequence(value: object) -> tuple[tuple | None, bytes]:
    """Return the label of (image, label, …), in a tuple, or None when it is none; the image."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return None, b""
    image, label = (getattr(part, "values", part) for part in value[:2])
    image = image.tobytes() if isinstance(image, np.ndarray) else image
    label = label[0] if isinstance(label, (list, tuple, np.ndarray)) and len(label) else label
    fits = isinstance(image, bytes) and isinstance(label, (int, float, str, bytes, np.generic))
    return ((label,), image) if fits else (None, b"")


def read_zips(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read zip archives with IDENTITY/…/image in them, as DigiFace-1M has them."""
    for file in _files(path, (".zip",)):
        try:
            with Zips(file, SET_LIMITS) as archive:
                for title, why in archive.refused:
                    if why.startswith("unsafe name"):
                        raise UserError(f"{title} of {file}: {why}")
                    yield Found(title, problem=why)
                for entry in archive.entries:
                    identity, name = entry.parts[-2:] if len(entry.parts) > 1 else ("", "")
                    if not entry.ends_with(*RAW_EXTENSIONS) or not identity:
                        continue
                    identity, name = called(identity), _flat(name)
                    if wanted(identity, name):
                        try:
                            yield Found(entry.name, identity, name, archive.read(entry))
                        except Refused as error:
                            yield Found(entry.name, problem=str(error))
        except Refused as error:
            raise UserError(f"{file} {error}") from None


def read_tars(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read tar shards, whose images have a .cls or .json of the same name, or folders in a tar."""
    files = _files(path, TARS)
    for file in files:
        shard = f"{file.name.split('.')[0]}-" if len(files) > 1 else ""
        archive, refused = Archive(file, beside=(".cls", ".json")), []
        members = archive.images(lambda raw, to=refused: to.append(raw) if raw.problem else True)
        for _, group in groupby(members, lambda raw: (*raw.parts[:-1], _sample(raw))):
            yield from _of_sample([*group], shard, wanted)
        for raw in refused:
            if raw.problem.startswith("unsafe name"):
                raise UserError(f"{raw.name}: {raw.problem}")
            yield Found(raw.name, problem=raw.problem)
        if archive.problem:
            raise UserError(f"{file}: {archive.problem}")


def _sample(raw: Raw) -> str:
    return raw.parts[-1].split(".")[0]


def _of_sample(group: list[Raw], shard: str, wanted: Wanted) -> Iterator[Found]:
    images = [raw for raw in group if raw.name.lower().endswith(RAW_EXTENSIONS)]
    if len(images) == len(group):  # no labels: the folder is the identity
        labelled = [(raw, raw.parts[-2:-1], _flat(raw.parts[-1])) for raw in images]
    else:
        label = next((_label(raw) for raw in group if raw not in images), None)
        label = () if label is None else (label,)
        labelled = [
            (raw, label, shard + "_".join((*raw.parts[:-1], _sample(raw)))) for raw in images
        ]
        if not images:
            yield Found(group[0].name, problem="label without an image")
    for raw, label, name in labelled:
        if not label:
            yield Found(raw.name, problem="image without a label")
        elif wanted(called(label[0]), name):
            yield Found(raw.name, called(label[0]), name, raw.content)


def _label(raw: Raw) -> object:
    """Return the label in a .cls or .json file, None when there is none."""
    text = decode(raw.content).strip()
    if not raw.name.lower().endswith(".json"):
        return text or None
    with suppress(ValueError):
        value = json.loads(text)
        if not isinstance(value, dict):
            return value
        return next((value[key] for key in LABELS if key in value), None)
    return None


def read_parquet(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read parquet files, as model hubs have them, with a column of images and one of labels."""
    pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    for file in _files(path, (".parquet",)):
        try:
            table = parquet.ParquetFile(file)
            image, label, names = _columns(file, table.schema_arrow, pyarrow.types)
            row = 0
            for batch in table.iter_batches(256, columns=[image, label]):
                for content, value in zip(*(batch[name].to_pylist() for name in (image, label))):
                    title, name, row = f"row {row} of {file}", f"{file.stem}-{row:06d}", row + 1
                    content = content.get("bytes") if isinstance(content, dict) else content
                    if content is None or value is None:
                        yield Found(title, problem="no image with a label")
                        continue
                    known = isinstance(value, int) and 0 <= value < len(names)
                    identity = called(names[value] if known else value)
                    if wanted(identity, name):
                        yield Found(title, identity, name, content)
        except (pyarrow.ArrowException, OSError) as error:
            why = " ".join(str(error).split())[:120]
            raise UserError(f"{file} is no parquet file, or damaged: {why}") from None


def _columns(file: Path, schema, types) -> tuple[str, str, list[str]]:
    """Return the columns of images and of labels, and what the labels are called, if anything."""

    def holds_images(kind) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    image = next((field.name for field in schema if holds_images(field.type)), None)
    label = next((name for key in LABELS for name in schema.names if name.lower() == key), None)
    if image is None or label is None:
        missing = "images (bytes)" if image is None else f"labels ({', '.join(LABELS)})"
        raise UserError(f"{file} has no column of {missing}: it has {', '.join(schema.names)}")
    with suppress(KeyError, TypeError, ValueError):
        about = json.loads((schema.metadata or {})[b"huggingface"])
        return image, label, [str(name) for name in about["info"]["features"][label]["names"]]
    return image, label, []


def read_tree(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read a folder `ROOT/identity/…/image`."""
    for raw in Tree(path).images(lambda raw: wanted(raw.parts[0], _flat("/".join(raw.parts[1:])))):
        yield Found(raw.name, raw.parts[0], _flat("/".join(raw.parts[1:])), raw.content)


def read_list(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Read a text file of lines `path label`, with paths from its folder; number first or none."""
    rows = []
    for number, line in enumerate(decode(read_file(path)).splitlines(), 1):
        mark = next((mark for mark in "\t," if mark in line), None)
        fields = [field.strip() for field in (line.split(mark) if mark else line.rsplit(None, 1))]
        if not line.strip() or (number == 1 and not _is_image(fields[-2:-1])):  # a header
            continue
        if len(fields) < 2 or not fields[-2] or not fields[-1]:
            raise UserError(
                f"{path}, line {number}: expected a path and a label, got {line[:80]!r}"
            )
        if not (path.parent / fields[-2]).is_file():
            raise UserError(f"{path}, line {number}: {fields[-2]} does not exist")
        rows.append((fields[-2], called(fields[-1])))
    for file, identity in rows:
        name = _flat(file.replace("\\", "/").lstrip("./"))
        if wanted(identity, name):
            yield Found(file, identity, name, path.parent / file)


def _is_image(fields: list[str]) -> bool:
    return bool(fields) and fields[0].lower().endswith(RAW_EXTENSIONS)


def read_boxes(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return VGGFace2's boxes (left, top, right, bottom) by identity/image, where they lie there.

    From `loose_bb_*.csv` in the folder or its `bb_landmark/`: NAME_ID, X, Y, W, H.
    """
    boxes = {}
    for file in sorted(
        [*folder.glob("loose_bb_*.csv"), *folder.glob("bb_landmark/loose_bb_*.csv")]
    ):
        with open(file, newline="", encoding="utf-8") as lines:
            for number, row in enumerate(csv.reader(lines), 1):
                try:
                    x, y, w, h = map(float, row[1:])
                    boxes[row[0]] = (x, y, x + w, y + h)
                except (ValueError, IndexError):
                    if number > 1:
                        told = "expected a name and four numbers"
                        raise UserError(f"{file}, line {number}: {told}, got {row}") from None
    return boxes


def _library(name: str):
    try:
        return import_module(name)
    except ImportError:
        told = f"reading this form needs the package {name.split('.')[0]}"
        raise UserError(f"{told}: pip install 'kstar-facelab[formats]'") from None
