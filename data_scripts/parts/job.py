"""What all scripts of this folder share: flags, one-line errors, a log of left-out files, resume.

Scripts are run as `python data_scripts/NAME.py …` and import what they share from `parts`
(`from parts.job import Job, main, parser`); tests run them as programs, or put `data_scripts` on
`sys.path`. A script looks like this:

    def arguments():
        flags = parser(__doc__)
        flags.add_argument("out", type=Path)
        return flags

    def run(args) -> dict:
        settings = {"size": args.size}
        with Job("script", args.out, settings, dry_run=args.dry_run, log=args.log) as job:
            waiting = [item for item in items if not job.is_done(item)]
            bar = job.progress(len(waiting), unit="images")
            for item in waiting:
                ...                                  # write through job.place or labkit.utils
                job.leave_out("a/1.jpg", "no face")
                job.count("images written")
                job.done(item)                       # now, and only now, all three are remembered
                bar.update()
            return job.summary(more="values")        # main prints it, as text or as JSON

    if __name__ == "__main__":
        sys.exit(main(run, arguments()))

On disk, beside what the script makes:

    OUT/NAME.log.csv            file,reason: all that was left out, by every run so far (or --log)
    OUT/.NAME/settings.json     what the work was begun with; other settings are refused
    OUT/.NAME/journal.jsonl     one line per finished item: [item, counts, left out, note]
    OUT/.NAME/partial/          files being written; emptied at each start

The journal is only ever appended to, one `write` for a line, so its cost per item is flat and a
kill at any moment loses nothing but the items in work. The log is made anew from it at each
start. Hidden names and loose files are no part of a face folder, so OUT can be one.
"""

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout
from hashlib import blake2b
from pathlib import Path

from labkit.utils import (
    UserError,
    atomic_path,
    folder_lock,
    make_folder,
    progress,
    reason,
    write_bytes,
    write_json,
)
from parts.journal import Appended, Finished, cannot_write, csv_text, entries, entry, key_of

STOPPED = "stopped; what is done so far is kept: run the same command to go on"


class _Parser(argparse.ArgumentParser):
    """argparse, with the message for a wrong flag on one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every script: --dry-run, --json and --log FILE."""
    flags = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = flags.add_argument
    add("--dry-run", action="store_true", help="say what would be done; write nothing")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--log", type=Path, metavar="FILE", help="list of what was left out and why (CSV)")
    return flags


def positive(text: str) -> int:
    """The type of a flag that takes 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, found {value}")
    return value


class Job:
    """One script's work on one output folder: locked, logged, resumable.

    Args:
        name: names the log and the journal; usually the script's name.
        out_dir: the output folder, made when missing.
        settings: what decides the result, as JSON values; a second run in the same folder must
            have the same.
        dry_run: nothing is written or locked; what earlier runs did is still known.
        log: where the list of what was left out goes instead of OUT/NAME.log.csv.
        part: for work shared by several processes in one folder (say "3-of-8"): each part has a
            lock, journal (in OUT/.NAME/3-of-8) and log of its own; the settings are common.

    Attributes:
        notes: note of each finished item that has one.

    Entering raises UserError when another run is at work here, when the settings are not those of
    the earlier runs, or when the folder cannot be written.
    """

    def __init__(
        self,
        name: str,
        out_dir: str | Path,
        settings: dict,
        *,
        dry_run: bool = False,
        log: str | Path | None = None,
        part: str | None = None,
    ):
        self.name = f"{name}-{part}" if part else name
        self.out, self.settings, self.dry_run = Path(out_dir), settings, dry_run
        self.log = Path(log) if log else self.out / f"{self.name}.log.csv"
        self._common = self.out / f".{name}"
        self.state = self._common / part if part else self._common
        self.partial = self.state / "partial"
        self.notes: dict[str, object] = {}
        self.earlier = 0
        self._part = part
        self._finished = Finished()
        self._counts, self._reasons = Counter(), Counter()
        self._new_counts, self._new_rows = Counter(), []
        self._stack = ExitStack()
        self._journal = self._log_file = None
        self._bar = None
        self._started = time.monotonic()

    def __enter__(self) -> "Job":
        try:
            if not self.dry_run:
                folder = make_folder(self.state) if self._part else self.out
                self._stack.enter_context(folder_lock(folder))
            self._check_settings()
            self._read_journal()
            if not self.dry_run:
                shutil.rmtree(self.partial, ignore_errors=True)
                make_folder(self.partial)
                write_json(self._common / "settings.json", self.settings)
                self._write_log()
                self._journal = self._stack.enter_context(Appended(self._journal_path))
                self._log_file = self._stack.enter_context(Appended(self.log))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._bar is not None:
            self._bar.close()
        try:
            if kind is None and self._new_rows and self._log_file:
                self._log_file.append(csv_text(self._new_rows))
        finally:
            if not self.dry_run:
                shutil.rmtree(self.partial, ignore_errors=True)
            self._stack.close()

    @property
    def _journal_path(self) -> Path:
        return self.state / "journal.jsonl"

    def _check_settings(self) -> None:
        path = self._common / "settings.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        now = json.loads(json.dumps(self.settings))
        journals = [self._common / "journal.jsonl", *self._common.glob("*/journal.jsonl")]
        begun = any(journal.exists() and journal.stat().st_size for journal in journals)
        different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if begun and different:
            what = "; ".join(
                f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in different
            )
            raise UserError(
                f"{self.out} was begun with other settings ({what}): "
                "use the same ones to go on, or another output folder"
            )

    def _read_journal(self) -> None:
        keys = array("Q")
        for item, counts, rows, note in entries(self._journal_path):
            keys.append(key_of(item))
            self._counts.update(counts)
            self._reasons.update(_kind(why) for _, why in rows)
            if note is not None:
                self.notes[item] = note
        self.earlier = len(keys)
        self._finished = Finished(keys)

    def _write_log(self) -> None:
        with atomic_path(self.log) as beside, open(beside, "w", encoding="utf-8") as file:
            file.write("file,reason\n")
            for _, _, rows, _ in entries(self._journal_path):
                file.write(csv_text(rows))

    def is_done(self, item: str) -> bool:
        """Whether `item` was finished, by this run or an earlier one."""
        return item in self._finished

    def leave_out(self, file: str, why: str) -> None:
        """Note that `file` was left out; the summary counts the part of `why` before `: `."""
        self._new_rows.append((file, why))

    def count(self, key: str, n: int = 1) -> None:
        """Add to a count of the summary."""
        self._new_counts[key] += n

    def done(self, item: str, note: object = None) -> None:
        """Remember `item` as finished, with all that was counted and left out since the last one.

        `note` (JSON) is given back in `notes` by the next run. Raises UserError when the disk is
        full; the item is then as if it had not been begun.
        """
        rows, counts = self._new_rows, self._new_counts
        if self._journal:
            self._journal.append(entry(item, counts, rows, note))
            if rows:
                self._log_file.append(csv_text(rows))
        self._finished.add(item)
        self._counts.update(counts)
        self._reasons.update(_kind(why) for _, why in rows)
        if note is not None:
            self.notes[item] = note
        self._new_rows, self._new_counts = [], Counter()

    def place(self, path: str | Path, data: bytes) -> None:
        """Write a file of the output whole or not at all, leaving nothing else after a kill."""
        place(self.partial, path, data)

    def progress(self, total: int | None = None, *, unit: str = "files"):
        """The bar of this job, with rate and time left; closed with the job."""
        self._bar = progress(total=total, desc=self.name, unit=unit)
        return self._bar

    def summary(self, **more) -> dict:
        """Counts and reasons over all runs so far, for `main` to print."""
        reasons = self._reasons + Counter(_kind(why) for _, why in self._new_rows)
        return {
            "job": self.name,
            "out": str(self.out),
            "dry_run": self.dry_run,
            "counts": dict(self._counts + self._new_counts),
            "left_out": dict(reasons.most_common()),
            "log": None if self.dry_run else str(self.log),
            "finished_earlier": self.earlier,
            "seconds": round(time.monotonic() - self._started, 1),
            **more,
        }


def _kind(why: str) -> str:
    return why.split(": ", 1)[0]


def place(partial: Path, path: str | Path, data: bytes) -> None:
    """`Job.place` for a worker process, which has the job's `partial` folder alone.

    The file is written in `partial` and renamed onto `path`, on the same file system.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = partial / f"{os.getpid()}-{blake2b(bytes(path), digest_size=8).hexdigest()}"
    write_bytes(beside, data)
    try:
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from None


def check_apart(source: str | Path, out: str | Path) -> None:
    """UserError unless both folders lie outside each other."""
    a, b = Path(source).resolve(), Path(out).resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UserError(f"{out} and {source} lie in each other: choose another output folder")


def describe(summary: dict) -> str:
    """A summary as a person reads it."""
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
    run: Callable[[argparse.Namespace], dict],
    flags: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a script and print its summary; the exit code.

    0 when it did what was asked, 2 with one line on stderr for what the user can mend, 130 (143)
    after Ctrl-C (SIGTERM), with everything finished so far kept.
    """
    args = flags.parse_args(arguments)
    if args.json:
        os.environ.setdefault("LABKIT_PROGRESS", "none")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    came: list[int] = []

    def stop(number, _):
        came.append(number)
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            result = run(args)
        print(json.dumps(result, ensure_ascii=False) if args.json else describe(result))
    except UserError as error:
        print(f"{flags.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{flags.prog}: {STOPPED}", file=sys.stderr)
        return 128 + (came or [signal.SIGINT])[0]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "a file of the output"
        print(f"{flags.prog}: {cannot_write(where, error)}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, earlier)
    return 0
