"""Places for faces on a plane, and how far such a map can be trusted."""

import warnings

import numpy as np
import torch

from labkit.utils import UserError, l2_normalize, progress

METHODS = ("umap", "tsne", "pca")
MIN_FOR_CURVED = 5
SAMPLE = 2000


def layout(embeddings: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Return places for faces on a plane, so that similar faces lie near each other.

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
    if (points == points[0]).all():
        return np.full((len(points), 2), 0.5, dtype=np.float32)
    if method == "pca" or len(points) < MIN_FOR_CURVED:
        from sklearn.decomposition import PCA

        places = PCA(2, svd_solver="covariance_eigh").fit_transform(points)
    elif method == "umap":
        places = _umap(points, seed)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30, (len(points) - 1) / 3)
        places = TSNE(perplexity=perplexity, metric="cosine", random_state=seed).fit_transform(
            points
        )
    low, high = places.min(axis=0), places.max(axis=0)
    return ((places - (low + high) / 2) / (high - low).max() + 0.5).clip(0, 1).astype(np.float32)


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    """Run UMAP on exact neighbours, from the principal components (Kobak and Linderman 2021)."""
    what = "UMAP (its library first compiles itself, which takes about 20 s)"
    with progress(total=1, desc=what, unit="map", leave=False) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no index to place new points with, no threads
        from umap import UMAP

        k = min(15, len(points) - 1)
        others, cosines = nearest(points, points, k - 1, skip_self=True)
        own = np.arange(len(points))[:, None]
        distances = np.pad(np.maximum(1 - cosines, 0), ((0, 0), (1, 0)))
        known = np.concatenate([own, others], axis=1), distances
        settings = dict(n_neighbors=k, min_dist=0.15, init="pca", metric="cosine")
        places = UMAP(**settings, random_state=seed, precomputed_knn=known).fit_transform(points)
        bar.update()
    return places


def nearest(
    queries: np.ndarray, points: np.ndarray, k: int, *, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most similar points of each query, most similar first.

    Args:
        queries: float32 (m, d) of length 1.
        points: float32 (n, d) of length 1.
        k: below n.
        skip_self: the queries are the points, and none is its own neighbour.

    Returns:
        indices int64 (m, k) and cosines float32 (m, k).
    """
    rows, found = torch.from_numpy(points), []
    for start in range(0, len(queries), 1024):
        cosines = torch.from_numpy(queries[start : start + 1024]) @ rows.T
        if skip_self:
            cosines.diagonal(start).fill_(-torch.inf)
        found.append(cosines.topk(k))
    cosines, indices = (torch.cat(parts).numpy() for parts in zip(*found))
    return indices, cosines


def _checked(embeddings: np.ndarray) -> np.ndarray:
    points = l2_normalize(np.atleast_2d(embeddings))
    if not len(points):
        raise UserError("no faces to put on a map")
    if not np.isfinite(points).all():
        raise UserError("an embedding holds a value that is not finite; embed the faces again")
    return points


def faithfulness(
    embeddings: np.ndarray,
    xy: np.ndarray,
    labels: np.ndarray | None = None,
    k: int = 10,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Return how far a map can be trusted, from the k nearest neighbours of each face.

    Above 2,000 faces the numbers are those of a random 2,000.

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
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    points = _checked(embeddings)
    count = len(points)
    k = min(k, (count - 1) // 2)
    names = ["trustworthiness", "neighbours_kept"] + ["identity_purity"] * (labels is not None)
    if k < 1:
        return {**dict.fromkeys(names, 1.0), "k": 0}
    faces = np.arange(count)
    if count > SAMPLE:
        faces = np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))
    trust = trustworthiness(points[faces], xy[faces], n_neighbors=k, metric="cosine")
    on_map = NearestNeighbors(n_neighbors=k).fit(xy).kneighbors(return_distance=False)[faces]
    true = nearest(points[faces], points, k + 1)[0][:, 1:]  # the first is the face itself
    result = [trust, (on_map[:, :, None] == true[:, None]).any(axis=2).mean()]
    if labels is not None:
        _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        same = (codes[on_map] == codes[faces][:, None]).sum(axis=1)
        possible = np.minimum(counts[codes[faces]] - 1, k)
        some = possible > 0
        result.append((same[some] / possible[some]).mean() if some.any() else 1)
    return {**dict(zip(names, map(float, result))), "k": k}


def place(
    embeddings_new: np.ndarray, embeddings: np.ndarray, xy: np.ndarray, k: int = 5
) -> np.ndarray:
    """Return where new photos belong on a map that is already there, float32 (m, 2).

    It is the mean of the places of the k most similar faces, weighted by exp(similarity / 0.05),
    so that a face that is on the map already lies close to its own place.

    Args:
        embeddings_new: (m, d), or one embedding (d,).
        embeddings: of the faces on the map (n, d).
        xy: their places (n, 2).
    """
    points = _checked(embeddings)
    indices, similarities = nearest(_checked(embeddings_new), points, min(k, len(points)))
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("mk,mkc->mc", weights, np.asarray(xy)[indices]).astype(np.float32)
