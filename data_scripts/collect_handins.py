"""Collect the images that students handed in: zip files to one folder of accepted images.

    python data_scripts/collect_handins.py handins/ --out collected

Each hand-in is STUDENT.zip with cropped images in folders named after the person they show
(anywhere in it, also in zip files inside) and a spreadsheet (.xlsx or .csv) with the columns File
and Accept (Y or N). Accepted images are decoded, written anew as JPEG without what cameras note in
them, and go to

    OUT/IDENTITY/NAME-TAG.jpg     TAG is a short code for the student
    OUT/students.csv              student,tag,identity,images,archive,also_from
    OUT/collect_handins.log.csv   everything that was left out, and why

so that the images do not carry the students' names. Where several students bring the same
identity, their images are put together and `also_from` names the others. Archives are read within
bounds and never unpacked: what is unsafe, broken, encrypted or too large is refused by name, and
the rest goes on. Run the same command again to go on, or to take in late hand-ins.
"""

import argparse
import io
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from joblib import cpu_count

from labkit.crop import read_photo
from labkit.utils import UserError, reason, sha256, write_csv
from parts import accept_list
from parts.accept_list import AcceptList, Matcher, NoList
from parts.job import Job, check_apart, main, parser, place, positive
from parts.names import Taken, plain, repaired
from parts.pool import Died, share
from parts.sources import RAW_EXTENSIONS
from parts.zips import Entry, Limits, Refused, Zips, files_of

CHANGED = "changed since it was collected: collect into a new folder to take it in"


def work(data: bytes, name: str, target: Path, partial: Path, quality: int) -> str:
    """Decode an image and write it anew; why not, or nothing. Runs in a process of its own."""
    try:
        photo = read_photo(data, name=name)
    except UserError as error:
        return f"not a readable image: {str(error).removeprefix(name).strip()}"
    except MemoryError:
        return "not a readable image: too large for the memory"
    except Exception as error:  # a decoder that stumbles over a file made to make it stumble
        return f"not a readable image: {type(error).__name__}"
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    place(partial, target, buffer.getvalue())
    return ""


@dataclass
class HandIn:
    """One student's archive on its way.

    Attributes:
        student: its name without the ending, NFC.
        tag: stands for the student in the names of images.
        left_out: (file, why).
        taken: identity → images written.
        in_work: images that are being decoded.
        read: whether all of its images have been handed out.
        refused: why nothing was taken from it; it is looked at again by the next run.
    """

    path: Path
    student: str
    tag: str
    signature: dict
    left_out: list[tuple[str, str]] = field(default_factory=list)
    taken: Counter = field(default_factory=Counter)
    counts: Counter = field(default_factory=Counter)
    in_work: int = 0
    read: bool = False
    refused: str = ""


class Collector:
    """All hand-ins of a folder, one after the other; their images are decoded side by side."""

    def __init__(self, job: Job, limits: Limits, quality: int):
        self.job, self.limits, self.quality = job, limits, quality
        self.for_this_run: list[tuple[str, str]] = []
        self.bar = None

    def run(self, paths: list[Path], workers: int) -> None:
        self.bar = self.job.progress(len(paths), unit="hand-ins")
        tasks = self.tasks(paths)
        if self.job.dry_run:
            for label, _ in tasks:
                self.ready(*label, "")
        else:
            with closing(share(work, tasks, workers)) as results:
                for label, problem in results:
                    self.ready(*label, problem)
        for file, why in self.for_this_run:
            self.job.leave_out(file, why)

    def tasks(self, paths: list[Path]) -> Iterator[tuple]:
        """((hand-in, identity, name), arguments of `work`) for each accepted image."""
        students = Taken()
        for path in paths:
            handin = self._begin(path, students)
            if handin is None:
                self.bar.update()
                continue
            try:
                temporary = None if self.job.dry_run else self.job.partial
                with Zips(path, self.limits, temporary=temporary) as archive:
                    for identity, arguments in self.images(archive, handin):
                        handin.in_work += 1
                        yield (handin, identity, arguments[1]), arguments
            except Refused as error:
                handin.refused = str(error)
            handin.read = True
            self.finish(handin)

    def _begin(self, path: Path, students: Taken) -> HandIn | None:
        """The hand-in, if it is for this run to read."""
        why = ""
        try:
            student = plain(repaired(path.name).rpartition(".")[0])
            if not students.claim(student):
                why = "another hand-in has the same name"
            elif not self.job.is_done(path.name):
                tag = blake2b(student.encode(), digest_size=4).hexdigest()
                return HandIn(path, student, tag, _signature(path))
            elif not _same(path, self.job.notes[path.name]["signature"]):
                why = CHANGED
        except ValueError as error:
            why = f"unsafe name: {error}"
        except OSError as error:
            why = f"cannot be read: {reason(error)}"
        if why:
            self.for_this_run.append((path.name, why))
        return None

    def images(self, archive: Zips, handin: HandIn) -> Iterator[tuple]:
        """(identity, arguments of `work`) for each image of a hand-in that its list accepts."""
        handin.left_out += archive.refused
        images = list(files_of(archive, RAW_EXTENSIONS))
        listed = self.read_lists(archive, handin)
        other = RAW_EXTENSIONS + accept_list.ENDINGS + accept_list.OLD_ENDINGS
        for entry in archive.entries:
            if not entry.parts[-1].lower().endswith(other):
                handin.left_out.append((entry.name, "not an image"))
        accepted = self.match(images, listed, handin)
        taken = Taken()
        for number, entry in enumerate(images):
            if accepted[number] is None:
                handin.left_out.append((entry.name, "not in the spreadsheet"))
            elif not accepted[number]:
                handin.left_out.append((entry.name, "not accepted in the spreadsheet"))
            else:
                try:
                    identity, target = self._target(entry, handin, taken)
                    data = b"" if self.job.dry_run else archive.read(entry)
                except Refused as error:
                    handin.left_out.append((entry.name, str(error)))
                    continue
                yield identity, (data, entry.name, target, self.job.partial, self.quality)

    def read_lists(self, archive: Zips, handin: HandIn) -> AcceptList:
        """What the spreadsheets say; `Refused` when there is none to go by."""
        listed, found, usable, problems = AcceptList(), 0, 0, []
        for entry in files_of(archive, accept_list.ENDINGS + accept_list.OLD_ENDINGS):
            try:
                if entry.parts[-1].lower().endswith(accept_list.OLD_ENDINGS):
                    raise NoList("a kind of spreadsheet that is not read; save it as .xlsx or .csv")
                if found == accept_list.MOST_LISTS:
                    raise NoList(f"more than {found} spreadsheets")
                found += 1
                listed.add(archive.read(entry), entry.name)
                usable += 1
            except (NoList, Refused) as error:
                problems.append((entry.name, str(error)))
        handin.left_out += problems
        if not usable:
            why = "; ".join(f"{name}: {problem}" for name, problem in problems[:3])
            raise Refused(f"no spreadsheet with the columns File and Accept{why and f': {why}'}")
        handin.left_out += listed.problems
        return listed

    def match(self, images: list[Entry], listed: AcceptList, handin: HandIn) -> list[bool | None]:
        """Whether each image is accepted; None when no row names it."""
        accepted: list[bool | None] = [None] * len(images)
        matcher = Matcher(entry.parts for entry in images)
        for file, yes in listed.rows.items():
            handin.counts["rows of spreadsheets"] += 1
            try:
                number = matcher.find(file)
            except ValueError as error:
                handin.left_out.append((f"{handin.path.name}: {file}", f"unclear row: {error}"))
                continue
            if number is None:
                if yes:
                    row = f"{handin.path.name}: {file}"
                    handin.left_out.append((row, "accepted, but not in the archive"))
            else:
                accepted[number] = yes if accepted[number] is None else accepted[number] and yes
        return accepted

    def _target(self, entry: Entry, handin: HandIn, taken: Taken) -> tuple[str, Path]:
        if len(entry.parts) - entry.root < 2 or entry.parts[-2].casefold() == "face_dataset":
            raise Refused("not in a folder of an identity")
        try:
            identity = plain(entry.parts[-2])
            stem, _, kind = plain(entry.parts[-1]).rpartition(".")
        except ValueError as error:
            raise Refused(f"unsafe name: {error}") from None
        names = (f"{identity}/{stem}", f"{identity}/{stem}_{kind.lower()}")
        name = taken.claim(*names)
        if name is None:
            raise Refused("another image has the same name")
        return identity, self.job.out / f"{name}-{handin.tag}.jpg"

    def ready(self, handin: HandIn, identity: str, name: str, problem: str | Died) -> None:
        """Take note of one decoded image."""
        if isinstance(problem, Died):
            problem = "the decoder's process died on it"
        if problem:
            handin.left_out.append((name, problem))
        else:
            handin.taken[identity] += 1
        handin.in_work -= 1
        self.finish(handin)

    def finish(self, handin: HandIn) -> None:
        """Remember the hand-in once its last image is written."""
        if handin.in_work or not handin.read:
            return
        self.bar.update()
        if handin.refused:
            self.for_this_run += handin.left_out
            self.for_this_run.append((handin.path.name, handin.refused))
            return
        job = self.job
        job.count("hand-ins collected")
        for key, n in handin.counts.items():
            job.count(key, n)
        job.count("images to take" if job.dry_run else "images taken", handin.taken.total())
        for file, why in handin.left_out:
            job.leave_out(file, why)
        note = {
            "signature": handin.signature,
            "student": handin.student,
            "tag": handin.tag,
            "identities": dict(sorted(handin.taken.items())),
        }
        job.done(handin.path.name, note)


def _signature(path: Path) -> dict:
    found = path.stat()
    return {"bytes": found.st_size, "changed": found.st_mtime_ns, "sha256": sha256(path)}


def _same(path: Path, signature: dict) -> bool:
    found = path.stat()
    if found.st_size != signature["bytes"]:
        return False
    return found.st_mtime_ns == signature["changed"] or sha256(path) == signature["sha256"]


def students_table(notes: dict[str, dict]) -> list[tuple]:
    """Rows of students.csv, its header first, from the notes of the finished hand-ins."""
    owners: dict[str, list[str]] = {}
    for note in notes.values():
        for identity in note["identities"]:
            owners.setdefault(identity, []).append(note["student"])
    rows: list[tuple] = [("student", "tag", "identity", "images", "archive", "also_from")]
    for archive, note in sorted(notes.items()):
        for identity, images in note["identities"].items():
            others = sorted(set(owners[identity]) - {note["student"]})
            row = (note["student"], note["tag"], identity, images, repaired(archive))
            rows.append((*row, ";".join(others)))
    return rows


def alike(identities: list[str]) -> list[list[str]]:
    """Identities whose names differ in case, spaces, `_`, `-` or width alone: likely one person."""
    groups: dict[str, list[str]] = {}
    for name in identities:
        key = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault("".join(c for c in key if c not in " _-"), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def hand_ins(folder: Path) -> tuple[list[Path], list[Path]]:
    """The zip files of the folder in order of their names, and what else lies there."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {reason(error)}") from None
    zips = [path for path in found if path.suffix.lower() == ".zip" and path.is_file()]
    if not zips:
        raise UserError(f"{folder} holds no zip files: give the folder with the hand-ins")
    return zips, [path for path in found if path not in set(zips)]


def run(args) -> dict:
    paths, others = hand_ins(args.handins)
    check_apart(args.handins, args.out)
    limits = Limits(
        members=args.max_members,
        member_bytes=args.max_image_mb * 1_000_000,
        total_bytes=args.max_mb * 1_000_000,
        ratio=args.max_ratio,
    )
    settings = {"handins": str(args.handins), "quality": args.quality, "limits": vars(limits)}
    with Job("collect_handins", args.out, settings, dry_run=args.dry_run, log=args.log) as job:
        collector = Collector(job, limits, args.quality)
        collector.for_this_run += [(path.name, "not a zip file") for path in others]
        collector.run(paths, args.workers)
        table = students_table(job.notes)
        if not args.dry_run:
            write_csv(job.out / "students.csv", table)
        identities = sorted({row[2] for row in table[1:]})
        return job.summary(
            identities=len(identities),
            identities_of_several_students=sorted({row[2] for row in table[1:] if row[5]}),
            identities_with_names_alike=[" / ".join(group) for group in alike(identities)],
        )


def arguments() -> argparse.ArgumentParser:
    flags = parser(__doc__)
    add = flags.add_argument
    add("handins", type=Path, help="folder with one zip file for each student")
    add("--out", required=True, type=Path, metavar="DIR", help="face folder to write")
    add("--quality", type=int, choices=range(50, 101), default=95, metavar="Q", help="JPEG (95)")
    add("--workers", type=positive, default=cpu_count(), metavar="N", help="processes (all cores)")
    bound = Limits()
    megabytes = {"type": positive, "metavar": "MB"}
    add("--max-mb", default=bound.total_bytes // 1_000_000, help="of a hand-in (4000)", **megabytes)
    add("--max-image-mb", default=bound.member_bytes // 1_000_000, help="(100)", **megabytes)
    add("--max-members", type=positive, default=bound.members, metavar="N", help="(100000)")
    add("--max-ratio", type=positive, default=bound.ratio, metavar="R", help="size/packed (200)")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
