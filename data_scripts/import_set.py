"""Bring a face set into the kit as it comes from its makers.

    python data_scripts/import_set.py SOURCE --out FACES [--identities N] [--images M]
    python data_scripts/import_set.py SOURCE --out PACKED --pack

SOURCE is recognized by what it holds:

RecordIO          a folder with train.rec and train.idx, or a .rec (CASIA-WebFace, Glint360K, …)
verification set  a .bin (lfw.bin, …): each pair becomes a folder or two, with a pairs.csv
LMDB              of images with labels as msgpack (HSFace) or pickle, or of images by path
zip archives      one or a folder of them, IDENTITY/image in each (DigiFace-1M)
tar               one or a folder of them: shards of .jpg with .cls or .json, or folders of
                  identities (VGGFace2); with loose_bb_*.csv beside it, faces are cropped by it
parquet           one or a folder of them, with a column of image bytes and one of labels
image folder      IDENTITY/…/image
list of images    a text file of lines `path label`

It is written as a face folder, or with --pack as one packed file, which a network disk likes
better. Nothing in a file is run. JPEG and PNG stay byte for byte, other images become JPEG.
--identities and --images take the first ones in the order of the set. What cannot be read is left
out and listed; more than 1 % of that is an error. Run the same command again to go on.
LMDB and parquet need: pip install 'kstar-facelab[formats]'
"""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.cli import positive
from labkit.crop import crop_face
from labkit.data.images import decode_image, decode_pixels, jpeg_bytes, read_source
from labkit.data.records import write_records
from labkit.utils import UserError, map_ahead, write_bytes
from pack import copy_tables, write_tables
from parts.formats import Found, read_boxes, recognize
from parts.job import Job, check_apart, main, parser
from parts.names import claim, plain

LOOSE = 1.3  # VGGFace2's loose boxes are that much larger than the face (its README)
MAX_UNREADABLE = 0.01


class Folder:
    """The images as files; a place is IDENTITY/NAME without the ending."""

    def __init__(self, out: Path):
        self.out = out

    def has(self, file: str) -> bool:
        """Return whether an image is there already."""
        return (self.out / file).exists()

    def find(self, place: str) -> str | None:
        """Return the name with its ending of an image that is there, else None."""
        return next((f for f in (f"{place}.jpg", f"{place}.png") if self.has(f)), None)

    def add(self, file: str, data: bytes) -> None:
        """Keep an image."""
        write_bytes(self.out / file, data)

    def finish(self) -> None:
        """Write what is still missing."""


class Spool(Folder):
    """The images in one file in the order in which they come, until they can be sorted.

    A kill loses the image that is being written; what stands in the index is whole.
    """

    def __init__(self, out: Path):
        super().__init__(out)
        self.folder = out / ".import_set"
        self.index, self.names, end = self.folder / "index.tsv", {}, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data = open(self.folder / "images", "a+b")
        size = self._data.seek(0, 2)
        for line in self.index.read_text("utf-8").split("\n")[:-1] if self.index.exists() else ():
            file, start, stop = line.split("\t")
            if int(stop) <= size:
                self.names[file], end = (int(start), int(stop)), int(stop)
        self._data.truncate(end)
        rows = (f"{file}\t{start}\t{stop}\n" for file, (start, stop) in self.names.items())
        write_bytes(self.index, "".join(rows).encode())
        self._lines = open(self.index, "a", encoding="utf-8")
        self._end = end

    def has(self, file: str) -> bool:
        """Return whether an image is there already."""
        return file in self.names

    def add(self, file: str, data: bytes) -> None:
        """Keep an image."""
        start, self._end = self._end, self._end + len(data)
        self.names[file] = start, self._end
        self._data.write(data)
        self._data.flush()
        self._lines.write(f"{file}\t{start}\t{self._end}\n")
        self._lines.flush()

    def finish(self) -> None:
        """Write the packed set, and remove the spool."""
        names = sorted(self.names)
        people = {name: k for k, name in enumerate(sorted({n.split("/")[0] for n in names}))}

        def read(name: str) -> bytes:
            start, stop = self.names[name]
            self._data.seek(start)
            return self._data.read(stop - start)

        images = ((people[name.split("/")[0]], read(name)) for name in names)
        write_records(self.out / "train.rec", images)
        write_tables(self.out, names, decode_pixels(read(names[0])).shape)
        self._data.close()
        self._lines.close()
        for file in (self.folder / "images", self.index):
            file.unlink()


class Choice:
    """Which images are wanted: the first of the first identities, and none that is there."""

    def __init__(self, identities: int | None, images: int | None, store, job: Job):
        self.identities, self.images, self.store, self.job = identities, images, store, job
        self.taken, self.complete, self.places = Counter(), 0, set()

    def __call__(self, identity: str, name: str) -> bool:
        """Return whether to read an image, and count it."""
        full = self.identities and len(self.taken) >= self.identities
        if full and identity not in self.taken:
            return False
        if self.images and self.taken[identity] >= self.images:
            return False
        self.taken[identity] += 1
        self.complete += self.taken[identity] == self.images
        try:
            place = claim(self.places, f"{plain(identity)}/{plain(name)}")
        except ValueError as error:
            self.job.leave_out(f"{identity}/{name}", f"name: {error}")
            return False
        if place is None:
            self.job.leave_out(f"{identity}/{name}", "another image has the same name")
            return False
        there = self.store.find(place)
        self.job.earlier += bool(there)
        return not there

    def of(self, images: Iterator[Found]) -> Iterator[Found]:
        """Yield the images until none that follows can be wanted."""
        for found in images:
            yield found
            if self.identities and self.complete == self.identities:
                return


def prepare(found: Found, boxes: dict, size: int) -> bytes | str:
    """Return the bytes of an image's file, or why there are none."""
    try:
        if found.problem:
            return found.problem
        data = read_source(found.content)
        if box := boxes.get(f"{found.identity}/{found.name}"):
            left, top, right, bottom = box
            dx, dy = ((b - a) * (1 - 1 / LOOSE) / 2 for a, b in ((left, right), (top, bottom)))
            face = (left + dx, top + dy, right - dx, bottom - dy)
            return jpeg_bytes(crop_face(decode_image(data), face, size), 95)
        pixels = decode_pixels(data)
        return data if data.startswith((b"\xff\xd8", b"\x89PNG")) else jpeg_bytes(pixels, 95)
    except UserError as error:
        return f"unreadable: {error}"


def run(args) -> dict:
    check_apart(args.source, args.out)
    kind, reader = recognize(args.source)
    if args.pack and kind == "verification set":
        raise UserError(f"{args.source} holds pairs, which are not packed: leave --pack away")
    boxes = read_boxes(args.source.parent) if kind == "tar" else {}
    settings = {"identities": args.identities, "images": args.images, "pack": args.pack}
    settings |= {"source": str(args.source), "size": args.size if boxes else None}
    with Job("import_set", args.out, settings, dry_run=args.dry_run, log=args.log) as job:
        if (args.out / "train.rec").exists():
            raise UserError(f"{args.out} holds a packed set already: choose another folder")
        store = Spool(args.out) if args.pack and not args.dry_run else Folder(args.out)
        choice = Choice(args.identities, args.images, store, job)
        unreadable, first = 0, ""

        def prepared(found: Found) -> tuple[Found, bytes | str]:
            return found, prepare(found, boxes, args.size)

        with ThreadPoolExecutor() as threads:
            images = map_ahead(threads, prepared, choice.of(reader(args.source, choice)), 64)
            for found, data in job.progress(images, unit="images"):
                if isinstance(data, str):
                    job.leave_out(found.title, data)
                    unreadable, first = unreadable + 1, first or found.title
                    continue
                ending = ".png" if data.startswith(b"\x89PNG") else ".jpg"
                file = f"{plain(found.identity)}/{plain(found.name)}{ending}"
                job.count("images")
                if boxes and f"{found.identity}/{found.name}" not in boxes:
                    job.count("of these whole, without a box")
                if not job.dry_run:
                    store.add(file, data)
        count = sum(choice.taken.values())
        if not count:
            raise UserError(f"{args.source} ({kind}) holds no images with identities")
        if unreadable > MAX_UNREADABLE * count:
            told = f"{unreadable:,} of {count:,} images of {args.source} cannot be read"
            raise UserError(f"{told}, {first} for one: see {job.log}")
        if not job.dry_run:
            finish(args, store, choice, kind)
        return job.summary(source=kind, identities=len(choice.taken))


def finish(args, store, choice: Choice, kind: str) -> None:
    """Write what stands beside the images: tables of the people, or the pairs of a .bin."""
    store.finish()
    folder = args.source if args.source.is_dir() else args.source.parent
    copy_tables((folder, folder / "meta"), args.out)
    if kind == "verification set":
        rows = []
        for first in (name for name in choice.taken if not name.endswith("b")):
            second = f"{first[:-1]}b" if first.endswith("a") else first
            files = store.find(f"{first}/1"), store.find(f"{second}/2")
            rows.append(f"{int(first == second)},{files[0]},{files[1]}\n" if all(files) else "")
        write_bytes(args.out / "pairs.csv", "".join(rows).encode())


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("source", type=Path, help="the set: a file or a folder")
    add("--out", required=True, type=Path, metavar="DIR", help="where the faces go")
    add("--identities", type=positive, metavar="N", help="only the first N identities")
    add("--images", type=positive, metavar="M", help="only the first M images of each")
    add("--pack", action="store_true", help="write a packed set instead of a folder")
    add("--size", type=positive, default=256, metavar="PX", help="side of faces cropped by boxes")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
