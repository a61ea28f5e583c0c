"""The sets on disk: links or copies of the images, and the tables beside them."""

import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from labkit.utils import make_folder, write_csv
from parts.job import Job
from parts.names import claim
from parts.split_plan import SETS, Images, fit

THREADS = 8
_PRIVATE = {"student", "students"}  # columns of identities.csv that are not handed on


def write_sets(
    images: Images, sets: np.ndarray, folders: dict[str, Path], job: Job, *, link: bool
) -> int:
    """Link or copy what is kept and is not there yet; return how many links became copies.

    sets: int8, the set of each of the people. folders: where each set goes.
    """
    counts = np.bincount(images.person[images.kept], minlength=len(images.people))
    for k, name in enumerate(SETS):
        if n := int(counts[sets == k].sum()):
            job.count(f"images in {name}", n)
            job.count(f"people in {name}", int((counts[sets == k] > 0).sum()))
    copied = 0
    bar = job.progress(total=int(counts.sum()), unit="images")
    with ThreadPoolExecutor(THREADS) as threads:
        for work in _by_person(images, sets, folders) if not job.dry_run else ():
            missing = [(source, target) for source, target in work if not target.exists()]
            for parent in {target.parent for _, target in missing}:
                make_folder(parent)
            copied += sum(threads.map(lambda one: place_image(*one, link), missing))
            job.earlier += len(work) - len(missing)
            bar.update(len(work))
    return copied


def _by_person(
    images: Images, sets: np.ndarray, folders: dict[str, Path]
) -> Iterator[list[tuple[Path, Path]]]:
    """Yield (source, target) of the images of each person, one set after the other."""
    numbers = np.flatnonzero(images.kept)
    numbers = numbers[np.argsort(images.person[numbers], kind="stable")]
    edges = np.searchsorted(images.person[numbers], np.arange(len(images.people) + 1))
    for person in np.argsort(sets, kind="stable"):
        mine = numbers[edges[person] : edges[person + 1]]
        taken: set[str] = set()
        if len(mine):
            folder = folders[SETS[sets[person]]] / images.people[person]
            yield [(images.path(i), folder / free_name(images.name(i), taken)) for i in mine]


def free_name(name: str, taken: set[str]) -> str:
    """Return the path of an image below its identity as it is written, never the same twice."""
    parts = [fit(part) for part in name.split("/")[1:]]
    stem, dot, ending = parts[-1].rpartition(".")
    if not stem:
        stem, dot, ending = parts[-1], ".", "jpg"
    below = "".join(f"{part}/" for part in parts[:-1])
    number = 1
    while True:
        again = f"_{number}" if number > 1 else ""
        if found := claim(taken, f"{below}{stem}{again}{dot}{ending}"):
            return found
        number += 1


def place_image(source: Path, target: Path, link: bool) -> bool:
    """Put an image into a set, whole or not at all; return True when a link was impossible.

    Copies are not flushed to the disk one by one, which would take hours for millions;
    `check_data.py` reads them all.
    """
    if link:
        try:
            os.link(os.path.realpath(source), target)
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    temporary = target.with_name(f".{target.name[:200]}.partial")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    return link


def write_tables(images: Images, sets: np.ndarray, folders: dict[str, Path], listing: Path) -> None:
    """Write the list of who is where and, from the faces' own table, identities.csv of each set.

    People of the set blind are not in the list.
    """
    counts = images.counts()
    rows = [
        (name, SETS[sets[k]], counts[k])
        for k, name in enumerate(images.people)
        if counts[k] > 0 and SETS[sets[k]] != "blind"
    ]
    write_csv(listing, [("identity", "set", "images"), *rows])
    about = {}
    for folder in reversed(images.folders):
        about |= {fit(name): row for name, row in folder.details().items()}
    columns = dict.fromkeys(c for row in about.values() for c in row if c.lower() not in _PRIVATE)
    for number, where in enumerate(SETS):
        table = [
            [name, *(about[name].get(c, "") for c in columns)]
            for k, name in enumerate(images.people)
            if sets[k] == number and counts[k] > 0 and name in about
        ]
        if table and columns:
            write_csv(folders[where] / "identities.csv", [["identity", *columns], *table])
