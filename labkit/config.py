"""The settings of a training run, and the presets that the notebooks and `labkit run` use."""

import dataclasses
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import get_args

import yaml

from labkit.registry import Registry
from labkit.utils import UserError, did_you_mean, reason, write_text

# Names alone: train.py has what they stand for.
OPTIMIZERS, SCHEDULERS = Registry("optimizer"), Registry("scheduler")
for _name in ("adam", "adamw", "sgd"):
    OPTIMIZERS.register(_name)(None)
SCHEDULERS.register("steplr", "step")(None)
SCHEDULERS.register("cosine", "cosinelr", "cosineannealing")(None)
SCHEDULERS.register("cosine_restart", "cosinerestartlr", "cosinewarmrestart")(None)

PATHS = "run_dir train_dir val_dir val_list initial_weights plugin".split()
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _setting(default, meaning: str, *, least: float | None = None):
    return field(default=default, metadata=dict(help=meaning, least=least))


@dataclass
class TrainConfig:
    """The settings of one training run. The defaults are those of the recipe in the README.

    A batch holds `batch_size` identities with `images_per_class` images of each, over all
    processes. An epoch takes at most `max_images_per_class` images of each identity.
    Raises UserError for a name that is no setting and for a value of a wrong type or range.
    """

    run_dir: str = _setting("runs/train", "run folder")
    train_dir: str = _setting("data/train", "face folder to train on")
    val_dir: str | None = _setting(None, "folder of the images of val_list")
    val_list: str | None = _setting(None, "pair list for validation, or the test list of --eval")
    train_extensions: str | None = _setting(None, "endings of the files to read, as jpg,png")

    model: str = _setting("ThinResNet34", "network")
    embedding_size: int = _setting(512, "numbers per face", least=1)
    image_size: int = _setting(224, "pixels of the network's square input", least=32)
    initial_weights: str | None = _setting(None, "weights file, ours or the VoxCeleb trainer's")
    freeze_epochs: int = _setting(0, "epochs that train the embedding layer alone", least=0)

    loss: str = _setting("amsoftmax", "loss function")
    num_classes: int | None = _setting(None, "identities; counted when left out", least=2)
    images_per_class: int = _setting(1, "images of each identity in a batch", least=1)
    margin: float | None = _setting(None, "margin of the loss; left out, 0.1, for aamsoftmax 0.5")
    scale: float | None = _setting(None, "scale of the loss; left out, 30, for aamsoftmax 64")
    mining: str | None = _setting(None, "negatives of the triplet loss: random, semihard or hard")
    temperature: float | None = _setting(None, "temperature of the supcon loss")

    batch_size: int = _setting(200, "identities in a batch, over all processes", least=2)
    max_images_per_class: int = _setting(100, "images of an identity in an epoch", least=1)
    images_at_once: int | None = _setting(None, "images per forward pass: less memory", least=1)
    mirror: bool = _setting(False, "flip each training image with probability 0.5")
    workers: int | None = _setting(None, "loader processes", least=0)

    optimizer: str = _setting("adam", "adam, adamw or sgd")
    lr: float = _setting(0.001, "learning rate")
    weight_decay: float = _setting(0.0, "weight decay", least=0)
    scheduler: str = _setting("steplr", "steplr, cosine or cosine_restart")
    lr_decay: float = _setting(0.9, "factor of steplr")
    lr_step_epochs: int = _setting(5, "epochs between two steps of steplr", least=1)
    restart_epochs: int = _setting(10, "epochs between restarts of cosine_restart", least=1)
    min_lr: float = _setting(1e-5, "lowest learning rate of the cosines")
    warmup_epochs: float = _setting(0.0, "epochs of rising learning rate at the start", least=0)
    max_epoch: int = _setting(70, "epochs to train", least=1)
    val_interval: int = _setting(1, "epochs between two validations", least=1)

    seed: int = _setting(0, "seed of everything random", least=0)
    device: str | None = _setting(None, "cpu, cuda, cuda:0 or mps; the best there is when left out")
    mixed_precision: bool = _setting(False, "compute in bf16 or fp16 where the hardware has it")
    compile: bool = _setting(False, "compile the network with torch.compile")
    checkpoint_minutes: float = _setting(5.0, "minutes between saves in an epoch", least=0)
    drop_optimizer: bool = _setting(False, "keep nothing to train on with after the last epoch")
    plugin: str | None = _setting(None, "Python file that registers networks or losses of yours")
    tensorboard: bool = _setting(False, "also write the curves for TensorBoard")

    def __new__(cls, *values, **settings):
        _check_names(settings)
        return super().__new__(cls)

    def __post_init__(self):
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            kind, *optional = get_args(setting.type) or (setting.type,)
            if name in PATHS and isinstance(value, (str, Path)):
                value = os.path.expanduser(value)
            if kind is float and value is not None and not isinstance(value, bool):
                with suppress(ValueError, TypeError):  # YAML takes 1e-3, without a point, for text
                    value = float(value)
            if type(value) is not kind and not (optional and value is None):
                words = _WORDS[kind] + (" or nothing" if optional else "")
                raise UserError(f"{name} must be {words}, found {value!r}")
            least = setting.metadata["least"]
            if least is not None and value is not None and not value >= least:
                raise UserError(f"{name} must be {least} or more, found {value}")
            if name in ("lr", "lr_decay") and not value > 0:
                raise UserError(f"{name} must be above 0, found {value}")
            setattr(self, name, value)
        if self.train_extensions == "jpg,jpeg,png":  # all that was read once, and the default
            self.train_extensions = None
        self.optimizer = OPTIMIZERS.canonical(self.optimizer)
        self.scheduler = SCHEDULERS.canonical(self.scheduler)
        if self.scheduler != "steplr" and not 0 <= self.min_lr <= self.lr:
            raise UserError(f"min_lr must lie between 0 and lr ({self.lr}), found {self.min_lr}")
        holds_images = str(self.val_list).lower().endswith(".bin")
        if (self.val_dir is None) != (self.val_list is None) and not holds_images:
            raise UserError("val_dir and val_list belong together: give both or neither")

    def to_yaml(self, path: str | Path) -> None:
        """Write all settings, whole or not at all."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides) -> "TrainConfig":
        """Read settings from a YAML file; `overrides` win. Raises UserError as `read_settings`."""
        return cls(**{**read_settings(path), **overrides})


def _check_names(given: Collection[str], aliases: Collection[str] = (), source: str = "") -> None:
    known = [setting.name for setting in fields(TrainConfig)] + list(aliases)
    for name in set(given).difference(known):
        raise UserError(f"{source}there is no setting '{name}'{did_you_mean(name, known)}")


def read_settings(path: str | Path, aliases: Collection[str] = ()) -> dict:
    """Read settings from a YAML file, as keyword arguments of `TrainConfig`.

    aliases: other names that the file may use; they are returned as they are.
    Raises UserError when the file cannot be read or holds a key that is not a setting.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the settings {path}: {reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" on line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{line}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold lines of the form `setting: value`")
    _check_names(settings, aliases, f"{path}: ")
    return settings


@dataclass(frozen=True)
class Preset:
    """The built-in faces to render, and the settings of the two training runs without folders.

    faces: arguments of `labkit.synth.SynthSizes`, for when no data directory is given: identities
    and images of each for world, train, val and test; then the pixels.
    """

    about: str
    faces: tuple[int, ...]
    pretrain: TrainConfig
    finetune: TrainConfig


PAPER_PRETRAIN = TrainConfig(margin=0.1, scale=30.0, mixed_precision=True)
_FINETUNE = dict(loss="angleproto", images_per_class=2, lr=0.0005, scheduler="cosine_restart")
PAPER_FINETUNE = TrainConfig(**_FINETUNE, max_epoch=50, mixed_precision=True)
_DEMO_SCHEDULE = dict(max_epoch=8, lr=0.0015, scheduler="cosine", warmup_epochs=0.5)
PRESETS = {
    "smoke": Preset(
        "a few faces and a few steps, to see that everything works; the numbers mean nothing",
        (24, 6, 16, 6, 12, 6, 12, 6, 80),
        replace(PAPER_PRETRAIN, mirror=True, image_size=48, batch_size=12, max_epoch=2),
        replace(PAPER_FINETUNE, mirror=True, image_size=48, batch_size=8, max_epoch=2),
    ),
    "demo": Preset(
        "a quarter of an hour on two cores: real learning, on built-in faces",
        (480, 16, 300, 12, 50, 10, 100, 10, 112),
        replace(PAPER_PRETRAIN, mirror=True, image_size=64, batch_size=64, **_DEMO_SCHEDULE),
        replace(PAPER_FINETUNE, mirror=True, image_size=64, batch_size=60, max_epoch=10),
    ),
    "paper": Preset(
        "the full recipe at 224 px, for a GPU and real photos",
        (8631, 100, 1229, 68, 100, 40, 100, 40, 256),
        PAPER_PRETRAIN,
        PAPER_FINETUNE,
    ),
}
