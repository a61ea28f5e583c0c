"""Small training runs and how to compare them."""

import textwrap
from pathlib import Path

import torch

from labkit.checkpoint import RunFolder
from labkit.config import TrainConfig

# Scripts of a process of its own, whose first argument is a settings file.
RUN = """
import sys
from labkit.config import TrainConfig
from labkit.train import fit
fit(TrainConfig.from_yaml(sys.argv[1]))
"""
COMMAND = """
import sys
from labkit.cli import main
raise SystemExit(main(["train", "--config", sys.argv[1]]))
"""
# Without batch statistics, so that it does not matter how a batch is shared.
PLAIN_NET = """
    import torch
    from labkit.registry import MODELS

    @MODELS.register("plain")
    class Plain(torch.nn.Module):
        def __init__(self, embedding_size):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 5, stride=4)
            self.fc = torch.nn.Linear(8 * 49, embedding_size)

        def forward(self, images):
            return self.fc(torch.tanh(self.conv(images)).flatten(1))
"""
# A small network to build one of one's own from.
OWN_CODE = """
    import torch
    from labkit.losses import EmbeddingLoss, LossOutput
    from labkit.registry import LOSSES, MODELS

    @MODELS.register("small")
    class Small(torch.nn.Module):
        def __init__(self, embedding_size):
            super().__init__()
            self.fc = torch.nn.Linear(3 * 32 * 32, embedding_size)

        def forward(self, images):
            return self.fc(images.flatten(1))
"""


def small_run(data: Path, run_dir: Path, **changes) -> TrainConfig:
    """A run of 4 epochs with 6 steps each, in seconds."""
    settings = dict(
        run_dir=str(run_dir),
        train_dir=str(data / "pretrain"),
        val_dir=str(data / "val"),
        val_list=str(data / "val_pairs.csv"),
        model="ThinResNet34",
        embedding_size=16,
        image_size=32,
        margin=0.1,
        scale=30.0,
        batch_size=12,
        mirror=True,
        max_epoch=4,
        device="cpu",
    )
    return TrainConfig(**{**settings, **changes})


def plain_net(folder: Path) -> str:
    """A plugin file with the network `plain`."""
    plugin = folder / "plain_net.py"
    plugin.write_text(textwrap.dedent(PLAIN_NET))
    return str(plugin)


def own_code(folder: Path, text: str) -> str:
    """A plugin file with `OWN_CODE` and a text after it."""
    plugin = folder / "own.py"
    plugin.write_text(textwrap.dedent(OWN_CODE) + textwrap.dedent(text))
    return str(plugin)


def state_of(run_dir: str) -> dict:
    """What a run has saved last."""
    return RunFolder(run_dir).load_state()


def same(a, b) -> bool:
    """Bit-for-bit equality of nested states, times and speeds left out."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds", "images_per_second"}
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b
