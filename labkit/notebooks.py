"""Run the notebooks in order, headless, and show in a short table what came out."""

import hashlib
import json
import os
import sys
import time
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
    """Return the folder of the notebooks: beside the package, in a checkout.

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


def run_all(lab: Lab, *, photo: str | Path | None = None, say=print) -> list[dict]:
    """Execute the five notebooks for `lab`, skipping those that have already run to their end.

    A notebook runs again when it, its parameters, or one before it has changed. Executed copies
    and HTML go to OUT/notebooks.

    Returns a dictionary for each notebook: its name, the paths of the executed notebook and its
    HTML copy, and the seconds that it took. Raises UserError with the notebook's own error when
    one fails, and before anything runs when the photo cannot be read or shows no face.
    """
    source = notebook_folder()
    if photo is not None:
        largest_face(read_photo(photo), name=str(photo))  # now, not after an hour of training
    lab.prepare_data()
    out = make_folder(lab.folder("notebooks"))
    runs, history = [], hashlib.sha256()
    with folder_lock(out):
        for name in NOTEBOOKS:
            notebook, parameters = source / f"{name}.ipynb", _parameters(lab, name, photo)
            history.update(json.dumps([notebook.read_text("utf-8"), parameters]).encode())
            seconds = _finished(out / notebook.name, history.hexdigest())
            if seconds is None:
                say(f"running {name} …")
                seconds = _execute(notebook, out / notebook.name, parameters, history.hexdigest())
                say(f"{name} done in {seconds:.0f} s")
            else:
                say(f"{name} has run already")
            executed = str(out / notebook.name)
            html = str(out / f"{name}.html")
            runs.append(dict(name=name, notebook=executed, html=html, seconds=seconds))
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


def _finished(executed: Path, key: str) -> float | None:
    """Return the seconds of an earlier run that came to its end, if nothing has changed since."""
    try:
        about = nbformat.read(executed, as_version=4).metadata["facelab"]
        return about["seconds"] if about["key"] == key else None
    except (OSError, ValueError, KeyError):  # none is there, or an error or a kill has ended it
        return None


def _execute(source: Path, executed: Path, parameters: dict, key: str) -> float:
    """Execute a notebook, write it and its HTML copy, and return the seconds that it took."""
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            stdout_file=sys.stdout,
            cwd=source.parent,
            extra_arguments=["--log-level=ERROR"],
        )
    except PapermillExecutionError as error:
        own = error.ename in ("UserError", "Stopped")
        raise UserError(
            f"{source.stem} stopped in cell {error.exec_count}: "
            f"{error.evalue if own else f'{error.ename}: {error.evalue}'} "
            f"(the notebook so far: {executed})"
        ) from error
    seconds = round(time.monotonic() - began, 1)
    notebook = nbformat.read(executed, as_version=4)
    page, _ = HTMLExporter(theme="light").from_notebook_node(notebook)
    write_text(executed.with_suffix(".html"), page)
    notebook.metadata["facelab"] = dict(key=key, seconds=seconds)
    write_text(executed, nbformat.writes(notebook))
    return seconds


def outcome(lab: Lab, runs: list[dict]) -> dict:
    """Return what the lab came to, from the files that the notebooks wrote."""
    return dict(
        run_dir=str(lab.run_path),
        evaluation=lab.results("evaluate"),
        lookalike=lab.results("lookalike", "lookalike.json"),
        facemap=str(lab.folder("facemap") / "facemap.html"),
        notebooks=runs,
    )


def table(result: dict) -> str:
    """Return `outcome` as a short table for people."""
    lines = ["", "EER (95 % interval)     validation list           test list"]
    for stage, label in (("pretrain", "after pretraining"), ("finetune", "after fine-tuning")):
        cells = []
        for name in ("val", "test"):
            measured = result["evaluation"][stage][name]
            low, high = measured["eer_interval"]
            cells.append(f"{measured['eer']:.2f} % ({low:.2f} to {high:.2f})")
        lines.append(f"  {label:<22}{cells[0]:<26}{cells[1]}")
    found = result["lookalike"]
    lines.append(f"look-alikes of {found['photo']}")
    lines += [f"  {match['similarity']:.3f}  {match['name']}" for match in found["matches"]]
    lines.append(f"FaceMap            {result['facemap']}")
    lines.append(f"notebooks, as HTML {Path(result['notebooks'][0]['html']).parent}")
    return "\n".join(lines)
