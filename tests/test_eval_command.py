"""`labkit eval`: its report beside other systems, and the precision of the embeddings."""

import json
import re

import numpy as np
import pytest
import torch

from labkit.checkpoint import save_weights
from labkit.cli import main
from labkit.data import PairList
from labkit.evaluate import read_scores, write_scores
from labkit.models import InputSpec, build_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    about = dict(model_name="ThinResNet34", embedding_size=16, input_spec=InputSpec(image_size=48))
    save_weights(path, build_model("ThinResNet34", 16), **about)
    return path


@pytest.fixture
def evaluate(data_directory, weights, capsys):
    """`labkit eval` on the test list: a function from further flags to (code, out, err)."""
    test = ["--test_path", data_directory / "test"]
    test += ["--test_list", data_directory / "test_pairs.csv", "--device", "cpu"]

    def call(*flags):
        code = main([str(x) for x in ("eval", "--weights", weights, *test, *flags)])
        return code, *capsys.readouterr()

    return call


def test_the_report_of_the_command_holds_other_systems_by_their_score_files(
    data_directory, evaluate, tmp_path
):
    pairs = PairList.read(data_directory / "test_pairs.csv")
    rng = np.random.default_rng(0)
    write_scores(tmp_path / "guess.csv", rng.random(len(pairs)), pairs)
    mixed = rng.permutation(len(pairs))
    blind = PairList(pairs.files, pairs.left[mixed], pairs.right[mixed], None)
    write_scores(tmp_path / "oracle.csv", pairs.labels[mixed] + rng.random(len(pairs)), blind)
    code, out, err = evaluate(
        "--report", tmp_path / "report", "--output", tmp_path / "own.csv",
        "--compare", tmp_path / "guess.csv", tmp_path / "oracle.csv", "--json",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    names = [system["name"] for system in summary["systems"]]
    assert names == ["test_pairs", "guess", "oracle"]
    assert summary["systems"][2]["eer"] == 0 and json.loads(out)["eer"] > 0
    assert [c["name_b"] for c in summary["comparisons"]] == ["guess", "oracle"]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert "DET curve" in headings and "Who is hard: test_pairs" in headings
    assert not any("guess" in heading or "oracle" in heading for heading in headings)
    assert "oracle is better than test_pairs" in page


def test_compared_score_files_must_be_of_this_list(evaluate, tmp_path):
    other = PairList.from_names(["a/1.jpg"], ["b/1.jpg"], [0])
    write_scores(tmp_path / "other.csv", np.zeros(1), other)
    code, _, err = evaluate("--compare", tmp_path / "other.csv", "--report", tmp_path / "r")
    assert code == 2 and "other.csv does not fit" in err and err.count("\n") == 1
    code, _, err = evaluate("--compare", tmp_path / "other.csv")
    assert code == 2 and "give --report" in err
    assert not (tmp_path / "r").exists()


def test_any_precision_gives_nearly_the_same_scores(data_directory, evaluate, tmp_path):
    scores = {}
    for precision in ("fp32", "bf16"):
        file = tmp_path / f"{precision}.csv"
        code, _, err = evaluate("--output", file, "--precision", precision)
        assert code == 0, err
        scores[precision] = read_scores(file).scores
    assert 0 < np.abs(scores["fp32"] - scores["bf16"]).max() < 0.02
