"""From an embedder and a pair list to one score per pair."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import ImageOps
from threadpoolctl import threadpool_limits

from labkit.data import PairList, decode_image
from labkit.utils import UserError, progress

WHOLE = 8192  # up to this many files the whole similarity matrix (256 MiB) may be held
READ = 1 << 16  # pairs read off that matrix at a time
TILE = 512  # rows and columns of a tile of the similarity matrix
BLOCK = 1024  # pairs whose embeddings are gathered at a time
DENSE = 1 / 20  # above this share of a tile's entries, multiplying the whole tile is faster


def embed_files(embedder, paths: Sequence[str | Path], *, flip: bool = False) -> np.ndarray:
    """Embeddings of image files, (n, d), rows of length 1; each file is read once.

    With `flip`, the mean of the embeddings of the picture and of its mirror image, normalized.
    `embedder` is an `Embedder` or anything with its `files` method and call.
    """
    if not flip:
        return np.asarray(embedder.files(paths))
    batch = getattr(embedder, "batch_size", 64)
    parts = []
    with progress(total=len(paths), desc="embedding with mirror images", unit="image") as bar:
        for start in range(0, len(paths), batch):
            images = [decode_image(path) for path in paths[start : start + batch]]
            mirrored = [ImageOps.mirror(image) for image in images]
            parts.append(np.asarray(embedder(images)) + np.asarray(embedder(mirrored)))
            bar.update(len(images))
    both = np.concatenate(parts)
    return both / np.linalg.norm(both, axis=1, keepdims=True)


def score_pairs(embedder, pairs: PairList, root: str | Path, *, flip: bool = False) -> np.ndarray:
    """Cosine similarity of each pair, float32 (n,) in [-1, 1]; each image is embedded once.

    `root` is the test folder. For `flip`, see `embed_files`. Raises UserError for a file that is
    missing or unreadable.
    """
    root = Path(root)
    missing = [name for name in pairs.files if not os.path.isfile(root / name)]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(pairs.files):,} images of the pair list are not in {root}, "
            f"first {missing[0]}"
        )
    embeddings = embed_files(embedder, [root / name for name in pairs.files], flip=flip)
    return score_embeddings(embeddings, pairs)


def score_embeddings(embeddings: np.ndarray, pairs: PairList) -> np.ndarray:
    """Cosine similarity of each pair, float32 (n,) in [-1, 1].

    `embeddings` (files, d) of any floating type are those of `pairs.files`, in that order, and
    need not be normalized. Raises UserError for a wrong number of embeddings and for one that is
    zero or not finite.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) != len(pairs.files):
        raise UserError(
            f"expected embeddings of the {len(pairs.files)} files of the pair list, "
            f"got an array of shape {embeddings.shape}"
        )
    embeddings = embeddings.astype(np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        first = pairs.files[int(np.flatnonzero(bad)[0])]
        raise UserError(f"the embedding of {first} is zero or not finite ({bad.sum()} are)")
    embeddings /= norms
    whole = len(embeddings) <= WHOLE and len(pairs) > DENSE * len(embeddings) ** 2
    score = _score_whole if whole else _score_tiles
    scores = score(embeddings, pairs.left, pairs.right)
    return np.clip(scores, -1.0, 1.0, out=scores)


def _score_whole(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot products, read off the whole similarity matrix."""
    n = len(embeddings)
    similarity = (embeddings @ embeddings.T).ravel()
    scores = np.empty(len(left), np.float32)

    def fill(start: int) -> None:
        part = slice(start, start + READ)
        scores[part] = similarity[left[part] * n + right[part]]

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(fill, range(0, len(left), READ)))
    return scores


def _score_tiles(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot products, with the pairs taken tile by tile of the similarity matrix.

    The two groups of embeddings of a tile fit a processor's cache, which is what makes this fast:
    pair by pair in the order of a long list, every embedding would come from main memory.
    """
    scores = np.empty(len(left), np.float32)
    side = max(TILE, -(-len(embeddings) // 255))
    across = -(-len(embeddings) // side)
    if len(left) < 64 * across**2:
        tile, order, ends = None, slice(None), np.arange(BLOCK, len(left) + BLOCK, BLOCK)
    else:
        tile = (left // side * across + right // side).astype(np.uint16)
        order = np.argsort(tile, kind="stable")  # a radix sort for 16 bits
        ends = np.cumsum(np.bincount(tile))
    starts = np.concatenate([[0], ends[:-1]])
    left, right = left[order], right[order]
    ordered = scores if tile is None else np.empty_like(scores)

    def fill(start: int, end: int) -> None:
        a, b = left[start:end], right[start:end]
        if tile is not None and end - start > DENSE * side**2:
            top, first = a[0] // side * side, b[0] // side * side
            block = embeddings[top : top + side] @ embeddings[first : first + side].T
            ordered[start:end] = block.ravel()[(a - top) * block.shape[1] + (b - first)]
            return
        for i in range(0, end - start, BLOCK):
            part = slice(i, min(i + BLOCK, end - start))
            products = np.einsum("nd,nd->n", embeddings[a[part]], embeddings[b[part]])
            ordered[start + part.start : start + part.stop] = products

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(fill, starts, ends))
    if tile is not None:
        scores[order] = ordered
    return scores
