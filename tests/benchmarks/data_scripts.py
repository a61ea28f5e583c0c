"""What the data scripts cost per entry, at growing sizes, where no pixels are read.

    python tests/benchmarks/data_scripts.py [--entries 1000 10000 100000 1000000] [--images 600]

Listed are microseconds of processor time per entry and, in the last column, how many times the
cost of the smallest size that is: about 1 means that the work grows with the number of entries
and no faster. The search for near-duplicates is shown beside the loop that compares every two
hashes, on the sizes that the loop can still do. The last lines read real image files.
"""

import argparse
import csv
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "data_scripts"), str(ROOT)]

import split  # noqa: E402
from labkit.data import FaceFolder  # noqa: E402
from make_pairs import arguments as pair_arguments  # noqa: E402
from make_pairs import draw  # noqa: E402
from parts import near_duplicates  # noqa: E402
from parts.hard_pairs import balanced, of_near_identities, of_same_attributes, random_pairs  # noqa: E402
from parts.job import Job  # noqa: E402
from parts.measure import Measures, measure  # noqa: E402
from parts.split_plan import Images, read_ratio  # noqa: E402

PER_PERSON = 25
first_cost: dict[str, float] = {}


def seconds(call) -> tuple[float, object]:
    """Processor time of a call, which a busy machine does not change much, and what it gave."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def row(what: str, entries: int, took: float, note: str = "") -> None:
    each = 1e6 * took / entries
    ratio = each / first_cost.setdefault(what, each)
    print(
        f"{what:38s} {entries:>9,} {took:9.2f} s {each:9.2f} us {ratio:7.2f} x  {note}", flush=True
    )


def folder_of(root: Path, entries: int) -> FaceFolder:
    """A face folder that is not on disk, but for its table of attributes."""
    people = max(2, entries // PER_PERSON)
    labels = np.sort(np.arange(entries) % people)
    names = [f"id{label:06d}/{k:07d}.jpg" for k, label in enumerate(labels)]
    identities = [f"id{label:06d}" for label in range(people)]
    rng = np.random.default_rng(0)
    with open(root / "identities.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["identity", "gender", "age"])
        for name in identities:
            rows.writerow([name, rng.choice(["female", "male"]), rng.integers(18, 70)])
    return FaceFolder(root, identities, labels, names)


def hashes_of(n: int, planted: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hashes with bits that go together, as those of aligned faces do, and near copies of some.

    The last `planted` hashes differ in at most 6 bits from those that are named.
    """
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(12, 64)).astype(np.float32) * 0.12
    bits = np.empty((n, 64), bool)
    for start in range(0, n, 100_000):
        size = min(100_000, n - start)
        common = rng.normal(size=(size, 12)).astype(np.float32)
        own = rng.normal(size=(size, 64)).astype(np.float32)
        bits[start : start + size] = common @ mixed + own > 0
    copies = rng.choice(n // 2, planted, replace=False)
    flips = rng.random((planted, 64)).argsort(axis=1) < rng.integers(0, 7, planted)[:, None]
    bits[n - planted :] = bits[copies] ^ flips
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel(), copies


def pairs(root: Path, entries: int) -> None:
    folder = folder_of(root, entries)
    rng = np.random.default_rng(0)
    took, (targets, imposters) = seconds(lambda: random_pairs(folder, 4, 0))
    row("random pairs, 4 per image", entries, took, f"{2 * len(targets):,} pairs")
    took, hard = seconds(lambda: of_same_attributes(folder, ["gender", "age"], len(targets), rng))
    row("hard imposters by attributes", entries, took, f"{len(hard):,} pairs")
    centres = rng.normal(size=(len(folder.identities), 128)).astype(np.float32)
    took, near = seconds(lambda: of_near_identities(folder, centres, len(targets), rng))
    row("hard imposters by embeddings", entries, took, f"{len(near):,} pairs, people squared")
    took, _ = seconds(lambda: balanced(targets, imposters, hard, 0.5, len(folder), rng))
    row("balanced list", entries, took)
    args = pair_arguments().parse_args([str(root)])
    took, (made, _) = seconds(lambda: draw(folder, args, None, 0, Job("x", root, dry_run=True)))
    row("the whole list, without writing", entries, took)
    took, _ = seconds(lambda: made.write(root / "pairs.csv"))
    row("writing the list", entries, took)


def search(entries: int) -> None:
    hashes, copies = hashes_of(entries, entries // 100)
    took, (i, j) = seconds(lambda: near_duplicates.candidates(hashes))
    found = set(zip(i.tolist(), j.tolist()))
    first = entries - len(copies)
    missed = sum((int(a), first + k) not in found for k, a in enumerate(copies))
    row("near-duplicates by hash", entries, took, f"{len(i):,} found, {missed} planted missed")
    if entries <= 10_000:
        took, _ = seconds(lambda: every_two(hashes))
        row("  comparing every two", entries, took)


def every_two(hashes: np.ndarray) -> list:
    return [
        np.flatnonzero(np.bitwise_count(hashes[k + 1 :] ^ value) <= near_duplicates.RADIUS)
        for k, value in enumerate(hashes)
    ]


def splitting(root: Path, entries: int) -> None:
    folder = folder_of(root, entries)
    hashes, _ = hashes_of(entries, entries // 100, seed=1)
    few = {name: np.broadcast_to(np.int32(96), entries) for name in ("width", "height", "bytes")}
    rates = {name: np.broadcast_to(np.float32(50), entries)
             for name in ("sharpness", "contrast")}  # fmt: skip
    thumb = np.broadcast_to(np.arange(1024, dtype=np.uint8).reshape(32, 32), (entries, 32, 32))
    problem = np.full(entries, "", object)
    measures = Measures(**few, **rates, hash=hashes, thumb=thumb, problem=problem)
    args = split.arguments().parse_args(
        [str(root), "--out", str(root), "--near-duplicates", "leave-out"]
    )
    took, images = seconds(lambda: Images.of(folder))
    row("split: reading the names", entries, took)
    took, (sets, _) = seconds(lambda: split.plan(images, measures, args, read_ratio(split.RATIO)))
    kept = int(images.kept.sum())
    row("split: planning, search included", entries, took, f"{kept:,} images kept")


def reading(root: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    for k in range(images):
        path = root / "faces" / f"id{k // 20:03d}" / f"{k:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        small.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=92)
    folder = FaceFolder.scan(root / "faces")
    start = time.perf_counter()
    measure(folder)
    took = time.perf_counter() - start
    print(f"reading 256 px images, all cores: {images / took:,.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--entries", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--images", type=int, default=600)
    args = parser.parse_args()
    print(f"{'':38s} {'entries':>9s} {'':11s} {'per entry':>12s} {'to first':>9s}")
    for step in (pairs, splitting):
        for entries in args.entries:
            with tempfile.TemporaryDirectory() as folder:
                step(Path(folder), entries)
    for entries in args.entries:
        search(entries)
    if args.images:
        with tempfile.TemporaryDirectory() as folder:
            reading(Path(folder), args.images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
