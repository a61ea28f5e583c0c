"""Make the students' version of the notebooks: gaps, checks and hints, without the solutions.

    python data_scripts/release.py student

By nbgrader's own steps, so that its autograder knows the cells again. A notebook in OUT that a
student has changed since is not written over.
"""

import hashlib
import json
import logging
import sys
from pathlib import Path

import nbformat

from labkit.notebooks import NOTEBOOKS, notebook_folder
from labkit.utils import UserError, folder_lock, sha256, write_json, write_text
from parts.job import check_apart, main, parser

RECORD = ".release.json"  # of what was written, to know a student's changes


def student_version(path: Path) -> str:
    """Return a staff notebook without solutions, hidden tests and outputs, as JSON."""
    try:
        from nbgrader import preprocessors as steps
    except ImportError:
        raise UserError("nbgrader is needed: pip install -e '.[course]'") from None
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    notebook = nbformat.read(path, as_version=4)
    for step in (
        steps.LockCells, steps.ClearSolutions, steps.ClearOutput, steps.ComputeChecksums,
        steps.ClearHiddenTests, steps.ComputeChecksums,
    ):  # fmt: skip
        notebook, _ = step().preprocess(notebook, {})
    return nbformat.writes(notebook)


def run(args) -> dict:
    source = args.notebooks or notebook_folder()
    check_apart(source, args.out)
    texts = {f"{name}.ipynb": student_version(source / f"{name}.ipynb") for name in NOTEBOOKS}
    record = args.out / RECORD
    written = json.loads(record.read_text("utf-8")) if record.exists() else {}
    changed = [
        n for n in texts if (args.out / n).exists() and sha256(args.out / n) != written.get(n)
    ]
    if changed:
        what = f"{', '.join(changed)} in {args.out} changed since it was released"
        raise UserError(f"{what}: choose another folder, or move it away")
    if not args.dry_run:
        with folder_lock(args.out):
            for name, text in texts.items():
                write_text(args.out / name, text)
            digests = {n: hashlib.sha256(text.encode()).hexdigest() for n, text in texts.items()}
            write_json(record, digests)
    counts = {"notebooks": len(texts)}
    about = {"job": "release", "out": str(args.out), "dry_run": args.dry_run, "counts": counts}
    return {**about, "left_out": {}, "finished_earlier": 0}


def arguments():
    flags = parser(__doc__)
    flags.add_argument("out", type=Path, help="folder for the students' notebooks")
    flags.add_argument(
        "--notebooks", type=Path, metavar="DIR", help="the staff's, if not the kit's"
    )
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
