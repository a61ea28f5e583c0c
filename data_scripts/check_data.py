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
from collections import defaultdict
from contextlib import suppress
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
SMALL = 64
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
    about: dict[str, str] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Return whether nobody in the sets exists, by their tables."""
        return bool(self.sets) and all(numbers["rendered"] for numbers in self.sets.values())

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
        store = None if args.dry_run else job.state / "pieces"
        earlier = [data.root / ".split" / "pieces"]
        folders, measures = {}, {}
        for name in SETS:
            try:
                folders[name] = data.scan(name)
            except UserError:
                continue  # told by `check`
            measures[name] = measure(folders[name], store=store, earlier=earlier, desc=name)
            _check_images(report, job, name, folders[name], measures[name])
        _check_people(report, folders)
        for path in (data.val_pairs, data.test_pairs, data.test_blind):
            _check_list(report, job, path, data.test)
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
    if report.problems:
        lines = [f"\n  - {text}" for text in report.problems]
        lines += [f"\nthe card: {card}"] * (not args.dry_run)
        many = f"{len(report.problems)} problem{'s'[: len(report.problems) > 1]}"
        raise UserError(f"the data directory {args.data} has {many}:{''.join(lines)}")
    verdict = "the data directory is in order"
    return job.summary(verdict=verdict, notes=report.notes or None, card=card)


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
    sides = np.stack([m.width, m.height])[:, m.readable]
    shorter, counts, about = sides.min(axis=0), folder.counts(), {}
    with suppress(UserError):  # told by `check`
        about = folder.details()
    people = len(folder.identities)
    chosen = np.random.default_rng(0).choice(people, min(6, people), replace=False)
    samples = {k: [i for i in folder.indices_of(k) if m.readable[i]][:5] for k in sorted(chosen)}
    report.sets[name] = dict(
        identities=people,
        images=len(folder),
        megabytes=round(float(m.bytes.sum()) / 1e6, 1),
        images_per_identity=counts,
        shorter_side=shorter,
        rendered=all(about.get(who, {}).get("synthetic") == "1" for who in folder.identities),
        faces=[
            (listed(folder.identities[k]), [folder.path(i) for i in some])
            for k, some in samples.items()
        ],
    )
    if folder.note:
        report.notes.append(folder.note.replace(str(folder.root), name, 1))
    single = 0 if name == "pretrain" else (counts == 1).sum()
    for many, what in (
        ((shorter < SMALL).sum(), f"images are smaller than {SMALL} pixels"),
        ((sides.max(axis=0) > 1.25 * shorter).sum(), "images are far from square"),
        (single, "identities have one image and no target pair"),
    ):
        report.notes.extend([f"{name}: {many:,} {what}"] * bool(many))


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


def _check_list(report: Report, job: Job, path: Path, test: Path) -> None:
    """Note numbers of a list, labels that contradict the folders, unreadable blind images."""
    try:
        pairs = PairList.read(path)
    except UserError:
        return  # told by `check`, or a blind test that is not there
    numbers = dict(pairs=len(pairs), files=len(pairs.files), targets=None)
    if pairs.labels is not None:
        wrong = pairs.contradictions([name.split("/")[0] for name in pairs.files])
        if len(wrong):
            one = ",".join(map(listed, pairs.name_pair(int(wrong[0]))))
            what = f"{len(wrong):,} labels contradict the identities"
            report.problem(f"{path.name}: {what} (the first: {pairs.labels[wrong[0]]},{one})")
        numbers["targets"] = int((pairs.labels == 1).sum())
        part = numbers["targets"] / len(pairs)
        if not 0.4 <= part <= 0.6:
            report.notes.append(f"{path.name}: {part:.0%} of the pairs are target pairs")
    report.lists[path.name] = numbers
    for file in pairs.files:
        if "/" not in file and (test / file).is_file():  # those of identities were read
            try:
                decode_image(test / file)
            except (UserError, OSError) as error:
                job.leave_out(f"test/{listed(file)}", f"unreadable: {error}")
                report.problem(f"{path.name}: {error}")


def _check_near_duplicates(report: Report, job: Job, folders: dict, measures: dict) -> None:
    names = list(folders)
    if not names:
        return
    m = Measures.joined([measures[name] for name in names])
    owner = np.repeat(np.arange(len(names)), [len(folders[name]) for name in names])
    files = [
        f"{name}/{listed(folder.name(k))}"
        for name, folder in folders.items()
        for k in range(len(folder))
    ]
    found: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
    for i, j in zip(*m.near_duplicates(near_duplicates.RADIUS, near_duplicates.ALIKE, apart=owner)):
        found[owner[i], owner[j]].append((files[i], files[j]))
        job.leave_out(files[i], f"near-duplicate in another set: {files[j]}")
    for (a, b), pairs in sorted(found.items()):
        text = f"{len(pairs):,} photos of {names[a]} are in {names[b]}, too"
        text += f" (the first: {pairs[0][0]} and {pairs[0][1]})"
        (report.problem if names[b] in ("val", "test") else report.notes.append)(text)


def _about(args, job: Job) -> dict[str, str]:
    """Return what was told for the card, now or in an earlier run."""
    path = job.state / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        raise UserError(f"cannot read {path}: delete it and tell the card again") from None
    about |= {name: text for name in FIELDS if (text := getattr(args, name)) is not None}
    if not args.dry_run:
        write_json(path, about)
    return about


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
