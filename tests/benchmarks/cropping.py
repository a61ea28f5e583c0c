"""Cropping raw photos: images a second and core.

    python tests/benchmarks/cropping.py [--images 60] [--widths 400 1600 4000]

Cropping: photos of each width with one face, by `crop_photo` of crop_raw.py and by the plain way
of the widget (full picture, find, crop), in one process and thread, with how far the two crops are
apart. Whole runs: crop_raw.py on a folder and on a tar.gz, with one process and with all cores.
"""

import argparse
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LABKIT_PROGRESS", "none")
sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))

import numpy as np  # noqa: E402
from joblib import cpu_count  # noqa: E402
from PIL import Image  # noqa: E402
from skimage import data  # noqa: E402

from crop_raw import arguments, crop_photo, run  # noqa: E402
from labkit.crop import crop_face, find_faces, largest_face, read_photo  # noqa: E402
from labkit.data.images import jpeg_bytes  # noqa: E402
from labkit.utils import UserError  # noqa: E402
from parts.detectors import DETECTORS, detector  # noqa: E402


def photos(width: int, count: int) -> list[bytes]:
    """JPEGs of one face, 3 by 2, in different light and noise."""
    rng = np.random.default_rng(width)
    face = Image.fromarray(data.astronaut()).crop((30, 0, 405, 250)).resize((width, width * 2 // 3))
    pixels = np.asarray(face).astype(np.float32)
    made = []
    for _ in range(count):
        noise = rng.normal(0, 4, (*pixels.shape[:2], 1)).astype(np.float32)
        bright = (pixels * rng.uniform(0.8, 1.1) + noise).clip(0, 255).astype(np.uint8)
        made.append(jpeg_bytes(bright))
    return made


def plainly(content: bytes) -> Image.Image:
    photo = read_photo(content)
    return crop_face(photo, largest_face(photo))


def seconds(function, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def cropping(width: int, count: int) -> None:
    made = photos(width, count)
    find_faces(Image.new("RGB", (64, 64)))  # loads the detector
    ours = theirs = 0.0
    apart = []
    for content in made:  # in turn, so that a change of the machine's load meets both
        took, slow = seconds(plainly, content)
        theirs += took
        took, fast = seconds(crop_photo, content, "", find_faces, 256)
        ours += took
        apart.append(np.abs(np.asarray(slow).astype(int) - np.asarray(fast).astype(int)).mean())
    print(
        f"  {width:5d} px {len(made[0]) / 1e3:7.0f} kB {count / theirs:8.2f} {count / ours:8.2f} "
        f"images/s and core {theirs / ours:6.2f} x   crops {np.mean(apart):.2f} of 255 apart"
    )


def detectors(count: int) -> None:
    noise = jpeg_bytes(np.random.default_rng(0).integers(90, 110, (267, 400, 3), dtype=np.uint8))
    for name in DETECTORS:
        try:
            find = detector(name)
        except UserError:
            print(f"  {name:8s} not installed")
            continue
        for kind, made in (("one face", photos(400, count)), ("no face", [noise] * count)):
            took, crops = seconds(lambda: [crop_photo(c, "", find, 256) for c in made])  # noqa: B023
            found = sum(isinstance(image, Image.Image) for image in crops)
            print(f"  {name:8s} {kind} {count / took:8.2f} images/s and core, {found} found")


def whole_runs(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        for k, content in enumerate(photos(400, count)):
            path = raw / f"n{k // 20:06d}" / f"{k:04d}_01.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with tarfile.open(f"{raw}.tar.gz", "w:gz") as archive:
            archive.add(raw, "train")
        for workers in sorted({1, cpu_count()}):
            for source in (raw, f"{raw}.tar.gz"):
                out = Path(folder) / f"out{workers}{Path(source).suffix}"
                flags = [str(source), "--out", str(out), "--workers", str(workers)]
                took, _ = seconds(run, arguments().parse_args(flags))
                rate = count / took
                print(f"  {Path(source).name:12s} {workers:3d} processes {rate:8.2f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--widths", type=int, nargs="+", default=[400, 1600, 4000])
    args = parser.parse_args()
    print(f"cropping{'':13s} {'plain':>8s} {'here':>8s}")
    for width in args.widths:
        cropping(width, max(3, args.images * 400 // (400 + width)))
    print("detectors, 400 px")
    detectors(max(3, args.images // 3))
    print(f"whole runs of crop_raw.py, {4 * args.images} images of 400 px")
    whole_runs(4 * args.images)


if __name__ == "__main__":
    main()
