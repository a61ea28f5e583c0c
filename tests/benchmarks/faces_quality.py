"""Are the rendered faces hard for colours and pixels, and learnable for networks?

python tests/benchmarks/faces_quality.py                    # two minutes on two cores
python tests/benchmarks/faces_quality.py --train 30         # and a network of each population
python tests/benchmarks/faces_quality.py --train 30 --real DIR    # measured on real photos too
python tests/benchmarks/faces_quality.py --real DIR --weights FILE

Renders people of both populations, prints the equal error rate by colour histogram and by
normalized grey pixels on one pair list of each, and writes a contact sheet of 12 identities with 8
photographs each (with --out). With --train it also trains a ThinResNet34 on 2,000 other people of
the population for about that many minutes and prints its equal error rate on the same list.

--real names a folder DIR/identity/image of real photos (any format that Pillow reads). All pairs
within it are compared, by pixels and by the networks, whose training never sees them: once as the
pictures are, padded to a square, and once as `labkit.crop` cuts the faces that it finds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.config import TrainConfig
from labkit.crop import crop_face, find_faces
from labkit.data import FaceFolder, make_pairs
from labkit.embed import Embedder
from labkit.metrics import eer
from labkit.synth import make_dataset
from labkit.train import fit

HELD_OUT = 1_000_000
TRAIN_IDENTITIES, TRAIN_IMAGES, TRAIN_SIZE = 2000, 20, 96
MARGIN = 0.6  # of the picture's side, put around real pictures so that the detector sees the head


def colour_features(image: Image.Image) -> np.ndarray:
    """The square root of a colour histogram of 8 x 8 x 8 bins: its dot product is a similarity."""
    pixels = np.asarray(image.convert("RGB").resize((64, 64))) >> 5
    index = (pixels[..., 0].astype(int) * 8 + pixels[..., 1]) * 8 + pixels[..., 2]
    counts = np.bincount(index.reshape(-1), minlength=512) / index.size
    return np.sqrt(counts)


def pixel_features(image: Image.Image) -> np.ndarray:
    """Grey, 46 x 56, zero mean and unit length."""
    grey = np.asarray(image.convert("L").resize((46, 56)), dtype=float).reshape(-1)
    grey = grey - grey.mean()
    return grey / (np.linalg.norm(grey) + 1e-9)


def error_rate(features: np.ndarray, pairs) -> float:
    """Equal error rate in percent of the dot product of each pair's features."""
    scores = (features[pairs.left] * features[pairs.right]).sum(1)
    return eer(scores, pairs.labels)


def error_rate_of_all_pairs(features: np.ndarray, owners: np.ndarray) -> float:
    """The same over all pairs that n pictures make; owners (n,) says whose they are."""
    one, two = np.triu_indices(len(features), 1)
    return eer((features @ features.T)[one, two], (owners[one] == owners[two]).astype(int))


def contact_sheet(folder: FaceFolder, out: Path, rows: int = 12, columns: int = 8) -> None:
    """One row of photographs per identity."""
    sheet = Image.new("RGB", (columns * 112, rows * 112))
    for row in range(min(rows, len(folder.identities))):
        for column, i in enumerate(list(folder.indices_of(row))[:columns]):
            with Image.open(folder.path(i)) as image:
                sheet.paste(image.resize((112, 112), Image.LANCZOS), (column * 112, row * 112))
    sheet.save(out, quality=92)


class RealPhotos:
    """Photographs of real people, cut in the two ways."""

    def __init__(self, folder: Path):
        paths = sorted(path for path in folder.glob("*/*") if path.is_file())
        self.owners = np.array([path.parent.name for path in paths])
        self.ways: dict[str, list[Image.Image]] = {"whole": [], "found and cut": []}
        self.missed = 0
        for path in paths:
            with Image.open(path) as image:
                image = image.convert("RGB")
            side = max(image.size)
            square = Image.new("RGB", (side, side), (128,) * 3)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            self.ways["whole"].append(square)
            self.ways["found and cut"].append(self._found(image) or square)

    def _found(self, image: Image.Image) -> Image.Image | None:
        edge = round(MARGIN * min(image.size))
        wide = Image.new("RGB", (image.width + 2 * edge, image.height + 2 * edge), (128,) * 3)
        wide.paste(image, (edge, edge))
        scale = max(1, round(600 / min(wide.size)))
        wide = wide.resize((wide.width * scale, wide.height * scale), Image.BICUBIC)
        faces = find_faces(wide)
        self.missed += not faces
        return crop_face(wide, faces[0]) if faces else None

    def report(self, title: str, embedder: Embedder | None = None) -> None:
        """Print the error rate by pixels, or by a network."""
        for way, images in self.ways.items():
            if embedder is None:
                features = np.stack([pixel_features(image) for image in images])
            else:
                features = np.asarray(embedder([np.asarray(image) for image in images]))
            rate = error_rate_of_all_pairs(features, self.owners)
            print(f"real photos, {way}: EER by {title} {rate:.2f} %", flush=True)


def train_network(population: str, options, work: Path, val: Path, val_list: Path):
    """Train on other people for so many minutes or epochs; returns fit's result and the seconds."""
    seed = options.seed
    train = make_dataset(
        work / f"{population}-train", population, TRAIN_IDENTITIES, TRAIN_IMAGES, TRAIN_SIZE,
        seed=seed,
    )  # fmt: skip
    settings = dict(
        train_dir=str(train), val_dir=str(val), val_list=str(val_list), embedding_size=512,
        image_size=64, batch_size=128, loss="amsoftmax", margin=0.1, scale=30.0,
        optimizer="adamw", weight_decay=0.01, lr=0.002, scheduler="cosine", warmup_epochs=0.5,
        mirror=True, mixed_precision=True, seed=seed,
    )  # fmt: skip
    epochs = options.epochs
    if not epochs:
        with tempfile.TemporaryDirectory() as probe:
            quick = dict(settings, val_dir=None, val_list=None, warmup_epochs=0.0)
            quick |= dict(run_dir=probe, max_images_per_class=2, max_epoch=2)
            rate = fit(TrainConfig(**quick)).rows[-1]["images_per_second"]
        seconds = TRAIN_IDENTITIES * TRAIN_IMAGES / rate + 5
        epochs = max(1, int(options.train * 60 / seconds))
        print(f"{population}: {rate:.0f} images a second, {epochs} epochs", flush=True)
    began = time.monotonic()
    run = work / f"{population}-run-{epochs}"
    result = fit(TrainConfig(**settings, run_dir=str(run), max_epoch=epochs, val_interval=2))
    return result, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=None, help="keep the pictures and networks here")
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--epochs", type=int, default=0, help="train so many, however long")
    parser.add_argument("--real", type=Path, metavar="DIR")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="measure this on --real only")
    parser.add_argument("--population", choices=("world", "kstar"), action="append")
    options = parser.parse_args()
    real = RealPhotos(options.real) if options.real else None
    if real:
        print(f"{len(real.owners)} real photos, in {real.missed} no face was found")
        real.report("pixels")
    if options.weights:
        return real.report(options.weights.name, Embedder(options.weights))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.out or temporary)
        for population in options.population or ("world", "kstar"):
            began = time.monotonic()
            test = make_dataset(
                work / f"{population}-test", population, options.identities, options.images, 128,
                seed=options.seed, first_identity=HELD_OUT,
            )  # fmt: skip
            rate = options.identities * options.images / (time.monotonic() - began)
            folder = FaceFolder.scan(test)
            pairs = make_pairs(folder, per_image=8, seed=options.seed)
            images = [Image.open(test / name) for name in pairs.files]
            for title, features in (("colour", colour_features), ("pixels", pixel_features)):
                value = error_rate(np.stack([features(image) for image in images]), pairs)
                print(f"{population}: EER by {title} {value:.1f} % ({len(pairs):,} pairs)")
            if options.out:
                contact_sheet(folder, work / f"{population}-sheet.jpg")
            print(f"{population}: rendered at {rate:.0f} photos a second, with start-up")
            if options.train or options.epochs:
                pairs.write(work / f"{population}-pairs.csv")
                result, seconds = train_network(
                    population, options, work, test, work / f"{population}-pairs.csv"
                )
                embedder = Embedder(result.last_weights)
                value = error_rate(embedder.files([test / name for name in pairs.files]), pairs)
                print(
                    f"{population}: EER by ThinResNet34 {value:.2f} % "
                    f"after {len(result.rows)} epochs, {seconds / 60:.1f} minutes"
                )
                if real:
                    real.report(f"the network trained on {population}", embedder)


if __name__ == "__main__":
    main()
