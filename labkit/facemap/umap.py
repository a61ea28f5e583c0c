"""UMAP, written out: from exact nearest neighbours to places on a plane.

McInnes, Healy and Melville 2018, "UMAP: Uniform manifold approximation and projection for
dimension reduction". The library umap-learn does the same and more, but compiles for some twenty
seconds in each new process before it begins; here one small loop is compiled, and kept on disk.
"""

from functools import lru_cache

import numpy as np

from labkit.facemap.neighbours import nearest

NEIGHBOURS = 15
MIN_DISTANCE = 0.15
NEGATIVES = 5
FEW = 10_000
"""Up to so many points 500 epochs are run, above 200, as the paper's authors do."""


def umap(points: np.ndarray, start: np.ndarray, seed: int = 0) -> np.ndarray:
    """Places (n, 2) by UMAP on cosine distances.

    Args:
        points: float32 (n, d) of length 1, n at least 5.
        start: (n, 2), the first places; the principal components serve well (Kobak and Linderman
            2021). Scaled so that the largest entry is 10.
        seed: of the negative samples and of the small noise that parts equal faces.
    """
    rng = np.random.default_rng(seed)
    places = 10 * start / max(float(np.abs(start).max()), 1e-9)
    places = (places + rng.normal(scale=1e-4, size=places.shape)).astype(np.float32)
    graph = neighbour_graph(*nearest(points, min(NEIGHBOURS, len(points)) - 1))
    epochs = 500 if len(points) <= FEW else 200
    weak = graph.data < graph.data.max() / epochs
    graph.data[weak] = 0
    graph.eliminate_zeros()
    wait = (graph.data.max() / graph.data).astype(np.float32)
    a, b = curve()
    state = np.uint64(rng.integers(1, 2**63))
    _kernel()(places, graph.row, graph.col, wait, np.float32(a), np.float32(b), epochs, state)
    return places


def neighbour_graph(numbers: np.ndarray, similarities: np.ndarray):
    """The weighted graph of neighbours (paper, section 3.1), a symmetric scipy COO matrix (n, n).

    Args:
        numbers: int64 (n, k), for each face its nearest others.
        similarities: cosines (n, k), largest first.
    """
    from scipy.sparse import coo_matrix

    count, k = numbers.shape
    distances = np.maximum(1 - similarities.astype(np.float64), 0)
    apart = np.where(distances > 0, distances, np.inf).min(axis=1, keepdims=True)
    nearest_one = np.where(np.isfinite(apart), apart, 0)
    beyond = np.maximum(distances - nearest_one, 0)
    widths = _widths(beyond, np.log2(k + 1))
    floor = np.where(nearest_one > 0, distances.mean(axis=1, keepdims=True), distances.mean())
    widths = np.maximum(widths, 1e-3 * np.maximum(floor, 1e-12))
    weights = np.exp(-beyond / widths).ravel()
    rows = np.repeat(np.arange(count), k)
    one_way = coo_matrix((weights, (rows, numbers.ravel())), (count, count)).tocsr()
    both_ways = one_way.multiply(one_way.T)
    graph = (one_way + one_way.T - both_ways).tocoo()
    graph.eliminate_zeros()
    return graph


def _widths(beyond: np.ndarray, total: float, steps: int = 64) -> np.ndarray:
    """Per row the width for which the weights `exp(-beyond / width)` sum to `total`, (n, 1)."""
    low, high = np.zeros((len(beyond), 1)), np.full((len(beyond), 1), np.inf)
    width = np.ones((len(beyond), 1))
    for _ in range(steps):
        too_wide = np.exp(-beyond / width).sum(axis=1, keepdims=True) > total
        low, high = np.where(too_wide, low, width), np.where(too_wide, width, high)
        width = np.where(np.isfinite(high), (low + high) / 2, 2 * width)
    return width


@lru_cache(maxsize=1)
def curve(min_distance: float = MIN_DISTANCE) -> tuple[float, float]:
    """a and b of 1 / (1 + a x^(2b)), the closest to 1 up to `min_distance` and exp beyond."""
    from scipy.optimize import curve_fit

    x = np.linspace(0, 3, 300)
    wanted = np.where(x < min_distance, 1.0, np.exp(-(x - min_distance)))
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, wanted)
    return float(a), float(b)


@lru_cache(maxsize=1)
def _kernel():
    """The optimization (paper, algorithm 5), compiled at its first use and kept on disk."""
    import numba

    @numba.njit(cache=True, nogil=True, fastmath=True)
    def optimize(places, heads, tails, wait, a, b, epochs, state):
        count = np.uint64(places.shape[0])
        due = wait.copy()
        due_negative = wait / NEGATIVES
        for epoch in range(epochs):
            step = np.float32(1.0 - epoch / epochs)
            for edge in range(heads.shape[0]):
                if due[edge] > epoch:
                    continue
                i, j = heads[edge], tails[edge]
                x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
                square = x * x + y * y
                if square > 0:
                    power = square**b
                    pull = -2 * a * b * power / (square * (1 + a * power))
                    x = step * min(max(pull * x, np.float32(-4)), np.float32(4))
                    y = step * min(max(pull * y, np.float32(-4)), np.float32(4))
                    places[i, 0] += x
                    places[i, 1] += y
                    places[j, 0] -= x
                    places[j, 1] -= y
                due[edge] += wait[edge]
                spacing = wait[edge] / NEGATIVES
                negatives = int((epoch - due_negative[edge]) / spacing)
                for _ in range(negatives):
                    state ^= state << np.uint64(13)
                    state ^= state >> np.uint64(7)
                    state ^= state << np.uint64(17)
                    j = np.int64(state % count)
                    x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
                    square = x * x + y * y
                    if i == j or square == 0:
                        continue
                    push = 2 * b / ((np.float32(0.001) + square) * (1 + a * square**b))
                    places[i, 0] += step * min(max(push * x, np.float32(-4)), np.float32(4))
                    places[i, 1] += step * min(max(push * y, np.float32(-4)), np.float32(4))
                due_negative[edge] += negatives * spacing

    return optimize
