"""The field's table: what networks reach on LFW, CFP, `.bin` sets, pair lists and folders."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import FaceFolder, PairList, centre_crop, decode_image
from labkit.evaluate.verification import sources
from labkit.utils import UserError, l2_normalize, progress

FARS, FPIRS = (0.01, 0.001, 0.0001), (0.01, 0.1)
COLUMNS = """weights set flip pairs accuracy accuracy_error eer eer_low eer_high tar_at_far_0.01
tar_at_far_0.001 tar_at_far_0.0001 probes rank_1 fnir_at_fpir_0.01 fnir_at_fpir_0.1""".split()
MOST_TO_RESAMPLE = 200_000  # pairs; an interval of more takes minutes


def benchmark(embedders: dict, sets: Sequence[str], crop: Callable | None = None) -> Iterator[dict]:
    """Yield a row of `COLUMNS` for each set, network (name → `Embedder`), without and with flip.

    A set is a pair list, a verification set (`lfw.bin`) or a folder of CFP's splits, with `=DIR`
    after it where its images are elsewhere than beside it; or a face folder, of which all pairs
    are compared, and searched. crop: gives the face in an image file, cropped, or None. Rates are
    in percent; what a set does not have is None. Raises UserError as reading and embedding do.
    """
    for given in sets:
        name, pairs, folder, files = _open(given)
        if crop:
            files = _cropped(files, name, crop)
        for weights, embedder in embedders.items():
            plain = _embed(embedder, files, mirror=False)
            both = l2_normalize(plain + _embed(embedder, files, mirror=True))
            for flip, embeddings in ((False, plain), (True, both)):
                row = dict.fromkeys(COLUMNS) | dict(weights=weights, set=name, flip=flip)
                yield row | (_of_pairs if pairs else _of_folder)(embeddings, pairs or folder)


def _open(given: str) -> tuple[str, PairList | None, FaceFolder | None, list]:
    """Return a set's name, its pairs or its folder, and the sources of its images."""
    text, _, root = given.partition("=")
    path = Path(text)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir() and path.name.upper() not in ("FF", "FP") or path.suffix.lower() == ".rec":
        folder = FaceFolder.scan(path)
        return path.name, None, folder, [folder.source(i) for i in range(len(folder))]
    places = [Path(root)] if root else [path.parent, path.parent / path.stem.rpartition("_")[0]]
    if path.is_dir() and not root:
        places = [path.parents[2] / "Data" / "Images"]
    errors = []
    for place in places:
        try:
            pairs = PairList.read(path, place)
            pairs.check_labels(path)
            return path.stem, pairs, None, sources(pairs, place)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _embed(embedder, files: list, mirror: bool) -> np.ndarray:
    if not isinstance(files[0], np.ndarray):
        return embedder.files(files, mirror=mirror)
    return embedder([face[:, ::-1] if mirror else face for face in files])


def _cropped(files: list, name: str, crop: Callable) -> list[np.ndarray]:
    """The faces in the pictures, uint8 (h, w, 3); the middle where none is found, which is told."""
    faces, without = [], 0
    for file in progress(files, desc="finding faces", unit="photo"):
        face = crop(file)
        if face is None:
            photo, without = decode_image(file), without + 1
            face = centre_crop(photo, min(photo.size))
        faces.append(np.asarray(face))
    if without:
        print(f"{name}: no face found in {without:,} of {len(files):,} pictures, taken as they are")
    return faces


def _of_pairs(embeddings: np.ndarray, pairs: PairList) -> dict:
    scores = metrics.pair_similarities(embeddings, pairs.left, pairs.right)
    folds = pairs.folds
    if folds is None:
        folds = np.arange(len(pairs)) * 10 // len(pairs)
    people = ()
    with suppress(UserError):  # nothing tells who is who: no interval
        people = pairs.identities()
    found = _verification(scores, pairs.labels, *people)
    if len(pairs) >= 20:
        found["accuracy"], found["accuracy_error"] = metrics.lfw_accuracy(
            scores, pairs.labels, folds
        )
    return found


def _of_folder(embeddings: np.ndarray, folder: FaceFolder) -> dict:
    """All pairs of images, and a search: the first image of every other person with two or more is
    the gallery; their other images and all images of the rest are probes."""
    labels, parts = folder.labels, []
    for i in range(0, len(folder), 1024):
        similarities = embeddings[i : i + 1024] @ embeddings[i:].T
        left, right = np.triu_indices(len(similarities), 1, similarities.shape[1])
        parts.append((similarities[left, right], labels[i + left] == labels[i + right]))
    scores, same = (np.concatenate(part) for part in zip(*parts))
    ids = ()
    if len(scores) <= MOST_TO_RESAMPLE:
        ids = [labels[side] for side in np.triu_indices(len(folder), 1)]
    found = _verification(scores, same.astype(np.int8), *ids)
    several = np.flatnonzero(folder.counts() > 1)[::2]
    if not 0 < len(several) < len(folder.identities):
        return found
    gallery = folder.starts[several]
    probes = np.delete(np.arange(len(folder)), gallery)
    similarities = embeddings[probes] @ embeddings[gallery].T
    rank_1, fnirs = metrics.open_set_rates(similarities, labels[probes], labels[gallery], FPIRS)
    found |= dict(probes=len(probes), rank_1=100 * rank_1)
    return found | {f"fnir_at_fpir_{p}": 100 * fnir for p, fnir in zip(FPIRS, fnirs)}


def _verification(scores: np.ndarray, labels: np.ndarray, *people) -> dict:
    tars = metrics.tar_at_far(scores, labels, FARS)
    found = dict(pairs=len(scores), eer=metrics.eer(scores, labels))
    if people:
        interval = metrics.bootstrap_ci(scores, labels, *people, samples=300)
        found |= dict(zip(("eer_low", "eer_high"), interval))
    return found | {f"tar_at_far_{far}": 100 * tar for far, tar in zip(FARS, tars.tolist())}


def as_table(rows: Sequence[dict]) -> str:
    """Return the rows as lines of text, aligned, a dash for what a set does not have."""
    lines = [["weights", "set", "flip", "accuracy", "EER", "TAR at FAR 1, 0.1, 0.01 %", "rank 1",
              "FNIR at FPIR 1, 10 %"]]  # fmt: skip
    for row in rows:
        accuracy = eer = "–"
        if row["accuracy"] is not None:
            accuracy = f"{row['accuracy']:.2f} ± {row['accuracy_error']:.2f}"
        eer = f"{row['eer']:.2f}"
        if row["eer_low"] is not None:
            eer += f" ({row['eer_low']:.2f} to {row['eer_high']:.2f})"
        tars = ", ".join(f"{row[f'tar_at_far_{far}']:.1f}" for far in FARS)
        rank_1, fnirs = "–", "–"
        if row["rank_1"] is not None:
            rank_1 = f"{row['rank_1']:.1f}"
            fnirs = ", ".join(f"{row[f'fnir_at_fpir_{p}']:.1f}" for p in FPIRS)
        flip = "yes" if row["flip"] else "no"
        lines.append([row["weights"], row["set"], flip, accuracy, eer, tars, rank_1, fnirs])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
