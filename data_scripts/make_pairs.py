"""Make the pair lists of a data directory: balanced, without duplicates, repeatable by seed.

    python data_scripts/make_pairs.py DATA                      val_pairs.csv, test_pairs.csv
    python data_scripts/make_pairs.py DATA --hard attribute=gender,age
    python data_scripts/make_pairs.py DATA --hard embeddings --weights FILE
    python data_scripts/make_pairs.py DATA --blind HIDDEN_FACES --key STAFF
    python data_scripts/make_pairs.py FACES --out pairs.csv     one list for one face folder

Hard imposters are people alike in the columns of identities.csv, or whose embeddings are near;
--hard-share says how many of the imposters they are.

The blind test: people whom the students have not (split.py's set blind) appear in DATA/test as
blind-0123456789ab.jpg, saved anew without metadata, and test_blind.csv lists pairs of them. STAFF
gets test_blind_key.csv, for `labkit score SCORES --labels STAFF/test_blind_key.csv`, and
test_blind_names.csv (anonymous,original). With the same key the same test is made again; without
it, names and order are new whatever the seed, since a seed could be guessed.
"""

import filecmp
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from labkit.cli import natural, positive
from labkit.data import DataDirectory, FaceFolder, PairList
from labkit.utils import UserError
from parts import blind_test
from parts.hard_pairs import balanced, of_near_identities, of_same_attributes, random_pairs
from parts.job import Job, main, parser


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("data", type=Path, metavar="DATA", help="a data directory, or a face folder with --out")
    add("--out", type=Path, metavar="FILE", help="make this one list, of the face folder DATA")
    add(
        "--per-image", type=positive, default=4, metavar="N", help="pairs for each image, about (4)"
    )
    add("--seed", type=natural, default=0, metavar="S")
    add("--hard", metavar="HOW", help="attribute=COLUMN,… of identities.csv, or embeddings")
    add("--hard-share", type=float, default=0.5, metavar="X", help="part of the imposters (0.5)")
    add("--weights", type=Path, metavar="FILE", help="trained weights, for --hard embeddings")
    add("--device", help="cpu, cuda, … for the embeddings")
    add("--blind", type=Path, metavar="FACES", help="faces for a blind test")
    add("--key", type=Path, metavar="DIR", help="where the key goes; not in DATA")
    add("--blind-size", type=positive, default=256, metavar="PX", help="(default 256)")
    add("--force", action="store_true", help="replace lists that are there and differ")
    return flags


def run(args) -> dict:
    hard = read_hard(args)
    if args.out:
        if args.blind or args.key:
            raise UserError("--blind is for a data directory: leave --out out")
        lists = [(args.out, args.data, args.seed)]
        where = args.out.resolve().parent
    else:
        data = DataDirectory(args.data)
        if not data.root.is_dir():
            raise UserError(f"the data directory {args.data} does not exist")
        if not data.val.is_dir() or not data.test.is_dir():
            raise UserError(f"{args.data} has no val/ and test/: is it a face folder? Give --out")
        first = 3 * args.seed
        lists = [(data.val_pairs, data.val, first), (data.test_pairs, data.test, first + 1)]
        where = args.data
    if args.blind and not args.key:
        raise UserError("--blind needs --key DIR, a folder that students do not get")
    if args.blind and args.key.resolve().is_relative_to(args.data.resolve()):
        raise UserError(f"the key {args.key} would lie in {args.data}, which students get")
    with Job("make_pairs", where, dry_run=args.dry_run, log=args.log) as job:
        for path, faces, seed in lists:
            made, n_hard = draw(FaceFolder.scan(faces), args, hard, seed, job)
            _write(path, made, args)
            _count(job, path.name, made, n_hard)
        if args.blind:
            _make_blind(args, hard, job)
        return job.summary(
            lists=", ".join(str(path) for path, _, _ in lists),
            key=str(args.key / blind_test.KEY_FILE) if args.blind else None,
        )


def read_hard(args) -> tuple[str, list[str]] | None:
    """Return ("attribute", columns) or ("embeddings", []); UserError for anything else."""
    if not 0 <= args.hard_share <= 1:
        raise UserError(f"--hard-share must be from 0 to 1, found {args.hard_share:g}")
    if args.hard is None:
        return None
    kind, _, columns = args.hard.partition("=")
    named = [column.strip() for column in columns.split(",") if column.strip()]
    if kind == "attribute" and named:
        return kind, named
    if args.hard == "embeddings":
        if not args.weights:
            raise UserError("--hard embeddings needs --weights FILE")
        return kind, []
    raise UserError(f"--hard must be attribute=COLUMN,… or embeddings, found '{args.hard}'")


def draw(folder: FaceFolder, args, hard, seed: int, job: Job) -> tuple[PairList, int]:
    """Return a labelled list for a folder, and how many of its imposters are hard."""
    rng = np.random.default_rng([seed, 1])
    targets, imposters = random_pairs(folder, args.per_image, seed)
    found = np.empty((0, 2), np.int64)
    if hard and hard[0] == "attribute":
        found = of_same_attributes(folder, hard[1], len(targets), rng)
    elif hard:
        found = of_near_identities(folder, _centres(folder, args, job), len(targets), rng)
    share = args.hard_share if hard else 0.0
    pairs, labels, n_hard = balanced(targets, imposters, found, share, len(folder), rng)
    left, right = ([folder.name(i) for i in side] for side in pairs.T)
    return PairList.from_names(left, right, labels), n_hard


def _centres(folder: FaceFolder, args, job: Job) -> np.ndarray:
    from labkit.embed import Embedder
    from parts.label_errors import centres, embed

    everyone = np.ones(len(folder), bool)
    store = None if args.dry_run else job.state / "pieces"
    embedder = Embedder(args.weights, device=args.device)
    return centres(embed(folder, everyone, embedder, store=store), folder.starts, everyone)[0]


def _write(path: Path, made: PairList, args) -> None:
    """Write a list unless it is there already; UserError when another one is, without --force."""
    if args.dry_run:
        return
    if not path.exists() or args.force:
        made.write(path)
        return
    with TemporaryDirectory() as folder:
        made.write(Path(folder) / path.name)
        if not filecmp.cmp(path, Path(folder) / path.name, shallow=False):
            raise UserError(f"{path} differs, and scores may exist for it: --force replaces it")


def _count(job: Job, name: str, made: PairList, n_hard: int) -> None:
    job.count(f"target pairs in {name}", int((made.labels == 1).sum()))
    job.count(f"imposter pairs in {name}", int((made.labels == 0).sum()))
    if n_hard:
        job.count(f"hard imposters in {name}", n_hard)


def _make_blind(args, hard, job: Job) -> None:
    """Write the key, the images, then the list, so that a run goes on with the same key."""
    folder = FaceFolder.scan(args.blind)
    data = DataDirectory(args.data)
    for part in (data.pretrain, data.train, data.val):
        if part.is_dir():
            known = set(FaceFolder.scan(part).identities) & set(folder.identities)
            if known:
                raise UserError(
                    f"{len(known):,} of the blind people are in {part} too: {min(known)}"
                )
    n_hard = 0
    if not (args.key / blind_test.KEY_FILE).exists():
        made, n_hard = draw(folder, args, hard, 3 * args.seed + 2, job)
        if args.dry_run:
            return _count(job, data.test_blind.name, made, n_hard)
        blind_test.make_key(made, args.key)
    pairs, found = blind_test.read_key(args.key, folder)
    _count(job, data.test_blind.name, pairs, n_hard)
    if args.dry_run:
        return
    job.count("blind images", len(found))
    blind_test.write_images(folder, found, data.test, args.blind_size, job)
    _write(data.test_blind, PairList(pairs.files, pairs.left, pairs.right, None), args)


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
