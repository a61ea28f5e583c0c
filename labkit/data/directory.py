"""A data directory: the four face folders and the pair lists of one course."""

from collections.abc import Sequence
from pathlib import Path

from labkit.data.folders import FaceFolder, identity_names
from labkit.data.pairs import PairList
from labkit.utils import UserError


class DataDirectory:
    """pretrain/ train/ val/ test/ with val_pairs.csv, test_pairs.csv and maybe test_blind.csv."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.pretrain, self.train = self.root / "pretrain", self.root / "train"
        self.val, self.test = self.root / "val", self.root / "test"
        self.val_pairs = self.root / "val_pairs.csv"
        self.test_pairs = self.root / "test_pairs.csv"
        self.test_blind = self.root / "test_blind.csv"

    def check(self, *, cache: str | Path | None = None) -> dict[str, FaceFolder]:
        """The four face folders by name; UserError that lists every problem at once.

        cache: a folder that keeps the listings, see `FaceFolder.scan`; millions of files take
        minutes to list.

        Reported are missing or empty folders, identities without an image, identities of the
        training sets that are in val or test too, and what is wrong with the pair lists.
        """
        problems: list[str] = []
        folders: dict[str, FaceFolder] = {}
        if not self.root.is_dir():
            raise UserError(f"the data directory {self.root} does not exist")
        for name in ("pretrain", "train", "val", "test"):
            try:
                kept = Path(cache) / f"{name}.npz" if cache else None
                folders[name] = FaceFolder.scan(self.root / name, cache=kept)
            except UserError as error:
                problems.append(str(error))
                continue
            empty = sorted(set(identity_names(self.root / name)) - set(folders[name].identities))
            if empty:
                problems.append(f"{self.root / name}: no image in {_some(empty)}")
        for training in ("pretrain", "train"):
            for held_out in ("val", "test"):
                if training in folders and held_out in folders:
                    shared = set(folders[training].identities) & set(folders[held_out].identities)
                    if shared:
                        problems.append(
                            f"{_some(sorted(shared))} in both {training}/ and {held_out}/: "
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
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise UserError(
                f"the data directory {self.root} has {len(problems)} "
                f"problem{'s'[: len(problems) > 1]}:{listed}"
            )
        return folders


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
