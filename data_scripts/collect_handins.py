"""Collect the images that students submitted: zip files to one folder of accepted images.

    python data_scripts/collect_handins.py submissions/ --out collected

Each submission is STUDENT.zip with cropped images in folders named after the person they show
(anywhere in it, also in zip files inside) and a spreadsheet (.xlsx or .csv) with the columns File
and Accept (Y or N, O or X, 예 or 아니오). Accepted images are decoded, written anew as JPEG without
what cameras note in them, and go to

    OUT/IDENTITY/NAME-TAG.jpg     TAG is a short code for the student
    OUT/students.csv              student,tag,identity,images,archive,also_from
    OUT/collect_handins.log.csv   everything that was left out, and why

so that the images do not carry the students' names. Where several students bring the same
identity, their images are put together and `also_from` names the others. Archives are read within
bounds and never unpacked: what is unsafe, broken, encrypted or too large is refused by name, and
the rest goes on. Run the same command again to go on, or to take in late submissions.
"""

import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from joblib import cpu_count

from labkit.cli import positive
from labkit.crop import read_photo
from labkit.data import is_litter
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError, reason, sha256, write_bytes, write_csv, write_json
from parts import accept_list
from parts.accept_list import AcceptList, Matcher, NoList
from parts.job import Job, check_apart, main, parser
from parts.names import claim, plain, repaired
from parts.pool import Workers
from parts.sources import RAW_EXTENSIONS
from parts.tables import listed
from parts.zips import Entry, Limits, Refused, Zips

DONE_FILE = "submissions.json"  # archive → what was taken from it, and what tells a change of it
CHANGED = "changed since it was collected: collect into a new folder to take it in"
LISTS = accept_list.ENDINGS + accept_list.OLD_ENDINGS


def work(data: bytes, name: str, target: Path, quality: int) -> str:
    """Decode an image and write it anew, in a process of its own; return why not, or ""."""
    try:
        photo = read_photo(data, name=name)
    except Exception as error:  # also of a decoder that a file was made to make stumble
        known = isinstance(error, UserError)
        why = str(error).removeprefix(name).strip() if known else type(error).__name__
        return f"not a readable image: {why}"
    write_bytes(target, jpeg_bytes(photo, quality))
    return ""


def collect(path: Path, tag: str, limits: Limits, quality: int, job: Job, workers: Workers) -> dict:
    """Return what was taken from a submission: rows, images of each identity; or `Refused`."""
    taken: Counter = Counter()
    with Zips(path, limits) as archive:
        for name, why in archive.refused:
            job.leave_out(name, why)
        rows = read_lists(archive, job).rows
        for entry in archive.entries:
            if not entry.ends_with(*RAW_EXTENSIONS, *LISTS):
                job.leave_out(entry.name, "not an image")
        chosen = accepted_images(archive, rows, tag, job)
        if job.dry_run:
            taken.update(target.parent.name for _, target in chosen)
        else:
            tasks = read_images(archive, chosen, job, quality)
            for (name, identity), problem in workers.map(work, tasks):
                if problem:
                    job.leave_out(name, problem)
                else:
                    taken[identity] += 1
    return {"rows": len(rows), "identities": dict(sorted(taken.items()))}


def read_lists(archive: Zips, job: Job) -> AcceptList:
    """Return what the spreadsheets say; `Refused` when there is none to go by."""
    found, problems = AcceptList(), []
    lists = [entry for entry in archive.entries if entry.ends_with(*LISTS)]
    for number, entry in enumerate(lists):
        try:
            if entry.ends_with(*accept_list.OLD_ENDINGS):
                raise NoList("a kind of spreadsheet that is not read; save it as .xlsx or .csv")
            if number >= accept_list.MAX_LISTS:
                raise NoList(f"more than {accept_list.MAX_LISTS} spreadsheets")
            found.add(archive.read(entry), entry.name)
        except (NoList, Refused) as error:
            problems.append((entry.name, str(error)))
    if len(problems) == len(lists):
        why = "; ".join(f"{name}: {problem}" for name, problem in problems[:3])
        raise Refused(f"no spreadsheet with the columns File and Accept{why and f': {why}'}")
    for name, why in problems + found.problems:
        job.leave_out(name, why)
    return found


def accepted_images(
    archive: Zips, rows: dict[str, bool], tag: str, job: Job
) -> list[tuple[Entry, Path]]:
    """Return the images that the spreadsheets accept, and where each goes."""
    images = [entry for entry in archive.entries if entry.ends_with(*RAW_EXTENSIONS)]
    accepted: dict[int, bool] = {}
    matcher = Matcher(entry.parts for entry in images)
    for file, yes in rows.items():
        row = f"{archive.path.name}: {file}"
        try:
            number = matcher.find(file)
        except ValueError as error:
            job.leave_out(row, f"unclear row: {error}")
            continue
        if number is not None:
            accepted[number] = yes and accepted.get(number, True)
        elif yes:
            job.leave_out(row, "accepted, but not in the archive")
    chosen, names = [], set()
    for number, entry in enumerate(images):
        try:
            if not accepted.get(number):
                how = "accepted " * (number in accepted)
                raise Refused(f"not {how}in the spreadsheet")
            chosen.append((entry, job.out / f"{output_name(entry, names)}-{tag}.jpg"))
        except Refused as error:
            job.leave_out(entry.name, str(error))
    return chosen


def output_name(entry: Entry, taken: set[str]) -> str:
    """Return IDENTITY/NAME of an image; `Refused` when it has none."""
    if len(entry.parts) - entry.root < 2 or entry.parts[-2].casefold() == "face_dataset":
        raise Refused("not in a folder of an identity")
    try:
        identity = plain(entry.parts[-2])
        stem, _, kind = plain(entry.parts[-1]).rpartition(".")
    except ValueError as error:
        raise Refused(f"unsafe name: {error}") from None
    name = claim(taken, f"{identity}/{stem}", f"{identity}/{stem}_{kind.lower()}")
    if name is None:
        raise Refused("another image has the same name")
    return name


def read_images(archive: Zips, chosen: list[tuple[Entry, Path]], job: Job, quality: int):
    """Yield the tasks of `work` for the images of a submission."""
    for entry, target in chosen:
        try:
            data = archive.read(entry)
        except Refused as error:
            job.leave_out(entry.name, str(error))
        else:
            yield (entry.name, target.parent.name), (data, entry.name, target, quality)


def collect_all(
    paths: list[Path], done: dict[str, dict], limits: Limits, quality: int, job: Job, workers
) -> Iterator[dict]:
    """Take in the submissions that are not in `done`, add them to it, and yield each."""
    students: set[str] = set()
    for path in job.progress(paths, unit="submissions"):
        try:
            student = plain(repaired(path.name).rpartition(".")[0])
            if not claim(students, student):
                raise Refused("another submission has the same name")
            about = {"bytes": path.stat().st_size, "changed": path.stat().st_mtime_ns}
            if path.name in done:
                before = done[path.name]
                if not about.items() <= before.items() and sha256(path) != before["sha256"]:
                    raise Refused(CHANGED)
                continue
            tag = blake2b(student.encode(), digest_size=4).hexdigest()
            entry = {"student": student, "tag": tag, "sha256": sha256(path), **about}
            entry |= collect(path, tag, limits, quality, job, workers)
            if not entry["identities"]:  # so that it is read again when it has been mended
                raise Refused("nothing was taken from it: see its other lines here")
        except Refused as error:
            job.leave_out(path.name, str(error))
        except ValueError as error:
            job.leave_out(path.name, f"unsafe name: {error}")
        else:
            done[path.name] = entry
            yield entry


def students_table(done: dict[str, dict]) -> list[tuple]:
    """Return the rows of students.csv, its header first."""
    rows: list[tuple] = [("student", "tag", "identity", "images", "archive", "also_from")]
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in done.values():
        for identity in entry["identities"]:
            owners[identity].add(entry["student"])
    for archive, entry in sorted(done.items()):
        student, tag = entry["student"], entry["tag"]
        for identity, images in entry["identities"].items():
            others = ";".join(sorted(owners[identity] - {student}))
            rows.append((student, tag, identity, images, repaired(archive), others))
    return rows


def alike(identities: list[str]) -> list[list[str]]:
    """Return identities whose names differ in case, spaces, `_`, `-` or width alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in identities:
        groups[re.sub("[ _-]", "", unicodedata.normalize("NFKC", name).casefold())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def submissions(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the zip files of the folder in order of their names, and what else lies there."""
    try:
        found = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {reason(error)}") from None
    zips = [path for path in found if path.suffix.lower() == ".zip" and path.is_file()]
    if not zips:
        raise UserError(f"{folder} holds no zip files: give the folder with the submissions")
    return zips, [path for path in found if path not in set(zips)]


def run(args) -> dict:
    paths, others = submissions(args.handins)
    check_apart(args.handins, args.out)
    sizes = args.max_image_mb * 1_000_000, args.max_mb * 1_000_000
    limits = Limits(args.max_members, *sizes, args.max_ratio)
    settings = {"handins": str(args.handins), "quality": args.quality}
    done_file = args.out / ".collect_handins" / DONE_FILE
    done = json.loads(done_file.read_text(encoding="utf-8")) if done_file.exists() else {}
    finished = tuple(f"{listed(name)}{mark}" for name in done for mark in ("/", ": "))
    more = {"keep": lambda file: file.startswith(finished), "log": args.log}
    with (
        Job("collect_handins", args.out, settings, dry_run=args.dry_run, **more) as job,
        Workers(args.workers) as workers,
    ):
        job.earlier = len(done)
        for entry in collect_all(paths, done, limits, args.quality, job, workers):
            if job.dry_run:
                job.count("images to take", sum(entry["identities"].values()))
            else:
                write_json(done_file, done)
        for path in others:
            job.leave_out(path.name, "not a zip file")
        table = students_table(done)
        if not args.dry_run:
            write_csv(job.out / "students.csv", table)
            job.count("submissions collected", len(done))
            job.count("rows of spreadsheets", sum(entry["rows"] for entry in done.values()))
            job.count("images taken", sum(row[3] for row in table[1:]))
        identities = sorted({row[2] for row in table[1:]})
        return job.summary(
            identities=len(identities),
            identities_of_several_students=sorted({row[2] for row in table[1:] if row[5]}),
            identities_with_names_alike=[" / ".join(group) for group in alike(identities)],
        )


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("handins", type=Path, help="folder with one zip file for each student")
    add("--out", required=True, type=Path, metavar="DIR", help="face folder to write")
    add("--quality", type=int, choices=range(50, 101), default=95, metavar="Q", help="JPEG (95)")
    add("--workers", type=positive, default=cpu_count(), metavar="N", help="processes (all cores)")
    add("--max-mb", type=positive, default=4000, metavar="MB", help="of a submission (4000)")
    add("--max-image-mb", type=positive, default=100, metavar="MB", help="of an image (100)")
    add("--max-members", type=positive, default=100_000, metavar="N", help="(100000)")
    add("--max-ratio", type=positive, default=200, metavar="R", help="size/packed (200)")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
