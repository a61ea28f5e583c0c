"""How fast the kit is on a machine that has other work, against the share that it is due.

    python tests/benchmarks/busy.py [--parts train,render,embed,score] [--busy 0,1,2] [--rounds 5]
        [--against GOMP_SPINCOUNT=300000 OMP_NUM_THREADS=1 …]

Beside k busy processes a program is due cores/(cores + k) of what it does alone. Each part runs in
a process of its own, and once more under each setting of --against (300,000 spins, 3 ms, is how
PyTorch comes); all take turns, and the figures are medians of the rounds.

train   ThinResNet34 at 64 px, batches of 64 from JPEGs, as `fit` trains
render  photographs of rendered people at 112 px, into a new folder each time
embed   the same JPEGs through `Embedder.files`
score   a pair list of them through `score_pairs`
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from joblib import cpu_count
from PIL import Image

from labkit.config import TrainConfig
from labkit.data import FaceFolder, make_pairs
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.models import InputSpec, build_model
from labkit.synth import make_dataset
from labkit.train import fit

SIZE, PEOPLE, PHOTOS = 64, 64, 8
NEIGHBOUR = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(10**6))
"""


def make_faces(root: Path) -> FaceFolder:
    rng = np.random.default_rng(0)
    for i in range(PEOPLE * PHOTOS):
        path = root / f"{i // PHOTOS:03d}" / f"{i % PHOTOS}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        pixels.resize((80, 80), Image.Resampling.BICUBIC).save(path)
    return FaceFolder.scan(root)


def answer(rate: float) -> None:
    """Tell the rate of this turn, and wait to be asked for the next."""
    print(f"rate {rate}", flush=True)
    if not sys.stdin.readline():
        raise SystemExit


def repeat(work: Callable[[int], int]) -> None:
    for turn in range(sys.maxsize):
        began = time.perf_counter()
        answer(work(turn) / (time.perf_counter() - began))


def one_part(part: str, scratch: Path) -> None:
    """Work on a part, one turn whenever a line comes in; the first turn warms up."""
    faces = make_faces(scratch / "faces")
    if part == "train":
        config = TrainConfig(
            train_dir=str(faces.root), run_dir=str(scratch / "run"), image_size=SIZE,
            batch_size=64, max_epoch=10**6, margin=0.1, scale=30.0, device="cpu",
        )  # fmt: skip
        fit(config, after_epoch=lambda folder, rows: answer(rows[-1]["images_per_second"]))
    if part == "render":

        def render(turn: int) -> int:
            make_dataset(scratch / f"{turn}", identities=4, images=8, size=112, seed=turn)
            return 32

        repeat(render)
    network = build_model("ThinResNet34", 512).eval()
    embedder = Embedder.of_model(network, InputSpec(SIZE), 512, quiet=True)
    paths, pairs = [faces.path(i) for i in range(len(faces))], make_pairs(faces)
    if part == "embed":
        repeat(lambda turn: len(embedder.files(paths)))
    repeat(lambda turn: len(score_pairs(embedder, pairs, faces.root)) and len(paths))


class Part:
    """A process that works on a part when it is asked to."""

    def __init__(self, name: str, environment: dict):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--one", name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip
        self.rate()

    def rate(self) -> float:
        for line in self.process.stdout:
            if line.startswith("rate "):
                return float(line.split()[1])
        raise SystemExit("the process of a part has ended")

    def beside(self, busy: int) -> float:
        """The rate of one turn beside that many busy processes."""
        neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(busy)]
        time.sleep(0.5)
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return self.rate()
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace) -> None:
    cores = cpu_count()
    settings = {"labkit": {}} | {text: dict([text.split("=")]) for text in args.against}
    print(f"{cores} cores; images per second, and percent of the share of the rate alone")
    for name in args.parts.split(","):
        parts = {label: Part(name, environment) for label, environment in settings.items()}
        rates = {(label, k): [] for label in parts for k in args.busy}
        for _ in range(args.rounds):
            for label, k in rates:
                rates[label, k].append(parts[label].beside(k))
        for label, part in parts.items():
            alone, line = median(rates[label, 0]), f"{name:7}{label:22}"
            for k in args.busy:
                rate = median(rates[label, k])
                share = rate / (alone * cores / (cores + k))
                line += f"  beside {k}: {rate:6.1f}" + (f" ({share:4.0%})" if k else "       ")
            print(line, flush=True)
            part.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", default="train,render,embed,score")
    add("--busy", default="0,1,2", help="numbers of busy processes; 0 is always measured")
    add("--rounds", type=int, default=5)
    add("--against", nargs="+", default=[], metavar="NAME=VALUE", help="environment variables")
    add("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.busy = sorted({0, *map(int, args.busy.split(","))})
    if not args.one:
        return compare(args)
    os.environ["LABKIT_PROGRESS"] = "none"
    with tempfile.TemporaryDirectory() as folder:
        one_part(args.one, Path(folder))


if __name__ == "__main__":
    main()
