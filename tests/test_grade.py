"""Handing out and grading: gaps without solutions, honest points for honest and hostile answers."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from script_runs import table

from labkit.exercises import EXERCISES
from labkit.notebooks import NOTEBOOKS, notebook_folder
from labkit.utils import UserError

import grade  # isort: skip
import release  # isort: skip

DEF = "def chance_of_one_this_close(p, n):\n    "
RIGHT = "return 1 - (1 - p) ** n"
# What students put into the gap of exercise 4.2, and what their feedback says.
HOSTILE = {
    "loops": ("while True: pass", "took longer than 6 seconds"),
    "eats": ("return sum(bytearray(10**9)[0] for _ in iter(lambda: x.append(bytearray(10**9)), 1))"
             .replace("return", "x = []\n    return"), "MemoryError"),
    "leaves": ("import os; os._exit(0)", "ended the process"),
    "prints": (f"print('x' * 10**8, flush=True)\n    {RIGHT}", ""),
    "patches": ("import labkit.exercises as e; e.check = e.core.judged = lambda *a, **k: None\n"
                "    import numpy; numpy.allclose = lambda *a, **k: True\n    return 5.0", "it is"),
    "forks": ("import os\n    for _ in range(9): os.fork()\n    return 0", ""),
    "writes": ("open('x', 'wb').write(bytes(10**9)); return 0", ""),
    "calls": ("import socket; socket.create_connection(('1.1.1.1', 53), 2); return 0", "Error"),
    "huge": ("return 'x' * 10**8", ""),
    "deep": ("x = []\n    for _ in range(10**5): x = [x]\n    return x", ""),
    "script": ("raise ValueError('<script>alert(1)</script>')", "<script>"),
    "nan": ("return float('nan')", "NaN"),
    "surrogate": (r"raise ValueError('\ud800')", "ValueError"),
    "garbage": ("import os\n    for n in range(3, 99):\n"
                "        try: os.write(n, b'\\0\\0\\x10\\0')\n        except OSError: pass\n"
                "    while True: pass", ""),
    "numbers": ("import sys; sys.modules['parts.answer'].outcome = "
                "lambda *a: {'output': {'chance': 10**400, 'value': 10**400}}", ""),
    "deletes": ("import pathlib\n    for x in pathlib.Path(VICTIM).iterdir(): x.unlink()", "Error"),
}  # fmt: skip
# What honest students have in the cell, or in another one: full points.
HONEST = {
    "magic": f"{DEF}{RIGHT}\n%timeit chance_of_one_this_close(0.1, 5)\n",
    "shows": f"{DEF}{RIGHT}\nprint(chance_of_one_this_close(percentile_of_mine, 5))\n",
    "exits": f"{DEF}{RIGHT}\nimport sys; sys.exit(0)\n",
    "helped": f"{DEF}return 1 - own_power(1 - p, n)\n",
    "imported": f"{DEF}return 1 - exp(n * log(1 - p)) if p < 1 else 1.0\n",
}
ELSEWHERE = "from math import exp, log\ndef own_power(x, n):\n    return x**n\nundefined.stops()\n"


def notebooks(folder: Path, name: str = "", cell: str = "") -> Path:
    """The staff's notebooks as a student's; with a name that one alone, with a cell for 4.2."""
    folder.mkdir(parents=True)
    for file in [f"{name}.ipynb"] if name else [f"{n}.ipynb" for n in NOTEBOOKS]:
        notebook = nbformat.read(notebook_folder() / file, as_version=4)
        if cell:
            next(c for c in notebook.cells if c.id == "answer-4-2").source = cell
            notebook.cells.insert(0, nbformat.v4.new_code_cell(ELSEWHERE))
        nbformat.write(notebook, folder / file)
    return folder


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Path:
    """Submissions, graded: right, empty, wrong, hostile, and files that are no notebooks."""
    root = tmp_path_factory.mktemp("grade")
    submissions = root / "submissions"
    notebooks(submissions / "right")
    run(release, root / "student")
    shutil.copytree(root / "student", submissions / "empty")
    with zipfile.ZipFile(submissions / "zipped.zip", "w") as archive:
        archive.write(notebooks(root / "z", "04_lookalike") / "04_lookalike.ipynb", "a/b.ipynb")
    (root / "victim").mkdir()
    (root / "victim" / "a").write_text("staff's")
    written = {name: DEF + gap for name, (gap, _) in HOSTILE.items()} | HONEST
    written |= {
        "wrong": f"{DEF}return 1 - p",
        "kit": f"{DEF}from labkit import metrics\n    {RIGHT}",
    }
    for name, cell in written.items():
        cell = cell.replace("VICTIM", repr(str(root / "victim")))
        notebooks(submissions / name, "04_lookalike", cell)
    (submissions / "text.ipynb").write_text("no notebook")
    (submissions / "=cmd|calc.ipynb").write_text(json.dumps({"cells": [{"source": 5}]}))
    os.mkfifo(submissions / "pipe.ipynb")
    os.symlink("/etc/passwd", submissions / "link.ipynb")
    told = run(grade, submissions, "--out", root / "out", "--seconds", "6", "--memory", "1")
    (root / "told.json").write_text(json.dumps(told))
    return root


def run(script, *flags) -> dict:
    return script.run(script.arguments().parse_args([str(flag) for flag in flags]))


def points(graded: Path) -> dict:
    rows = table(graded / "out" / "grades.csv")
    return {(row["student"], row["exercise"]): (int(row["points"]), row["message"]) for row in rows}


def test_right_answers_score_in_full_and_the_released_gaps_score_nothing(graded):
    totals = {row["student"]: row for row in table(graded / "out" / "totals.csv")}
    most = str(sum(about.points for about in EXERCISES.values()))
    assert totals["right"] == dict(student="right", points=most, of=most)
    found = points(graded)
    assert {found["empty", number] for number in EXERCISES} == {(0, "Not solved yet.")}
    for student in ("zipped", "kit"):
        assert found[student, "4.2"][0] == EXERCISES["4.2"].points
    assert "staff should look" in found["kit", "4.2"][1] and not found["right", "4.2"][1]
    assert "percentile" in found["wrong", "4.2"][1] and found["wrong", "4.2"][0] == 0
    thoughts = table(graded / "out" / "thoughts.csv")
    assert sum(row["student"] == "right" for row in thoughts) == len(EXERCISES)


@pytest.mark.parametrize("student", HOSTILE)
def test_a_hostile_notebook_gets_its_honest_points_and_a_line(graded, student):
    found = points(graded)
    right, message = found[student, "4.2"]
    assert right == (EXERCISES["4.2"].points if student == "prints" else 0)
    assert HOSTILE[student][1] in message and "\n" not in message and len(message) < 700
    assert found[student, "4.1"] == (EXERCISES["4.1"].points, "")  # the one before it is right
    page = (graded / "out" / "feedback" / f"{student}.html").read_text(encoding="utf-8")
    assert "<script>" not in page and f"Exercises of {student}" in page


@pytest.mark.parametrize("student", HONEST)
def test_what_stands_around_an_answer_takes_no_points(graded, student):
    assert points(graded)[student, "4.2"] == (EXERCISES["4.2"].points, "")


def test_answers_cannot_touch_the_staffs_files_or_the_caution_says_so(graded):
    if "caution" not in json.loads((graded / "told.json").read_text()):
        assert (graded / "victim" / "a").read_text() == "staff's"


def test_what_is_no_notebook_is_told_and_nothing_else_is_read(graded):
    found = points(graded)
    for student, told in (
        ("text", "is no notebook"),
        ("'=cmd|calc", "is no notebook"),
        ("pipe", "a link or special file"),
        ("link", "a link or special file"),
    ):
        assert told in found[student, "1.1"][1]
    assert "root:" not in (graded / "out" / "grades.csv").read_text()
    named = [row["student"] for row in table(graded / "out" / "problems.csv")]
    assert sorted(named) == ["'=cmd|calc", "link", "pipe", "text"]


def test_the_students_version_has_checks_and_hints_and_no_solution(graded, tmp_path):
    for name in NOTEBOOKS:
        staff, student = (
            nbformat.read(folder / f"{name}.ipynb", as_version=4)
            for folder in (notebook_folder(), graded / "student")
        )
        nbformat.validate(student)
        cells = {cell.id: cell for cell in student.cells}
        assert [*cells] == [cell.id for cell in staff.cells]
        text = (graded / "student" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert not any(word in text for word in ("SOLUTION", "HIDDEN", "seed=7"))
        for cell in staff.cells:
            about, released = cell.metadata.get("nbgrader", {}), cells[cell.id]
            if cell.id.startswith("answer-"):
                assert "raise NotImplementedError()" in released.source
                assert not released.metadata["nbgrader"]["locked"]
            elif cell.id.startswith("thoughts-"):
                assert released.source == "YOUR ANSWER HERE" and about["points"] >= 1
            elif cell.id.startswith("check-"):
                assert released.source == cell.source.split("\n### BEGIN HIDDEN")[0]
            else:
                assert released.source == cell.source


def test_a_students_work_is_not_written_over(graded):
    run(release, graded / "student")  # nothing has changed
    path = graded / "student" / "01_pretrain.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("YOUR CODE", "MY CODE"), "utf-8")
    with pytest.raises(UserError, match="01_pretrain.ipynb in .* changed since it was released"):
        run(release, graded / "student")
    assert "MY CODE" in path.read_text(encoding="utf-8")


def test_folders_without_submissions_or_exercises_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: one folder, zip or notebook per student"):
        run(grade, tmp_path / "empty", "--out", tmp_path / "out")
    with pytest.raises(UserError, match="no notebook with exercises"):
        run(grade, tmp_path, "--out", tmp_path / "out", "--notebooks", tmp_path / "empty")
