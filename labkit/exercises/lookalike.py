"""Exercises of notebook 4: the search, and what one match among many people is worth."""

import ast
import inspect
import textwrap

import numpy as np

from labkit.exercises.core import Mistake, close, exercise, numbers

LOOPS = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)


@exercise("4.1", "search", minutes=20, points=3)
class Search:
    def draw(rng):
        for shape, stars, k in ((), 9, 3), ((5,), 30, 4), ((1,), 6, 6):
            d = int(rng.integers(5, 12))
            means = rng.normal(size=(stars, d)) * rng.uniform(0.2, 3, (stars, 1))
            yield dict(query=_unit(rng.normal(size=(*shape, d))), means=means, k=k)

    def run(search, query, means, k):
        try:
            code = ast.parse(textwrap.dedent(inspect.getsource(search)))
        except (OSError, TypeError, SyntaxError):
            code = ast.Module([], [])
        if any(isinstance(node, LOOPS) for node in ast.walk(code)):
            raise Mistake("There is a loop in it. One matrix product compares everybody at once.")
        result = search(query.copy(), means.copy(), k)
        if not isinstance(result, tuple) or len(result) != 2:
            raise Mistake("search should return two arrays: (indices, similarities).")
        shape = (*query.shape[:-1], k)
        found = dict(zip(("indices", "similarities"), result))
        return {name: numbers(array, shape, f"The {name}") for name, array in found.items()}

    def judge(case, got):
        query, means, k = case["query"], case["means"], case["k"]
        indices, similarities = np.asarray(got["indices"]), np.asarray(got["similarities"])
        cosines = query @ _unit(means).T
        right = np.argsort(-cosines, axis=-1)[..., :k]
        if (indices == right).all() and close(similarities, np.take_along_axis(cosines, right, -1)):
            return
        if (indices == np.argsort(cosines, axis=-1)[..., :k]).all():
            raise Mistake("These are the least similar ones: sort from the largest cosine down.")
        products = np.take_along_axis(query @ means.T, indices.astype(int), -1)
        if close(similarities, products):
            raise Mistake(
                "A mean of several embeddings is shorter than 1, the more so the less they agree. "
                "Scale the means to length 1 again, or the search prefers long ones."
            )
        if (indices == right).all():
            raise Mistake("The stars are right; their similarities are not the cosines.")
        if (np.sort(indices, -1) == np.sort(right, -1)).all():
            raise Mistake("The right stars in the wrong order: the most similar comes first.")
        raise Mistake(f"The nearest {k} should be {right.tolist()}, yours are {indices.tolist()}.")


@exercise("4.2", "chance_of_one_this_close", minutes=25, points=3)
class ChanceOfOneThisClose:
    def draw(rng):
        for n in (450, 2, 1):
            yield dict(p=float(rng.uniform(0.01, 0.04)), n=n)
        yield dict(p=0.5, n=3)

    def run(chance_of_one_this_close, p, n):
        return dict(chance=numbers(chance_of_one_this_close(p, n), (), "The chance"))

    def judge(case, got):
        p, n, chance = case["p"], case["n"], got["chance"]
        right = 1 - (1 - p) ** n
        draws = np.random.default_rng(0).random((4000, n)).min(1) < p  # the same by simulation
        if close(chance, right, 1e-6):
            return
        counted = f"In 4,000 made-up searches among {n}, {draws.mean():.3f} found one."
        if close(chance, 100 * right, 1e-4):
            raise Mistake("Give a probability from 0 to 1, not percent.")
        if close(chance, (1 - p) ** n, 1e-6):
            raise Mistake(f"That is the chance that nobody is this close. {counted}")
        if close(chance, 1 - p, 1e-6):
            raise Mistake(
                "1 - p is the percentile: how many different people are less alike. It is neither "
                "the chance to find one in a search nor the probability that it is the same person."
            )
        if close(chance, n * p, 1e-6) or close(chance, min(1, n * p), 1e-6):
            raise Mistake(
                f"n · p is the expected number of people this close, here {n * p:.2f}; "
                f"a chance is at most 1. Ask first for the chance that nobody is. {counted}"
            )
        if close(chance, p**n, 1e-6):
            raise Mistake(f"That is the chance that all {n} are this close. {counted}")
        if close(chance, p, 1e-6):
            raise Mistake(
                f"That is the chance for one comparison; {n} people are searched. {counted}"
            )
        raise Mistake(f"For p = {p:.4f} and n = {n} it is {right:.4f}. {counted}")


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
