"""Cropping raw sets: folders and archives, detectors, shards, kills, full disks."""

import csv
import io
import os
import sys
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runs import kill_when, make_larger, run_script, tiny_disk, tree

import labkit.crop
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError

import crop_raw  # isort: skip
from parts import detectors  # isort: skip
from parts.job import main  # isort: skip


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A photo of 250 px with one face."""
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut()).crop((100, 0, 350, 250))


def jpeg(image: Image.Image, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **settings)
    return buffer.getvalue()


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
            data = jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
            (folder / f"{j:04d}_01.jpg").write_bytes(data)
        (folder / "none.jpg").write_bytes(jpeg(Image.new("RGB", (250, 250), (90, 120, 60))))
        (folder / "two.jpg").write_bytes(jpeg(two))
    return root


def crop(*flags: str | Path) -> dict:
    args = crop_raw.arguments().parse_args([str(flag) for flag in flags])
    return crop_raw.run(args)


def log(path: Path) -> dict[str, str]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def cuts(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(out).items() if name.endswith(".jpg")}


def test_each_photo_with_one_face_is_cut_as_the_widget_cuts_it(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face)
    (raw / "n000001" / "broken.jpg").write_bytes(jpeg(face)[:3000])
    (raw / "n000001" / "words.png").write_text("no picture")
    (raw / "n000001" / "notes.txt").write_text("not looked at")
    summary = crop(raw, "--out", tmp_path / "out", "--workers", "2")
    assert summary["counts"] == {"images seen": 17, "faces cropped": 9}
    assert summary["left_out"] == {
        "no face": 3,
        "several faces": 3,
        "not a readable image": 2,
    }
    assert summary["images_per_second_per_core"] == pytest.approx(
        summary["images_per_second"] / 2, abs=0.01
    )
    assert (
        log(tmp_path / "out" / "crop_raw.log.csv")[f"{raw}/n000002/two.jpg"] == "several faces: 2"
    )
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
    fast = ("--detector", "none", "--workers", "1")
    from_folder = crop(raw, "--out", tmp_path / "a", *fast)
    from_archive = crop(archive, "--out", tmp_path / "b", *fast)
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
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        member(tar, "../../out/1.jpg", jpeg(face))
        member(tar, "/absolute/1.jpg", jpeg(face))
        member(tar, "link/1.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        member(tar, "hard/1.jpg", b"", type=tarfile.LNKTYPE, linkname="good/1.jpg")
        member(tar, "pipe/1.jpg", b"", type=tarfile.FIFOTYPE)
        member(tar, "alone.jpg", jpeg(face))
        member(tar, "program/x.sh", b"#!")
        member(tar, "__MACOSX/good/._1.jpg", b"litter")
        member(tar, "good/1.jpg", jpeg(face))
        member(tar, "other/good/1.jpg", jpeg(face))
        member(tar, "more/good/1.jpg", jpeg(face))
        member(tar, f"{unicodedata.normalize('NFD', '가나')}/1.jpg", jpeg(face))
    summary = crop(tmp_path / "x.tar.gz", "--out", tmp_path / "out", "--detector", "none")
    assert sorted(cuts(tmp_path / "out")) == ["good/1.jpg", "good/1_jpg.jpg", "가나/1.jpg"]
    reasons = log(tmp_path / "out" / "crop_raw.log.csv")
    assert {name.removeprefix("x.tar.gz/"): why for name, why in reasons.items()} == {
        "../../out/1.jpg": "unsafe name: the path leaves its folder",
        "/absolute/1.jpg": "unsafe name: the path is absolute",
        "link/1.jpg": "a link or special file",
        "hard/1.jpg": "a link or special file",
        "pipe/1.jpg": "a link or special file",
        "alone.jpg": "not in a folder of an identity",
        "program/x.sh": "not an image",
        "more/good/1.jpg": "another image has the same name",
    }
    again = crop(tmp_path / "x.tar.gz", "--out", tmp_path / "out", "--detector", "none")
    assert again["counts"] == summary["counts"] and again["left_out"] == summary["left_out"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_that_is_cut_short_is_told_and_gives_what_it_has(kind, face, tmp_path):
    path = tmp_path / f"x.{kind}"
    with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
        for n in range(4):
            noise = np.random.default_rng(n).integers(0, 256, (200, 200, 3), dtype=np.uint8)
            member(tar, f"a/{n}.jpg", jpeg(Image.fromarray(noise)))
    whole = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        boundary = tar.getmembers()[2].offset
    flags = ("--detector", "none", "--workers", "1")
    cuts_at = {"inside": 3 * len(whole) // 5} | ({"between": boundary} if kind == "tar" else {})
    for name, end in cuts_at.items():
        path.write_bytes(whole[:end])
        summary = crop(path, "--out", tmp_path / name, *flags)
        assert summary["counts"]["faces cropped"] == 2
        why = log(tmp_path / name / "crop_raw.log.csv")[str(path)]
        assert why.startswith("archive is cut short or damaged: ")
    path.write_bytes(whole)  # downloaded again
    summary = crop(path, "--out", tmp_path / "inside", *flags)
    assert summary["counts"]["faces cropped"] == 4 and not summary["left_out"]


def test_a_header_damaged_in_the_middle_is_not_taken_for_the_end(face, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n in range(3):
            member(tar, f"a/{n}.jpg", jpeg(face))
    with tarfile.open(tmp_path / "x.tar") as tar:
        at = tar.getmembers()[1].offset
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[at : at + 100] = b"\xff" * 100
    (tmp_path / "x.tar").write_bytes(data)
    summary = crop(tmp_path / "x.tar", "--out", tmp_path / "out", "--detector", "none")
    assert summary["counts"]["faces cropped"] == 1
    assert summary["left_out"] == {"archive is cut short or damaged": 1}


def test_shards_make_together_what_one_run_makes(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=5, images=1)
    flags = ("--detector", "none", "--workers", "1")
    crop(raw, "--out", tmp_path / "one", *flags)
    parts = [crop(raw, "--out", tmp_path / "many", *flags, "--shard", f"{i}/3") for i in (3, 1, 2)]
    assert cuts(tmp_path / "one") == cuts(tmp_path / "many")
    assert sum(part["counts"].get("images seen", 0) for part in parts) == 15
    assert len([part for part in parts if part["counts"]]) > 1
    with pytest.raises(UserError, match="shards was 3, now 1"):
        crop(raw, "--out", tmp_path / "many", *flags)


def test_no_detection_cuts_the_largest_square_in_the_middle():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    cut = crop_raw.crop_photo(_png(pixels), "x", detectors.detector("none"), 64)
    assert cut.size == (64, 64) and np.asarray(cut).min() == 200


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name, module, package",
    [("opencv", "cv2", "opencv-python-headless"), ("mtcnn", "facenet_pytorch", "facenet-pytorch")],
)
def test_a_detector_that_is_not_there_says_what_to_install(name, module, package, monkeypatch):
    detectors.detector.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{name} is not installed: pip install .*{package}"):
        detectors.detector(name)


def test_a_named_pipe_is_left_out_and_does_not_hang(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=1, images=1)
    [person] = raw.iterdir()
    os.mkfifo(person / "pipe.jpg")
    assert crop(raw, "--out", tmp_path / "out", "--workers", 1)["counts"]["faces cropped"] == 1
    assert "pipe or device" in str(log(tmp_path / "out" / "crop_raw.log.csv"))


def test_a_detector_that_stumbles_leaves_the_photo_out(face):
    def find(photo):
        raise RuntimeError("assertion failed")

    why = crop_raw.crop_photo(jpeg(face), "x", find, 256)
    assert why == "the detector failed: RuntimeError: assertion failed"


def test_a_dry_run_counts_and_writes_nothing(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face)
    summary = crop(raw, "--out", tmp_path / "out", "--dry-run")
    assert summary["counts"] == {"images to look at": 15}
    assert not (tmp_path / "out").exists()


def test_killed_in_the_middle_and_run_again_gives_what_one_run_gives(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=6, images=20)
    flags = ("--detector", "none", "--workers", "1")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    crop(raw, "--out", whole, *flags)
    kill_when(
        lambda: len(cuts(cut)) >= 30 if cut.exists() else False,
        "crop_raw",
        raw,
        "--out",
        cut,
        *flags,
    )
    assert 30 <= len(cuts(cut)) < 132, "it was killed too late to show anything"
    summary = crop(raw, "--out", cut, *flags)
    assert 0 < summary["finished_earlier"] < 132
    assert summary["counts"] == {"images seen": 132, "faces cropped": 132}
    assert tree(cut) == tree(whole)


def test_a_full_disk_is_one_line_and_the_rest_is_done_when_there_is_space(face, tmp_path):
    raw = make_raw(tmp_path / "raw", face, identities=4, images=10)
    flags = ("--detector", "none", "--workers", "2")
    crop(raw, "--out", tmp_path / "whole", *flags)
    with tiny_disk(tmp_path / "disk", 400) as disk:
        full = run_script("crop_raw", raw, "--out", disk / "out", *flags)
        assert full.returncode == 2 and full.stderr.count("\n") == 1
        assert "no space left on device; free some space" in full.stderr
        some = cuts(disk / "out")
        whole = cuts(tmp_path / "whole")
        assert 0 < len(some) < len(whole)
        assert all(whole[name] == data for name, data in some.items())
        make_larger(disk, "20m")
        again = run_script("crop_raw", raw, "--out", disk / "out", *flags)
        assert again.returncode == 0, again.stderr
        assert cuts(disk / "out") == whole
        summary = crop(raw, "--out", disk / "out", *flags)
        assert summary["counts"] == {"images seen": 48, "faces cropped": 48}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["nowhere", "--out", "{tmp}/out"], "nowhere does not exist"),
        (["{raw}", "--out", "{raw}/out"], "lie in each other"),
        (["{tmp}/text.tar", "--out", "{tmp}/out"], "is not a tar archive"),
        (["{raw}", "--out", "{tmp}/text.tar"], "cannot make the folder"),
        (["{raw}", "--out", "{tmp}/out", "--shard", "4/3"], "expected 1 to n of n, found 4/3"),
        (["{raw}", "--out", "{tmp}/out", "--shard", "a/b"], "expected i/n such as 3/8"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, message, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "text.tar").write_text("no archive" * 100)
    flags = [flag.format(tmp=tmp_path, raw=tmp_path / "raw") for flag in flags]
    try:
        code = main(crop_raw.run, crop_raw.arguments(), [*flags, "--detector", "none"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
