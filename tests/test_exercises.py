"""The exercises: the notebooks' solutions are right, and each mistake is named in one sentence."""

import dataclasses
import math
import re

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit import metrics
from labkit.exercises import EXERCISES, check, core
from labkit.losses import AAMSoftmax, AngularPrototypical  # noqa: F401  (what answers may use)
from labkit.notebooks import NOTEBOOKS, notebook_folder
from labkit.registry import MODELS


def cells() -> dict:
    """Return all cells of the notebooks by id."""
    notebooks = [nbformat.read(notebook_folder() / f"{n}.ipynb", as_version=4) for n in NOTEBOOKS]
    return {cell["id"]: cell for notebook in notebooks for cell in notebook.cells}


CELLS = cells()


def answers(number: str, change=lambda code: code) -> list:
    """Return the functions of an exercise's answer cell, its code changed before it is run."""
    cell = f"-{number.replace('.', '-')}"
    names = re.match(rf'.*check\("{number}", (.*)\)', CELLS["check" + cell].source)[1].split(", ")
    scope = dict(np=np, torch=torch, F=F, nn=nn, metrics=metrics, dataclasses=dataclasses)
    scope["MODELS"] = type(MODELS)("model")
    exec(change(CELLS["answer" + cell].source), scope)
    return [scope[name] for name in names]


def message(number: str, *given, capsys) -> str:
    capsys.readouterr()
    solved = check(number, *given)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and solved == out.startswith("✓"), out
    return out


@pytest.mark.parametrize("number", sorted(EXERCISES))
def test_the_solution_scores_for_any_inputs_and_an_empty_or_failing_one_does_not(number, capsys):
    about = EXERCISES[number]
    for seed in range(3):
        assert core.try_answers(about, tuple(answers(number)), seed) is None
    stub = r"\1raise NotImplementedError()\n"
    gap = r"(?s)( *)### BEGIN SOLUTION.*?### END SOLUTION\n?"
    empty = answers(number, lambda code: re.sub(gap, stub, code))
    assert message(number, *empty, capsys=capsys).startswith("○")

    def fails(code):
        return re.sub(gap, r"\1return 1 + undefined_name\n", code)

    assert "NameError: name 'undefined_name'" in message(
        number, *answers(number, fails), capsys=capsys
    )
    for wrong in (None, 3, "text"):
        assert message(number, *[wrong for _ in empty], capsys=capsys).startswith("✗")
    nothing = message(number, *[lambda *a, **k: None for _ in empty], capsys=capsys)
    assert nothing.startswith("✗") and "Error" not in nothing


def test_every_exercise_has_its_cells_and_its_points_are_the_ones_that_are_counted():
    assert len(EXERCISES) >= 14
    for number, about in EXERCISES.items():
        cell = f"-{number.replace('.', '-')}"
        text = CELLS["exercise" + cell].source
        assert f"### Exercise {number} · " in text and "<details>" in text and "**Goal:**" in text
        assert f"*{about.minutes} minutes, {about.points} point" in text
        assert 15 <= about.minutes <= 40
        kinds = {part: CELLS[part + cell].metadata["nbgrader"] for part in ("answer", "check")}
        assert kinds["check"]["points"] == about.points and kinds["check"]["grade"]
        assert kinds["answer"]["solution"] and not kinds["answer"]["grade"]
        assert "BEGIN HIDDEN TESTS" in CELLS["check" + cell].source
        assert CELLS["question" + cell].source.startswith("**To think about.** ")
        assert CELLS["thoughts" + cell].metadata["nbgrader"]["solution"]


def cosine(x, W):
    return F.normalize(x, dim=-1) @ F.normalize(W, dim=-1).T


def entropy(logits, y):
    return F.cross_entropy(logits, y)


def margin(s, c, m, y):
    return s * (c - m * F.one_hot(y, c.shape[1]))


def angle(x, W, y, m, s):
    turned = torch.cos(torch.acos(cosine(x, W)) + m)
    return entropy(s * torch.where(F.one_hot(y, len(W)) > 0, turned, cosine(x, W)), y)


def angular(q, c, w, b):
    return entropy(w * cosine(q, c) + b, torch.arange(len(q)))


def no_diagonal(x, w, b):
    scores = w * cosine(x[:, 0], x[:, 1]) + b
    others = scores.masked_fill(torch.eye(len(x), dtype=bool), -torch.inf)
    return (others.logsumexp(1) - scores.diag()).mean()


class Small(nn.Module):
    def __init__(self, size, channels=32, detached=False, off=0):
        super().__init__()
        self.detached = detached
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 5, 4), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten()
        )
        self.fc = nn.Linear(49 * channels, size + off)

    def forward(self, x):
        x = self.body(x)
        return self.fc(x.detach() if self.detached else x)


def runs(margins=(0.0, 0.1, 0.3), same_folder=False, seeds=(0, 0, 0)):
    def three_runs(config):
        folders = [config.run_dir if same_folder else f"{config.run_dir}{m}" for m in margins]
        return [
            dataclasses.replace(config, margin=m, run_dir=folder, seed=config.seed + seed)
            for m, folder, seed in zip(margins, folders, seeds)
        ]

    return three_runs


def shift(stars="val", sign=1, percent=1.0, by_people=True):
    def domain_shift(lists):
        found = {}
        for part, name in (("world", "world"), ("stars", stars)):
            toy = lists[name]
            values = toy["scores"], toy["labels"]
            ids = (toy["left"], toy["right"]) if by_people else ()
            low, high = metrics.bootstrap_ci(*values, *ids, samples=200)
            found[part] = [v * percent for v in (metrics.eer(*values), low, high)]
        return found | {"shift": sign * (found["stars"][0] - found["world"][0])}

    return domain_shift


def negative(kind):
    def semi_hard_negative(row, people, anchor, positive):
        other = people != people[anchor]
        if kind == "own":
            other[:] = True
            other[anchor] = False
        if kind == "similarity":
            return torch.where(other, row, -torch.inf).argmax()
        if kind == "hard":
            return torch.where(other, row, torch.inf).argmin()
        return torch.where(other & (row > row[positive]), row, torch.inf).argmin()

    return semi_hard_negative


def rates(scores, labels):
    thresholds = np.append(np.unique(scores), np.inf)
    far = np.array([(scores[labels == 0] >= t).mean() for t in thresholds])
    return far, np.array([(scores[labels == 1] < t).mean() for t in thresholds])


def accuracy(scores, labels):
    return 100 * max(((scores >= t) == labels).mean() for t in np.append(scores, np.inf))


def nearest_threshold(scores, labels):
    far, frr = rates(scores, labels)
    at = np.abs(far - frr).argmin()
    return 50 * (far[at] + frr[at])


def interval(kind):
    def eer_interval(scores, labels, left, right, draws=200, seed=0):
        rng, found = np.random.default_rng(seed), []
        people = int(max(left.max(), right.max())) + 1
        for _ in range(draws):
            if kind == "pairs":
                drawn = rng.integers(0, len(scores), len(scores))
            else:  # without replacement: everybody once
                order = rng.permutation(people)
                drawn = np.flatnonzero(np.isin(left, order))
            found.append(metrics.eer(scores[drawn], labels[drawn]))
        return np.percentile(found, [2.5, 97.5])

    return eer_interval


def door(choose="val", tail=1, swap=False):
    def threshold_and_rates(val_scores, val_labels, test_scores, test_labels, far):
        lists = dict(val=(val_scores, val_labels), test=(test_scores, test_labels))
        scores, labels = lists[choose]
        imposters = np.sort(scores[labels == 0])[::-tail]
        t = np.nextafter(imposters[int(far * len(imposters))], tail * np.inf)
        both = (
            (test_scores[test_labels == 0] >= t).mean(),
            (test_scores[test_labels == 1] < t).mean(),
        )
        return t, *(100 * rate for rate in (both[::-1] if swap else both))

    return threshold_and_rates


def door_right(*lists_and_far):
    return answers("3.3")[0](*lists_and_far)


def groups(without_interval=False, own_threshold=False):
    def by_group(scores, labels, left, right, group, threshold):
        right_answer = answers("3.4")[0](scores, labels, left, right, group, threshold)
        of_left, of_right = (np.array([group[p] for p in side]) for side in (left, right))
        for name, row in right_answer.items():
            if without_interval:
                del row["low"], row["high"]
            if own_threshold:
                inside = (of_left == name) & (of_right == name)
                own = metrics.eer_threshold(scores[inside], labels[inside])
                accepted, target = scores[inside] >= own, labels[inside] == 1
                row["far"] = 100 * accepted[~target].mean()
                row["frr"] = 100 * (~accepted[target]).mean()
        return right_answer

    return by_group


def found(query, means, k, order=-1, unit=True):
    if unit:
        means = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = query @ means.T
    indices = np.argsort(order * cosines, axis=-1)[..., :k]
    return indices, np.take_along_axis(cosines, indices, -1)


def loop(query, means, k):
    return np.array([found(one, means, k)[0] for one in np.atleast_2d(query)]), None


def kept_with_itself(X, Y, k):
    near = [np.argsort(np.linalg.norm(p[:, None] - p[None], axis=2), axis=1)[:, :k] for p in (X, Y)]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(*near)])


def raw_shares(Y, attributes, k):
    near = np.argsort(np.linalg.norm(Y[:, None] - Y[None], axis=2), axis=1)[:, 1 : k + 1]
    values = {name: np.array(v) for name, v in attributes.items()}
    return {name: (v[near] == v[:, None]).mean() for name, v in values.items()}


WRONG = {
    "1.1": [
        (lambda a, b: a @ b.T, "dot products"),
        (lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T, "wrong axis"),
        (lambda a, b: (a / a.norm(dim=1, keepdim=True)) @ F.normalize(b).T, "zeros gives NaN"),
        (lambda a, b: cosine(a, b).T, "shape"),
    ],
    "1.2": [
        (lambda x, W, y, m, s: entropy(margin(1, cosine(x, W), m, y), y), "scale s is missing"),
        (lambda x, W, y, m, s: entropy(s * (cosine(x, W) - m), y), "every class"),
        (angle, "AAM-Softmax"),
        (lambda x, W, y, m, s: entropy(margin(s, x @ W.T, m, y), y), "length 1"),
        (lambda x, W, y, m, s: entropy(margin(s, cosine(x, W), -m, y), y), "wrong sign"),
        (lambda x, W, y, m, s: entropy(margin(s, cosine(x, W), m, y), y).item(), "no gradient"),
        (lambda x, W, y, m, s: entropy(margin(s, cosine(x, W.data), m, y), y), "no gradient"),
    ],
    "1.3": [
        (lambda size: Small(size, detached=True), "No gradient reaches body.0.weight"),
        (lambda size: Small(size, 300), "parameters, and 300,000 are allowed"),
        (lambda size: Small(size, off=1), "shape"),
    ],
    "1.4": [
        ((runs(same_folder=True), lambda: 0.1), "share a run folder"),
        ((runs(seeds=(0, 1, 2)), lambda: 0.1), "seed changed too"),
        ((runs((0.0, 0.1, 0.2)), lambda: 0.1), "margins should be"),
        ((runs(), lambda: 5), "should return one of"),
    ],
    "2.1": [
        (shift(stars="test"), "test is kept"),
        (shift(sign=-1), "sign"),
        (shift(percent=0.01), "percent"),
        (shift(by_people=False), "draw people"),
    ],
    "2.2": [
        (no_diagonal, "left out of the denominator"),
        (lambda x, w, b: angular(x[:, 0], x[:, 0], w, b), "query and prototype at once"),
        (lambda x, w, b: angular(x[:, 1], x[:, 0], w, b), "looks for its query"),
        (lambda x, w, b: angular(x[:, 0], x[:, 1], 1, 0), "w and b are missing"),
    ],
    "2.3": [
        (negative("own"), "own person"),
        (negative("similarity"), "not similarities"),
        (negative("hard"), "a hard negative"),
        (negative("nearest"), "farthest of all"),
    ],
    "3.1": [
        (accuracy, "accuracy"),
        (lambda s, y: 100 - accuracy(s, y), "accuracy"),
        (lambda s, y: 100 - metrics.eer(s, y), "swapped"),
        (lambda s, y: metrics.eer(s, y) / 100, "fraction"),
        (nearest_threshold, "Nearly"),
    ],
    "3.2": [
        (interval("pairs"), "draw people"),
        (interval("without replacement"), "with replacement"),
        (lambda *a, **k: (0.1, 0.2), "percent"),
    ],
    "3.3": [
        (door(choose="test"), "chosen on test"),
        (door(tail=-1), "wrong tail"),
        (lambda *a: door_right(*a)[::1][:1] + door_right(*a)[:0:-1], "swapped"),
        (lambda *a: np.divide(door_right(*a), [1, 100, 100]), "fractions"),
    ],
    "3.4": [
        (groups(without_interval=True), "interval"),
        (groups(own_threshold=True), "threshold of its own"),
    ],
    "3.5": [
        (lambda: ["blur"] * 11, "12 words"),
        (lambda: ["blur"] * 11 + ["bad luck"], "'bad luck' is none of"),
    ],
    "4.1": [
        (lambda q, m, k: found(q, m, k, unit=False), "length 1 again"),
        (lambda q, m, k: found(q, m, k, order=1), "largest cosine down"),
        (loop, "loop"),
    ],
    "4.2": [
        (lambda p, n: 1 - p, "percentile"),
        (lambda p, n: n * p, "expected number"),
        (lambda p, n: (1 - p) ** n, "nobody"),
        (lambda p, n: p, "one comparison"),
        (lambda p, n: 100 * -math.expm1(n * math.log1p(-p)), "not percent"),
    ],
    "5.1": [
        (kept_with_itself, "its own neighbour"),
        (lambda X, Y, k: 100 * answers("5.1")[0](X, Y, k), "percent"),
    ],
    "5.2": [(raw_shares, "Take chance away")],
}


@pytest.mark.parametrize(
    "number, wrong, words",
    [(number, *pair) for number, pairs in WRONG.items() for pair in pairs],
    ids=[f"{number}-{words}" for number, pairs in WRONG.items() for _, words in pairs],
)
def test_a_wrong_answer_gets_no_points_and_its_mistake_is_named(number, wrong, words, capsys):
    given = wrong if isinstance(wrong, tuple) else (wrong,)
    told = message(number, *given, capsys=capsys)
    assert told.startswith("✗") and words in told, told


def test_nothing_of_the_students_randomness_or_inputs_is_changed_by_a_check():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check("1.3", Small)
    assert torch.equal(torch.rand(3), expected)


def test_under_nbgrader_alone_an_unsolved_exercise_raises(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("4.2", lambda p, n: 1 - (1 - p) ** n)
    with pytest.raises(AssertionError, match="percentile"):
        check("4.2", lambda p, n: 1 - p)


def test_an_unknown_exercise_is_told_in_one_line():
    with pytest.raises(core.UserError, match="no exercise '1.22': did you mean 1.2"):
        check("1.22", None)
