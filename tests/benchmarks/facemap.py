"""From embeddings to layouts, poster and page: seconds of each step.

    python tests/benchmarks/facemap.py --faces 1229
    python tests/benchmarks/facemap.py --faces 83000 --methods umap --size 512

`reference t-SNE` is scikit-learn's TSNE with its defaults, as the reference trainer calls it, on
the same embeddings; it runs when t-SNE is among the methods.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.facemap import faithfulness, layout, poster, save_poster, to_grid, to_html


def timed(name: str, job):
    start = time.perf_counter()
    result = job()
    print(f"{name:22} {time.perf_counter() - start:8.1f} s", flush=True)
    return result


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
    faces = [np.asarray(Image.fromarray(colour).resize((96, 96))) for colour in colours]
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
    print(f"{'all':22} {time.perf_counter() - start:8.1f} s")
    for name, places in maps.items():
        print(name, {key: round(x, 3) for key, x in faithfulness(points, places, labels).items()})
    if "tsne" in methods:
        from sklearn.manifold import TSNE

        timed("reference t-SNE", lambda: TSNE(random_state=0).fit_transform(points))


if __name__ == "__main__":
    main()
