"""The exercises in the staff's notebooks and in those that students hand in."""

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labkit.exercises import EXERCISES, Exercise
from labkit.notebooks import NOTEBOOKS
from labkit.utils import UserError, reason
from parts.answer import Code
from parts.zips import Limits, Refused, Zips

MAX_NOTEBOOK = 100_000_000  # bytes
LIMITS = Limits(1000, MAX_NOTEBOOK, 4 * MAX_NOTEBOOK, 200)
GAP = "raise NotImplementedError()"


@dataclass
class Task:
    """An exercise as the staff's notebook asks for it."""

    exercise: Exercise
    names: list[str]  # of the functions that the check is given
    solution: str  # the staff's code
    thoughts: str  # the staff's answer to the question


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook: its id for nbgrader, or "", and its text."""

    name: str
    source: str
    is_code: bool


@dataclass
class HandIn:
    """What a student has written: the cells of each notebook, the kit's file names first."""

    student: str
    notebooks: list[list[Cell]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        """Return the text of a cell, or "" when no notebook has it."""
        return self._find(name)[0]

    def code(self, task: Task) -> Code | None:
        """Return the answer to an exercise with what is around it; None when there is none."""
        name = cell_id("answer", task.exercise.number)
        own, cells = self._find(name)
        others = [c for c in cells if c.is_code and c.name != name]
        around = [(c.source, c.name.startswith("answer-")) for c in others]
        return Code(own, task.names, task.solution, around) if cells else None

    def _find(self, name: str) -> tuple[str, list[Cell]]:
        found = [(text, cells) for cells in self.notebooks if (text := _joined(cells, name))]
        return min(found, key=lambda one: GAP in one[0], default=("", []))  # the first, filled in


def cell_id(part: str, number: str) -> str:
    """Return the id of a cell of an exercise: `answer-1-2`."""
    return f"{part}-{number.replace('.', '-')}"


def read_tasks(folder: Path) -> dict[str, Task]:
    """Return the exercises by number, from the staff's notebooks in a folder."""
    tasks = {}
    for path in sorted(folder.glob("*.ipynb")):
        cells = _cells(path.read_bytes())
        for number, about in EXERCISES.items():
            if not (check := _joined(cells, cell_id("check", number))):
                continue
            given = re.search(rf'check\("{re.escape(number)}", ([\w, ]+)\)', check)[1].split(", ")
            parts = (_joined(cells, cell_id(part, number)) for part in ("answer", "thoughts"))
            tasks[number] = Task(about, given, *parts)
    if not tasks:
        raise UserError(f"{folder} holds no notebook with exercises, such as {NOTEBOOKS[0]}.ipynb")
    return dict(sorted(tasks.items()))


def read_hand_in(path: Path) -> HandIn:
    """Return what a student's notebook, folder or zip of notebooks holds; never run any of it."""
    hand_in = HandIn(path.name if path.is_dir() else path.stem)
    found = []
    for name, read in _notebooks(path, hand_in.problems):
        try:
            found.append((Path(name), _cells(read())))
        except Refused as error:
            hand_in.problems.append(f"{name}: {error}")
        except OSError as error:
            hand_in.problems.append(f"{name} cannot be read: {reason(error)}")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            hand_in.problems.append(f"{name} is no notebook")
    found.sort(key=lambda one: (one[0].stem not in NOTEBOOKS, len(one[0].parts), one[0]))
    hand_in.notebooks = [cells for _, cells in found if any(cell.name for cell in cells)]
    if not hand_in.notebooks and not hand_in.problems:
        hand_in.problems.append("holds no exercises")
    return hand_in


def _notebooks(path: Path, problems: list[str]) -> Iterator[tuple[str, object]]:
    """Yield the name of each notebook at a path, and a function that reads it."""
    if path.is_file() and not path.is_symlink() and path.suffix.lower() == ".zip":
        try:
            with Zips(path, LIMITS) as archive:
                entries = [entry for entry in archive.entries if entry.ends_with(".ipynb")]
                problems += [f"{name}: {why}" for name, why in archive.refused]
                for entry in entries:
                    yield entry.name, lambda entry=entry: archive.read(entry)
        except Refused as error:
            problems.append(str(error))
        return
    inside = path.is_dir() and not path.is_symlink()
    for file in sorted(path.rglob("*.ipynb")) if inside else [path]:
        if ".ipynb_checkpoints" not in file.parts:
            yield str(file.relative_to(path)) if inside else path.name, lambda f=file: _bytes(f)


def _bytes(file: Path) -> bytes:
    about = os.lstat(file)
    if not stat.S_ISREG(about.st_mode):
        raise Refused("a link or special file")
    if about.st_size > MAX_NOTEBOOK:
        raise Refused(f"larger than {MAX_NOTEBOOK / 1e6:.0f} MB")
    return file.read_bytes()


def _cells(data: bytes) -> list[Cell]:
    found = []
    for cell in json.loads(data)["cells"]:
        name = cell.get("metadata", {}).get("nbgrader", {}).get("grade_id")
        source = "".join(cell["source"]).encode("utf-8", "replace").decode()
        found.append(
            Cell(name if isinstance(name, str) else "", source, cell["cell_type"] == "code")
        )
    return found


def _joined(cells: list[Cell], name: str) -> str:
    """Return the text of a cell; Jupyter gives both halves of one that is split the same id."""
    return "\n\n".join(cell.source for cell in cells if cell.name == name)
