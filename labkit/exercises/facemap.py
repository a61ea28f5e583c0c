"""Exercises of notebook 5: how much of a neighbourhood a map keeps, and what splits it."""

import numpy as np

from labkit.exercises.core import Mistake, close, exercise, numbers


@exercise("5.1", "neighbours_kept", minutes=25, points=3)
class NeighboursKept:
    def draw(rng):
        for n, k in ((12, 3), (40, 5), (25, 8)):
            X = rng.normal(size=(n, 6))
            yield dict(X=X, Y=X[:, :2] + 0.5 * rng.normal(size=(n, 2)), k=k)
        X = rng.normal(size=(200, 6))
        yield dict(X=X, Y=rng.permutation(X[:, :2]), k=10)  # a shuffled map

    def run(neighbours_kept, X, Y, k):
        return dict(kept=numbers(neighbours_kept(X.copy(), Y.copy(), k), (), "The share"))

    def judge(case, got):
        X, Y, k, kept = case["X"], case["Y"], case["k"], got["kept"]
        right = _kept(_nearest(X, k), _nearest(Y, k))
        if close(kept, right, 1e-6):
            return
        if close(kept, 100 * right, 1e-6):
            raise Mistake("Give a share from 0 to 1, not percent.")
        itself = _kept(_nearest(X, k, own=True), _nearest(Y, k, own=True))
        if close(kept, itself, 1e-6):
            raise Mistake(
                "Each point is counted as its own neighbour, at distance 0, and that one is always "
                f"kept: leave it out. A shuffled map would then give about k/n, here "
                f"{k / (len(X) - 1):.3f}."
            )
        if close(kept, k * right, 1e-6):
            raise Mistake("That is the mean number of neighbours kept; divide it by k.")
        raise Mistake(f"For {len(X)} points and k = {k} it is {right:.4f}, yours is {kept:.4f}.")


@exercise("5.2", "which attribute splits the map", minutes=20, points=3)
class SplittingAttribute:
    def draw(rng):
        for n in (60, 90):
            Y = rng.normal(size=(n, 2))
            side = np.where(Y[:, 0] > 0, "yes", "no")
            glasses = np.where(rng.random(n) < 0.2, rng.permutation(side), side)
            rare = np.where(np.arange(n) < 3, "long", "short")  # nearly everybody shares it
            hair = rng.choice(["black", "brown", "red"], n)
            yield dict(
                Y=Y, attributes=dict(hair=hair, beard=rng.permutation(rare), glasses=glasses)
            )

    def run(attribute_splits, Y, attributes):
        result = attribute_splits(Y.copy(), {n: list(v) for n, v in attributes.items()}, 5)
        if not isinstance(result, dict) or set(result) != set(attributes):
            raise Mistake("It should return a dict with one number per attribute.")
        return {name: numbers(value, (), name) for name, value in result.items()}

    def judge(case, got):
        near = _nearest(case["Y"], 5)
        for name, values in case["attributes"].items():
            values = np.array(values)
            _, counts = np.unique(values, return_counts=True)
            n = len(values)
            same = (values[near] == values[:, None]).mean()
            chance = (counts * (counts - 1)).sum() / (n * (n - 1))
            if close(got[name], (same - chance) / (1 - chance), 1e-4):
                continue
            if close(got[name], same, 1e-4):
                raise Mistake(
                    f"{name}: {same:.2f} of the neighbours share the value, but of people drawn at "
                    f"random {chance:.2f} would. Take chance away: (share - chance) / (1 - chance)."
                )
            itself = (counts**2).sum() / n**2
            if close(got[name], (same - itself) / (1 - itself)):
                raise Mistake(
                    f"{name}: nearly. Chance is that of *another* person: n_c (n_c - 1) / "
                    "(n (n - 1)) summed over the values, since nobody is their own neighbour."
                )
            raise Mistake(
                f"{name}: the share is {same:.3f}, by chance {chance:.3f}; yours is "
                f"{got[name]:.3f} instead of {(same - chance) / (1 - chance):.3f}."
            )


def _nearest(points: np.ndarray, k: int, own: bool = False) -> np.ndarray:
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    if not own:
        np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def _kept(true: np.ndarray, on_map: np.ndarray) -> float:
    return (true[:, :, None] == on_map[:, None, :]).any(2).mean()
