"""Check a data directory completely and describe it in a data card.

    python data_scripts/check_data.py DATA
    python data_scripts/check_data.py DATA --licence "CC BY-NC 4.0" --source "…" --consent "…"

Every image is decoded, every pair list read; people and (with --near-duplicates) photos that are
in two sets are found. DATA gets data_card.md and data_card.html with counts, sizes, samples and
what should be known before the faces are used. What is told with --licence, --source, --consent
and --contact is remembered by the next run. When something is wrong the exit code is 2, with a
list of what, and the card says so.
"""

import json
import sys
import unicodedata
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from labkit.data import DataDirectory, FaceFolder, PairList, decode_image
from labkit.utils import UserError, write_json, write_text
from parts import near_duplicates
from parts.data_card import FIELDS, as_html, as_markdown
from parts.job import Job, main, parser
from parts.measure import Measures, measure
from parts.tables import listed

SETS = ("pretrain", "train", "val", "test")
SMALL, UNEVEN = 64, 1.25
MAX_LISTED = 20


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("data", type=Path, metavar="DATA", help="a data directory")
    add("--out", type=Path, metavar="DIR", help="where the card goes (default: DATA)")
    add("--near-duplicates", action="store_true", help="look for photos that are in two sets")
    for name, text in FIELDS.items():
        add(f"--{name}", metavar="TEXT", help=f"for the card: {text}")
    return flags


@dataclass
class Report:
    """Problems (exit code 2), notes, and numbers of the sets and the pair lists."""

    name: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sets: dict[str, dict] = field(default_factory=dict)
    lists: dict[str, dict] = field(default_factory=dict)
    samples: dict[str, list[tuple[str, list[Path]]]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    rendered: dict[str, bool] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Return whether nobody in the sets exists, by their tables."""
        return bool(self.rendered) and all(self.rendered.values())

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def run(args) -> dict:
    data = DataDirectory(args.data)
    if not data.root.is_dir():
        raise UserError(f"the data directory {args.data} does not exist")
    out = args.out or args.data
    with Job("check_data", out, dry_run=args.dry_run, log=args.log) as job:
        report = Report(data.root.resolve().name)
        try:
            data.check()
        except UserError as error:
            for line in str(error).splitlines()[1:]:
                report.problem(line.strip().removeprefix("- "))
        folders = {}
        for name in SETS:
            try:
                folders[name] = data.scan(name)
            except UserError:
                continue  # told by `check`
        store = None if args.dry_run else job.state / "pieces"
        measures = {}
        for name, folder in folders.items():
            measures[name] = measure(
                folder, store=store, earlier=[data.root / ".split" / "pieces"], desc=name
            )
            _check_images(report, job, name, folder, measures[name])
        _check_people(report, folders)
        for path, folder in (
            (data.val_pairs, folders.get("val")),
            (data.test_pairs, folders.get("test")),
            (data.test_blind, folders.get("test")),
        ):
            _check_list(report, job, path, folder)
        if args.near_duplicates:
            _check_near_duplicates(report, job, folders, measures)
        report.about = _about(args, job)
        if not args.dry_run:
            write_text(out / "data_card.md", as_markdown(report))
            write_text(out / "data_card.html", as_html(report))
        card = str(out / "data_card.html")
        for name, numbers in report.sets.items():
            job.count(f"people in {name}", numbers["identities"])
            job.count(f"images in {name}", numbers["images"])
        for name, numbers in report.lists.items():
            job.count(f"pairs in {name}", numbers["pairs"])
        told = job.summary(
            verdict="the data directory is in order", notes=report.notes or None, card=card
        )
    if report.problems:
        lines = [f"\n  - {text}" for text in report.problems]
        lines += [f"\nthe card: {card}"] * (not args.dry_run)
        many = f"{len(report.problems)} problem{'s'[: len(report.problems) > 1]}"
        raise UserError(f"the data directory {args.data} has {many}:{''.join(lines)}")
    return told


def _check_images(report: Report, job: Job, name: str, folder: FaceFolder, m: Measures) -> None:
    """Note numbers, samples, unreadable and odd images of one set."""
    bad = np.flatnonzero(~m.readable)
    for i in bad:
        job.leave_out(f"{name}/{listed(folder.name(i))}", f"unreadable: {m.problem[i]}")
    if len(bad):
        some = "; ".join(f"{listed(folder.name(i))}: {m.problem[i]}" for i in bad[:MAX_LISTED])
        more = f"; and {len(bad) - MAX_LISTED:,} more" if len(bad) > MAX_LISTED else ""
        many = f"{len(bad):,} image{'s'[: len(bad) > 1]}"
        report.problem(f"{name}: {many} cannot be read: {some}{more}")
    good = m.readable
    shorter, longer = np.minimum(m.width, m.height)[good], np.maximum(m.width, m.height)[good]
    counts = folder.counts()
    sizes, sizes_count = np.unique(shorter, return_counts=True)
    report.sets[name] = dict(
        identities=len(folder.identities),
        images=len(folder),
        megabytes=round(float(m.bytes.sum()) / 1e6, 1),
        images_per_identity=counts,
        shorter_side=shorter,
        most_common_side=int(sizes[sizes_count.argmax()]) if len(sizes) else 0,
    )
    small, uneven = int((shorter < SMALL).sum()), int((longer > UNEVEN * shorter).sum())
    if small:
        report.notes.append(f"{name}: {small:,} images are smaller than {SMALL} pixels")
    if uneven:
        report.notes.append(f"{name}: {uneven:,} images are far from square; faces may be cut off")
    if (single := int((counts == 1).sum())) and name != "pretrain":
        report.notes.append(f"{name}: {single:,} identities have one image and no target pair")
    if folder.note:
        report.notes.append(folder.note)
    try:
        about = folder.details()
    except UserError:
        about = {}  # told by `check`
    report.rendered[name] = all(
        about.get(person, {}).get("synthetic") == "1" for person in folder.identities
    )
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(folder.identities), min(6, len(folder.identities)), replace=False)
    report.samples[name] = [
        (
            listed(folder.identities[k]),
            [folder.path(i) for i in folder.indices_of(k) if m.readable[i]][:5],
        )
        for k in sorted(chosen)
    ]


def _check_people(report: Report, folders: dict[str, FaceFolder]) -> None:
    """Find people in two sets, whatever the Unicode form of their names."""
    names = {
        name: {unicodedata.normalize("NFC", person): person for person in folder.identities}
        for name, folder in folders.items()
    }
    for a, b in combinations(names, 2):
        both = sorted(set(names[a]) & set(names[b]))
        text = f"{', '.join(map(listed, both[:5]))}{', …' * (len(both) > 5)} in both {a}/ and {b}/"
        if both and not any(text in problem for problem in report.problems):
            (report.notes.append if b == "train" else report.problem)(text)


def _check_list(report: Report, job: Job, path: Path, folder: FaceFolder | None) -> None:
    """Note numbers of a list, labels that contradict the folders, unreadable blind images."""
    try:
        pairs = PairList.read(path)
    except UserError:
        return  # told by `check`, or a blind test that is not there
    numbers = dict(pairs=len(pairs), files=len(pairs.files), targets=None)
    if pairs.labels is not None:
        left, right = pairs.identities()
        wrong = np.flatnonzero((left == right) != (pairs.labels == 1))
        if len(wrong):
            one = ",".join(map(listed, pairs.name_pair(int(wrong[0]))))
            report.problem(
                f"{path.name}: {len(wrong):,} labels contradict the identities (the first: "
                f"{int(pairs.labels[wrong[0]])},{one})"
            )
        numbers["targets"] = int((pairs.labels == 1).sum())
        part = numbers["targets"] / len(pairs)
        if not 0.4 <= part <= 0.6:
            report.notes.append(f"{path.name}: {part:.0%} of the pairs are target pairs")
    report.lists[path.name] = numbers
    if folder is None:
        return
    for file in pairs.files:
        if "/" not in file and (folder.root / file).is_file():  # those of identities were read
            try:
                decode_image(folder.root / file)
            except (UserError, OSError) as error:
                job.leave_out(f"test/{listed(file)}", f"unreadable: {error}")
                report.problem(f"{path.name}: {error}")


def _check_near_duplicates(report: Report, job: Job, folders: dict, measures: dict) -> None:
    names = list(folders)
    if not names:
        return
    m = Measures.joined([measures[name] for name in names])
    owner = np.repeat(np.arange(len(names)), [len(folders[name]) for name in names])
    first = np.cumsum([0, *(len(folders[name]) for name in names)])
    i, j = m.near_duplicates(near_duplicates.RADIUS, near_duplicates.ALIKE, apart=owner)
    for a, b in sorted(set(zip(owner[i].tolist(), owner[j].tolist()))):
        these = (owner[i] == a) & (owner[j] == b)
        pairs = [
            tuple(f"{names[owner[k]]}/{listed(folders[names[owner[k]]].name(k - first[owner[k]]))}"
                  for k in pair)
            for pair in zip(i[these], j[these])
        ]  # fmt: skip
        for left, right in pairs:
            job.leave_out(left, f"near-duplicate in another set: {right}")
        text = (
            f"{len(pairs):,} photos of {names[a]} are in {names[b]}, too (the first: "
            f"{pairs[0][0]} and {pairs[0][1]})"
        )
        (report.problem if names[b] in ("val", "test") else report.notes.append)(text)


def _about(args, job: Job) -> dict[str, str]:
    """Return what was told for the card, now or in an earlier run."""
    path = job.state / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        raise UserError(f"cannot read {path}: delete it and tell the card again") from None
    told = {name: getattr(args, name) for name in FIELDS}
    about |= {name: text for name, text in told.items() if text is not None}
    if not args.dry_run:
        write_json(path, about)
    return about


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
