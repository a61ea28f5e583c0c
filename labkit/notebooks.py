"""Run the notebooks in order, headless, and show in a short table what came out."""

import copy
import hashlib
import json
import logging
import os
import re
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from latex2mathml.converter import convert as latex_to_mathml
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from labkit.crop import largest_face, read_photo
from labkit.lab import NOTEBOOKS, Lab
from labkit.utils import Stopped, StopSignals, UserError, folder_lock, write_text


def notebook_folder() -> Path:
    """Return the folder of the notebooks, beside the package in a checkout.

    The environment variable KSTAR_FACELAB_NOTEBOOKS overrides it, for an installed package.
    """
    named = os.environ.get("KSTAR_FACELAB_NOTEBOOKS")
    folder = Path(named) if named else Path(__file__).resolve().parent.parent / "notebooks"
    if not (folder / f"{NOTEBOOKS[0]}.ipynb").is_file():
        raise UserError(f"no notebooks in {folder}: set KSTAR_FACELAB_NOTEBOOKS to their folder")
    return folder


def run_all(lab: Lab, photo: str | None = None) -> list[dict]:
    """Execute the five notebooks for `lab`, and write copies and HTML to OUT/notebooks.

    One that has run to its end runs again only when it, its parameters or one before it has
    changed. Returns name, notebook, html and seconds of each. Raises UserError with a notebook's
    own error, and before anything runs when the photo shows no face.
    """
    source, out = notebook_folder(), lab.folder("notebooks")
    if photo:
        largest_face(read_photo(photo), name=photo)  # now, not after an hour of training
    lab.prepare_data()
    shared = dict(preset=lab.preset, data_dir=lab.data_dir and str(lab.data.root), seed=lab.seed)
    runs, history = [], hashlib.sha256()
    with folder_lock(out):
        for name in NOTEBOOKS:
            notebook, executed = source / f"{name}.ipynb", out / f"{name}.ipynb"
            takes_photo = photo and name in ("04_lookalike", "05_facemap")
            parameters = shared | (dict(photo=str(Path(photo).resolve())) if takes_photo else {})
            history.update(json.dumps([notebook.read_text("utf-8"), parameters]).encode())
            key = history.hexdigest()  # without run_dir, which may move
            seconds = _finished(executed, key)
            print(f"{name} has run already" if seconds else f"running {name} …")
            if not seconds:
                parameters["run_dir"] = str(lab.run_path)
                seconds = _execute(notebook, executed, parameters, key)
                print(f"{name} done in {seconds:.0f} s")
            paths = dict(notebook=str(executed), html=str(executed.with_suffix(".html")))
            runs.append(dict(name=name, **paths, seconds=seconds))
    return runs


def _finished(executed: Path, key: str) -> float | None:
    """Return the seconds of an earlier run that came to its end, if nothing has changed since."""
    try:
        about = nbformat.read(executed, as_version=4).metadata
        return about["papermill"]["duration"] if about["facelab"] == key else None
    except (OSError, ValueError, KeyError):  # none is there, or an error or a kill has ended it
        return None


class _Kernel(AsyncKernelManager):
    """The kernel of this interpreter, whatever else is installed under the name python3."""

    kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def _execute(source: Path, executed: Path, parameters: dict, key: str) -> float:
    """Execute a notebook, write it and its HTML copy, and return the seconds that it took."""
    how = dict(kernel_name="python3", kernel_manager_class=_Kernel, cwd=source.parent)
    how |= dict(extra_arguments=["--log-level=ERROR"], progress_bar=False, stdout_file=sys.stdout)
    # In a thread, so that signals come here; the kernel gets them, saves and ends its cell.
    idle = 0  # seconds in which an interrupted kernel, which can lose its answer, did nothing
    with ThreadPoolExecutor(1) as thread, StopSignals() as stop:
        work = thread.submit(papermill.execute_notebook, source, executed, parameters, **how)
        while not wait([work], timeout=0.2).done:
            if stop:
                number = signal.SIGINT if idle < 9 else signal.SIGKILL
                idle = 0 if _computes_after(number, work) else idle + 3
    if stop:
        raise Stopped(f"stopped by {stop.name} in {source.stem}: the same command goes on")
    try:
        work.result()
    except DeadKernelError:
        raise UserError(f"the process of {source.stem} has died: was memory short?") from None
    except PapermillExecutionError as error:
        own = error.ename in ("UserError", "Stopped")
        what = error.evalue if own else f"{error.ename}: {error.evalue}"
        where = f"{source.stem} stopped in cell {error.exec_count}"
        raise UserError(f"{where}: {what} (the notebook so far: {executed})") from error
    notebook = nbformat.read(executed, as_version=4)
    page, _ = HTMLExporter(theme="light").from_notebook_node(_with_mathml(notebook))
    write_text(executed.with_suffix(".html"), page)
    notebook.metadata["facelab"] = key
    write_text(executed, nbformat.writes(notebook))
    return notebook.metadata["papermill"]["duration"]


def _computes_after(number: int, work: Future) -> bool:
    """Send the kernel a signal; return whether it computes while `work` has 3 seconds to end."""
    logging.getLogger("papermill").disabled = number == signal.SIGKILL  # it would tell of that
    for child in psutil.Process().children():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.killpg(child.pid, number)  # the kernel alone leads a process group
            before = sum(child.cpu_times()[:2])
            wait([work], timeout=3)
            return sum(child.cpu_times()[:2]) - before > 0.1
    return False


def _with_mathml(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy whose formulas a browser shows without a network, which LaTeX would need."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for pattern, kind in ((r"\$\$(.+?)\$\$", "block"), (r"\$([^$`\n]+)\$", "inline")):
                mathml = partial(_mathml, kind=kind)
                cell.source = re.sub(pattern, mathml, cell.source, flags=re.DOTALL)
    return notebook


def _mathml(formula: re.Match, kind: str) -> str:
    return latex_to_mathml(" ".join(formula[1].split()), display=kind)


def outcome(lab: Lab, runs: list[dict]) -> tuple[dict, str]:
    """Return what the lab came to, from the files that the notebooks wrote, and a short table."""
    evaluation = json.loads(lab.file("evaluate", "summary.json").read_text("utf-8"))
    found = json.loads(lab.file("lookalike", "lookalike.json").read_text("utf-8"))
    page = str(lab.file("facemap", "facemap.html"))
    lines = ["", "EER (95 % interval)     validation list           test list"]
    for stage, label in (("pretrain", "after pretraining"), ("finetune", "after fine-tuning")):
        texts = [
            "{eer:.2f} % ({eer_interval[0]:.2f} to {eer_interval[1]:.2f})".format(**measured)
            for measured in (evaluation[stage]["val"], evaluation[stage]["test"])
        ]
        lines.append(f"  {label:<22}{texts[0]:<26}{texts[1]}")
    lines.append(f"look-alikes of {found['photo']}")
    lines += [f"  {match['similarity']:.3f}  {match['name']}" for match in found["matches"]]
    lines += [f"FaceMap            {page}", f"notebooks, as HTML {lab.folder('notebooks')}"]
    result = dict(run_dir=str(lab.run_path), evaluation=evaluation, lookalike=found, facemap=page)
    return result | dict(notebooks=runs), "\n".join(lines)
