"""Submissions as students make them, and as nobody should."""

import io
import os
import struct
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runs import (
    accepted,
    complaint,
    kill_when,
    left_out,
    picture,
    table,
    tree,
    zipped,
)  # fmt: skip

import collect_handins  # isort: skip


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def collect(handins: Path, out: Path, *flags: str) -> dict:
    flags = [str(handins), "--out", str(out), "--workers", "1", *flags]
    return collect_handins.run(collect_handins.arguments().parse_args(flags))


def log(out: Path) -> dict[str, str]:
    return left_out(out / "collect_handins.log.csv")


def images(out: Path) -> list[str]:
    """identity/name of each image, without the student's code."""
    paths = out.glob("[!.]*/*.jpg")
    return sorted(f"{path.parent.name}/{path.stem.rpartition('-')[0]}" for path in paths)


@pytest.fixture
def handins(tmp_path) -> Path:
    (tmp_path / "handins").mkdir()
    return tmp_path / "handins"


def hand_in(path: Path, *files: str, **more) -> None:
    """A zip file with these images, all accepted."""
    members = {file: picture(k, **more) for k, file in enumerate(files)}
    path.write_bytes(zipped(members | {"l.csv": accepted(*files)}))


def test_a_submission_as_in_the_course(handins, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(("No", "File", "Accept"))
    said = ["아이유/0001 Y", "아이유/0002 N", "지민/0001 y", "지민/0009 Y", "지민/0003 maybe"]
    for number, (file, answer) in enumerate(map(str.split, said)):
        book.active.append((number, f"./v1_cropped_data/{file}.jpg", answer))
    sheet = io.BytesIO()
    book.save(sheet)
    inner = {f"{who}/{n:04d}.jpg": picture(n) for who in ("아이유", "지민") for n in (1, 2, 3)}
    outer = {
        "face_dataset/v1_cropped_data.zip": zipped(inner),
        "face_dataset/sim_results.xlsx": sheet.getvalue(),
        "face_dataset/readme.txt": b"hello",
        "__MACOSX/face_dataset/._readme.txt": b"litter",
    }
    (handins / f"{nfd('정홍')}.zip").write_bytes(zipped(outer))
    summary = collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["아이유/0001", "지민/0001"]
    assert list(summary["counts"].values()) == [1, 4, 2]  # submissions, rows, images
    assert summary["left_out"] == {
        "not an image": 1,
        "Accept is neither Y nor N": 1,
        "accepted, but not in the archive": 1,
        "not accepted in the spreadsheet": 1,
        "not in the spreadsheet": 3,
    }
    assert {row["student"] for row in table(tmp_path / "out" / "students.csv")} == {"정홍"}


def test_hangul_in_every_form_that_archives_have_it(handins, tmp_path):
    def nameless_encoding(raw: bytes) -> bytes:
        """As old programs write: bytes of the system's encoding, without the UTF-8 flag."""
        letters = "X" * len(raw)
        data = zipped({f"{letters}/1.jpg": picture(), "list.csv": accepted("1.jpg")})
        return data.replace(letters.encode(), raw)

    (handins / "a.zip").write_bytes(nameless_encoding("홍길동".encode("cp949")))
    (handins / "b.zip").write_bytes(nameless_encoding(nfd("김").encode()))
    hand_in(handins / "c.zip", f"{nfd('박')}/1.jpg")
    collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["김/1", "박/1", "홍길동/1"]


def hostile() -> dict[str, tuple[bytes, str]]:
    """Member by member: what must be refused, and the reason that must be given."""
    link, pipe = zipfile.ZipInfo("link/1.jpg"), zipfile.ZipInfo("pipe/1.jpg")
    link.external_attr, pipe.external_attr = 0o120777 << 16, 0o010644 << 16
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
    members = {getattr(key, "filename", key): why for key, (_, why) in hostile().items()}
    everything = {key: data for key, (data, _) in hostile().items()} | {"good/1.jpg": picture()}
    listed = accepted(*(name.replace("\\", "/") for name in [*members, "good/1.jpg"]))
    (handins / "x.zip").write_bytes(zipped(everything | {"list.csv": listed}))
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
    members = {f"a/{n}.jpg": picture(n) for n in range(5)}
    data = bytearray(zipped(members | {"l.csv": accepted(*members)}))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members, central = archive.infolist(), [archive.start_dir]
    for _ in members[1:]:
        central.append(data.index(b"PK\x01\x02", central[-1] + 4))
    data[central[0] + 8] |= 1  # encrypted
    data[members[1].header_offset + 60] ^= 0xFF  # a byte of the packed image
    data[central[2] + 10] = 12  # bzip2
    data[central[3] + 24 : central[3] + 28] = struct.pack("<I", 100)  # more comes out than it says
    (handins / "x.zip").write_bytes(data)
    collect(handins, tmp_path / "out")
    reasons = log(tmp_path / "out")
    assert images(tmp_path / "out") == ["a/4"]
    words = ["encrypted", "damaged: ", "packed by a method that is not read", "damaged: "]
    assert all(reasons[f"x.zip/a/{k}.jpg"].startswith(why) for k, why in enumerate(words))


def test_broken_submissions_and_spreadsheets_are_told_and_the_next_one_is_taken(handins, tmp_path):
    broken = [
        (b"", "damaged"),
        (b"PK\x03\x04 nothing more", "damaged"),
        (b"Rar!\x1a\x07", "damaged"),
        (zipped({"a/1.jpg": picture()}), "no spreadsheet with the columns File and Accept"),
        (zipped({"l.csv": b"Name,Accept\n1.jpg,Y"}), "no columns File and Accept"),
        (zipped({"l.xlsx": b"PK\x03\x04 broken"}), "broken spreadsheet"),
        (zipped({"l.xlsx": zipped({"xl/workbook.xml": b"<!DOCTYPE a>"})}), "XML entities"),
        (zipped({"l.xls": b"\xd0\xcf\x11\xe0"}), "save it as .xlsx or .csv"),
        (zipped({"l.csv": b"\x00\xff\x81"}), "text of unknown encoding"),
    ]
    for k, (data, _) in enumerate(broken):
        (handins / f"{k}.zip").write_bytes(data)
    hand_in(handins / "good.zip", "가/1.jpg")
    (handins / "c.7z").write_bytes(b"7z")
    summary = collect(handins, tmp_path / "out")
    assert images(tmp_path / "out") == ["가/1"]
    reasons = log(tmp_path / "out")
    assert reasons["c.7z"] == "not a zip file"
    assert all(why in reasons[f"{k}.zip"] for k, (_, why) in enumerate(broken))
    assert summary["counts"]["submissions collected"] == 1
    hand_in(handins / "0.zip", "나/1.jpg")
    collect(handins, tmp_path / "out")  # handed in again, and now whole
    assert images(tmp_path / "out") == ["가/1", "나/1"] and "0.zip" not in log(tmp_path / "out")


def test_two_students_with_one_identity_and_one_student_with_two_of_a_name(handins, tmp_path):
    hand_in(handins / "a.zip", "IU/1.jpg", "IU/1.png")
    hand_in(handins / "b.zip", "IU/1.jpg", "IU/1.png", "i_u/1.jpg", "only b/1.jpg")
    summary = collect(handins, tmp_path / "out")
    rows = table(tmp_path / "out" / "students.csv")
    others = {(row["student"], row["identity"]): row["also_from"] for row in rows}
    assert others == {("a", "IU"): "b", ("b", "IU"): "a", ("b", "i_u"): "", ("b", "only b"): ""}
    assert summary["identities_of_several_students"] == ["IU"]
    assert summary["identities_with_names_alike"] == ["IU / i_u"]
    assert images(tmp_path / "out") == [*["IU/1"] * 2, *["IU/1_png"] * 2, "i_u/1", "only b/1"]
    assert len({row["tag"] for row in rows}) == 2


def test_what_cameras_note_does_not_come_along(handins, tmp_path):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x010E] = "taken at home"
    Image.open(io.BytesIO(picture())).save(buffer, "JPEG", exif=exif)
    members = {"a/1.jpg": buffer.getvalue() + b"PK hidden behind the picture"}
    (handins / "x.zip").write_bytes(zipped({**members, "l.csv": accepted("a/1.jpg")}))
    collect(handins, tmp_path / "out")
    (path,) = (tmp_path / "out" / "a").iterdir()
    assert b"home" not in path.read_bytes() and b"hidden" not in path.read_bytes()


def test_late_submissions_are_added_and_changed_ones_pointed_out(handins, tmp_path):
    hand_in(handins / "x.zip", "a/1.jpg")
    summary = collect(handins, tmp_path / "out", "--dry-run")
    assert summary["counts"]["images to take"] == 1 and not (tmp_path / "out").exists()
    collect(handins, tmp_path / "out")
    hand_in(handins / "y.zip", "b/1.jpg")
    summary = collect(handins, tmp_path / "out")
    assert summary["counts"]["images taken"] == 2 and summary["finished_earlier"] == 1
    os.utime(handins / "x.zip", (0, 0))  # copied, not changed
    assert not collect(handins, tmp_path / "out")["left_out"]
    hand_in(handins / "x.zip", "c/1.jpg")
    collect(handins, tmp_path / "out")
    assert log(tmp_path / "out")["x.zip"] == collect_handins.CHANGED
    assert images(tmp_path / "out") == ["a/1", "b/1"]


def test_killed_in_the_middle_and_run_again_gives_what_one_run_gives(handins, tmp_path):
    for student in range(4):
        files = [f"{nfd('가')}{student}/{n}.jpg" for n in range(30)]
        hand_in(handins / f"{student}.zip", *files, size=600)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    collect(handins, whole)
    flags = (handins, "--out", cut, "--workers", 1)
    kill_when(lambda: len(images(cut)) >= 45, "collect_handins", *flags)
    assert len(images(cut)) < 120, "it was killed too late to show anything"
    assert collect(handins, cut)["counts"]["images taken"] == 120
    assert tree(cut) == tree(whole)


def test_a_mistake_is_one_line_and_exit_code_2(handins, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (handins / "x.zip").write_bytes(b"")
    for folder, out, words in (
        (tmp_path / "empty", tmp_path / "out", "holds no zip files"),
        ("nowhere", tmp_path / "out", "cannot read the folder nowhere"),
        (handins, handins / "out", "lie in each other"),
    ):
        assert words in complaint(collect_handins, capsys, folder, "--out", out)


def test_submissions_marked_with_o_and_x_count_and_one_that_gave_nothing_is_read_again(
    handins, tmp_path
):
    """Two real ones, from a Mac and from Windows, and one whose list says nothing at first."""
    for path in (Path(__file__).parent / "cases" / "ox_zip").iterdir():
        (handins / path.name).write_bytes(path.read_bytes())
    marks = {
        "1.jpg": "○",
        "2.jpg": "×",
        "3.jpg": "예",
        "4.jpg": "아니오",
        "5.jpg": "Ｏ",
        "6.jpg": "x",
    }
    photos = {f"IU/{name}": picture(k) for k, name in enumerate(marks)}

    def bring(marks: dict[str, str]) -> None:
        rows = "".join(f"IU/{name},{mark}\n" for name, mark in marks.items())
        (handins / "lee.zip").write_bytes(zipped(photos | {"l.csv": "File,Accept\n" + rows}))

    bring(dict.fromkeys(marks, "maybe"))
    summary = collect(handins, tmp_path / "out")
    assert summary["counts"]["submissions collected"] == 2
    assert summary["counts"]["images taken"] == 12
    assert "nothing was taken from it" in log(tmp_path / "out")["lee.zip"]
    assert not images(tmp_path / "out")[0].startswith("IU/")
    bring(marks)
    assert collect(handins, tmp_path / "out")["counts"]["submissions collected"] == 3
    assert [n for n in images(tmp_path / "out") if n[:2] == "IU"] == ["IU/1", "IU/3", "IU/5"]
