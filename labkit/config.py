"""The settings of a training run, and the presets that the notebooks and `labkit run` use."""

import dataclasses
import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from labkit.utils import UserError, reason, write_text


@dataclass
class TrainConfig:
    """One training run. The defaults are those of the recipe in the README.

    A batch holds `batch_size` identities with `images_per_class` images of each, over all
    processes. An epoch takes at most `max_images_per_class` images of each identity.
    """

    run_dir: str = "runs/train"
    train_dir: str = "data/train"
    val_dir: str | None = None
    val_list: str | None = None
    train_extensions: str = "jpg,jpeg,png"

    model: str = "ThinResNet34"
    embedding_size: int = 512
    image_size: int = 224
    initial_weights: str | None = None
    freeze_epochs: int = 0

    loss: str = "amsoftmax"
    num_classes: int | None = None
    images_per_class: int = 1
    margin: float | None = None
    scale: float | None = None
    mining: str | None = None
    temperature: float | None = None

    batch_size: int = 200
    max_images_per_class: int = 100
    images_at_once: int | None = None
    mirror: bool = False
    workers: int | None = None

    optimizer: str = "adam"
    lr: float = 0.001
    weight_decay: float = 0.0
    scheduler: str = "steplr"
    lr_decay: float = 0.9
    lr_step_epochs: int = 5
    restart_epochs: int = 10
    min_lr: float = 1e-5
    warmup_epochs: float = 0.0
    max_epoch: int = 70
    val_interval: int = 1

    seed: int = 0
    device: str | None = None
    mixed_precision: bool = False
    compile: bool = False
    checkpoint_minutes: float = 5.0
    plugin: str | None = None
    tensorboard: bool = False

    def __post_init__(self):
        for name, value in self.__dict__.items():
            kind = _FIELDS[name].type
            if isinstance(value, Path):
                setattr(self, name, str(value))
            elif not _fits(value, kind):
                raise UserError(f"{name} must be {_in_words(kind)}, found {value!r}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"{name} must be {least} or more, found {value}")
        if self.seed >= 2**63:
            raise UserError(f"seed must be below 2^63, found {self.seed}")
        if not self.lr > 0:
            raise UserError(f"lr must be above 0, found {self.lr}")
        if (self.val_dir is None) != (self.val_list is None):
            raise UserError("val_dir and val_list belong together: give both or neither")

    def to_yaml(self, path: str | Path) -> None:
        """Write all settings, whole or not at all."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False))

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides) -> "TrainConfig":
        """Read settings from a YAML file; `overrides` win. UserError names an unknown key."""
        return cls(**{**read_settings(path), **overrides})


REFERENCE_NAMES = dict(
    nOut="embedding_size",
    initial_model="initial_weights",
    trainfunc="loss",
    nClasses="num_classes",
    nPerClass="images_per_class",
    max_img_per_cls="max_images_per_class",
    nDataLoaderThread="workers",
    save_path="run_dir",
    train_path="train_dir",
    train_ext="train_extensions",
    test_path="val_dir",
    test_list="val_list",
    mixedprec="mixed_precision",
)
"""Names of the reference trainer and the settings they stand for; see also `expanded`."""

_FIELDS = {item.name: item for item in dataclasses.fields(TrainConfig)}
_AT_LEAST = dict(
    embedding_size=1,
    image_size=32,
    images_per_class=1,
    batch_size=2,
    max_images_per_class=1,
    images_at_once=1,
    num_classes=2,
    workers=0,
    checkpoint_minutes=0,
    lr_step_epochs=1,
    restart_epochs=1,
    max_epoch=1,
    val_interval=1,
    freeze_epochs=0,
    weight_decay=0,
    warmup_epochs=0,
    seed=0,
)


def _fits(value: object, kind: object) -> bool:
    if kind in (float, float | None) and type(value) is int:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


def _in_words(kind: object) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in words:
        return words[kind]
    return next(word for base, word in words.items() if kind == base | None) + " or nothing"


def read_settings(path: str | Path) -> dict:
    """The settings in a YAML file, as keyword arguments of `TrainConfig`.

    The reference trainer's names are taken too. Raises UserError when the file cannot be read or
    holds a key that is not a setting.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the settings {path}: {reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" on line {place.line + 1}" if place else ""
        raise UserError(f"{path} is not valid YAML{where}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold lines of the form `setting: value`")
    known = [*_FIELDS, *REFERENCE_NAMES, *_SEVERAL]
    named: dict = {}
    for key, value in settings.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=3)
            hint = f": did you mean {' or '.join(close)}?" if close else ""
            raise UserError(f"{path}: there is no setting '{key}'{hint}")
        name = REFERENCE_NAMES.get(key, key)
        if name in named:
            raise UserError(f"{path} gives {name} twice, once as {key}")
        named[name] = _as_number(value) if name in _NUMBERS else value
    return expanded(named)


def expanded(settings: dict) -> dict:
    """The reference trainer's `test_interval` and `gpu` as the settings of `TrainConfig` that they
    mean; those that are given themselves win."""
    meant, given = {}, {}
    for name, value in settings.items():
        if name in _SEVERAL:
            meant |= _SEVERAL[name](value)
        else:
            given[name] = value
    return meant | given


_SEVERAL = dict(
    test_interval=lambda epochs: dict(val_interval=epochs, lr_step_epochs=epochs),
    gpu=lambda number: dict(device=f"cuda:{number}"),
)
_NUMBERS = {name for name, item in _FIELDS.items() if item.type in (float, float | None)}


def _as_number(value: object) -> object:
    """A number that YAML takes for text, as it does 1e-3 (to YAML, numbers have a point)."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@dataclass(frozen=True)
class Preset:
    """Settings of the whole lab: the built-in faces to render and the two trainings.

    faces: keyword arguments of `labkit.synth.SynthSizes`; used when no data directory is given.
    pretrain, finetune: training settings, without folders; see `stage`.
    """

    name: str
    about: str
    faces: dict = field(hash=False)
    pretrain: TrainConfig = field(hash=False)
    finetune: TrainConfig = field(hash=False)

    def stage(self, name: str, **changes) -> TrainConfig:
        """The settings of `pretrain` or `finetune` with changes (folders, seed, …)."""
        base = {"pretrain": self.pretrain, "finetune": self.finetune}[name]
        return replace(base, **changes)


PAPER_PRETRAIN = TrainConfig(
    loss="amsoftmax",
    margin=0.1,
    scale=30.0,
    batch_size=200,
    max_images_per_class=100,
    optimizer="adam",
    lr=0.001,
    scheduler="steplr",
    lr_decay=0.9,
    lr_step_epochs=5,
    max_epoch=70,
    mixed_precision=True,
)
PAPER_FINETUNE = TrainConfig(
    loss="angleproto",
    images_per_class=2,
    batch_size=200,
    max_images_per_class=100,
    optimizer="adam",
    lr=0.0005,
    scheduler="cosine_restart",
    restart_epochs=10,
    min_lr=1e-5,
    max_epoch=50,
    mixed_precision=True,
)


def _faces(world: tuple, train: tuple, val: tuple, test: tuple, size: int) -> dict:
    """Sizes of the built-in sets from (identities, images of each)."""
    return dict(
        world_identities=world[0],
        world_images=world[1],
        train_identities=train[0],
        train_images=train[1],
        val_identities=val[0],
        val_images=val[1],
        test_identities=test[0],
        test_images=test[1],
        size=size,
    )


def _small(base: TrainConfig, **changes) -> TrainConfig:
    return replace(base, mirror=True, **changes)


PRESETS = {
    "smoke": Preset(
        "smoke",
        "a few faces and a few steps, to see that everything works; the numbers mean nothing",
        _faces((24, 6), (16, 6), (12, 6), (12, 6), size=80),
        _small(PAPER_PRETRAIN, image_size=48, batch_size=12, max_epoch=2),
        _small(PAPER_FINETUNE, image_size=48, batch_size=8, max_epoch=2),
    ),
    "demo": Preset(
        "demo",
        "a quarter of an hour on two cores: real learning, on built-in faces",
        _faces((480, 16), (300, 12), (50, 10), (100, 10), size=112),
        _small(
            PAPER_PRETRAIN,
            image_size=64,
            batch_size=64,
            max_epoch=8,
            lr=0.0015,
            scheduler="cosine",
            warmup_epochs=0.5,
        ),
        _small(PAPER_FINETUNE, image_size=64, batch_size=60, max_epoch=10),
    ),
    "paper": Preset(
        "paper",
        "the full recipe at 224 px, for a GPU and real photos",
        _faces((8631, 100), (1229, 68), (100, 40), (100, 40), size=256),
        PAPER_PRETRAIN,
        PAPER_FINETUNE,
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name; UserError with the known names when there is none."""
    if name not in PRESETS:
        raise UserError(f"there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
