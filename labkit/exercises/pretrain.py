"""Exercises of notebook 1: cosines, AM-Softmax, a network of one's own, three margins."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from labkit.config import TrainConfig
from labkit.exercises.core import Mistake, close, exercise, numbers
from labkit.losses import AAMSoftmax, AMSoftmax

MAX_PARAMETERS = 300_000
MARGINS = (0.0, 0.1, 0.3)


@exercise("1.1", "cosine_matrix", minutes=15, points=2)
class CosineMatrix:
    def draw(rng):
        for n, m, d in (rng.integers(3, 9, 3) for _ in range(3)):
            yield dict(a=rng.normal(size=(n, d)) * 3, b=rng.normal(size=(m + 9, d)))
        zero = rng.normal(size=(4, 6))
        zero[1] = 0
        yield dict(a=zero, b=rng.normal(size=(3, 6)))

    def run(cosine_matrix, a, b):
        result = cosine_matrix(torch.tensor(a), torch.tensor(b))
        if isinstance(result, torch.Tensor) and result.isnan().any() and (a == 0).all(1).any():
            raise Mistake(
                "A vector of zeros gives NaN: its length is 0, so add a small number before you "
                "divide, or use torch.nn.functional.normalize."
            )
        return dict(cosines=numbers(result, (len(a), len(b)), "The result"))

    def judge(case, got):
        a, b, cosines = case["a"], case["b"], np.asarray(got["cosines"])
        products = [[sum(x * y for x, y in zip(p, q)) for q in b] for p in a]
        lengths = [[max(np.hypot.reduce(p) * np.hypot.reduce(q), 1e-12) for q in b] for p in a]
        if close(cosines, np.divide(products, lengths), 1e-5):
            return
        if close(cosines, products):
            raise Mistake(
                "These are dot products. Divide each row of a and of b by its length first."
            )
        columns = F.normalize(torch.tensor(a), dim=0) @ F.normalize(torch.tensor(b), dim=0).T
        if close(cosines, columns):
            raise Mistake(
                "The lengths are taken along the wrong axis: one face is one row, so normalize "
                "with dim=1."
            )
        if np.abs(cosines).max() > 1 + 1e-6:
            raise Mistake(
                "Some values are beyond -1 to 1, which no cosine is: have both a and b length 1?"
            )
        raise Mistake("The values are not the cosines: compare one of them with a loop by hand.")


@exercise("1.2", "am_softmax", minutes=30, points=4)
class AMSoftmaxOfOnesOwn:
    def draw(rng):
        for margin, scale in ((0.2, 30.0), (0.35, 12.0), (0.0, 20.0)):
            n, classes, d = rng.integers(4, 8, 3)
            x, W = rng.normal(size=(n, d)) * 2, rng.normal(size=(classes, d))
            yield dict(x=x, W=W, y=rng.integers(0, classes, n), m=margin, s=scale)

    def run(am_softmax, x, W, y, m, s):
        x, W = torch.tensor(x, requires_grad=True), torch.tensor(W, requires_grad=True)
        loss = am_softmax(x, W, torch.tensor(y), m, s)
        value = numbers(loss, (), "The loss")
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise Mistake(
                "The loss carries no gradient: compute it with tensors alone, without .item(), "
                ".detach() or NumPy."
            )
        gradients = torch.autograd.grad(loss, [x, W], allow_unused=True)
        if None in gradients:
            raise Mistake("The loss has no gradient for x or for W: are both in the formula?")
        dx, dW = (numbers(g, tuple(g.shape), "The gradient") for g in gradients)
        return dict(loss=value, dx=dx, dW=dW)

    def judge(case, got):
        x, W, y, m, s = (case[name] for name in "xWyms")
        right = _am_softmax(AMSoftmax, x, W, y, m, s)
        if all(close(got[name], right[name]) for name in ("loss", "dx", "dW")):
            return
        loss, n = got["loss"], len(y)
        cosine = F.linear(F.normalize(torch.tensor(x)), F.normalize(torch.tensor(W)))
        own = F.one_hot(torch.tensor(y), len(W))

        def entropy(logits, reduction="mean"):
            return float(F.cross_entropy(logits, torch.tensor(y), reduction=reduction))

        product = torch.tensor(x) @ torch.tensor(W).T
        wrong = {
            "The scale s is missing: multiply the cosines, after the margin, by s.": entropy(
                cosine - m * own
            ),
            "The margin is taken off after the scale: it is s · (cos θ - m), not s · cos θ - m.": (
                entropy(s * cosine - m * own)
            ),
            "The margin is taken off every class, where it cancels out: only the column of the "
            "own person y gets it.": entropy(s * (cosine - m)),
            "The margin is on the angle, cos(θ + m). That is AAM-Softmax (ArcFace); AM-Softmax "
            "takes it off the cosine, cos θ - m.": _am_softmax(AAMSoftmax, x, W, y, m, s)["loss"],
            "The margin has the wrong sign: it makes the own person's cosine smaller.": entropy(
                s * (cosine + m * own)
            ),
            "x and W are not scaled to length 1, so these are no cosines.": entropy(
                s * (product - m * own)
            ),
            "This is the sum over the images; the loss is their mean.": n * float(right["loss"]),
        }
        for sentence, value in wrong.items():
            if close(loss, value) and not close(value, right["loss"]):
                raise Mistake(sentence)
        if close(loss, right["loss"]):
            raise Mistake(
                "The value is right but its gradient is not: is a part of it detached or rounded?"
            )
        raise Mistake(
            f"For {n} images and {len(W)} people the loss should be {float(right['loss']):.4f}, "
            f"yours is {float(loss):.4f}. Write down the logits of one image and compare."
        )


def _am_softmax(kind, x, W, y, m, s) -> dict:
    """Return value and gradients of the kit's own loss, in float64."""
    loss = kind(x.shape[1], len(W), margin=m, scale=s).double()
    loss.weight.data = torch.tensor(W)
    embeddings = torch.tensor(x, requires_grad=True)
    value = loss.compute(embeddings[:, None], torch.tensor(y)).loss
    dx, dW = torch.autograd.grad(value, [embeddings, loss.weight])
    return dict(loss=value.item(), dx=dx, dW=dW)


@exercise("1.3", "a network of your own", minutes=40, points=4)
class NetworkOfOnesOwn:
    def draw(rng):
        size = int(rng.integers(3, 9)) * 8
        yield dict(embedding_size=size, images=rng.integers(0, 256, (16, 3, 32, 32)))

    def run(network, embedding_size, images):
        torch.manual_seed(0)
        net = network(embedding_size)
        if not isinstance(net, nn.Module):
            raise Mistake("The class should extend torch.nn.Module.")
        x = (torch.tensor(images).float() / 255 - 0.5) / 0.25
        embeddings = net(x)
        numbers(embeddings, (len(x), embedding_size), "What the network returns for 16 faces")
        embeddings.square().sum().backward()
        named = dict(net.named_parameters())
        idle = [name for name, p in named.items() if p.grad is None or not p.grad.any()]
        # Eight people, two pictures each: enough steps to learn them by heart.
        classifier = nn.Linear(embedding_size, 8)
        y = torch.arange(8).repeat_interleave(2)
        optimizer = torch.optim.Adam([*net.parameters(), *classifier.parameters()], 3e-3)
        parameters = sum(p.numel() for p in named.values())
        for _ in range(50 if parameters <= MAX_PARAMETERS else 0):
            optimizer.zero_grad()
            loss = F.cross_entropy(classifier(net(x)), y)
            loss.backward()
            optimizer.step()
        right = (classifier(net(x)).argmax(1) == y).float().mean()
        return dict(parameters=sum(p.numel() for p in named.values()), idle=idle, right=100 * right)

    def judge(case, got):
        if not 0 < got["parameters"] <= MAX_PARAMETERS:
            raise Mistake(
                f"It has {got['parameters']:,} parameters, and {MAX_PARAMETERS:,} are allowed: "
                "fewer channels, or pool before the last layer."
            )
        if got["idle"]:
            raise Mistake(
                f"No gradient reaches {', '.join(map(str, got['idle'][:3]))}: is that layer used "
                "in forward, or is its output detached?"
            )
        if got["right"] < 90:
            raise Mistake(
                f"After 50 steps it knows {got['right']:.0f} % of 16 pictures of 8 people; a "
                "network that learns knows them by heart. Do different faces reach the last layer "
                "as different numbers?"
            )


@exercise("1.4", "three margins", minutes=25, points=3)
class ThreeMargins:
    def draw(rng):
        name = f"run{rng.integers(1000)}"
        changes = dict(seed=int(rng.integers(100)), max_epoch=int(rng.integers(1, 9)))
        yield dict(settings=dict(run_dir=f"runs/{name}", loss="amsoftmax", margin=0.2, **changes))

    def run(three_runs, prediction, settings):
        guess = prediction()
        if guess not in MARGINS:
            raise Mistake(f"prediction() should return one of {MARGINS}, but returned {guess!r}.")
        configs = three_runs(TrainConfig(**settings))
        if not isinstance(configs, (list, tuple)) or len(configs) != 3:
            raise Mistake("three_runs should return a list of three configurations.")
        for config in configs:
            if not isinstance(config, TrainConfig):
                kind = type(config).__name__
                raise Mistake(f"Each entry should be a TrainConfig, as config is, but is a {kind}.")
        return dict(configs=[dataclasses.asdict(config) for config in configs])

    def judge(case, got):
        base = dataclasses.asdict(TrainConfig(**case["settings"]))
        configs = got["configs"]
        changed = {n for c in configs for n in base if c[n] != base[n]} - {"margin", "run_dir"}
        if changed:
            raise Mistake(
                f"{', '.join(sorted(changed))} changed too: then nobody can say whether the margin "
                "made the difference."
            )
        if len({c["run_dir"] for c in configs}) < 3:
            raise Mistake(
                "Two runs share a run folder: the second would find the first and train nothing. "
                "Give each its own run_dir."
            )
        if sorted(c["margin"] for c in configs) != sorted(MARGINS):
            found = ", ".join(str(c["margin"]) for c in configs)
            raise Mistake(f"The margins should be 0, 0.1 and 0.3; they are {found}.")
