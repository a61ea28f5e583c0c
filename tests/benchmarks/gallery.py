"""Exact search in a large gallery: time and memory of one answer, side by side in one run.

    python tests/benchmarks/gallery.py --entries 1000000 --threads 2

Embeddings lie in a memory-mapped file. Compared are the kit's search, a bare NumPy matrix product
with a partial sort, and faiss's flat index when faiss-cpu is installed, all with the same number
of threads. Every answer is checked against a full sort of all similarities in float64. Memory is
what the process holds of its own after building and searching; pages of mapped files are shared
with the system's cache and not counted.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from labkit.gallery import top_k
from labkit.utils import l2_normalize

BLOCK = 50_000


def make_rows(path: Path, entries: int, size: int) -> np.memmap:
    """Unit vectors around 1,000 centres, float32, on disk."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, size), dtype=np.float32)
    rows = np.memmap(path, np.float32, "w+", shape=(entries, size))
    for start in range(0, entries, BLOCK):
        count = min(BLOCK, entries - start)
        block = rng.standard_normal((count, size), dtype=np.float32)
        block += 0.8 * centres[rng.integers(0, len(centres), count)]
        rows[start : start + count] = l2_normalize(block)
    rows.flush()
    return np.memmap(path, np.float32, "r", shape=(entries, size))


def full_sort(rows: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k most similar rows, by a full sort of all similarities in float64."""
    parts = [
        rows[start : start + BLOCK].astype(np.float64) @ query.astype(np.float64)
        for start in range(0, len(rows), BLOCK)
    ]
    return np.argsort(-np.concatenate(parts), kind="stable")[:k]


def own_memory() -> float:
    """Megabytes of this process that are not pages of files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-k", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(args.threads):
        rows = make_rows(Path(folder) / "rows.f32", args.entries, args.size)
        rng = np.random.default_rng(1)
        chosen = rows[rng.integers(0, args.entries, args.queries)]
        queries = l2_normalize(chosen + 0.03 * rng.standard_normal(chosen.shape))

        def product(query):
            scores = rows @ query[0]
            best = np.argpartition(scores, -args.k)[-args.k :]
            return best[np.argsort(-scores[best])][None]

        def faiss_flat():
            import faiss

            faiss.omp_set_num_threads(args.threads)
            index = faiss.IndexFlatIP(args.size)
            for start in range(0, args.entries, BLOCK):
                index.add(np.ascontiguousarray(rows[start : start + BLOCK]))
            return lambda query: index.search(query, args.k)[1]

        searches = {
            "kit": lambda: lambda query: top_k(query[0], rows, args.k)[0],
            "NumPy product": lambda: product,
            "faiss flat": faiss_flat,
        }
        wanted = np.stack([full_sort(rows, query, args.k) for query in queries])
        print(f"{args.entries:,} x {args.size}, k = {args.k}, {args.threads} threads")
        first = None
        for name, build in searches.items():
            before, times, same = own_memory(), [], []
            try:
                search = build()
            except ImportError:
                print(f"{name}: faiss-cpu is not installed, not compared")
                continue
            for query, right in zip(queries, wanted):
                start = time.perf_counter()
                found = search(query[None])
                times.append(1000 * (time.perf_counter() - start))
                same.append((found == right).all())
            took = float(np.median(times))
            first = first or took
            print(
                f"{name:14} {took:8.1f} ms  x{took / first:4.1f}  right {np.mean(same):4.0%}"
                f"  own memory {max(own_memory() - before, 0):+7.0f} MB"
            )


if __name__ == "__main__":
    main()
