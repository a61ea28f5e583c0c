"""From embeddings to layouts, poster and page: seconds of each step, in a fresh process.

    python tests/benchmarks/facemap.py --faces 1229
    python tests/benchmarks/facemap.py --faces 83000 --methods umap

Beside it, on the same embeddings, what the reference trainer's `drawTSNE` calls: PCA to 50
dimensions and scikit-learn's t-SNE, of a random 300 faces as it does and of all of them; then its
grid of 20 by 20 cells, on which a face that finds its cell taken is left out. The numbers of
faithfulness are over the faces that each map shows.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import resource  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from labkit.facemap import (  # noqa: E402
    faithfulness,
    layout,
    poster,
    save_poster,
    to_grid,
    to_html,
)


def timed(name: str, job):
    start, busy = time.perf_counter(), time.process_time()
    result = job()
    took, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{name:34} {took:8.1f} s {busy:8.1f} s of processor time", flush=True)
    return result


def told(name: str, points, places, labels) -> None:
    faith = faithfulness(points, places, labels)
    print(f"{name:34} " + ", ".join(f"{key} {value:.3f}" for key, value in faith.items()))


def reference_layout(points: np.ndarray) -> np.ndarray:
    """The calls of the reference trainer's `drawTSNE`, with a seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    compressed = PCA(50, random_state=0).fit_transform(points)
    return TSNE(n_components=2, metric="euclidean", random_state=0).fit_transform(compressed)


def reference_shown(places: np.ndarray) -> int:
    """How many faces its grid of cells of 100 in a picture of 2,000 pixels shows."""
    shares = (places - places.min(axis=0)) / np.ptp(places, axis=0)
    return len(np.unique(np.ceil(shares * 1900).astype(int) // 100, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=1229)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--methods", default="umap,tsne,pca")
    parser.add_argument("--all-by-reference", action="store_true", help="above 20,000 faces too")
    args = parser.parse_args()
    print(f"{'imports':34} {time.perf_counter() - STARTED:8.1f} s")
    rng = np.random.default_rng(0)
    people = rng.standard_normal((max(2, args.faces // 68), args.size), dtype=np.float32)
    labels = np.sort(rng.integers(0, len(people), args.faces))
    noise = rng.standard_normal((args.faces, args.size), dtype=np.float32)
    points = people[labels] + 0.7 * noise
    colours = rng.integers(0, 256, (args.faces, 3, 3, 3)).astype(np.uint8)
    faces = [np.asarray(Image.fromarray(colour).resize((64, 64))) for colour in colours]
    names = [f"face {i}" for i in range(args.faces)]
    methods = args.methods.split(",")
    start = time.perf_counter()
    maps = {name: timed(f"layout {name}", lambda n=name: layout(points, n)) for name in methods}
    first = maps[methods[0]]
    cells = timed("grid", lambda: to_grid(first))
    with tempfile.TemporaryDirectory() as folder:
        sheet = timed("poster", lambda: poster(first, faces, names, cells=cells))
        timed("poster as PNG", lambda: save_poster(sheet, Path(folder) / "map.png"))
        timed("page", lambda: to_html(Path(folder) / "map.html", maps, faces, names, points))
        print(f"page of {(Path(folder) / 'map.html').stat().st_size / 1e6:.0f} MB")
    print(f"{'from embeddings to poster and page':34} {time.perf_counter() - start:8.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':34} {peak:8.0f} MB")
    for name, places in maps.items():
        told(name, points, places, labels)
    few = np.random.default_rng(1).choice(args.faces, min(300, args.faces), replace=False)
    samples = {"reference t-SNE, 300 faces": few}
    if args.faces <= 20_000 or args.all_by_reference:
        samples["reference t-SNE, all faces"] = np.arange(args.faces)
    for name, chosen in samples.items():
        places = timed(name, lambda c=chosen: reference_layout(points[c]))
        told(name, points[chosen], places, labels[chosen])
        print(f"{'  its grid shows':34} {reference_shown(places):8} of {len(chosen)} faces")
    print(f"{'grid of the kit shows':34} {len(np.unique(cells, axis=0)):8} of {args.faces}")


if __name__ == "__main__":
    main()
