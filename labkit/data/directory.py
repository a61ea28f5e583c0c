"""A data directory: the four face folders and the pair lists of one course."""

from collections.abc import Sequence
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
        self.val_pairs = self.root / "val_pairs.csv"
        self.test_pairs = self.root / "test_pairs.csv"
        self.test_blind = self.root / "test_blind.csv"

    def check(self, *, cache: str | Path | None = None) -> dict[str, FaceFolder]:
        """Return the four face folders by name.

        cache: a folder that keeps the listings, see `FaceFolder.scan`; millions of files take
        minutes to list.

        Raises UserError that lists every problem at once: missing or empty folders, identities
        without an image, identities of the training sets that are in val or test too, and what
        is wrong with the pair lists.
        """
        if not self.root.is_dir():
            raise UserError(f"the data directory {self.root} does not exist")
        problems: list[str] = []
        folders: dict[str, FaceFolder] = {}
        for name in ("pretrain", "train", "val", "test"):
            root = self.root / name
            try:
                kept = Path(cache) / f"{name}.npz" if cache else None
                folders[name] = FaceFolder.scan(root, cache=kept)
                if empty := sorted({*identity_names(root)} - {*folders[name].identities}):
                    problems.append(f"{root}: no image in {_some(empty)}")
            except UserError as error:
                problems.append(str(error))
        people = {name: set(folder.identities) for name, folder in folders.items()}
        for training in people.keys() & {"pretrain", "train"}:
            for held_out in people.keys() & {"val", "test"}:
                if shared := sorted(people[training] & people[held_out]):
                    problems.append(
                        f"{_some(shared)} in both {training}/ and {held_out}/: "
                        "a network must not be tested on people it was trained on"
                    )
        lists = [(self.val_pairs, self.val), (self.test_pairs, self.test)]
        if self.test_blind.exists():
            lists.append((self.test_blind, self.test))
        for path, folder in lists:
            try:
                pairs = PairList.read(path, folder if folder.is_dir() else None)
                if path != self.test_blind:
                    pairs.check_labels(path)
            except UserError as error:
                problems.append(str(error))
        if problems:
            count = f"{len(problems)} problem{'s'[: len(problems) > 1]}"
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise UserError(f"the data directory {self.root} has {count}:{listed}")
        return folders


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
