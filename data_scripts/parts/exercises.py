"""The exercises in the staff's notebooks and in those that students hand in."""

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from labkit.exercises import EXERCISES, Exercise
from labkit.notebooks import NOTEBOOKS
from labkit.utils import UserError, reason
from parts.zips import Limits, Refused, Zips

MAX_NOTEBOOK = 20_000_000  # bytes
LIMITS = Limits(1000, MAX_NOTEBOOK, 10 * MAX_NOTEBOOK, 200)
KIT_WORDS = r"labkit|AMSoftmax|AngularPrototypical|Triplet|metrics\.eer|faithfulness|top_k|LOSSES"


@dataclass
class Task:
    """An exercise as the staff's notebook asks for it."""

    exercise: Exercise
    names: list[str]  # of the functions that the check is given
    solution: str  # the staff's code
    thoughts: str  # the staff's answer to the question
    before: list[str]  # ids of the answer cells before it in its notebook


@dataclass
class HandIn:
    """What a student has written, by the ids of the cells."""

    student: str
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def cell_id(part: str, number: str) -> str:
    """Return the id of a cell of an exercise: `answer-1-2`."""
    return f"{part}-{number.replace('.', '-')}"


def read_tasks(folder: Path) -> dict[str, Task]:
    """Return the exercises by number, from the staff's notebooks in a folder."""
    tasks = {}
    for path in sorted(folder.glob("*.ipynb")):
        cells = _cells(path.read_bytes())
        answers = [name for name in cells if name.startswith("answer-")]
        for number, about in EXERCISES.items():
            if (check := cells.get(cell_id("check", number))) is None:
                continue
            given = re.search(rf'check\("{re.escape(number)}", ([\w, ]+)\)', check)[1].split(", ")
            own = cell_id("answer", number)
            thoughts = cells.get(cell_id("thoughts", number), "")
            before = answers[: answers.index(own)]
            tasks[number] = Task(about, given, cells[own], thoughts, before)
    if not tasks:
        raise UserError(f"{folder} holds no notebook with exercises, such as {NOTEBOOKS[0]}.ipynb")
    return dict(sorted(tasks.items()))


def read_hand_in(path: Path) -> HandIn:
    """Return what a student's notebook, folder or zip of notebooks holds; never run any of it."""
    hand_in = HandIn(path.name if path.is_dir() else path.stem)
    try:
        for name, data in _notebooks(path):
            try:
                hand_in.cells |= _cells(data)
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                hand_in.problems.append(f"{name} is no notebook")
    except OSError as error:
        hand_in.problems.append(f"cannot be read: {reason(error)}")
    except Refused as error:
        hand_in.problems.append(str(error))
    if not hand_in.cells and not hand_in.problems:
        hand_in.problems.append("holds no exercises")
    return hand_in


def uses_kit(code: str, task: Task) -> bool:
    """Return whether an answer calls what the kit has for it, where the staff's own does not."""
    own, staff = (set(re.findall(KIT_WORDS, text)) for text in (code, task.solution))
    return bool(own - staff)


def _notebooks(path: Path):
    """Yield (name, bytes) of the notebooks at a path; links, pipes and large files are left out."""
    if path.is_file() and not path.is_symlink() and path.suffix.lower() == ".zip":
        with Zips(path, LIMITS) as archive:
            for entry in archive.entries:
                if entry.ends_with(".ipynb"):
                    yield entry.name, archive.read(entry)
        return
    for file in sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]:
        about = os.lstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{file.name} is a link or special file")
        if about.st_size > MAX_NOTEBOOK:
            raise Refused(f"{file.name} is larger than {MAX_NOTEBOOK / 1e6:.0f} MB")
        if ".ipynb_checkpoints" not in file.parts:
            yield file.name, file.read_bytes()


def _cells(data: bytes) -> dict[str, str]:
    """Return the sources of a notebook's exercise cells by nbgrader's id."""
    found = {}
    for cell in json.loads(data)["cells"]:
        name = cell.get("metadata", {}).get("nbgrader", {}).get("grade_id")
        if isinstance(name, str):
            found[name] = "".join(cell["source"])
    return found
