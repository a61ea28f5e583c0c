"""Packed sets: images per second from a folder and from the same packed, and the cost of an index.

    python tests/benchmarks/packed.py --identities 500 --images 40

The loader's images per second, in turn, median of the rounds; then the seconds and the memory that
reading the index takes, from 10,000 to 1,000,000 records, with and without ranges of identities.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from labkit.config import TrainConfig
from labkit.data import FaceFolder, train_loader
from labkit.data.images import jpeg_bytes
from labkit.data.records import write_records

INDEX = """
import psutil, sys, time
from labkit.data import FaceFolder
memory = psutil.Process().memory_info
before = memory().rss
began = time.perf_counter()
faces = FaceFolder.scan(sys.argv[1])
took = time.perf_counter() - began
print(len(faces), f"{took:.3f}", f"{(memory().rss - before) / 2**20:.0f}")
"""


def loader_rates(folder: Path, identities: int, images: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    faces, packed = folder / "faces", folder / "packed" / "train.rec"
    pictures = []
    for k in range(identities):
        (faces / f"{k:05d}").mkdir(parents=True)
        for j in range(images):
            small = rng.integers(0, 255, (14, 14, 3), np.uint8)
            data = jpeg_bytes(np.kron(small, np.ones((8, 8, 1), np.uint8)))
            (faces / f"{k:05d}" / f"{j:03d}.jpg").write_bytes(data)
            pictures.append((k, data))
    packed.parent.mkdir()
    write_records(packed, pictures)
    config = TrainConfig(
        train_dir=str(faces), image_size=112, batch_size=100, max_images_per_class=images
    )
    rates = {"folder": [], "packed": []}
    for _ in range(rounds):
        for name, place in (("folder", faces), ("packed", packed)):
            loader = train_loader(FaceFolder.scan(place), config)
            began = time.perf_counter()
            count = sum(batch.labels.numel() for batch in loader)
            rates[name].append(count / (time.perf_counter() - began))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in medians.items())
    print(f"loader, images/s without workers: {told}: {medians['packed'] / medians['folder']:.2f}")


def index_costs(folder: Path, sizes: list[int]) -> None:
    for size in sizes:
        path = folder / f"{size}" / "train.rec"
        path.parent.mkdir()
        write_records(path, ((k // 50, b"an image") for k in range(size)))
        run = [sys.executable, "-c", INDEX, str(path)]
        out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
        seconds, mib = float(out[1]), float(out[2])
        each = 1e6 * seconds / size
        print(f"index of {size:>9,} images: {seconds:.3f} s ({each:.2f} µs each), {mib:.0f} MiB")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--identities", type=int, default=500)
    flags.add_argument("--images", type=int, default=40)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loader_rates(Path(folder), args.identities, args.images, args.rounds)
        index_costs(Path(folder), args.sizes)


if __name__ == "__main__":
    main()
