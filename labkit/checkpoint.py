"""What a training run leaves on disk: the run folder, weights in and out, training state."""

import csv
import dataclasses
import io
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from labkit.config import PATHS, TrainConfig, read_settings
from labkit.data import FaceFolder, PairList
from labkit.models import InputSpec, build_model
from labkit.registry import LOSSES, MODELS, code_digest, is_built_in
from labkit.utils import (
    UserError,
    atomic_path,
    folder_lock,
    reason,
    sha256,
    short_reason,
    write_bytes,
    write_csv,
    write_json,
)

METRIC_COLUMNS = "epoch step lr train_loss train_accuracy val_eer images_per_second seconds".split()
# Settings that a run may be resumed with in another value: they do not change what was learned.
FREE_SETTINGS = "max_epoch workers device checkpoint_minutes compile tensorboard".split()


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself, and which file it was."""

    model: str  # registered name of the network
    embedding_size: int  # numbers per face
    input: InputSpec  # the size and normalization that the network needs
    path: Path
    sha256: str


def save_weights(
    path: str | Path, model: nn.Module, model_name: str, embedding_size: int, input_spec: InputSpec
) -> None:
    """Write a network as .safetensors that can be used with nothing but its path."""
    about = dict(model=model_name, embedding_size=embedding_size, **dataclasses.asdict(input_spec))
    # A copy of each, as the format knows no tensor under two names (tied layers).
    copied = partial(torch.clone, memory_format=torch.contiguous_format)
    tensors = {name: copied(value.cpu()) for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facelab": json.dumps(about)})


def load_weights(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[nn.Module, WeightsInfo]:
    """Return the network of a weights file in evaluation mode, and what the file says.

    A checkpoint of another trainer, as `load_voxceleb_model` takes it, does not name its network or
    input: the network is found, the input is the usual one. Raises UserError when the file is
    missing, damaged, or neither of the two.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        model = load_voxceleb_model(path)
        size = len(model.get_parameter("fc.weight"))
        info = WeightsInfo(type(model).__name__, size, InputSpec(), path, sha256(path))
        return model.to(device), info
    tensors, about = _read_safetensors(path)
    if about is None:
        raise UserError(f"{path} does not say which network it holds: it is not a weights file")
    try:
        about = json.loads(about)
        spec = InputSpec(about["image_size"], tuple(about["mean"]), tuple(about["std"]))
        info = WeightsInfo(about["model"], about["embedding_size"], spec, path, sha256(path))
        sizes = [spec.image_size, info.embedding_size]
        in_order = {type(size) for size in sizes} == {int} and min(sizes) > 0 and min(spec.std) > 0
        if not (in_order and np.isfinite([spec.mean, spec.std]).all() and len(spec.mean) == 3):
            raise ValueError("a size, mean or std is out of range")
    except Exception as error:  # whatever another program has put there
        why = f"what it says of itself is wrong ({short_reason(error)})"
        raise UserError(f"{path} is not a weights file of this kit: {why}") from None
    if ":" not in str(info.model) and info.model not in MODELS:
        raise UserError(
            f"{path} holds the network {info.model}, which is not one of the kit's: give the file "
            "that registers it with --plugin, or run the notebook cell that does"
        )
    model = build_model(info.model, info.embedding_size)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{path} does not fit the network {info.model} that it names") from None
    return model.to(device).eval(), info


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Return the tensors of a file and, when it is one of ours, what it says of itself."""
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            about = (file.metadata() or {}).get("facelab")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file: {error}") from None
    return tensors, about


def load_initial_weights(model: nn.Module, path: str | Path) -> str:
    """Start `model` from a weights file of ours or a checkpoint of the VoxCeleb trainer.

    Tensors whose name and shape fit are loaded; the returned line names the others. Raises
    UserError when fewer than half of the network's tensors fit: it is another model's file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state, _ = _read_safetensors(path)
    else:
        state = _checkpoint_tensors(path)
    own = model.state_dict()
    state = max(_without_prefix(state, next(iter(own))), key=lambda s: len(s.keys() & own.keys()))
    fits = [name for name in own if name in state and state[name].shape == own[name].shape]
    if 2 * len(fits) < len(own):
        raise UserError(
            f"{path} is a checkpoint of another model: only {len(fits)} of "
            f"{len(own)} tensors of this network are in it"
        )
    model.load_state_dict({name: state[name] for name in fits}, strict=False)
    line = f"{len(fits)} tensors loaded"
    for kind, names in (
        ("not in the file", [name for name in own if name not in state]),
        ("not in the network", [name for name in state if name not in own]),
        ("of another shape", [name for name in own if name in state and name not in fits]),
    ):
        if names:
            line += f"; {len(names)} {kind} ({', '.join(names[:3])}{', …' if names[3:] else ''})"
    return line


def load_voxceleb_model(path: str | Path, model_name: str | None = None) -> nn.Module:
    """Return the network in a checkpoint of another trainer, on the CPU in eval mode.

    Such a file is a PyTorch state dict, or one within a dictionary, as Lightning writes it. What
    stands before the names of our layers does not matter (`__S__.` of the VoxCeleb trainer,
    `module.`, `_orig_mod.`), and other tensors are left aside. Nothing in the file runs.
    model_name: the network's name; None to find the one whose layers fit.

    Raises UserError when the file is missing, is no checkpoint, would run code when loaded, or
    holds another network.
    """
    found = _without_prefix(_checkpoint_tensors(Path(path)), "fc.weight")
    found = [w for w in found if "fc.weight" in w and w["fc.weight"].ndim == 2]
    if not found:
        raise UserError(f"{path}: the network has no layer fc, so it is none of this kit's")
    names = [MODELS.canonical(model_name)] if model_name else MODELS.names()
    for name, weights in product(names, found):
        with torch.device("meta"):
            model = build_model(name, len(weights["fc.weight"]))
        own = model.state_dict()
        parts = {key.partition(".")[0] for key in own}  # others, as the loss, stand beside it
        weights = {key: weights[key] for key in weights if key.partition(".")[0] in parts}
        differing = _shapes(own) ^ _shapes(weights)
        if not differing:
            model.load_state_dict(weights, assign=True)
            return model.eval()
    if model_name is None:
        raise UserError(f"{path}: fits none of {', '.join(names)}")
    raise UserError(
        f"{path}: is no {name}: layer {min(differing)[0]} is missing, one too many or of another "
        "shape; leave the model's name out to have it found"
    )


def _shapes(state: dict[str, torch.Tensor]) -> set[tuple[str, torch.Size]]:
    return {(key, value.shape) for key, value in state.items()}


def _without_prefix(state: dict[str, torch.Tensor], name: str) -> list[dict[str, torch.Tensor]]:
    """Return the networks in a state dict: for each tensor called `name`, those of its prefix."""
    prefixes = [key.removesuffix(name) for key in state if key.endswith(name)]
    return [
        {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        for prefix in prefixes
    ] or [state]


def _checkpoint_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about how the file was pickled
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except Exception as error:  # what a damaged file makes torch.load raise has no common class
        if re.search("GLOBAL|unrecognized function|allowlisted", str(error)):
            raise UserError(
                f"{path}: refused, because it holds more than weights and loading it could run"
                " code; save the state dict alone"
            ) from None
        raise UserError(f"{path}: is damaged or not a PyTorch checkpoint") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state dict but a {type(state).__name__}")
    for key in ("state_dict", "model", "state_dict_backbone", "model_state_dict"):
        state = state[key] if isinstance(state.get(key), dict) else state
    return {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}


def content_digests(config: TrainConfig, listing: Path | None = None) -> dict[str, str]:
    """Return digests of what a run is made of beside its settings: pictures, files, own code.

    The content counts, so that everything may move. Of pictures, the names and some of the pictures
    do. What is not there is left out. listing: the .npz file that keeps the names of train_dir.
    """
    digests = {}

    def faces() -> str:
        folder = FaceFolder.scan(
            config.train_dir, extensions=config.train_extensions, cache=listing
        )
        return folder.digest() + _sample([folder.path(i) for i in _spread(len(folder))])

    def validation() -> str:
        names = PairList.read(config.val_list).files
        return _sample(Path(config.val_dir) / names[i] for i in _spread(len(names)))

    for name, given, digest in (
        ("the pictures in train_dir", True, faces),
        ("the pictures in val_dir", config.val_list, validation),
        ("val_list", config.val_list, lambda: sha256(config.val_list)),
        ("initial_weights", config.initial_weights, lambda: sha256(config.initial_weights)),
    ):
        with suppress(OSError, UserError):
            digests[name] = digest() if given else "none"
    for registry, name in ((MODELS, config.model), (LOSSES, config.loss)):
        if name in registry and not is_built_in(entry := registry.get(name)):
            python = ".".join(map(str, sys.version_info[:2]))
            what = f"the code of the {registry.kind} {name} (Python {python})"
            digests[what] = code_digest(entry)
    return digests


def _spread(count: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, 32)).astype(int).tolist()


def _sample(paths: Iterable[Path]) -> str:
    return blake2b(b"".join(path.read_bytes() for path in paths), digest_size=16).hexdigest()


def read_metrics(path: str | Path) -> list[dict[str, float | None]]:
    """Return the rows of a metrics.csv; an epoch without validation has val_eer None."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: float(value) if value else None for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; has the run begun?") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a metrics file of this kit") from None


@dataclass
class TrainingState:
    """How far a run has come and what it has measured on the way.

    epoch, step: finished epochs, and finished steps of the next one. loss_sum, accuracy_sum: over
    those steps. rows: one dictionary per epoch, as in metrics.csv. unreadable: names of images
    that could not be decoded.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    best_val_eer: float | None = None
    best_epoch: int | None = None
    rows: list[dict] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    identities: int = 0
    images: int = 0

    def end_epoch(self, row: dict, *, validated: bool) -> bool:
        """Take in the row of a finished epoch; return whether none before was as good.

        Without validation the last epoch counts as the best.
        """
        eer = row["val_eer"]
        best = not validated
        if eer is not None:
            best = self.best_val_eer is None or eer < self.best_val_eer
        if best:
            self.best_val_eer, self.best_epoch = eer, row["epoch"]
        self.rows.append(row)
        self.epoch, self.step, self.loss_sum, self.accuracy_sum = row["epoch"], 0, 0.0, 0.0
        return best


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to; see `TrainingState`. best_val_eer: percent, or None."""

    run_dir: Path
    best_weights: Path
    last_weights: Path
    best_val_eer: float | None
    best_epoch: int | None
    rows: list[dict]
    unreadable: list[str]


class RunFolder:
    """The folder of one training run: settings, metrics, training state and weights."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.content_file = self.path / "content.json"
        self.metrics_file = self.path / "metrics.csv"
        self.state_file = self.path / "last" / "state.pt"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"

    @contextmanager
    def open(self, config: TrainConfig) -> Iterator[None]:
        """Keep other runs out, and write the settings or compare them with those of the run here.

        A folder without a saved state has no run yet. Paths may differ where what they lead to is
        the same. Raises UserError that names what differs.
        """
        with folder_lock(self.path):
            for left_by_a_kill in self.path.rglob(".*.partial*"):
                left_by_a_kill.unlink(missing_ok=True)
            content = content_digests(config, self.path / "train_scan.npz")
            if self.config_file.exists() and self.state_file.exists():
                earlier = dataclasses.asdict(TrainConfig(**read_settings(self.config_file)))
                differing = [
                    f"{name} ({earlier.get(name)!r}, now {value!r})"
                    for name, value in dataclasses.asdict(config).items()
                    if name not in FREE_SETTINGS + PATHS and earlier.get(name) != value
                ]
                file = self.content_file
                was = json.loads(file.read_text()) if file.exists() else {}
                content = was | content
                differing += [f"{name} (changed)" for name in was if content[name] != was[name]]
                if differing:
                    raise UserError(
                        f"{self.path} was made with other settings: {', '.join(differing)}; "
                        "choose another run folder, or delete this one to start over"
                    )
            config.to_yaml(self.config_file)
            write_json(self.content_file, content)
            yield

    def save_state(self, state: dict) -> None:
        """Write all that resuming needs, as one file."""
        # Through memory: PyTorch's own writer does not say that the disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.state_file, buffer.getbuffer())

    def load_state(self) -> dict | None:
        """Return what `save_state` wrote last; None at the beginning of a run."""
        if not self.state_file.exists():
            return None
        try:
            data = io.BytesIO(self.state_file.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {self.state_file}: {reason(error)}") from None
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
            state.get("position", {}).pop("listing", None)  # of runs before content.json
            return state
        except MemoryError:
            raise
        except Exception:  # there is no end to what PyTorch raises for a damaged file
            whole = []
            for weights in (self.best, self.last):
                with suppress(UserError):
                    whole += [_read_safetensors(weights) and str(weights)]
            text = f"the training state {self.state_file} is damaged"
            text += f": delete {self.path} to start over"
            if whole:
                text += f", or begin another run from weights that are whole: {', '.join(whole)}"
            raise UserError(text) from None

    def last_checkpoint(self) -> str:
        """Return in words where the run can go on from."""
        if self.state_file.exists():
            return f"the last good checkpoint is {self.state_file}"
        return "there is no checkpoint yet"

    def result(self, state: TrainingState) -> TrainResult:
        """Return what the run has come to."""
        best = state.best_val_eer, state.best_epoch
        return TrainResult(self.path, self.best, self.last, *best, state.rows, state.unreadable)

    def write_metrics(self, rows: list[dict]) -> None:
        """Write metrics.csv; None becomes an empty field."""
        table = [
            ["" if row[name] is None else row[name] for name in METRIC_COLUMNS] for row in rows
        ]
        write_csv(self.metrics_file, [METRIC_COLUMNS, *table])

    def write_tensorboard(self, row: dict) -> None:
        """Add a row of metrics.csv to the folder `tensorboard`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.path / "tensorboard")) as board:
            for name, value in row.items():
                if value is not None and name not in ("epoch", "step"):
                    board.add_scalar(name, value, row["epoch"])
