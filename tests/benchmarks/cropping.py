"""Cropping raw photos: images a second and core.

    python tests/benchmarks/cropping.py [--images 60] [--widths 400 1600 4000]

Photos of each width with one face, in one process and thread, and what finds no face; the other
detectors; whole runs of crop_raw.py on a folder and on a tar.gz, with one process and all cores.
"""

import argparse
import io
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
from labkit.crop import find_faces  # noqa: E402
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
        buffer = io.BytesIO()
        Image.fromarray(bright).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def cropping(width: int, count: int) -> None:
    made = photos(width, count)
    find_faces(Image.new("RGB", (64, 64)))  # loads the detector
    took, _ = seconds(lambda: [crop_photo(content, "", find_faces, 256) for content in made])
    print(f"  {width:5d} px {len(made[0]) / 1e3:7.0f} kB {count / took:8.2f} images/s and core")


def nothing_to_find(count: int) -> None:
    rng = np.random.default_rng(0)
    face = photos(400, 1)[0]
    noise = rng.integers(90, 110, (267, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    with_face, _ = seconds(lambda: [crop_photo(face, "", find_faces, 256) for _ in range(count)])
    without, _ = seconds(
        lambda: [crop_photo(buffer.getvalue(), "", find_faces, 256) for _ in range(count)]
    )
    print(
        f"    400 px without a face {count / without:8.2f} images/s and core: "
        f"{without / with_face:.1f} times the work, for the second look"
    )


def other_detectors(count: int) -> None:
    made = photos(400, count)
    for name in DETECTORS:
        try:
            find = detector(name)
        except UserError:
            print(f"  {name:8s} not installed")
            continue
        took, cut = seconds(lambda find=find: [crop_photo(c, "", find, 256) for c in made])
        found = sum(isinstance(image, Image.Image) for image in cut)
        print(f"  {name:8s} {count / took:8.2f} images/s and core, {found} of {count} cropped")


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
                done = run(arguments().parse_args(flags))
                print(
                    f"  {Path(source).name:12s} {workers:3d} processes "
                    f"{done['images_per_second']:8.2f} images/s "
                    f"{done['images_per_second_per_core']:8.2f} images/s and core"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--widths", type=int, nargs="+", default=[400, 1600, 4000])
    args = parser.parse_args()
    for width in args.widths:
        cropping(width, max(3, args.images * 400 // (400 + width)))
    nothing_to_find(max(3, args.images // 6))
    print("detectors, 400 px")
    other_detectors(max(3, args.images // 3))
    print(f"whole runs of crop_raw.py, {4 * args.images} images of 400 px")
    whole_runs(4 * args.images)


if __name__ == "__main__":
    main()
