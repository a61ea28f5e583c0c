"""The committed notebooks, and all five through papermill."""

import ast
import json
import shutil

import nbformat
import pytest
import skimage.data
from PIL import Image

from labkit.checkpoint import read_metrics
from labkit.cli import main
from labkit.notebooks import NOTEBOOKS, notebook_folder

MAX_LINES_OF_A_FUNCTION = 5


def read(name):
    return nbformat.read(notebook_folder() / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_clean_and_explains_itself(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = notebook.cells
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert cells[0].cell_type == "markdown" and "you will" in cells[0].source
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert any("What you have learned" in text for text in texts)
    assert any("Try next" in text for text in texts)
    explained = sum(
        before.cell_type == "markdown"
        for before, cell in zip(cells, cells[1:])
        if cell.cell_type == "code"
    )
    assert explained >= 0.4 * sum(cell.cell_type == "code" for cell in cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_one_parameters_cell_with_the_shared_settings(name):
    tagged = [c for c in read(name).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = {target.id for node in ast.parse(tagged[0].source).body for target in node.targets}
    assert {"preset", "data_dir", "run_dir", "seed"} < assigned


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_logic_lives_in_the_module_not_in_the_notebook(name):
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < MAX_LINES_OF_A_FUNCTION


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder that `labkit run --preset smoke` leaves, with a real photograph, and its table."""
    out = tmp_path_factory.mktemp("lab")
    photo = out / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(photo)  # NASA's portrait of Eileen Collins
    arguments = ["run", "--preset", "smoke", "--out", str(out / "run"), "--photo", str(photo)]
    assert main([*arguments, "--device", "cpu"]) == 0
    yield out / "run", arguments
    shutil.rmtree(out)


def test_all_five_run_and_leave_what_they_promise(lab):
    run, _ = lab
    for name in NOTEBOOKS:
        executed = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
        assert "<html" in (run / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert "image/png" in kinds, f"{name} shows no picture"
    for stage in ("pretrain", "finetune"):
        rows = read_metrics(run / stage / "metrics.csv")
        assert len(rows) == 2 and all(0 <= row["val_eer"] <= 100 for row in rows)
    for path in """
        data/test_blind.csv pretrain/training_curves.png finetune/training_curves.png
        evaluate/summary.json evaluate/finetune_test_scores.csv evaluate/test_blind_scores.csv
        evaluate/report/report.html lookalike/gallery.safetensors lookalike/lookalike.png
        facemap/facemap.html facemap/facemap.png facemap/facemap.pdf
    """.split():
        assert (run / path).stat().st_size > 0, path


def test_a_real_photograph_gets_five_look_alikes(lab):
    found = json.loads((lab[0] / "lookalike" / "lookalike.json").read_text(encoding="utf-8"))
    similarities = [match["similarity"] for match in found["matches"]]
    assert found["photo"] == "astronaut.png" and len(similarities) == 5
    assert similarities == sorted(similarities, reverse=True) and -1 <= similarities[-1] <= 1


def test_a_second_run_goes_on_from_what_is_there(lab, capsys, monkeypatch):
    monkeypatch.setattr("papermill.execute_notebook", None)
    capsys.readouterr()
    assert main([*lab[1], "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("has run already") == 5
    assert "after fine-tuning" in out and "astronaut.png" in out


@pytest.mark.parametrize("content", ["no face", "no photo", "nothing"])
def test_a_photo_that_will_not_do_is_told_before_anything_runs(content, capsys, tmp_path):
    photo = tmp_path / "photo.png"
    if content == "no face":
        Image.new("RGB", (200, 200), (120, 120, 120)).save(photo)
    if content == "no photo":
        photo.write_text("text")
    arguments = ["run", "--preset", "smoke", "--out", str(tmp_path / "run"), "--photo", str(photo)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "photo.png" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
