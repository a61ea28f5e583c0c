"""Training, loading, embedding and rendering on a GPU (nothing to compare with is needed).

python tests/benchmarks/gpu.py
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from labkit.config import TrainConfig
from labkit.data import FaceFolder, TrainingBatch, close_loader, train_loader
from labkit.devices import make_accelerator
from labkit.embed import Embedder
from labkit.losses import build_loss
from labkit.models import InputSpec, build_model
from labkit.synth import make_dataset
from labkit.train import train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import make_faces  # noqa: E402

rng, spec = np.random.default_rng(0), InputSpec(224)
print(torch.cuda.get_device_name())


def rate(step, count: int, rounds: int) -> float:
    """Return units a second of a step of `count` units, after some to warm up."""
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(rounds):
        step()
    torch.cuda.synchronize()
    return rounds * count / (time.monotonic() - began)


pixels = torch.from_numpy(rng.integers(0, 256, (200, 1, 3, 224, 224), dtype=np.uint8))
batch = TrainingBatch(pixels, torch.arange(200), [], torch.zeros(200, 1))
for name in ("ThinResNet34", "ThinResNet50V2"):
    for mixed in (False, True):
        accelerator = make_accelerator("cuda", mixed=mixed)
        network = build_model(name, 512).cuda().to(memory_format=torch.channels_last)
        loss = build_loss("amsoftmax", embedding_size=512, num_classes=8631).cuda()
        weights = [*network.parameters(), *loss.parameters()]
        how = network, loss, batch, torch.optim.Adam(weights, fused=True), accelerator, spec
        torch.cuda.reset_peak_memory_stats()
        found = rate(lambda how=how: train_step(*how), 200, 20)
        memory = torch.cuda.max_memory_allocated() / 2**30
        precision = accelerator.mixed_precision.replace("no", "float32")
        print(
            f"step of {name}, 200 at 224 px, {precision}: {found:,.0f} images/s, {memory:.1f} GiB"
        )
for precision in ("fp32", "bf16"):
    network = build_model("ThinResNet34", 512).cuda().eval()
    embedder = Embedder.of_model(network, spec, 512, quiet=True, precision=precision)
    faces = [*rng.integers(0, 256, (256, 256, 256, 3), dtype=np.uint8)]
    found = rate(lambda e=embedder, f=faces: e(f), 256, 2)
    print(f"embedding at 224 px, {precision}: {found:,.0f} images/s")
with tempfile.TemporaryDirectory() as scratch:
    root = make_faces(Path(scratch) / "faces", 220, 10, size=256)
    config = TrainConfig(image_size=224, batch_size=200, max_images_per_class=10)
    loader = train_loader(FaceFolder.scan(root), config, workers=None, pin_memory=True)
    list(loader)  # the workers start
    began = time.monotonic()
    images = sum(len(batch.images) for epoch in range(3) for batch in loader)
    found = images / (time.monotonic() - began)
    print(f"loader, {loader.num_workers} workers, 256 px JPEGs: {found:,.0f} images/s")
    close_loader(loader)
    for identities in (2, 60):
        began = time.monotonic()
        out = Path(scratch) / str(identities)
        make_dataset(out, identities=identities, images=20, device="cuda", contact_sheet=False)
    print(f"rendering at 128 px: {1200 / (time.monotonic() - began):,.0f} photos/s")
