"""Split face folders by identity into the pretrain, train, val and test sets of a course.

    python data_scripts/split.py FACES --out DATA [--clean CLEANED] [--link]
    python data_scripts/split.py FACES --out DATA --pretrain-from VGGFACE2
    python data_scripts/split.py FACES --out DATA --students students.csv [--list sets.csv]

The sets get their shares of the identities (--ratio); with --students (identity,student) all
identities of a student stay together; with --list (identity,set or student,set) the named ones go
where it says and the others to --rest. The same seed and faces give the same split.

No identity is in two sets. Identities that have near-duplicate photos in common stay in one set;
where a list or --pretrain-from divides them, one photo of each pair is left out, so that val and
test hold none that a network has seen. What clean.py's list says N to is left out.

DATA gets pretrain/ train/ val/ test/, with identities.csv where FACES has one, and split.csv
(identity,set,images). A share or a list may name a fifth set, blind: people for a blind test, whose
faces go to --blind-out, a folder that staff keep. The pair lists are made by make_pairs.py.
"""

import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np

from labkit.cli import natural, positive
from labkit.data import FaceFolder, bad_lines
from labkit.utils import UserError, write_text
from parts import near_duplicates
from parts.clean_list import list_path, read_list
from parts.job import Job, check_apart, main, parser
from parts.measure import Measures, measure
from parts.split_plan import (
    COURSE_SETS,
    MIN_IDENTITIES,
    SETS,
    Images,
    allot,
    fit,
    read_pairs,
    read_ratio,
    settle,
)
from parts.split_write import write_sets, write_tables
from parts.tables import listed

PLAN_FILE = "plan.txt"
RATIO = "pretrain=0.4,train=0.4,val=0.08,test=0.12"


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("faces", type=Path, metavar="FACES", help="face folder: FACES/identity/image.jpg")
    add("--out", type=Path, required=True, metavar="DATA", help="the data directory to make")
    add("--clean", type=Path, metavar="DIR", help="what clean.py made: its folder or its list")
    add("--blind-out", type=Path, metavar="DIR", help="where the faces of the set blind go")
    add("--pretrain-from", type=Path, metavar="DIR", help="a face folder that becomes pretrain/")
    add("--ratio", default=RATIO, metavar="R", help=f"shares of the identities (default {RATIO})")
    add("--students", type=Path, metavar="CSV", help="identity,student: whose identities these are")
    add("--list", type=Path, metavar="CSV", help="identity,set or student,set")
    add("--rest", choices=(*SETS, "ratio", "none"), default="ratio",
        help="where identities go that --list does not name (default: by --ratio)")  # fmt: skip
    add("--together", type=Path, metavar="CSV",
        help="identity,same_as: who stay in one set (clean.py's same_people.csv)")  # fmt: skip
    add("--min-images", type=positive, default=2, metavar="N",
        help="identities with fewer are left out (default 2)")  # fmt: skip
    add("--near-duplicates", choices=("together", "leave-out", "ignore"), default="together",
        help="people who share a photo stay together, photos are left out, or neither")  # fmt: skip
    add("--radius", type=int, default=near_duplicates.RADIUS, metavar="BITS")
    add("--alike", type=float, default=near_duplicates.ALIKE, metavar="X")
    add("--link", action="store_true", help="hard links instead of copies (same disk, no space)")
    add("--seed", type=natural, default=0, metavar="S")
    return flags


def run(args) -> dict:
    check_apart(args.faces, args.out)
    if args.pretrain_from:
        check_apart(args.pretrain_from, args.out)
    if args.blind_out:
        check_apart(args.out, args.blind_out)
        check_apart(args.faces, args.blind_out)
    ratio = read_ratio(args.ratio, without="pretrain" if args.pretrain_from else None)
    findings = read_list(args.clean) if args.clean else {}
    folders = [FaceFolder.scan(args.faces)]
    if args.pretrain_from:
        folders.append(FaceFolder.scan(args.pretrain_from))
    with Job("split", args.out, dry_run=args.dry_run, log=args.log) as job:
        _check_empty(args, job)
        images = Images.of(*folders)
        in_vain = images.apply_list(findings)
        measures = None
        if args.near_duplicates != "ignore":
            measures = _measured(images, args, job)
            images.apply_measures(measures)
        images.leave_out_poor(args.min_images)
        sets, shared = plan(images, measures, args, ratio)
        images.leave_out_poor(args.min_images)
        _check_sets(images, sets, args)
        _check_plan(images, sets, args.link, job)
        for i in np.flatnonzero(~images.kept):
            job.leave_out(images.name(i), images.why_not[i])
        job.count("images in all", len(images))
        copied = write_sets(images, sets, folders_of(args), job, link=args.link)
        if not args.dry_run:
            write_tables(images, sets, folders_of(args), args.out / "split.csv")
        return job.summary(
            near_duplicate_photos_across_identities=shared or None,
            copied_where_links_were_impossible=copied or None,
            in_the_list_but_not_in_the_folder=in_vain or None,
            next=f"make_pairs.py {args.out}",
        )


def folders_of(args) -> dict[str, Path]:
    """Return where each set goes; blind only when it has a place."""
    folders = {name: args.out / name for name in COURSE_SETS}
    return folders | ({"blind": args.blind_out} if args.blind_out else {})


def _check_empty(args, job: Job) -> None:
    """Raise UserError when a set's folder holds something that this has not put there."""
    for folder in folders_of(args).values():
        if not (job.state / PLAN_FILE).exists() and folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} is not empty and was not made by this: choose another folder, or "
                "delete it"
            )


def _measured(images: Images, args, job: Job) -> Measures:
    store = None if args.dry_run else job.state / "pieces"
    earlier = [list_path(args.clean).parent / ".clean" / "pieces"] if args.clean else []
    return Measures.joined(
        [measure(folder, store=store, earlier=earlier) for folder in images.folders]
    )


def plan(images: Images, measures: Measures | None, args, ratio: dict) -> tuple[np.ndarray, int]:
    """Return a set for each of the people, int8 (-1: left out), and the number of shared photos.

    Leaves images out where near-duplicates come to be in two sets.
    """
    people = len(images.people)
    place = {name: k for k, name in enumerate(images.people)}
    there = images.counts() > 0
    none = np.empty(0, np.int64)
    i, j = none, none
    if measures is not None:
        i, j = measures.near_duplicates(
            args.radius, args.alike, among=images.kept, apart=images.person
        )
    joined = [_together(args.together, place)]
    if args.near_duplicates == "together":
        joined.append(np.stack([images.person[i], images.person[j]]))
    owners = _owners(args.students, place)
    first_of: dict[str, int] = {}
    for person, student in owners:
        first_of.setdefault(student, person)
    same_student = [(first_of[student], person) for person, student in owners]
    joined.append(np.array(same_student, np.int64).reshape(-1, 2).T)
    sets = _listed_sets(args.list, place, owners)
    if args.pretrain_from:
        faces = np.zeros(people, bool)
        faces[images.person[images.source == 0]] = True
        sets[~faces] = SETS.index("pretrain")
    free = there & (sets < 0)
    if args.rest in SETS and args.list:
        sets[free] = SETS.index(args.rest)
    elif args.rest == "none" and args.list:
        images.leave_out(free[images.person], "identity is not in the list of sets")
    elif free.any():
        a, b = np.concatenate(joined, axis=1)
        both = free[a] & free[b]
        groups = near_duplicates.groups(people, a[both], b[both])
        already = np.bincount(sets[there & ~free], minlength=len(SETS))
        drawn = allot(groups, free, ratio, np.random.default_rng(args.seed), already)
        sets[free] = drawn[free]
    settle(images, sets, i, j)
    return sets, len(i)


def _together(path: Path | None, place: dict) -> np.ndarray:
    """Return pairs of people, int64 (2, m), that a list says to be one person."""
    rows = read_pairs(path, ("identity",), "same_as") if path else []
    pairs = [(place.get(fit(a)), place.get(fit(b))) for _, a, b in rows]
    known = [pair for pair in pairs if None not in pair]
    return np.array(known, np.int64).reshape(-1, 2).T


def _owners(path: Path | None, place: dict) -> list[tuple[int, str]]:
    """Return (person, student) of the identities that are there."""
    rows = read_pairs(path, ("identity",), "student") if path else []
    owners = [(place[fit(name)], fit(who)) for _, name, who in rows if fit(name) in place]
    if path and not owners:
        raise UserError(f"{path} names no identity that is in the faces: check its spelling")
    return owners


def _listed_sets(path: Path | None, place: dict, owners: list) -> np.ndarray:
    """Return the set of each of the people by the list, int8; -1 where it says nothing.

    Raises UserError for unknown sets and names, and for an identity in two sets.
    """
    sets = np.full(len(place), -1, np.int8)
    problems = []
    of_student: dict[str, list[int]] = {}
    for person, student in owners:
        of_student.setdefault(student, []).append(person)
    people = list(place)
    for kind, name, where in read_pairs(path, ("identity", "student"), "set") if path else []:
        mine = of_student.get(fit(name)) if kind == "student" else None
        mine = [place[fit(name)]] if kind == "identity" and fit(name) in place else mine
        if where not in SETS:
            problems.append(f"there is no set '{where}' (for {name}): use {', '.join(SETS)}")
        elif not mine:
            problems.append(f"{kind} {name} is not known")
        else:
            for person in mine:
                if sets[person] not in (-1, SETS.index(where)):
                    problems.append(f"{people[person]} is in {SETS[sets[person]]} and in {where}")
                sets[person] = SETS.index(where)
    if problems:
        raise UserError(bad_lines(path, problems))
    return sets


def _check_sets(images: Images, sets: np.ndarray, args) -> None:
    people = [int(((images.counts() > 0) & (sets == k)).sum()) for k in range(len(SETS))]
    if people[-1] and not args.blind_out:
        raise UserError("the set blind needs --blind-out DIR, a folder outside the data directory")
    needed = SETS if people[-1] else COURSE_SETS
    poor = [f"{name} {n}" for name, n in zip(needed, people) if n < MIN_IDENTITIES]
    if poor:
        left = int((images.counts() > 0).sum())
        raise UserError(
            f"of the {left} identities with {args.min_images} images or more these sets get too "
            f"few: {', '.join(poor)} (each needs {MIN_IDENTITIES}); give more faces, another "
            "--ratio, or --pretrain-from"
        )


def _check_plan(images: Images, sets: np.ndarray, link: bool, job: Job) -> None:
    """Keep a digest of the plan; UserError when an earlier run planned otherwise."""
    digest = blake2b(f"{link}\n".encode(), digest_size=16)
    for i in range(len(images)):
        line = f"{images.source[i]}\0{listed(images.name(i))}\0{sets[images.person[i]]}"
        digest.update(f"{line}\0{int(images.why_not[i] == '')}\n".encode())
    path = job.state / PLAN_FILE
    if path.exists() and path.read_text() != digest.hexdigest():
        raise UserError(
            f"{job.out} was split from other faces, lists or settings: delete it and split "
            "anew, or choose another --out"
        )
    if not job.dry_run:
        write_text(path, digest.hexdigest())


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
