"""Grade the exercises in the notebooks that students handed in.

    python data_scripts/grade.py submissions --out grades

SUBMISSIONS holds one entry for each student: a folder with notebooks, a zip of them, or one
notebook; its name is the student's. Only the answers to exercises are run, not the training, each
in a process of its own, with limits on time and memory, without the network where the system can.
Inputs are drawn anew for every grading; what the code returns is judged outside of its process.

    OUT/grades.csv            student,exercise,points,of,message
    OUT/totals.csv            student,points,of
    OUT/thoughts.csv          student,exercise,answer,staff: texts for people to grade
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
from labkit.utils import UserError, folder_lock, printable, render_page, write_csv, write_text
from parts.exercises import HandIn, Task, cell_id, read_hand_in, read_tasks, uses_kit
from parts.job import check_apart, main, parser
from parts.names import claim, plain, repaired
from parts.review_page import TEMPLATES
from parts.student_code import run_answer, start_server
from parts.tables import listed, spreadsheet_cell

ROUNDS = 3  # inputs drawn for each exercise, of several cases each
KIT = "Uses what the kit has for this: staff should look."


def grade_one(
    hand_in: HandIn, task: Task, cases: list[dict], limits: dict
) -> tuple[int, str, bool]:
    """Return the points of an answer, a message, and whether its process had a network."""
    about = task.exercise
    code = hand_in.cells.get(cell_id("answer", about.number))
    if code is None:
        return 0, "There is no answer to it.", False
    earlier = [hand_in.cells[name] for name in task.before if name in hand_in.cells]
    wrong, network = run_answer(about.number, task.names, code, earlier, cases, limits)
    if wrong is not None:
        return 0, wrong or "Not solved yet.", network
    return about.points, KIT if uses_kit(code, task) else "", network


def run(args) -> dict:
    tasks = read_tasks(args.notebooks or notebook_folder())
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
        hand_in.page = claim(taken, *[f"{_file(name)}{n}" for n in ("", *range(2, 1000))])
    seeds = [secrets.randbits(60) for _ in range(ROUNDS)]
    cases = {n: [c for s in seeds for c in t.exercise.cases(s)] for n, t in tasks.items()}
    limits = dict(seconds=args.seconds, memory=args.memory)
    start_server()
    work = [(hand_in, number) for hand_in in hand_ins for number in tasks]
    with ThreadPoolExecutor(args.jobs) as threads:
        found = threads.map(lambda w: grade_one(w[0], tasks[w[1]], cases[w[1]], limits), work)
        graded = dict(zip([(id(h), n) for h, n in work], found))
    summary = {"job": "grade", "out": str(args.out), "dry_run": args.dry_run, "left_out": {}}
    counts = {"submissions": len(hand_ins), "exercises": len(tasks)}
    counts["answers right"] = sum(points > 0 for points, *_ in graded.values())
    more = {"network": "answers could reach the network"} if _any_network(graded) else {}
    if not args.dry_run:
        with folder_lock(args.out):
            write(args.out, hand_ins, tasks, graded)
    return {**summary, "counts": counts, "finished_earlier": 0, **more}


def _any_network(graded: dict) -> bool:
    return any(network for *_, network in graded.values())


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
            if hand_in.problems and cell_id("answer", number) not in hand_in.cells:
                message = "; ".join(hand_in.problems)
            grades.append((name, number, points, about.points, spreadsheet_cell(message)))
            text = hand_in.cells.get(cell_id("thoughts", number), "")
            thoughts.append((name, number, spreadsheet_cell(text), spreadsheet_cell(task.thoughts)))
            code = hand_in.cells.get(cell_id("answer", number), "")
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
