"""The sets on disk: links or copies of the images, and the tables beside them."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from labkit.utils import make_folder, write_csv
from parts.job import Job
from parts.names import Taken
from parts.split_plan import SETS, Images, fit

THREADS = 8
_PRIVATE = {"student", "students"}  # columns of identities.csv that are not handed on


def write_sets(
    images: Images, sets: np.ndarray, folders: dict[str, Path], job: Job, *, link: bool
) -> int:
    """Link or copy what is kept, one person after the other; how many links became copies.

    sets: int8, the set of each of the people. folders: where each set goes. A person is done when
    all images are there; a run that goes on begins with the next.
    """
    numbers = np.flatnonzero(images.kept)
    numbers = numbers[np.argsort(images.person[numbers], kind="stable")]
    edges = np.searchsorted(images.person[numbers], np.arange(len(images.people) + 1))
    copied = 0
    bar = job.progress(len(numbers), unit="images")
    partial = {} if job.dry_run else _partial_folders(folders, job)
    with ThreadPoolExecutor(THREADS) as threads:
        for person in np.argsort(sets, kind="stable"):
            mine = numbers[edges[person] : edges[person + 1]]
            if not len(mine):
                continue
            name, where = images.people[person], SETS[sets[person]]
            if not job.is_done(f"{where}/{name}"):
                if not job.dry_run:
                    work = _work(images, mine, folders[where] / name, partial[where])
                    copied += sum(threads.map(lambda one: place_image(*one, link), work))
                job.count(f"images in {where}", len(mine))
                job.count(f"people in {where}")
                job.done(f"{where}/{name}")
            bar.update(len(mine))
    for folder in set(partial.values()) - {job.partial}:
        shutil.rmtree(folder)
    return copied


def _partial_folders(folders: dict[str, Path], job: Job) -> dict[str, Path]:
    """Where the files of each set are begun: on the set's own disk."""
    partial = dict.fromkeys(folders, job.partial)
    if "blind" in folders:
        shutil.rmtree(folders["blind"] / ".partial", ignore_errors=True)
        partial["blind"] = make_folder(folders["blind"] / ".partial")
    return partial


def _work(images: Images, mine: np.ndarray, folder: Path, partial: Path) -> list[tuple]:
    """(source, target, where to begin it) of the images of one person; makes their folders."""
    taken = Taken()
    work = []
    for i in mine:
        source = images.folders[images.source[i]].path(int(images.number[i]))
        work.append((source, folder / free_name(images.name(i), taken), partial / f"{i}"))
    for parent in {target.parent for _, target, _ in work}:
        make_folder(parent)
    return work


def free_name(name: str, taken: Taken) -> str:
    """The path of an image below its identity, as it will be written; never the same twice."""
    parts = [fit(part) for part in name.split("/")[1:]]
    stem, dot, ending = parts[-1].rpartition(".")
    if not stem:
        stem, dot, ending = parts[-1], ".", "jpg"
    below = "".join(f"{part}/" for part in parts[:-1])
    number = 1
    while True:
        again = f"_{number}" if number > 1 else ""
        if found := taken.claim(f"{below}{stem}{again}{dot}{ending}"):
            return found
        number += 1


def place_image(source: Path, target: Path, beside: Path, link: bool) -> bool:
    """One image into a set, whole or not at all; True when a link was impossible.

    `beside` is begun and renamed onto `target`. Not flushed to the disk one by one, which would
    take hours for millions; `check_data.py` reads them all.
    """
    beside.unlink(missing_ok=True)
    if link:
        try:
            os.link(os.path.realpath(source), beside)
            os.replace(beside, target)
            beside.unlink(missing_ok=True)  # renaming a link onto a link of the same file leaves it
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    shutil.copyfile(source, beside)
    os.replace(beside, target)
    return link


def write_tables(images: Images, sets: np.ndarray, folders: dict[str, Path], listing: Path) -> None:
    """The list of who is where and, from the faces' own table, identities.csv of each set.

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
        mine = [
            name
            for k, name in enumerate(images.people)
            if sets[k] == number and counts[k] > 0 and name in about
        ]
        if mine and columns:
            table = [[name, *(about[name].get(c, "") for c in columns)] for name in mine]
            write_csv(folders[where] / "identities.csv", [["identity", *columns], *table])
