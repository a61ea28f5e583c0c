"""What submissions are read with: names, zip files within bounds, spreadsheets."""

import random
import unicodedata

import pytest
from script_runs import accepted, zipped

from parts import accept_list  # isort: skip
from parts import names  # isort: skip
from parts import zips  # isort: skip
from parts.zips import Limits, Refused, Zips  # isort: skip


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("bad", ["/etc/x.jpg", "../x/1.jpg", "a/../../x.jpg", "C:\\x\\1.jpg", ""])
def test_paths_to_elsewhere_are_refused(bad):
    with pytest.raises(ValueError):
        names.safe_parts(bad)


def test_a_part_of_a_path_becomes_a_harmless_file_name():
    parts = [nfd("가"), "a\u202egpj.exe", "con", "=cmd", "가" * 200, ".hidden", "x "]
    safe = ["가", "a_gpj.exe", "_con", "_cmd", "가" * 40, "hidden", "x"]
    assert list(map(names.plain, parts)) == safe
    with pytest.raises(ValueError):
        names.plain("...")


def test_whatever_bytes_change_an_archive_is_read_or_refused(tmp_path):
    """A hundred and fifty archives with random damage: nothing but `Refused` comes out."""
    inner = zipped({f"가/{n}.jpg": bytes([n]) * 300 for n in range(5)})
    sound = zipped({"face_dataset/c.zip": inner, "l.csv": accepted("가/1.jpg")})
    rng, whole, damaged = random.Random(0), 0, 0
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(rng.choice([1, 2, 5, 20])):
            data[rng.randrange(len(data))] = rng.choice([0, 255, rng.randrange(256)])
        (tmp_path / "x.zip").write_bytes(data)
        try:
            with Zips(tmp_path / "x.zip", Limits()) as archive:
                for entry in archive.entries:
                    archive.read(entry)
            whole += not archive.refused
            damaged += bool(archive.refused)
        except Refused:
            damaged += 1
    assert damaged > 100 and whole + damaged == 150


def test_bounds_on_members_and_on_the_list_of_members(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(zipped({f"a/{n}.jpg": b"" for n in range(20)}))
    with Zips(tmp_path / "x.zip", Limits(members=5)) as archive:
        assert len(archive.entries) == 5
        assert archive.refused == [("x.zip", "too many members: above 5")]
    nested = zipped({f"{n}.zip": zipped({"a/1.jpg": b""}) for n in range(5)})
    (tmp_path / "y.zip").write_bytes(nested)
    with Zips(tmp_path / "y.zip", Limits(archives=3)) as archive:
        assert len(archive.entries) == 3
        assert archive.refused[0] == ("y.zip/3.zip", "too many archives in one: above 3")

    (tmp_path / "z.zip").write_bytes(zipped({f"a/{n}.jpg": bytes(100_000) for n in range(9)}))
    with Zips(tmp_path / "z.zip", Limits(total_bytes=250_000)) as archive:
        assert [len(archive.read(entry)) for entry in archive.entries[:2]] == [100_000] * 2
        with pytest.raises(Refused, match="holds too much"):
            archive.read(archive.entries[2])
    monkeypatch.setattr(zips._Guarded, "LARGEST", 500)
    with pytest.raises(Refused, match="list of members is too long"):
        Zips(tmp_path / "x.zip", Limits()).__enter__()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_as_korean_spreadsheet_programs_save_them(encoding, delimiter):
    rows = [("Accept", "x", "FILE"), ("Y", "", "가/1.jpg"), ("", "", ""), ("N", "", "가/2.jpg")]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    listed = accept_list.AcceptList()
    listed.add(text.encode(encoding), "l.csv")
    assert listed.rows == {"가/1.jpg": True, "가/2.jpg": False} and not listed.problems


def test_a_list_made_to_take_for_ever_does_not():
    matcher = accept_list.Matcher((f"{n}", "a", "1.jpg") for n in range(20_000))
    for n in range(2_000):
        with pytest.raises(ValueError, match="20,000 images fit"):
            matcher.find(f"x{n}/a/1.jpg")


def test_a_row_finds_its_image_by_the_end_of_the_path():
    paths = ["all/IU/1.jpg", "cropped/IU/1.jpg", "cropped/가/1.jpg", "cropped/가/only.jpg"]
    matcher = accept_list.Matcher(path.split("/") for path in paths)
    assert matcher.find(r"C:\Users\me\cropped\iu\1.JPG") == 1
    assert matcher.find(f"../x/{nfd('가')}/1.jpg") == 2
    assert matcher.find("only.jpg") == 3
    assert matcher.find("other/9.jpg") is None and matcher.find("") is None
    cased = accept_list.Matcher([("IU", "1.jpg"), ("iu", "1.jpg")])
    assert cased.find("x/IU/1.jpg") == 0 and cased.find("iu/1.jpg") == 1
    for unclear in ("1.jpg", "IU/1.jpg"):
        with pytest.raises(ValueError, match="images fit"):
            matcher.find(unclear)
