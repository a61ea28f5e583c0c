"""A data directory: the four face folders and the pair lists of one course."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from labkit.data.folders import FaceFolder, identity_names
from labkit.data.pairs import PairList
from labkit.utils import UserError


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

    def check(self, *, cache: str | Path | None = None) -> dict[str, FaceFolder]:
        """Return the four face folders by name; the folder `cache` keeps their listings.

        Raises UserError that lists every problem at once: missing or empty folders, identities
        without an image, people to train on who are in val or test too, and bad pair lists.
        """
        if not self.root.is_dir():
            raise UserError(f"the data directory {self.root} does not exist")
        problems, folders = [], {}
        for root in (self.pretrain, self.train, self.val, self.test):
            try:
                listing = Path(cache) / f"{root.name}.npz" if cache else None
                folder = folders[root.name] = FaceFolder.scan(root, cache=listing)
                if empty := sorted(set(identity_names(root)).difference(folder.identities)):
                    problems.append(f"{root}: no image in {_some(empty)}")
            except UserError as error:
                problems.append(str(error))
        people = {name: set(folder.identities) for name, folder in folders.items()}
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
