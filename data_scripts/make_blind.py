"""Render people whom nobody else can render, for a blind test that is blind.

    python data_scripts/make_blind.py DATA --staff STAFF

The built-in blind list is made from a small seed and names its people: it is for practice. Here the
people come from a secret of 128 bits, drawn from the system's own source and kept by the staff. The
faces appear in DATA/test under random names, saved anew at one size and quality without metadata,
and DATA/test_blind.csv lists the pairs. In STAFF, which students never see:

    STAFF/secret.txt                what the people are drawn from; the set can be made again
    STAFF/faces/                    the people, by name
    STAFF/key/test_blind_key.csv    label,file1,file2: for leaderboard.py

Run it again to go on after a stop; the secret and the key that are there are used.
"""

import os
import secrets
import sys
from pathlib import Path

from labkit.cli import positive
from labkit.data import DataDirectory, FaceFolder, PairList, make_pairs
from labkit.synth import make_dataset
from labkit.utils import UserError, make_folder, write_text
from parts import blind_test
from parts.job import Job, check_apart, main, parser


def secret_of(file: Path) -> int:
    """Return the staff's secret, drawn now if there is none; only its owner may read the file."""
    if not file.exists():
        make_folder(file.parent)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        write_text(file, f"{secrets.token_hex(16)}\n")
        file.chmod(0o600)
    text = file.read_text("utf-8").strip()
    if len(text) != 32 or set(text) - set("0123456789abcdef"):
        raise UserError(f"{file} is damaged: it should hold 32 hexadecimal digits")
    return int(text, 16)


def run(args) -> dict:
    data, staff = DataDirectory(args.data), args.staff
    if not data.test.is_dir():
        raise UserError(f"{data.test} does not exist: give a data directory with its test/ folder")
    check_apart(args.data, staff)
    if data.test_blind.exists() and not (args.force or (staff / "key").exists()):
        raise UserError(f"{data.test_blind} is there already: --force replaces it")
    settings = {name: getattr(args, name) for name in ("identities", "images", "size")}
    with Job("make_blind", staff, settings, dry_run=args.dry_run, log=args.log) as job:
        job.count("people", args.identities)
        job.count("photographs", args.identities * args.images)
        if args.dry_run:
            return job.summary()
        secret = secret_of(staff / "secret.txt")
        faces = make_dataset(staff / "faces", "kstar", seed=secret, **settings)
        folder, key = FaceFolder.scan(faces), staff / "key"
        if not (key / blind_test.KEY_FILE).exists():
            blind_test.make_key(make_pairs(folder, seed=secret), key)
        pairs, found = blind_test.read_key(key, folder)
        blind_test.write_images(folder, found, data.test, args.size, job)
        PairList(pairs.files, pairs.left, pairs.right).write(data.test_blind)
        job.count("pairs", len(pairs))
        return job.summary(key=str(key / blind_test.KEY_FILE))


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("data", type=Path, metavar="DATA", help="the data directory that students use")
    add("--staff", required=True, type=Path, metavar="DIR", help="what students never see")
    add("--identities", type=positive, default=100, metavar="N", help="people (100)")
    add("--images", type=positive, default=10, metavar="M", help="photographs of each (10)")
    add("--size", type=positive, default=112, metavar="PX", help="of the faces (112)")
    add("--force", action="store_true", help="replace the blind list that is there")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
