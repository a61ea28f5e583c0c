import os
import shutil
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import make_faces
from PIL import Image, features

from labkit.crop import read_photo
from labkit.data import DataDirectory, FaceFolder, decode_image, is_litter, make_pairs
from labkit.utils import UserError

CASES = Path(__file__).parent / "cases"


def names(folder):
    return [folder.name(i) for i in range(len(folder))]


def test_images_at_any_depth_upper_case_and_hangul_are_found_and_others_passed_over(tmp_path):
    wanted = ["b/x.jpg", "b/deep/er/y.PNG", "a/한글.jpeg"]
    for name in [*wanted, "b/.hidden.jpg", "b/notes.txt", ".cache/z.jpg", "at_the_root.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "nobody").mkdir()
    (tmp_path / "a/folder.jpg").mkdir()
    folder = FaceFolder.scan(tmp_path)
    assert folder.identities == ["a", "b"]
    assert names(folder) == ["a/한글.jpeg", "b/deep/er/y.PNG", "b/x.jpg"]
    assert folder.labels.tolist() == [0, 1, 1]
    assert list(folder.indices_of(1)) == [1, 2]
    assert folder.path(0) == tmp_path / "a/한글.jpeg"
    assert len(FaceFolder.scan(tmp_path, extensions="txt, .PNG")) == 2


def test_a_cached_listing_is_read_back_and_noticed_when_stale(faces, tmp_path):
    cache = tmp_path / "scan.npz"
    first = FaceFolder.scan(faces, cache=cache)
    written = cache.stat().st_mtime_ns
    again = FaceFolder.scan(faces, cache=cache)
    assert cache.stat().st_mtime_ns == written
    assert names(again) == names(first) and np.array_equal(again.labels, first.labels)
    assert again.identities == first.identities and again.digest() == first.digest()

    time.sleep(0.01)
    os.remove(first.path(0))
    assert len(FaceFolder.scan(faces, cache=cache)) == len(first) - 1
    make_faces(faces, 1, 1, seed=9)
    later = FaceFolder.scan(faces, cache=cache)
    assert len(later) == len(first) and later.digest() != first.digest()
    assert len(FaceFolder.scan(faces, cache=cache, extensions="png,jpg")) == len(first)


def test_a_damaged_or_foreign_cache_is_made_anew(faces, tmp_path):
    cache = tmp_path / "scan.npz"
    count = len(FaceFolder.scan(faces, cache=cache))
    whole = cache.read_bytes()
    np.savez(tmp_path / "other.npz", key=np.arange(3))
    foreign = (tmp_path / "other.npz").read_bytes()
    for content in (b"", b"not a listing", whole[:200], whole[:-30], foreign):
        cache.write_bytes(content)
        assert len(FaceFolder.scan(faces, cache=cache)) == count
        assert cache.read_bytes()[:100] == whole[:100]


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_no_utf_8_are_kept_by_the_cache_too(tmp_path):
    path = tmp_path / "faces" / "caf\udce9" / "한.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for _ in range(2):
        folder = FaceFolder.scan(tmp_path / "faces", cache=tmp_path / "scan.npz")
        assert folder.path(0) == path and folder.identities == ["caf\udce9"]


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_folder_without_faces_is_one_clear_line(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    message = {"missing": "does not exist", "empty": "holds no images", "file": "cannot read"}[kind]
    with pytest.raises(UserError, match=message):
        FaceFolder.scan(tmp_path / kind)


def test_a_union_names_every_image_below_the_common_parent(tmp_path):
    one, other, again = (
        FaceFolder.scan(make_faces(tmp_path / name, 3, 2, seed=seed))
        for name, seed in (("train", 0), ("val", 1), ("test", 0))
    )
    both = FaceFolder.union([one, other])
    assert len(both.identities) == 6 and len(both) == 12
    for i in range(len(both)):
        assert both.path(i).is_file()
        assert both.identities[both.labels[i]] == both.path(i).parent.name
    with pytest.raises(UserError, match="id0000 is in two folders"):
        FaceFolder.union([one, again])


def test_a_data_directory_in_order_passes(data_directory):
    sizes = {name: len(folder) for name, folder in DataDirectory(data_directory).check().items()}
    assert sizes == dict(pretrain=72, train=60, val=48, test=48)


def test_everything_wrong_with_a_data_directory_is_told_at_once(tmp_path):
    for name, seed in (("train", 1), ("val", 1), ("test", 2)):
        make_faces(tmp_path / name, 3, 2, seed=seed)
    (tmp_path / "test" / "ghost").mkdir()
    make_pairs(FaceFolder.scan(tmp_path / "val")).write(tmp_path / "val_pairs.csv")
    (tmp_path / "test_pairs.csv").write_text("1,id2000/000.jpg,id2000/nothere.jpg\n2,a/b.jpg,c/d\n")
    with pytest.raises(UserError) as caught:
        DataDirectory(tmp_path).check()
    message = str(caught.value)
    for part in (
        "pretrain does not exist",
        "test: no image in ghost",
        "id1000, id1001, id1002 in both train/ and val/",
        "id2000/nothere.jpg is not in",
        "line 2: the label must be 1 or 0, found '2'",
    ):
        assert part in message
    with pytest.raises(UserError, match="nowhere does not exist"):
        DataDirectory(tmp_path / "nowhere").check()


def put(root, *names, content=b""):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_every_kind_of_picture_that_can_be_read_is_read_in_a_folder_too(tmp_path):
    kinds = ["a.webp", "b.bmp", "c.jfif", "d.JPG", "e.tiff", "f.gif"]
    kinds += ["g.avif"] * features.check("avif")
    put(tmp_path, "person/readme.txt", "person/deep/notes")
    for name in kinds:
        kind = Image.registered_extensions()[Path(name).suffix.lower()]
        Image.new("RGB", (20, 20), (10, 120, 200)).save(tmp_path / "person" / name, kind)
    folder = FaceFolder.scan(tmp_path)
    assert names(folder) == [f"person/{name}" for name in kinds]
    for i in range(len(folder)):
        assert decode_image(folder.path(i)).size == read_photo(folder.path(i)).size == (20, 20)


def test_what_is_passed_over_is_counted_and_told_from_a_cached_listing_too(tmp_path):
    root = tmp_path / "faces"
    put(root, "a/1.jpg", "a/readme.txt", "a/more.TXT", "a/film.mp4", "b/2.jpg", "b/.hidden")
    put(root, "outside.png", "identities.csv", "@eaDir/a/SYNOPHOTO_THUMB_0.jpg", "a/@eaDir/1.jpg")
    for _ in range(2):
        folder = FaceFolder.scan(root, cache=tmp_path / "scan.npz")
        assert folder.passed_over == {
            ".txt": 2, ".mp4": 1, "@eaDir": 2, "pictures outside of the folders of people": 1
        }  # fmt: skip
        assert "2 .txt" in folder.note and "1 .mp4" in folder.note and str(root) in folder.note
    assert FaceFolder.scan(root, extensions="jpg").passed_over[".txt"] == 2
    put(tmp_path / "clean", "a/1.jpg")
    assert FaceFolder.scan(tmp_path / "clean").note == ""
    put(tmp_path / "other", "a/1.xyz")
    with pytest.raises(UserError, match=r"holds no images.*found \.xyz"):
        FaceFolder.scan(tmp_path / "other")


def test_litter_is_nobody():
    folder = FaceFolder.scan(CASES / "litter/F")
    assert folder.identities == ["a", "b"] and len(folder) == 4
    assert all(map(is_litter, ["@eaDir", "__MACOSX", ".DS_Store", "._1.jpg", "Thumbs.db"]))
    assert not any(map(is_litter, ["@iu", "#1", "_a", "1.jpg", "한"]))


def test_links_to_folders_are_followed_without_going_in_circles(tmp_path):
    root = tmp_path / "faces"
    put(root, "a/1.jpg", "b/2.jpg", "b/deep/3.jpg")
    put(tmp_path / "else", "x/4.jpg", "y/5.jpg")
    for link, target in [
        ("a/more", tmp_path / "else" / "x"),
        ("a/up", root),
        ("a/further_up", tmp_path),
        ("a/b", root / "b"),
        ("b/self", root / "b"),
        ("c", tmp_path / "else" / "y"),
    ]:
        (root / link).symlink_to(target, target_is_directory=True)
    (tmp_path / "else" / "x" / "back").symlink_to(root, target_is_directory=True)
    folder = FaceFolder.scan(root)
    assert names(folder) == ["a/1.jpg", "a/more/4.jpg", "b/2.jpg", "b/deep/3.jpg", "c/5.jpg"]
    assert folder.passed_over == {"links to folders that are read anyway": 5}


def test_a_listing_with_any_byte_changed_is_made_anew(tmp_path):
    put(tmp_path / "faces", "a/1.jpg", "a/2.jpg", "b/한.jpg")
    cache = tmp_path / "scan.npz"
    right = FaceFolder.scan(tmp_path / "faces", cache=cache)
    whole = cache.read_bytes()
    for place in range(0, len(whole), 3):
        cache.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        again = FaceFolder.scan(tmp_path / "faces", cache=cache)
        assert again.digest() == right.digest() and again.labels.tolist() == [0, 0, 1]


TABLE = (CASES / "identities_cp949/identities.csv").read_bytes().decode("cp949")


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode("cp949"),
        TABLE.encode("utf-8"),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        TABLE.replace(",", ";").encode("cp949"),
        TABLE.replace(",", "\t").encode("utf-16"),
        TABLE.replace("identity", "Identity").replace("hangul", "Hangul").encode(),
        b"\n" + TABLE.replace("\r\n", "\n").encode(),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_the_table_of_people_is_read_as_spreadsheets_save_it(content, inside, tmp_path):
    put(tmp_path / "faces", "Kim_Sedo/1.jpg", "Shin_Bayu/1.jpg")
    put(tmp_path / "faces" if inside else tmp_path, "identities.csv", content=content)
    people = FaceFolder.scan(tmp_path / "faces").details()
    assert people["Kim_Sedo"]["hangul"] == "김세도" and people["Kim_Sedo"]["synthetic"] == "1"
    assert people["Shin_Bayu"]["name"] == "Shin Bayu"


def test_vggface2s_table_and_another_unicode_form_of_a_name_are_understood(tmp_path):
    person = unicodedata.normalize("NFD", "김하늘")
    put(tmp_path, "n000001/0001_01.jpg", f"{person}/1.jpg")
    table = 'Class_ID, Name, Sample_Num, Flag, Gender\nn000001, "Dalai, Lama", 424, 0, m\n'
    put(tmp_path, "identity_meta.csv", content=table.encode())
    put(tmp_path, "identities.csv", content="identity,hangul\n김하늘,김하늘\n".encode())
    people = FaceFolder.scan(tmp_path).details()
    assert people["n000001"]["name"] == "Dalai, Lama" and people["n000001"]["gender"] == "m"
    assert people[person]["hangul"] == "김하늘"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the first line must name the columns identity"),
        (b"person,name\na,A\n", "line 1: .*found person, name"),
        (b"identity,name\na,A\nb,B,C\n", "line 3: more cells"),
        (b"identity,name\na,A\nb,Ren\xe9e\n", "line 3: text of unknown encoding"),
        (b'identity,name\na,A\nb,"B\n', "line 3: unexpected end"),
    ],
)
def test_a_table_that_is_not_understood_is_one_line_with_its_place(content, message, tmp_path):
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    put(tmp_path, "identities.csv", content=content)
    with pytest.raises(UserError, match=message) as caught:
        FaceFolder.scan(tmp_path).details()
    assert str(tmp_path / "identities.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_one_person_under_two_unicode_forms_is_found_in_two_folders_and_in_one(tmp_path):
    for name, form in (("train", "NFC"), ("test", "NFD"), ("val", "NFC"), ("val", "NFD")):
        who = "김하늘" if name != "val" else "이유"
        put(tmp_path / name, unicodedata.normalize(form, who) + "/1.jpg")
    with pytest.raises(UserError) as caught:
        DataDirectory(tmp_path).check()
    assert "김하늘 in both train/ and test/" in str(caught.value)
    assert f"{tmp_path / 'val'}: 1 names are there in two Unicode forms" in str(caught.value)


def test_pictures_of_a_blind_list_are_not_told_as_passed_over(data_directory, tmp_path):
    root = shutil.copytree(data_directory, tmp_path / "data")
    put(root / "test", "blind-0.jpg")
    put(root / "train", "blind-0.jpg")
    data = DataDirectory(root)
    assert data.scan("test").note == "" and "1 pictures outside" in data.scan("train").note
