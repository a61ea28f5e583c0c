"""One step: the gradient in chunks, precision, compiled networks, devices."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from runs import plain_net, small_run, state_of
from torch.optim import lr_scheduler

from labkit import devices
from labkit.config import TrainConfig
from labkit.data import TrainingBatch
from labkit.losses import build_loss
from labkit.models import InputSpec, build_model
from labkit.train import OPTIMIZERS, fit, lr_at, train_step
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


def step(network, loss, images, spec, images_at_once=None):
    """One step that leaves the parameters as they are and the gradients in them."""
    accelerator = devices.make_accelerator("cpu", mixed=False)
    parameters = [*network.parameters(), *loss.parameters()]
    optimizer = accelerator.prepare(torch.optim.SGD(parameters, lr=0.0))
    batch = TrainingBatch(images, torch.arange(len(images)), [], None)
    output = train_step(network, loss, batch, optimizer, accelerator, spec, images_at_once)
    return output, [p.grad for p in parameters]


def gradients(loss_name: str, images_at_once, per_class: int) -> tuple:
    """Gradients and loss of one step, the random number after it, and how many images it took."""
    torch.manual_seed(0)
    loss, network = build_loss(loss_name, embedding_size=8, num_classes=10), Dropping()
    images = torch.randint(0, 256, (10, per_class, 3, 8, 8), dtype=torch.uint8)
    torch.manual_seed(1)
    output, gradient = step(network, loss, images, InputSpec(8), images_at_once)
    return gradient, output.loss.item(), float(torch.rand(1)), int(network.seen)


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
        loss, network = build_loss("angproto", embedding_size=16), build_model("ThinResNet34", 16)
        images = torch.zeros(16, 2, 3, 32, 32, dtype=torch.uint8)
        weights = {p.data_ptr() for p in network.parameters()}
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
            step(network, loss, images, InputSpec(32), images_at_once)
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


def rates_of_pytorch(make, epochs=40):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler, rates = make(optimizer), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("scheduler", "make"),
    [
        ("steplr", lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.9)),
        ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=1e-5)),
        (
            "cosineRestartlr",
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=10, eta_min=1e-5),
        ),
    ],
)
def test_learning_rates_equal_pytorchs_at_whole_epochs(scheduler, make):
    config = TrainConfig(scheduler=scheduler, max_epoch=40)
    rates = [lr_at(config, float(epoch)) for epoch in range(40)]
    assert rates == pytest.approx(rates_of_pytorch(make), rel=1e-9)


def test_learning_rates_between_whole_epochs():
    steps = TrainConfig(lr=1.0, lr_decay=0.5)
    assert lr_at(steps, 4.999) == 1.0 and lr_at(steps, 5.0) == lr_at(steps, 9.5) == 0.5
    cosine = TrainConfig(scheduler="cosine", lr=1.0, max_epoch=8, min_lr=0.25)
    assert lr_at(cosine, 4) == pytest.approx(0.625)
    assert lr_at(cosine, 8) == lr_at(cosine, 11.5) == 0.25
    restarts = TrainConfig(scheduler="cosine_restart", lr=5e-4, max_epoch=50)
    assert lr_at(restarts, 0) == lr_at(restarts, 10) == lr_at(restarts, 40) == 5e-4
    assert lr_at(restarts, 13.25) == pytest.approx(lr_at(restarts, 3.25), rel=1e-12)


@pytest.mark.parametrize("scheduler", ["steplr", "cosine", "cosine_restart"])
def test_warm_up_climbs_to_the_schedule_without_shifting_it(scheduler):
    cold = TrainConfig(scheduler=scheduler, max_epoch=20)
    warm = replace(cold, warmup_epochs=4.0)
    assert 0 < lr_at(warm, 0) == pytest.approx(0.01 * lr_at(cold, 0))
    assert lr_at(warm, 2) == pytest.approx((0.01 + 0.99 / 2) * lr_at(cold, 2))
    assert [lr_at(warm, e) for e in (4, 7.5, 19)] == [lr_at(cold, e) for e in (4, 7.5, 19)]


def by_hand(name, gradients, lr, decay):
    """The textbook update of one number, step by step."""
    x, v, m, m2 = 1.0, 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        if name == "sgd":
            v = 0.9 * v + (g + decay * x)
            x -= lr * v
            continue
        if name == "adam":
            g += decay * x
        else:
            x -= lr * decay * x
        m = 0.9 * m + 0.1 * g
        m2 = 0.999 * m2 + 0.001 * g * g
        x -= lr * (m / (1 - 0.9**t)) / (math.sqrt(m2 / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_take_the_textbook_steps(name):
    x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([x], lr=0.1, weight_decay=0.2)
    gradients = [0.5, -1.0, 2.0]
    for g in gradients:
        x.grad = torch.full_like(x, g)
        optimizer.step()
    assert x.item() == pytest.approx(by_hand(name, gradients, 0.1, 0.2), rel=1e-9)
