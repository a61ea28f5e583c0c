"""Check the hand-ins for a blind list and write the leaderboard.

    python data_scripts/leaderboard.py KEY HANDIN... --out DIR [--identities FILE]
    python data_scripts/leaderboard.py BLIND HANDIN... --check

KEY is the list that staff keep: `label,file1,file2` in the names of the blind list. HANDIN is a
score file `score,file1,file2`, or a folder of them: every pair once, in any order, finite numbers.
What is wrong with a bad one is said in plain words, on the page and in OUT/rejected.csv.

--identities names a CSV `anonymous,original` (original names are `identity/image.jpg`, or the
identity alone): it tells who is in an anonymous image, which the intervals need. Without it people
are known by the folders of the names, where these agree with the labels, or else by the target
pairs, which join images of one person.

--check only checks; a blind list will do in place of the key, so students can try before they
hand in. Exit code 2 when a hand-in is bad.

Writes OUT/leaderboard.csv, OUT/leaderboard.html and OUT/rejected.csv.
"""

import sys
from pathlib import Path

from labkit.evaluate.handins import Key, check_hand_in, complaint, find_hand_ins
from labkit.evaluate.leaderboard import (
    display_names,
    rank_hand_ins,
    versus_text,
    write_leaderboard,
)
from labkit.utils import UserError, folder_lock, write_text
from parts.job import main, parser, positive


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("key", type=Path, metavar="KEY", help="labelled list, in the blind list's names")
    add("hand_ins", type=Path, nargs="+", metavar="HANDIN", help="score file, or a folder of them")
    add("--out", type=Path, metavar="DIR", help="where the leaderboard goes")
    add("--identities", type=Path, metavar="FILE", help="CSV: anonymous name, original name")
    add("--check", action="store_true", help="check the hand-ins, write nothing")
    add("--title", default="Leaderboard")
    add("--samples", type=positive, default=1000, metavar="N", help="bootstrap draws")
    add("--level", type=float, default=0.95, metavar="P", help="confidence level of the intervals")
    add("--seed", type=int, default=0, metavar="S")
    return flags


def run(args) -> dict:
    paths = find_hand_ins(args.hand_ins)
    if args.check:
        return check(args, paths, Key.of_blind(args.key))
    if args.out is None:
        raise UserError("give --out DIR for the leaderboard, or --check to check the hand-ins only")
    if not 0.5 <= args.level < 1:
        raise UserError(f"--level must be from 0.5 to below 1, found {args.level}")
    key = Key.read(args.key, args.identities)
    checked = [(path, check_hand_in(path, key)) for path in paths]
    bad = [(path, hand_in) for path, hand_in in checked if not hand_in.good]
    for path, hand_in in bad:
        print(f"rejected {complaint(path, hand_in)}")
    good = [hand_in for _, hand_in in checked if hand_in.good]
    options = dict(samples=args.samples, level=args.level)
    places = rank_hand_ins(good, key, seed=args.seed, **options) if good else []
    for place in places:
        print(
            f"{place.rank:3d}. {place.name:40s} EER {place.eer:6.2f} % "
            f"({place.low:.2f} to {place.high:.2f})  {versus_text(place)}"
        )
    if not args.dry_run:
        rejected = [(path.name, hand_in) for path, hand_in in bad]
        with folder_lock(args.out):
            write_leaderboard(args.out, places, rejected, key, title=args.title, **options)
            if args.log:
                write_text(args.log, "".join(f"{complaint(*item)}\n" for item in bad))
    if not places:
        raise UserError(f"none of the {len(bad):,} hand-ins can be used: {complaint(*bad[0])}")
    counts = {"hand-ins": len(paths), "ranked": len(places), "rejected": len(bad)}
    return _summary(args, counts, best=places[0].name, **(_told(bad) if args.json else {}))


def check(args, paths: list[Path], key: Key) -> dict:
    """Only say which of the files are in order; UserError when one is not."""
    checked = [(path, check_hand_in(path, key)) for path in paths]
    bad = [item for item in checked if not item[1].good]
    for path, hand_in in checked:
        if hand_in.good:
            print(f"in order: {display_names([path.name])[0]}, {len(key.pairs):,} pairs")
    if bad:
        raise UserError(" | ".join(complaint(*item) for item in bad))
    counts = {"hand-ins": len(paths), "in order": len(paths)}
    return _summary(args, counts)


def _summary(args, counts: dict, **more) -> dict:
    return {
        "job": "leaderboard",
        "out": "checked only" if args.check else str(args.out),
        "dry_run": args.dry_run,
        "counts": counts,
        "left_out": {},
        "finished_earlier": 0,
        **more,
    }


def _told(bad: list) -> dict:
    return {"problems": {display_names([path.name])[0]: hand_in.told() for path, hand_in in bad}}


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
