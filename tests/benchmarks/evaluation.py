"""Evaluation beside the VoxCeleb trainer's own code, both in this one run.

    python tests/benchmarks/evaluation.py --reference CHECKOUT [--pairs 10000000] [--images 300]

CHECKOUT holds the VoxCeleb trainer (EmbedNet.py, DatasetLoader.py, utils.py, models/). Its code
runs as it is: `ModelTrainer.evaluateFromList` reads the list, embeds one image per forward pass
and scores each line with one call of `cosine_similarity`. Only its progress bar is replaced, by a
stopwatch; where there is no GPU its `.cuda()` calls do nothing; and where torchaudio, which it
imports and never uses, is not installed, an empty module stands in. Its scoring is timed with a
network that answers at once, on as many files as ours.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from labkit import metrics
from labkit.checkpoint import load_voxceleb_model
from labkit.data import PairList
from labkit.devices import best_device, mixed_precision
from labkit.embed import Embedder
from labkit.evaluate import score_embeddings
from labkit.models import InputSpec


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def row(what: str, reference: float, ours: float, unit: str) -> None:
    print(f"{what:40s} {reference:14,.1f} {ours:14,.1f} {unit:9s} {ours / reference:8.1f} x")


class Reference:
    """The VoxCeleb trainer, imported from its checkout, around a network with random weights."""

    def __init__(self, checkout: Path, model: str):
        sys.path.insert(0, str(checkout))
        with contextlib.suppress(ImportError):
            import torchaudio  # noqa: F401
        sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))
        import EmbedNet
        import utils

        if not torch.cuda.is_available():
            torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self
        self.laps: list[float] = []
        EmbedNet.tqdm = self._stopwatch
        settings = dict(
            model=model, optimizer="adam", scheduler="steplr", trainfunc="softmax", nPerClass=1,
            nOut=512, nClasses=10, margin=0.1, scale=30, lr=0.001, lr_decay=0.9, weight_decay=0,
            mixedprec=False, test_interval=5, max_epoch=1,
        )  # fmt: skip
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its calls for mixed precision have newer names
            self.network = EmbedNet.EmbedNet(**settings).cuda()
            self.trainer = EmbedNet.ModelTrainer(self.network, **settings)
        self.error_rate = lambda *given: utils.tuneThresholdfromScore(*given, [1, 0.1])[1]
        # As its training script has it for evaluation; that script cannot be imported.
        self.transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Resize(256),
                transforms.CenterCrop([224, 224]),
                transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )

    def _stopwatch(self, items):
        start = time.perf_counter()
        yield from items
        self.laps.append(time.perf_counter() - start)

    def evaluate(self, pair_file: Path, folder: Path, trainer=None, transform=None):
        """Seconds for embedding, seconds for scoring, the scores, the embeddings by name."""
        self.laps.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            scores, _, _, features = (trainer or self.trainer).evaluateFromList(
                str(pair_file), str(folder), os.cpu_count() or 1, transform or self.transform
            )
        return *self.laps, np.array(scores), features

    def score(self, pair_file: Path, folder: Path):
        """The same with random embeddings, which cost nothing, to time its scoring alone."""

        class Instant(torch.nn.Module):
            def forward(self, image):
                return torch.randn(len(image), 512)

        trainer = object.__new__(type(self.trainer))
        trainer.__model__ = Instant()
        return self.evaluate(pair_file, folder, trainer, _no_pixels)


def _no_pixels(image) -> torch.Tensor:
    return torch.zeros(1, 3, 1, 1)


def make_list(folder: Path, names: list[str], lines: int, rng, side: int) -> PairList:
    """Write JPEGs of `side` pixels, and a list of random pairs of them, as the trainer reads."""
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path)
    left, right = rng.integers(0, len(names), (2, lines))
    listed = PairList(names, left, right, rng.integers(0, 2, lines).astype(np.int8))
    listed.write(folder / "pairs.csv")
    return listed


def names_of(files: int) -> list[str]:
    return [f"{k // 20:05d}/{k:06d}.jpg" for k in range(files)]


def embedding(reference: Reference, images: int, model: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), names_of(images)
        make_list(folder, names, 20 * images, np.random.default_rng(0), 256)
        weights = folder / "reference.model"
        reference.trainer.saveParameters(weights)
        slow, _, _, features = reference.evaluate(folder / "pairs.csv", folder)
        used = sorted(features)
        expected = torch.cat([features[name] for name in used]).float().numpy()
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        device = best_device()
        ours = load_voxceleb_model(weights).eval().to(device)
        for precision in dict.fromkeys(["fp32", mixed_precision(device).replace("no", "fp32")]):
            embedder = Embedder.of_model(ours, InputSpec(), 512, quiet=True, precision=precision)
            paths = [folder / name for name in used]
            embedder.files(paths[: embedder.batch_size])
            fast, rows = seconds(lambda e=embedder, paths=paths: e.files(paths))
            row(f"embedding, {model}, {precision}, {device}", len(used) / slow, len(used) / fast,
                "images/s")  # fmt: skip
            same = (expected * rows).sum(1).min()
            print(f"    lowest similarity of the two embeddings of one image {same:.5f}")


def scoring(reference: Reference, files: int, lines: int, pairs: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), names_of(files)
        listed = make_list(folder, names, lines, rng, 8)
        _, slow, expected, features = reference.score(folder / "pairs.csv", folder)
    nothing = torch.ones(1, 512)  # a file that no line names
    rows = torch.cat([features.get(name, nothing) for name in names]).numpy()
    worst = np.abs(score_embeddings(rows, listed) - expected).max()
    left, right = rng.integers(0, files, (2, pairs))
    long = PairList(names, left, right, None)
    fast, _ = seconds(lambda: score_embeddings(rows, long))
    row(f"scoring, {files:,} files", lines / slow, pairs / fast, "pairs/s")
    print(f"    {pairs:,} pairs in {fast:.2f} s; largest difference of a score {worst:.1e}")


def error_rates(reference: Reference, pairs: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, pairs).astype(np.int8)
    scores = (rng.normal(size=pairs) + 2 * labels).astype(np.float32)
    slow, expected = seconds(lambda: reference.error_rate(scores, labels))
    fast, eer = seconds(lambda: metrics.eer(scores, labels))
    same, figure = seconds(lambda: metrics.voxceleb_eer(scores, labels))
    row("EER", pairs / slow, pairs / fast, "pairs/s")
    print(f"    EER of {pairs:,} pairs in {fast:.2f} s (the trainer's figure in {same:.2f} s)")
    print(f"    {eer:.6f} %; trainer's figure {figure:.6f} %, by its own code {expected:.6f} %")
    for what in ("roc", "auc", "tar_at_far", "min_dcf", "eer_threshold"):
        took, _ = seconds(lambda what=what: getattr(metrics, what)(scores, labels))
        print(f"    {what} of {pairs:,} pairs in {took:.2f} s")
    people = rng.integers(0, 1000, (2, 200_000))
    took, _ = seconds(lambda: metrics.bootstrap_ci(scores[:200_000], labels[:200_000], *people))
    print(f"    interval of the EER of 200,000 pairs of 1,000 people in {took:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--lines", type=int, default=50_000, help="that the trainer scores")
    parser.add_argument("--files", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--model", default="ThinResNet34")
    args = parser.parse_args()
    reference = Reference(args.reference.resolve(), args.model)
    print(f"{'':40s} {'trainer':>14s} {'here':>14s}")
    if args.images:
        embedding(reference, args.images, args.model)
    for files in args.files:
        scoring(reference, files, args.lines, args.pairs)
    error_rates(reference, args.pairs)


if __name__ == "__main__":
    main()
