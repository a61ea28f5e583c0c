"""A data directory: the four face folders and the pair lists of one course."""

import math
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from labkit.data.folders import OUTSIDE, FaceFolder, is_litter
from labkit.data.images import decode_pixels
from labkit.data.pairs import PairList
from labkit.utils import UserError, progress


class DataDirectory:
    """A folder with pretrain/ train/ val/ test/, val_pairs.csv, test_pairs.csv, test_blind.csv.

    Those are also the names of its attributes, each a path. The blind list may be missing, and so
    may pretrain_val/ with pretrain_val_pairs.csv: people like those of pretrain/, to measure on.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.pretrain, self.train = self.root / "pretrain", self.root / "train"
        self.val, self.test = self.root / "val", self.root / "test"
        self.val_pairs, self.test_pairs = self.root / "val_pairs.csv", self.root / "test_pairs.csv"
        self.test_blind = self.root / "test_blind.csv"
        self.pretrain_val = self.root / "pretrain_val"
        self.pretrain_val_pairs = self.root / "pretrain_val_pairs.csv"

    def scan(self, name: str, *, cache: str | Path | None = None) -> FaceFolder:
        """Return a face folder by its name; `cache` is as in `check`."""
        folder = FaceFolder.scan(self.root / name, cache=cache and Path(cache) / f"{name}.npz")
        if name == "test" and self.test_blind.exists():  # whose images lie there
            folder.passed_over.pop(OUTSIDE, None)
        return folder

    def check(self, *, cache: str | Path | None = None, pictures: int = 0) -> dict[str, FaceFolder]:
        """Return the face folders by name; the folder `cache` keeps their listings.

        Raises UserError that lists every problem at once: missing or empty folders, identities
        without an image, people to train on who are in val or test too, bad tables and pair lists,
        and unreadable images among so many `pictures` of each folder.
        """
        if not self.root.is_dir():
            raise UserError(f"the data directory {self.root} does not exist")
        problems, folders = [], {}
        optional = [self.pretrain_val] if self.pretrain_val.is_dir() else []
        for root in (self.pretrain, self.train, self.val, self.test, *optional):
            try:
                folder = folders[root.name] = self.scan(root.name, cache=cache)
                names = {place.name for place in root.iterdir() if place.is_dir()}
                if empty := sorted(n for n in names - {*folder.identities} if not is_litter(n)):
                    problems.append(f"{root}: no image in {_some(empty)}")
                if pictures and (bad := _unreadable(folder, pictures)):
                    problems.append(f"{root}: {len(bad):,} unreadable images: {_some(bad)}")
                folder.details()
            except UserError as error:
                problems.append(str(error))
        people = {}
        for name, folder in folders.items():
            people[name] = {unicodedata.normalize("NFC", person) for person in folder.identities}
            if twice := len(folder.identities) - len(people[name]):
                problems.append(f"{folder.root}: {twice} names are there in two Unicode forms")
        held_out = people.keys() & {"val", "test", "pretrain_val"}
        for one, other in product(people.keys() - held_out, held_out):
            if both := sorted(people[one] & people[other]):
                problems.append(f"{_some(both)} in both {one}/ and {other}/: take them out of one")
        optional = [p for p in (self.test_blind, self.pretrain_val_pairs) if p.exists()]
        for path in (self.val_pairs, self.test_pairs, *optional):
            root = self.root / path.name.rpartition("_")[0]
            try:
                pairs = PairList.read(path, root if root.is_dir() else None)
                if path != self.test_blind:
                    pairs.check_labels(path)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n  - ".join([f"{self.root} has problems:", *problems]))
        return folders


def _unreadable(folder: FaceFolder, most: int) -> list[str]:
    """Return what is wrong with the images that cannot be read, of `most` spread evenly."""

    def look(i: int) -> str | None:
        try:
            decode_pixels(folder.source(i), min_size=1)
        except UserError as error:
            return str(error)

    chosen = range(0, len(folder), math.ceil(len(folder) / most))
    settings = dict(total=len(chosen), desc=folder.root.name, unit="image", leave=False)
    with ThreadPoolExecutor() as threads:
        return [*filter(None, progress(threads.map(look, chosen), **settings))]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
