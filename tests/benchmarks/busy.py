"""What training, rendering, embedding and scoring lose beside other busy processes.

    python tests/benchmarks/busy.py [--rounds 5] [--seconds 5] [--jobs train embed]

Beside k processes that compute all the time, a fair share of the machine is cores / (cores + k) of
the rate of an idle one. Prints the rate as a share of that, with the kit's setting of OpenMP and
with PyTorch's own; each job runs in a process of its own, the settings and loads by turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from joblib import cpu_count

import labkit  # noqa: F401  (it sets the threads of PyTorch, so it comes first)

JOBS = {"train": "images/s", "render": "photos/s", "embed": "images/s", "score": "pairs/s"}
SETTINGS = {"kit": {}, "PyTorch's own": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}}


def work(job: str):
    """Return a function that does a piece of the job, and how many units that is."""
    import numpy as np
    import torch

    from labkit import metrics
    from labkit.config import TrainConfig
    from labkit.data import TrainingBatch
    from labkit.devices import make_accelerator
    from labkit.embed import Embedder
    from labkit.losses import build_loss
    from labkit.models import InputSpec, build_model
    from labkit.train import train_step

    rng, spec = np.random.default_rng(0), InputSpec(image_size=64)
    network = build_model("ThinResNet34", 512).to(memory_format=torch.channels_last)
    if job == "train":
        accelerator = make_accelerator("cpu", mixed=TrainConfig().mixed_precision)
        loss = build_loss("amsoftmax", embedding_size=512, num_classes=100)
        images = torch.from_numpy(rng.integers(0, 256, (64, 1, 3, 64, 64), dtype=np.uint8))
        batch = TrainingBatch(images, torch.arange(64), [], torch.zeros(64, 1))
        weights = [*network.parameters(), *loss.parameters()]
        optimizer = torch.optim.Adam(weights, fused=True)
        return lambda: train_step(network, loss, batch, optimizer, accelerator, spec), 64
    if job == "embed":
        embedder = Embedder.of_model(network.eval(), spec, 512, quiet=True)
        faces = rng.integers(0, 256, (128, 96, 96, 3), dtype=np.uint8)
        return lambda: embedder(faces), len(faces)
    if job == "score":
        rows = rng.normal(size=(5000, 512)).astype(np.float32)
        left, right = rng.integers(0, 5000, (2, 200_000))
        return lambda: metrics.pair_similarities(rows, left, right), 200_000
    from labkit.synth import make_dataset

    def render():
        with tempfile.TemporaryDirectory() as folder:
            make_dataset(Path(folder) / "x", identities=4, images=10, size=96, contact_sheet=False)

    return render, 40


def measure(job: str, seconds: float) -> None:
    """Print the rate of a job: what a process of its own is started for."""
    step, units = work(job)
    step()
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        step()
        done += units
    print(json.dumps(done / (time.monotonic() - began)))


def rate(job: str, seconds: float, busy: int, setting: dict) -> float:
    spin = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, __file__, "--measure", job, "--seconds", str(seconds)]
        out = subprocess.run(command, capture_output=True, text=True, env=os.environ | setting)
        return float(out.stdout.splitlines()[-1])
    finally:
        for process in spin:
            process.kill()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--seconds", type=float, default=5)
    flags.add_argument("--jobs", nargs="+", choices=JOBS, default=[*JOBS])
    flags.add_argument("--measure", choices=JOBS, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.measure:
        return measure(args.measure, args.seconds)
    cores = cpu_count()
    print(f"{cores} cores, median of {args.rounds}")
    for job in args.jobs:
        runs = {(name, k): [] for name in SETTINGS for k in (0, 1, 2)}
        for _ in range(args.rounds):
            for (name, k), rates in runs.items():
                rates.append(rate(job, args.seconds, k, SETTINGS[name]))
        found = {key: statistics.median(rates) for key, rates in runs.items()}
        idle = found["PyTorch's own", 0]
        print(f"{job}: idle, the kit's setting to PyTorch's own: {found['kit', 0] / idle:.1%}")
        for name in SETTINGS:
            shares = [found[name, k] / found[name, 0] * (cores + k) / cores for k in (1, 2)]
            rates = ", ".join(f"{found[name, k]:,.0f}" for k in (0, 1, 2))
            told = "beside one {:.0%}, beside two {:.0%}".format(*shares)
            print(f"  {name:14s} {told} of a fair share ({rates} {JOBS[job]})", flush=True)


if __name__ == "__main__":
    main()
