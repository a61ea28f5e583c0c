"""Pack a face folder into one file that trainers read by its index, or unpack it again.

    python data_scripts/pack.py FACES --out PACKED
    python data_scripts/pack.py PACKED --unpack --out FACES

PACKED gets `train.rec`, `train.idx` and `property` as insightface's trainers have them, and
`names.txt` with the images' names, so that unpacking gives back every file byte for byte. The kit
trains from it as from the folder (`--train_path PACKED`, or `pretrain/` of a data directory). An
image that cannot be read is left out and listed; more than 1 % of them stop it.
"""

import shutil
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.data import FaceFolder
from labkit.data.images import decode_pixels, read_source
from labkit.data.records import NAMES, find_records, write_records
from labkit.utils import UserError, map_ahead, reason, write_bytes, write_text
from parts.job import Job, check_apart, main, parser
from parts.names import safe_parts

TABLES = ("identities.csv", "identity_meta.csv")


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("source", type=Path, help="a face folder, or with --unpack a packed set")
    add("--out", required=True, type=Path, metavar="DIR", help="where the other form goes")
    add("--unpack", action="store_true", help="make a face folder of a packed set")
    return flags


def run(args) -> dict:
    check_apart(args.source, args.out)
    if args.unpack != bool(find_records(args.source)):
        what = "is no packed set" if args.unpack else "is packed already (--unpack?)"
        raise UserError(f"{args.source} {what}")
    folder = FaceFolder.scan(args.source)
    with Job("pack", args.out, dry_run=args.dry_run, log=args.log) as job:
        (_unpack if args.unpack else _pack)(folder, job)
        if not job.dry_run:
            copy_tables((folder.root.parent, folder.root), job.out)
        return job.summary()


def _pack(folder: FaceFolder, job: Job) -> None:
    names, size = [], []

    def read(i: int) -> bytes | str:
        try:
            data = read_source(folder.source(i))
            pixels = decode_pixels(data)
            size[:] = size or pixels.shape[:2]
            return data if "\n" not in folder.name(i) else "its name has a line break"
        except (UserError, OSError) as error:
            return f"unreadable: {reason(error) if isinstance(error, OSError) else error}"

    def images():
        unreadable = []
        with ThreadPoolExecutor() as threads:
            found = map_ahead(threads, read, range(len(folder)), 64)
            for i, data in enumerate(job.progress(found, total=len(folder), unit="images")):
                if isinstance(data, bytes):
                    names.append(folder.name(i))
                    job.count("images")
                    yield int(folder.labels[i]), data
                else:
                    job.leave_out(folder.name(i), data)
                    unreadable.append(folder.name(i))
        folder.check_skipped(unreadable)

    if job.dry_run:
        deque(images(), maxlen=0)
        return
    write_records(job.out / "train.rec", images())
    write_tables(job.out, names, size)


def copy_tables(folders: Sequence[Path], out: Path) -> None:
    """Copy the tables of the people that lie in some folders; the last one's stay."""
    for table in (folder / name for folder in folders for name in TABLES):
        if table.is_file():
            shutil.copyfile(table, out / table.name)


def write_tables(out: Path, names: Sequence[str], size: Sequence[int]) -> None:
    """Write what stands beside the records: the images' names, and `property` (height, width)."""
    people = len({name.split("/")[0] for name in names})
    write_text(out / NAMES, "".join(f"{name}\n" for name in names))
    write_text(out / "property", f"{people},{size[0]},{size[1]}")


def _unpack(folder: FaceFolder, job: Job) -> None:
    for i in job.progress(range(len(folder)), unit="images"):
        path = job.out / folder.name(i)
        if path.exists():
            job.earlier += 1
            continue
        try:
            safe_parts(folder.name(i))
            data = read_source(folder.source(i))
        except (UserError, ValueError) as error:
            job.leave_out(folder.name(i), f"unreadable: {error}")
            continue
        job.count("images")
        if not job.dry_run:
            write_bytes(path, data)


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
