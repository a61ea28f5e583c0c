"""Places for faces on a plane, and how far such a map can be trusted."""

import numpy as np

from labkit.facemap.umap import umap
from labkit.gallery import top_k
from labkit.utils import l2_normalize as normalized
from labkit.utils import UserError

METHODS = ("umap", "tsne", "pca")
FEWEST_FOR_CURVED = 5
SAMPLE = 2000


def layout(embeddings: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Places for faces on a plane, so that similar faces lie near each other.

    UMAP (McInnes, Healy and Melville 2018), t-SNE (van der Maaten and Hinton 2008) or the first
    two principal components, on cosine distances. The same embeddings and seed give the same map
    on the same machine. Neighbourhoods shrink with few faces; below five all methods are PCA.

    Args:
        embeddings: (n, d), n at least 1.
        method: "umap", "tsne" or "pca".
        seed: of everything random.

    Returns:
        float32 (n, 2) in [0, 1]; the longer side spans it, the other is centred. y points up.

    Raises:
        UserError: unknown method, no faces, or a value that is not finite.
    """
    if method not in METHODS:
        raise UserError(f"unknown layout {method!r}; use one of {', '.join(METHODS)}")
    points = _checked(embeddings)
    if method == "pca" or len(points) < FEWEST_FOR_CURVED:
        places = _pca(points)
    elif method == "umap":
        places = umap(points, _pca(points), seed)
    else:
        places = _tsne(points, seed)
    return _unit_square(places)


def _checked(embeddings: np.ndarray) -> np.ndarray:
    points = normalized(embeddings)
    if not len(points):
        raise UserError("no faces to put on a map")
    if not np.isfinite(points).all():
        raise UserError("an embedding holds a value that is not finite; embed the faces again")
    return points


def _pca(points: np.ndarray, dimensions: int = 2) -> np.ndarray:
    """Principal components, each turned so that its largest entry is positive."""
    centred = points - points.mean(axis=0)
    if len(points) > points.shape[1]:
        _, axes = np.linalg.eigh(centred.T @ centred)
        scores = centred @ axes[:, ::-1][:, :dimensions]
    else:
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        scores = (left * sizes)[:, :dimensions]
    if scores.shape[1] < dimensions:
        scores = np.pad(scores, ((0, 0), (0, dimensions - scores.shape[1])))
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(dimensions)]
    return scores * np.where(largest < 0, -1, 1)


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = _pca(points)
    start = (1e-4 * start / max(float(start[:, 0].std()), 1e-9)).astype(np.float32)
    reducer = TSNE(
        perplexity=min(30.0, (len(points) - 1) / 3),
        metric="cosine",
        init=start,
        learning_rate="auto",
        random_state=seed,
        n_jobs=-1,
    )
    # with few faces, threads wait for each other longer than they work
    with threadpool_limits(1 if len(points) < 5000 else None, user_api="openmp"):
        return reducer.fit_transform(points)


def _unit_square(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max())
    if span <= 0 or not np.isfinite(span):
        return np.full(places.shape, 0.5, dtype=np.float32)
    return ((places - (low + high) / 2) / span + 0.5).clip(0, 1).astype(np.float32)


def faithfulness(
    embeddings: np.ndarray,
    xy: np.ndarray,
    labels: np.ndarray | None = None,
    k: int = 10,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """How far a map can be trusted, from the k nearest neighbours of each face.

    Above 2,000 faces the means are over a random 2,000 of them, each against all.

    Args:
        embeddings: (n, d).
        xy: the map, (n, 2).
        labels: identities (n,), for the purity.
        k: neighbours; lowered below n / 2 when there are few faces.

    Returns:
        `trustworthiness` in [0, 1] (Venna and Kaski 2001; 1: no face is a neighbour on the map
        that is far in the embedding), `neighbours_kept` in [0, 1] (share of the true neighbours
        that are neighbours on the map), with labels `identity_purity` in [0, 1] (share of the
        neighbours on the map that are the same person, of as many as there can be), and `k`.
        With fewer than four faces all are 1.
    """
    points, xy = _checked(embeddings), np.asarray(xy, dtype=np.float64)
    count = len(points)
    k = min(k, (count - 1) // 2)
    names = ["trustworthiness", "neighbours_kept"] + ["identity_purity"] * (labels is not None)
    if k < 1:
        return {**dict.fromkeys(names, 1.0), "k": 0}
    rows = np.arange(count)
    if count > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))
    penalty, kept, pure = 0.0, 0.0, []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        own = np.arange(len(part))
        alike = points[part] @ points.T
        flat = sum((xy[part, None, axis] - xy[None, :, axis]) ** 2 for axis in (0, 1))
        alike[own, part], flat[own, part] = -np.inf, np.inf
        on_map = np.argpartition(flat, k - 1, axis=1)[:, :k]
        ranks = [1 + (alike > alike[own, face, None]).sum(axis=1) for face in on_map.T]
        found = np.stack(ranks, axis=1)
        penalty += np.maximum(found - k, 0).sum()
        kept += (found <= k).sum()
        if labels is not None:
            pure.append(_purity(np.asarray(labels), part, on_map))
    size = len(rows)
    worst = size * k * (2 * count - 3 * k - 1) / 2
    result = {"trustworthiness": 1 - penalty / worst, "neighbours_kept": kept / (size * k)}
    if labels is not None:
        shares = np.concatenate(pure)
        result["identity_purity"] = float(np.nanmean(shares)) if np.isfinite(shares).any() else 1.0
    return {**{name: float(value) for name, value in result.items()}, "k": k}


def _purity(labels: np.ndarray, part: np.ndarray, on_map: np.ndarray) -> np.ndarray:
    """Per face the share of same-person neighbours of as many as possible; NaN when alone."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    same = (codes[on_map] == codes[part][:, None]).sum(axis=1)
    possible = np.minimum(counts[codes[part]] - 1, on_map.shape[1])
    return np.where(possible > 0, same / np.maximum(possible, 1), np.nan)


def place(
    embeddings_new: np.ndarray, embeddings: np.ndarray, xy: np.ndarray, k: int = 5
) -> np.ndarray:
    """Where new photos belong on a map that is already there.

    The mean of the places of the k most similar faces, weighted by exp(similarity / 0.05), so
    that a face that is on the map already lies close to its own place.

    Args:
        embeddings_new: (m, d), or one embedding (d,).
        embeddings: of the faces on the map (n, d).
        xy: their places (n, 2).

    Returns:
        float32 (m, 2).
    """
    numbers, similarities = top_k(_checked(embeddings_new), _checked(embeddings), k)
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("mk,mkc->mc", weights, np.asarray(xy)[numbers]).astype(np.float32)
