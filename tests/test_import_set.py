"""Face sets as their makers hand them out, each written here from its format's description."""

import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pyarrow
import pytest
from conftest import make_faces
from PIL import Image
from pyarrow import parquet
from script_runs import kill_when, run_script, script, tree
from test_records import write_set

from labkit.data import FaceFolder, PairList
from labkit.data.images import read_source
from labkit.utils import UserError

import import_set  # isort: skip

PEOPLE, EACH = 3, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[tuple[int, bytes]]:
    """Labels and files of three people with four photographs each."""
    faces = FaceFolder.scan(make_faces(tmp_path_factory.mktemp("set") / "faces", PEOPLE, EACH))
    return [(int(faces.labels[i]), faces.path(i).read_bytes()) for i in range(len(faces))]


def bring(source: Path, out: Path, *flags) -> dict:
    given = [str(flag) for flag in (source, "--out", out, *flags)]
    return import_set.run(import_set.arguments().parse_args(given))


def write_lmdb(path: Path, items: dict[bytes, bytes], subdir: bool = True) -> Path:
    with (
        lmdb.open(str(path), subdir=subdir, map_size=1 << 26) as base,
        base.begin(write=True) as to,
    ):
        for key, value in items.items():
            to.put(key, value)
    return path


def hsface(path: Path, photos, pack=msgpack.packb) -> Path:
    """As Vec2Face's sets are written: image and label by number, and three keys about them."""
    items = {b"%d" % k: pack([data, label]) for k, (label, data) in enumerate(photos)}
    items |= {b"__len__": pack(len(photos)), b"__keys__": pack([*items]), b"__classnum__": pack(3)}
    return write_lmdb(path, items)


def write_tar(path: Path, files: dict[str, bytes], mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_parquet(path: Path, photos, about=None, nested=True) -> Path:
    images = [{"bytes": data, "path": None} if nested else data for _, data in photos]
    table = pyarrow.table({"image": images, "label": [label for label, _ in photos]})
    parquet.write_table(table.replace_schema_metadata(about), path)
    return path


def in_folders(photos) -> dict[str, bytes]:
    return {f"{label}/{k}.jpg": data for k, (label, data) in enumerate(photos)}


def make(kind: str, folder: Path, photos) -> Path:
    """Write the photographs in a form, and return where."""
    folder.mkdir()
    if kind == "RecordIO":
        return write_set(folder / "packed", photos)
    if kind == "LMDB of msgpack":
        return hsface(folder / "hsface.lmdb", photos)
    if kind == "LMDB of pickles":
        as_array = [(label, np.frombuffer(data, np.uint8)) for label, data in photos]
        return hsface(folder / "base", as_array, lambda value: pickle.dumps(value, 2))
    if kind == "LMDB of images":
        items = {name.encode(): data for name, data in in_folders(photos).items()}
        return write_lmdb(folder / "faces.lmdb", items, subdir=False)
    if kind == "zips":
        for label in range(PEOPLE):
            mine = {n: data for n, data in in_folders(photos).items() if n[0] == str(label)}
            write_zip(folder / f"subjects_{label}-{label}_4_imgs.zip", mine)
    elif kind == "shards":
        for shard, half in enumerate((photos[::2], photos[1::2])):
            files = {}
            for k, (label, data) in enumerate(half):
                name = f"{k:03d}.cls" if shard else f"{k:03d}.json"
                text = str(label) if shard else json.dumps({"label": label, "age": 30})
                files |= {f"{k:03d}.jpg": data, name: text.encode()}
            write_tar(folder / f"train-{shard}.tar", files)
    elif kind == "parquet":
        write_parquet(folder / "train-0.parquet", photos[:5])
        write_parquet(folder / "train-1.parquet", photos[5:], nested=False)
    elif kind == "tar":
        files = {f"train/{name}": data for name, data in in_folders(photos).items()}
        return write_tar(folder / "train.tar.gz", files, "w:gz")
    else:
        for name, data in in_folders(photos).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    if kind == "list":
        lines = [f"{name}\t{name[0]}\n" for name in in_folders(photos)]
        (folder / "train.txt").write_text("path\tlabel\n" + "".join(lines))
        return folder / "train.txt"
    return folder


KINDS = ["RecordIO", "LMDB of msgpack", "LMDB of pickles", "LMDB of images", "zips", "shards"]
KINDS += ["parquet", "tar", "folder", "list"]


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_people_and_the_same_files(tmp_path, photos, kind, pack):
    source = make(kind, tmp_path / "set", photos)
    told = bring(source, tmp_path / "out", *(["--pack"] if pack else []))
    assert told["counts"] == {"images": len(photos)} and not told["left_out"]
    folder = FaceFolder.scan(tmp_path / "out")
    assert [int(name) for name in folder.identities] == [*range(PEOPLE)]
    found = {(int(folder.labels[i]), read_source(folder.source(i))) for i in range(len(folder))}
    assert found == set(photos) and len(folder) == len(photos)
    assert (tmp_path / "out" / "train.rec").exists() == pack
    assert not [*tmp_path.rglob("images")], "the spool is removed"


def test_a_verification_set_becomes_a_folder_with_its_pairs(tmp_path, photos):
    images = [data for _, data in photos[:6]]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, [True, False, True]), 2))
    bring(tmp_path / "lfw.bin", tmp_path / "out")
    folder = FaceFolder.scan(tmp_path / "out")
    assert folder.identities == ["00000", "00001a", "00001b", "00002"]
    pairs = PairList.read(tmp_path / "out" / "pairs.csv", tmp_path / "out")
    assert [label for label, *_ in pairs.rows()] == [1, 0, 1]
    with pytest.raises(UserError, match="holds pairs"):
        bring(tmp_path / "lfw.bin", tmp_path / "packed", "--pack")


def test_the_first_identities_and_images_are_taken(tmp_path, photos):
    source = make("zips", tmp_path / "set", photos)
    told = bring(source, tmp_path / "out", "--identities", "2", "--images", "3")
    assert told["counts"] == {"images": 6} and told["identities"] == 2
    assert FaceFolder.scan(tmp_path / "out").identities == ["000000", "000001"]


def test_vggface2_is_cropped_by_its_boxes_and_keeps_its_names(tmp_path):
    pixels = np.full((300, 400, 3), 30, np.uint8)
    pixels[100:200, 150:250] = 220  # the face; the loose box is 1.3 times as large
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "JPEG", quality=95)
    write_tar(tmp_path / "vggface2_train.tar.gz", {"train/n000002/0001_01.jpg": photo.getvalue()})
    (tmp_path / "bb_landmark").mkdir()
    (tmp_path / "bb_landmark" / "loose_bb_train.csv").write_text(
        'NAME_ID,X,Y,W,H\n"n000002/0001_01",135,85,130,130\n'
    )
    (tmp_path / "meta").mkdir()
    header = "Class_ID, Name, Sample_Num, Flag, Gender\n"
    (tmp_path / "meta" / "identity_meta.csv").write_text(f'{header}n000002, "Kim", 1, 1, f\n')
    bring(tmp_path / "vggface2_train.tar.gz", tmp_path / "out", "--size", "100")
    crop = np.asarray(Image.open(tmp_path / "out" / "n000002" / "0001_01.jpg"))
    assert crop.shape == (100, 100, 3)
    assert abs((crop[50, :, 0] > 120).mean() - 0.75) < 0.03  # as `labkit.crop` crops a face
    assert FaceFolder.scan(tmp_path / "out").details()["n000002"]["name"] == "Kim"


def test_class_names_of_a_parquet_file_name_the_people(tmp_path, photos):
    names = {"info": {"features": {"label": {"names": ["Ann", "Bo", "Cy"]}}}}
    file = write_parquet(tmp_path / "a.parquet", photos, {"huggingface": json.dumps(names)})
    bring(file, tmp_path / "out")
    assert FaceFolder.scan(tmp_path / "out").identities == ["Ann", "Bo", "Cy"]


def test_images_of_other_kinds_become_jpeg_and_png_stays(tmp_path, photos):
    image = Image.open(io.BytesIO(photos[0][1]))
    files = {}
    for kind in ("webp", "png"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files[f"a/{kind}.{kind}"] = buffer.getvalue()
    write_zip(tmp_path / "set.zip", files)
    bring(tmp_path / "set.zip", tmp_path / "out")
    out = tmp_path / "out" / "a"
    assert (out / "png.png").read_bytes() == files["a/png.png"]
    assert (out / "webp.jpg").read_bytes().startswith(b"\xff\xd8")


def test_images_of_one_name_are_told_and_another_source_is_refused(tmp_path, photos):
    files = {f"{part}/7/1.jpg": photos[k][1] for k, part in enumerate(("train", "val"))}
    write_zip(tmp_path / "set.zip", files | {"train/7/2.jpg": photos[2][1]})
    told = bring(tmp_path / "set.zip", tmp_path / "out")
    assert told["left_out"] == {"another image has the same name": 1}
    assert (tmp_path / "out" / "000007" / "1.jpg").read_bytes() == photos[0][1]
    with pytest.raises(UserError, match="source was"):
        bring(make("zips", tmp_path / "other", photos), tmp_path / "out")


def test_a_few_unreadable_images_are_left_out_and_many_are_an_error(tmp_path, photos):
    many = photos * 20
    bad = [(0, b"no picture"), *many[1:]]
    told = bring(hsface(tmp_path / "few", bad), tmp_path / "out")
    assert told["left_out"] == {"unreadable": 1} and told["counts"]["images"] == len(many) - 1
    bad = [(0, b"no picture")] * 9 + many[9:]
    for pack in ([], ["--pack"]):
        with pytest.raises(UserError, match="9 of 240 images of .*many. cannot be read") as caught:
            bring(hsface(tmp_path / f"many{len(pack)}", bad), tmp_path / f"no{len(pack)}", *pack)
        assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "no1").glob("train*")]


class Calls:
    """A pickle that calls a function when it is read as usual."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("case", ["os.system", "numpy.load", "builtins.eval"])
@pytest.mark.parametrize("kind", ["lmdb", "bin"])
def test_a_hostile_pickle_is_refused_by_name_and_does_not_run(tmp_path, photos, case, kind):
    mark = tmp_path / "ran"
    np.save(tmp_path / "array.npy", np.zeros(1))
    call = {
        "os.system": Calls(os.system, f"touch {mark}"),
        "numpy.load": Calls(np.load, str(tmp_path / "array.npy"), "r", True),
        "builtins.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
    }[case]
    if kind == "lmdb":
        source = write_lmdb(tmp_path / "base", {b"0": pickle.dumps((photos[0][1], call), 2)})
    else:
        source = tmp_path / "set.bin"
        source.write_bytes(pickle.dumps(([photos[0][1], call], [True]), 2))
    told = case.replace("os.", "posix.|os.|nt.").replace("builtins", "(__builtin__|builtins)")
    with pytest.raises(UserError, match=f"would call .*({told}|lib.npyio|load)"):
        bring(source, tmp_path / "out")
    assert not mark.exists() and not [*(tmp_path / "out").rglob("*.jpg")]


def bad_sources(folder: Path, photos) -> dict[str, tuple[Path, str]]:
    """Return damaged sets, and what is said of each."""
    data = photos[0][1]
    whole = write_set(folder / "cut", photos)
    os.truncate(whole / "train.rec", (whole / "train.rec").stat().st_size // 2)
    (folder / "set.lst").write_text("a.jpg 1\nmissing.jpg 2\n")
    (folder / "a.jpg").write_bytes(data)
    (folder / "one.txt").write_text("a.jpg 1\nb.jpg\n")
    cut = write_tar(folder / "cut.tar", in_folders(photos))
    os.truncate(cut, 3 * len(data))
    table = pyarrow.table({"caption": ["a"], "label": [1]})
    parquet.write_table(table, folder / "text.parquet")
    (folder / "bad.parquet").write_bytes(b"PAR1 no parquet")
    (folder / "bad.zip").write_bytes(b"PK no zip")
    (folder / "base.lmdb").write_bytes(struct.pack("<Q", 7) * 999)
    (folder / "lfw.bin").write_bytes(b"no pickle")
    (folder / "notes.doc").write_text("no set")
    empty = folder / "empty"
    empty.mkdir()
    return {
        "packed set cut short": (whole, "cut short, or the index is that of another file"),
        "list with a missing file": (folder / "set.lst", "line 2: missing.jpg does not exist"),
        "list with a bad line": (folder / "one.txt", "line 2: (b.jpg does not|expected a path)"),
        "tar cut short": (cut, "cut.tar: archive is cut short"),
        "tar that leaves": (write_tar(folder / "out.tar", {"../a/1.jpg": data}), "leaves its fold"),
        "zip that leaves": (write_zip(folder / "out.zip", {"../a/1.jpg": data}), "leaves its fold"),
        "parquet without images": (folder / "text.parquet", "no column of images .* has caption"),
        "no parquet": (folder / "bad.parquet", "bad.parquet is no parquet file"),
        "no zip": (folder / "bad.zip", "bad.zip"),
        "no lmdb": (folder / "base.lmdb", "base.lmdb is no LMDB"),
        "no bin": (folder / "lfw.bin", "lfw.bin is no verification set, or damaged"),
        "unknown": (folder / "notes.doc", "no face set that is known here"),
        "nothing": (folder / "nothing", "nothing does not exist"),
        "empty folder": (empty, "holds no images"),
        "labels alone": (write_tar(folder / "l.tar", {"1.cls": b"3"}), "1 of 0 images|no images"),
    }


def test_bad_sources_are_one_line_each(tmp_path, photos, capsys):
    for case, (source, told) in bad_sources(tmp_path, photos).items():
        out = tmp_path / f"out {case}"
        code, _, err = script(import_set, capsys, source, "--out", out)
        assert code == 2 and err.count("\n") == 1, (case, err)
        assert re.search(told, err), (case, err)
        for image in out.rglob("*.jpg"):
            assert image.read_bytes() in [data for _, data in photos], case


@pytest.mark.parametrize("pack", [False, True])
def test_a_killed_import_goes_on_and_ends_the_same(tmp_path, pack):
    faces = FaceFolder.scan(make_faces(tmp_path / "faces", 30, 20))
    photos = [(int(faces.labels[i]), faces.path(i).read_bytes()) for i in range(len(faces))]
    source = hsface(tmp_path / "base", photos)
    flags = [source, "--out", tmp_path / "out", *(["--pack"] if pack else [])]
    out = tmp_path / "out"

    def begun() -> bool:
        if pack:
            return any(file.stat().st_size > 500 for file in out.glob(".import_set/index.tsv"))
        return len([*out.glob("*/[0-9]*.jpg")]) > 20

    kill_when(begun, "import_set", *flags)
    if pack:
        with open(tmp_path / "out" / ".import_set" / "images", "ab") as images:
            images.write(b"half an ima")
    told = json.loads(run_script("import_set", *flags, "--json").stdout)
    assert told["finished_earlier"] and told["finished_earlier"] + told["counts"]["images"] == 600
    bring(source, tmp_path / "whole", *(["--pack"] if pack else []))
    again, whole = tree(tmp_path / "out"), tree(tmp_path / "whole")
    assert again == whole
