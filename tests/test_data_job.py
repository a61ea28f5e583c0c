"""What every data script rests on: journal, log, lock, exit codes, processes that die."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from script_runs import SCRIPTS

from labkit.utils import UserError

from parts import journal  # isort: skip
from parts.job import Job, check_apart, describe, main, parser  # isort: skip
from parts.pool import Died, share  # isort: skip


def rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def items(job: Job, names: str) -> None:
    for name in names:
        if not job.is_done(name):
            job.count("seen")
            job.leave_out(f"{name}.jpg", f"no face: in {name}")
            job.done(name, {"of": name})


def test_the_next_run_knows_items_counts_reasons_and_notes(tmp_path):
    with Job("x", tmp_path, {"size": 1}) as job:
        items(job, "ab")
        job.count("seen")  # of an item that is never done
    with Job("x", tmp_path, {"size": 1}) as job:
        assert job.is_done("a") and not job.is_done("c")
        assert job.notes == {"a": {"of": "a"}, "b": {"of": "b"}}
        items(job, "abc")
        summary = job.summary(more=3)
    assert summary["counts"] == {"seen": 3} and summary["left_out"] == {"no face": 3}
    assert summary["finished_earlier"] == 2 and summary["more"] == 3
    assert rows(tmp_path / "x.log.csv") == [
        ["file", "reason"],
        *([f"{name}.jpg", f"no face: in {name}"] for name in "abc"),
    ]


def test_a_line_cut_off_by_a_kill_is_done_again(tmp_path):
    with Job("x", tmp_path, {}) as job:
        items(job, "ab")
    path = tmp_path / ".x" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with Job("x", tmp_path, {}) as job:
        assert job.is_done("a") and not job.is_done("b")
        items(job, "abc")
    with Job("x", tmp_path, {}) as job:
        assert job.summary()["counts"] == {"seen": 3}
    assert len(rows(tmp_path / "x.log.csv")) == 4


def test_a_damaged_line_is_named(tmp_path):
    with Job("x", tmp_path, {}) as job:
        items(job, "ab")
    path = tmp_path / ".x" / "journal.jsonl"
    path.write_text(path.read_text().replace('["b"', '["b'))
    with pytest.raises(UserError, match="line 2 of .*journal.jsonl is damaged"):
        Job("x", tmp_path, {}).__enter__()


def test_other_settings_are_refused_once_something_is_done(tmp_path):
    with Job("x", tmp_path, {"size": 1, "a": [1]}):
        pass
    with Job("x", tmp_path, {"size": 2, "a": (1,)}) as job:
        items(job, "a")
    with pytest.raises(UserError, match="size was 2, now 3"):
        Job("x", tmp_path, {"size": 3, "a": [1]}).__enter__()
    with pytest.raises(UserError, match="size was 2, now 3"):
        Job("x", tmp_path, {"size": 3, "a": [1]}, part="1-of-2").__enter__()
    with Job("x", tmp_path, {"size": 2, "a": [1]}) as job:
        assert job.is_done("a")


def test_two_runs_at_once_are_kept_apart_and_parts_are_not(tmp_path):
    with Job("x", tmp_path, {}):
        with pytest.raises(UserError, match="another run is writing to"):
            Job("y", tmp_path, {}).__enter__()
    with Job("x", tmp_path, {}, part="1-of-2") as one, Job("x", tmp_path, {}, part="2-of-2") as two:
        items(one, "a")
        items(two, "b")
        with pytest.raises(UserError, match="another run"):
            Job("x", tmp_path, {}, part="2-of-2").__enter__()
        assert not two.is_done("a")
    assert len(rows(tmp_path / "x-1-of-2.log.csv")) == len(rows(tmp_path / "x-2-of-2.log.csv")) == 2


def test_a_dry_run_writes_nothing_and_knows_what_was_done(tmp_path):
    with Job("x", tmp_path / "out", {}, dry_run=True) as job:
        items(job, "a")
        assert job.summary()["counts"] == {"seen": 1}
    assert not (tmp_path / "out").exists()
    with Job("x", tmp_path / "out", {}) as job:
        items(job, "a")
        before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
        with Job("x", tmp_path / "out", {}, dry_run=True) as dry:  # even while a run is at work
            assert dry.is_done("a")
            items(dry, "ab")
        assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*")) == before


def test_names_that_are_no_text_or_would_be_formulas_are_logged_harmless(tmp_path):
    with Job("x", tmp_path, {}, log=tmp_path / "log.csv") as job:
        for name in ("a\udcff.jpg", "=HYPERLINK(1)", "가,\n나", "@x"):
            job.leave_out(name, "why")
            job.done(name)
        assert job.is_done("a\udcff.jpg")
    names = [row[0] for row in rows(tmp_path / "log.csv")]
    assert names == ["file", "a\\udcff.jpg", "'=HYPERLINK(1)", "가,\n나", "'@x"]
    assert not (tmp_path / "x.log.csv").exists()


def test_files_are_placed_whole_and_leftovers_are_swept(tmp_path):
    with Job("x", tmp_path, {}) as job:
        (job.partial / "left by a kill").write_text("")
    with Job("x", tmp_path, {}) as job:
        assert not list(job.partial.iterdir())
        job.place(tmp_path / "id" / "1.jpg", b"1")
        job.place(tmp_path / "id" / "1.jpg", b"2")
        assert not list(job.partial.iterdir())
    assert (tmp_path / "id" / "1.jpg").read_bytes() == b"2"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".x", "id", "x.log.csv"]


def test_a_write_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    real = os.pwrite
    with journal.Appended(tmp_path / "x") as file:
        file.append("one\n")
        monkeypatch.setattr(os, "pwrite", lambda f, data, at: real(f, data[:3], at))
        with pytest.raises(UserError, match="no space left on device; free some space"):
            file.append("two two two\n")
        monkeypatch.undo()
        assert (tmp_path / "x").read_text() == "one\n"
        file.append("three\n")
    assert (tmp_path / "x").read_text() == "one\nthree\n"


def test_cost_for_each_item_stays_the_same_as_the_journal_grows(tmp_path):
    """Counted in bytes written, which no load of the machine changes."""
    written = []
    with Job("x", tmp_path, {}) as job:
        for n in range(2_000):
            job.count("seen")
            job.done(f"{n:06d}")
            written.append((tmp_path / ".x/journal.jsonl").stat().st_size)
    steps = {after - before for before, after in zip(written, written[1:])}
    assert len(steps) == 1
    assert not (tmp_path / "x.log.csv").read_text().count("\n") > 1


def test_a_hundred_thousand_items_are_known_again(tmp_path):
    path = tmp_path / ".x" / "journal.jsonl"
    path.parent.mkdir()
    path.write_text("".join(journal.entry(str(n), {"n": 1}, [], None) for n in range(100_000)))
    with Job("x", tmp_path, {}) as job:
        assert job.earlier == 100_000 and job.summary()["counts"] == {"n": 100_000}
        assert all(job.is_done(str(n)) for n in range(0, 100_000, 997))
        assert not any(job.is_done(str(n)) for n in range(100_000, 101_000))


def test_folders_in_each_other_are_refused(tmp_path):
    for a, b in ((tmp_path, tmp_path), (tmp_path, tmp_path / "x"), (tmp_path / "x", tmp_path)):
        with pytest.raises(UserError, match="lie in each other"):
            check_apart(a, b)
    check_apart(tmp_path / "a", tmp_path / "ab")


def _raise(error):
    raise error


@pytest.mark.parametrize(
    "error, code, text",
    [
        (UserError("the thing is wrong"), 2, "the thing is wrong"),
        (KeyboardInterrupt(), 130, "run the same command to go on"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "cannot write /x: no space"),
    ],
)
def test_exit_codes_and_one_line(error, code, text, capsys):
    assert main(lambda args: _raise(error), parser("x"), []) == code
    shown = capsys.readouterr().err.strip()
    assert text in shown and "\n" not in shown


def test_a_fault_of_the_kit_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(lambda args: 1 / 0, parser("x"), [])


def test_json_is_one_object_and_everything_else_is_kept_off_stdout(capsys):
    def run(args):
        print("chatter")
        with Job("x", "nowhere", {}, dry_run=True) as job:
            return job.summary()

    assert main(run, parser("x"), ["--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["dry_run"] is True and "chatter" in err
    assert main(run, parser("x"), []) == 0
    assert "dry run: nothing was written" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(run, parser("x"), ["--nonsense"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_summary_as_text_shows_counts_and_reasons(tmp_path):
    with Job("x", tmp_path, {}) as job:
        items(job, "ab")
        text = describe(job.summary(images_per_second=12.5))
    assert "seen" in text and "no face" in text and "left out: 2" in text
    assert "images per second" in text and "12.5" in text


def test_sigterm_stops_cleanly_and_says_how_to_go_on(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from parts.job import Job, main, parser\n"
        "def run(args):\n"
        f"    with Job('slow', {str(tmp_path / 'out')!r}, {{}}) as job:\n"
        "        job.done('a')\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "sys.exit(main(run, parser('x')))\n"
    )
    paths = f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}"
    run = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=20)
    assert run.returncode == 128 + signal.SIGTERM and "run the same command" in error
    with Job("slow", tmp_path / "out", {}) as job:
        assert job.is_done("a")


def _work(n: int) -> object:
    if n % 10 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 99:
        raise UserError("cannot write")
    return n, os.environ["OMP_NUM_THREADS"]


def test_a_task_that_kills_its_process_is_given_up_alone():
    done = dict(share(_work, ((f"task {n}", (n,)) for n in range(15)), 2))
    died = {label for label, result in done.items() if isinstance(result, Died)}
    assert len(done) == 15 and died == {"task 3", "task 13"}
    assert all(result == (int(label[5:]), "1") for label, result in done.items() - _of(done, died))


def test_processes_that_all_die_are_not_blamed_on_the_images():
    with pytest.raises(UserError, match="one process after the other dies"):
        list(share(_work, ((n, (n,)) for n in range(3, 1000, 10)), 1))


def _of(done: dict, labels: set) -> set:
    return {(label, result) for label, result in done.items() if label in labels}


def test_an_error_of_the_work_ends_it():
    with pytest.raises(UserError, match="cannot write"):
        list(share(_work, (((n), (n,)) for n in (1, 99, 2)), 1))


def test_tasks_are_read_only_as_fast_as_they_are_worked_on():
    begun = []

    def tasks():
        for n in range(0, 1000, 10):
            begun.append(n)
            yield n, (n,)

    results = share(_work, tasks(), 1)
    next(results)
    assert len(begun) <= 6
    results.close()


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from parts.pool import share\n"
        "def work(n):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(share(work, [(1, (1,))], 1))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    closed = threading.Thread(target=parent.stdout.read)  # ends when its last writer has
    closed.start()
    closed.join(timeout=20)
    assert not closed.is_alive()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}/exe").exists()
