"""Grade the exercises in the notebooks that students handed in.

    python data_scripts/grade.py submissions --out grades

SUBMISSIONS holds one entry for each student: a folder with notebooks, a zip of them, or one
notebook; its name is the student's. Only the answers to exercises are run, not the training, each
in a process of its own, with limits on time and memory, and where the system can without its
network and files. Other cells of the notebook give imports, functions and classes.
Inputs are drawn anew for every grading; what the code returns is judged outside of its process.

    OUT/grades.csv            student,exercise,points,of,message
    OUT/totals.csv            student,points,of
    OUT/thoughts.csv          student,exercise,answer,staff: texts for people to grade
    OUT/problems.csv          student,problem: what could not be read (or --log FILE)
    OUT/feedback/STUDENT.html what the student gets to see

Run it again to take in late submissions: all are graded anew.
"""

import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from joblib import cpu_count

from labkit.cli import positive
from labkit.data import is_litter
from labkit.notebooks import notebook_folder
from labkit.utils import (
    UserError,
    folder_lock,
    printable,
    progress,
    render_page,
    write_csv,
    write_text,
)
from parts.exercises import HandIn, Task, cell_id, read_hand_in, read_tasks
from parts.job import check_apart, main, parser
from parts.names import claim, plain, repaired
from parts.review_page import TEMPLATES
from parts.student_code import run_answer, start_server
from parts.tables import listed, spreadsheet_cell

ROUNDS = 3  # inputs drawn for each exercise, of several cases each
KIT = "Uses what the kit has for this: staff should look"
OPEN = "the system did not let the answers be cut off: they could reach its network and files"


def grade_one(hand_in: HandIn, task: Task, cases: list[dict], limits: dict) -> tuple:
    """Return the points of an answer, a message, and whether it ran apart (None: not at all)."""
    about, code = task.exercise, hand_in.code(task)
    if code is None:
        return 0, "; ".join(hand_in.problems) or "There is no answer to it.", None
    wrong, run = run_answer(about.number, code, cases, limits)
    if wrong is not None:
        return 0, wrong or "Not solved yet.", run.get("apart")
    kit = f"{KIT} ({', '.join(run['kit'])})." if run.get("kit") else ""
    return about.points, printable(kit, 300), run.get("apart")


def run(args) -> dict:
    notebooks = args.notebooks or notebook_folder()
    tasks = read_tasks(notebooks)
    check_apart(args.submissions, args.out)
    try:
        entries = sorted(p for p in args.submissions.iterdir() if not is_litter(p.name))
    except OSError as error:
        raise UserError(f"cannot read {args.submissions}: {error.strerror}") from None
    if not entries:
        raise UserError(f"{args.submissions} is empty: one folder, zip or notebook per student")
    hand_ins = [read_hand_in(path) for path in entries]
    taken: set[str] = set()
    for hand_in in hand_ins:
        name = hand_in.student = printable(listed(repaired(hand_in.student)), 60)
        hand_in.problems = [printable(listed(problem), 200) for problem in hand_in.problems]
        hand_in.page = claim(taken, *[f"{_file(name)}{n}" for n in ("", *range(2, 1000))])
    seeds = [secrets.randbits(60) for _ in range(ROUNDS)]
    cases = {n: [c for s in seeds for c in t.exercise.cases(s)] for n, t in tasks.items()}
    folders = [str(path.resolve()) for path in (args.submissions, args.out, notebooks)]
    limits = dict(seconds=args.seconds, memory=args.memory, hidden=folders)
    start_server()
    work = [(hand_in, number) for hand_in in hand_ins for number in tasks]
    with ThreadPoolExecutor(args.jobs) as threads:
        try:
            found = threads.map(lambda w: grade_one(w[0], tasks[w[1]], cases[w[1]], limits), work)
            found = [*progress(found, total=len(work), desc="grade", unit="answers")]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    graded = {(id(h), n): result for (h, n), result in zip(work, found)}
    problems = [(h.student, problem) for h in hand_ins for problem in h.problems]
    if not args.dry_run:
        with folder_lock(args.out):
            write(args.out, hand_ins, tasks, graded)
            rows = [("student", "problem"), *problems]
            write_csv(
                args.log or args.out / "problems.csv", [map(spreadsheet_cell, r) for r in rows]
            )
    right = sum(points > 0 for points, *_ in graded.values())
    counts = {"submissions": len(hand_ins), "exercises": len(tasks), "answers right": right}
    more = {} if all(apart is not False for *_, apart in graded.values()) else {"caution": OPEN}
    about = {"job": "grade", "out": str(args.out), "dry_run": args.dry_run, "counts": counts}
    left_out = {"could not be read": len(problems)} if problems else {}
    return {**about, "left_out": left_out, "finished_earlier": 0, **more}


def _file(student: str) -> str:
    try:
        return plain(student)
    except ValueError:
        return "student"


def write(out: Path, hand_ins: list[HandIn], tasks: dict[str, Task], graded: dict) -> None:
    """Write the tables and a page for each student."""
    most = sum(task.exercise.points for task in tasks.values())
    grades, totals = [("student", "exercise", "points", "of", "message")], []
    thoughts = [("student", "exercise", "answer", "staff")]
    for hand_in in hand_ins:
        rows, name = [], spreadsheet_cell(hand_in.student)
        for number, task in tasks.items():
            points, message, _ = graded[id(hand_in), number]
            about = task.exercise
            grades.append((name, number, points, about.points, spreadsheet_cell(message)))
            text = hand_in.text(cell_id("thoughts", number))
            thoughts.append((name, number, spreadsheet_cell(text), spreadsheet_cell(task.thoughts)))
            code = hand_in.text(cell_id("answer", number))
            rows.append(dict(about=about, points=points, message=message, code=code, text=text))
        total = sum(row["points"] for row in rows)
        totals.append((name, total, most))
        values = dict(title=f"Exercises of {hand_in.student}", total=total, most=most, rows=rows)
        page = render_page(TEMPLATES / "feedback.html", problems=hand_in.problems, **values)
        write_text(out / "feedback" / f"{hand_in.page}.html", page)
    write_csv(out / "grades.csv", grades)
    write_csv(out / "totals.csv", [("student", "points", "of"), *totals])
    write_csv(out / "thoughts.csv", thoughts)


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("submissions", type=Path, help="a folder with an entry for each student")
    add("--out", required=True, type=Path, metavar="DIR", help="where the grades go")
    add("--notebooks", type=Path, metavar="DIR", help="the staff's notebooks (those of the kit)")
    add("--jobs", type=positive, default=cpu_count(), metavar="N", help="at a time (all cores)")
    add("--seconds", type=float, default=20, metavar="S", help="for an answer (20)")
    add("--memory", type=float, default=2, metavar="GIB", help="for an answer (2)")
    return flags


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(run, arguments()))
