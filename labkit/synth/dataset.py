"""Rendered face folders on disk, and the whole data directory that the notebooks use."""

import io
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from PIL import Image

from labkit.data import FaceFolder, make_pairs
from labkit.devices import memory_told, side_by_side
from labkit.synth.head import HEAD_VERSION, load_head
from labkit.synth.people import KStars, World
from labkit.synth.render import RENDER_VERSION, draw, find_landmarks
from labkit.synth.scene import LANDMARKS
from labkit.utils import (
    UserError,
    folder_lock,
    make_folder,
    progress,
    reason,
    write_bytes,
    write_csv,
    write_text,
)

POPULATIONS = {"world": World, "kstar": KStars}
SETTINGS_FILE = "synth.yaml"
_PHOTOS_AT_ONCE = 32
_DEVICE_WORKERS = 4


@dataclass(frozen=True)
class SynthSizes:
    """How many people and photographs each part of a data directory gets, at `size` pixels."""

    world_identities: int = 100
    world_images: int = 20
    train_identities: int = 60
    train_images: int = 20
    val_identities: int = 20
    val_images: int = 10
    test_identities: int = 30
    test_images: int = 10
    size: int = 128


def make_data_directory(
    out: str | Path, sizes: SynthSizes, *, seed: int = 0, device: str = "cpu"
) -> Path:
    """Render a data directory: pretrain/ and pretrain_val/ (World), train/ val/ test/ (KStars),
    nobody in two of them, and pair lists of those to measure on. What is there already is kept.

    Returns the directory. Raises UserError when it was made with other settings.
    """
    out = Path(out)
    make_dataset(
        out / "pretrain", "world", identities=sizes.world_identities, images=sizes.world_images,
        size=sizes.size, seed=seed, device=device,
    )  # fmt: skip
    make_dataset(
        out / "pretrain_val", "world", identities=sizes.val_identities, images=sizes.val_images,
        size=sizes.size, seed=seed, device=device, first_identity=sizes.world_identities,
    )  # fmt: skip
    first = 0
    for part in ("train", "val", "test"):
        identities = getattr(sizes, f"{part}_identities")
        make_dataset(
            out / part, "kstar", identities=identities, images=getattr(sizes, f"{part}_images"),
            size=sizes.size, seed=seed, device=device, first_identity=first,
        )  # fmt: skip
        first += identities
    for name, part, labelled, draw_number in (
        ("val_pairs.csv", "val", True, 0),
        ("test_pairs.csv", "test", True, 1),
        ("test_blind.csv", "test", False, 2),
        ("pretrain_val_pairs.csv", "pretrain_val", True, 0),
    ):
        if not (out / name).is_file():
            folder = FaceFolder.scan(out / part)
            make_pairs(folder, seed=3 * seed + draw_number, labelled=labelled).write(out / name)
    return out


def make_dataset(
    out: str | Path,
    population="world",
    identities: int = 100,
    images: int = 20,
    size: int = 128,
    seed: int = 0,
    device: str = "cpu",
    first_identity: int = 0,
    landmarks: bool = False,
    contact_sheet: bool = True,
) -> Path:
    """Render a face folder: out/<identity>/<photo>.jpg for `identities` people, `images` each.

    population: "world", "kstar" or an object with `person` and `photo` (then `seed` is its own).
    first_identity: the number of the first person, so that folders can hold different people.
    landmarks: also write landmarks.csv (file, then x and y in pixels of the eyes, the nose tip
        and the mouth corners; left and right are the person's).

    Beside the people's folders it writes identities.csv (who they are), synth.yaml (what was
    asked for) and contact_sheet.jpg. A run that was stopped goes on where it was; a finished one
    returns at once. Returns `out`. Raises UserError when the folder was made with other settings
    or holds something else, when another process is writing it, or when the disk is full.
    """
    out = Path(out)
    for name, value, least in (
        ("identities", identities, 1),
        ("images", images, 1),
        ("size", size, 24),
        ("first identity", first_identity, 0),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    people = find_population(population, seed)
    settings = {
        "population": getattr(people, "name", type(people).__name__),
        "seed": getattr(people, "seed", seed),
        "identities": int(identities),
        "images": int(images),
        "size": int(size),
        "first_identity": int(first_identity),
        "render_version": RENDER_VERSION,
        "head_version": HEAD_VERSION,
        "synthetic": "nobody in these pictures exists",
    }
    _claim(out, settings)
    with folder_lock(out):
        for leftover in out.glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        numbers = range(first_identity, first_identity + identities)
        listed = out / "identities.csv"
        finished = listed.is_file() and all(
            extra.is_file() or not wanted
            for extra, wanted in (
                (out / "landmarks.csv", landmarks),
                (out / "contact_sheet.jpg", contact_sheet),
            )
        )
        present = {entry.name for entry in out.iterdir() if entry.is_dir()}
        if finished and len(present) >= identities:
            return out
        load_head()
        persons = [people.person(k) for k in numbers]
        missing = [person for person in persons if person.folder not in present]
        _render_people(out, people, missing, images, size, device, total=identities * images)
        if landmarks:
            _write_landmarks(out, people, persons, images, size, device)
        rows = [person.attributes() for person in persons]
        if contact_sheet:
            _write_contact_sheet(out, persons[:12], min(images, 8), size)
        write_csv(listed, [list(rows[0]), *(list(row.values()) for row in rows)])
    return out


def find_population(population, seed: int):
    """World(seed) or KStars(seed) by name; an object is given back. UserError for other names."""
    if not isinstance(population, str):
        return population
    if population not in POPULATIONS:
        raise UserError(f"unknown population {population!r}: choose world or kstar")
    return POPULATIONS[population](seed)


def _claim(out: Path, settings: dict) -> None:
    """Write what is asked for into a new folder, or compare with what an older run was asked."""
    path = out / SETTINGS_FILE
    if path.is_file():
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
            assert isinstance(found, dict)
        except (yaml.YAMLError, AssertionError, UnicodeDecodeError):
            raise UserError(f"{path} cannot be read: choose another folder") from None
        other = [f"{k} {found.get(k)} there, {v} now" for k, v in settings.items()
                 if k in found and found[k] != v or k not in found]  # fmt: skip
        if other:
            raise UserError(
                f"{out} was rendered with other settings ({'; '.join(other)}): "
                "use the same settings, another folder, or delete it"
            )
        return
    if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise UserError(f"{out} is not empty and was not rendered here: choose another folder")
    make_folder(out)
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def photo_name(photo: int) -> str:
    """The file name of photograph number `photo`."""
    return f"{photo:03d}.jpg"


def _render_people(out, people, persons, images, size, device, *, total) -> None:
    """Render and write photographs; a person's folder appears when it is complete.

    Each worker draws, renders and encodes some photographs of one person, with one thread of its
    own: on a shared machine that is much faster than threads that wait for each other.
    """
    workers = torch.get_num_threads() if str(device) == "cpu" else _DEVICE_WORKERS
    with (
        memory_told(device, "render with --device cpu"),
        side_by_side(workers) as pool,
        progress(total=total, desc="rendering faces", unit="photo") as bar,
    ):
        bar.update(total - len(persons) * images)
        under_way: deque = deque()
        try:
            for person in persons:
                folder = make_folder(out / f".{person.folder}.partial")
                jobs = [
                    pool.submit(_render_some, folder, people, person, numbers, size, device)
                    for numbers in _slices(images)
                ]
                under_way.append((person, folder, jobs))
                if len(under_way) > 2 * workers:
                    _finish(*under_way.popleft(), out, bar)
            while under_way:
                _finish(*under_way.popleft(), out, bar)
        except OSError as error:
            raise UserError(
                f"cannot write to {out}: {reason(error)}; make room and run it again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _slices(images: int) -> list[range]:
    starts = range(0, images, _PHOTOS_AT_ONCE)
    return [range(start, min(start + _PHOTOS_AT_ONCE, images)) for start in starts]


def _finish(person, folder: Path, jobs: list, out: Path, bar) -> None:
    for job in jobs:
        bar.update(job.result())
    folder.rename(out / person.folder)


def _render_some(folder: Path, people, person, numbers: range, size: int, device: str) -> int:
    shots = [people.photo(person.number, j, person) for j in numbers]
    pictures = draw([person] * len(shots), shots, size, device)
    pictures = pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    for j, shot, picture in zip(numbers, shots, pictures, strict=True):
        quality = int(shot.camera["jpeg"])
        Image.fromarray(picture).save(folder / photo_name(j), "JPEG", quality=quality)
    return len(shots)


def _write_landmarks(out, people, persons, images, size, device) -> None:
    header = ["file"] + [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]
    rows = [header]
    for person in persons:
        shots = [people.photo(person.number, j, person) for j in range(images)]
        points = find_landmarks([person] * images, shots, size, device)
        for j, five in enumerate(points.reshape(images, -1).tolist()):
            rows.append([f"{person.folder}/{photo_name(j)}", *(round(v, 2) for v in five)])
    write_csv(out / "landmarks.csv", rows)


def _write_contact_sheet(out: Path, persons: list, columns: int, size: int) -> None:
    """One row of photographs per person, as they are on disk."""
    side = min(size, 128)
    sheet = Image.new("RGB", (columns * side, len(persons) * side))
    for row, person in enumerate(persons):
        for column in range(columns):
            with Image.open(out / person.folder / photo_name(column)) as picture:
                sheet.paste(picture.resize((side, side)), (column * side, row * side))
    encoded = io.BytesIO()
    sheet.save(encoded, "JPEG", quality=90)
    write_bytes(out / "contact_sheet.jpg", encoded.getvalue())
