"""Crop a raw set: find the face in each photo and crop it as the training sets are cropped.

    python data_scripts/crop_raw.py vggface2_train.tar.gz --out cropped
    python data_scripts/crop_raw.py raw_photos/ --out cropped --shard 3/8

A source is a folder IDENTITY/…/image, or a tar archive (also gz, bz2, xz), which is read as a
stream and never unpacked; there the folder of an image is its identity. --level says otherwise:
with --level 2 the second folder of each path is the person, as in SET/PERSON/SESSION/1.jpg.

Each photo with one face, or one of several that is plainly its subject (larger and nearer to the
middle), becomes a JPEG of 256 px at the same place in the output; the others are counted and
listed in OUT/crop_raw.log.csv. Run the same command again to go on after an interruption.

With --shard i/n, n jobs share one output folder, each with a part of the identities; each reads an
archive from its beginning.
"""

import argparse
import sys
import time
from pathlib import Path
from zlib import crc32

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.cli import positive
from labkit.crop import Face, crop_face, read_photo, square_around
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError, read_file, reason, write_bytes
from parts.detectors import DETECTORS, detector
from parts.job import Job, check_apart, main, parser
from parts.names import claim, plain
from parts.pool import Workers
from parts.sources import MAX_BYTES, Archive, Raw, open_source

NO_FACE, SEVERAL, UNREADABLE = "no face", "several faces", "not a readable image"
MOSTLY_GREY = "of these more than 30 % grey"


def subject(faces: list[Face], photo: Image.Image) -> Face | None:
    """Return the face that a photo is of: 1.5 times as prominent as any other, or None.

    A face is the more prominent the larger it is and the nearer to the middle: its side over 0.5
    plus its distance from the middle, in halves of the photo's shorter side.
    """

    def prominence(face: Face) -> float:
        x, y, _ = square_around(face.box)
        away = np.hypot(x - photo.width / 2, y - photo.height / 2) / (min(photo.size) / 2)
        return face.side / (0.5 + away)

    first, *others = sorted(faces, key=prominence, reverse=True)
    return first if all(prominence(first) >= 1.5 * prominence(f) for f in others) else None


def grey_share(photo: Image.Image, face: Face) -> float:
    """Return the share of a face's crop that lies outside of the photo."""
    x, y, half = square_around(face.box)
    inside = [
        max(0.0, min(centre + half, length) - max(centre - half, 0))
        for centre, length in zip((x, y), photo.size)
    ]
    return 1 - inside[0] * inside[1] / (2 * half) ** 2


def crop_photo(content: str | bytes, name: str, find, size: int) -> tuple[Image.Image, float] | str:
    """Crop the subject's face in a photo (path or bytes); return it and how much of it is grey.

    `find` finds the faces. Where there is no subject, the reason is returned.
    """
    try:
        if isinstance(content, str):
            content = read_file(content, MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"above {MAX_BYTES / 1e6:,.0f} MB")
        photo = read_photo(content, name=name)
        faces = find(photo)
        if faces and (face := subject(faces, photo)):
            return crop_face(photo, face, size), grey_share(photo, face)
        return f"{SEVERAL}: {len(faces)}" if faces else NO_FACE
    except UserError as error:
        return f"{UNREADABLE}: {str(error).removeprefix(name).strip()}"
    except OSError as error:
        return f"{UNREADABLE}: {reason(error)}"
    except Exception as error:  # of a detector, whose kinds of error are its own
        return f"the detector failed: {type(error).__name__}: {error}"


def work(raw: Raw, detector_name: str, size: int, quality: int) -> tuple[str, float]:
    """Crop one photo and write it, in a process of its own; return why not, or "", and the grey."""
    found = crop_photo(raw.content, raw.name, detector(detector_name), size)
    if isinstance(found, str):
        return found, 0.0
    write_bytes(raw.target, jpeg_bytes(found[0], quality))
    return "", found[1]


def crop(args, job: Job, sources: list) -> int:
    """Crop the photos that are not done yet and return how many those were."""
    taken: set[str] = set()
    above: dict[str, tuple] = {}  # identity → the folders that its folder lies in
    shard, shards = args.shard

    def wanted(raw: Raw) -> bool:
        """Give the image its target; note what is done or cannot be."""
        bar.update()
        problem = raw.problem
        try:
            *folders, file = [plain(part) for part in raw.parts] or [raw.name]
            if raw.parts and len(folders) < (args.level or 1):
                problem = f"not in {args.level} folders"
            if args.level:
                folders = folders[args.level - 1 :]
        except ValueError as error:
            problem = f"unsafe name: {error}"
        name = raw.name if problem else folders[0]
        if not problem and not args.level and raw.above != above.setdefault(name, raw.above):
            places = " and ".join("/".join((*p, name)) for p in (above[name], raw.above))
            raise UserError(
                f"{places} would be one person: say by --level which folder of the paths is the "
                f"person (--level 2: the second), and delete {job.out} or choose another"
            )
        if crc32(name.encode("utf-8", "replace")) % shards != shard - 1:
            return False
        if not job.dry_run:
            job.count("images seen")
        if not problem:
            stem, _, kind = file.rpartition(".")
            name = "/".join([*folders, stem])
            name = claim(taken, f"{name}.jpg", f"{name}_{kind.lower()}.jpg")
            problem = "" if name else "another image has the same name"
        if problem:
            job.leave_out(raw.name, problem)
            return False
        raw.target = job.out / name
        if raw.target.exists():
            job.count("faces cropped")
        elif not job.was_left_out(raw.name):
            return True
        job.earlier += 1
        return False

    def tasks():
        for source in sources:
            for raw in source.images(wanted):
                if isinstance(source, Archive):
                    bar.total = round(bar.n / source.fraction())
                yield raw.name, (raw, args.detector, args.size, args.quality)

    archives = any(isinstance(source, Archive) for source in sources)
    total = None if archives else sum(source.total() for source in sources)
    bar = job.progress(total=total, unit="images")
    looked_at = 0
    if job.dry_run:
        looked_at = sum(1 for _ in tasks())
        job.count("images to look at", looked_at)
    else:
        with Workers(args.workers) as workers:
            for name, result in workers.map(work, tasks()):
                looked_at += 1
                problem, grey = result if isinstance(result, tuple) else (result, 0)
                if problem:
                    job.leave_out(name, problem)
                else:
                    job.count("faces cropped")
                    if grey > 0.3:
                        job.count(MOSTLY_GREY)
    for source in sources:
        if source.problem:
            job.leave_out(str(source.path), source.problem)
    return looked_at


def run(args) -> dict:
    sources = [open_source(path, args.level) for path in args.source]
    for path in args.source:
        if path.is_dir():
            check_apart(path, args.out)
    i, n = args.shard
    settings = {name: getattr(args, name) for name in ("detector", "size", "quality", "level")}
    settings |= {"source": [str(path) for path in args.source], "shards": n}
    detector(args.detector)  # one line now, rather than one for each process
    more = {
        "part": f"{i}-of-{n}" if n > 1 else None,
        "keep": lambda file: file not in settings["source"],  # a damaged archive is read again
    }
    with Job("crop_raw", args.out, settings, dry_run=args.dry_run, log=args.log, **more) as job:
        started = time.monotonic()
        looked_at = crop(args, job, sources)
        rate = looked_at / (time.monotonic() - started)
        speed = {}
        if looked_at and not args.dry_run:
            speed["workers"] = args.workers
            speed["images_per_second"] = round(rate, 2)
            speed["images_per_second_per_core"] = round(rate / args.workers, 2)
        summary = job.summary(detector=args.detector, **speed)
    check_result(summary, args, sources)
    return summary


def check_result(summary: dict, args, sources: list) -> None:
    """Raise UserError when nothing was cropped; print what the crops say of the set."""
    counts, places = summary["counts"], ", ".join(map(str, args.source))
    cropped, grey = counts.get("faces cropped", 0), counts.get(MOSTLY_GREY, 0)
    if not cropped and not args.dry_run and args.shard[1] == 1:
        if why := summary["left_out"]:
            told = ", ".join(f"{number:,} {reason}" for reason, number in why.items())
            raise UserError(f"nothing was cropped from {places}: {told} ({summary['log']})")
        kinds = {kind for source in sources for kind in source.other_kinds()}
        found = f"it holds {', '.join(sorted(kinds)[:8])} files" if kinds else "it is empty"
        raise UserError(f"no picture in a folder of a person in {places}: {found}")
    if grey > 0.2 * cropped:
        print(
            f"{grey:,} of {cropped:,} crops are more than 30 % grey: were these pictures cropped "
            "already? Then use the set as it is, or --detector none"
        )


def _shard(text: str) -> tuple[int, int]:
    try:
        i, n = (int(number) for number in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected i/n such as 3/8, found {text}") from None
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"expected 1 to n of n, found {text}")
    return i, n


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("source", nargs="+", type=Path, help="a folder IDENTITY/…/image, or a tar archive")
    add("--out", required=True, type=Path, metavar="DIR", help="face folder to write")
    add("--detector", choices=tuple(DETECTORS), default="dlib", help="default: dlib, built in")
    add("--level", type=positive, metavar="N", help="which folder of a path is the person")
    add("--size", type=positive, default=256, metavar="PX", help="side of the crop (256)")
    add("--quality", type=int, choices=range(50, 101), default=95, metavar="Q", help="JPEG (95)")
    add("--workers", type=positive, default=cpu_count(), metavar="N", help="processes (all cores)")
    add("--shard", type=_shard, default=(1, 1), metavar="i/n", help="part i of n")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
