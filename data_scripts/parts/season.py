"""A blind test over a course: a public and a private part, one file a day, and a history."""

import csv
import dataclasses
import datetime
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import PairList
from labkit.utils import write_bytes, write_csv
from parts.submissions import Key, Submission, check_submission
from parts.tables import spreadsheet_cell

HEADER = ("date", "student", "digest", "eer_public", "eer_private")


def public_pairs(key: Key, secret: bytes, share: float) -> np.ndarray:
    """Return which pairs are public, bool (n,): those of two people drawn for it by the key.

    secret: what only the staff have, such as the bytes of the key.
    """
    draws = [
        int.from_bytes(blake2b(b"%d" % person, key=secret[:64], digest_size=7).digest())
        for person in range(key.people)
    ]
    chosen = np.zeros(key.people, bool)
    chosen[np.argsort(draws)[: max(2, round(share * key.people))]] = True
    return chosen[key.left] & chosen[key.right]


def part_of(key: Key, chosen: np.ndarray) -> Key:
    """Return the key of some of the pairs."""
    pairs = key.pairs
    some = PairList(pairs.files, pairs.left[chosen], pairs.right[chosen], pairs.labels[chosen])
    people = len(np.union1d(key.left[chosen], key.right[chosen]))
    return Key(some, key.left[chosen], key.right[chosen], people, key.known_by)


class History:
    """What each student has submitted, in OUT/history.csv and OUT/history/, for the staff."""

    def __init__(self, out: Path, key: Key, public: np.ndarray):
        self.out, self.key, self.public = out, key, public
        self.rows: list[dict] = []
        if (out / "history.csv").exists():
            with open(out / "history.csv", newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def take(self, submission: Submission, today: datetime.date) -> Submission:
        """Return a good submission; with a problem, a second one of a student on one day.

        One that was taken before is the same one still.
        """
        student, data = spreadsheet_cell(submission.path.stem), submission.path.read_bytes()
        digest = blake2b(data, digest_size=8).hexdigest()
        own = [row for row in self.rows if row["student"] == student]
        if own and own[-1]["digest"] == digest:
            return submission
        if own and own[-1]["date"] == str(today):
            why = "one file a day: that of today stays, hand this one in tomorrow"
            return dataclasses.replace(submission, scores=None, problems=[why])
        labels = self.key.pairs.labels
        rates = [
            f"{metrics.eer(submission.scores[part], labels[part]):.4f}"
            for part in (self.public, ~self.public)
        ]
        self.rows.append(dict(zip(HEADER, (str(today), student, digest, *rates))))
        write_bytes(self.out / "history" / f"{digest}.csv", data)
        return submission

    def latest(self, names: set[str]) -> list[Submission]:
        """Return the last accepted files of students whose own is not among the `names`."""
        last = {row["student"]: row["digest"] for row in self.rows if row["student"] not in names}
        found = []
        for student, digest in last.items():
            kept = check_submission(self.out / "history" / f"{digest}.csv", self.key)
            found.append(dataclasses.replace(kept, path=Path(f"{student}.csv")))
        return found

    def counts(self) -> dict[str, int]:
        """Return how many files each student has had accepted."""
        students = [row["student"] for row in self.rows]
        return {student: students.count(student) for student in students}

    def write(self) -> None:
        rows = [[row[name] for name in HEADER] for row in self.rows]
        write_csv(self.out / "history.csv", [HEADER, *rows])
