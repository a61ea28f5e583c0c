"""From a raw mess to a lab that has run: every script in turn, on rendered faces."""

import io
import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageOps
from script_runs import accepted, summary, table, zipped

import check_data  # isort: skip
import clean  # isort: skip
import collect_handins  # isort: skip
import crop_raw  # isort: skip
import make_pairs  # isort: skip
import split  # isort: skip

from labkit.cli import main as labkit
from labkit.data import DataDirectory, FaceFolder
from labkit.synth import make_dataset

STUDENTS = {"홍길동": 4, "Kim": 4, "이영희": 3}


@pytest.fixture(scope="module")
def mess(tmp_path_factory):
    """raw/: large photos of six people; handins/: zip files of three students, eleven stars."""
    root = tmp_path_factory.mktemp("chain")
    rng = np.random.default_rng(0)
    make_dataset(root / "world", "world", 6, 6, size=160, contact_sheet=False)
    for path in sorted((root / "world").rglob("*.jpg")):
        face = ImageOps.expand(Image.open(path).resize((240, 240)), 90, (90, 110, 130))
        photo = ImageOps.expand(face, (int(rng.integers(0, 120)), 0, 60, 40), "white")
        target = root / "raw" / path.relative_to(root / "world")
        target.parent.mkdir(parents=True, exist_ok=True)
        photo.save(target, quality=85)
    first = min((root / "raw").iterdir())
    (first / "page.jpg").write_text("<html>not found</html>")
    Image.new("RGB", (400, 300), (200, 180, 160)).save(first / "wall.jpg")
    make_dataset(root / "stars", "kstar", 11, 6, size=96, contact_sheet=False)
    stars = sorted(path for path in (root / "stars").iterdir() if path.is_dir())
    stars[0] = stars[0].rename(stars[0].with_name(unicodedata.normalize("NFD", "김하늘")))
    (root / "handins").mkdir()
    begin = 0
    for student, number in STUDENTS.items():
        mine = stars[begin : begin + number]
        begin += number
        _hand_in(root / "handins" / f"{student}.zip", mine)
    (root / "handins" / "late.zip").write_bytes(b"PK\x03\x04 cut off")
    shutil.rmtree(root / "world")
    return root


def _hand_in(path, people):
    """face_dataset/ with a spreadsheet; a rejected photo, a copy, and a face of somebody else."""
    images = [image for person in people for image in sorted(person.glob("*.jpg"))]
    members = {f"face_dataset/{i.parent.name}/{i.name}": i.read_bytes() for i in images}
    small = io.BytesIO()
    Image.open(people[0] / "000.jpg").resize((80, 80)).save(small, "JPEG", quality=60)
    members[f"face_dataset/{people[0].name}/copy.jpg"] = small.getvalue()
    stranger = (people[1] / "002.jpg").read_bytes()
    members[f"face_dataset/{people[2].name}/stranger.jpg"] = stranger
    bad = tuple(name for name in members if name.endswith("005.jpg"))
    members["sim_results.csv"] = accepted(*(set(members) - set(bad)), rejected=bad)
    path.write_bytes(zipped(members | {"__MACOSX/._x.jpg": b"litter"}))


def test_from_a_raw_mess_to_a_lab_that_has_run(mess, tmp_path, capsys):
    names = ("cropped", "collected", "cleaned", "data")
    cropped, collected, cleaned, data = (tmp_path / name for name in names)
    told = summary(crop_raw, capsys, mess / "raw", "--out", cropped, "--workers", 2)
    assert sum(told["left_out"].values()) >= 2  # the wall and the page
    world = FaceFolder.scan(cropped)
    assert len(world.identities) == 6 and len(world) >= 20

    summary(collect_handins, capsys, mess / "handins", "--out", collected, "--workers", 2)
    stars = FaceFolder.scan(collected)
    assert "김하늘" in stars.identities and len(stars) == 11 * 5 + 2 * 3

    told = summary(clean, capsys, collected, "--out", cleaned)
    assert told["left_out"]["near-duplicate"] == 3
    assert told["left_out"]["in two identities"] == 6  # the stranger and the original, each time

    flags = ["--clean", cleaned, "--pretrain-from", cropped, "--link", "--seed", 1]
    flags += ["--ratio", "train=5,val=3,test=3"]
    counts = summary(split, capsys, collected, "--out", data, *flags)["counts"]
    sets = ("pretrain", "train", "val", "test")
    assert [counts[f"people in {name}"] for name in sets] == [6, 5, 3, 3]
    assert not any("stranger" in str(path) or "copy" in str(path) for path in data.rglob("*.jpg"))

    summary(make_pairs, capsys, data, "--per-image", 6)
    DataDirectory(data).check()
    told = summary(check_data, capsys, data, "--near-duplicates", "--licence", "rendered")
    assert told["verdict"] == "the data directory is in order"
    assert {row["identity"] for row in table(data / "split.csv")} >= set(stars.identities)

    capsys.readouterr()
    run = ["run", "--preset", "smoke", "--data", str(data), "--out", str(tmp_path / "run")]
    assert labkit([*run, "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for stage in ("pretrain", "finetune"):
        for name in ("val", "test"):
            assert 0 <= result["evaluation"][stage][name]["eer"] <= 100
    assert (tmp_path / "run" / "facemap" / "facemap.html").stat().st_size > 10_000
