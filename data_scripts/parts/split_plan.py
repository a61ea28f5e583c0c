"""Which identity goes into which set, and which images have to stay out for it to be clean."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labkit.data import FaceFolder, bad_lines
from labkit.utils import UserError
from parts.measure import Measures
from parts.names import plain, repaired
from parts.tables import listed, read_table

COURSE_SETS = ("pretrain", "train", "val", "test")
SETS = (*COURSE_SETS, "blind")
"""In the order in which they give way: a near-duplicate stays in the later of two sets."""
MIN_IDENTITIES = 2
"""People that a set needs: imposter pairs are made of two."""


def fit(part: str) -> str:
    """Return a part of a path as every system and list takes it: NFC, nothing special in it."""
    try:
        return plain(repaired(part))
    except ValueError:
        return "unnamed"


@dataclass
class Images:
    """The images of one or two face folders, and what became of them.

    folders: where they are; source: int8 (n,), index into folders; number: int64 (n,), in it.
    people: names of the identities as they will be written; person: int64 (n,), into people.
    why_not: reason for which an image stays out, or "".
    """

    folders: list[FaceFolder]
    source: np.ndarray
    number: np.ndarray
    people: list[str]
    person: np.ndarray
    why_not: np.ndarray = field(init=False)

    def __post_init__(self):
        self.why_not = np.full(len(self.source), "", dtype=object)

    @classmethod
    def of(cls, faces: FaceFolder, pretrain: FaceFolder | None = None) -> "Images":
        """Join folders; identities whose names differ in Unicode form alone become one."""
        folders = [faces] + ([pretrain] if pretrain else [])
        names = [[fit(name) for name in folder.identities] for folder in folders]
        people = sorted(set(names[0]))
        if pretrain:
            people += sorted(set(names[1]) - set(people))
        place = {name: k for k, name in enumerate(people)}
        person = [
            np.array([place[name] for name in some], np.int64)[folder.labels]
            for some, folder in zip(names, folders)
        ]
        images = cls(
            folders,
            np.repeat(np.arange(len(folders), dtype=np.int8), [len(f) for f in folders]),
            np.concatenate([np.arange(len(f)) for f in folders]),
            people,
            np.concatenate(person),
        )
        if pretrain:
            also = (images.source == 1) & np.isin(images.person, np.unique(person[0]))
            images.leave_out(also, "identity is among the faces, too")
        return images

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        """Return the name of image i in its folder."""
        return self.folders[self.source[i]].name(int(self.number[i]))

    def path(self, i: int) -> Path:
        """Return the path of image i."""
        return self.folders[self.source[i]].path(int(self.number[i]))

    @property
    def kept(self) -> np.ndarray:
        """bool (n,)."""
        return self.why_not == ""

    def leave_out(self, which: np.ndarray, why: str) -> None:
        """Keep images out; the first reason stays. which: bool (n,)."""
        self.why_not[which & self.kept] = why

    def leave_one_out(self, i: int, why: str) -> None:
        """Keep one image out; the first reason stays."""
        self.why_not[i] = self.why_not[i] or why

    def counts(self) -> np.ndarray:
        """Return how many images of each of the people are kept, int64."""
        return np.bincount(self.person[self.kept], minlength=len(self.people))

    def leave_out_poor(self, least: int) -> None:
        """Keep identities out that have fewer than `least` images left."""
        poor = self.counts() < least
        self.leave_out(poor[self.person], f"identity has fewer than {least} images")

    def apply_list(self, findings: dict) -> int:
        """Leave out what clean.py's list says; return how many images it names in vain."""
        unknown = set(findings)
        for i in np.flatnonzero(self.source == 0):
            finding = findings.get(listed(self.name(i)))
            if finding is not None:
                unknown.discard(finding.file)
                if not finding.keep:
                    self.leave_one_out(i, f"{finding.reason or 'in the list'}: {finding.detail}")
        return len(unknown)

    def apply_measures(self, measures: Measures) -> None:
        """Leave out what cannot be decoded."""
        for i in np.flatnonzero(~measures.readable):
            self.leave_one_out(i, f"unreadable: {measures.problem[i]}")


def allot(
    groups: np.ndarray,
    free: np.ndarray,
    ratio: dict[str, float],
    rng: np.random.Generator,
    already: np.ndarray,
) -> np.ndarray:
    """Return a set for each identity, int8 (n,) into SETS, so that no group is divided.

    The largest groups choose first, in random order among equals, and each goes where most is
    lacking, so that the numbers of identities come as near to the ratio as the groups allow. A
    set that the ratio names gets 2 identities at least, if there are enough.

    Args:
        groups: int64 (n,), the group of each identity.
        free: bool (n,), whether the identity is to be allotted; others count for nothing.
        already: how many identities each of SETS has besides.
    """
    sizes = np.bincount(groups, weights=free).astype(np.int64)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    names = [name for name in SETS if ratio.get(name, 0) > 0]
    places = np.array([SETS.index(name) for name in names])
    have = already[places].astype(np.float64)
    share = np.array([ratio[name] for name in names], np.float64)
    wanted = share / share.sum() * (sizes.sum() + have.sum())
    least = np.maximum(wanted, MIN_IDENTITIES)
    least[wanted.argmax()] -= least.sum() - wanted.sum()
    lacking = least - have
    chosen = np.zeros(len(sizes), np.int8)
    for group in order:
        where = int(np.argmax(lacking))
        lacking[where] -= sizes[group]
        chosen[group] = places[where]
    return chosen[groups]


def settle(images: Images, sets: np.ndarray, i: np.ndarray, j: np.ndarray) -> int:
    """Leave out one image of each near-duplicate pair in two sets; return how many those are.

    The copy in the set that is first in SETS goes, so that val and test stay whole. sets: int8,
    the set of each of the people.
    """
    a, b = sets[images.person[i]], sets[images.person[j]]
    divided = a != b
    goes = np.where(a < b, i, j)[divided]
    stays = np.where(a < b, j, i)[divided]
    count = 0
    for out, other in zip(goes, stays):
        if images.why_not[out] == "" and images.why_not[other] == "":
            where = SETS[sets[images.person[other]]]
            name = listed(images.name(other))
            images.leave_one_out(out, f"near-duplicate in another set: {name} in {where}")
            count += 1
    return count


def read_ratio(text: str, without: str | None = None) -> dict[str, float]:
    """Return `pretrain=0.4,train=0.4,val=0.1,test=0.1` as a dictionary."""
    ratio: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name.strip() not in SETS or not 0 <= value < float("inf"):
            raise UserError(
                f"--ratio has '{part}': write it as pretrain=0.4,train=0.4,val=0.1,test=0.1"
            )
        ratio[name.strip()] = value
    if without:
        ratio[without] = 0.0
    if sum(ratio.values()) <= 0:
        raise UserError("--ratio has nothing above 0: give each set a part")
    return ratio


def read_pairs(path: Path, key: tuple[str, ...], value: str) -> list[tuple[str, str, str]]:
    """Return (column that was there, name, value) of the lines of a CSV file.

    Raises UserError for a missing column or an empty cell, with the line.
    """
    rows, problems = [], []
    for line, row in read_table(path, (" or ".join(key), value)):
        mine = next(name for name in key if name in row)
        if row[mine] and row[value]:
            rows.append((mine, row[mine], row[value]))
        else:
            problems.append(f"line {line}: an empty cell")
    if problems:
        raise UserError(bad_lines(path, problems))
    return rows
