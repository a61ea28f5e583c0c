"""Find near-duplicate, misfiled, blurred, small and unreadable images in a face folder.

    python data_scripts/clean.py FACES --out CLEANED [--weights FILE]

Nothing is deleted or moved. CLEANED gets

    review.html        every image that was found, with its reason and a box to tick; open it in
                       any browser, correct it, and press "Save the list"
    clean.csv          the list: file,keep,reason,detail; put the saved one in its place
    same_people.csv    identities that may be one person under two names

and `split.py FACES --clean CLEANED …` applies the list. Corrections in clean.csv survive another
run with other thresholds. With --weights (of `labkit train`), embeddings tell which faces are
filed under the wrong person.
"""

import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from labkit.cli import positive
from labkit.data import FaceFolder
from labkit.utils import UserError, write_csv
from parts import label_errors
from parts.clean_list import LIST_FILE, Finding, read_list, write_list
from parts.job import Job, check_apart, main, parser
from parts.measure import Measures, measure
from parts.near_duplicates import ALIKE, RADIUS, groups
from parts.review_page import write_page
from parts.tables import listed, spreadsheet_cell

SAME_PEOPLE = "same_people.csv"


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("faces", type=Path, metavar="FACES", help="face folder: FACES/identity/image.jpg")
    add("--out", type=Path, required=True, metavar="DIR", help="where the page and the list go")
    add("--weights", type=Path, metavar="FILE", help="trained weights, to find label errors")
    add("--device", help="cpu, cuda, … for the embeddings; the best there is when left out")
    add("--min-size", type=positive, default=64, metavar="PX", help="shorter side (default 64)")
    add("--min-sharpness", type=float, default=0.004, metavar="X",
        help="images below are blurred (default 0.004: 2 pixels at 128; 0: none)")  # fmt: skip
    add("--radius", type=int, default=RADIUS, help="bits in which hashes of copies may differ (6)")
    add("--alike", type=float, default=ALIKE, help="least correlation of copies' details (0.85)")
    add("--shown", type=positive, default=1000, metavar="N", help="pictures per reason on the page")
    return flags


def run(args) -> dict:
    check_apart(args.faces, args.out)
    if not 0 <= args.radius <= 12:
        raise UserError(f"--radius must be from 0 to 12, found {args.radius}")
    folder = FaceFolder.scan(args.faces)
    embedder = None
    if args.weights:
        from labkit.embed import Embedder

        embedder = Embedder(args.weights, device=args.device)
    review = args.out / "review.html"
    with Job("clean", args.out, dry_run=args.dry_run, log=args.log) as job:
        store = None if args.dry_run else job.state / "pieces"
        measures = measure(folder, store=store)
        verdicts, readable = None, measures.readable
        if embedder:
            embeddings = label_errors.embed(folder, readable, embedder, store=store)
            verdicts = label_errors.judge(embeddings, folder.labels, folder.starts, readable)
        found = Findings(folder, measures, verdicts)
        found.quality(args.min_size, args.min_sharpness)
        found.misfiled("wrong face")
        found.near_duplicates(args.radius, args.alike)
        found.misfiled("odd face")
        answers = corrections(args.out / LIST_FILE, job.state)
        rows = found.rows()
        corrected = sum(listed(row.file) in answers for row in rows)
        rows = [replace(row, keep=answers.get(listed(row.file), row).keep) for row in rows]
        if not args.dry_run:
            write_lists(args.out / LIST_FILE, job.state, rows, answers)
            same = [[spreadsheet_cell(listed(cell)) for cell in row] for row in found.same]
            write_csv(args.out / SAME_PEOPLE, [("identity", "same_as", "why"), *same])
            write_page(
                review, folder, measures, rows, found.groups, found.same,
                about=args.faces.resolve().name, most=args.shown, verdicts=verdicts,
            )  # fmt: skip
        job.count("images", len(folder))
        job.count("identities", len(folder.identities))
        job.count("kept", len(folder) - sum(not row.keep for row in rows))
        for row in rows:
            if not row.keep:
                job.leave_out(listed(row.file), f"{row.reason}: {row.detail}")
        return job.summary(
            corrections_kept=corrected or None,
            identities_that_may_be_one_person=len(found.same) or None,
            nearest_to_their_own_identity=verdicts
            and f"{verdicts.nearest_own:.0%} of the images, by these weights",
            list=str(args.out / LIST_FILE),
            page=str(review),
            next=f"look at the page, then split.py {args.faces} --clean {args.out} --out DATA",
        )


class Findings:
    """The findings in a folder: at most one per image, the gravest reason first.

    groups: near-duplicates, as lists of image numbers, the best of each first.
    same: (identity, identity, why) of identities that may be one person.
    """

    def __init__(self, folder: FaceFolder, measures: Measures, verdicts=None):
        self.folder, self.measures, self.verdicts = folder, measures, verdicts
        self.found: dict[int, Finding] = {}
        self.groups: list[list[int]] = []
        self.same: list[tuple[str, str, str]] = []

    def rows(self) -> list[Finding]:
        """Return the findings in the order of the folder."""
        return [self.found[i] for i in sorted(self.found)]

    def add(self, i: int, keep: bool, reason: str, detail: str) -> None:
        self.found.setdefault(int(i), Finding(self.folder.name(int(i)), keep, reason, detail))

    def quality(self, min_size: int, min_sharpness: float) -> None:
        """Find unreadable, too small, flat and blurred images."""
        m, telling = self.measures, self.measures.telling
        for i in range(len(m)):
            if not m.width[i]:
                self.add(i, False, "unreadable", m.problem[i])
            elif min(m.width[i], m.height[i]) < min_size:
                self.add(i, False, "too small", f"{m.width[i]}x{m.height[i]} pixels")
            elif not telling[i]:
                self.add(i, False, "flat", "one flat colour")
            elif m.sharpness[i] < min_sharpness:
                self.add(i, False, "blurred", f"sharpness {m.sharpness[i]:.4f}")

    def near_duplicates(self, radius: int, alike: float) -> None:
        """Find groups of copies; the best of each stays, unless it is in several identities: then
        one of them is wrong, and only embeddings can tell which."""
        i, j = self.measures.near_duplicates(radius, alike)
        group = groups(len(self.folder), i, j)
        by_group: dict[int, list[int]] = defaultdict(list)
        for member in np.flatnonzero(np.bincount(group)[group] > 1).tolist():
            by_group[group[member]].append(member)
        shared: Counter = Counter()
        for images in by_group.values():
            self._one_group(images, shared)
        for (a, b), photos in shared.most_common():
            names = self.folder.identities[a], self.folder.identities[b]
            fewer = int(self.folder.counts()[[a, b]].min())
            if photos >= 3 or photos >= 0.5 * fewer:
                self.same.append((*names, f"{photos} photos in both"))

    def _one_group(self, images: list[int], shared: Counter) -> None:
        label, names, m = self.folder.labels.item, self.folder.identities, self.measures
        shared.update(combinations(sorted({label(i) for i in images}), 2))
        # What is bad for another reason goes in any case; it is no copy to keep.
        images = [i for i in images if i not in self.found]
        if len(images) < 2:
            return
        images.sort(
            key=lambda i: (m.width[i] * m.height[i], m.sharpness[i], m.bytes[i], -i), reverse=True
        )
        self.groups.append(images)
        labels = sorted({label(i) for i in images})
        if len(labels) == 1:
            self.add(images[0], True, "near-duplicate", "the best of its copies")
            for i in images[1:]:
                copy_of = f"a copy of {listed(self.folder.name(images[0]))}"
                self.add(i, False, "near-duplicate", copy_of)
            return
        owner = self._owner(images)
        images.sort(key=lambda i: label(i) != owner)
        among = " and ".join(listed(names[k]) for k in labels)
        for i in images:
            keep = owner is not None and i == images[0]
            why = f"; nearest to the other photos of {listed(names[owner])}" if keep else ""
            self.add(i, keep, "in two identities", f"in {among}{why}")

    def _owner(self, images: list[int]) -> int | None:
        """Return the identity that the copies belong to, when embeddings tell clearly."""
        best: dict[int, float] = {}
        for i in images if self.verdicts else ():
            own = float(self.verdicts.own[i])
            if not self.verdicts.wrong[i] and np.isfinite(own):
                label = int(self.folder.labels[i])
                best[label] = max(own, best.get(label, -1.0))
        ranked = sorted(best, key=best.get, reverse=True)
        if not ranked or (len(ranked) > 1 and best[ranked[0]] < best[ranked[1]] + 0.1):
            return None
        return ranked[0]

    def misfiled(self, reason: str) -> None:
        """Find faces that embeddings put far from their own person: "wrong face" or "odd face"."""
        if self.verdicts is None:
            return
        names, wrong = self.folder.identities, reason == "wrong face"
        for i in np.flatnonzero(self.verdicts.wrong if wrong else self.verdicts.odd):
            detail = label_errors.describe(self.verdicts, i, names)
            self.add(i, not wrong, reason, listed(detail))
        for a, b, cosine in self.verdicts.same if wrong else ():
            self.same.append((names[a], names[b], f"cosine {cosine:.2f}"))


def corrections(list_file: Path, state: Path) -> dict[str, Finding]:
    """Return what a person has changed, now or earlier, in the list that the last run wrote."""
    remembered, written = state / "answers.csv", state / "written.csv"
    answers = read_list(remembered) if remembered.exists() else {}
    if written.exists() and list_file.exists():
        before = read_list(written)
        for name, finding in read_list(list_file).items():
            if name not in before or before[name].keep != finding.keep:
                answers[name] = finding
    return answers


def write_lists(
    list_file: Path, state: Path, rows: list[Finding], answers: dict[str, Finding]
) -> None:
    """Write the list so that a kill at any moment loses no correction and invents none."""
    write_list(state / "answers.csv", list(answers.values()))
    (state / "written.csv").unlink(missing_ok=True)
    write_list(list_file, rows)
    write_list(state / "written.csv", rows)


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
