"""Exact nearest neighbours by cosine similarity."""

import numpy as np

ROWS_PER_BLOCK = 16384
QUERIES_PER_BLOCK = 512
SPARE = 16


def as_rows(embeddings: np.ndarray) -> np.ndarray:
    """The embeddings as a contiguous float32 matrix (n, d); one vector becomes (1, d)."""
    rows = np.asarray(embeddings)
    if rows.ndim == 1:
        rows = rows[None]
    return np.ascontiguousarray(rows, dtype=np.float32)


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 (n, d); a row of zeros stays zero."""
    rows = as_rows(embeddings)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def top_k(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest dot product with each query, as a full sort would find them.

    Rows are screened in float32, block by block, so that a memory-mapped file larger than memory
    is read once from start to end; what is left is ranked in float64. Equal rows come in the
    order of their numbers.

    Args:
        queries: (m, d), of length 1 for cosine similarity.
        rows: (n, d), float32, of length 1 for cosine similarity.
        k: how many to find; at most n are.

    Returns:
        Numbers of the rows, int64 (m, k), most similar first, and their float32 similarities.
    """
    queries = as_rows(queries)
    count = min(k, len(rows))
    numbers = np.empty((len(queries), count), dtype=np.int64)
    values = np.empty((len(queries), count), dtype=np.float32)
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        part = slice(start, start + QUERIES_PER_BLOCK)
        numbers[part], values[part] = _top_k(queries[part], rows, count)
    return numbers, values


def _top_k(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    keep = min(k + SPARE, len(rows))
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    where = np.zeros((len(queries), 0), dtype=np.int64)
    height = ROWS_PER_BLOCK * (1 if len(queries) > 1 else 8)
    for start in range(0, len(rows), height):
        block = rows[start : start + height]
        scores = queries @ block.T if len(queries) > 1 else (block @ queries[0])[None]
        if best.shape[1] < keep:
            found = _largest(scores, keep)
            new, numbers = np.take_along_axis(scores, found, 1), found + start
        else:
            new, numbers = _above(scores, best.min(axis=1), start)
        best = np.concatenate([best, new], axis=1)
        where = np.concatenate([where, numbers], axis=1)
        if best.shape[1] > keep:
            kept = _largest(best, keep)
            best = np.take_along_axis(best, kept, 1)
            where = np.take_along_axis(where, kept, 1)
    numbers = np.empty((len(queries), k), dtype=np.int64)
    values = np.empty((len(queries), k), dtype=np.float32)
    for i, query in enumerate(queries):
        candidates = where[i]
        if keep < len(rows) and not _settled(query, best[i], k):
            candidates = _all_near(query, rows, np.sort(best[i])[-k])
        numbers[i], values[i] = ranked(query, rows, candidates, k)
    return numbers, values


def ranked(
    query: np.ndarray, rows: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates by their dot products in float64; ties in the order of numbers."""
    candidates = np.sort(candidates)
    exact = rows[candidates].astype(np.float64) @ query.astype(np.float64)
    order = np.argsort(-exact, kind="stable")[:k]
    return candidates[order], exact[order].astype(np.float32)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` largest scores of each row, in no order."""
    if count >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - count, axis=1)[:, -count:]


def _above(scores: np.ndarray, floor: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Per query the scores above its floor and the numbers of their rows, padded with -inf.

    Comparing is many times faster than a partial sort, and few rows pass.
    """
    hits = np.flatnonzero(scores > floor[:, None])
    query, column = np.divmod(hits, scores.shape[1])
    counts = np.bincount(query, minlength=len(scores))
    place = np.arange(len(hits)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((len(scores), counts.max(initial=0)), -np.inf, dtype=np.float32)
    numbers = np.zeros(values.shape, dtype=np.int64)
    values[query, place], numbers[query, place] = scores.ravel()[hits], column + start
    return values, numbers


def _rounding(query: np.ndarray) -> float:
    """A bound on the rounding error of a float32 dot product with a row of length 1."""
    return len(query) * 2.0**-24 * float(np.linalg.norm(query)) * 1.01


def _settled(query: np.ndarray, kept: np.ndarray, k: int) -> bool:
    """Whether no row that was dropped can belong to the first k, whatever the rounding."""
    ordered = np.sort(kept)
    return ordered[0] + 2 * _rounding(query) < ordered[-k]


def _all_near(query: np.ndarray, rows: np.ndarray, kth: float) -> np.ndarray:
    """Every row that could belong to the first k, given the float32 score of the k-th."""
    floor = kth - 2 * _rounding(query)
    found = []
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        found.append(start + np.flatnonzero(rows[start : start + ROWS_PER_BLOCK] @ query >= floor))
    return np.concatenate(found)
