"""Exact search in very many embeddings, screened on a copy of a quarter of their size."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from joblib import cpu_count

from labkit.gallery.search import as_rows, ranked

GROUP = 512
ROWS_AT_A_TIME = 16384


class CompactScreen:
    """Rows as 8-bit numbers with one scale each, to find the few worth an exact comparison.

    A search reads a quarter of the bytes. By Cauchy and Schwarz the dot product of a query with
    a rounded row is off by at most |query| |row - rounded row|, so every row that could belong
    to the answer is compared exactly, and the answer is that of `top_k`.

    Attributes:
        codes: int8 (n, d).
        scales: float32 (n,); `codes * scales` are the rounded rows.
        error: the largest |row - rounded row|.
    """

    def __init__(self, rows: np.ndarray, codes: np.ndarray, scales: np.ndarray, error: float):
        self.rows, self.codes, self.scales, self.error = rows, codes, scales, error

    @classmethod
    def of(cls, rows: np.ndarray) -> "CompactScreen":
        """Make it from rows float32 (n, d), such as a memory map."""
        codes = np.empty(rows.shape, dtype=np.int8)
        scales = np.empty(len(rows), dtype=np.float32)
        error = 0.0
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            block = rows[part]
            largest = np.maximum(np.abs(block).max(axis=1), 1e-12)
            scales[part] = largest / 127
            codes[part] = np.rint(block / scales[part, None])
            off = block - codes[part] * scales[part, None]
            error = max(error, float(np.sqrt(np.einsum("nd,nd->n", off, off).max())))
        return cls(rows, codes, scales, error * 1.001 + 1e-7)

    def top_k(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search.top_k`: numbers int64 (m, k) and similarities float32 (m, k)."""
        queries = as_rows(queries)
        k = min(k, len(self.rows))
        numbers = np.empty((len(queries), k), dtype=np.int64)
        values = np.empty((len(queries), k), dtype=np.float32)
        for i, query in enumerate(queries):
            scores, group_best = self._scores(query)
            near = float(np.linalg.norm(query)) * (self.error + len(query) * 2.0**-23)
            floor = self._floor(scores, group_best, k) - 2 * near
            groups = np.flatnonzero(group_best >= floor)
            inside = groups[:, None] * GROUP + np.arange(GROUP)
            inside = inside[inside < len(self.rows)]
            candidates = inside[scores[inside] >= floor]
            numbers[i], values[i] = ranked(query, self.rows, candidates, k)
        return numbers, values

    def _scores(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Approximate dot products (n,) and the largest of each group of rows."""
        count = len(self.rows)
        scores = np.empty(count, dtype=np.float32)
        group_best = np.empty(-(-count // GROUP), dtype=np.float32)
        kernel, threads = _kernel(), cpu_count()
        edges = np.linspace(0, len(group_best), 4 * threads + 1).astype(np.int64)
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(kernel, self.codes, self.scales, query, low, high, scores, group_best)
                for low, high in zip(edges[:-1], edges[1:], strict=True)
                if low < high
            ]
            for job in jobs:
                job.result()
        return scores, group_best

    @staticmethod
    def _floor(scores: np.ndarray, group_best: np.ndarray, k: int) -> float:
        """A number that at least k scores reach: the k-th largest, or below it."""
        if len(group_best) >= k:
            return float(np.partition(group_best, len(group_best) - k)[len(group_best) - k])
        return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def compiled(function):
    """A loop compiled by numba without Python's lock, kept on disk where that can be written."""
    import numba

    settings = dict(nogil=True, fastmath=True)
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**settings)(function)


@lru_cache(maxsize=1)
def _kernel():
    """The scan, which threads share."""

    @compiled
    def scan(codes, scales, query, low, high, scores, group_best):
        size = query.shape[0]
        for group in range(low, high):
            best = np.float32(-np.inf)
            for i in range(group * GROUP, min((group + 1) * GROUP, codes.shape[0])):
                total = np.float32(0)
                for j in range(size):
                    total += np.float32(codes[i, j]) * query[j]
                total *= scales[i]
                scores[i] = total
                best = max(best, total)
            group_best[group] = best

    return scan
