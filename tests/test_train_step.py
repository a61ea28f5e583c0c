"""One step: the gradient in chunks, precision, compiled networks, devices."""

import shutil
from dataclasses import replace

import pytest
import torch
from runs import plain_net, small_run, state_of

from labkit import devices
from labkit.losses import build_loss
from labkit.models import InputSpec, build_model
from labkit.train import fit
from labkit.train.run import restore, save
from labkit.train.step import TrainingStep, gradient_of
from labkit.utils import UserError

CPU = torch.device("cpu")


@pytest.fixture
def config(data_directory, tmp_path):
    return small_run(
        data_directory, tmp_path / "run", plugin=plain_net(tmp_path), model="plain", max_epoch=2
    )


class DropoutInSevens(torch.nn.Module):
    """Dropout that draws for seven rows at a time, however many come at once."""

    def forward(self, x):
        return torch.cat([torch.nn.functional.dropout(part, 0.4) for part in x.split(7)])


class Dropping(torch.nn.Module):
    """A network with random layers, and a buffer that counts the images."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 32), torch.nn.Tanh(),
            DropoutInSevens(), torch.nn.Linear(32, 8),
        )  # fmt: skip
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen += len(images)
        return self.body(images)


def gradients(loss_name: str, images_at_once, per_class: int) -> tuple:
    """Gradients and loss of one step, the random number after it, and how many images it took."""
    torch.manual_seed(0)
    accelerator = devices.make_accelerator("cpu", mixed=False)
    loss = build_loss(loss_name, embedding_size=8, num_classes=10)
    step = TrainingStep(Dropping(), loss, InputSpec(8), compiled=False)
    trained = accelerator.prepare(step)
    images = torch.randint(0, 256, (10, per_class, 3, 8, 8), dtype=torch.uint8)
    torch.manual_seed(1)
    output = gradient_of(trained, step, accelerator, images_at_once)(images, torch.arange(10))
    random, seen = float(torch.rand(1)), int(step.network.seen)
    return [p.grad for p in step.parameters()], output.loss.item(), random, seen


@pytest.mark.parametrize("loss", ["angproto", "triplet", "supcon", "amsoftmax"])
def test_the_gradient_in_chunks_is_the_plain_one(loss):
    per_class = 1 if loss == "amsoftmax" else 2
    plain, value, after, seen = gradients(loss, None, per_class)
    chunked, chunked_value, chunked_after, chunked_seen = gradients(loss, 7, per_class)
    assert chunked_value == pytest.approx(value, rel=1e-6)
    for a, b in zip(plain, chunked, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
    assert chunked_seen == seen == 10 * per_class
    assert chunked_after == after


def test_a_run_in_chunks_learns_what_a_plain_one_learns(config):
    config = replace(config, loss="angleproto", images_per_class=2, optimizer="sgd", lr=0.01)
    fit(replace(config, run_dir=config.run_dir + "-plain"))
    fit(replace(config, images_at_once=5))
    plain, chunked = state_of(config.run_dir + "-plain"), state_of(config.run_dir)
    for name, value in plain["module"].items():
        torch.testing.assert_close(chunked["module"][name], value, rtol=1e-4, atol=1e-5)


def test_a_large_batch_needs_the_memory_of_one_chunk():
    """What autograd keeps for the backward pass, in bytes."""

    def kept(images_at_once) -> int:
        torch.manual_seed(0)
        accelerator = devices.make_accelerator("cpu", mixed=False)
        loss = build_loss("angproto", embedding_size=16)
        step = TrainingStep(build_model("ThinResNet34", 16), loss, InputSpec(32), compiled=False)
        trained = accelerator.prepare(step)
        images = torch.zeros(16, 2, 3, 32, 32, dtype=torch.uint8)
        weights = {p.data_ptr() for p in step.parameters()}
        now, most = 0, 0

        class Kept:
            def __init__(self, tensor):
                nonlocal now, most
                own = tensor.data_ptr() not in weights
                self.tensor, self.size = tensor, own * tensor.numel() * tensor.element_size()
                now += self.size
                most = max(most, now)

            def __del__(self):
                nonlocal now
                now -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            gradient_of(trained, step, accelerator, images_at_once)(images, torch.arange(16))
        return most

    assert kept(4) < 0.5 * kept(None)


def test_mixed_precision_trains_and_keeps_float32_weights(config, monkeypatch):
    monkeypatch.setattr(devices, "mixed_precision", lambda device: "bf16")
    rows = fit(replace(config, mixed_precision=True, max_epoch=3)).rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    tensors = state_of(config.run_dir)["module"].values()
    assert {value.dtype for value in tensors} == {torch.float32}


@pytest.mark.parametrize(
    ("cuda", "mps", "cpu_has_bf16", "name", "device", "precision"),
    [
        (True, False, False, None, "cuda", "bf16"),
        (False, True, True, None, "mps", "no"),
        (False, False, True, None, "cpu", "bf16"),
        (False, False, False, None, "cpu", "no"),
        (True, False, True, "cpu", "cpu", "bf16"),
        (True, False, False, "cuda:1", "cuda:1", "bf16"),
    ],
)
def test_the_device_and_its_precision_are_the_best_there_are(
    monkeypatch, cuda, mps, cpu_has_bf16, name, device, precision
):
    monkeypatch.delenv(devices.DEVICE_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: cpu_has_bf16)
    chosen = devices.best_device(name)
    assert str(chosen) == device and devices.mixed_precision(chosen) == precision


def test_a_gpu_without_bf16_gets_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert devices.mixed_precision(torch.device("cuda")) == "fp16"


@pytest.mark.parametrize("name", ["cuda", "mps", "cuda:3", "tpu"])
def test_a_device_that_is_not_there_is_one_clear_line(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="no device|no GPU 3"):
        devices.best_device(name)


def test_the_loss_scale_of_fp16_is_resumed(config, tmp_path):
    """With PyTorch's scaler for the processor, as there may be no GPU."""

    class Scaling:
        device, scaler = torch.device("cpu"), torch.amp.GradScaler("cpu", init_scale=1024.0)

    from labkit.checkpoint import RunFolder
    from labkit.train.run import Position

    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    accelerator, folder = Scaling(), RunFolder(tmp_path / "fp16")
    accelerator.scaler.scale(module(torch.ones(1, 2)).sum() * torch.inf).backward()
    accelerator.scaler.step(optimizer)  # an overflow: no step, half the scale
    accelerator.scaler.update()
    save(folder, Position(), module, optimizer, accelerator)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    restore(folder, folder.load_state(), module, optimizer, accelerator)
    assert accelerator.scaler.state_dict()["scale"] == 512.0


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles with g++")
def test_a_compiled_network_learns_the_same_and_can_be_resumed_without(config):
    config = replace(config, optimizer="sgd", lr=0.01)
    fit(replace(config, run_dir=config.run_dir + "-plain"))
    fit(replace(config, compile=True, max_epoch=1))
    fit(config)
    plain, compiled = state_of(config.run_dir + "-plain"), state_of(config.run_dir)
    for name, value in plain["module"].items():
        torch.testing.assert_close(compiled["module"][name], value, rtol=1e-3, atol=1e-4)


def test_tensorboard_gets_the_curves(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = fit(replace(config, tensorboard=True))
    events = EventAccumulator(str(result.run_dir / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("train_loss")] == pytest.approx(
        [row["train_loss"] for row in result.rows], rel=1e-5
    )


def test_a_network_of_timm_trains(config):
    pytest.importorskip("timm")
    result = fit(replace(config, model="timm:resnet18", image_size=64, max_epoch=1))
    assert result.rows[0]["train_loss"] > 0 and result.best_weights.exists()


def test_curves_are_drawn_anew_after_every_epoch_in_a_live_notebook(config, monkeypatch):
    import IPython.display

    from labkit.train import show_curves, watch

    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(("update", figure))

    def display(figure, display_id):
        drawn.append(("new", figure))
        return Handle()

    fit(replace(config, run_dir=config.run_dir + "-batch"), after_epoch=show_curves)
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(watch, "in_live_notebook", lambda: True)
    fit(config, after_epoch=show_curves)
    assert [how for how, _ in drawn] == ["new", "update"]
    assert all(figure.axes for _, figure in drawn)
