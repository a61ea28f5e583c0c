"""Are the rendered faces hard for colours and pixels, and learnable for networks?

python tests/benchmarks/faces_quality.py                    # two minutes on two cores
python tests/benchmarks/faces_quality.py --train 30         # and a network, 30 minutes

Renders people of both populations, prints the equal error rate by colour histogram and by
normalized grey pixels on one pair list of each, and writes a contact sheet of 12 identities with 8
photographs each. With --train it also trains a ThinResNet34 on other identities of each
population for about that many minutes and prints its equal error rate on the same list.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.data import FaceFolder, make_pairs
from labkit.metrics import eer
from labkit.synth import make_dataset

HELD_OUT = 1_000_000


def colour_features(path: Path) -> np.ndarray:
    """The square root of a colour histogram of 8 x 8 x 8 bins: its dot product is a similarity."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((64, 64))) >> 5
    index = (pixels[..., 0].astype(int) * 8 + pixels[..., 1]) * 8 + pixels[..., 2]
    counts = np.bincount(index.reshape(-1), minlength=512) / index.size
    return np.sqrt(counts)


def pixel_features(path: Path) -> np.ndarray:
    """Grey, 46 x 56, zero mean and unit length."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize((46, 56)), dtype=float).reshape(-1)
    grey = grey - grey.mean()
    return grey / (np.linalg.norm(grey) + 1e-9)


def error_rate(features: np.ndarray, pairs) -> float:
    """Equal error rate in percent of the dot product of each pair's features."""
    scores = (features[pairs.left] * features[pairs.right]).sum(1)
    return eer(scores, pairs.labels)


def contact_sheet(folder: FaceFolder, out: Path, rows: int = 12, columns: int = 8) -> None:
    """One row of photographs per identity."""
    sheet = Image.new("RGB", (columns * 128, rows * 128))
    for row in range(min(rows, len(folder.identities))):
        for column, i in enumerate(list(folder.indices_of(row))[:columns]):
            with Image.open(folder.path(i)) as image:
                sheet.paste(image.resize((128, 128)), (column * 128, row * 128))
    sheet.save(out, quality=92)


def train_network(population: str, minutes: float, work: Path, test: Path, pairs, seed: int):
    """Equal error rate in percent of a ThinResNet34 trained for about `minutes` minutes."""
    from labkit.config import TrainConfig
    from labkit.embed import Embedder
    from labkit.train import fit

    identities = 500 if minutes >= 10 else 150
    images = 24
    train = make_dataset(
        work / f"{population}-train", population, identities, images, 128, seed=seed
    )
    pair_file = work / f"{population}-pairs.csv"
    pairs.write(pair_file)
    settings = dict(
        run_dir=str(work / f"{population}-run"), train_dir=str(train), val_dir=str(test),
        val_list=str(pair_file), embedding_size=256, image_size=64, batch_size=64,
        loss="amsoftmax", margin=0.1, scale=30.0, lr=0.001, lr_decay=0.85, lr_step_epochs=1,
        mirror=True, seed=seed,
    )  # fmt: skip
    began = time.monotonic()
    fit(TrainConfig(**settings, max_epoch=1))
    one = time.monotonic() - began
    epochs = max(2, int(minutes * 60 / one))
    settings |= dict(
        run_dir=str(work / f"{population}-run-{epochs}"),
        lr_decay=float(0.02 ** (1 / epochs)),
    )
    result = fit(TrainConfig(**settings, max_epoch=epochs))
    embedder = Embedder(result.best_weights)
    embeddings = embedder.files([test / name for name in pairs.files])
    return error_rate(embeddings, pairs), epochs, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=None, help="keep the pictures here")
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--population", choices=("world", "kstar"), action="append")
    options = parser.parse_args()
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
            paths = [test / name for name in pairs.files]
            for title, features in (("colour", colour_features), ("pixel", pixel_features)):
                value = error_rate(np.stack([features(path) for path in paths]), pairs)
                print(f"{population}: EER by {title} {value:.1f} % ({len(pairs):,} pairs)")
            if options.out:
                contact_sheet(folder, work / f"{population}-sheet.jpg")
            print(f"{population}: rendered at {rate:.0f} photos a second, with start-up")
            if options.train:
                value, epochs, seconds = train_network(
                    population, options.train, work, test, pairs, options.seed
                )
                print(
                    f"{population}: EER by ThinResNet34 {value:.2f} % "
                    f"after {epochs} epochs, {seconds / 60:.0f} minutes"
                )


if __name__ == "__main__":
    main()
