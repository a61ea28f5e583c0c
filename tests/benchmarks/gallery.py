"""Exact search in a large gallery: time of one answer, side by side in one run.

    python tests/benchmarks/gallery.py --entries 1000000

Embeddings lie in a memory-mapped file. Compared are the kit's search with its compact copy, the
kit's plain search, one NumPy matrix product with a partial sort, and faiss's flat index when
faiss-cpu is installed. Every answer is checked against the plain search.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from labkit.gallery.compact import CompactScreen
from labkit.gallery.search import normalized, top_k


def make_rows(path: Path, entries: int, size: int) -> np.memmap:
    """Unit vectors around 1,000 centres, float32, on disk."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, size), dtype=np.float32)
    rows = np.memmap(path, np.float32, "w+", shape=(entries, size))
    for start in range(0, entries, 50_000):
        count = min(50_000, entries - start)
        block = rng.standard_normal((count, size), dtype=np.float32)
        block += 0.8 * centres[rng.integers(0, len(centres), count)]
        rows[start : start + count] = normalized(block)
    rows.flush()
    return np.memmap(path, np.float32, "r", shape=(entries, size))


def median_ms(search, queries: np.ndarray) -> float:
    search(queries[:1])
    times = []
    for i in range(len(queries)):
        start = time.perf_counter()
        search(queries[i : i + 1])
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("-k", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder) / "rows.f32", args.entries, args.size)
        rng = np.random.default_rng(1)
        chosen = rows[rng.integers(0, args.entries, args.queries)]
        queries = normalized(chosen + 0.03 * rng.standard_normal(chosen.shape))
        start = time.perf_counter()
        screen = CompactScreen.of(rows)
        print(f"compact copy made once in {time.perf_counter() - start:.1f} s")

        def product(query):
            scores = rows @ query[0]
            best = np.argpartition(scores, -args.k)[-args.k :]
            return best[np.argsort(-scores[best])][None]

        searches = {
            "kit, compact copy": lambda query: screen.top_k(query, args.k)[0],
            "kit, plain": lambda query: top_k(query, rows, args.k)[0],
            "NumPy product": product,
        }
        try:
            import faiss
        except ImportError:
            print("faiss-cpu is not installed: not compared")
        else:
            index = faiss.IndexFlatIP(args.size)
            index.add(np.asarray(rows))
            searches["faiss flat"] = lambda query: index.search(query, args.k)[1]
        wanted = np.concatenate([searches["kit, plain"](query[None]) for query in queries])
        first = None
        for name, search in searches.items():
            found = np.concatenate([search(query[None]) for query in queries])
            same = float((found == wanted).all(axis=1).mean())
            took = median_ms(search, queries)
            first = first or took
            print(f"{name:18} {took:8.1f} ms  x{took / first:4.1f}  same answers {same:.0%}")


if __name__ == "__main__":
    main()
