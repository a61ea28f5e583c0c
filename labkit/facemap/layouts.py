"""Places for faces on a plane, and how far such a map can be trusted."""

import sys
import warnings

import numpy as np
import torch

from labkit.utils import UserError, l2_normalize

METHODS = ("umap", "tsne", "pca")
SAMPLE = 2000


def layout(embeddings: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Return places for embeddings (n, d) on a plane, so that similar faces lie near each other.

    UMAP (McInnes, Healy and Melville 2018), t-SNE (van der Maaten and Hinton 2008) or the first
    two principal components, on cosine distances. The same embeddings and seed give the same map
    on the same machine. Neighbourhoods shrink with few faces; below five all methods are PCA.
    Returns float32 (n, 2) in [0, 1], y up; the longer side spans it, the other is centred. Raises
    UserError for an unknown method, no faces, or a value that is not finite.
    """
    if method not in METHODS:
        raise UserError(f"unknown layout {method!r}; use one of {', '.join(METHODS)}")
    points = _checked(embeddings)
    if (points == points[0]).all():
        return np.full((len(points), 2), 0.5, dtype=np.float32)
    if method == "pca" or len(points) < 5:
        from sklearn.decomposition import PCA

        places = PCA(2, svd_solver="covariance_eigh").fit_transform(points)
    elif method == "umap":
        places = _umap(points, seed)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30, (len(points) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, metric="cosine", random_state=seed)
        places = tsne.fit_transform(points)
    low, high = places.min(axis=0), places.max(axis=0)
    return ((places - (low + high) / 2) / (high - low).max() + 0.5).clip(0, 1).astype(np.float32)


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    """Run UMAP on exact neighbours, from the principal components (Kobak and Linderman 2021)."""
    if "umap" not in sys.modules:
        print("UMAP: its library first compiles itself, which takes about 20 s", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no index to place new points with, no threads
        from umap import UMAP

        k = min(15, len(points) - 1)
        others, cosines = nearest(points, None, k - 1)
        own = np.arange(len(points))[:, None]  # the first neighbour of each, at distance 0
        known = np.hstack([own, others]), np.pad(1 - cosines, ((0, 0), (1, 0)))
        settings = dict(n_neighbors=k, min_dist=0.15, init="pca", metric="cosine")
        threads = torch.get_num_threads()
        places = UMAP(**settings, random_state=seed, precomputed_knn=known).fit_transform(points)
        torch.set_num_threads(threads)  # numba has set them to all there are
        return places


def nearest(points: np.ndarray, queries: np.ndarray | None, k: int):
    """Return indices and cosines (m, k) of the k points most similar to each query, best first.

    `points` (n, d) and `queries` (m, d) have length 1; None asks for all points, none its own.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(algorithm="brute").fit(points).kneighbors(queries, k)
    return indices, (1 - distances**2 / 2).astype(np.float32)


def _checked(embeddings: np.ndarray) -> np.ndarray:
    points = l2_normalize(np.atleast_2d(embeddings))
    if not len(points):
        raise UserError("no faces to put on a map")
    if not np.isfinite(points).all():
        raise UserError("an embedding holds a value that is not finite; embed the faces again")
    return points


def faithfulness(
    embeddings: np.ndarray, xy: np.ndarray, labels: np.ndarray | None = None, k: int = 10
) -> dict[str, float]:
    """Return how far a map (n, 2) of embeddings (n, d) can be trusted, by k nearest neighbours.

    `k` is lowered when there are few faces; above 2,000 faces a random 2,000 are measured. Returns
    `trustworthiness` (Venna and Kaski 2001; 1: no face is a neighbour on the map that is far in
    the embedding), `neighbours_kept` (share of the true neighbours that are neighbours on the
    map), with labels `identity_purity` (share of the neighbours on the map that are the same
    person, of as many as there can be), all in [0, 1], and `k`.
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
        faces = np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))
    trust = trustworthiness(points[faces], xy[faces], n_neighbors=k, metric="cosine")
    on_map = NearestNeighbors(n_neighbors=k).fit(xy).kneighbors(return_distance=False)[faces]
    true = nearest(points, points[faces], k + 1)[0][:, 1:]  # the first is the face itself
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
    """Return where new photos (m, d) or one (d,) belong on a map that is there, float32 (m, 2).

    It is the mean of the places `xy` (n, 2) of the k most similar of the faces on the map (n, d),
    weighted by exp(similarity / 0.05), so that a face that is on it already lies close to its own.
    """
    points = _checked(embeddings)
    indices, similarities = nearest(points, _checked(embeddings_new), min(k, len(points)))
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("mk,mkc->mc", weights, np.asarray(xy)[indices]).astype(np.float32)
