"""Checking a data directory: in order, or told what is wrong with it, all at once."""

import re
import shutil
import unicodedata

import pytest
from script_runs import complaint, make_photos, photo, script, summary

import check_data  # isort: skip
import make_pairs  # isort: skip

from labkit.data import PairList


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("check") / "faces of 2026"
    for k, name in enumerate(("pretrain", "train", "val", "test")):
        make_photos(root / name, 5, 4, first=10 * k)
    hidden = make_photos(root.parent / "hidden", 3, 3, first=70)
    flags = [str(root), "--blind", str(hidden), "--key", str(root.parent / "key")]
    make_pairs.run(make_pairs.arguments().parse_args(flags))
    return root


@pytest.fixture
def own(data, tmp_path):
    return shutil.copytree(data, tmp_path / data.name)


def test_a_directory_in_order_gets_its_card(own, tmp_path, capsys):
    told = summary(check_data, capsys, own, "--near-duplicates", "--out", tmp_path / "card")
    assert told["counts"]["images in val"] == 20 and told["counts"]["people in test"] == 5
    assert told["counts"]["pairs in test_blind.csv"] == len(PairList.read(own / "test_blind.csv"))
    text = (tmp_path / "card" / "data_card.md").read_text(encoding="utf-8")
    assert "| train | 5 | 20 | 4, 4, 4 | 96 px |" in text and "| test_blind.csv | " in text
    page = (tmp_path / "card" / "data_card.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 8 and page.count("data:image/jpeg;base64,") == 4 * 5 * 4
    assert "In order" in page
    for word in ("PIPA", "GDPR", "consent", "TO FILL IN"):
        assert word in text and word in page
    assert "http://" not in page and "https://" not in page


def test_what_is_told_for_the_card_is_remembered(own, capsys):
    summary(check_data, capsys, own, "--licence", "CC BY-NC <4>", "--contact", "a|b@c.kr")
    summary(check_data, capsys, own, "--source", "김 교수의 수업")
    text = (own / "data_card.md").read_text(encoding="utf-8")
    assert "- **Licence**: CC BY-NC \\<4\\>" in text and "a\\|b@c.kr" in text
    assert "김 교수의 수업" in text and text.count("TO FILL IN") == 1
    page = (own / "data_card.html").read_text(encoding="utf-8")
    assert "CC BY-NC &lt;4&gt;" in page


def cut(path):
    path.write_bytes(path.read_bytes()[:900])


def somebody_in_two_unicode_forms(root):
    for name, form in (("train", "NFC"), ("test", "NFD")):
        make_photos(root / "new" / name, 1, 2, first=50 + len(name))
        (source,) = (root / "new" / name).iterdir()
        source.rename(root / name / unicodedata.normalize(form, "김하늘"))
    shutil.rmtree(root / "new")


def change(root, old, new):
    path = root / "val_pairs.csv"
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))


def copy_person(root, target):
    shutil.copytree(root / "test" / "person030", root / target / "person030")


DAMAGE = [
    (lambda root: cut(root / "train/person011/002.jpg"), "train: 1 image cannot be read: pers"),
    (lambda root: cut(next((root / "test").glob("blind-*"))), "test_blind.csv: "),
    (lambda root: copy_person(root, "train"), "person030 in both train/ and test/"),
    (lambda root: copy_person(root, "val"), "person030 in both val/ and test/"),
    (somebody_in_two_unicode_forms, "김하늘 in both train/ and test/"),
    (
        lambda root: photo(31, 1).resize((80, 80)).save(root / "pretrain/person003/x.jpg"),
        "test, too (the first: pretrain/person003/x.jpg and test/person031/001.jpg)",
    ),
    (lambda root: (root / "val/person020/000.jpg").unlink(), "person020/000.jpg is not in"),
    (lambda root: shutil.rmtree(root / "pretrain"), "pretrain does not exist"),
    (lambda root: (root / "test_pairs.csv").unlink(), "test_pairs.csv"),
    (lambda root: (root / "train" / "nobody").mkdir(), "no image in nobody"),
    (lambda root: change(root, "(?m)^1,", "0,"), "1 labels contradict the identities"),
    (lambda root: change(root, "(?m)^1,", "2,"), "the label must be 1 or 0, found '2'"),
    (lambda root: change(root, r"(?m)^0,\S+?,", "0,../../etc/passwd,"), "not a path inside"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE, ids=[text for _, text in DAMAGE])
def test_every_damage_is_named_with_exit_code_2_and_on_the_card(damage, expected, own, capsys):
    damage(own)
    code, out, err = script(check_data, capsys, own, "--near-duplicates")
    assert code == 2 and expected in unicodedata.normalize("NFC", err) and out == ""
    for card in ("data_card.md", "data_card.html"):
        assert "is not in order" in (own / card).read_text(encoding="utf-8")


def test_oddities_are_notes_and_hostile_names_stay_text(own, capsys):
    folder = own / "train" / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    photo(90, 0, 40).resize((90, 40)).save(folder / "one.jpg")
    (folder / "readme.txt").write_text("x")
    told = summary(check_data, capsys, own)
    notes = " ".join(told["notes"])
    for note in ("smaller than 64", "far from square", "one image and no target", "passed over"):
        assert f"train: 1 {note}" in notes or note in notes
    page = (own / "data_card.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_a_dry_run_and_a_missing_directory(own, tmp_path, capsys):
    before = sorted(own.rglob("*"))
    summary(check_data, capsys, own, "--dry-run")
    assert sorted(own.rglob("*")) == before
    assert "does not exist" in complaint(check_data, capsys, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    code, _, err = script(check_data, capsys, tmp_path / "empty")
    assert code == 2 and "6 problems" in err and err.count("\n  - ") == 6
