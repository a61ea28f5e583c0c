"""Optimizers, and learning rates as plain functions of the position in training.

A schedule here is no object that counts calls: it maps a position in epochs (2.5 is the middle of
the third epoch) to a learning rate. The trainer asks for it before each step,

    schedule = build_schedule("cosine", lr=1e-3, max_epoch=50, warmup_epochs=1)
    for step in range(steps_per_epoch):
        set_learning_rate(optimizer, schedule(epoch + step / steps_per_epoch))

so a resumed run needs nothing but its position to go on with the very same rates, and the number
of processes cannot matter. At whole epochs (0, 1, 2, …) a schedule has the value that the PyTorch
scheduler of the same kind has when stepped once per epoch; in between, the cosines go on smoothly.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from labkit.registry import OPTIMIZERS, SCHEDULERS, call_with_own_settings
from labkit.utils import UserError

Schedule = Callable[[float], float]


@OPTIMIZERS.register("adam")
def adam(params, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980); weight decay is added to the gradient."""
    return torch.optim.Adam(params, lr=lr, weight_decay=weight_decay, fused=_can_fuse(params))


@OPTIMIZERS.register("adamw")
def adamw(params, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv:1711.05101)."""
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, fused=_can_fuse(params))


@OPTIMIZERS.register("sgd")
def sgd(
    params, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9; weight decay is added to the gradient."""
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=_can_fuse(params)
    )


def build_optimizer(
    name: str,
    params: nn.Module | Iterable[nn.Parameter] | Iterable[dict],
    lr: float,
    weight_decay: float = 0.0,
    *,
    decay_norm_and_bias: bool = True,
    **settings,
) -> torch.optim.Optimizer:
    """An optimizer by its name.

    Args:
        name: adam, adamw, sgd, or a registered one of yours.
        params: a module, its parameters, or groups of them as PyTorch takes them.
        lr: the learning rate until the first `set_learning_rate`.
        weight_decay: factor of the decay; 0 for none.
        decay_norm_and_bias: False spares parameters of at most one dimension, which are biases,
            the scales and shifts of normalization layers and the scalars of losses.

    Returns:
        The optimizer, in one fused kernel per step where PyTorch has one for the device.

    Raises:
        UserError: an unknown name, a learning rate that is not positive, a negative decay.

    Example:
        >>> optimizer = build_optimizer("adam", model, lr=1e-3)
        >>> set_learning_rate(optimizer, schedule(0.0))
        >>> optimizer.step()
    """
    if not 0 < lr < math.inf:
        raise UserError(f"lr must be a positive number, not {lr}")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"weight_decay must be 0 or more, not {weight_decay}")
    groups = _as_groups(params)
    if weight_decay and not decay_norm_and_bias:
        groups = [half for group in groups for half in _split_by_decay(group, weight_decay)]
    settings = {"params": groups, "lr": lr, "weight_decay": weight_decay, **settings}
    return call_with_own_settings(OPTIMIZERS, name, settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this rate, times the group's own `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _as_groups(params) -> list[dict]:
    params = list(params.parameters() if isinstance(params, nn.Module) else params)
    if params and isinstance(params[0], dict):
        return [{**group, "params": list(group["params"])} for group in params]
    return [{"params": params}]


def _split_by_decay(group: dict, weight_decay: float) -> list[dict]:
    decayed = [p for p in group["params"] if p.ndim > 1]
    spared = [p for p in group["params"] if p.ndim <= 1]
    halves = [
        {"weight_decay": weight_decay, **group, "params": decayed},
        {**group, "weight_decay": 0.0, "params": spared},
    ]
    return [half for half in halves if half["params"]]


def _can_fuse(groups) -> bool:
    params = [p for group in _as_groups(groups) for p in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params)


@SCHEDULERS.register("steplr", "step")
@dataclass(frozen=True)
class StepSchedule:
    """The rate times `lr_decay` after every `lr_step_epochs` epochs: lr · decay^⌊epoch / step⌋."""

    lr: float
    lr_decay: float = 0.9
    lr_step_epochs: float = 5

    def __post_init__(self):
        _require_positive(lr_decay=self.lr_decay, lr_step_epochs=self.lr_step_epochs)

    def __call__(self, epoch: float) -> float:
        return self.lr * self.lr_decay ** math.floor(epoch / self.lr_step_epochs)


@SCHEDULERS.register("cosine", "cosinelr", "cosineannealing")
@dataclass(frozen=True)
class CosineSchedule:
    """Half a cosine from `lr` at the start to `min_lr` at `max_epoch`, and `min_lr` from there.

    Source: SGDR (Loshchilov and Hutter, 2017, arXiv:1608.03983), equation 5, without restarts.
    """

    lr: float
    max_epoch: float
    min_lr: float = 1e-5

    def __post_init__(self):
        _require_positive(max_epoch=self.max_epoch)
        _require_room(self.lr, self.min_lr)

    def __call__(self, epoch: float) -> float:
        return _cosine(self.lr, self.min_lr, min(epoch / self.max_epoch, 1.0))


@SCHEDULERS.register("cosine_restart", "cosinerestartlr", "cosinewarmrestart")
@dataclass(frozen=True)
class CosineRestartSchedule:
    """Half a cosine from `lr` towards `min_lr`, begun anew every `restart_epochs` epochs.

    Source: SGDR (Loshchilov and Hutter, 2017, arXiv:1608.03983), equation 5.
    """

    lr: float
    restart_epochs: float = 10
    min_lr: float = 1e-5

    def __post_init__(self):
        _require_positive(restart_epochs=self.restart_epochs)
        _require_room(self.lr, self.min_lr)

    def __call__(self, epoch: float) -> float:
        part = math.fmod(epoch, self.restart_epochs) / self.restart_epochs
        return _cosine(self.lr, self.min_lr, part)


@dataclass(frozen=True)
class Warmup:
    """Scales the first `epochs` epochs of another schedule by a line from 1 % up to 1.

    The schedule's own clock is not shifted: its steps and restarts stay at their epochs.
    """

    schedule: Schedule
    epochs: float

    def __call__(self, epoch: float) -> float:
        ramp = 1.0 if epoch >= self.epochs else 0.01 + 0.99 * epoch / self.epochs
        return ramp * self.schedule(epoch)


def build_schedule(
    name: str,
    *,
    lr: float,
    max_epoch: float,
    lr_decay: float = 0.9,
    lr_step_epochs: float = 5,
    restart_epochs: float = 10,
    min_lr: float = 1e-5,
    warmup_epochs: float = 0,
    **settings,
) -> Schedule:
    """A learning-rate schedule by its name.

    Args:
        name: steplr, cosine, cosine_restart, or a registered one of yours (a class or function
            that takes those of these settings which it needs and gives back a function of the
            position in epochs).
        lr: the largest learning rate.
        max_epoch: the length of the whole training, in epochs.
        lr_decay, lr_step_epochs: for steplr.
        restart_epochs: for cosine_restart.
        min_lr: where the cosines end.
        warmup_epochs: the rate rises from 1 % of the schedule's value during these; 0 for none.

    Returns:
        A function from the position in epochs (float, 0 at the first step) to the rate.

    Raises:
        UserError: an unknown name or a value outside its range.

    Example:
        >>> schedule = build_schedule("steplr", lr=1e-3, max_epoch=70)
        >>> schedule(0.0), schedule(4.99), schedule(5.0)
        (0.001, 0.001, 0.0009000000000000001)
    """
    _require_positive(lr=lr, max_epoch=max_epoch)
    if not 0 <= warmup_epochs < math.inf:
        raise UserError(f"warmup_epochs must be 0 or more, not {warmup_epochs}")
    settings = {
        "lr": lr,
        "max_epoch": max_epoch,
        "lr_decay": lr_decay,
        "lr_step_epochs": lr_step_epochs,
        "restart_epochs": restart_epochs,
        "min_lr": min_lr,
        **settings,
    }
    schedule = call_with_own_settings(SCHEDULERS, name, settings)
    return Warmup(schedule, warmup_epochs) if warmup_epochs else schedule


def _cosine(high: float, low: float, part: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * part)) / 2


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name} must be a positive number, not {value}")


def _require_room(lr: float, min_lr: float) -> None:
    if not 0 <= min_lr <= lr:
        raise UserError(f"min_lr must lie between 0 and lr ({lr:g}), not at {min_lr:g}")
