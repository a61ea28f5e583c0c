"""Fetch a public face set, through scikit-learn, into a face folder with a pair list.

    python data_scripts/fetch_public.py lfw --out lfw
    python data_scripts/fetch_public.py olivetti --out olivetti

writes OUT/test/IDENTITY/image.jpg and OUT/test_pairs.csv, as a data directory has them.

lfw       Labeled Faces in the Wild: 13,233 photos of 5,749 people (200 MB). Its own list for
          reporting (View 2: 3,000 target and 3,000 imposter pairs in ten folds) becomes
          test_pairs.csv, in LFW's form, which the kit reads; its lists for development become
          dev_train_pairs.csv and dev_test_pairs.csv. A photo shows more than the face, which lies
          in its middle at 1/2.2 of the width; it is cropped there as the training sets are, unless
          --whole.
olivetti  40 people, 10 photos each, 64 px, grey (4 MB), with a random pair list.

Both come from the internet. Without one, copy the folder that scikit-learn keeps them in
(--data-home) from a machine that has it. Mind the sets' terms of use: they are for research.
"""

import http.client
import sys
import tarfile
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.cli import natural, positive
from labkit.crop import crop_face, read_photo
from labkit.data import FaceFolder, PairList, make_pairs
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError, reason, write_bytes
from parts.job import Job, main, parser

LFW_BOX = 1 / 2.2  # of the photo's side; LFW's README: the detector's box was widened by 2.2
LFW_LISTS = {
    "test_pairs.csv": "pairs.txt",
    "dev_train_pairs.csv": "pairsDevTrain.txt",
    "dev_test_pairs.csv": "pairsDevTest.txt",
}


def fetch(what: str, load: Callable, data_home: Path | None, **settings) -> object:
    """Call a fetcher of scikit-learn; UserError in one line when there is no network."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Retry downloading")
            return load(data_home=data_home and str(data_home), **settings)
    except (OSError, http.client.HTTPException, tarfile.TarError) as error:
        cannot_keep = isinstance(error, OSError) and error.filename is not None
        if cannot_keep and not isinstance(error, urllib.error.URLError):
            raise UserError(f"cannot keep {what} in {_home(data_home)}: {reason(error)}") from None
        why = getattr(error, "reason", None) or error
        why = " ".join(str(getattr(why, "strerror", None) or why).split()).lower()
    raise UserError(
        f"cannot download {what}: {why}; run this where there is a network, or copy the folder "
        f"{_home(data_home)} from a machine that has the set, and name it with --data-home"
    )


def _home(data_home: Path | None) -> str:
    from sklearn.datasets import get_data_home

    return get_data_home(data_home and str(data_home))


def lfw(args, job: Job) -> dict:
    """Write LFW's photos and lists, from the files that scikit-learn keeps."""
    from sklearn.datasets import fetch_lfw_pairs

    home = Path(_home(args.data_home)) / "lfw_home"
    if not job.dry_run:
        # This one fetches photos and lists; it also decodes the pairs, small to be quick.
        fetch("LFW", fetch_lfw_pairs, args.data_home, subset="train", resize=0.1)
    elif not (home / "lfw_funneled").is_dir():
        return {"download": "LFW, 200 MB"}
    photos = sorted((home / "lfw_funneled").glob("*/*.jpg"))
    if not photos:
        raise UserError(f"{home}/lfw_funneled holds no photos: delete {home} and run this again")
    for path in job.progress(photos, unit="images") if not job.dry_run else ():
        target = job.out / "test" / path.parent.name / path.name
        if target.exists():
            job.earlier += 1
        else:
            try:
                photo = read_photo(path)
            except UserError:
                job.leave_out(f"{path.parent.name}/{path.name}", "not a readable image")
                continue
            write_bytes(target, path.read_bytes() if args.whole else crop(photo, args.size))
        job.count("images written")
    if job.dry_run:
        job.count("images to write", len(photos))
        return {}
    lists = LFW_LISTS.items()
    return {"pairs": {ours: copy_list(home / its, job.out / ours, job) for ours, its in lists}}


def crop(photo: Image.Image, size: int) -> bytes:
    """Return the face in the middle of an LFW photo as the training sets are cropped, as JPEG."""
    edges = [side * (0.5 + part) for part in (-LFW_BOX / 2, LFW_BOX / 2) for side in photo.size]
    return jpeg_bytes(crop_face(photo, tuple(edges), size), 95)


def copy_list(theirs: Path, ours: Path, job: Job) -> int:
    """Copy one of LFW's lists, with its folds, checked against the photos; return its length."""
    pairs = PairList.read(theirs, job.out / "test")
    write_bytes(ours, theirs.read_bytes())
    return len(pairs)


def olivetti(args, job: Job) -> dict:
    """Write the Olivetti faces (AT&T Laboratories Cambridge), as they are: 64 px, grey."""
    from sklearn.datasets import fetch_olivetti_faces

    if job.dry_run:
        return {"download": "the Olivetti faces, 4 MB, unless they are there"}
    faces = fetch("Olivetti", fetch_olivetti_faces, args.data_home, shuffle=False)
    images, people = np.asarray(faces.images), np.asarray(faces.target)
    for k, pixels in enumerate(job.progress(images, unit="images")):
        number = 1 + int((people[:k] == people[k]).sum())
        target = job.out / "test" / f"olivetti{people[k]:02d}" / f"{number:02d}.jpg"
        if target.exists():
            job.earlier += 1
        else:
            grey = (pixels * 255).round().clip(0, 255).astype(np.uint8)
            write_bytes(target, jpeg_bytes(grey, 95))
        job.count("images written")
    pairs = make_pairs(FaceFolder.scan(job.out / "test"), seed=args.seed)
    pairs.write(job.out / "test_pairs.csv")
    return {"pairs": {"test_pairs.csv": len(pairs)}}


def run(args) -> dict:
    settings = {"set": args.set, "size": args.size, "whole": args.whole, "seed": args.seed}
    with Job("fetch_public", args.out, settings, dry_run=args.dry_run, log=args.log) as job:
        return job.summary(**(lfw if args.set == "lfw" else olivetti)(args, job))


def arguments():
    flags = parser(__doc__)
    add = flags.add_argument
    add("set", choices=("lfw", "olivetti"))
    add("--out", required=True, type=Path, metavar="DIR")
    add("--data-home", type=Path, metavar="DIR", help="where scikit-learn keeps its downloads")
    add("--size", type=positive, default=256, metavar="PX", help="lfw: side of the crop (256)")
    add("--whole", action="store_true", help="lfw: the photos as they are, not cropped")
    add("--seed", type=natural, default=0, metavar="S", help="olivetti: of the pair list")
    return flags


if __name__ == "__main__":
    sys.exit(main(run, arguments()))
