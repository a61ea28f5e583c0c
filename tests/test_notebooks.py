"""The committed notebooks, and all five through papermill."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
import skimage.data
from nbgrader.api import Gradebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from labkit.checkpoint import read_metrics
from labkit.cli import main
from labkit.exercises import EXERCISES
from labkit.notebooks import NOTEBOOKS, notebook_folder
from labkit.utils import cache_dir

sys.path.insert(0, str(Path(__file__).parent.parent / "data_scripts"))
import release  # noqa: E402


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_clean_and_explains_itself_and_its_logic_is_in_the_package(name):
    notebook = nbformat.read(notebook_folder() / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert "you will" in texts[0] and notebook.cells[0].source == texts[0]
    for part in ("What you have learned", "Try next"):
        assert any(part in text for text in texts)
    kinds = [cell.cell_type for cell in notebook.cells]
    explained = sum(two == ("markdown", "code") for two in zip(kinds, kinds[1:]))
    assert explained >= 0.4 * len(code)
    kits = [cell.source for cell in code if not cell.id.startswith(("answer-", "exercise-"))]
    for node in [node for source in kits for node in ast.walk(ast.parse(source))]:
        assert not isinstance(node, ast.ClassDef)
        assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 5
    [parameters] = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assigned = {target.id for node in ast.parse(parameters.source).body for target in node.targets}
    assert {"preset", "data_dir", "run_dir", "seed"} < assigned


MATH = dict.fromkeys(NOTEBOOKS, 0) | {"01_pretrain": 10, "02_finetune": 6}  # formulas


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
        page = (run / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "<html" in page and page.count("<math") == page.count("</math>") == MATH[name]
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
    found = json.loads((run / "lookalike" / "lookalike.json").read_text(encoding="utf-8"))
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


def test_the_students_version_runs_to_its_end_and_no_exercise_is_solved(lab, tmp_path):
    release.run(release.arguments().parse_args([str(tmp_path / "student")]))
    settings = dict(preset="smoke", run_dir=str(lab[0]))
    with ThreadPoolExecutor(2) as pool:  # what is trained and scored already has no order
        run = partial(execute, out=tmp_path, source=tmp_path / "student", **settings)
        told = "".join(pool.map(run, NOTEBOOKS))
    assert told.count("not solved yet") == len(EXERCISES) and "✓" not in told and "✗" not in told


def test_nbgraders_own_autograder_counts_the_same_points(lab, tmp_path, monkeypatch):
    """A course of nbgrader with notebook 4 as it is, and a student who solved one exercise."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # alembic
    notebook = nbformat.read(notebook_folder() / "04_lookalike.ipynb", as_version=4)
    [settings] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    settings.source += f'\npreset, run_dir = "smoke", {str(lab[0])!r}'
    [wrong] = [cell for cell in notebook.cells if cell.id == "answer-4-2"]
    source, handed = (tmp_path / part / "faces" for part in ("source", "submitted/kim"))
    for folder, answer in (
        (source, wrong.source),
        (handed, wrong.source.split("###")[0] + "return p"),
    ):
        folder.mkdir(parents=True)
        wrong.source = answer
        nbformat.write(notebook, folder / "04_lookalike.ipynb")
    root = f"c = get_config()\nc.CourseDirectory.root = {str(tmp_path)!r}\n"
    (tmp_path / "nbgrader_config.py").write_text(root)
    for step in (["generate_assignment", "faces"], ["autograde", "faces", "--student", "kim"]):
        command = [sys.executable, "-m", "nbgrader", *step]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as book:
        graded = book.find_submission_notebook("04_lookalike", "faces", "kim")
        points = {grade.name: grade.auto_score for grade in graded.grades}
    assert (points["check-4-1"], points["check-4-2"]) == (EXERCISES["4.1"].points, 0)


@pytest.mark.parametrize("content", ["no face", "no photo", "nothing"])
def test_a_photo_that_will_not_do_is_told_before_anything_runs(content, capsys, tmp_path):
    photo = tmp_path / "photo.png"
    if content == "no face":
        Image.new("RGB", (200, 200), (120, 120, 120)).save(photo)
    if content == "no photo":
        photo.write_text("text")
    run = tmp_path / "run"
    assert main(["run", "--preset", "smoke", "--out", str(run), "--photo", str(photo)]) == 2
    err = capsys.readouterr().err
    assert "photo.png" in err and err.count("\n") == 1 and not run.exists()


def execute(name, out, source=None, **parameters):
    """Run a notebook as papermill does from another folder; return what it prints."""
    kernel = dict(kernel_name="python3", progress_bar=False)
    source = (source or notebook_folder()) / f"{name}.ipynb"
    papermill.execute_notebook(source, out / f"{name}.ipynb", parameters, cwd=out, **kernel)
    return texts(out / f"{name}.ipynb", "text")


def texts(file, kind):
    outputs = [o for c in nbformat.read(file, as_version=4).cells for o in c.get("outputs", [])]
    return "".join("".join(output.get(kind, "")) for output in outputs)


def test_a_run_is_known_by_hand_from_another_folder_and_after_a_move(lab, tmp_path):
    shutil.copytree(lab[0], tmp_path / "moved")
    with ThreadPoolExecutor(2) as pool:
        run = partial(execute, out=tmp_path, preset="smoke", run_dir="moved")
        for told in pool.map(run, ("01_pretrain", "02_finetune")):
            assert "2 epochs are trained, nothing to do" in told


@pytest.mark.parametrize("own", [None, "5"])
def test_the_threads_of_a_notebook_sleep_soon_unless_its_user_says_otherwise(
    tmp_path, monkeypatch, own
):
    """Also when JupyterLab starts the kernel, which knows nothing of the kit."""
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    first = nbformat.read(notebook_folder() / "01_pretrain.ipynb", as_version=4).cells
    [imports] = [cell.source for cell in first if "import train_step" in cell.source]
    imports = imports.partition("\n\nlab = ")[0]
    asked = "import os\nprint(os.getenv('GOMP_SPINCOUNT'))"
    before = "import sys\nassert 'torch' not in sys.modules"
    cells = [nbformat.v4.new_code_cell(text) for text in (before, imports, asked)]
    about = dict(kernelspec=dict(name="python3", display_name="", language="python"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), tmp_path / "n.ipynb")
    papermill.execute_notebook(tmp_path / "n.ipynb", tmp_path / "n.ipynb", progress_bar=False)
    assert texts(tmp_path / "n.ipynb", "text") == f"{own or 1000}\n"


def test_a_mistake_in_a_notebook_is_one_line(tmp_path):
    for wrong, message in (
        (dict(prest="smoke"), "this notebook has no parameter 'prest': did you mean preset?"),
        (dict(bootstrap="many"), "bootstrap must be a whole number, found 'many'"),
    ):
        with pytest.raises(PapermillExecutionError) as caught:
            execute("03_evaluate", tmp_path, run_dir="here", **wrong)
        assert (caught.value.ename, caught.value.evalue) == ("UserError", message)
        assert texts(tmp_path / "03_evaluate.ipynb", "traceback") == f"UserError: {message}"


def test_a_photo_may_lie_in_the_home_folder(lab, tmp_path, monkeypatch):
    shutil.copytree(lab[0], tmp_path / "moved")
    (tmp_path / "home").mkdir()
    shutil.copy(lab[0].parent / "astronaut.png", tmp_path / "home" / "me.png")
    monkeypatch.setenv("KSTAR_FACELAB_CACHE", str(cache_dir()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    parameters = dict(preset="smoke", run_dir="moved", photo="~/me.png")
    assert "me.png: 512 x 512 pixels" in execute("04_lookalike", tmp_path, **parameters)
    found = json.loads((tmp_path / "moved/lookalike/lookalike.json").read_text(encoding="utf-8"))
    assert found["photo"] == "me.png" and found["matches"]


def test_an_unknown_layout_is_told_before_any_is_computed(lab, tmp_path):
    with pytest.raises(PapermillExecutionError) as caught:
        execute("05_facemap", tmp_path, preset="smoke", run_dir=str(lab[0]), method="umpa")
    assert caught.value.evalue == "unknown layout 'umpa'; use one of umap, tsne, pca"
    assert "compiles itself" not in texts(tmp_path / "05_facemap.ipynb", "text")


def test_a_kernel_that_does_not_answer_does_not_keep_a_stopped_run(data_directory, tmp_path):
    command = f"run --preset smoke --data {data_directory} --out {tmp_path / 'run'}".split()
    run = psutil.Popen([sys.executable, "-m", "labkit", *command], stdout=-1, stderr=-1, text=True)
    next(line for line in run.stdout if "total" in line)
    for child in run.children():
        child.suspend()
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 75
    assert errors.startswith("labkit: stopped by SIGTERM") and errors.count("\n") == 1


def test_a_signal_to_the_whole_run_saves_and_ends_with_one_line(data_directory, tmp_path):
    """Twice, under a kernel called python3 that is not this interpreter's."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["false"], "display_name": "broken", "language": "python"}')
    out = tmp_path / "run"
    command = f"run --preset smoke --device cpu --data {data_directory} --out {out}".split()
    environment = os.environ | dict(JUPYTER_PATH=str(tmp_path / "jupyter"))
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "labkit", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for line in process.stdout:
            if "total" in line:  # the network's table, before the training
                break
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == 75
        assert errors.startswith(f"labkit: stopped by {number.name} in 01_pretrain")
        assert errors.count("\n") == 1
