"""Exercises of notebook 3: the EER, its interval, a threshold, groups of people, hard pairs."""

import numpy as np

from labkit import metrics
from labkit.data import FaceFolder
from labkit.exercises.core import Mistake, close, exercise, numbers
from labkit.exercises.finetune import eer_and_interval, judge_interval, toy_scores

CAUSES = ("blur", "pose", "occlusion", "network")


@exercise("3.1", "eer", minutes=35, points=5)
class EqualErrorRate:
    def draw(rng):
        def case(targets, imposters):
            scores, labels = (
                np.append(targets, imposters),
                np.repeat([1, 0], [len(targets), len(imposters)]),
            )
            order = rng.permutation(len(scores))
            return dict(scores=scores[order], labels=labels[order])

        yield case(rng.normal(1, 1, 60), rng.normal(-1, 1, 95))
        yield case(rng.normal(1, 1, 25), rng.normal(-0.5, 1, 400))  # many more imposters
        yield case(rng.integers(2, 7, 50), rng.integers(0, 5, 80))  # ties
        yield case(rng.uniform(0.6, 1, 20), rng.uniform(0, 0.5, 30))  # perfect
        yield case(rng.uniform(0, 0.5, 20), rng.uniform(0.6, 1, 30))  # the wrong way round

    def run(eer, scores, labels):
        return dict(eer=numbers(eer(scores.astype(float), labels.copy()), (), "The EER"))

    def judge(case, got):
        scores, labels, found = case["scores"].astype(float), case["labels"], got["eer"]
        right = metrics.eer(scores, labels)
        if close(found, right, 1e-3):
            return
        if close(found, right / 100, 1e-4) and right > 0:
            raise Mistake(f"{found:.4f} is a fraction; give the EER in percent, {right:.2f}.")
        if close(found, 100 - right, 1e-3):
            raise Mistake(
                "The two rates are swapped: a false accept is an imposter (label 0) with a score "
                "at or above the threshold, a false reject a target (label 1) below it."
            )
        far, tar, _ = metrics.roc(scores, labels)
        targets = (labels == 1).mean()
        accuracy = 100 * (tar * targets + (1 - far) * (1 - targets)).max()
        if close(found, accuracy, 1e-3) or close(found, 100 - accuracy, 1e-3):
            raise Mistake(
                "This is the best accuracy over all thresholds, or its error. The EER is the error "
                "at the threshold where false accepts and false rejects are equally frequent."
            )
        gap = np.abs(1 - tar - far)
        near = gap.argmin()
        rates = (far[near], 1 - tar[near], (far[near] + 1 - tar[near]) / 2)
        if any(close(found, 100 * rate, 1e-3) for rate in rates):
            raise Mistake(
                f"Nearly: {found:.2f} is a rate at the nearest threshold. Where no threshold makes "
                f"both rates equal, draw the line between the two points around the crossing and "
                f"take the rate where it has them equal, here {right:.2f} %."
            )
        where = " with ties" if len(np.unique(scores)) < len(scores) else ""
        raise Mistake(
            f"For {int(labels.sum())} target and {int((labels == 0).sum())} imposter pairs{where} "
            f"the EER is {right:.2f} %, yours is {found:.2f}."
        )


@exercise("3.2", "an interval by drawing people", minutes=30, points=4)
class Interval:
    def draw(rng):
        for easy in (0.35, 0.5):
            yield dict(toy=toy_scores(rng, easy=easy), seed=int(rng.integers(1000)))

    def run(eer_interval, toy, seed):
        result = eer_interval(*map(np.array, toy.values()), draws=200, seed=seed)
        return dict(interval=numbers(result, (2,), "The interval (low, high)"))

    def judge(case, got):
        low, high = got["interval"]
        if low > high:
            raise Mistake("The lower end comes first.")
        if high <= 1:
            raise Mistake("These are fractions; give both ends in percent.")
        judge_interval((low, high), case["toy"], "The interval")


@exercise("3.3", "a threshold for the door", minutes=20, points=3)
class DoorThreshold:
    def draw(rng):
        for far in (0.01, 0.05):
            val, test = (
                dict(
                    scores=np.append(rng.normal(1, 1, 90), rng.normal(level, 1, 300)),
                    labels=np.repeat([1, 0], [90, 300]),
                )
                for level in (-1.5, -1.0)
            )
            yield dict(val=val, test=test, far=far)

    def run(threshold_and_rates, val, test, far):
        lists = (np.array(values) for toy in (val, test) for values in toy.values())
        result = threshold_and_rates(*lists, far)
        return dict(result=numbers(result, (3,), "The result (threshold, FAR, FRR)"))

    def judge(case, got):
        threshold, far, frr = got["result"]
        targets, imposters = (
            {n: t["scores"][t["labels"] == label] for n, t in case.items() if n != "far"}
            for label in (1, 0)
        )
        allowed = int(case["far"] * len(imposters["val"]) + 1e-9)

        def fits(scores, count) -> bool:
            return count in ((scores >= threshold).sum(), (scores > threshold).sum())

        if not fits(imposters["val"], allowed):
            if fits(imposters["test"], allowed):
                raise Mistake(
                    "The threshold is chosen on test. Nobody has the answers when a door is built: "
                    "choose it on val, and only measure on test."
                )
            if fits(imposters["val"], len(imposters["val"]) - allowed):
                raise Mistake(
                    "The wrong tail: at this threshold that share of imposters is refused. It is "
                    "the share accepted, at or above the threshold, that should be so small."
                )
            accepted = int((imposters["val"] >= threshold).sum())
            raise Mistake(
                f"It accepts {accepted} of the {len(imposters['val'])} imposters of val; for a FAR "
                f"of {case['far']:.0%} that should be {allowed}."
            )
        right = [
            100 * (imposters["test"] >= threshold).mean(),
            100 * (targets["test"] < threshold).mean(),
        ]
        if close([far, frr], right, 1e-6):
            return
        if close([far, frr], np.divide(right, 100), 1e-6):
            raise Mistake("The rates are fractions; give them in percent.")
        if close([frr, far], right, 1e-6):
            raise Mistake("The two rates are swapped: first FAR (imposters), then FRR (targets).")
        if close(frr, 100 - right[1], 1e-6):
            raise Mistake("That is the share of targets accepted; FRR is the share refused.")
        raise Mistake(
            f"The threshold is right; on test it gives FAR {right[0]:.2f} % and FRR "
            f"{right[1]:.2f} %, yours are {far:.2f} and {frr:.2f}."
        )


@exercise("3.4", "groups of people", minutes=35, points=4)
class Groups:
    def draw(rng):
        for names in (["female", "male"], ["20", "30", "40"]):
            toys = [toy_scores(rng, easy=level) for level in rng.permutation([0.3, 0.45, 0.6])]
            toys = toys[: len(names)]
            for k, toy in enumerate(toys):  # people of one group have numbers of their own
                toy["left"], toy["right"] = toy["left"] + 100 * k, toy["right"] + 100 * k
            lists = {part: np.concatenate([toy[part] for toy in toys]) for part in toys[0]}
            of_person = {int(p): names[p // 100] for p in np.unique(lists["left"])}
            n = len(lists["scores"])
            order = rng.permutation(n)
            lists = {part: values[order] for part, values in lists.items()}
            # Pairs of two groups belong to neither.
            mixed = rng.choice(np.flatnonzero(lists["labels"] == 0), 20, replace=False)
            lists["right"][mixed] = (lists["right"][mixed] + 100) % (100 * len(names))
            of_person |= {int(p): names[p // 100] for p in np.unique(lists["right"])}
            lists["scores"][mixed] = 9.0
            yield dict(toy=lists, group={str(p): name for p, name in of_person.items()})

    def run(by_group, toy, group):
        threshold = float(metrics.eer_threshold(toy["scores"], toy["labels"]))
        of_person = {int(person): name for person, name in group.items()}
        result = by_group(*map(np.array, toy.values()), of_person, threshold)
        names = sorted(set(group.values()))
        if not isinstance(result, dict) or sorted(map(str, result)) != names:
            raise Mistake(f"by_group should return a dict with one entry per group: {names}.")
        output = {}
        for name, row in result.items():
            if not isinstance(row, dict) or not {"eer", "low", "high", "far", "frr"} <= set(row):
                raise Mistake(
                    "Each group needs eer, low, high, far and frr. Without an interval nobody can "
                    "say whether two groups differ or their people were luckier."
                )
            eer = eer_and_interval([row["eer"], row["low"], row["high"]], str(name))
            rates = numbers([row["far"], row["frr"]], (2,), f"{name}: (far, frr)")
            output[str(name)] = dict(eer=eer, rates=rates)
        return output

    def judge(case, got):
        toy = case["toy"]
        threshold = float(metrics.eer_threshold(toy["scores"], toy["labels"]))
        left, right = (np.array([case["group"][str(p)] for p in toy[s]]) for s in ("left", "right"))
        for name, row in got.items():
            inside = (left == name) & (right == name)
            part = {key: values[inside] for key, values in toy.items()}
            either = (left == name) | (right == name)
            eer = metrics.eer(part["scores"], part["labels"])
            if not close(row["eer"][0], eer, 1e-3):
                loose = metrics.eer(toy["scores"][either], toy["labels"][either])
                if close(row["eer"][0], loose, 1e-3):
                    raise Mistake(
                        f"{name}: a pair of two groups is counted. It belongs to neither, since "
                        "nobody can say whose error it is: take pairs of two people in the group."
                    )
                raise Mistake(f"{name}: the EER is {eer:.2f} %, yours is {row['eer'][0]:.2f}.")
            judge_interval(row["eer"][1:], part, f"The interval of {name}")
            targets, imposters = (part["scores"][part["labels"] == label] for label in (1, 0))
            rates = [100 * (imposters >= threshold).mean(), 100 * (targets < threshold).mean()]
            if close(row["rates"], rates, 1e-3):
                continue
            if abs(np.subtract(*row["rates"])) < 3:
                raise Mistake(
                    f"{name}: FAR and FRR are about equal, as if the group had a threshold of its "
                    "own. A system has one threshold for everybody: use the one that is given."
                )
            raise Mistake(
                f"{name}: at the common threshold FAR is {rates[0]:.2f} % and FRR {rates[1]:.2f} %."
            )


@exercise("3.5", "the hardest pairs", minutes=15, points=1)
class HardestPairs:
    def draw(rng):
        yield dict(pairs=12)

    def run(causes, pairs):
        words = causes()
        if not isinstance(words, (list, tuple)) or len(words) != pairs:
            raise Mistake(f"causes() should return a list of {pairs} words, one per pair.")
        return dict(words=[str(word) for word in words])

    def judge(case, got):
        unknown = [word for word in got["words"] if word not in CAUSES]
        if unknown or len(got["words"]) != case["pairs"]:
            raise Mistake(f"{unknown[0]!r} is none of {', '.join(CAUSES)}.")


def groups_of(folder: FaceFolder) -> dict[str, dict[str, str]]:
    """Return the groups of a folder's people by gender, age and skin tone: attribute → who → group.

    From `identities.csv`, ages and skin tones (`melanin`) halved at the median. An attribute that
    is not there, or has a group of fewer than five people, is left out.
    """
    details = folder.details()
    found = {"gender": {person: about.get("gender", "") for person, about in details.items()}}
    for name, column, low, high in (
        ("age group", "age", "younger", "older"),
        ("skin tone", "melanin", "lighter", "darker"),
    ):
        values = {person: float(about.get(column) or "nan") for person, about in details.items()}
        middle = np.median([*values.values()] or [0])
        found[name] = {person: low if v <= middle else high for person, v in values.items()}
        if np.isnan(middle):
            del found[name]
    sizes = {name: np.unique([*who.values()], return_counts=True)[1] for name, who in found.items()}
    return {name: found[name] for name, n in sizes.items() if len(n) > 1 and n.min() >= 5}
