"""What needs CUDA: `pytest -m gpu` says whether the kit works on this machine's GPU."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import plain_net, same, small_run, state_of

from labkit import devices
from labkit.checkpoint import load_weights
from labkit.embed import Embedder
from labkit.train import fit
from labkit.utils import UserError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"),
]


@pytest.fixture
def config(data_directory, tmp_path):
    settings = dict(device="cuda", max_epoch=6, lr=0.003)
    return small_run(data_directory, tmp_path / "run", **settings)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_learns_in_every_precision(config, precision, monkeypatch):
    monkeypatch.setattr(devices, "mixed_precision", lambda device: precision)
    result = fit(replace(config, mixed_precision=precision != "no"))
    losses = [row["train_loss"] for row in result.rows]
    assert losses[-1] < 0.7 * losses[0] and result.best_val_eer < 40
    network, _ = load_weights(result.last_weights)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_that_goes_on_ends_where_an_undisturbed_one_ends(config, tmp_path, compiled):
    # A network without batch norm, in which rounding that differs from run to run does not grow.
    config = replace(config, compile=compiled, model="plain", plugin=plain_net(tmp_path), lr=0.001)
    whole = fit(config)
    again = replace(config, run_dir=str(tmp_path / "again"))
    fit(replace(again, max_epoch=3))
    resumed = fit(again)
    for one, other in zip(whole.rows, resumed.rows):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.01)
    first, last = state_of(config.run_dir), state_of(again.run_dir)
    assert same(first["position"]["step"], last["position"]["step"])


def test_large_batches_in_little_memory_learn_the_same(config, tmp_path):
    settings = dict(max_epoch=2, loss="angleproto", images_per_class=2, margin=None, scale=None)
    settings |= dict(model="plain", plugin=plain_net(tmp_path))
    whole = fit(replace(config, **settings))
    parts = dict(run_dir=str(tmp_path / "parts"), images_at_once=8)
    cached = fit(replace(config, **settings, **parts))
    assert cached.rows[-1]["train_loss"] == pytest.approx(whole.rows[-1]["train_loss"], rel=0.01)


def test_embeddings_of_the_gpu_are_those_of_the_processor(config):
    weights = fit(replace(config, max_epoch=1)).last_weights
    faces = [*np.random.default_rng(0).integers(0, 256, (70, 48, 40, 3), dtype=np.uint8)]
    expected = Embedder(weights, device="cpu")(faces)
    for precision, closeness in (("fp32", 0.999), ("bf16", 0.99), ("fp16", 0.99)):
        found = Embedder(weights, device="cuda", precision=precision)(faces)
        assert (found * expected).sum(axis=1).min() > closeness, precision


def test_people_are_rendered_as_on_the_processor(tmp_path):
    from labkit.synth import head_file, make_dataset

    if not head_file().exists():
        pytest.skip("the head model is made with the anny package, on a machine that has it")
    pictures = {}
    for device in ("cpu", "cuda"):
        out = make_dataset(tmp_path / device, identities=2, images=3, size=64, device=device)
        files = sorted(out.glob("*/*.jpg"))
        pictures[device] = np.array([np.asarray(Image.open(file)) for file in files], float)
    assert pictures["cpu"].shape == pictures["cuda"].shape == (6, 64, 64, 3)
    assert np.abs(pictures["cpu"] - pictures["cuda"]).mean() < 3


def test_memory_that_is_out_is_one_line(config):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(UserError, match="memory of .*cuda.* is full: .*batch_size") as caught:
            fit(replace(config, model="ResNet50", image_size=224))
        assert "\n" not in str(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_two_processes_learn_what_one_learns_or_say_that_they_need_two_gpus(config, tmp_path):
    one = fit(replace(config, max_epoch=2))
    two = replace(config, max_epoch=2, device=None, run_dir=str(tmp_path / "two"))
    two.to_yaml(tmp_path / "two.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["labkit", "train", "--config", str(tmp_path / "two.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if torch.cuda.device_count() < 2:
        assert "2 processes need as many GPUs, found 1" in ran.stderr
    else:
        loss = state_of(two.run_dir)["position"]["rows"][-1]["train_loss"]
        assert loss == pytest.approx(one.rows[-1]["train_loss"], rel=0.1)
