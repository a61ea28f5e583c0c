"""Pair lists and the blind test: true, balanced, repeatable, and telling nothing."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image
from script_runs import complaint, make_photos, photo, run_killed, summary, table, tree, untrained

from parts import blind_test  # isort: skip
from parts import hard_pairs  # isort: skip
import make_pairs  # isort: skip

from labkit.cli import main as labkit
from labkit.data import DataDirectory, FaceFolder, PairList

GENDERS = ["female", "male", "Female", ""]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data directory without lists; people with gender and age; and hidden people."""
    root = tmp_path_factory.mktemp("pairs") / "data"
    for k, name in enumerate(("pretrain", "train", "val", "test")):
        make_photos(root / name, 8, 5, first=10 * k, size=48)
    for name, first in (("val", 20), ("test", 30)):
        rows = [f"person{first + k:03d},{GENDERS[k % 4]},{20 + k}" for k in range(8)]
        (root / name / "identities.csv").write_text("\n".join(["identity,gender,age", *rows]))
    return root


@pytest.fixture
def own(data, tmp_path):
    return shutil.copytree(data, tmp_path / "data")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Hidden people; their photos carry what cameras, editors and file systems tell."""
    root = make_photos(tmp_path_factory.mktemp("staff") / "hidden", 6, 4, first=60, size=48)
    name = unicodedata.normalize("NFD", "김하늘")
    (root / "person060").rename(root / name)
    for k, path in enumerate(sorted(root.rglob("*.jpg"))):
        image = Image.open(path).copy()
        exif = Image.Exif()
        exif[0x010E] = f"photo of {path.parent.name}"
        image.save(path, exif=exif, comment=b"secret", icc_profile=b"profile", dpi=(72 + k, 72))
    photo(61, 9, 90).save(root / "person061" / "large.png", pnginfo=None)
    return root


def test_both_lists_are_balanced_true_and_without_duplicates(own, capsys):
    told = summary(make_pairs, capsys, own, "--per-image", 6)
    DataDirectory(own).check()
    for name in ("val", "test"):
        pairs = PairList.read(own / f"{name}_pairs.csv", own / name)
        left, right = pairs.identities()
        assert np.array_equal(left == right, pairs.labels == 1)
        targets = told["counts"][f"target pairs in {name}_pairs.csv"]
        assert 2 * pairs.labels.sum() == len(pairs) == 2 * targets
        assert len({frozenset(pairs.name_pair(i)) for i in range(len(pairs))}) == len(pairs)
        # Each image draws 3 target partners of 4 there are: most of the 10 pairs of a person come.
        assert 8 * 7 <= pairs.labels.sum() <= 8 * 10


def test_a_seed_gives_one_list_and_a_list_is_not_replaced_unasked(own, capsys):
    summary(make_pairs, capsys, own, "--seed", 3)
    first = (own / "val_pairs.csv").read_bytes()
    summary(make_pairs, capsys, own, "--seed", 3)
    assert "--force" in complaint(make_pairs, capsys, own, "--seed", 4)
    assert (own / "val_pairs.csv").read_bytes() == first
    for seed in (4, 3):
        summary(make_pairs, capsys, own, "--seed", seed, "--force")
        assert ((own / "val_pairs.csv").read_bytes() == first) == (seed == 3)


def test_one_list_for_one_folder_and_a_dry_run(data, tmp_path, capsys):
    out = tmp_path / "pairs.csv"
    told = summary(make_pairs, capsys, data / "val", "--out", out, "--dry-run")
    assert not any(tmp_path.iterdir())
    assert summary(make_pairs, capsys, data / "val", "--out", out)["counts"] == told["counts"]
    assert 2 * told["counts"]["target pairs in pairs.csv"] == len(PairList.read(out, data / "val"))


def test_hard_imposters_are_alike_in_every_attribute(own, capsys):
    told = summary(make_pairs, capsys, own, "--hard", "attribute=gender", "--hard-share", 1)
    folder = FaceFolder.scan(own / "test")
    gender = {name: row.get("gender", "").lower() for name, row in folder.details().items()}
    pairs = PairList.read(own / "test_pairs.csv", own / "test")
    left, right = pairs.identities()
    imposters = [(gender[a], gender[b]) for a, b, y in zip(left, right, pairs.labels) if not y]
    assert all(a == b != "" for a, b in imposters)
    assert told["counts"]["hard imposters in test_pairs.csv"] == len(imposters)
    assert len(pairs) == 2 * len(imposters)


def test_neighbours_are_the_nearest_other_identities(data):
    folder = FaceFolder.scan(data / "val")
    angles = np.array([0, 1, 2, 3, 4, 5, 200, 203]) * np.pi / 360
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pairs = hard_pairs.of_near_identities(folder, centres, 500, np.random.default_rng(0))
    a, b = np.sort(folder.labels[pairs], axis=1).T
    assert (a != b).all() and ((b <= 5) | (a >= 2)).all()  # 6 and 7 meet each other, 2, 3, 4, 5


def test_hard_imposters_by_embeddings_run_with_real_weights(own, tmp_path, capsys):
    weights = untrained(tmp_path / "net.safetensors")
    flags = ["--hard", "embeddings", "--weights", weights, "--device", "cpu", "--hard-share", 0.25]
    told = summary(make_pairs, capsys, own, *flags)
    wanted = told["counts"]["imposter pairs in val_pairs.csv"]
    assert told["counts"]["hard imposters in val_pairs.csv"] == round(0.25 * wanted)
    DataDirectory(own).check()


def test_a_blind_test_can_be_scored_with_its_key_and_tells_nothing(own, hidden, tmp_path, capsys):
    key = tmp_path / "key"
    told = summary(make_pairs, capsys, own, "--blind", hidden, "--key", key)
    DataDirectory(own).check()
    blind = PairList.read(own / "test_blind.csv", own / "test")
    assert blind.labels is None
    labelled = PairList.read(key / "test_blind_key.csv", own / "test")
    assert labelled.files == blind.files and 2 * labelled.labels.sum() == len(blind)
    files = sorted((own / "test").glob("blind-*"))
    assert len(files) == told["counts"]["blind images"] == 25
    assert {path.stat().st_mtime for path in files} == {blind_test.TIME}
    for path in files:
        data = path.read_bytes()
        assert not any(mark in data for mark in (b"Exif", b"secret", b"profile", b"photo of"))
        with Image.open(path) as image:
            assert image.size == (256, 256) and image.info["jfif_density"] == (1, 1)
            assert all(name.startswith("jfif") for name in image.info)
    who = {row["anonymous"]: row["original"] for row in table(key / "test_blind_names.csv")}
    assert set(who) == {path.name for path in files}
    assert all((hidden / original).is_file() for original in who.values())
    truth = dict(zip(map(labelled.name_pair, range(len(labelled))), labelled.labels))
    for pair, label in truth.items():
        a, b = (who[name].split("/")[0] for name in pair)
        assert (a == b) == bool(label)
    pixels = np.asarray(Image.open(files[0]).resize((48, 48)), float)
    original = np.asarray(Image.open(hidden / who[files[0].name]).resize((48, 48)), float)
    assert np.corrcoef(pixels.ravel(), original.ravel())[0, 1] > 0.97

    scores = tmp_path / "scores.csv"
    rows = [f"{0.9 if truth[pair] else 0.1},{','.join(pair)}" for pair in truth]
    scores.write_text("\n".join(rows[::-1]) + "\n")
    capsys.readouterr()
    flags = ["--labels", str(key / "test_blind_key.csv"), "--json"]
    assert labkit(["score", str(scores), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["eer"] == 0


def test_nobody_can_draw_the_names_or_the_order_again_from_the_seed(own, hidden, tmp_path, capsys):
    keys = []
    for key in (tmp_path / "key0", tmp_path / "key1"):
        data = shutil.copytree(own, tmp_path / f"data of {key.name}")
        summary(make_pairs, capsys, data, "--blind", hidden, "--key", key)
        labelled = PairList.read(key / "test_blind_key.csv")
        names = {row["anonymous"]: row["original"] for row in table(key / "test_blind_names.csv")}
        pairs = [labelled.name_pair(i) for i in range(len(labelled))]
        keys.append((names, labelled.labels, {frozenset(names[n] for n in p) for p in pairs}))
    assert not set(keys[0][0]) & set(keys[1][0])
    assert keys[0][2] == keys[1][2]  # which photos meet is repeatable
    assert not np.array_equal(keys[0][1], keys[1][1])  # in which order is not


def test_killed_in_the_middle_a_blind_test_goes_on_with_its_key(own, hidden, tmp_path, capsys):
    flags = ["--blind", hidden, "--key", tmp_path / "key"]
    run_killed("make_pairs", "parts.blind_test._write", 9, own, *flags)
    key = tree(tmp_path / "key")
    assert len(key) == 2 and not (own / "test_blind.csv").exists()
    assert 1 <= len(list((own / "test").glob("blind-*"))) < 25
    before = tree(own)
    for _ in range(2):
        summary(make_pairs, capsys, own, *flags)
        assert tree(tmp_path / "key") == key and before.items() <= tree(own).items()
        PairList.read(own / "test_blind.csv", own / "test")
        before = tree(own)
    assert len(list((own / "test").glob("blind-*"))) == 25


def test_blind_mistakes_are_one_line_each(own, hidden, tmp_path, capsys):
    summary(make_pairs, capsys, own, "--blind", hidden, "--key", tmp_path / "key")
    other = make_photos(tmp_path / "other", 3, 3, first=80, size=48)
    assert "--blind needs --key" in complaint(make_pairs, capsys, own, "--blind", hidden)
    for blind, key, words in [
        (hidden, own / "test" / "key", "which students get"),
        (other, tmp_path / "key", "belongs to other faces"),
        (hidden, tmp_path / "new", "images of another blind test"),
        (own / "train", tmp_path / "k", "8 of the blind people are in"),
    ]:
        assert words in complaint(make_pairs, capsys, own, "--blind", blind, "--key", key)


def test_mistakes_are_one_line_each(own, tmp_path, capsys):
    one = make_photos(tmp_path / "one", 1, 3)
    (tmp_path / "empty").mkdir()
    plain = make_photos(tmp_path / "plain", 3, 3)
    for arguments, words in [
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "empty"], "has no val/ and test/"),
        ([tmp_path / "empty", "--out", tmp_path / "p.csv"], "holds no images"),
        ([one, "--out", tmp_path / "p.csv"], "pairs need two identities"),
        ([own, "--hard", "attribute=height"], "has no column 'height': it has age, gender"),
        ([plain, "--out", tmp_path / "p.csv", "--hard", "attribute=age"], "no identities.csv"),
        ([own, "--hard", "smell"], "attribute=COLUMN"),
        ([own, "--hard", "embeddings"], "needs --weights"),
        ([own, "--hard-share", "2"], "--hard-share must be from 0 to 1"),
    ]:
        assert words in complaint(make_pairs, capsys, *arguments)
