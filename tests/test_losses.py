import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as oracle

from labkit import losses
from labkit.losses import build_loss
from labkit.registry import LOSSES
from labkit.utils import UserError

CLASSES, SIZE = 7, 6


def batch(identities=5, per_class=3, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(identities, per_class, SIZE, generator=g, dtype=torch.float64)
    x += 1.5 * torch.randn(identities, 1, SIZE, generator=g, dtype=torch.float64)
    labels = torch.randperm(CLASSES, generator=g)[:identities]
    return x.to(dtype).requires_grad_(), labels


# The slow loops: one number at a time, from the papers' formulas.


def cos(a, b):
    return a @ b / (a.norm() * b.norm())


def squared_distance(a, b):
    return (a - b).square().sum()


def unit(a):
    return a / a.norm()


def mean(values):
    return sum(values) / len(values)


def minus_log_softmax(scores, target):
    return -(scores[target].exp() / sum(s.exp() for s in scores)).log()


def images(x, labels):
    return [(x[i, j], int(labels[i])) for i in range(len(x)) for j in range(x.shape[1])]


def slow_softmax(x, labels, loss):
    w, b = loss.fc.weight, loss.fc.bias
    logits = [([w[k] @ e + b[k] for k in range(CLASSES)], y) for e, y in images(x, labels)]
    return mean([minus_log_softmax(scores, y) for scores, y in logits])


def slow_margin_softmax(x, labels, loss):
    terms = []
    for e, y in images(x, labels):
        cosines = [cos(loss.weight[k], e) for k in range(CLASSES)]
        angle = torch.acos(cosines[y])
        if not isinstance(loss, losses.AAMSoftmax):
            cosines[y] = cosines[y] - loss.margin
        elif angle + loss.margin < math.pi:
            cosines[y] = torch.cos(angle + loss.margin)
        else:
            cosines[y] = cosines[y] - loss.margin * math.sin(loss.margin)
        terms.append(minus_log_softmax([loss.scale * c for c in cosines], y))
    return mean(terms)


def slow_triplet(x, labels, loss):
    terms = []
    for i in range(len(x)):
        for j in range(1, x.shape[1]):
            to_positive = squared_distance(unit(x[i, 0]), unit(x[i, j]))
            strangers = [e for e, y in images(x, labels) if y != labels[i]]
            others = [squared_distance(unit(x[i, 0]), unit(e)) for e in strangers]
            if loss.mining == "hard":
                to_negative = min(others)
            else:
                beyond = [d for d in others if d > to_positive]
                to_negative = min(beyond) if beyond else max(others)
            terms.append(torch.relu(to_positive - to_negative + loss.margin))
    return mean(terms)


def slow_prototypical(x, labels, loss):
    angular = isinstance(loss, losses.AngularPrototypical)
    prototypes, terms = [mean(list(x[k, 1:])) for k in range(len(x))], []
    for i in range(len(x)):
        scores = [-squared_distance(x[i, 0], c) for c in prototypes]
        if angular:
            scores = [loss.w * cos(x[i, 0], c) + loss.b for c in prototypes]
        terms.append(minus_log_softmax(scores, i))
    return mean(terms)


def slow_ge2e(x, labels, loss):
    terms = []
    for j in range(len(x)):
        for i in range(x.shape[1]):
            scores = []
            for k in range(len(x)):
                members = [unit(x[k, m]) for m in range(x.shape[1]) if (k, m) != (j, i)]
                scores.append(loss.w * cos(unit(x[j, i]), mean(members)) + loss.b)
            terms.append(minus_log_softmax(scores, j))
    return mean(terms)


def slow_softmax_prototypical(x, labels, loss):
    classified = slow_softmax(x, labels, loss.softmax)
    return classified + slow_prototypical(x, labels, loss.angleproto)


def slow_supcon(x, labels, loss):
    z = [(unit(e), y) for e, y in images(x, labels)]
    terms = []
    for i, (zi, yi) in enumerate(z):
        others = [(zi @ za / loss.temperature, ya) for a, (za, ya) in enumerate(z) if a != i]
        total = sum(score.exp() for score, _ in others)
        terms.append(-mean([(score.exp() / total).log() for score, y in others if y == yi]))
    return mean(terms)


CASES = {
    "softmax": (lambda: losses.Softmax(SIZE, CLASSES), slow_softmax),
    "amsoftmax": (lambda: losses.AMSoftmax(SIZE, CLASSES, 0.2, 12), slow_margin_softmax),
    "aamsoftmax": (lambda: losses.AAMSoftmax(SIZE, CLASSES, 0.3, 12), slow_margin_softmax),
    "aamsoftmax, wide": (lambda: losses.AAMSoftmax(SIZE, CLASSES, 1.9, 3), slow_margin_softmax),
    "triplet, hard": (lambda: losses.Triplet(0.3, "hard"), slow_triplet),
    "triplet, semihard": (lambda: losses.Triplet(0.3, "semihard"), slow_triplet),
    "proto": (losses.Prototypical, slow_prototypical),
    "angproto": (losses.AngularPrototypical, slow_prototypical),
    "ge2e": (losses.GE2E, slow_ge2e),
    "softmaxproto": (lambda: losses.SoftmaxPrototypical(SIZE, CLASSES), slow_softmax_prototypical),
    "supcon": (lambda: losses.SupCon(0.2), slow_supcon),
}


TOLERANCE = {torch.float64: dict(rtol=1e-9, atol=1e-11), torch.float32: dict(rtol=1e-4, atol=2e-5)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_equal_a_slow_loop_from_the_paper(case, dtype):
    make, slow = CASES[case]
    torch.manual_seed(1)
    loss_function = make().to(dtype)
    for per_class in (1, 2, 3):
        if per_class < loss_function.min_images_per_class:
            continue
        x, labels = batch(4, per_class, dtype=dtype, seed=per_class)
        inputs = [x, *loss_function.parameters()]
        loss, accuracy = loss_function(x, labels)
        expected = slow(x, labels, loss_function)
        assert loss.dtype == dtype and loss.shape == ()
        torch.testing.assert_close(loss, expected, **TOLERANCE[dtype])
        got = torch.autograd.grad(loss, inputs)
        want = torch.autograd.grad(expected, inputs)
        torch.testing.assert_close(got, want, **TOLERANCE[dtype])
        assert 0 <= accuracy <= 100 and not accuracy.requires_grad


def test_every_registered_loss_is_compared_with_a_slow_loop():
    kits_own = {n for n in LOSSES.names() if LOSSES.get(n).__module__ == "labkit.losses"}
    assert {case.split(",")[0] for case in CASES} == kits_own


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            losses.AMSoftmax(SIZE, CLASSES, 0.35, 20),
            oracle.CosFaceLoss(CLASSES, SIZE, margin=0.35, scale=20),
        ),
        (
            losses.AAMSoftmax(SIZE, CLASSES, math.radians(28.6), 20),
            oracle.ArcFaceLoss(CLASSES, SIZE, margin=28.6, scale=20),
        ),
        (losses.SupCon(0.15), oracle.SupConLoss(temperature=0.15)),
    ],
)
def test_losses_equal_pytorch_metric_learning(ours, theirs):
    ours, theirs = ours.double(), theirs.double()
    x, labels = batch(6, 3)
    for weight in ours.parameters():
        theirs.W.data.copy_(weight.data.T)
    found = ours(x, labels).loss
    expected = theirs(x.flatten(0, 1), labels.repeat_interleave(3))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    got, want = torch.autograd.grad(found, x), torch.autograd.grad(expected, x)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


every_loss = pytest.mark.parametrize("name", LOSSES.names())


@every_loss
def test_loss_is_computed_in_float32_under_autocast(name):
    loss_function = build_loss(name, embedding_size=SIZE, num_classes=CLASSES)
    x, labels = batch(4, 2, dtype=torch.bfloat16)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss_function(x, labels).loss
    torch.manual_seed(0)
    full = loss_function(x.detach().float(), labels).loss
    assert low.dtype == torch.float32
    assert torch.equal(low, full)
    low.backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all()


@every_loss
def test_extreme_embeddings_give_finite_gradients(name):
    loss_function = build_loss(name, embedding_size=SIZE, num_classes=CLASSES)
    _, labels = batch(4, 2)
    alike, zero, large = torch.ones(4, SIZE), torch.zeros(4, SIZE), 1e3 * torch.eye(SIZE)[:4]
    own_vectors = [loss_function.weight[labels]] if name == "aamsoftmax" else []
    for rows in (alike, zero, large, *own_vectors):
        x = rows.detach()[:, None].repeat(1, 2, 1).requires_grad_()
        loss = loss_function(x, labels).loss
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()


def test_accuracy_counts_right_answers():
    x = torch.eye(4)[:, None].repeat(1, 2, 1)
    labels = torch.arange(4)
    x[3, 0], x[3, 1] = x[0, 0], x[1, 1]
    assert losses.AngularPrototypical()(x, labels).accuracy == 75
    classifier = losses.AMSoftmax(4, 4, margin=0.9)
    classifier.weight.data.copy_(torch.eye(4))
    assert classifier(x, labels).accuracy == 75
    # Identities 0 and 1 have an image of identity 3 as near as their own; 3's own is far.
    assert losses.Triplet(mining="hard")(x, labels).accuracy == 25


def test_random_triplets_use_every_negative_equally_often_and_follow_the_seed():
    """Two identities with two images: each anchor has two negatives, so there are four losses."""
    x, labels = batch(2, 2)
    loss_function = losses.Triplet(margin=4, mining="random")
    squared = torch.cdist(F.normalize(x[:, 0], dim=1), F.normalize(x.flatten(0, 1), dim=1)) ** 2
    (_, to_0, a, b), (c, d, _, to_1) = squared.tolist()
    expected = [4 + (to_0 + to_1 - first - second) / 2 for first in (a, b) for second in (c, d)]

    def draw():
        torch.manual_seed(3)
        return [loss_function(x, labels).loss.item() for _ in range(400)]

    drawn = draw()
    counts = [sum(value == pytest.approx(loss) for value in drawn) for loss in expected]
    assert sum(counts) == 400 and min(counts) > 60
    assert draw() == drawn


@pytest.mark.parametrize("loss_class", [losses.AngularPrototypical, losses.GE2E])
def test_learned_scale_stays_positive_and_can_grow_again(loss_class):
    loss_function = loss_class()
    x, labels = batch(5, 3, dtype=torch.float32)
    loss_function.w.data.fill_(-2.0)
    loss = loss_function(x, labels).loss
    assert loss.item() == pytest.approx(math.log(5), abs=1e-4)
    loss.backward()
    assert loss_function.w.grad < 0


@every_loss
def test_order_of_identities_does_not_matter(name):
    order = torch.tensor([3, 0, 4, 1, 2])
    settings = dict(embedding_size=SIZE, num_classes=CLASSES, mining="semihard")
    loss_function = build_loss(name, **settings).double()
    x, labels = batch(5, 3)
    torch.testing.assert_close(loss_function(x, labels), loss_function(x[order], labels[order]))


@pytest.mark.parametrize(
    ("loss_class", "names"),
    [
        (losses.Softmax, "softmax CrossEntropy"),
        (losses.AMSoftmax, "amsoftmax CosFace additive-margin-softmax"),
        (losses.AAMSoftmax, "aamsoftmax ArcFace additive-angular-margin-softmax"),
        (losses.Triplet, "triplet"),
        (losses.Prototypical, "proto prototypical"),
        (losses.AngularPrototypical, "angproto angleproto angular_prototypical"),
        (losses.GE2E, "GE2E generalized-end-to-end"),
        (losses.SoftmaxPrototypical, "softmaxproto softmax_prototypical"),
        (losses.SupCon, "supcon supervised-contrastive"),
    ],
)
def test_names_of_the_field_are_known(loss_class, names):
    assert all(LOSSES.get(name) is loss_class for name in names.split())


def test_settings_reach_the_losses_that_take_them(monkeypatch):
    settings = dict(embedding_size=SIZE, num_classes=3, margin=0.2, scale=7, temperature=1.0)
    loss_function = build_loss("ArcFace", **settings)
    assert isinstance(loss_function, losses.AAMSoftmax)
    assert (loss_function.margin, loss_function.scale) == (0.2, 7)
    assert loss_function.weight.shape == (3, SIZE)
    assert isinstance(build_loss("angproto", embedding_size=SIZE), losses.AngularPrototypical)
    assert build_loss("amsoftmax", **settings | dict(margin=None)).margin == 0.1
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    LOSSES.register("passes")(lambda **rest: rest)
    LOSSES.register("bare")(type("Bare", (losses.EmbeddingLoss,), {}))
    assert build_loss("passes", **settings) == settings
    assert isinstance(build_loss("bare", **settings), losses.EmbeddingLoss)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("softmaxx", {}, "unknown loss 'softmaxx'; did you mean softmax"),
        ("amsoftmax", {"num_classes": None}, "needs num_classes: set it"),
        ("amsoftmax", {"num_classes": 1}, "num_classes must be 2 or more, not 1"),
        ("amsoftmax", {"margin": -0.1}, "margin must be 0 or more"),
        ("amsoftmax", {"scale": 0}, "scale must be more than 0"),
        ("aamsoftmax", {"margin": 28.6}, "an angle below pi"),
        ("triplet", {"mining": "easy"}, "mining is one of random, semihard, hard"),
        ("supcon", {"temperature": 0}, "temperature must be more than 0"),
        ("triplet", {"margin": math.nan}, "margin must be 0 or more"),
    ],
)
def test_bad_settings_are_one_clear_line(name, settings, message):
    with pytest.raises(UserError, match=message):
        build_loss(name, **{"embedding_size": SIZE, "num_classes": 5, **settings})


@every_loss
def test_bad_shapes_are_told_with_what_was_expected(name):
    loss_function = build_loss(name, embedding_size=SIZE, num_classes=5)
    with pytest.raises(ValueError, match="expected embeddings .*got \\(4, 6\\) and \\(4,\\)"):
        loss_function(torch.zeros(4, SIZE), torch.arange(4))
    with pytest.raises(ValueError, match="expected embeddings"):
        loss_function(torch.zeros(4, 2, SIZE), torch.arange(3))
    if loss_function.min_images_per_class == 2:
        with pytest.raises(UserError, match="at least 2 images per class, not 1"):
            loss_function(torch.zeros(4, 1, SIZE), torch.arange(4))
        with pytest.raises(ValueError, match="at least 2 identities"):
            loss_function(torch.zeros(1, 2, SIZE), torch.arange(1))
