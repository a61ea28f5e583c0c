"""Training against the reference trainer, side by side in one run.

    labkit synth --out /tmp/faces --identities 220 --images 12 --size 256
    python tests/benchmarks/training.py --reference /tmp/face_recognition --faces /tmp/faces

--reference is a checkout of the trainer that this kit grew from (seungyonglee0802/face_recognition
on GitHub). It runs from a copy in which only its CUDA calls and an unused import of torchaudio are
taken out. Each measurement has a process of its own, so that neither side gets what the other has
set up; the sides take turns, and ratios are of the best of all rounds, as other work on the machine
can only make a round slower.

loader  images per second from 256 px JPEGs to 224 px crops, two workers
step    ThinResNet34 with AM-Softmax at 224 px, and its share of the machine's matrix rate
epoch   a whole epoch from JPEGs
eer     seconds of training until a validation EER is reached, on rendered people held out
memory  peak memory of a large metric-learning batch, in chunks (not part of the default)
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torchvision import transforms

from labkit.config import TrainConfig
from labkit.data import FaceFolder, PairList, close_loader, make_pairs, train_loader
from labkit.devices import make_accelerator, memory_kept, mixed_precision
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.losses import build_loss
from labkit.metrics import eer
from labkit.models import InputSpec, build_model, describe
from labkit.optim import build_optimizer
from labkit.train import fit
from labkit.train.step import TrainingStep, gradient_of

LOSS = dict(margin=0.1, scale=30.0)
CPU = torch.device("cpu")
LOADER_BATCH = 20


class Reference:
    """The reference trainer, from a copy without its CUDA calls."""

    def __init__(self, checkout: Path, copy: Path):
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "exps"))
        for path in copy.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"^import torchaudio\n", "", text, flags=re.MULTILINE)
            path.write_text(text.replace(".cuda()", ""), encoding="utf-8")
        sys.path.insert(0, str(copy))
        self.loaders = importlib.import_module("DatasetLoader")
        self.embed_net = importlib.import_module("EmbedNet")

    def settings(self, classes: int, batch: int) -> dict:
        return dict(
            model="ThinResNet34", trainfunc="amsoftmax", optimizer="adam", scheduler="steplr",
            nOut=512, nClasses=classes, nPerClass=1, lr=0.001, lr_decay=0.9, weight_decay=0,
            test_interval=5, max_epoch=100, mixedprec=False, batch_size=batch,
            max_img_per_cls=500, nDataLoaderThread=2, train_ext="jpg", **LOSS,
        )  # fmt: skip

    def trainer(self, classes: int, batch: int):
        settings = self.settings(classes, batch)
        with quiet():
            return self.embed_net.ModelTrainer(self.embed_net.EmbedNet(**settings), **settings)

    def loader(self, faces: Path, classes: int, batch: int, size: int):
        transform = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Resize(size * 256 // 224),
                transforms.RandomResizedCrop([size, size], scale=(0.8, 1)),
                transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )
        settings = {**self.settings(classes, batch), "train_path": str(faces)}
        with quiet():
            return self.loaders.get_data_loader(transform=transform, **settings)


class SameBatch(list):
    """A loader for the reference trainer that gives one batch again and again."""

    def __init__(self, data, labels, times: int):
        super().__init__([(data, labels)] * times)
        self.batch_size = len(labels)


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def best_rate(part: Callable[[], int], times: int = 3) -> float:
    """Images per second: the best of `times`, after one that does not count."""
    rates = []
    for _ in range(times + 1):
        began = time.perf_counter()
        rates.append(part() / (time.perf_counter() - began))
    return max(rates[1:])


def our_config(faces: Path, run: Path, batch: int, size: int, **changes) -> TrainConfig:
    return TrainConfig(
        train_dir=str(faces), run_dir=str(run), batch_size=batch, image_size=size,
        max_images_per_class=500, workers=2, device="cpu", mixed_precision=True, **LOSS, **changes,
    )  # fmt: skip


def count_images(loader) -> int:
    return sum(len(labels) for labels in (batch[1] for batch in loader))


class Measurements:
    """What one process measures; each method answers in images per second, or seconds."""

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args, self.scratch, self.batch, self.size = args, scratch, args.batch, args.size
        self.faces = args.faces
        self.classes = len(FaceFolder.scan(args.faces).identities)

    def reference(self) -> Reference:
        return Reference(self.args.reference, self.scratch / "reference")

    def loader_reference(self) -> float:
        loader = self.reference().loader(self.faces, self.classes, LOADER_BATCH, 224)
        return best_rate(lambda: count_images(loader))

    def loader_ours(self) -> float:
        config = our_config(self.faces, self.scratch, LOADER_BATCH, 224)
        loader = train_loader(FaceFolder.scan(self.faces), config, workers=config.workers)
        try:
            return best_rate(lambda: count_images(loader))
        finally:
            close_loader(loader)

    def step_reference(self) -> float:
        trainer = self.reference().trainer(self.batch, self.batch)
        images = torch.randn(self.batch, 1, 3, self.size, self.size)
        data = SameBatch(images, torch.arange(self.batch), 1)

        def step() -> int:
            with quiet():
                trainer.train_network(data)
            return self.batch

        return best_rate(step, self.args.steps)

    def step_ours(self, *, mixed: bool = False, compiled: bool = False) -> float:
        """Steps on one random batch, as `fit` takes them."""
        optimizer, gradient = our_step("amsoftmax", self.batch, self.size, mixed, compiled)
        images = torch.randint(0, 256, (self.batch, 1, self.size, self.size, 3), dtype=torch.uint8)
        images, labels = images.permute(0, 1, 4, 2, 3), torch.arange(self.batch)

        def one() -> int:
            optimizer.zero_grad(set_to_none=True)
            gradient(images, labels)
            optimizer.step()
            return self.batch

        with memory_kept(CPU):
            return best_rate(one, self.args.steps)

    def step_ours_mixed(self) -> float:
        return self.step_ours(mixed=True)

    def step_ours_compiled(self) -> float:
        return self.step_ours(mixed=True, compiled=True)

    def epoch_reference(self) -> float:
        reference = self.reference()
        loader = reference.loader(self.faces, self.classes, self.batch, self.size)
        trainer = reference.trainer(self.classes, self.batch)
        seen: list[int] = []
        original = trainer.__model__.forward
        trainer.__model__.forward = lambda data, label: (
            seen.append(len(label)) or original(data, label)
        )
        began = time.perf_counter()
        with quiet():
            trainer.train_network(loader)
        return sum(seen) / (time.perf_counter() - began)

    def epoch_ours(self) -> float:
        with quiet():
            config = our_config(self.faces, self.scratch, self.batch, self.size, max_epoch=1)
            return fit(config).rows[0]["images_per_second"]

    def held_out(self) -> tuple[Path, Path, PairList]:
        """A quarter of the people apart: training folder, validation folder, its pairs."""
        names = FaceFolder.scan(self.faces).identities
        apart = set(names[-len(names) // 4 :])
        for name in names:
            part = self.scratch / ("val" if name in apart else "train")
            part.mkdir(exist_ok=True)
            (part / name).symlink_to((self.faces / name).resolve())
        train, val = self.scratch / "train", self.scratch / "val"
        make_pairs(FaceFolder.scan(val)).write(self.scratch / "val.csv")
        return train, val, PairList.read(self.scratch / "val.csv", val)

    def eer_reference(self) -> float:
        train, val, pairs = self.held_out()
        classes, size = len(FaceFolder.scan(train).identities), self.args.eer_size
        batch, reference = min(30, classes), self.reference()
        loader = reference.loader(train, classes, batch, size)
        trainer = reference.trainer(classes, batch)
        seconds = 0.0
        for number in range(self.args.most_epochs):
            began = time.perf_counter()
            with quiet():
                trainer.train_network(loader)
            seconds += time.perf_counter() - began
            network = trainer.__model__.__S__.eval()
            embedder = Embedder.of_model(network, InputSpec(size), 512, quiet=True)
            found = eer(score_pairs(embedder, pairs, val), pairs.labels)
            print(f"eer     reference, epoch {number + 1}: {found:.2f} %", file=sys.stderr)
            network.to(memory_format=torch.contiguous_format)
            if found <= self.args.eer:
                return seconds
        return float("inf")

    def eer_ours(self) -> float:
        train, val, _ = self.held_out()
        batch = min(30, len(FaceFolder.scan(train).identities))
        config = our_config(train, self.scratch / "run", batch, self.args.eer_size)
        config = replace(
            config,
            max_epoch=self.args.most_epochs,
            val_dir=str(val),
            val_list=str(self.scratch / "val.csv"),
        )

        class Reached(Exception):
            pass

        seconds = []

        def look(run_dir, rows):
            seconds.append(rows[-1]["seconds"])
            found = rows[-1]["val_eer"]
            print(f"eer     ours, epoch {len(rows)}: {found:.2f} %", file=sys.stderr)
            if found <= self.args.eer:
                raise Reached

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                fit(config, after_epoch=look)
        except Reached:
            return sum(seconds)
        return float("inf")

    def memory(self) -> float:
        """Peak memory of one step of angular prototypical with `people` × 2 images, in chunks."""
        people, at_once = self.args.people, self.args.images_at_once
        optimizer, gradient = our_step("angproto", people, self.size, True, False, at_once)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        images = torch.randint(0, 256, (people, 2, self.size, self.size, 3), dtype=torch.uint8)
        with memory_kept(CPU):
            gradient(images.permute(0, 1, 4, 2, 3), torch.arange(people))
            optimizer.step()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def our_step(loss: str, classes: int, size: int, mixed: bool, compiled: bool, at_once=None):
    """Optimizer and gradient of a run with ThinResNet34, as `fit` builds them."""
    torch.manual_seed(0)
    accelerator = make_accelerator("cpu", mixed=mixed)
    network = build_model("ThinResNet34", 512).to(memory_format=torch.channels_last)
    objective = build_loss(loss, embedding_size=512, num_classes=classes, **LOSS)
    module = TrainingStep(network, objective, InputSpec(size), compiled)
    optimizer = build_optimizer("adam", module, lr=0.001)
    trained, optimizer = accelerator.prepare(module, optimizer)
    return optimizer, gradient_of(trained, module, accelerator, at_once)


def matrix_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations per second of a large matrix product: the best of ten."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def in_a_process(measurement: str, **settings) -> float:
    """One measurement in a process of its own, with the flags that this one got."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], *flags]
    done = subprocess.run([*command, "--one", measurement], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(what: str, rounds: int, names: dict[str, str], **settings) -> dict[str, float]:
    """The best rate of each measurement, all of them taken once in each round; prints a table."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, measurement in names.items():
            rates[name].append(in_a_process(measurement, **settings))
    best = {name: max(values) for name, values in rates.items()}
    base = next(iter(best.values()))
    for name, rate in best.items():
        print(f"{what:16} {name:20} {rate:8.1f} images/s   x{rate / base:5.2f}", flush=True)
    return best


def both(part: str) -> dict[str, str]:
    """The two sides of a part, and the measurements of them."""
    return {side: f"{part}_{side}" for side in ("reference", "ours")}


def compare(args: argparse.Namespace) -> None:
    parts, low = args.parts.split(","), mixed_precision(CPU)
    print(f"{torch.get_num_threads()} threads, bf16 here: {low == 'bf16'}")
    if "loader" in parts:
        in_turn("loader", args.rounds, both("loader"))
    # Forward one, backward two products for each multiply-add of the network.
    work = 6 * sum(row.multiply_adds for row in describe(build_model("ThinResNet34"), args.size))
    for batch in map(int, args.batches.split(",")):
        if "step" in parts:
            names = {"reference": "step_reference", "ours, fp32": "step_ours"}
            if low == "bf16":
                names["ours, bf16"] = "step_ours_mixed"
            if args.compile:
                names[f"ours, {low}, compiled"] = "step_ours_compiled"
            steps = max(2, 256 // batch)
            rates = in_turn(f"step, {batch}", args.rounds, names, batch=batch, steps=steps)
            for name, rate in rates.items():
                dtype = torch.bfloat16 if "bf16" in name else torch.float32
                share = rate * work / matrix_rate(dtype)
                print(f"{'':16} {name:20} {share:7.0%} of the {str(dtype)[6:]} matrix rate")
        if "epoch" in parts:
            in_turn(f"epoch, {batch}", args.rounds, both("epoch"), batch=batch)
    if "eer" in parts:
        seconds = {name: in_a_process(text) for name, text in both("eer").items()}
        for name, value in seconds.items():
            ratio = seconds["reference"] / value
            print(f"eer {args.eer:g} %        {name:20} {value:8.1f} s          x{ratio:5.2f}")
    if "memory" in parts:
        print(
            f"memory           {args.people} people × 2 images at {args.size} px, "
            f"{args.images_at_once} images at once: {in_a_process('memory'):.1f} GiB at the peak"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--parts", default="loader,step,epoch,eer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels of step and epoch")
    parser.add_argument("--batches", default="32,200", help="images of a step, one or more sizes")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the step too")
    parser.add_argument("--eer-size", type=int, default=112)
    parser.add_argument("--eer", type=float, default=30.0, help="percent to reach")
    parser.add_argument("--most-epochs", type=int, default=12)
    parser.add_argument("--people", type=int, default=1000, help="people in the batch of memory")
    parser.add_argument("--images-at-once", type=int, default=64)
    for name, kind in (("one", str), ("batch", int), ("steps", int)):  # of one measurement
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("LABKIT_PROGRESS", "none")
    if not args.one:
        return compare(args)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(getattr(Measurements(args, Path(folder)), args.one)()))


if __name__ == "__main__":
    main()
