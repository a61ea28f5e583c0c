"""What is trained does not depend on the number of processes."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import COMMAND, RUN, plain_net, small_run, state_of

from labkit.launch import launch
from labkit.train import fit
from labkit.utils import UserError

SIGNAL_TO_ONE = """
import os, signal
from labkit import train
earlier, calls = train.lr_at, []
def stop_in_mid_epoch(*arguments):
    calls.append(1)
    if len(calls) == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return earlier(*arguments)
train.lr_at = stop_in_mid_epoch
"""
SIGNAL_IN_VALIDATION = """
import os, signal, time
from labkit import train
def stop(*arguments):
    open(asked, "w").close()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(120)
train.validate = stop
"""


@pytest.fixture
def config(data_directory, tmp_path):
    return small_run(
        data_directory, tmp_path / "run", plugin=plain_net(tmp_path), model="plain",
        optimizer="sgd", lr=0.01, max_epoch=2,
    )  # fmt: skip


def torchrun(config, tmp_path, script=RUN) -> subprocess.CompletedProcess:
    (tmp_path / "run.py").write_text(script)
    config.to_yaml(tmp_path / "two.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "run.py"), str(tmp_path / "two.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def through_the_command(config, tmp_path, script: str) -> subprocess.CompletedProcess:
    """`labkit train` in two processes, with a script before it."""
    return torchrun(config, tmp_path, script + COMMAND)


def lines_of_labkit(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("labkit: ")]


def assert_same_run(one: dict, two: dict) -> None:
    for name, value in one["module"].items():
        np.testing.assert_allclose(two["module"][name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(one["position"]["rows"], two["position"]["rows"], strict=True):
        assert (a["step"], a["lr"]) == (b["step"], b["lr"])
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["train_accuracy"] == pytest.approx(a["train_accuracy"], abs=1e-3)
        assert a["val_eer"] == pytest.approx(b["val_eer"], abs=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        dict(loss="amsoftmax", freeze_epochs=1, optimizer="adam"),
        dict(loss="angleproto", images_per_class=2),
        dict(loss="triplet", images_per_class=2, images_at_once=5),
    ],
    ids=["classification, frozen at first", "metric", "metric, in chunks"],
)
def test_two_processes_learn_what_one_learns(config, tmp_path, changes):
    """The same batches, gradients and metrics, for a network without batch statistics."""
    config = replace(config, **changes)
    fit(replace(config, run_dir=config.run_dir + "-one"))
    done = torchrun(config, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(state_of(config.run_dir + "-one"), state_of(config.run_dir))


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on_in_one(config, tmp_path):
    fit(replace(config, run_dir=config.run_dir + "-one"))
    done = torchrun(config, tmp_path, SIGNAL_TO_ONE + RUN)
    assert done.returncode != 0
    assert state_of(config.run_dir)["position"]["step"] == 3, done.stderr[-3000:]
    fit(config)
    assert_same_run(state_of(config.run_dir + "-one"), state_of(config.run_dir))


def test_a_signal_during_validation_ends_all_and_the_epoch_is_kept(config, tmp_path):
    fit(replace(config, run_dir=config.run_dir + "-one"))
    asked = tmp_path / "asked"
    script = SIGNAL_IN_VALIDATION + f"asked = {str(asked)!r}\n"
    done = through_the_command(config, tmp_path, script)
    assert done.returncode != 0 and time.time() - asked.stat().st_mtime < 60
    (line,) = lines_of_labkit(done)
    assert "stopped by SIGTERM with everything saved" in line
    position = state_of(config.run_dir)["position"]
    assert (position["epoch"], position["step"]) == (0, 6)
    fit(config)
    assert_same_run(state_of(config.run_dir + "-one"), state_of(config.run_dir))


def test_a_loss_that_is_not_a_number_in_one_process_ends_all_with_one_line(config, tmp_path):
    """In the third step of the second process, which names its half of the batch."""
    done = through_the_command(
        replace(config, checkpoint_minutes=0.0),
        tmp_path,
        """
import os
from labkit import train
earlier, calls = train.train_step, []
def broken(*arguments):
    loss, accuracy = earlier(*arguments)
    calls.append(1)
    bad = len(calls) == 3 and os.environ["RANK"] == "1"
    return (loss * float("nan") if bad else loss), accuracy
train.train_step = broken
""",
    )
    (line,) = lines_of_labkit(done)
    assert "the loss became nan in step 3 of epoch 1, on the batch id0" in line
    listed = (tmp_path / "run" / "failed_batch.txt").read_text().split()
    assert len(set(listed)) == config.batch_size / 2
    assert state_of(config.run_dir)["position"]["step"] == 2


def test_what_goes_wrong_in_the_main_process_alone_ends_all_with_one_line(config, tmp_path):
    done = through_the_command(
        config,
        tmp_path,
        """
from labkit import train
from labkit.utils import UserError
def gone(*arguments):
    raise UserError("the disk of the validation images is gone")
train.validate = gone
""",
    )
    assert lines_of_labkit(done) == ["labkit: the disk of the validation images is gone"]
    assert "gloo" not in done.stderr


def test_what_goes_wrong_in_all_processes_is_told_once(config, tmp_path):
    done = through_the_command(replace(config, num_classes=3), tmp_path, "")
    (line,) = lines_of_labkit(done)
    assert "12 identities, more than num_classes" in line and "gloo" not in done.stderr


def test_a_layer_that_takes_no_part_does_not_stop_two_processes(config, tmp_path):
    with open(config.plugin, "a", encoding="utf-8") as plugin:
        plugin.write(
            "\n@MODELS.register('spare')\n"
            "class Spare(Plain):\n"
            "    def __init__(self, embedding_size):\n"
            "        super().__init__(embedding_size)\n"
            "        self.spare = torch.nn.Linear(2, 2)\n"
        )
    done = torchrun(replace(config, model="spare"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert state_of(config.run_dir)["position"]["epoch"] == 2


def test_many_processes_give_one_answer_and_no_warning(config, tmp_path):
    done = through_the_command(replace(config, loss="angleproto", images_per_class=2), tmp_path, "")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best validation EER") == 1
    assert "without validation" not in done.stdout and "FutureWarning" not in done.stderr


def test_a_notebook_launches_two_processes(config, tmp_path):
    """In a process of its own, as a notebook's kernel is one, that has computed before."""
    config.to_yaml(tmp_path / "two.yaml")
    script = f"""
import torch
from labkit.config import TrainConfig
from labkit.launch import launch
a = torch.randn(800, 800)
(a @ a).sum()
seen = []
result = launch(
    TrainConfig.from_yaml({str(tmp_path / "two.yaml")!r}),
    num_processes=2,
    after_epoch=lambda run, rows: seen.append((run.name, len(rows), rows[-1]["epoch"])),
)
print(seen)
print("epochs", len(result.rows), "best", result.best_epoch, result.best_weights.exists())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "epochs 2 best" in done.stdout and "True" in done.stdout
    assert "[('run', 2, 2)]" in done.stdout
    assert "Warning" not in done.stderr
    fit(replace(config, run_dir=config.run_dir + "-one"))
    assert_same_run(state_of(config.run_dir + "-one"), state_of(config.run_dir))


def test_an_interrupted_notebook_cell_saves_and_says_so_in_one_line(config, tmp_path):
    """A signal to all processes in the second step, as a notebook's interrupt is one."""
    config.to_yaml(tmp_path / "two.yaml")
    script = f"""
import os, signal, time
from labkit import train
from labkit.config import TrainConfig
from labkit.utils import UserError
from labkit.launch import launch
from labkit.utils import Stopped
earlier, calls = train.lr_at, []
def interrupt_in_mid_epoch(*arguments):
    calls.append(1)
    if len(calls) == 2 and os.environ["RANK"] == "0":
        os.killpg(os.getpgrp(), signal.SIGINT)
    time.sleep(0.2)
    return earlier(*arguments)
train.lr_at = interrupt_in_mid_epoch
before = signal.getsignal(signal.SIGINT)  # a batch system may have set it to be ignored
try:
    launch(TrainConfig.from_yaml({str(tmp_path / "two.yaml")!r}), num_processes=2)
except Stopped as error:
    print(error)
print("as before:", signal.getsignal(signal.SIGINT) is before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stopped by SIGINT with everything saved" in done.stdout
    assert "as before: True" in done.stdout
    assert state_of(config.run_dir)["position"]["step"] in (2, 3)
    fit(replace(config, run_dir=config.run_dir + "-one"))
    fit(config)
    assert_same_run(state_of(config.run_dir + "-one"), state_of(config.run_dir))


def test_what_goes_wrong_in_launched_processes_is_one_clear_line(config):
    with pytest.raises(UserError, match="did you mean angproto"):
        launch(replace(config, loss="angprotoo"), num_processes=2)


@pytest.mark.parametrize(("processes", "complaint"), [(0, "from 1"), (5, "cannot be shared")])
def test_a_number_of_processes_that_cannot_work_is_one_clear_line(config, processes, complaint):
    with pytest.raises(UserError, match=complaint):
        launch(config, num_processes=processes)


def test_a_gpu_that_is_in_use_is_told_before_launching(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="restart the kernel"):
        launch(config, num_processes=2)


def test_one_launched_process_is_this_one(config):
    seen = []
    launch(replace(config, max_epoch=1), after_epoch=lambda run, rows: seen.append(len(rows)))
    assert seen == [1]
