"""From embeddings to layouts, poster and page: seconds of each step, in a fresh process.

    python tests/benchmarks/facemap.py --faces 1229
    python tests/benchmarks/facemap.py --faces 83000 --methods umap

Beside it, on the same embeddings, what the VoxCeleb trainer's `drawTSNE` calls: PCA to 50
dimensions and scikit-learn's t-SNE of a random 300 faces, then its grid of 20 by 20 cells, on
which a face that finds its cell taken is left out.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from labkit.facemap import describe, faithfulness, layout, poster, save_poster, to_grid, to_html


def timed(name: str, job):
    start = time.perf_counter()
    result = job()
    print(f"{name:34} {time.perf_counter() - start:8.1f} s", flush=True)
    return result


def voxceleb_layout(points: np.ndarray) -> np.ndarray:
    compressed = PCA(50, random_state=0).fit_transform(points)
    return TSNE(metric="euclidean", random_state=0).fit_transform(compressed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=1229)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--methods", default="umap,tsne,pca")
    args = parser.parse_args()
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
        page = timed("page", lambda: to_html(f"{folder}/map.html", maps, faces, names, points))
        print(f"page of {page.stat().st_size / 1e6:.0f} MB")
    print(f"{'from embeddings to poster and page':34} {time.perf_counter() - start:8.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':34} {peak:8.0f} MB")
    for name, places in maps.items():
        print(f"{name:34} {describe(faithfulness(points, places, labels))}")
    few = rng.choice(args.faces, min(300, args.faces), replace=False)
    places = timed("VoxCeleb trainer, 300 faces", lambda: voxceleb_layout(points[few]))
    print(f"{'':34} {describe(faithfulness(points[few], places, labels[few]))}")
    shares = (places - places.min(axis=0)) / np.ptp(places, axis=0)
    shown = len(np.unique(np.ceil(shares * 1900).astype(int) // 100, axis=0))
    print(f"{'its grid shows':34} {shown:8} of {len(few)} faces")


if __name__ == "__main__":
    main()
