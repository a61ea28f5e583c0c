"""Submissions as students make them, and as nobody should."""

import csv
import io
import os
import struct
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runs import (
    accepted,
    kill_when,
    picture,
    tree,
    zipped,
)  # fmt: skip

from labkit.utils import UserError

import collect_handins  # isort: skip
from parts.job import main  # isort: skip


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def collect(handins: Path, out: Path, *flags: str) -> dict:
    args = collect_handins.arguments().parse_args(
        [str(handins), "--out", str(out), "--workers", "1", *flags]
    )
    return collect_handins.run(args)


def log(out: Path) -> dict[str, str]:
    with open(out / "collect_handins.log.csv", encoding="utf-8", newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def images(out: Path) -> list[str]:
    """identity/name of each image, without the student's code."""
    return sorted(
        f"{path.parent.name}/{path.stem.rpartition('-')[0]}" for path in out.glob("[!.]*/*.jpg")
    )


def students(out: Path) -> list[dict]:
    with open(out / "students.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def handins(tmp_path) -> Path:
    folder = tmp_path / "handins"
    folder.mkdir()
    return folder


def test_a_submission_as_in_the_course(handins, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [
        ("No", "File", "Accept"),
        (1, "./v1_cropped_data/아이유/0001.jpg", "Y"),
        (2, "./v1_cropped_data/아이유/0002.jpg", "N"),
        (3, "./v1_cropped_data/지민/0001.jpg", "y"),
        (4, "./v1_cropped_data/지민/0009.jpg", "Y"),
        (5, "./v1_cropped_data/지민/0003.jpg", "maybe"),
    ]:
        book.active.append(row)
    table = io.BytesIO()
    book.save(table)
    inner = {f"{who}/{n:04d}.jpg": picture(n) for who in ("아이유", "지민") for n in (1, 2, 3)}
    outer = {
        "face_dataset/v1_cropped_data.zip": zipped(inner),
        "face_dataset/sim_results.xlsx": table.getvalue(),
        "face_dataset/readme.txt": b"hello",
        "__MACOSX/face_dataset/._readme.txt": b"litter",
    }
    (handins / f"{nfd('정홍')}.zip").write_bytes(zipped(outer))
    summary = collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["아이유/0001", "지민/0001"]
    assert summary["counts"] == {
        "submissions collected": 1,
        "rows of spreadsheets": 4,
        "images taken": 2,
    }
    assert summary["left_out"] == {
        "not an image": 1,
        "Accept is neither Y nor N": 1,
        "accepted, but not in the archive": 1,
        "not accepted in the spreadsheet": 1,
        "not in the spreadsheet": 3,
    }
    assert all(student["student"] == "정홍" for student in students(tmp_path / "out"))


def test_hangul_in_every_form_that_archives_have_it(handins, tmp_path):
    def nameless_encoding(raw: bytes) -> bytes:
        """As old programs write: bytes of the system's encoding, without the UTF-8 flag."""
        letters = "X" * len(raw)
        data = zipped({f"{letters}/1.jpg": picture(), "list.csv": accepted("1.jpg")})
        return data.replace(letters.encode(), raw)

    (handins / "a.zip").write_bytes(nameless_encoding("홍길동".encode("cp949")))
    (handins / "b.zip").write_bytes(nameless_encoding(nfd("김").encode()))
    (handins / "c.zip").write_bytes(
        zipped({f"{nfd('박')}/1.jpg": picture(), "l.csv": accepted("박/1.jpg")})
    )
    collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["김/1", "박/1", "홍길동/1"]


def hostile() -> dict[str, tuple[bytes, str]]:
    """Member by member: what must be refused, and the reason that must be given."""
    link = zipfile.ZipInfo("link/1.jpg")
    link.external_attr = 0o120777 << 16
    pipe = zipfile.ZipInfo("pipe/1.jpg")
    pipe.external_attr = 0o010644 << 16
    return {
        "../../outside/1.jpg": (picture(), "unsafe name: the path leaves its folder"),
        "/absolute/1.jpg": (picture(), "unsafe name: the path is absolute"),
        "..\\..\\windows\\1.jpg": (picture(), "unsafe name: the path leaves its folder"),
        "C:/drive/1.jpg": (picture(), "unsafe name: the path is absolute"),
        link: (b"/etc/passwd", "a link"),
        pipe: (b"", "a special file"),
        "bomb/1.jpg": (bytes(4_000_000), "compressed too tightly"),
        "large/1.jpg": (np.random.default_rng(0).bytes(6_000_000), "too large: 6 MB"),
        "text/1.jpg": (b"this is no picture", "not a readable image"),
        "empty/1.jpg": (b"", "not a readable image"),
        "pixels/1.png": (pixel_bomb(), "not a readable image"),
        "lonely.jpg": (picture(), "not in a folder of an identity"),
        "face_dataset/2.jpg": (picture(), "not in a folder of an identity"),
        "program/virus.exe": (b"MZ", "not an image"),
        "deep/1.zip": (zipped({"2.zip": zipped({"3.zip": zipped({"a/1.jpg": b""})})}), "x"),
        "cut/1.zip": (zipped({"a/1.jpg": picture()})[:-30], "damaged"),
        "\u200b/1.jpg": (picture(), "unsafe name: the name has no letter or digit"),
    }


def pixel_bomb() -> bytes:
    """A small PNG that says it is 60,000 pixels wide and high."""
    data = bytearray(picture(kind="PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zipfile.crc32(bytes(data[12:29])))
    return bytes(data)


def test_a_hostile_archive_gives_its_good_image_and_a_reason_for_all_else(handins, tmp_path):
    members = {
        (key.filename if isinstance(key, zipfile.ZipInfo) else key): why
        for key, (_, why) in hostile().items()
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, (data, _) in hostile().items():
            archive.writestr(key, data)
        archive.writestr("good/1.jpg", picture())
        everything = [name.replace("\\", "/") for name in [*members, "good/1.jpg"]]
        archive.writestr("list.csv", accepted(*everything))
    (handins / "x.zip").write_bytes(buffer.getvalue())
    collect(handins, tmp_path / "out", "--max-image-mb", "5")
    assert images(tmp_path / "out") == ["good/1"]
    reasons = log(tmp_path / "out")
    deep = members.pop("deep/1.zip")
    assert deep and "too deep" in reasons["x.zip/deep/1.zip/2.zip/3.zip"]
    for name, why in members.items():
        assert reasons[f"x.zip/{name}"].startswith(why), name
    outside = [path for path in tmp_path.rglob("*.jpg") if tmp_path / "out" not in path.parents]
    assert not outside and not Path("/absolute").exists()


def test_encrypted_and_damaged_members_are_refused_and_the_rest_goes_on(handins, tmp_path):
    members = {f"a/{n}.jpg": picture(n) for n in range(4)}
    data = bytearray(zipped(members | {"l.csv": accepted(*members)}))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        listing = archive.start_dir
    central = [data.index(b"PK\x01\x02", listing)]
    for _ in members[1:]:
        central.append(data.index(b"PK\x01\x02", central[-1] + 4))
    data[central[0] + 8] |= 1  # encrypted
    data[members[1].header_offset + 60] ^= 0xFF  # a byte of the packed image
    data[central[2] + 10] = 12  # bzip2
    (handins / "x.zip").write_bytes(data)
    collect(handins, tmp_path / "out")
    reasons = log(tmp_path / "out")
    assert images(tmp_path / "out") == ["a/3"]
    assert reasons["x.zip/a/0.jpg"] == "encrypted"
    assert reasons["x.zip/a/1.jpg"].startswith("damaged: ")
    assert reasons["x.zip/a/2.jpg"].startswith("packed by a method that is not read")


def test_a_size_that_lies_is_found_out(handins, tmp_path):
    """The listing says 1,000 bytes, ten million come out."""
    data = bytearray(zipped({"a/1.jpg": bytes(10_000_000), "l.csv": accepted("1.jpg")}))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + place
        data[at : at + 4] = struct.pack("<I", 1_000)
    (handins / "x.zip").write_bytes(data)
    collect(handins, tmp_path / "out")
    assert log(tmp_path / "out")["x.zip/a/1.jpg"].startswith("damaged: ")


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "damaged"),
        (b"PK\x03\x04 nothing more", "damaged"),
        (b"Rar!\x1a\x07", "damaged"),
        (zipped({"a/1.jpg": picture()}), "no spreadsheet with the columns File and Accept"),
        (zipped({"l.csv": b"Name,Accept\n1.jpg,Y"}), "no columns File and Accept"),
        (zipped({"l.xlsx": b"PK\x03\x04 broken"}), "broken spreadsheet"),
        (zipped({"l.xlsx": zipped({"xl/workbook.xml": b"<!DOCTYPE a>"})}), "XML entities"),
        (zipped({"l.xls": b"\xd0\xcf\x11\xe0"}), "save it as .xlsx or .csv"),
        (zipped({"l.csv": b"\x00\xff\x81"}), "text of unknown encoding"),
    ],
)
def test_a_broken_submission_or_spreadsheet_is_told_and_the_next_one_is_taken(
    data, why, handins, tmp_path
):
    (handins / "a.zip").write_bytes(data)
    (handins / "b.zip").write_bytes(zipped({"가/1.jpg": picture(), "l.csv": accepted("가/1.jpg")}))
    (handins / "c.7z").write_bytes(b"7z")
    summary = collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["가/1"]
    assert why in log(tmp_path / "out")["a.zip"]
    assert log(tmp_path / "out")["c.7z"] == "not a zip file"
    assert summary["counts"]["submissions collected"] == 1
    (handins / "a.zip").write_bytes(zipped({"나/1.jpg": picture(), "l.csv": accepted("1.jpg")}))
    collect(handins, tmp_path / "out")  # handed in again, and now whole
    assert images(tmp_path / "out") == ["가/1", "나/1"]
    assert "a.zip" not in log(tmp_path / "out")


def test_an_xlsx_without_the_package_that_reads_it_says_what_to_install(
    handins, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (handins / "a.zip").write_bytes(zipped({"l.xlsx": zipped({"x": b""})}))
    with pytest.raises(UserError, match="pip install openpyxl"):
        collect(handins, tmp_path / "out")


def test_two_students_with_one_identity_and_one_student_with_two_of_a_name(handins, tmp_path):
    for student in ("a", "b"):
        members = {"IU/1.jpg": picture(1), "IU/1.png": picture(2, "PNG")}
        if student == "b":
            members |= {"iu/1.jpg": picture(3), "only b/1.jpg": picture(4)}
        files = [name for name in members if name.startswith(("IU", "only"))]
        (handins / f"{student}.zip").write_bytes(zipped({**members, "l.csv": accepted(*files)}))
    summary = collect(handins, tmp_path / "out")
    rows = {(row["student"], row["identity"]): row for row in students(tmp_path / "out")}
    assert rows["a", "IU"]["also_from"] == "b" and rows["b", "only b"]["also_from"] == ""
    assert summary["identities_of_several_students"] == ["IU"]
    assert images(tmp_path / "out") == ["IU/1", "IU/1", "IU/1_png", "IU/1_png", "only b/1"]
    tags = {row["tag"] for row in rows.values()}
    assert len(tags) == 2 and not any("student" in tag for tag in tags)


def test_names_that_differ_in_case_or_spaces_are_pointed_out():
    assert collect_handins.alike(["IU", "iu", "Park Bo", "Park_Bo", "x"]) == [
        ["IU", "iu"],
        ["Park Bo", "Park_Bo"],
    ]


def test_what_cameras_note_does_not_come_along(handins, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).save(buffer, "JPEG", exif=exif)
    members = {"a/1.jpg": buffer.getvalue() + b"PK hidden behind the picture"}
    (handins / "x.zip").write_bytes(zipped({**members, "l.csv": accepted("a/1.jpg")}))
    collect(handins, tmp_path / "out")
    (path,) = (tmp_path / "out" / "a").iterdir()
    assert b"home" not in path.read_bytes() and b"hidden" not in path.read_bytes()


def test_a_dry_run_counts_and_writes_nothing(handins, tmp_path):
    (handins / "x.zip").write_bytes(zipped({"a/1.jpg": picture(), "l.csv": accepted("a/1.jpg")}))
    summary = collect(handins, tmp_path / "out", "--dry-run")
    assert summary["counts"]["images to take"] == 1 and summary["identities"] == 1
    assert not (tmp_path / "out").exists()


def test_late_submissions_are_added_and_changed_ones_pointed_out(handins, tmp_path):
    (handins / "x.zip").write_bytes(zipped({"a/1.jpg": picture(), "l.csv": accepted("a/1.jpg")}))
    collect(handins, tmp_path / "out")
    (handins / "y.zip").write_bytes(zipped({"b/1.jpg": picture(), "l.csv": accepted("b/1.jpg")}))
    summary = collect(handins, tmp_path / "out")
    assert summary["counts"]["images taken"] == 2 and summary["finished_earlier"] == 1
    os.utime(handins / "x.zip", (0, 0))  # copied, not changed
    assert not collect(handins, tmp_path / "out")["left_out"]
    (handins / "x.zip").write_bytes(zipped({"c/1.jpg": picture(), "l.csv": accepted("c/1.jpg")}))
    collect(handins, tmp_path / "out")
    assert log(tmp_path / "out")["x.zip"] == collect_handins.CHANGED
    assert images(tmp_path / "out") == ["a/1", "b/1"]


def test_killed_in_the_middle_and_run_again_gives_what_one_run_gives(handins, tmp_path):
    for student in range(6):
        members = {f"{nfd('가')}{student}/{n}.jpg": picture(n, size=600) for n in range(30)}
        files = [f"가{student}/{n}.jpg" for n in range(30)]
        (handins / f"{student}.zip").write_bytes(zipped({**members, "l.csv": accepted(*files)}))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    collect(handins, whole)
    kill_when(
        lambda: len(list(cut.glob("[!.]*/*.jpg"))) >= 45,
        *("collect_handins", handins, "--out", cut, "--workers", 1),
    )
    assert len(list(cut.glob("[!.]*/*.jpg"))) < 180, "it was killed too late to show anything"
    summary = collect(handins, cut)
    assert summary["counts"] == {
        "submissions collected": 6,
        "rows of spreadsheets": 180,
        "images taken": 180,
    }
    assert tree(cut) == tree(whole)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["nowhere", "--out", "out"], "cannot read the folder nowhere"),
        (["{handins}", "--out", "{handins}/out"], "lie in each other"),
        (["{empty}", "--out", "out"], "holds no zip files"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, message, handins, tmp_path, capsys):
    (handins / "x.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    flags = [flag.format(handins=handins, empty=tmp_path / "empty") for flag in flags]
    assert main(collect_handins.run, collect_handins.arguments(), flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
