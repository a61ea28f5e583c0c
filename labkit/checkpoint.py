"""What a training run leaves on disk: the run folder, weights in and out, training state."""

import csv
import dataclasses
import hashlib
import io
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from labkit.config import PATHS, TrainConfig
from labkit.data import FaceFolder, PairList
from labkit.data.images import Source, read_source
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
FREE_SETTINGS = (
    "max_epoch workers device checkpoint_minutes drop_optimizer compile tensorboard".split()
)


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
    tensors = {key: value.cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facelab": json.dumps(about)})


def load_weights(
    path: str | Path, device: str | torch.device = "cpu", image_size: int = 224
) -> tuple[nn.Module, WeightsInfo]:
    """Return the network of a weights file in evaluation mode, and what the file says.

    Takes what `load_voxceleb_model` takes too, which does not say its `image_size`. Raises
    UserError when the file is missing, damaged, or neither of the two.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        model, spec = load_voxceleb_model(path), InputSpec(image_size)
        size = len(model.get_parameter("fc.weight"))
        info = WeightsInfo(type(model).__name__, size, spec, path, sha256(path))
        return model.to(device), info
    tensors, about = _read_safetensors(path)
    try:
        about = json.loads(about)
        spec = InputSpec(about["image_size"], tuple(about["mean"]), tuple(about["std"]))
        info = WeightsInfo(about["model"], about["embedding_size"], spec, path, sha256(path))
        sizes = spec.image_size, info.embedding_size
        finite = np.isfinite([spec.mean, spec.std]).reshape(2, 3).all()
        if {*map(type, sizes)} != {int} or min(*sizes, *spec.std) <= 0 or not finite:
            raise ValueError("a size, mean or std is out of range")
    except Exception as error:  # whatever another program has put there
        why = f"what it says of itself is wrong ({short_reason(error)})"
        raise UserError(f"{path} is not a weights file of this kit: {why}") from None
    if ":" not in str(info.model) and info.model not in MODELS:
        how = "give the file that registers it with --plugin, or run the notebook cell that does"
        raise UserError(f"{path} holds the network {info.model}, none of the kit's: {how}")
    model = build_model(info.model, info.embedding_size)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{path} does not fit the network {info.model} that it names") from None
    return model.to(device).eval(), info


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors of a file and what it says of itself: nothing when it is not ours."""
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, (file.metadata() or {}).get("facelab", "{}")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file: {error}") from None


def load_initial_weights(model: nn.Module, path: str | Path) -> str:
    """Start `model` from a weights file of ours or a checkpoint of the VoxCeleb trainer.

    Tensors whose name and shape fit are loaded; the returned line names the others. Raises
    UserError when fewer than half of the network's tensors fit: it is another model's file.
    """
    path, own = Path(path), model.state_dict()
    ours = path.suffix == ".safetensors"
    state = _read_safetensors(path)[0] if ours else _checkpoint_tensors(path, next(iter(own)))
    fits = {name for name in own if name in state and state[name].shape == own[name].shape}
    if 2 * len(fits) < len(own):
        found = f"only {len(fits)} of {len(own)} tensors of this network are in it"
        raise UserError(f"{path} is a checkpoint of another model: {found}")
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


def load_voxceleb_model(path: str | Path) -> nn.Module:
    """Return the network in a checkpoint of another trainer, on the CPU in eval mode.

    Such a file is a PyTorch state dict, or a dictionary with one, as Lightning writes it. Prefixes
    (`__S__.` of the VoxCeleb trainer, `module.`) and other tensors do not matter, and nothing in
    the file runs. The network is the one whose layers fit. Raises UserError when the file is
    missing, is no checkpoint, would run code when loaded, or fits no network.
    """
    state = _checkpoint_tensors(Path(path), "conv1.weight")
    if "fc.weight" not in state:
        raise UserError(f"{path}: the network has no layer fc, so it is none of this kit's")
    for name in MODELS.names():
        with torch.device("meta"):
            model = build_model(name, len(state["fc.weight"]))
        own = model.state_dict()
        parts = {key.partition(".")[0] for key in own}  # others, as the loss, stand beside it
        weights = {key: state[key] for key in state if key.partition(".")[0] in parts}
        if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in weights.items()}:
            model.load_state_dict(weights, assign=True)
            return model.eval()
    raise UserError(f"{path}: fits none of {', '.join(MODELS.names())}")


def _checkpoint_tensors(path: Path, layer: str) -> dict[str, torch.Tensor]:
    """Return a network's tensors, without the prefix of its `layer` and a loss's (`__L__`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about how the file was pickled
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except Exception as error:  # what a damaged file makes torch.load raise has no common class
        if re.search("GLOBAL|unrecognized function|allowlisted", str(error)):
            why = "it holds more than weights and loading it could run code"
            raise UserError(f"{path}: refused, because {why}; save the state dict alone") from None
        raise UserError(f"{path}: is damaged or not a PyTorch checkpoint") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state dict but a {type(state).__name__}")
    for key in ("state_dict", "model", "state_dict_backbone", "model_state_dict"):
        state = state[key] if isinstance(state.get(key), dict) else state
    state = {k: v for k, v in state.items() if torch.is_tensor(v) and "__L__." not in k}
    found = [key for key in state if key.endswith(layer)]
    prefix = min(found, key=len, default=layer).removesuffix(layer)
    return {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}


def content_digests(config: TrainConfig, listing: Path) -> dict[str, str | list[str]]:
    """Return digests of the pictures, files and own code that a run is made of, by their names.

    The content counts, so that everything may move; what is not there is left out. Of pictures, all
    names count and up to 32 of the files. listing: the file that keeps the names in train_dir.
    """
    digests = {}
    with suppress(OSError, UserError):
        faces = FaceFolder.scan(config.train_dir, extensions=config.train_extensions, cache=listing)
        some = [faces.source(i) for i in range(0, len(faces), len(faces) // 32 + 1)]
        digests["the pictures in train_dir"] = [faces.digest(), *map(_digest, some)]
    for name in ("val_list", "initial_weights"):
        with suppress(OSError):
            path = getattr(config, name)
            digests[name] = sha256(path) if path else "none"
    with suppress(OSError, UserError):
        if config.val_list:
            pairs = PairList.read(config.val_list)
            some = map(pairs.find(config.val_dir), pairs.files[:: len(pairs.files) // 32 + 1])
            digests["the pictures in val_dir"] = [*map(_digest, some)]
    python = "Python {}.{}, as text".format(*sys.version_info)  # each parses in its own way
    for registry, name in ((MODELS, config.model), (LOSSES, config.loss)):
        if name in registry and not is_built_in(entry := registry.get(name)):
            digests[f"the code of the {registry.kind} {name} ({python})"] = code_digest(entry)
    return digests


def _digest(source: Source) -> str:
    return hashlib.sha256(read_source(source)).hexdigest()


def read_metrics(path: str | Path) -> list[dict[str, float | None]]:
    """Return the rows of a metrics.csv; an epoch without validation has val_eer None."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{key: float(row[key]) if row[key] else None for key in row} for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; has the run begun?") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a metrics file of this kit") from None


@dataclass
class TrainingState:
    """How far a run has come and what it has measured on the way.

    epoch, step: finished epochs, and finished steps of the next one, over which the sums go. rows:
    one dictionary per epoch, as in metrics.csv. unreadable: names of images not decoded.
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
        """Take in a finished epoch; return whether it is the best, without validation always."""
        eer, best = row["val_eer"], not validated
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

        Paths may differ where the content is the same. Raises UserError that names what differs.
        """
        with folder_lock(self.path):
            for left_by_a_kill in self.path.rglob(".*.partial*"):
                left_by_a_kill.unlink(missing_ok=True)
            content = content_digests(config, self.path / "train_scan.npz")
            if self.config_file.exists() and self.state_file.exists():
                earlier = TrainConfig.from_yaml(self.config_file)
                differing = [
                    f"{name} ({was!r}, now {getattr(config, name)!r})"
                    for name, was in vars(earlier).items()
                    if name not in FREE_SETTINGS + PATHS and was != getattr(config, name)
                ]
                file = self.content_file
                known = json.loads(file.read_text()) if file.exists() else {}
                content = known | content
                differing += [f"{name} (changed)" for name in known if content[name] != known[name]]
                if differing:
                    what = f"{self.path} was made with other settings: {', '.join(differing)}"
                    raise UserError(f"{what}; choose another run folder, or delete this one")
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
            state = torch.load(data, map_location="cpu", weights_only=True)
            state.get("position", {}).pop("listing", None)  # of runs before content.json
            return state
        except OSError as error:
            raise UserError(f"cannot read {self.state_file}: {reason(error)}") from None
        except Exception:  # there is no end to what PyTorch raises for a damaged file
            text = f"{self.state_file} is damaged: delete {self.path} to start over"
            for weights in (self.best, self.last):
                with suppress(UserError):
                    _read_safetensors(weights)
                    text += f", or begin another run from weights that are whole: {weights}"
            raise UserError(text) from None

    def last_checkpoint(self) -> str:
        """Return in words where the run can go on from."""
        there = self.state_file.exists()
        return f"the last good checkpoint is {self.state_file}" if there else "no checkpoint yet"

    def result(self, state: TrainingState) -> TrainResult:
        """Return what the run has come to."""
        best = state.best_val_eer, state.best_epoch
        return TrainResult(self.path, self.best, self.last, *best, state.rows, state.unreadable)

    def write_metrics(self, rows: list[dict]) -> None:
        """Write metrics.csv; None becomes an empty field."""
        table = [[row[name] for name in METRIC_COLUMNS] for row in rows]
        write_csv(self.metrics_file, [METRIC_COLUMNS, *table])

    def write_tensorboard(self, row: dict) -> None:
        """Add a row of metrics.csv to the folder `tensorboard`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.path / "tensorboard")) as board:
            for name, value in row.items():
                if value is not None and name not in ("epoch", "step"):
                    board.add_scalar(name, value, row["epoch"])
