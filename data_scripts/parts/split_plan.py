"""Which identity goes into which set, and which images have to stay out for it to be clean."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labkit.data import FaceFolder, bad_lines
from labkit.utils import UserError, reason
from parts import near_duplicates
from parts.clean_list import listed
from parts.measure import Measures
from parts.names import plain, repaired

COURSE_SETS = ("pretrain", "train", "val", "test")
SETS = (*COURSE_SETS, "blind")
"""In the order in which they give way: a near-duplicate stays in the later of two sets."""
LEAST_IDENTITIES = 2
"""People that a set needs: imposter pairs are made of two."""
_EASY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*(\.[A-Za-z0-9]+)?", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def fit(part: str) -> str:
    """A part of a path as every system and list takes it: NFC, no control or special characters."""
    if _EASY.fullmatch(part) and len(part) <= 120 and not _DEVICES.match(part):
        return part
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
        """Identities whose names differ in their Unicode form alone become one."""
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
        """Path of image i in its folder."""
        return self.folders[self.source[i]].name(int(self.number[i]))

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
        """Images of each of the people that are kept, int64."""
        return np.bincount(self.person[self.kept], minlength=len(self.people))

    def leave_out_poor(self, least: int) -> None:
        """Keep identities out that have fewer than `least` images left."""
        poor = self.counts() < least
        self.leave_out(poor[self.person], f"identity has fewer than {least} images")

    def apply_list(self, findings: dict) -> int:
        """Leave out what the list of `clean.py` says; how many images it names in vain."""
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


def near_duplicate_pairs(
    images: Images, measures: Measures, radius: int, alike: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of kept images of different identities that are near-duplicates, int64 (m,) each."""
    numbers = np.flatnonzero(images.kept & measures.telling)
    i, j = near_duplicates.candidates(measures.hash[numbers], radius)
    i, j = numbers[i], numbers[j]
    apart = images.person[i] != images.person[j]
    i, j = i[apart], j[apart]
    near = measures.likeness(i, j) >= alike
    return i[near], j[near]


def allot(
    groups: np.ndarray,
    free: np.ndarray,
    ratio: dict[str, float],
    rng: np.random.Generator,
    already: np.ndarray | None = None,
) -> np.ndarray:
    """A set for each identity, int8 (n,) into SETS, so that no group is divided.

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
    have = np.zeros(len(names)) if already is None else already[places].astype(np.float64)
    share = np.array([ratio[name] for name in names], np.float64)
    wanted = share / share.sum() * (sizes.sum() + have.sum())
    least = np.maximum(wanted, LEAST_IDENTITIES)
    least[wanted.argmax()] -= least.sum() - wanted.sum()
    lacking = least - have
    chosen = np.zeros(len(sizes), np.int8)
    for group in order:
        where = int(np.argmax(lacking))
        lacking[where] -= sizes[group]
        chosen[group] = places[where]
    return chosen[groups]


def settle(images: Images, sets: np.ndarray, i: np.ndarray, j: np.ndarray) -> int:
    """Leave one image out of each near-duplicate pair that is in two sets; how many that were.

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
    """`pretrain=0.4,train=0.4,val=0.1,test=0.1` as a dictionary; UserError when it is not that."""
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


def read_table(path: str | Path, key: tuple[str, ...], value: str) -> list[tuple[str, str, str]]:
    """(column that was there, name, value) of a CSV with a header, names and values without
    spaces around; UserError for a missing column or an empty cell, with the line."""
    path = Path(path)
    rows, problems = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
            mine = next((name for name in key if name in columns), None)
            if mine is None or value not in columns:
                raise UserError(
                    f"{path}: the first line must name the columns {' or '.join(key)} and {value}"
                )
            for row in reader:
                name = (row[columns[mine]] or "").strip()
                told = (row[columns[value]] or "").strip()
                if not name or not told:
                    if any(cell for cell in row.values() if cell):
                        problems.append(f"line {reader.line_num}: an empty cell")
                    continue
                rows.append((mine, name, told))
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if problems:
        raise UserError(bad_lines(path, problems))
    return rows
