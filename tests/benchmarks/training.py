"""Training against the reference trainer, side by side in one run.

    labkit synth --out /tmp/faces --identities 60 --images 20 --size 256
    python tests/benchmarks/training.py --reference /tmp/face_recognition --faces /tmp/faces

--reference is a checkout of the trainer that this kit grew from (seungyonglee0802/face_recognition
on GitHub). It runs from a copy in which only its CUDA calls and an unused import of torchaudio are
taken out. Parts take turns, each is timed several times, and ratios are of the best times:

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
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torchvision import transforms

from labkit.config import TrainConfig
from labkit.data import FaceFolder, PairList, make_pairs
from labkit.devices import make_accelerator, mixed_precision
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.losses import build_loss
from labkit.metrics import eer
from labkit.models import InputSpec, build_model, describe
from labkit.optim import build_optimizer
from labkit.train import fit
from labkit.train.step import TrainingStep, gradient_of
from labkit.trainset import TrainingData

LOSS = dict(margin=0.1, scale=30.0)
CPU = torch.device("cpu")


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


def in_turn(rounds: int, **parts) -> dict[str, float]:
    """Images per second of each part: the best of `rounds`, after one that does not count.

    The best, as other work on the machine can only make a round slower.
    """
    rates = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            began = time.perf_counter()
            images = part()
            if number:
                rates[name].append(images / (time.perf_counter() - began))
    return {name: max(values) for name, values in rates.items()}


def show(what: str, rates: dict[str, float], aim: str = "") -> None:
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{what:7} {name:28} {rate:8.1f} images/s   x{rate / base:5.2f} {aim}", flush=True)
        aim = aim if name == next(iter(rates)) else ""


def our_config(faces: Path, run: Path, batch: int, size: int, **changes) -> TrainConfig:
    return TrainConfig(
        train_dir=str(faces), run_dir=str(run), batch_size=batch, image_size=size,
        max_images_per_class=500, workers=2, device="cpu", mixed_precision=True, **LOSS, **changes,
    )  # fmt: skip


def count_images(loader) -> int:
    return sum(len(labels) for labels in (batch[1] for batch in loader))


def benchmark_loader(reference: Reference, faces: Path, scratch: Path, rounds: int) -> None:
    classes = len(FaceFolder.scan(faces).identities)
    theirs = reference.loader(faces, classes, 20, 224)
    ours = TrainingData.open(our_config(faces, scratch, 20, 224)).loader(CPU)
    rates = in_turn(rounds, reference=lambda: count_images(theirs), ours=lambda: count_images(ours))
    show("loader", rates)


def our_steps(batch: int, size: int, classes: int, times: int, *, mixed: bool, compiled: bool):
    """A function that trains `times` steps on one random batch, as `fit` does."""
    torch.manual_seed(0)
    accelerator = make_accelerator("cpu", mixed=mixed, partly_frozen=False)
    network = build_model("ThinResNet34", 512).to(memory_format=torch.channels_last)
    loss = build_loss("amsoftmax", embedding_size=512, num_classes=classes, **LOSS)
    module = TrainingStep(network, loss, InputSpec(size), compiled)
    optimizer = build_optimizer("adam", module, lr=0.001)
    trained, optimizer = accelerator.prepare(module, optimizer)
    gradient = gradient_of(trained, module, accelerator, None)
    images = torch.randint(0, 256, (batch, 1, size, size, 3), dtype=torch.uint8)
    images, labels = images.permute(0, 1, 4, 2, 3), torch.arange(batch) % classes

    def run() -> int:
        for _ in range(times):
            optimizer.zero_grad(set_to_none=True)
            gradient(images, labels)
            optimizer.step()
        return batch * times

    return run


def matrix_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations per second of a large matrix product: the best of ten."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def benchmark_step(
    reference: Reference, rounds: int, size: int, batch: int, compiled: bool
) -> None:
    trainer = reference.trainer(batch, batch)
    data = SameBatch(torch.randn(batch, 1, 3, size, size), torch.arange(batch), 2)

    def their_steps() -> int:
        with quiet():
            trainer.train_network(data)
        return 2 * batch

    parts = {"reference": their_steps}
    low = mixed_precision(CPU)
    for name, mixed in (("ours, fp32", False), (f"ours, {low}", True)):
        if mixed and low == "no":
            continue
        parts[name] = our_steps(batch, size, batch, 2, mixed=mixed, compiled=False)
        if compiled:
            parts[f"{name}, compiled"] = our_steps(
                batch, size, batch, 2, mixed=mixed, compiled=True
            )
    rates = in_turn(rounds, **parts)
    show("step", rates)
    # Forward one, backward two products for each multiply-add of the network.
    work = 6 * sum(stage.multiply_adds for stage in describe(build_model("ThinResNet34"), size))
    for name, rate in rates.items():
        dtype = torch.bfloat16 if "bf16" in name else torch.float32
        share = rate * work / matrix_rate(dtype)
        print(f"step    {name:28} {share:7.0%} of this machine's {str(dtype)[6:]} matrix rate")


def benchmark_epoch(reference: Reference, faces: Path, scratch: Path, size: int) -> None:
    classes = len(FaceFolder.scan(faces).identities)
    loader = reference.loader(faces, classes, 30, size)
    trainer = reference.trainer(classes, 30)
    seen: list[int] = []
    original = trainer.__model__.forward
    trainer.__model__.forward = lambda data, label: seen.append(len(label)) or original(data, label)
    began = time.perf_counter()
    with quiet():
        trainer.train_network(loader)
    theirs = sum(seen) / (time.perf_counter() - began)
    with quiet():
        row = fit(our_config(faces, scratch / "epoch", 30, size, max_epoch=1)).rows[0]
    ours = row["images_per_second"]
    show("epoch", {"reference": theirs, "ours": ours})


def benchmark_eer(
    reference: Reference, faces: Path, scratch: Path, size: int, target: float, most: int
) -> None:
    names = FaceFolder.scan(faces).identities
    held_out = names[-len(names) // 4 :]
    for name in names:
        part = scratch / ("val" if name in held_out else "train")
        part.mkdir(exist_ok=True)
        (part / name).symlink_to((faces / name).resolve())
    train, val = scratch / "train", scratch / "val"
    make_pairs(FaceFolder.scan(val)).write(scratch / "val.csv")
    pairs, classes = PairList.read(scratch / "val.csv", val), len(names) - len(held_out)
    batch = min(30, classes)

    loader, trainer = (
        reference.loader(train, classes, batch, size),
        reference.trainer(classes, batch),
    )
    seconds: dict[str, float] = {"reference": 0.0, "ours": 0.0}
    reached = dict.fromkeys(seconds, False)
    for number in range(most):
        began = time.perf_counter()
        with quiet():
            trainer.train_network(loader)
        seconds["reference"] += time.perf_counter() - began
        network = trainer.__model__.__S__.eval()
        embedder = Embedder.of_model(network, InputSpec(size), 512, quiet=True)
        found = eer(score_pairs(embedder, pairs, val), pairs.labels)
        print(f"eer     reference, epoch {number + 1}: {found:.2f} %", flush=True)
        network.to(memory_format=torch.contiguous_format)
        if found <= target:
            reached["reference"] = True
            break

    class Reached(Exception):
        pass

    def look(run_dir, rows):
        seconds["ours"] += rows[-1]["seconds"]
        print(f"eer     ours, epoch {len(rows)}: {rows[-1]['val_eer']:.2f} %", flush=True)
        if rows[-1]["val_eer"] <= target:
            reached["ours"] = True
            raise Reached

    config = our_config(train, scratch / "eer", batch, size, max_epoch=most)
    config = replace(config, val_dir=str(val), val_list=str(scratch / "val.csv"))
    with contextlib.suppress(Reached):
        fit(config, after_epoch=look)
    for name, value in seconds.items():
        how = f"to {target:g} %" if reached[name] else f"and {target:g} % not reached"
        ratio = seconds["reference"] / value
        print(f"eer     {name:28} {value:8.1f} s of training {how}   x{ratio:5.2f}")


def benchmark_memory(people: int, size: int, at_once: int) -> None:
    """Peak memory of one step of angular prototypical with `people` × 2 images, in chunks."""
    torch.manual_seed(0)
    accelerator = make_accelerator("cpu", mixed=True, partly_frozen=False)
    network = build_model("ThinResNet34", 512).to(memory_format=torch.channels_last)
    loss = build_loss("angproto", embedding_size=512)
    module = TrainingStep(network, loss, InputSpec(size), False)
    optimizer = build_optimizer("adam", module, lr=0.001)
    trained, optimizer = accelerator.prepare(module, optimizer)
    gradient = gradient_of(trained, module, accelerator, at_once)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = torch.randint(0, 256, (people, 2, size, size, 3), dtype=torch.uint8)
    began = time.perf_counter()
    gradient(images.permute(0, 1, 4, 2, 3), torch.arange(people))
    optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"memory  {people} people × 2 images at {size} px, {at_once} images at once: "
        f"{(peak - before) / 2**20:.1f} GiB more at the peak, "
        f"{time.perf_counter() - began:.0f} s for the step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--parts", default="loader,step,epoch,eer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels of step and epoch")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the step too")
    parser.add_argument("--eer-size", type=int, default=112)
    parser.add_argument("--eer", type=float, default=30.0, help="percent to reach")
    parser.add_argument("--most-epochs", type=int, default=12)
    parser.add_argument("--people", type=int, default=1000, help="people in the batch of memory")
    parser.add_argument("--images-at-once", type=int, default=64)
    args = parser.parse_args()
    os.environ.setdefault("LABKIT_PROGRESS", "none")
    parts = args.parts.split(",")
    print(f"{torch.get_num_threads()} threads, bf16 here: {mixed_precision(CPU) == 'bf16'}")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        reference = Reference(args.reference, scratch / "reference")
        if "loader" in parts:
            benchmark_loader(reference, args.faces, scratch, args.rounds)
        if "step" in parts:
            benchmark_step(reference, args.rounds, args.size, args.batch, args.compile)
        if "epoch" in parts:
            benchmark_epoch(reference, args.faces, scratch, args.size)
        if "eer" in parts:
            benchmark_eer(reference, args.faces, scratch, args.eer_size, args.eer, args.most_epochs)
        if "memory" in parts:
            benchmark_memory(args.people, args.size, args.images_at_once)


if __name__ == "__main__":
    main()
