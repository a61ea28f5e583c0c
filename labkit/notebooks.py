"""Run the notebooks in order, headless, and tell in a short table what came out."""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from labkit.crop import largest_face, read_photo
from labkit.lab import Lab
from labkit.utils import UserError, folder_lock, make_folder, write_text

NOTEBOOKS = ("01_pretrain", "02_finetune", "03_evaluate", "04_lookalike", "05_facemap")


def notebook_folder() -> Path:
    """Where the notebooks are: beside the package, in a checkout.

    The environment variable KSTAR_FACELAB_NOTEBOOKS overrides it, for an installed package.
    """
    named = os.environ.get("KSTAR_FACELAB_NOTEBOOKS")
    folder = Path(named) if named else Path(__file__).resolve().parent.parent / "notebooks"
    if not (folder / f"{NOTEBOOKS[0]}.ipynb").is_file():
        raise UserError(
            f"the notebooks are not in {folder}: run from a checkout of the project, or set "
            "KSTAR_FACELAB_NOTEBOOKS to their folder"
        )
    return folder


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook: where it and its HTML copy are, and the seconds that it took."""

    name: str
    notebook: Path
    html: Path
    seconds: float
    reused: bool


def run_all(lab: Lab, *, photo: str | Path | None = None, say=print) -> list[NotebookRun]:
    """Execute the five notebooks for `lab`, skipping those that have already run to their end.

    A notebook runs again when it, its parameters, or one before it has changed. Executed copies
    and HTML go to OUT/notebooks. Raises UserError with the notebook's own error when one fails,
    and before anything runs when the photo cannot be read or shows no face.
    """
    source = notebook_folder()
    if photo is not None:
        largest_face(read_photo(photo), name=str(photo))  # now, not after an hour of training
    lab.prepare_data()
    out = make_folder(lab.folder("notebooks"))
    with folder_lock(out):
        return _run_in_order(lab, source, out, photo, say)


def _run_in_order(lab: Lab, source: Path, out: Path, photo, say) -> list[NotebookRun]:
    runs: list[NotebookRun] = []
    history = hashlib.sha256()
    for name in NOTEBOOKS:
        parameters = _parameters(lab, name, photo)
        text = (source / f"{name}.ipynb").read_text(encoding="utf-8")
        history.update(json.dumps([text, parameters]).encode())
        run = _reusable(out, name, history.hexdigest())
        if run is None:
            say(f"running {name} …")
            run = _execute(source / f"{name}.ipynb", out, parameters, history.hexdigest())
            say(f"{name} done in {run.seconds:.0f} s")
        else:
            say(f"{name} has run already")
        runs.append(run)
    return runs


def _parameters(lab: Lab, name: str, photo: str | Path | None) -> dict:
    parameters = dict(
        preset=lab.preset,
        data_dir=None if lab.data_dir is None else str(Path(lab.data_dir).resolve()),
        run_dir=str(lab.run_path.resolve()),
        seed=lab.seed,
    )
    if name in ("04_lookalike", "05_facemap") and photo is not None:
        parameters["photo"] = str(Path(photo).resolve())
    return parameters


def _reusable(out: Path, name: str, key: str) -> NotebookRun | None:
    """The executed notebook of an earlier run that came to its end, if nothing has changed."""
    executed, html = out / f"{name}.ipynb", out / f"{name}.html"
    if not (executed.exists() and html.exists()):
        return None
    try:
        about = nbformat.read(executed, as_version=4).metadata["facelab"]
        if about["key"] == key:
            return NotebookRun(name, executed, html, about["seconds"], reused=True)
    except (KeyError, ValueError):
        pass
    return None


def _execute(source: Path, out: Path, parameters: dict, key: str) -> NotebookRun:
    executed, html = out / source.name, out / f"{source.stem}.html"
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            stdout_file=_Indented(),
            cwd=source.parent,
            extra_arguments=["--log-level=ERROR"],
        )
    except PapermillExecutionError as error:
        raise UserError(
            f"{source.stem} stopped in cell {error.exec_count}: {_own_words(error)} "
            f"(the notebook so far: {executed})"
        ) from error
    seconds = time.monotonic() - began
    notebook = nbformat.read(executed, as_version=4)
    page, _ = HTMLExporter(theme="light").from_notebook_node(notebook)
    write_text(html, page)
    notebook.metadata["facelab"] = {"key": key, "seconds": round(seconds, 1)}
    write_text(executed, nbformat.writes(notebook))
    return NotebookRun(source.stem, executed, html, seconds, reused=False)


def _own_words(error: PapermillExecutionError) -> str:
    if error.ename == "UserError" or error.ename == "Stopped":
        return error.evalue
    return f"{error.ename}: {error.evalue}"


class _Indented:
    """Passes a notebook's printed lines on to this process's output, set in a little."""

    def __init__(self):
        self._at_line_start = True

    def write(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            print("  " + line if self._at_line_start else line, end="", flush=True)
            self._at_line_start = line.endswith("\n")

    def flush(self) -> None:
        pass


def outcome(lab: Lab, runs: list[NotebookRun]) -> dict:
    """What the lab came to, from the files that the notebooks wrote."""
    return dict(
        run_dir=str(lab.run_path),
        evaluation=lab.results("evaluate"),
        lookalike=lab.results("lookalike", "lookalike.json"),
        facemap=str(lab.folder("facemap") / "facemap.html"),
        notebooks=[
            dict(name=run.name, notebook=str(run.notebook), html=str(run.html), seconds=run.seconds)
            for run in runs
        ],
    )


def table(result: dict) -> str:
    """`outcome` as a short table for people."""
    lines = ["", "EER (95 % interval)     validation list           test list"]
    for stage, label in (("pretrain", "after pretraining"), ("finetune", "after fine-tuning")):
        cells = [_interval(result["evaluation"][stage][name]) for name in ("val", "test")]
        lines.append(f"  {label:<22}{cells[0]:<26}{cells[1]}")
    found = result["lookalike"]
    lines.append(f"look-alikes of {found['photo']}")
    for match in found["matches"]:
        lines.append(f"  {match['similarity']:.3f}  {match['name']}")
    lines.append(f"FaceMap            {result['facemap']}")
    lines.append(f"notebooks, as HTML {Path(result['notebooks'][0]['html']).parent}")
    return "\n".join(lines)


def _interval(numbers: dict) -> str:
    low, high = numbers["eer_interval"]
    return f"{numbers['eer']:.2f} % ({low:.2f} to {high:.2f})"
