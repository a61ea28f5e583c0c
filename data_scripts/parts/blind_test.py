"""A blind test: faces under names that say nothing, and the key that staff keep.

What could tell the pairs apart without looking at the faces is taken away: names are random (from
the system's own source, so that no seed gives them back), all images are decoded and saved anew
with the same size, quality and time stamp and without metadata, and the order of the pairs and of
the two in each is shuffled from the same source.
"""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import ImageOps

from labkit.data import FaceFolder, PairList, decode_image
from labkit.data.images import jpeg_bytes
from labkit.data.tables import read_rows
from labkit.utils import UserError, write_csv
from parts.job import Job
from parts.tables import listed

PREFIX = "blind-"
QUALITY = 92
TIME = 946_684_800  # 2000-01-01, for every file
KEY_FILE, NAMES_FILE = "test_blind_key.csv", "test_blind_names.csv"


def make_key(pairs: PairList, key: Path) -> None:
    """Write random names and then the labelled list under these names into the folder `key`."""
    blind = [f"{PREFIX}{secrets.token_hex(6)}.jpg" for _ in pairs.files]
    order = np.random.default_rng(secrets.randbits(128)).permutation(len(pairs))
    rows = sorted(zip(blind, map(listed, pairs.files)))
    write_csv(key / NAMES_FILE, [("anonymous", "original"), *rows])
    left, right = ([blind[i] for i in side[order]] for side in (pairs.left, pairs.right))
    PairList.from_names(left, right, pairs.labels[order]).write(key / KEY_FILE)


def read_key(key: Path, folder: FaceFolder) -> tuple[PairList, dict[str, int]]:
    """Return the labelled list, and the number in `folder` of the image under each name.

    Raises UserError when the key is damaged or belongs to other faces.
    """
    number = {listed(folder.name(i)): i for i in range(len(folder))}
    rows = [row for _, row in read_rows(key / NAMES_FILE, "the names")][1:]
    pairs = PairList.read(key / KEY_FILE)
    found = {row[0]: number[row[1]] for row in rows if len(row) == 2 and row[1] in number}
    if len(found) < len(rows) or not set(pairs.files) <= set(found):
        raise UserError(f"the key in {key} belongs to other faces than {folder.root}: give another")
    return pairs, found


def write_images(
    folder: FaceFolder, found: dict[str, int], test: Path, size: int, job: Job
) -> None:
    """Write each image under its name into `test` unless it is there.

    Raises UserError when `test` holds blind images of another key, or an image cannot be decoded.
    """
    there = {entry.name for entry in os.scandir(test) if entry.name.startswith(PREFIX)}
    strangers = sorted(there - set(found))
    if strangers:
        raise UserError(
            f"{test} holds images of another blind test, such as {strangers[0]}: give its --key, "
            f"or delete {test}/{PREFIX}*.jpg"
        )
    missing = sorted(set(found) - there)
    bar = job.progress(total=len(found), unit="images")
    bar.update(len(there))
    sources = [folder.path(found[name]) for name in missing]
    targets = [test / name for name in missing]
    with ThreadPoolExecutor(cpu_count()) as threads:
        for _ in threads.map(_write, sources, targets, [size] * len(missing)):
            bar.update()


def _write(source: Path, target: Path, size: int) -> None:
    """Write the middle square of an image as a JPEG of `size` pixels, nothing but the pixels."""
    square = ImageOps.fit(decode_image(source), (size, size))
    temporary = target.with_name(f".{target.name}.partial")
    # From bare pixels: an image carries the profile and comments of the file it came from.
    temporary.write_bytes(jpeg_bytes(np.asarray(square), QUALITY))
    os.utime(temporary, (TIME, TIME))
    os.replace(temporary, target)
