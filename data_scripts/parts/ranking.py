"""The leaderboard of a blind list: submissions ranked by EER, each tested against the one above.

Written as CSV and as one HTML page that stands alone. Names come from strangers' files: they are
shown escaped, without control characters, and never as a spreadsheet formula.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.evaluate.verification import direction_hint
from labkit.utils import make_folder, progress, render_page, write_csv, write_text
from parts.review_page import TEMPLATES
from parts.submissions import Key, Submission
from parts.tables import listed, spreadsheet_cell

MAX_NAME = 60
CSV_HEADER = (
    "rank", "name", "eer", "eer_low", "eer_high", "eer_by_reference_trainer",
    "true_accepts_at_1_percent_false_accepts", "behind_the_one_above", "behind_low",
    "behind_high", "p_value", "told_apart", "same_order_as",
)  # fmt: skip


@dataclass
class Place:
    """One line of the leaderboard. Rates in percent."""

    rank: int  # 1 for the lowest EER, shared by equal ones
    name: str
    eer: float
    low: float
    high: float
    voxceleb_eer: float
    tar_at_1_percent: float
    versus: metrics.PairedDifference | None  # this one's EER minus that of the line above
    same_as: str  # an earlier line whose scores order all pairs in the same way, or ""
    hint: str  # of `direction_hint`

    def against_the_one_above(self) -> str:
        """Say how a line stands to the one above it."""
        v = self.versus
        if v and v.significant:
            return f"behind by {v.difference:.2f} points ({v.low:.2f} to {v.high:.2f})"
        return f"cannot be told apart ({v.low:+.2f} to {v.high:+.2f})" if v else ""


def rank(
    good: Sequence[Submission], key: Key, *, samples: int, level: float = 0.95, seed: int = 0
) -> list[Place]:
    """Return the places of submissions in which nothing is wrong, best first.

    Intervals resample the people of the key. All submissions see the same draws, so that each can
    be tested against the one above it.
    """
    labels, people = key.pairs.labels, (key.left, key.right)
    eers = [metrics.eer(submission.scores, labels) for submission in good]
    names = display_names([submission.path.stem for submission in good])
    order = sorted(range(len(good)), key=lambda i: (eers[i], names[i]))
    places: list[Place] = []
    above = None
    first_with: dict[bytes, str] = {}
    for i in progress(order, desc="ranking", unit="submission"):
        scores = good[i].scores
        draws = metrics.bootstrap(scores, labels, *people, samples=samples, seed=seed)
        low, high = metrics.bootstrap_ci(scores, labels, *people, level=level, draws=draws)
        versus = above and metrics.paired_difference(
            above[0], scores, labels, *people, level=level, draws=(above[1], draws)
        )
        ordering = np.unique(scores, return_inverse=True)[1].astype(np.int32).tobytes()
        tied = places and places[-1].eer == eers[i]
        number = places[-1].rank if tied else len(places) + 1
        tar = 100.0 * float(metrics.tar_at_far(scores, labels, [0.01])[0])
        rates = eers[i], low, high, metrics.voxceleb_eer(scores, labels), tar
        about = versus, first_with.get(ordering, ""), direction_hint(eers[i])
        places.append(Place(number, names[i], *rates, *about))
        first_with.setdefault(ordering, names[i])
        above = scores, draws
    return places


def display_names(names: Sequence[str]) -> list[str]:
    """Return names as they may be shown: printable, at most 60 characters, no two alike."""
    shown: list[str] = []
    for name in names:
        plain = unicodedata.normalize("NFC", name)
        plain = "".join(c if c.isprintable() else "?" for c in plain).strip() or "?"
        if len(plain) > MAX_NAME:
            plain = plain[: MAX_NAME - 1] + "…"
        number, unique = 1, plain
        while unique in shown:
            number += 1
            unique = f"{plain} ({number})"
        shown.append(unique)
    return shown


def write_leaderboard(
    folder: Path, places: Sequence[Place], rejected: Sequence[Submission], key: Key, **settings
) -> None:
    """Write leaderboard.csv, rejected.csv and leaderboard.html into a folder.

    settings: title, samples and level, for the page.
    """
    make_folder(folder)
    write_csv(folder / "leaderboard.csv", [CSV_HEADER, *map(_csv_row, places)])
    names = display_names([submission.path.name for submission in rejected])
    bad = [(name, [listed(p) for p in s.problems]) for name, s in zip(names, rejected)]
    rows = [(name, problem) for name, problems in bad for problem in problems]
    rows = [map(spreadsheet_cell, row) for row in [("file", "problem"), *rows]]
    write_csv(folder / "rejected.csv", rows)
    targets = int(key.pairs.labels.sum())
    page = render_page(
        TEMPLATES / "leaderboard.html",
        places=places,
        rejected=bad,
        targets=targets,
        imposters=len(key.pairs) - targets,
        people=key.people,
        known_by=key.known_by,
        **settings,
        largest=max((place.high for place in places), default=1.0) or 1.0,
    )
    write_text(folder / "leaderboard.html", page)


def _csv_row(place: Place) -> list[str]:
    rates = [place.eer, place.low, place.high, place.voxceleb_eer, place.tar_at_1_percent]
    versus, v = [""] * 5, place.versus
    if v:
        versus = [f"{x:.4f}" for x in (v.difference, v.low, v.high, v.p_value)]
        versus.append("yes" if v.significant else "no")
    name, same_as = spreadsheet_cell(place.name), spreadsheet_cell(place.same_as)
    return [str(place.rank), name, *(f"{rate:.4f}" for rate in rates), *versus, same_as]
