"""However a run ends before its time, the same command goes on and nothing is lost."""

import errno
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace

import pytest
import torch
from runs import COMMAND, RUN, plain_net, same, small_run, state_of

from labkit import train, utils
from labkit.checkpoint import RunFolder
from labkit.train import fit, train_step
from labkit.utils import Stopped, UserError


@pytest.fixture
def config(data_directory, tmp_path):
    return small_run(
        data_directory, tmp_path / "run", plugin=plain_net(tmp_path), model="plain", max_epoch=2
    )


@pytest.fixture
def whole(config):
    """The state of the same run, never stopped."""
    fit(replace(config, run_dir=config.run_dir + "-whole"))
    return state_of(config.run_dir + "-whole")


def start(config, tmp_path, script=RUN, **settings):
    config.to_yaml(tmp_path / "run.yaml")
    command = [sys.executable, "-c", script, str(tmp_path / "run.yaml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)


@pytest.mark.parametrize("write", [1, 4, 6])
def test_a_run_killed_in_the_middle_of_a_write_ends_bit_for_bit_alike(
    config, whole, tmp_path, write
):
    half_a_file = f"""
import os, signal
from labkit import train, utils
writes = []
original = os.fsync
def half(descriptor):
    writes.append(1)
    if len(writes) == {write}:
        os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    original(descriptor)
os.fsync = half
"""
    process = start(replace(config, checkpoint_minutes=0.0), tmp_path, half_a_file + RUN)
    assert process.wait() == -signal.SIGKILL
    assert list((tmp_path / "run").rglob("*partial*"))
    fit(config)
    assert same(state_of(config.run_dir), whole)
    assert not list((tmp_path / "run").rglob("*partial*"))


def test_a_signal_to_all_processes_of_a_job_saves_and_ends_within_seconds(config, whole, tmp_path):
    """As from a batch system: the loader's workers get it too."""
    config = replace(config, workers=2, max_epoch=2)
    in_the_second_step = f"""
import time
from pathlib import Path
from labkit import train
earlier, calls = train.lr_at, []
def slow(*arguments):
    calls.append(1)
    if len(calls) == 2:
        Path({str(tmp_path / "second")!r}).touch()
    time.sleep(0.3)
    return earlier(*arguments)
train.lr_at = slow
"""
    process = start(config, tmp_path, in_the_second_step + RUN, start_new_session=True)
    while not (tmp_path / "second").exists():
        assert process.poll() is None
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert time.monotonic() - began < 20
    assert "stopped by SIGTERM with everything saved" in errors
    assert state_of(config.run_dir)["position"]["step"] < 6
    fit(replace(config, workers=0))
    assert same(state_of(config.run_dir), whole)


def test_a_batch_script_can_tell_a_stop_from_a_mistake(config, whole, tmp_path):
    """A signal in the second step: one line, an exit code of its own, and the run goes on."""
    script = """
import os, signal
from labkit import train
earlier, calls = train.lr_at, []
def stop_in_mid_epoch(*arguments):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return earlier(*arguments)
train.lr_at = stop_in_mid_epoch
"""
    process = start(config, tmp_path, script + COMMAND)
    _, errors = process.communicate()
    assert process.returncode == 75
    assert errors.startswith("labkit: stopped by SIGTERM") and len(errors.splitlines()) == 1
    assert state_of(config.run_dir)["position"]["step"] == 2
    fit(config)
    assert same(state_of(config.run_dir), whole)


def test_a_signal_before_training_has_begun_can_be_told_from_a_mistake_too(config, tmp_path):
    plugin = tmp_path / "early.py"
    plugin.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    config = replace(config, plugin=str(plugin))
    process = start(config, tmp_path, COMMAND)
    _, errors = process.communicate()
    assert process.returncode == 75
    assert errors == ("labkit: stopped by SIGTERM; give the same command again\n")


def test_a_signal_during_validation_ends_at_once_and_the_epoch_is_kept(config, whole, monkeypatch):
    def slow_validation(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(train, "validate", slow_validation)
    began = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"):
        fit(config)
    assert time.monotonic() - began < 30
    assert state_of(config.run_dir)["position"]["step"] == 6
    monkeypatch.undo()
    fit(config)
    assert same(state_of(config.run_dir), whole)


@pytest.mark.parametrize("write", [2, 5, 8])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(
    config, whole, monkeypatch, write
):
    writes, original = [], utils.os.fsync

    def full(descriptor):
        writes.append(1)
        if len(writes) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(utils.os, "fsync", full)
    with pytest.raises(UserError, match="no space left on device; free some space"):
        fit(config)
    monkeypatch.undo()
    fit(config)
    assert same(state_of(config.run_dir), whole)


def test_a_second_run_in_the_same_folder_is_turned_away(config):
    with RunFolder(config.run_dir).open(config):
        done = subprocess.run(
            [sys.executable, "-m", "labkit", "train", "--train_dir", config.train_dir]
            + ["--run_dir", config.run_dir],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2 and "another run is writing to" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_full_memory_is_told_and_free_again_for_a_smaller_try(config, monkeypatch):
    """Although the error is kept, as a notebook keeps its last one."""

    class Large:
        pass

    seen = []

    def full(*arguments):
        activations = Large()
        seen.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(train, "train_step", full)
    with pytest.raises(UserError, match="memory of cpu is full: set a smaller batch_size") as kept:
        fit(config)
    assert kept.value and seen[0]() is None


def third_step(change):
    """A `train_step` after whose third call something is changed."""
    calls = []

    def step(network, *arguments):
        output = train_step(network, *arguments)
        calls.append(1)
        return change(network, output) if len(calls) == 3 else output

    return step


def test_a_loss_that_is_not_a_number_names_its_batch_and_keeps_the_checkpoint(config, monkeypatch):
    good = state_of(fit(replace(config, max_epoch=1)).run_dir)
    nan = third_step(lambda network, output: (output[0] * torch.nan, output[1]))
    monkeypatch.setattr(train, "train_step", nan)
    with pytest.raises(UserError, match=r"became nan in step 3 of epoch 2, on the batch id0") as no:
        fit(config)
    assert "\n" not in str(no.value) and "the last good checkpoint is" in str(no.value)
    listed = (RunFolder(config.run_dir).path / "failed_batch.txt").read_text().split()
    assert len(set(listed)) == config.batch_size and all(name.endswith(".jpg") for name in listed)
    assert same(state_of(config.run_dir), good)


def test_a_loss_of_ones_own_that_fails_is_blamed_before_the_learning_rate(config, tmp_path):
    plugin = tmp_path / "own_loss.py"
    plugin.write_text(
        (tmp_path / "plain_net.py").read_text()
        + """
from labkit.losses import EmbeddingLoss, LossOutput
from labkit.registry import LOSSES

@LOSSES.register("mine")
class Mine(EmbeddingLoss):
    calls = []
    def compute(self, embeddings, labels):
        self.calls.append(1)
        failing = float("nan") if len(self.calls) > 1 else 1.0  # the check comes first
        return LossOutput(failing * embeddings.square().mean(), None)
"""
    )
    with pytest.raises(UserError, match="became nan in step 1 .* the loss mine is your own") as no:
        fit(replace(config, plugin=str(plugin), loss="mine"))
    assert str(no.value).index("your own") < str(no.value).index("lower lr")


def test_weights_that_are_not_numbers_are_never_saved(config, monkeypatch):
    def infinite_weight(network, output):
        network.fc.weight.data[0, 0] = torch.inf
        return output

    monkeypatch.setattr(train, "train_step", third_step(infinite_weight))
    with pytest.raises(UserError, match=r"weights network\.fc\.weight are no longer numbers"):
        fit(replace(config, checkpoint_minutes=0.0))
    saved = state_of(config.run_dir)
    assert saved["position"]["step"] == 2
    assert all(torch.isfinite(value).all() for value in saved["module"].values())
