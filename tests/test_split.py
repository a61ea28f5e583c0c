"""Splitting: nobody and no photo in two sets, whatever happens on the way."""

import errno
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from script_runs import (
    complaint,
    left_out,
    make_larger,
    make_photos,
    photo,
    run_killed,
    summary,
    table,
    tiny_disk,
    tree,
    write,
)  # fmt: skip

import split  # isort: skip
from parts import split_plan  # isort: skip

from labkit.data import FaceFolder

SETS = split_plan.COURSE_SETS


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("split") / "faces", 20, 4)


def people(data: Path) -> dict[str, set[str]]:
    return {name: set(FaceFolder.scan(data / name).identities) for name in SETS}


def where(data: Path) -> dict[str, str]:
    return {person: name for name, some in people(data).items() for person in some}


def test_everybody_is_in_one_set_by_the_ratio_with_all_images(faces, tmp_path, capsys):
    flags = ["--out", tmp_path / "d", "--ratio", "pretrain=0.4,train=0.3,val=0.1,test=0.2"]
    dry = summary(split, capsys, faces, *flags, "--dry-run")
    assert not (tmp_path / "d").exists()
    told = summary(split, capsys, faces, *flags)
    assert told["counts"] == dry["counts"]
    sets = people(tmp_path / "d")
    assert list(map(len, sets.values())) == [8, 6, 2, 4]
    assert len(set().union(*sets.values())) == 20 and told["left_out"] == {}
    copies = {name.split("/", 1)[-1]: data for name, data in tree(tmp_path / "d").items()}
    assert {name: data for name, data in copies.items() if name[-4:] == ".jpg"} == tree(faces)
    listed = {row["identity"]: row["set"] for row in table(tmp_path / "d" / "split.csv")}
    assert listed == where(tmp_path / "d")


def test_a_link_across_disks_becomes_a_copy_and_is_told(faces, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "cross-device")

    original = faces / "person003" / "001.jpg"
    for copied in (None, 80):
        out = tmp_path / f"{copied}"
        told = summary(split, capsys, faces, "--out", out, "--link")
        assert told.get("copied_where_links_were_impossible") == copied
        placed = next(out.rglob("person003/001.jpg"))
        assert placed.samefile(original) == (copied is None)
        assert placed.read_bytes() == original.read_bytes()
        monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def shared(faces, tmp_path):
    """Three people who share photos in a chain: 1 with 2, 2 with 3; saved anew each time."""
    root = tmp_path / "shared"
    shutil.copytree(faces, root)
    photo(1, 0).resize((80, 80)).save(root / "person002" / "of1.jpg", quality=70)
    photo(2, 3).save(root / "person003" / "of2.png")
    return root


def test_people_who_share_photos_or_are_one_stay_in_one_set(shared, tmp_path, capsys):
    same = write(tmp_path / "same.csv", "identity,same_as,why", "person004,person011,x", "a,b,x")
    for seed in range(8):
        out, flags = tmp_path / f"d{seed}", ["--together", same, "--link"]
        told = summary(split, capsys, shared, "--out", out, "--seed", seed, *flags)
        sets = where(out)
        assert sets["person001"] == sets["person002"] == sets["person003"]
        assert sets["person004"] == sets["person011"]
        assert told["near_duplicate_photos_across_identities"] == 2 and not told["left_out"]


def test_or_one_copy_of_each_is_left_out_of_the_training_sets(shared, tmp_path, capsys):
    rows = ["person001,train", "person002,test", "person003,pretrain"]
    listed = write(tmp_path / "sets.csv", "identity,set", *rows)
    flags = ["--list", listed, "--link"]
    told = summary(split, capsys, shared, "--out", tmp_path / "d", *flags)
    assert told["left_out"] == {"near-duplicate in another set": 2}
    assert left_out(tmp_path / "d" / "split.log.csv") == {
        "person001/000.jpg": "near-duplicate in another set: person002/of1.jpg in test",
        "person003/of2.png": "near-duplicate in another set: person002/003.jpg in test",
    }
    assert len(list((tmp_path / "d" / "test" / "person002").iterdir())) == 5
    assert len(list((tmp_path / "d" / "train" / "person001").iterdir())) == 3
    for seed in range(4):
        out, flags = tmp_path / f"l{seed}", ["--link", "--near-duplicates", "leave-out"]
        summary(split, capsys, shared, "--out", out, "--seed", seed, *flags)
        copies = [next(out.rglob(name), None) for name in ("person001/000.jpg", "of1.jpg")]
        assert None in copies or copies[0].parts[-3] == copies[1].parts[-3]


def test_a_students_people_stay_together_and_shared_people_join_students(faces, tmp_path, capsys):
    rows = [f"person{k:03d},student{k // 4},4" for k in range(20)]
    rows += ["person004,student0,1", "someone else,student9,1"]
    students = write(tmp_path / "s.csv", "identity,student,images", *rows)
    flags = ["--students", students, "--link"]
    for seed in range(5):
        out, ratio = tmp_path / f"d{seed}", "pretrain=2,train=1,val=1,test=1"
        summary(split, capsys, faces, "--out", out, *flags, "--seed", seed, "--ratio", ratio)
        sets = where(out)
        for k in range(5):
            assert len({sets[f"person{k * 4 + j:03d}"] for j in range(4)}) == 1
        assert sets["person000"] == sets["person004"]  # both brought person 4
    listed = write(tmp_path / "l.csv", "student,set", "student4,test", "student3,val")
    out, flags = tmp_path / "listed", [*flags, "--list", listed, "--ratio", "pretrain=1,train=1"]
    summary(split, capsys, faces, "--out", out, *flags)
    assert people(out)["test"] == {f"person{k:03d}" for k in range(16, 20)}
    assert people(out)["val"] == {f"person{k:03d}" for k in range(12, 16)}
    assert not any("student" in str(path) for path in tree(out))


def test_a_list_decides_and_the_rest_goes_where_it_is_told(faces, tmp_path, capsys):
    lines = [f"person{k:03d},{name}" for k, name in enumerate(["val", "val", "test", "test"])]
    lines += ["person004,pretrain", "person005,pretrain", "person006,train", "person007,train"]
    listed = write(tmp_path / "l.csv", "identity,set", *lines)
    summary(split, capsys, faces, "--out", tmp_path / "a", "--list", listed, "--rest", "train")
    assert list(map(len, people(tmp_path / "a").values())) == [2, 14, 2, 2]
    flags = ["--list", listed, "--rest", "none"]
    told = summary(split, capsys, faces, "--out", tmp_path / "b", *flags)
    assert told["left_out"] == {"identity is not in the list of sets": 48}


def test_pretraining_faces_lose_whoever_is_among_the_others(faces, tmp_path, capsys):
    other = make_photos(tmp_path / "vgg", 6, 3, first=100)
    make_photos(other, 1, 3, first=5)  # a name of FACES
    photo(7, 2).resize((64, 64)).save(other / "person101" / "stolen.jpg")
    told = summary(split, capsys, faces, "--out", tmp_path / "d", "--pretrain-from", other)
    sets = people(tmp_path / "d")
    assert sets["pretrain"] == {f"person{k}" for k in range(100, 106)}
    assert "person005" not in sets["pretrain"]
    why = {"identity is among the faces, too": 3, "near-duplicate in another set": 1}
    assert told["left_out"] == why
    assert not (tmp_path / "d" / "pretrain" / "person101" / "stolen.jpg").exists()


def test_the_list_of_clean_is_applied_and_poor_identities_are_left_out(faces, tmp_path, capsys):
    rows = [f"person002/00{k}.jpg,N,wrong face" for k in range(3)]
    rows += ["person000/000.jpg,N,blurred", "person001/000.jpg,Y,blurred", "gone/1.jpg,N,blurred"]
    listed = write(tmp_path / "clean.csv", "file,keep,reason", *rows)
    (faces_too := tmp_path / "faces").symlink_to(faces)
    told = summary(split, capsys, faces_too, "--out", tmp_path / "d", "--clean", listed)
    why = {"wrong face": 3, "blurred": 1, "identity has fewer than 2 images": 1}
    assert told["left_out"] == why
    assert told["in_the_list_but_not_in_the_folder"] == 1
    assert "person002" not in where(tmp_path / "d")
    assert len(list((tmp_path / "d").rglob("person001/*.jpg"))) == 4


def test_names_come_out_normal_and_harmless_and_no_file_is_lost(tmp_path, capsys):
    root = make_photos(tmp_path / "f", 10, 3)
    nfc, nfd = (unicodedata.normalize(form, "김하늘") for form in ("NFC", "NFD"))
    for k, name in enumerate((nfc, nfd)):
        shutil.move(root / f"person00{k}", root / name)
    (root / "person002" / "000.jpg").rename(root / "person002" / "a\\b\n.jpg")
    (root / "person003").rename(root / os.fsdecode(b"caf\xe9"))
    ratio = "pretrain=1,train=1,val=1,test=1"
    told = summary(split, capsys, root, "--out", tmp_path / "d", "--ratio", ratio)
    sets = where(tmp_path / "d")
    assert nfc in sets and nfd not in sets
    merged = [path.name for path in (tmp_path / "d" / sets[nfc] / nfc).iterdir()]
    assert sorted(merged) == [f"00{k}{again}.jpg" for k in range(3) for again in ("", "_2")]
    placed = [str(path) for path in (tmp_path / "d").rglob("*.jpg")]
    assert len(placed) == told["counts"]["images in all"] == 30
    assert all(name.isprintable() and "\\" not in name for name in placed)


def test_attributes_of_people_go_with_them_but_not_who_brought_them(faces, tmp_path, capsys):
    root = tmp_path / "f"
    shutil.copytree(faces, root)
    (root / "person001" / "text.jpg").write_text("no")
    rows = [f"person{k:03d},{'fm'[k % 2]},s{k}" for k in range(20)]
    write(root / "identities.csv", "identity,gender,student", *rows)
    told = summary(split, capsys, root, "--out", tmp_path / "d")
    assert told["left_out"] == {"unreadable": 1}
    for name in SETS:
        about = FaceFolder.scan(tmp_path / "d" / name).details()
        assert set(about) == people(tmp_path / "d")[name]
        assert all(set(row) == {"gender"} for row in about.values())


def test_a_hidden_set_lies_outside_and_is_named_nowhere_in_the_lists(faces, tmp_path, capsys):
    flags = ["--ratio", "pretrain=4,train=3,val=1,test=1,blind=1"]
    assert "--blind-out" in complaint(split, capsys, faces, "--out", tmp_path / "d", *flags)
    flags += ["--blind-out", tmp_path / "hidden"]
    summary(split, capsys, faces, "--out", tmp_path / "d", *flags)
    hidden = set(FaceFolder.scan(tmp_path / "hidden").identities)
    assert len(hidden) == 2 and not hidden & set(where(tmp_path / "d"))
    assert not hidden & {row["identity"] for row in table(tmp_path / "d" / "split.csv")}
    assert sorted(path.name for path in (tmp_path / "hidden").iterdir()) == sorted(hidden)


@pytest.mark.parametrize("flags", [["--link"], []])
def test_killed_in_the_middle_and_run_again_it_comes_to_the_same(faces, tmp_path, capsys, flags):
    summary(split, capsys, faces, "--out", tmp_path / "whole", *flags)
    killed = tmp_path / "killed"
    run_killed("split", "parts.split_write.place_image", 31, faces, "--out", killed, *flags)
    assert 0 < len(list(killed.rglob("*.jpg"))) < 60
    err = complaint(split, capsys, faces, "--out", killed, *flags, "--seed", 5)
    assert "was split from other faces, lists or settings" in err
    told = summary(split, capsys, faces, "--out", killed, *flags)
    assert told["finished_earlier"] > 0
    assert tree(killed) == tree(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*.jpg")}
    summary(split, capsys, faces, "--out", killed, *flags)
    assert {path: path.stat().st_mtime_ns for path in killed.rglob("*.jpg")} == before


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(faces, tmp_path, capsys):
    with tiny_disk(tmp_path / "disk", 256) as disk:
        assert "no space left" in complaint(split, capsys, faces, "--out", disk / "d").lower()
        told = len(list((disk / "d").rglob("*.jpg")))
        assert all(Image.open(path).load() for path in (disk / "d").rglob("*.jpg"))
        make_larger(disk)
        summary(split, capsys, faces, "--out", disk / "d")
        assert told < len(list((disk / "d").rglob("*.jpg"))) == 80


def test_mistakes_are_one_line_each(faces, tmp_path, capsys):
    one = make_photos(tmp_path / "one", 1, 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "val" / "x").mkdir(parents=True)
    unknown = write(tmp_path / "u.csv", "identity,set", "person000,tset", "nobody,val")
    empty_cell = write(tmp_path / "e.csv", "identity,set", "person000,test", "b,")
    twice = write(tmp_path / "t.csv", "identity,set", "person000,test", "person000,val")
    nothing = write(tmp_path / "n.csv", "who,set", "person000,test")
    strangers = write(tmp_path / "s.csv", "identity,student", "nobody,a")
    for arguments, words in [
        ([one, "--out", tmp_path / "d"], "of the 1 identities with 2 images"),
        ([tmp_path / "empty", "--out", tmp_path / "d"], "holds no images"),
        ([faces, "--out", faces / "d"], "lie in each other"),
        ([faces, "--out", tmp_path / "other"], "val is not empty and was not made by this"),
    ]:
        assert words in complaint(split, capsys, *arguments)
    for flag, value, words in [
        ("--ratio", "train=much", "--ratio has 'train=much'"),
        ("--ratio", "train=0", "--ratio has nothing above 0"),
        ("--list", unknown, "there is no set 'tset'"),
        ("--list", unknown, "identity nobody is not known"),
        ("--list", twice, "person000 is in test and in val"),
        ("--list", nothing, "identity or student, set"),
        ("--students", strangers, "names no identity"),
        ("--clean", tmp_path / "none", "there is no list"),
        ("--list", empty_cell, "line 3: an empty cell"),
    ]:
        assert words in complaint(split, capsys, faces, "--out", tmp_path / "d", flag, value)
