"""Crop a raw set: find the face in each photo and cut it as the training sets are cut.

    python data_scripts/crop_raw.py vggface2_train.tar.gz --out cropped
    python data_scripts/crop_raw.py raw_photos/ --out cropped --shard 3/8

A source is a folder IDENTITY/…/image, or a tar archive (also gz, bz2, xz), which is read as a
stream and never unpacked; there the folder of an image is its identity. Each photo with exactly
one face becomes a JPEG of 256 px at the same place in the output; the others are counted and
listed in OUT/crop_raw.log.csv. Run the same command again to go on after an interruption.

With --shard i/n, n jobs share one output folder, each with a part of the identities; each reads an
archive from its beginning.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

from joblib import cpu_count
from PIL import Image

from labkit.crop import DETECTION_SIDES, crop_face, read_photo, square_around
from labkit.data.images import DAMAGED, FORMATS
from labkit.utils import UserError, reason
from parts.detectors import DETECTORS, detector
from parts.job import Job, check_apart, main, parser, place, positive
from parts.names import Taken, plain
from parts.pool import Died, share
from parts.sources import MAX_BYTES, Archive, Raw, open_source

NO_FACE, SEVERAL, UNREADABLE = "no face", "several faces", "not a readable image"


def cut_face(content: str | bytes, name: str, find, size: int) -> Image.Image | str:
    """The face of a photo cut to `size` pixels, or why there is none to cut.

    Large JPEGs are first decoded at a reduced scale, with the longer side not below the one at
    which the built-in detector looks; the full picture is decoded when nothing is found in that
    one, or when the cut would have to be enlarged.

    Args:
        content: path or bytes of the photo.
        name: what to call it.
        find: a `detectors.Detector`.
    """
    try:
        if isinstance(content, str):
            data = _read(content)
        else:
            data = content
        photo, shrunk = _draft(data), True
        if photo is None:
            photo, shrunk = read_photo(data, name=name), False
        faces = find(photo)
        if not faces and shrunk:
            photo, shrunk = read_photo(data, name=name), False
            faces = find(photo)
        if len(faces) != 1:
            return f"{SEVERAL}: {len(faces)}" if faces else NO_FACE
        box = faces[0].box
        if shrunk and 2 * square_around(box)[2] < size:
            full = read_photo(data, name=name)
            across, down = full.width / photo.width, full.height / photo.height
            box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
            photo = full
        return crop_face(photo, box, size)
    except UserError as error:
        return f"{UNREADABLE}: {str(error).removeprefix(name).strip()}"
    except MemoryError:
        return f"{UNREADABLE}: too large for the memory"
    except Exception as error:  # of a detector, whose kinds of error are its own
        return f"the detector failed: {type(error).__name__}: {error}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(reason(error)) from None
    if len(data) > MAX_BYTES:
        raise UserError(f"above {MAX_BYTES / 1e6:,.0f} MB")
    return data


def _draft(data: bytes) -> Image.Image | None:
    """A large JPEG decoded at a half, a quarter or an eighth; None for any other photo."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            full, side = image.size, DETECTION_SIDES[1]
            scale = side / max(full)
            wanted = tuple(round(length * scale) for length in full)
            if scale > 0.5 or image.draft("RGB", wanted) is None or image.size == full:
                return None
            return read_photo(image)
    except (*DAMAGED, Image.DecompressionBombError):
        return None  # read_photo says what is wrong with it


def work(
    content: str | bytes,
    name: str,
    detector_name: str,
    size: int,
    target: Path,
    partial: Path,
    quality: int,
) -> str:
    """Cut one photo and write it to `target`; why not, or nothing. Runs in a process of its own."""
    face = cut_face(content, name, detector(detector_name), size)
    if isinstance(face, str):
        return face
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=quality)
    place(partial, target, buffer.getvalue())
    return ""


class Chosen:
    """The images that this run has to look at, and where each goes."""

    def __init__(self, job: Job, shard: tuple[int, int]):
        self.job, self.shard = job, shard
        self.taken = Taken()
        self.passed = 0
        self.target = ""

    def __call__(self, source: int, raw: Raw) -> bool:
        self.passed += 1
        item = f"{source}:{raw.key}"
        if raw.problem:
            if crc32(item.encode("utf-8", "replace")) % self.shard[1] == self.shard[0] - 1:
                self._leave_out(item, raw, raw.problem)
            return False
        try:
            parts = [plain(part) for part in raw.parts]
        except ValueError as error:
            self._leave_out(item, raw, f"unsafe name: {error}")
            return False
        if crc32(parts[0].encode()) % self.shard[1] != self.shard[0] - 1:
            return False
        stem, _, kind = parts[-1].rpartition(".")
        folder = "/".join(parts[:-1])
        target = self.taken.claim(f"{folder}/{stem}.jpg", f"{folder}/{stem}_{kind.lower()}.jpg")
        if target is None:
            self._leave_out(item, raw, "another image has the same name")
            return False
        self.target = target
        return not self.job.is_done(item)

    def _leave_out(self, item: str, raw: Raw, why: str) -> None:
        if not self.job.is_done(item):
            self.job.count("images seen")
            self.job.leave_out(raw.name, why)
            self.job.done(item)


def crop(args, job: Job, sources: list) -> float:
    """Cut what is to be cut; the seconds that it took."""
    chosen = Chosen(job, args.shard)
    totals = [source.total() for source in sources]
    bar = job.progress(None if None in totals else sum(totals), unit="images")
    started = time.monotonic()

    def tasks() -> Iterator[tuple]:
        for number, source in enumerate(sources):
            for raw in source.images(lambda raw, number=number: chosen(number, raw)):
                target = job.out / chosen.target
                raw.key = f"{number}:{raw.key}"
                content, raw.content = raw.content, None
                cut = (content, raw.name, args.detector, args.size)
                yield raw, (*cut, target, job.partial, args.quality)
                if isinstance(source, Archive) and source.fraction() > 0:
                    rest = sum(total or 0 for total in totals[number + 1 :])
                    bar.total = round(chosen.passed / source.fraction()) + rest

    def note(raw: Raw, problem: str | Died) -> None:
        job.count("images seen")
        if isinstance(problem, Died):
            problem = "the detector's process died on it"
        if problem:
            job.leave_out(raw.name, problem)
        else:
            job.count("faces cut")
        job.done(raw.key)

    if job.dry_run:
        for _ in tasks():
            job.count("images to look at")
    else:
        with closing(share(work, tasks(), args.workers)) as results:
            for raw, problem in results:
                note(raw, problem)
                bar.update(chosen.passed - bar.n)
    bar.update(chosen.passed - bar.n)
    for source in sources:
        if isinstance(source, Archive) and source.problem:
            job.leave_out(str(source.path), source.problem)
    return time.monotonic() - started


def run(args) -> dict:
    sources = [open_source(path) for path in args.source]
    for path in args.source:
        if path.is_dir():
            check_apart(path, args.out)
    settings = {
        "source": [str(path) for path in args.source],
        "detector": args.detector,
        "size": args.size,
        "quality": args.quality,
        "shards": args.shard[1],
    }
    i, n = args.shard
    part = f"{i}-of-{n}" if n > 1 else None
    detector(args.detector)  # one line now, rather than one for each process
    with Job("crop_raw", args.out, settings, dry_run=args.dry_run, log=args.log, part=part) as job:
        before = job.summary()["counts"].get("images seen", 0)
        seconds = crop(args, job, sources)
        now = job.summary()["counts"].get("images seen", 0) - before
        more = {}
        if now and not args.dry_run:
            more["workers"] = args.workers
            more["images_per_second"] = round(now / seconds, 2)
            more["images_per_second_per_core"] = round(now / seconds / args.workers, 2)
        return job.summary(detector=args.detector, **more)


def _shard(text: str) -> tuple[int, int]:
    try:
        i, n = (int(number) for number in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected i/n such as 3/8, found {text}") from None
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"expected 1 to n of n, found {text}")
    return i, n


def arguments() -> argparse.ArgumentParser:
    flags = parser(__doc__)
    add = flags.add_argument
    add("source", nargs="+", type=Path, help="a folder IDENTITY/…/image, or a tar archive")
    add("--out", required=True, type=Path, metavar="DIR", help="face folder to write")
    add("--detector", choices=tuple(DETECTORS), default="dlib", help="default: dlib, built in")
    add("--size", type=positive, default=256, metavar="PX", help="side of the cut (256)")
    add("--quality", type=int, choices=range(50, 101), default=95, metavar="Q", help="JPEG (95)")
    add("--workers", type=positive, default=cpu_count(), metavar="N", help="processes (all cores)")
    add("--shard", type=_shard, default=(1, 1), metavar="i/n", help="part i of n")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
