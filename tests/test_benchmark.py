"""The field's table: verification sets, protocols with folds, open-set search, the command."""

import csv
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_faces
from PIL import Image
from script_runs import table

from labkit import metrics
from labkit.checkpoint import save_weights
from labkit.cli import main
from labkit.data import FaceFolder, PairList, make_pairs
from labkit.data.bins import read_bin
from labkit.models import InputSpec, build_model
from labkit.utils import UserError


def accuracy_by_hand(scores, labels, folds) -> tuple[float, float]:
    found = []
    for fold in sorted(set(folds)):
        train = [(s, t) for s, t, f in zip(scores, labels, folds) if f != fold]
        test = [(s, t) for s, t, f in zip(scores, labels, folds) if f == fold]
        thresholds = sorted({s for s, _ in train}) + [np.inf]
        best = max(thresholds, key=lambda h: (sum((s >= h) == t for s, t in train), -h))
        found.append(100 * np.mean([(s >= best) == t for s, t in test]))
    return np.mean(found), np.std(found, ddof=1) / np.sqrt(len(found))


@pytest.mark.parametrize("seed", range(8))
def test_accuracy_by_folds_is_that_of_a_loop_with_ties_too(seed):
    rng = np.random.default_rng(seed)
    labels, folds = rng.integers(0, 2, 60), np.arange(60) // 6
    scores = np.round(rng.normal(labels, 1.0), 1 if seed % 2 else 6)
    assert metrics.lfw_accuracy(scores, labels, folds) == pytest.approx(
        accuracy_by_hand(scores.tolist(), labels.tolist(), folds.tolist())
    )


@pytest.mark.parametrize("seed", range(6))
def test_open_set_rates_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    gallery, probes = np.arange(8), rng.integers(0, 16, 80)
    similarities = rng.normal(0, 1, (80, 8)) + 2.0 * (probes[:, None] == gallery)
    if seed % 2:
        similarities = np.round(similarities, 1)  # ties among the strangers
    rank_1, fnirs = metrics.open_set_rates(similarities, probes, gallery, (0.0, 0.1, 0.3, 1.0))
    tops, who = similarities.max(axis=1), similarities.argmax(axis=1)
    mated = probes < 8
    assert rank_1 == pytest.approx(np.mean(who[mated] == probes[mated]))
    for fpir, fnir in zip((0.0, 0.1, 0.3, 1.0), fnirs):
        misses = [
            1 - np.mean((tops[mated] >= t) & (who[mated] == probes[mated]))
            for t in [-np.inf, *tops, np.inf]
            if np.mean(tops[~mated] >= t) <= fpir
        ]
        assert fnir == pytest.approx(min(misses))
    with pytest.raises(UserError, match="and of strangers"):
        metrics.open_set_rates(similarities[mated], probes[mated], gallery)


def jpeg(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (colour, 90, 200)).save(file, "JPEG")
    return file.getvalue()


PICTURES = [jpeg(c) for c in (0, 20, 200, 220)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["bytes", "arrays", "array of truth", "NumPy truth"])
def test_verification_sets_are_read_however_they_were_pickled(tmp_path, protocol, kind):
    images, same = [*PICTURES], [True, False]
    if kind == "arrays":
        images = [np.frombuffer(data, np.uint8) for data in images]
    elif kind == "array of truth":
        same = np.array(same)
    elif kind == "NumPy truth":
        same = [np.bool_(x) for x in same]
    (tmp_path / "a.bin").write_bytes(pickle.dumps((images, same), protocol))
    found, labels = read_bin(tmp_path / "a.bin")
    assert found == PICTURES and labels.tolist() == [1, 0]


def test_a_verification_set_of_python_2_is_read(tmp_path):
    """Its strings are bytes: `(['ab', 'c'], [True])` by Python 2's cPickle, protocol 2."""
    (tmp_path / "a.bin").write_bytes(
        b"\x80\x02]q\x01(U\x02abq\x02U\x01cq\x03e]q\x04\x88a\x86q\x05."
    )
    assert read_bin(tmp_path / "a.bin")[0] == [b"ab", b"c"]


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "hostile, told",
    [
        (lambda mark: Runs(os.system, f"touch {mark}"), "would call posix.system"),
        (lambda mark: Runs(np.load, "/etc/passwd"), "would call numpy.load"),
        (lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"), "would call builtins.eval"),
        (lambda mark: np.array([Runs(os.system, f"touch {mark}")], object), "would call posix"),
        (lambda mark: Runs(bytearray, 10**12), "would call builtins.bytearray"),
        (lambda mark: Runs(np.ndarray, (10**12,)), "no verification set, or damaged"),
        (lambda mark: np.array(["text"]), "no verification set, or damaged"),
        (lambda mark: 10**12, "no verification set, or damaged"),
    ],
)
def test_nothing_in_a_verification_set_runs(tmp_path, capsys, hostile, told):
    mark = tmp_path / "mark"
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([b"", hostile(mark)], [True])))
    with pytest.raises(UserError, match=told) as caught:
        read_bin(tmp_path / "a.bin")
    assert "a.bin" in str(caught.value) and "\n" not in str(caught.value) and not mark.exists()


def test_a_damaged_verification_set_is_one_line(tmp_path):
    whole = pickle.dumps((PICTURES, [True, False]))
    for data in (b"", b"no pickle", whole[:-9], pickle.dumps((PICTURES, [True])), pickle.dumps(5)):
        (tmp_path / "a.bin").write_bytes(data)
        with pytest.raises(UserError, match="a.bin (is no verification set|holds 4 images)"):
            PairList.read(tmp_path / "a.bin")


def test_cfps_protocol_is_read_with_its_folds(tmp_path):
    for fold in ("01", "02"):
        folder = tmp_path / "Protocol" / "Split" / "FP" / fold
        folder.mkdir(parents=True)
        (folder / "same.txt").write_text("1,1\n12,6\n")
        (folder / "diff.txt").write_text(f"5000,{int(fold)}\n")
    with pytest.raises(UserError, match="no FF/01/same.txt"):
        PairList.read(tmp_path / "Protocol")
    pairs = PairList.read(tmp_path / "Protocol" / "Split" / "FP")
    assert [*pairs.rows()][:3] == [
        (0, "500/frontal/10.jpg", "001/profile/01.jpg"),
        (1, "001/frontal/01.jpg", "001/profile/01.jpg"),
        (1, "002/frontal/02.jpg", "002/profile/02.jpg"),
    ]
    assert pairs.folds.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    network, spec = build_model("ThinResNet34", 64), InputSpec(image_size=32)
    made = dict(model_name="ThinResNet34", embedding_size=64, input_spec=spec)
    save_weights(tmp_path / "net" / "best.safetensors", network, **made)
    return tmp_path / "net" / "best.safetensors"


def test_the_table_has_a_row_per_network_and_flip_and_agrees_with_eval(weights, tmp_path, capsys):
    faces = make_faces(tmp_path / "faces", 8, 4)
    folder = FaceFolder.scan(faces)
    pairs = make_pairs(folder)
    pairs.write(tmp_path / "faces_pairs.csv")
    sides = zip(*(pairs.name_pair(i) for i in range(len(pairs))))
    left, right = ([(faces / name).read_bytes() for name in side] for side in sides)
    images = [data for both in zip(left, right) for data in both]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, [*map(bool, pairs.labels)])))
    sets = [str(tmp_path / "faces_pairs.csv"), str(tmp_path / "set.bin"), str(faces)]
    out = ["--out", str(tmp_path / "table.csv")]
    assert main(["benchmark", "--weights", str(weights), *sets, *out]) == 0
    printed = capsys.readouterr().out
    rows = table(tmp_path / "table.csv")
    assert [(row["set"], row["flip"]) for row in rows] == [
        (name, flip) for name in ("faces_pairs", "set", "faces") for flip in ("False", "True")
    ]
    assert printed.count("net/best") == 6
    for row, other in zip(rows[:2], rows[2:4]):  # the same pairs as a list and as a .bin
        same = [c for c in row if c not in ("set", "eer_low", "eer_high")]
        assert [row[c] for c in same] == [other[c] for c in same]
    common = ["--weights", str(weights), "--test_list", sets[0], "--test_path", str(faces)]
    for row, flip in zip(rows, ([], ["--flip"])):
        assert main(["eval", *common, *flip]) == 0
        assert f"EER {float(row['eer']):.2f} %" in capsys.readouterr().out
    search = rows[4]
    assert int(search["pairs"]) == 32 * 31 // 2 and int(search["probes"]) == 32 - 4
    assert 0 <= float(search["rank_1"]) <= 100 and search["accuracy"] == ""


def test_what_is_no_set_is_one_line(weights, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("1,a/1.jpg,a/2.jpg\n0,a/1.jpg,b/1.jpg\n")
    for given, told in (
        (tmp_path / "nothing", "nothing does not exist"),
        (tmp_path / "list.csv", "a/1.jpg is not in"),
        (f"{tmp_path / 'list.csv'}={tmp_path / 'faces'}", "a/1.jpg is not in"),
    ):
        assert main(["benchmark", "--weights", str(weights), str(given)]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1


def test_training_validates_on_a_verification_set(tmp_path, faces):
    from runs import small_run

    from labkit.train import fit

    images = [path.read_bytes() for path in sorted(faces.rglob("*.jpg"))]
    (tmp_path / "val.bin").write_bytes(pickle.dumps((images, [True, False] * 18)))
    config = small_run(tmp_path, tmp_path / "run")
    from dataclasses import replace

    about = dict(
        train_dir=str(faces), val_list=str(tmp_path / "val.bin"), val_dir=None, max_epoch=1
    )
    assert fit(replace(config, **about)).best_val_eer is not None
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert next(csv.DictReader(file))["val_eer"]
