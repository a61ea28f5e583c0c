"""What all scripts share: flags, one-line errors, a lock, a log of left-out files, a summary.

Each script has `arguments()`, which returns its parser, and `run(args)`, which works within a
`with Job(…) as job:` block and returns `job.summary()`, for `main` to print.

A script that is started again skips what is there already. Beside its results it keeps

    OUT/NAME.log.csv            file,reason: all that was left out (or --log FILE)
    OUT/.NAME/settings.json     the settings that decide the result; others are refused
"""

import argparse
import csv
import errno
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout
from pathlib import Path

from labkit.cli import Parser
from labkit.utils import UserError, folder_lock, progress, reason, write_csv, write_json
from parts.tables import cell_text, listed, spreadsheet_cell

STOPPED = "stopped; what is done so far is kept: run the same command to go on"


def parser(description: str) -> Parser:
    """Return a parser with the flags of every script: --dry-run, --json and --log FILE."""
    flags = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = flags.add_argument
    add("--dry-run", action="store_true", help="say what would be done; write nothing")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--log", type=Path, metavar="FILE", help="list of what was left out and why (CSV)")
    return flags


class Job:
    """One script's work on one output folder: locked, with a log and a summary.

    settings: what decides the result, as JSON values; a second run in the same folder must have
        the same.
    dry_run: nothing is written or locked.
    log: where the list of what was left out goes instead of OUT/NAME.log.csv.
    part: for work shared by several processes in one folder (say "3-of-8"): each part has a lock
        and a log of its own; the settings are common.
    keep: which rows of an earlier run's log stay, by their file's name; none by default.

    `earlier` is how many results were there already; the script counts them. Entering raises
    UserError when another run is at work here, when the settings are not those of the earlier
    runs, or when the folder cannot be written.
    """

    def __init__(
        self,
        name: str,
        out_dir: str | Path,
        settings: dict | None = None,
        *,
        dry_run: bool = False,
        log: str | Path | None = None,
        part: str | None = None,
        keep: Callable[[str], bool] = lambda file: False,
    ):
        self.name = f"{name}-{part}" if part else name
        self.out, self.settings, self.dry_run = Path(out_dir), settings or {}, dry_run
        self.log = Path(log) if log else self.out / f"{self.name}.log.csv"
        self.state = self.out / f".{name}"
        self.earlier = 0
        self.known: dict[str, str] = {}
        self._locked = self.state / part if part else self.out
        self._keep = keep
        self._counts, self._reasons = Counter(), Counter()
        self._stack, self._log_file = ExitStack(), None
        self._started = time.monotonic()

    def __enter__(self) -> "Job":
        with ExitStack() as stack:
            if not self.dry_run:
                stack.enter_context(folder_lock(self._locked))
            self._check_settings()
            self._read_log()
            if not self.dry_run:
                write_json(self.state / "settings.json", self.settings)
                write_csv(self.log, [("file", "reason"), *self.known.items()])
                log = open(self.log, "a", newline="", encoding="utf-8")
                self._log_file = stack.enter_context(log)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def _check_settings(self) -> None:
        try:
            before = json.loads((self.state / "settings.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        now = json.loads(json.dumps(self.settings))
        different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        what = "; ".join(f"{k} was {before.get(k)!r}, now {now.get(k)!r}" for k in different)
        if different:
            raise UserError(f"{self.out} has other settings ({what}): use those, or another folder")

    def _read_log(self) -> None:
        try:
            with open(self.log, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
        except (OSError, ValueError, csv.Error):
            return
        # A kill may have cut the last row off; its file is then looked at again.
        rows = [row for row in rows if len(row) == 2 and self._keep(cell_text(row[0]))]
        self.known = dict(rows)
        self._reasons.update(_kind(why) for why in self.known.values())

    def leave_out(self, file: str, why: str) -> None:
        """Log that `file` was left out; the summary counts the part of `why` before `: `."""
        file, why = spreadsheet_cell(listed(file)), spreadsheet_cell(listed(why))
        if file in self.known:
            return
        self._reasons[_kind(why)] += 1
        if self._log_file:
            csv.writer(self._log_file, lineterminator="\n").writerow((file, why))
            self._log_file.flush()

    def was_left_out(self, file: str) -> bool:
        """Return whether an earlier run has left `file` out."""
        return spreadsheet_cell(listed(file)) in self.known

    def count(self, key: str, n: int = 1) -> None:
        """Add to a count of the summary."""
        self._counts[key] += n

    def progress(self, iterable=None, *, total: int | None = None, unit: str = "files"):
        """Return a bar with rate and time left; closed with the job."""
        bar = progress(iterable, total=total, desc=self.name, unit=unit)
        self._stack.callback(bar.close)
        return bar

    def summary(self, **more) -> dict:
        """Return counts and reasons for `main` to print."""
        return {
            "job": self.name,
            "out": str(self.out),
            "dry_run": self.dry_run,
            "counts": dict(self._counts),
            "left_out": dict(self._reasons.most_common()),
            "log": None if self.dry_run else str(self.log),
            "finished_earlier": self.earlier,
            "seconds": round(time.monotonic() - self._started, 1),
            **more,
        }


def _kind(why: str) -> str:
    return why.split(": ", 1)[0]


def check_apart(source: str | Path, out: str | Path) -> None:
    """Raise UserError unless both folders lie outside each other."""
    a, b = Path(source).resolve(), Path(out).resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UserError(f"{out} and {source} lie in each other: choose another output folder")


def describe(summary: dict) -> str:
    """Return a summary as a person reads it."""
    lines = [f"{summary['job']}: {summary['out']}"]
    if summary["dry_run"]:
        lines[0] += " (dry run: nothing was written)"
    lines += [f"  {key:32s} {value:>12,}" for key, value in summary["counts"].items()]
    if summary["finished_earlier"]:
        lines.append(f"  {'(finished by earlier runs)':32s} {summary['finished_earlier']:>12,}")
    if summary["left_out"]:
        lines.append(f"  left out: {sum(summary['left_out'].values()):,}")
        lines += [f"    {key:30s} {value:>12,}" for key, value in summary["left_out"].items()]
    known = {"job", "out", "dry_run", "counts", "left_out", "finished_earlier"}
    lines += [
        f"  {key.replace('_', ' '):32s} {value}"
        for key, value in summary.items()
        if key not in known and value not in (None, [], {})
    ]
    return "\n".join(lines)


def main(
    run: Callable[[argparse.Namespace], dict], flags: Parser, arguments: Sequence[str] | None = None
) -> int:
    """Run a script, print its summary and return the exit code.

    2, with one line on stderr, for what the user can mend; 130 after Ctrl-C or SIGTERM.
    """
    args = flags.parse_args(arguments)
    if args.json:
        os.environ.setdefault("LABKIT_PROGRESS", "none")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            result = run(args)
        print(json.dumps(result, ensure_ascii=False) if args.json else describe(result))
    except UserError as error:
        print(f"{flags.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{flags.prog}: {STOPPED}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = f"cannot write {error.filename or 'a file'}: {reason(error)}; free some space"
        print(f"{flags.prog}: {what} and run it again", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, earlier)
    return 0
