"""Cropping raw sets: folders and archives, detectors, shards, kills, full disks."""

import io
import os
import sys
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runs import (
    complaint,
    kill_when,
    left_out,
    make_larger,
    run_script,
    tiny_disk,
    tree,
)  # fmt: skip

import labkit.crop
from labkit.crop import Face, find_faces
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError

import crop_raw  # isort: skip
from parts import detectors  # isort: skip

CASES = Path(__file__).parent / "cases"
FAST = ("--detector", "none", "--workers", "1")


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A photo of 250 px with one face."""
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut()).crop((100, 0, 350, 250))


def make_raw(root: Path, face: Image.Image, identities: int = 3, images: int = 3) -> Path:
    """A raw set: per identity some faces of different light, no face, two faces."""
    rng = np.random.default_rng(0)
    two = Image.new("RGB", (500, 250))
    two.paste(face, (0, 0))
    two.paste(face, (250, 0))
    for i in range(identities):
        folder = root / f"n{i:06d}"
        folder.mkdir(parents=True)
        for j in range(images):
            pixels = np.asarray(face) * rng.uniform(0.8, 1.1) + rng.normal(0, 3, (250, 250, 3))
            data = jpeg_bytes(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
            (folder / f"{j:04d}_01.jpg").write_bytes(data)
        (folder / "none.jpg").write_bytes(jpeg_bytes(Image.new("RGB", (250, 250), (90, 120, 60))))
        (folder / "two.jpg").write_bytes(jpeg_bytes(two))
    return root


def crop(*flags: str | Path) -> dict:
    return crop_raw.run(crop_raw.arguments().parse_args([str(flag) for flag in flags]))


def log(out: Path) -> dict[str, str]:
    return left_out(out / "crop_raw.log.csv")


def cuts(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(out).items() if name.endswith(".jpg")}


def test_each_photo_with_one_face_is_cut_as_the_widget_cuts_it(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face)
    (raw / "n000001" / "broken.jpg").write_bytes(jpeg_bytes(face)[:3000])
    (raw / "n000001" / "words.png").write_text("no picture")
    (raw / "n000001" / "notes.txt").write_text("not looked at")
    summary = crop(raw, "--out", tmp_path / "out", "--dry-run")
    assert summary["counts"] == {"images to look at": 17} and not (tmp_path / "out").exists()
    summary = crop(raw, "--out", tmp_path / "out", "--workers", "2")
    assert summary["counts"] == {"images seen": 17, "faces cropped": 9}
    assert summary["left_out"] == {"no face": 3, "several faces": 3, "not a readable image": 2}
    rate = summary["images_per_second"] / 2
    assert summary["images_per_second_per_core"] == pytest.approx(rate, abs=0.01)
    assert log(tmp_path / "out")[f"{raw}/n000002/two.jpg"] == "several faces: 2"
    name = "n000001/0002_01.jpg"
    photo = labkit.crop.read_photo(raw / name)
    wanted = labkit.crop.crop_face(photo, labkit.crop.largest_face(photo))
    assert (tmp_path / "out" / name).read_bytes() == jpeg_bytes(wanted, 95)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
def test_an_archive_gives_the_same_cuts_as_its_folder(kind, face, tmp_path):
    raw = make_raw(tmp_path / "train", face, identities=2, images=2)
    archive = tmp_path / f"train.{kind}"
    with tarfile.open(archive, f"w:{kind.partition('.')[2]}") as tar:
        tar.add(raw, "train")
    from_folder = crop(raw, "--out", tmp_path / "a", *FAST)
    from_archive = crop(archive, "--out", tmp_path / "b", *FAST)
    assert from_folder["counts"] == from_archive["counts"] == {"images seen": 8, "faces cropped": 8}
    assert cuts(tmp_path / "a") == cuts(tmp_path / "b")
    assert not list(tmp_path.glob("b/train*"))


def member(tar: tarfile.TarFile, name: str, data: bytes, **more) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def test_a_hostile_archive_gives_its_good_images_and_a_reason_for_all_else(face, tmp_path):
    unsafe = ["../../out/1.jpg", "/absolute/1.jpg", "alone.jpg", "program/x.sh"]
    good = ["good/1.jpg", "good/1.jpg", "good/1.jpg"]
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        member(tar, "link/1.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        member(tar, "hard/1.jpg", b"", type=tarfile.LNKTYPE, linkname="good/1.jpg")
        member(tar, "pipe/1.jpg", b"", type=tarfile.FIFOTYPE)
        for name in (
            *unsafe,
            "__MACOSX/._1.jpg",
            *good,
            unicodedata.normalize("NFD", "가나/1.jpg"),
        ):
            member(tar, name, jpeg_bytes(face))
    summary = crop(tmp_path / "x.tar.gz", "--out", tmp_path / "out", "--detector", "none")
    assert sorted(cuts(tmp_path / "out")) == ["good/1.jpg", "good/1_jpg.jpg", "가나/1.jpg"]
    reasons = log(tmp_path / "out")
    assert {name.removeprefix("x.tar.gz/"): why for name, why in reasons.items()} == {
        "../../out/1.jpg": "unsafe name: the path leaves its folder",
        "/absolute/1.jpg": "unsafe name: the path is absolute",
        "link/1.jpg": "a link or special file",
        "hard/1.jpg": "a link or special file",
        "pipe/1.jpg": "a link or special file",
        "alone.jpg": "not in a folder of an identity",
        "program/x.sh": "not an image",
        "good/1.jpg": "another image has the same name",
    }
    again = crop(tmp_path / "x.tar.gz", "--out", tmp_path / "out", "--detector", "none")
    assert again["counts"] == summary["counts"] and again["left_out"] == summary["left_out"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_that_is_cut_short_is_told_and_gives_what_it_has(kind, face, tmp_path):
    path = tmp_path / f"x.{kind}"
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
        for n in range(4):
            noise = np.random.default_rng(n).integers(0, 256, (200, 200, 3), dtype=np.uint8)
            member(tar, f"a/{n}.jpg", jpeg_bytes(Image.fromarray(noise)))
    whole = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        at = tar.getmembers()[2].offset
    damaged = {"inside": whole[: 3 * len(whole) // 5]}
    if kind == "tar":  # a bad header is not taken for the end
        damaged |= {"between": whole[:at], "header": whole[:at] + b"\xff" * 99 + whole[at + 99 :]}
    for name, data in damaged.items():
        path.write_bytes(data)
        summary = crop(path, "--out", tmp_path / name, *FAST)
        assert summary["counts"]["faces cropped"] == 2
        assert log(tmp_path / name)[str(path)].startswith("archive is cut short or damaged: ")
    path.write_bytes(whole)  # downloaded again
    summary = crop(path, "--out", tmp_path / "inside", *FAST)
    assert summary["counts"]["faces cropped"] == 4 and not summary["left_out"]


def test_shards_make_together_what_one_run_makes(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=5, images=1)
    crop(raw, "--out", tmp_path / "one", *FAST)
    parts = [crop(raw, "--out", tmp_path / "many", *FAST, "--shard", f"{i}/3") for i in (3, 1, 2)]
    assert cuts(tmp_path / "one") == cuts(tmp_path / "many")
    assert sum(part["counts"].get("images seen", 0) for part in parts) == 15
    assert len([part for part in parts if part["counts"]]) > 1
    with pytest.raises(UserError, match="shards was 3, now 1"):
        crop(raw, "--out", tmp_path / "many", *FAST)


def test_no_detection_cuts_the_middle_and_a_detector_that_stumbles_leaves_the_photo_out():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    cut, grey = crop_raw.crop_photo(buffer.getvalue(), "x", detectors.detector("none"), 64)
    assert cut.size == (64, 64) and np.asarray(cut).min() == 200 and grey == 0
    why = crop_raw.crop_photo(buffer.getvalue(), "x", lambda photo: 1 / 0, 256)
    assert why == "the detector failed: ZeroDivisionError: division by zero"


def test_a_detector_that_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="opencv is not installed: pip install .*opencv-python"):
        detectors.DETECTORS["opencv"]()


SESSIONS = CASES / "person_session"  # two people, two sessions each


@pytest.mark.parametrize("source", ["raw", "ytf.tar.gz"])
def test_people_above_sessions_are_never_mixed(source, tmp_path):
    with pytest.raises(UserError, match="would be one person: .*--level"):
        crop(SESSIONS / source, "--out", tmp_path / "mixed", *FAST)
    crop(SESSIONS / source, "--out", tmp_path / "out", *FAST, "--level", "2")
    assert {name.split("/")[0] for name in cuts(tmp_path / "out")} == {"Ann_A", "Bob_B"}


def test_nothing_cropped_is_no_success_and_says_what_is_there(face, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("train.rec", "train.idx"):
        (packed / name).write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match=r"no picture in .*packed: it holds \.idx, \.rec files"):
        crop(packed, "--out", tmp_path / "a", *FAST)
    with tarfile.open(tmp_path / "shards.tar", "w") as tar:
        member(tar, "set/0001.tar", b"0" * 512)
    with pytest.raises(UserError, match="nothing was cropped from .*shards.tar: 1 not an image"):
        crop(tmp_path / "shards.tar", "--out", tmp_path / "b", *FAST)
    (tmp_path / "empty" / "n1").mkdir(parents=True)
    Image.new("RGB", (90, 90)).save(tmp_path / "empty" / "n1" / "1.png")
    with pytest.raises(UserError, match="nothing was cropped from .*: 1 no face"):
        crop(tmp_path / "empty", "--out", tmp_path / "c", "--workers", "1")


def test_the_subject_is_the_large_face_in_the_middle_and_two_alike_are_none():
    photo = Image.new("RGB", (250, 250))
    middle, aside = Face((75, 75, 175, 175), 1.0), Face((0, 0, 80, 80), 2.0)
    left, right = Face((20, 75, 110, 165), 1.0), Face((140, 75, 230, 165), 1.0)
    assert crop_raw.subject([aside, middle], photo) == middle
    assert crop_raw.subject([aside], photo) == aside
    assert crop_raw.subject([left, right], photo) is None
    assert crop_raw.grey_share(photo, middle) == pytest.approx(0)
    whole = Face((0, 0, 250, 250), 1.0)  # the crop is 4/3 as wide: 7/16 of it lie outside
    assert crop_raw.grey_share(photo, whole) == pytest.approx(7 / 16)


def test_a_set_that_was_cropped_already_is_pointed_out(face, tmp_path, capsys):
    tight = face.crop(tuple(map(round, find_faces(face)[0].box)))
    (tmp_path / "raw" / "n1").mkdir(parents=True)
    for i in range(3):
        tight.resize((200 + i, 200)).save(tmp_path / "raw" / "n1" / f"{i}.png")
    summary = crop(tmp_path / "raw", "--out", tmp_path / "out", "--workers", "1")
    assert summary["counts"]["of these more than 30 % grey"] == summary["counts"]["faces cropped"]
    assert "were these pictures cropped already?" in capsys.readouterr().out


def test_a_named_pipe_is_left_out_and_does_not_hang(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=1, images=1)
    [person] = raw.iterdir()
    os.mkfifo(person / "pipe.jpg")
    assert crop(raw, "--out", tmp_path / "out", "--workers", 1)["counts"]["faces cropped"] == 1
    assert "pipe or device" in str(log(tmp_path / "out"))


def test_killed_in_the_middle_and_run_again_gives_what_one_run_gives(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=6, images=20)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    crop(raw, "--out", whole, *FAST)
    kill_when(lambda: len(cuts(cut)) >= 30, "crop_raw", raw, "--out", cut, *FAST)
    assert 30 <= len(cuts(cut)) < 132, "it was killed too late to show anything"
    summary = crop(raw, "--out", cut, *FAST)
    assert 0 < summary["finished_earlier"] < 132
    assert summary["counts"] == {"images seen": 132, "faces cropped": 132}
    assert tree(cut) == tree(whole)


def test_a_full_disk_is_one_line_and_the_rest_is_done_when_there_is_space(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=4, images=10)
    flags = ("--detector", "none", "--workers", "2")
    crop(raw, "--out", tmp_path / "whole", *flags)
    whole = cuts(tmp_path / "whole")
    with tiny_disk(tmp_path / "disk", 400) as disk:
        full = run_script("crop_raw", raw, "--out", disk / "out", *flags)
        assert full.returncode == 2 and full.stderr.count("\n") == 1
        assert "no space left on device; free some space" in full.stderr
        some = cuts(disk / "out")
        assert 0 < len(some) < len(whole) and some.items() <= whole.items()
        make_larger(disk)
        summary = crop(raw, "--out", disk / "out", *flags)
        assert cuts(disk / "out") == whole
        assert summary["counts"] == {"images seen": 48, "faces cropped": 48}


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    raw, text = tmp_path / "raw", tmp_path / "text.tar"
    raw.mkdir()
    text.write_text("no archive" * 100)
    for source, out, words in (
        ("nowhere", tmp_path / "out", "nowhere does not exist"),
        (raw, raw / "out", "lie in each other"),
        (text, tmp_path / "out", "is not a tar archive"),
        (raw, text, "cannot make the folder"),
    ):
        assert words in complaint(crop_raw, capsys, source, "--out", out, *FAST)
    for shard, words in (("4/3", "expected 1 to n of n, found 4/3"), ("a/b", "such as 3/8")):
        with pytest.raises(SystemExit, match="2"):
            crop(raw, "--out", tmp_path / "out", "--shard", shard)
        assert words in capsys.readouterr().err
