"""Cost against size: listing a face folder and sampling its batches, per file.

    python tests/benchmarks/sizes.py --most 1000000

Makes folders of empty files (100 per identity) in a temporary place, of 1,000 files and ten times
as many each time, up to --most. Flat numbers from line to line mean that the cost per file does
not grow.
"""

import argparse
import tempfile
import time
from pathlib import Path

from labkit.config import TrainConfig
from labkit.data import FaceFolder, IdentityBatchSampler

IMAGES = 100


def make_folder(root: Path, files: int) -> Path:
    for identity in range(files // IMAGES):
        folder = root / f"id{identity:06d}"
        folder.mkdir(parents=True)
        for image in range(IMAGES):
            (folder / f"{image:04d}.jpg").touch()
    return root


def seconds(job) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def measure(files: int, scratch: Path) -> str:
    """One line of the table, for a folder of so many files."""
    root, cache = make_folder(scratch / "faces", files), scratch / "scan.npz"
    FaceFolder.scan(root)  # so that the system has the folders at hand every time
    scan = seconds(lambda: FaceFolder.scan(root, cache=cache))
    cached = seconds(lambda: FaceFolder.scan(root, cache=cache))
    folder = FaceFolder.scan(root, cache=cache)
    sampler = IdentityBatchSampler(folder, TrainConfig(batch_size=min(200, files // IMAGES)))
    drawn = seconds(lambda: sum(1 for _ in sampler))
    scan, cached, drawn = (1e6 * value / files for value in (scan, cached, drawn))
    return f"{files:10,} {scan:10.2f} {cached:11.2f} {drawn:12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=1_000_000, help="files in the largest folder")
    args = parser.parse_args()
    print(f"{'files':>10} {'scan':>10} {'from cache':>11} {'epoch drawn':>12}   µs per file")
    powers = [10**digits for digits in range(3, 10) if 10**digits < args.most]
    for files in [*powers, args.most]:
        with tempfile.TemporaryDirectory() as scratch:
            print(measure(files, Path(scratch)), flush=True)


if __name__ == "__main__":
    main()
