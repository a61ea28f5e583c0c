import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from labkit.optim import build_optimizer, build_schedule, set_learning_rate
from labkit.registry import OPTIMIZERS, SCHEDULERS
from labkit.utils import UserError


def rates_of_pytorch(make, epochs, lr=1e-3):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "settings", "make"),
    [
        (
            "steplr",
            {"lr_decay": 0.9, "lr_step_epochs": 5},
            lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.9),
        ),
        (
            "cosine",
            {"min_lr": 1e-5},
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=1e-5),
        ),
        (
            "cosineRestartlr",
            {},
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=10, eta_min=1e-5),
        ),
    ],
)
def test_schedules_equal_pytorchs_at_whole_epochs(name, settings, make):
    schedule = build_schedule(name, lr=1e-3, max_epoch=40, **settings)
    expected = rates_of_pytorch(make, epochs=40)
    assert [schedule(float(e)) for e in range(40)] == pytest.approx(expected, rel=1e-9)


def test_step_schedule_holds_within_its_epochs():
    schedule = build_schedule("steplr", lr=1.0, max_epoch=70, lr_decay=0.5, lr_step_epochs=5)
    assert schedule(4.999) == 1.0
    assert schedule(5.0) == schedule(9.5) == 0.5


def test_cosine_ends_at_its_floor_and_stays_there():
    schedule = build_schedule("cosine", lr=1.0, max_epoch=8, min_lr=0.25)
    assert schedule(4) == pytest.approx(0.625)
    assert schedule(8) == schedule(11.5) == 0.25


def test_restarts_begin_anew_every_ten_epochs():
    schedule = build_schedule("cosine_restart", lr=5e-4, max_epoch=50)
    assert schedule(0.0) == schedule(10.0) == schedule(40.0) == 5e-4
    assert schedule(9.9999) == pytest.approx(1e-5, rel=1e-3)
    assert schedule(13.25) == pytest.approx(schedule(3.25), rel=1e-12)


@pytest.mark.parametrize("name", ["steplr", "cosine", "cosine_restart"])
def test_warm_up_climbs_to_the_schedule_without_shifting_it(name):
    cold = build_schedule(name, lr=1e-3, max_epoch=20)
    warm = build_schedule(name, lr=1e-3, max_epoch=20, warmup_epochs=4)
    assert 0 < warm(0.0) == pytest.approx(0.01 * cold(0.0))
    assert warm(2.0) == pytest.approx((0.01 + 0.99 / 2) * cold(2.0))
    assert [warm(e) for e in (4.0, 7.5, 19.0)] == [cold(e) for e in (4.0, 7.5, 19.0)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive"),
        ({"lr": math.nan}, "lr must be a positive"),
        ({"max_epoch": 0}, "max_epoch must be a positive"),
        ({"warmup_epochs": -1}, "warmup_epochs must be 0 or more"),
        ({"min_lr": 0.1}, "min_lr must lie between 0 and lr"),
        ({"restart_epochs": 0}, "restart_epochs must be a positive"),
        ({"resatrt_epochs": 3}, "did you mean restart_epochs"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(UserError, match=message):
        build_schedule("cosine_restart", **{"lr": 1e-3, "max_epoch": 20, **settings})


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown scheduler 'cosin'; did you mean cosine"):
        build_schedule("cosin", lr=1e-3, max_epoch=20)
    with pytest.raises(UserError, match="unknown optimizer 'adan'; did you mean adam"):
        build_optimizer("adan", nn.Linear(2, 2), lr=1e-3)


def test_a_schedule_of_ones_own_is_a_function_of_the_settings_it_needs():
    @SCHEDULERS.register("halving-test")
    def halving(lr, max_epoch):
        return lambda epoch: lr * 2 ** (-epoch / max_epoch)

    try:
        assert build_schedule("halving_test", lr=1.0, max_epoch=4)(4.0) == 0.5
    finally:
        del SCHEDULERS._entries["halvingtest"]


def by_hand(name, gradients, lr, decay):
    """The textbook update of one number, step by step."""
    x = v = m = 0.0
    m2 = 0.0
    x = 1.0
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
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = build_optimizer(name, [x], lr=0.1, weight_decay=0.2)
    gradients = [0.5, -1.0, 2.0]
    for g in gradients:
        x.grad = torch.full_like(x, g)
        optimizer.step()
    assert x.item() == pytest.approx(by_hand(name, gradients, 0.1, 0.2), rel=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_norms_and_biases_can_be_spared_from_decay(name):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = [p.clone() for p in model.parameters()]
    optimizer = build_optimizer(name, model, 0.1, 0.5, decay_norm_and_bias=False)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert changed == [True, False, False, False]


def test_every_parameter_is_in_one_group_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.PReLU(3))
    for decay_norm_and_bias in (True, False):
        optimizer = build_optimizer(
            "adam", model.parameters(), 0.1, 0.5, decay_norm_and_bias=decay_norm_and_bias
        )
        got = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(got) == sorted(id(p) for p in model.parameters())


def test_groups_keep_their_own_settings_and_rates_follow_the_schedule():
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        {"params": backbone.parameters(), "lr_scale": 0.1},
        {"params": head.parameters(), "weight_decay": 0.0},
    ]
    optimizer = build_optimizer("adamw", groups, lr=1e-3, weight_decay=0.1)
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.5]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]


def test_bad_optimizer_settings_are_user_errors():
    with pytest.raises(UserError, match="lr must be a positive number, not -1"):
        build_optimizer("adam", nn.Linear(2, 2), lr=-1)
    with pytest.raises(UserError, match="weight_decay must be 0 or more, not -1"):
        build_optimizer("adam", nn.Linear(2, 2), lr=1, weight_decay=-1)
