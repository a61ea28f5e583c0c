"""A data directory: the four face folders and the pair lists of one course."""

import math
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from labkit.data.folders import OUTSIDE, FaceFolder, identity_names
from labkit.data.images import decode_pixels
from labkit.data.pairs import PairList
from labkit.utils import UserError, progress


class DataDirectory:
    """A folder with pretrain/ train/ val/ test/, val_pairs.csv, test_pairs.csv, test_blind.csv.

    Those are also the names of its attributes, each a path. The blind list may be missing.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.pretrain, self.train = self.root / "pretrain", self.root / "train"
        self.val, self.test = self.root / "val", self.root / "test"
        self.val_pairs, self.test_pairs = self.root / "val_pairs.csv", self.root / "test_pairs.csv"
        self.test_blind = self.root / "test_blind.csv"

    def scan(self, name: str, *, cache: str | Path | None = None) -> FaceFolder:
        """Return a face folder by its name; `cache` is as in `check`."""
        listing = Path(cache) / f"{name}.npz" if cache else None
        folder = FaceFolder.scan(self.root / name, cache=listing)
        if name == "test" and self.test_blind.exists():  # whose images lie there
            folder.passed_over.pop(OUTSIDE, None)
        return folder

    def check(self, *, cache: str | Path | None = None, pictures: int = 0) -> dict[str, FaceFolder]:
        """Return the four face folders by name; the folder `cache` keeps their listings.

        Raises UserError that lists every problem at once: missing or empty folders, identities
        without an image, people to train on who are in val or test too, in whichever Unicode form,
        bad tables and pair lists, and images that cannot be read among so many `pictures` of each.
        """
        if not self.root.is_dir():
            raise UserError(f"the data directory {self.root} does not exist")
        problems, folders = [], {}
        for root in (self.pretrain, self.train, self.val, self.test):
            try:
                folder = folders[root.name] = self.scan(root.name, cache=cache)
                if empty := sorted(set(identity_names(root)).difference(folder.identities)):
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
        for one, other in product(people.keys() - {"val", "test"}, people.keys() & {"val", "test"}):
            if both := sorted(people[one] & people[other]):
                problems.append(f"{_some(both)} in both {one}/ and {other}/: take them out of one")
        for path in (self.val_pairs, self.test_pairs, self.test_blind):
            root = self.val if path == self.val_pairs else self.test
            try:
                if path != self.test_blind:
                    PairList.read(path, root if root.is_dir() else None).check_labels(path)
                elif path.exists():
                    PairList.read(path, root)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n  - ".join([f"{self.root} has problems:", *problems]))
        return folders


def _unreadable(folder: FaceFolder, most: int) -> list[str]:
    """Return what is wrong with the images that cannot be read, of `most` spread evenly."""

    def look(i: int) -> str:
        try:
            decode_pixels(folder.path(i), min_size=1)
            return ""
        except UserError as error:
            return str(error)

    chosen = range(0, len(folder), math.ceil(len(folder) / most))
    with ThreadPoolExecutor() as threads:
        looks = threads.map(look, chosen)
        bar = progress(looks, total=len(chosen), desc=folder.root.name, unit="image", leave=False)
        return list(filter(None, bar))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
