"""Exact search in a large gallery: time and memory of one answer, side by side in one run.

    python tests/benchmarks/gallery.py --entries 1000000 --threads 2

Embeddings lie in a memory-mapped file. Compared are the kit's search with its compact copy (read
from a memory-mapped file too), the kit's plain search, one NumPy matrix product with a partial
sort, and faiss's flat index when faiss-cpu is installed, all with the same number of threads.
Every answer is checked against brute force: all similarities in float64, fully sorted. Memory is
what the process holds of its own after building and searching; pages of mapped files are shared
with the system's cache and not counted.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from labkit.gallery import compact
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


def mapped(folder: Path, screen: CompactScreen) -> CompactScreen:
    """The screen with its arrays read from files, as a gallery file has them."""
    parts = []
    for name in ("codes", "scales"):
        np.save(folder / f"{name}.npy", getattr(screen, name))
        parts.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return CompactScreen(screen.rows, *parts, screen.error)


def brute_force(rows: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k most similar rows, by a full sort of all similarities in float64."""
    parts = [
        rows[start : start + 50_000].astype(np.float64) @ query.astype(np.float64)
        for start in range(0, len(rows), 50_000)
    ]
    return np.argsort(-np.concatenate(parts), kind="stable")[:k]


def own_memory() -> float:
    """Megabytes of this process that are not pages of files (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-k", type=int, default=5)
    args = parser.parse_args()
    compact.cpu_count = lambda: args.threads
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(args.threads):
        rows = make_rows(Path(folder) / "rows.f32", args.entries, args.size)
        rng = np.random.default_rng(1)
        chosen = rows[rng.integers(0, args.entries, args.queries)]
        queries = normalized(chosen + 0.03 * rng.standard_normal(chosen.shape))
        start = time.perf_counter()
        made = CompactScreen.of(rows)
        print(f"compact copy made once in {time.perf_counter() - start:.1f} s")
        screen = mapped(Path(folder), made)
        del made

        def product(query):
            scores = rows @ query[0]
            best = np.argpartition(scores, -args.k)[-args.k :]
            return best[np.argsort(-scores[best])][None]

        def faiss_flat():
            import faiss

            faiss.omp_set_num_threads(args.threads)
            index = faiss.IndexFlatIP(args.size)
            for start in range(0, args.entries, 50_000):
                index.add(np.ascontiguousarray(rows[start : start + 50_000]))
            return lambda query: index.search(query, args.k)[1]

        searches = {
            "kit, compact copy": lambda: lambda query: screen.top_k(query, args.k)[0],
            "kit, plain": lambda: lambda query: top_k(query, rows, args.k)[0],
            "NumPy product": lambda: product,
            "faiss flat": faiss_flat,
        }
        wanted = np.stack([brute_force(rows, query, args.k) for query in queries])
        print(f"{args.entries:,} x {args.size}, k = {args.k}, {args.threads} threads")
        first = None
        for name, build in searches.items():
            before = own_memory()
            try:
                search = build()
            except ImportError:
                print(f"{name}: faiss-cpu is not installed, not compared")
                continue
            found = np.concatenate([search(query[None]) for query in queries])
            same = float((found == wanted).all(axis=1).mean())
            took = median_ms(search, queries)
            first = first or took
            print(
                f"{name:18} {took:8.1f} ms  x{took / first:4.1f}  same as brute force {same:4.0%}"
                f"  own memory {max(own_memory() - before, 0):+7.0f} MB"
            )


if __name__ == "__main__":
    main()
