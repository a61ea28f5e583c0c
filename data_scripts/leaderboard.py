"""Check what was submitted for a blind list and write the leaderboard.

    python data_scripts/leaderboard.py KEY SUBMISSION... --out DIR [--identities FILE]
    python data_scripts/leaderboard.py BLIND SUBMISSION... --check

KEY is the list that staff keep: `label,file1,file2` in the names of the blind list. SUBMISSION is
a score file `score,file1,file2`, or a folder of them: every pair once, in any order.
What is wrong with a bad one is said in plain words, on the page and in OUT/rejected.csv.

--identities names a CSV `anonymous,original` (original names are `identity/image.jpg`, or the
identity alone): it tells who is in an anonymous image, which the intervals need. Without it people
are known by the folders of the names, where these agree with the labels, or else by the target
pairs, which join images of one person.

While a course runs, --public 0.5 shows the EER on the pairs of half the people, drawn by the key;
--final shows that on the other pairs, which nobody could tune to. Each student, known by the name
of the file, may then bring one file a day: OUT/history.csv keeps what was accepted, with both EERs,
and OUT/history/ the files. Those are for the staff: give students the page alone.

--check only checks; a blind list will do in place of the key, so students can try before they
submit. Exit code 2 when a submission is bad.

Writes OUT/leaderboard.csv, OUT/leaderboard.html and OUT/rejected.csv.
"""

import datetime
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from labkit.cli import natural, positive
from labkit.utils import UserError, folder_lock, write_text
from parts.job import main, parser
from parts.ranking import display_names, rank, write_leaderboard
from parts.season import History, part_of, public_pairs
from parts.submissions import Key, check_submission, find_submissions
from parts.tables import listed, spreadsheet_cell


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("key", type=Path, metavar="KEY", help="labelled list, in the blind list's names")
    add("submissions", type=Path, nargs="+", metavar="SUBMISSION", help="score file, or a folder")
    add("--out", type=Path, metavar="DIR", help="where the leaderboard goes")
    add("--identities", type=Path, metavar="FILE", help="CSV: anonymous name, original name")
    add("--check", action="store_true", help="check the submissions, write nothing")
    add("--title", default="Leaderboard")
    add("--samples", type=positive, default=1000, metavar="N", help="bootstrap draws")
    add("--public", type=float, metavar="SHARE", help="of the people, for the page until --final")
    add("--final", action="store_true", help="show the other part, at the end of the course")
    add("--level", type=float, default=0.95, metavar="P", help="confidence level of the intervals")
    add("--seed", type=natural, default=0, metavar="S")
    return flags


def run(args) -> dict:
    if args.out is None and not args.check:
        raise UserError("give --out DIR for the leaderboard, or --check to check submissions only")
    if args.public is not None and not 0.1 <= args.public <= 0.9:
        raise UserError(f"--public must be from 0.1 to 0.9, found {args.public}")
    if args.final and args.public is None:
        raise UserError("--final shows the private part: give --public as before too")
    if not 0.5 <= args.level < 1:
        raise UserError(f"--level must be from 0.5 to below 1, found {args.level}")
    paths = find_submissions(args.submissions)
    key = Key.of_blind(args.key) if args.check else Key.read(args.key, args.identities)
    checked = [check_submission(path, key) for path in paths]
    good, bad = ([s for s in checked if bool(s.problems) == kind] for kind in (False, True))
    if args.check:
        for name, own in zip(display_names([own.path.name for own in good]), good):
            print(f"in order: {name}, {len(key.pairs):,} pairs. {key.hint(own.scores)}".rstrip())
        if bad:
            raise UserError(" | ".join(map(str, bad)))
        return _summary(args, {"submissions": len(paths), "in order": len(paths)})
    if args.public is not None:
        secret = args.key.read_bytes()
        public = public_pairs(key, blake2b(secret).digest(), args.public)
        history = History(args.out, key, public)
        taken = [history.take(submission, datetime.date.today()) for submission in good]
        bad += [submission for submission in taken if submission.problems]
        good = [submission for submission in taken if not submission.problems]
        good += history.latest({spreadsheet_cell(own.path.stem) for own in good})
        part = ~public if args.final else public
        key, good = part_of(key, part), [replace(own, scores=own.scores[part]) for own in good]
        if not args.dry_run:
            history.write()
    for submission in bad:
        print(f"rejected {submission}")
    options = dict(samples=args.samples, level=args.level)
    places = rank(good, key, seed=args.seed, **options)
    for place in places:
        print(
            f"{place.rank:3d}. {place.name:40s} EER {place.eer:6.2f} % "
            f"({place.low:.2f} to {place.high:.2f})  {place.against_the_one_above()}"
            + (place.hint and f"\n     {place.hint}")
        )
    if not args.dry_run:
        title = listed(args.title)
        if args.public is not None:
            title += ", final" if args.final else ", public part"
        with folder_lock(args.out):
            write_leaderboard(args.out, places, bad, key, title=title, **options)
            if args.log:
                write_text(args.log, "".join(f"{submission}\n" for submission in bad))
    if not places:
        raise UserError(f"none of the {len(bad):,} submissions can be used: {bad[0]}")
    counts = {"submissions": len(paths), "ranked": len(places), "rejected": len(bad)}
    more = {"problems": {s.path.name: s.problems for s in bad}} if args.json else {}
    return _summary(args, counts, best=places[0].name, **more)


def _summary(args, counts: dict, **more) -> dict:
    out = "checked only" if args.check else str(args.out)
    known = {"job": "leaderboard", "out": out, "dry_run": args.dry_run, "counts": counts}
    return {**known, "left_out": {}, "finished_earlier": 0, **more}


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
