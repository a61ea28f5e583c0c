"""Exercises of notebook 2: the domain shift, angular prototypical, the semi-hard negative."""

import numpy as np
import torch
import torch.nn.functional as F

from labkit import metrics
from labkit.exercises.core import Mistake, close, exercise, numbers
from labkit.losses import AngularPrototypical


def toy_scores(rng, people: int = 20, easy: float = 0.5) -> dict:
    """Return the scores of a made-up list in which each person has luck of their own.

    Returns lists: scores (n,), labels (n,), left and right (n,), the person in each image.
    """
    luck, alike = rng.normal(size=people) * 0.7, rng.normal(size=people) * 0.5
    own = np.repeat(np.arange(people), 12)
    left, right = np.stack([rng.choice(people, 2, replace=False) for _ in range(len(own))]).T
    targets = easy + luck[own] + 0.3 * rng.normal(size=len(own))
    imposters = -easy + alike[left] + alike[right] + 0.3 * rng.normal(size=len(left))
    scores = np.concatenate([targets, imposters]).round(4)
    labels = np.repeat([1, 0], len(own))
    ids = dict(left=np.append(own, left), right=np.append(own, right))
    return dict(scores=scores, labels=labels) | ids


def interval_of(toy: dict, people: bool = True) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the EER over 400 draws of people, or of pairs."""
    ids = (toy["left"], toy["right"]) if people else (None, None)
    draws = metrics.bootstrap(toy["scores"], toy["labels"], *ids, samples=400)
    return tuple(np.quantile(draws, [0.025, 0.975]))


def eer_and_interval(value, what: str) -> np.ndarray:
    eer, low, high = numbers(value, (3,), f"{what} (EER, low, high)")
    if not low <= eer <= high:
        raise Mistake(
            f"{what}: the EER {eer:.2f} does not lie in its interval {low:.2f}–{high:.2f}."
        )
    return np.array([eer, low, high])


def judge_interval(got, toy: dict, what: str) -> None:
    """Raise Mistake unless (low, high) is as wide as drawing people makes it, or nearly."""
    low, high = got
    widths = [np.subtract(*interval_of(toy, people)[::-1]) for people in (True, False)]
    if high - low < 1e-6:
        raise Mistake(
            f"{what} has no width: every draw is the same. Draw people with replacement, so that "
            "one can come twice and another not at all."
        )
    if high - low < 0.5 * (widths[0] + widths[1]):
        raise Mistake(
            f"{what} is {high - low:.1f} points wide, as if pairs had been drawn. The pairs of one "
            f"person share that person's luck: draw people, which gives about {widths[0]:.1f}."
        )
    if not 0.5 < (high - low) / widths[0] < 3:
        raise Mistake(
            f"{what} is {high - low:.1f} points wide; drawing people gives about {widths[0]:.1f}."
        )
    if abs((low + high) / 2 - np.mean(interval_of(toy))) > widths[0]:
        raise Mistake(f"{what} has the right width but lies elsewhere.")


@exercise("2.1", "the domain shift", minutes=25, points=3)
class DomainShift:
    def draw(rng):
        for easy in ([0.55, 0.35], [0.3, 0.5]):
            world, val = (toy_scores(rng, easy=level) for level in easy)
            yield dict(lists=dict(world=world, val=val, test=toy_scores(rng, easy=0.45)))

    def run(domain_shift, lists):
        result = domain_shift({name: dict(toy) for name, toy in lists.items()})
        if not isinstance(result, dict) or set(result) != {"world", "stars", "shift"}:
            raise Mistake("domain_shift should return a dict with the keys world, stars, shift.")
        both = {part: eer_and_interval(result[part], part) for part in ("world", "stars")}
        return both | dict(shift=numbers(result["shift"], (), "shift"))

    def judge(case, got):
        lists = case["lists"]
        right = {name: metrics.eer(toy["scores"], toy["labels"]) for name, toy in lists.items()}
        world, stars = got["world"][0], got["stars"][0]
        if close([world, stars], [right["world"] / 100, right["val"] / 100], 1e-3):
            raise Mistake(
                "These are fractions; give the EER in percent, as labkit.metrics.eer does."
            )
        if close(stars, right["test"], 1e-3) and not close(stars, right["val"], 1e-3):
            raise Mistake(
                "The stars' EER is that of the test list. While you still choose and compare, the "
                "list is val; test is kept for one last measurement in notebook 3."
            )
        if not close([world, stars], [right["world"], right["val"]], 1e-3):
            raise Mistake(
                f"On these scores the EER of world is {right['world']:.2f} % and that of val "
                f"{right['val']:.2f} %; yours are {world:.2f} and {stars:.2f}."
            )
        if not close(got["shift"], stars - world, 1e-3):
            if close(got["shift"], world - stars, 1e-3):
                raise Mistake(
                    "The sign is turned around: the shift is stars minus world, above 0 when stars "
                    "are harder."
                )
            raise Mistake("The shift is the stars' EER minus the world's, in percentage points.")
        judge_interval(got["world"][1:], lists["world"], "The interval of world")
        judge_interval(got["stars"][1:], lists["val"], "The interval of stars")


@exercise("2.2", "angular_prototypical", minutes=30, points=4)
class AngularPrototypicalOfOnesOwn:
    def draw(rng):
        for w, b in ((10.0, -5.0), (3.0, 1.0)):
            n, d = rng.integers(4, 9, 2)
            yield dict(x=rng.normal(size=(n, 2, d)), w=w, b=b)

    def run(angular_prototypical, x, w, b):
        x = torch.tensor(x, requires_grad=True)
        w, b = torch.tensor(w, dtype=x.dtype), torch.tensor(b, dtype=x.dtype)
        loss = angular_prototypical(x, w, b)
        value = numbers(loss, (), "The loss")
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise Mistake("The loss carries no gradient: compute it with tensors alone.")
        [dx] = torch.autograd.grad(loss, [x])
        turned = angular_prototypical(x.flip(0), w, b)
        return dict(
            loss=value,
            dx=numbers(dx, tuple(x.shape), "The gradient"),
            turned=numbers(turned, (), ""),
        )

    def judge(case, got):
        x, w, b = torch.tensor(case["x"], requires_grad=True), case["w"], case["b"]
        kit = AngularPrototypical().double()
        kit.w.data, kit.b.data = torch.tensor(w).double(), torch.tensor(b).double()
        right = kit.compute(x, torch.arange(len(x))).loss
        loss = got["loss"]
        if close(loss, right.item()):
            if not close(got["dx"], torch.autograd.grad(right, x)[0]):
                raise Mistake("The value is right but its gradient is not: is a part detached?")
            return
        q, c = F.normalize(x.detach(), dim=2).unbind(1)
        own = torch.arange(len(q))
        cosine = w * q @ c.T + b
        others = cosine.masked_fill(torch.eye(len(q), dtype=bool), -torch.inf)
        without = (others.logsumexp(1) - cosine.diag()).mean()
        raw = w * x.detach()[:, 0] @ x.detach()[:, 1].T + b
        wrong = {
            "The person's own prototype is left out of the denominator: the sum goes over all j, "
            "j = i too, so that the loss cannot fall below 0.": without,
            "One image is query and prototype at once: the query is x[:, 0], its prototype "
            "x[:, 1].": min(
                (F.cross_entropy(w * s @ s.T + b, own) for s in (q, c)), key=lambda v: abs(v - loss)
            ),
            "Each prototype looks for its query here. The query, x[:, 0], looks for its prototype "
            "among all: the softmax goes over the prototypes.": F.cross_entropy(cosine.T, own),
            "The embeddings are not scaled to length 1, so these are no cosines.": F.cross_entropy(
                raw, own
            ),
            "w and b are missing.": F.cross_entropy(q @ c.T, own),
            "This is the sum over the people; the loss is their mean.": len(q) * right.detach(),
        }
        for sentence, value in wrong.items():
            if close(loss, value.item()):
                raise Mistake(sentence)
        if not close(loss, got["turned"]):
            raise Mistake("The loss changes with the order of the people, which means nothing.")
        raise Mistake(f"For {len(q)} people the loss should be {right:.4f}, yours is {loss:.4f}.")


@exercise("2.3", "the semi-hard negative", minutes=20, points=3)
class SemiHardNegative:
    def draw(rng):
        # By hand: anchor 0, positive 1 at 0.5; others at 0.3 (too near), 0.6, 0.9.
        row = np.array([0.0, 0.5, 0.6, 0.3, 0.9, 0.55])
        yield dict(row=row, people=np.array([7, 7, 3, 4, 5, 7]), positive=1)
        yield dict(row=row, people=np.array([7, 7, 7, 4, 4, 7]), positive=5)
        yield dict(row=np.array([0.0, 0.8, 0.6, 0.3]), people=np.array([1, 1, 2, 3]), positive=1)
        for _ in range(20):
            n = int(rng.integers(6, 14))
            people = np.append([0, 0], rng.integers(0, 4, n - 2))
            people[-1] = 1
            row = rng.permutation(np.linspace(0.05, 3.9, n))
            row[0] = 0
            yield dict(row=row, people=people, positive=1)

    def run(semi_hard_negative, row, people, positive):
        answer = semi_hard_negative(torch.tensor(row), torch.tensor(people), 0, positive)
        index = float(numbers(answer, (), "The index"))
        if not index.is_integer() or not 0 <= index < len(row):
            raise Mistake(f"The index should be a whole number from 0 to {len(row) - 1}.")
        return dict(index=int(index))

    def judge(case, got):
        row, people, index = case["row"], case["people"], got["index"]
        other, to_positive = people != people[0], row[case["positive"]]
        qualify = other & (row > to_positive)
        right = (
            np.where(qualify, row, np.inf).argmin()
            if qualify.any()
            else np.where(other, row, -np.inf).argmax()
        )
        if index == right:
            return
        distances = ", ".join(f"{d:.2f}" for d in row)
        shown = f"(distances {distances}; people {people.tolist()}; positive {case['positive']})"
        if not qualify.any():
            raise Mistake(
                "No negative is farther away than the positive here: then take the farthest of all "
                f"negatives, {right}. {shown}"
            )
        if not other[index]:
            raise Mistake(f"Image {index} shows the anchor's own person: no negative. {shown}")
        if index == np.where(other, row, -np.inf).argmax():
            raise Mistake(
                "That is the farthest negative, the easiest of all. These are distances, not "
                f"similarities: small means alike. {shown}"
            )
        if row[index] <= to_positive:
            raise Mistake(
                f"Image {index} is nearer than the positive: a hard negative. A semi-hard one is "
                f"farther away than the positive, but only just. {shown}"
            )
        raise Mistake(f"Image {right} is a nearer one that qualifies. {shown}")
