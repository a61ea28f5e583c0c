"""What every data script rests on: log, lock, exit codes, processes that crash."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from script_runs import ENVIRONMENT, left_out

from labkit.utils import UserError

from parts.job import Job, main, parser  # isort: skip
from parts.pool import CRASHED, Workers  # isort: skip
from parts.tables import read_table  # isort: skip


def test_the_log_of_an_earlier_run_is_known_and_a_row_cut_off_by_a_kill_is_not(tmp_path):
    names = ["a\udcff.jpg", "＝HYPERLINK(1)", "가,\n나", "@x"]
    with Job("x", tmp_path) as job:
        for name in [*names, "last"]:
            job.leave_out(name, "no face: none")
    log = tmp_path / "x.log.csv"
    log.write_bytes(log.read_bytes()[: -len(",no face: none\n")])
    assert list(left_out(log)) == ["a\\xff.jpg", "'＝HYPERLINK(1)", "가,\n나", "'@x", "last"]
    with Job("x", tmp_path, keep=lambda file: file != "@x") as job:
        assert [job.was_left_out(name) for name in [*names, "last"]] == [True] * 3 + [False] * 2
        job.leave_out(names[0], "no face: none")
        job.count("seen", 3)
        summary = job.summary(more=3)
    assert summary["left_out"] == {"no face": 3} and summary["counts"] == {"seen": 3}
    assert len(left_out(log)) == 3
    with Job("x", tmp_path, log=tmp_path / "other.csv"):
        pass
    assert (tmp_path / "other.csv").read_text() == "file,reason\n"


def test_other_settings_are_refused(tmp_path):
    with Job("x", tmp_path, {"size": 2, "a": (1,)}):
        pass
    with pytest.raises(UserError, match="size was 2, now 3"):
        Job("x", tmp_path, {"size": 3, "a": [1]}, part="1-of-2").__enter__()


def test_two_runs_at_once_are_kept_apart_and_parts_are_not(tmp_path):
    with Job("x", tmp_path):
        with pytest.raises(UserError, match="another run is writing to"):
            Job("y", tmp_path).__enter__()
    with Job("x", tmp_path, part="1-of-2") as one, Job("x", tmp_path, part="2-of-2") as two:
        one.leave_out("a", "why")
        two.leave_out("b", "why")
        with pytest.raises(UserError, match="another run"):
            Job("x", tmp_path, part="2-of-2").__enter__()
    assert left_out(tmp_path / "x-1-of-2.log.csv") == {"a": "why"}


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "l.csv"
    path.write_bytes("\ufeffFile;keep;x\r\n\r\n'=a; y \r\nb;No;1\r\n".encode())
    assert list(read_table(path, ("file", "keep or other"))) == [
        (3, {"file": "=a", "keep": "y", "x": ""}),
        (4, {"file": "b", "keep": "No", "x": "1"}),
    ]


@pytest.mark.parametrize(
    "error, code, text",
    [
        (UserError("the thing is wrong"), 2, "the thing is wrong"),
        (KeyboardInterrupt(), 130, "run the same command to go on"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "cannot write /x: no space"),
    ],
)
def test_exit_codes_and_one_line(error, code, text, capsys):
    def run(args):
        raise error

    assert main(run, parser("x"), []) == code
    shown = capsys.readouterr().err.strip()
    assert text in shown and "\n" not in shown


def test_json_is_one_object_and_everything_else_is_kept_off_stdout(capsys):
    def run(args):
        print("chatter")
        with Job("x", "nowhere", dry_run=True) as job:
            job.leave_out("a", "no face: 0")
            return job.summary(images_per_second=12.5)

    assert main(run, parser("x"), ["--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["dry_run"] is True and "chatter" in err
    assert main(run, parser("x"), []) == 0
    out = capsys.readouterr().out
    for text in ("dry run: nothing was written", "left out: 1", "no face", "images per second"):
        assert text in out
    assert not Path("nowhere").exists()


def _work(n: int) -> object:
    if n % 10 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 99:
        raise UserError("cannot write")
    return os.environ["OMP_NUM_THREADS"]


def test_a_task_that_crashes_its_process_is_reported_alone_and_in_order():
    before = dict(os.environ)
    with Workers(2) as workers:
        done = list(workers.map(_work, ((n, (n,)) for n in range(15))))
    assert done == [(n, CRASHED if n in (3, 13) else "1") for n in range(15)]
    with pytest.raises(UserError, match="cannot write"), Workers(1) as workers:
        list(workers.map(_work, [(99, (99,))]))
    assert dict(os.environ) == before


STOPPED = """
import sys, time
from parts.job import Job, main, parser
from parts.pool import Workers
def work(n):
    print("ready", flush=True)
    time.sleep(60)
def run(args):
    with Job("slow", sys.argv[0] + ".out"):
        if args.dry_run:
            work(1)
        with Workers(1) as workers:
            list(workers.map(work, [(1, (1,))]))
if __name__ == "__main__":
    sys.exit(main(run, parser("x")))
"""


def begun(tmp_path: Path, *flags: str) -> subprocess.Popen:
    (tmp_path / "slow.py").write_text(STOPPED)
    command = [sys.executable, str(tmp_path / "slow.py"), *flags]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = subprocess.Popen(command, env=ENVIRONMENT, **pipes)
    assert run.stdout.readline() == "ready\n"
    return run


def test_sigterm_stops_cleanly_and_says_how_to_go_on(tmp_path):
    run = begun(tmp_path, "--dry-run")
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=20)
    assert run.returncode == 130 and "run the same command" in error


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    run = begun(tmp_path)
    run.kill()
    closed = threading.Thread(target=run.stdout.read)  # ends when its last writer has
    closed.start()
    closed.join(timeout=20)
    assert not closed.is_alive()
