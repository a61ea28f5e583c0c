"""Evaluation beside the reference trainer's way of doing it, both in this one run.

    python tests/benchmarks/evaluation.py [--pairs 10000000] [--files 5000] [--images 300]

The reference trainer embeds one image per forward pass, from a loader with batches of one, keeps
the embeddings in a dict, and scores each line of the list with one call of `cosine_similarity`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_curve
from torchvision import transforms

from labkit import metrics
from labkit.data import PairList
from labkit.embed import Embedder
from labkit.evaluate import score_embeddings
from labkit.models import InputSpec, build_model

SAMPLE = 50_000  # lines that the reference's loop scores; its time grows in proportion


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def row(what: str, reference: float, ours: float, unit: str) -> None:
    print(f"{what:34s} {reference:14,.0f} {ours:14,.0f} {unit:9s} {ours / reference:8.1f} x")


def reference_scores(lines: list[str], features: dict[str, torch.Tensor]) -> list[float]:
    scores = []
    for text in lines:
        _, first, second = text.strip().split(",")
        scores.append(F.cosine_similarity(features[first], features[second]).item())
    return scores


def scoring(pairs: int, files: int, size: int) -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(files, size)).astype(np.float32)
    names = [f"{k // 20:05d}/{k:07d}.jpg" for k in range(files)]
    labels = rng.integers(0, 2, pairs).astype(np.int8)
    listed = PairList(names, rng.integers(0, files, pairs), rng.integers(0, files, pairs), labels)
    features = {name: torch.from_numpy(e[None]) for name, e in zip(names, embeddings)}
    lines = [
        f"{label},{names[a]},{names[b]}\n"
        for label, a, b in zip(labels[:SAMPLE], listed.left, listed.right)
    ]
    slow, expected = seconds(lambda: reference_scores(lines, features))
    fast, scores = seconds(lambda: score_embeddings(embeddings, listed))
    worst = float(np.abs(np.array(expected) - scores[:SAMPLE]).max())
    row(f"scoring, {files:,} files", SAMPLE / slow, pairs / fast, "pairs/s")
    print(f"    {pairs:,} pairs in {fast:.2f} s; largest difference of a score {worst:.1e}")


def error_rates(pairs: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, pairs).astype(np.int8)
    scores = (rng.normal(size=pairs) + 2 * labels).astype(np.float32)

    def reference():
        fpr, tpr, _ = roc_curve(labels, scores, pos_label=1)
        nearest = np.nanargmin(np.absolute(1 - tpr - fpr))
        return 100 * max(fpr[nearest], 1 - tpr[nearest])

    slow, expected = seconds(reference)
    fast, eer = seconds(lambda: metrics.eer(scores, labels))
    same, figure = seconds(lambda: metrics.reference_eer(scores, labels))
    row("EER", pairs / slow, pairs / fast, "pairs/s")
    print(f"    EER of {pairs:,} pairs in {fast:.2f} s (the reference's figure in {same:.2f} s)")
    print(f"    {eer:.6f} %; reference's figure {figure:.6f} %, by scikit-learn {expected:.6f} %")


def embedding(images: int, model_name: str, image_size: int) -> None:
    spec = InputSpec(image_size)
    model = build_model(model_name, 512).eval()
    transform = transforms.Compose(
        [
            transforms.Resize(round(image_size * 256 / 224)),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        paths = [Path(folder) / f"{k}.jpg" for k in range(images)]
        for path in paths:
            small = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(small).resize((256, 256)).save(path)
        model.to(device)
        embedder = Embedder.of_model(model, spec, 512)

        def reference():
            dataset = _Files(paths, transform)
            loader = torch.utils.data.DataLoader(dataset, 1, num_workers=os.cpu_count() or 1)
            return torch.cat([model(image.to(device)).detach().cpu() for image in loader])

        embedder.files(paths[: embedder.batch_size])
        slow, expected = seconds(reference)
        fast, ours = seconds(lambda: embedder.files(paths))
        cosine = (F.normalize(expected).numpy() * ours).sum(1).min()
    row(f"embedding, {model_name} on {device}", images / slow, images / fast, "images/s")
    print(f"    lowest similarity of the two embeddings of one image {cosine:.4f}")


class _Files(torch.utils.data.Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--embedding-size", type=int, default=512)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--model", default="ThinResNet34")
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()
    print(f"{'':34s} {'reference':>14s} {'here':>14s}")
    for files in args.files:
        scoring(args.pairs, files, args.embedding_size)
    error_rates(args.pairs)
    if args.images:
        embedding(args.images, args.model, args.image_size)


if __name__ == "__main__":
    main()
