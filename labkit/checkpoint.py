"""What a training run leaves on disk: the run folder, weights in and out, state for resuming."""

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from labkit.config import TrainConfig, read_settings
from labkit.models import InputSpec, build_model
from labkit.reference import load_reference_model
from labkit.registry import MODELS
from labkit.utils import (
    UserError,
    atomic_path,
    folder_lock,
    reason,
    sha256,
    short_reason,
    write_bytes,
    write_csv,
)

__all__ = [
    "METRIC_COLUMNS",
    "LoadReport",
    "RunFolder",
    "WeightsInfo",
    "load_initial_weights",
    "load_reference_model",
    "load_weights",
    "read_metrics",
    "save_weights",
]

METRIC_COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_eer",
    "images_per_second",
    "seconds",
)
# Settings that a run may be resumed with in another value: they do not change what was learned.
_FREE_SETTINGS = {
    "run_dir",
    "max_epoch",
    "workers",
    "device",
    "checkpoint_minutes",
    "compile",
    "tensorboard",
}


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself.

    model: registered name of the network. embedding_size: numbers per face. input: the size and
    normalization that the network needs. path, sha256: which file it was.
    """

    model: str
    embedding_size: int
    input: InputSpec
    path: Path
    sha256: str


def save_weights(
    path: str | Path,
    model: nn.Module,
    *,
    model_name: str,
    embedding_size: int,
    input_spec: InputSpec,
) -> None:
    """Write a network as .safetensors that can be used with nothing but its path."""
    about = dict(
        model=model_name,
        embedding_size=embedding_size,
        image_size=input_spec.image_size,
        mean=list(input_spec.mean),
        std=list(input_spec.std),
    )
    tensors = {
        # A copy of each, as the format knows no tensor under two names (tied layers).
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    with atomic_path(path) as beside:
        save_file(tensors, beside, metadata={"facelab": json.dumps(about)})


def load_weights(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[nn.Module, WeightsInfo]:
    """The network of a .safetensors file of ours, in evaluation mode, and what the file says.

    Raises UserError when the file is missing, damaged, or not written by `save_weights`.
    """
    path = Path(path)
    tensors, about = _read_safetensors(path)
    if about is None:
        raise UserError(f"{path} does not say which network it holds: it is not a weights file")
    try:
        spec = InputSpec(about["image_size"], tuple(about["mean"]), tuple(about["std"]))
        info = WeightsInfo(about["model"], about["embedding_size"], spec, path, sha256(path))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a weights file of this kit: {error} is missing") from None
    if ":" not in info.model and info.model not in MODELS:
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


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict | None]:
    """The tensors of a file and, when it is one of ours, what it says of itself."""
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            about = (file.metadata() or {}).get("facelab")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file: {error}") from None
    return tensors, None if about is None else json.loads(about)


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were taken over, and which were not and why."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for kind, names in (
            ("not in the file", self.missing),
            ("not in the network", self.unexpected),
            ("of another shape", self.mismatched),
        ):
            if names:
                more = ", …" if len(names) > 3 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def load_initial_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Start `model` from a weights file of ours or a checkpoint of the reference trainer.

    Tensors whose name and shape fit are taken over; the report names the others. Raises
    UserError when fewer than half of the network's tensors fit: it is another model's file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state, _ = _read_safetensors(path)
    else:
        state = load_reference_model(path).state_dict()
    own = model.state_dict()
    fits = [name for name in own if name in state and state[name].shape == own[name].shape]
    report = LoadReport(
        loaded=tuple(fits),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(
            name for name in own if name in state and state[name].shape != own[name].shape
        ),
    )
    if 2 * len(fits) < len(own):
        raise UserError(
            f"{path} is a checkpoint of another model: only {len(fits)} of "
            f"{len(own)} tensors of this network are in it"
        )
    model.load_state_dict({name: state[name] for name in fits}, strict=False)
    return report


def read_metrics(path: str | Path) -> list[dict[str, float | None]]:
    """The rows of a metrics.csv, one per epoch; an epoch without validation has val_eer None."""
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


class RunFolder:
    """The folder of one training run; a context manager that keeps other runs out of it.

    It holds config.yaml, metrics.csv, last/state.pt (all that resuming needs), best.safetensors
    and last.safetensors. Every file is written beside and renamed into place.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.csv"
        self.state_file = self.path / "last" / "state.pt"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"

    def __enter__(self) -> "RunFolder":
        self._lock = folder_lock(self.path)
        self._lock.__enter__()
        for killed_in_mid_write in (
            *self.path.glob(".*.partial*"),
            *self.path.glob("last/.*.partial*"),
        ):
            killed_in_mid_write.unlink(missing_ok=True)
        return self

    def __exit__(self, *error) -> None:
        self._lock.__exit__(*error)

    def begin(self, config: TrainConfig) -> dict:
        """Write the settings, or hold them against those that the run here was made with.

        Returns the earlier settings, none for a new run. A folder without a saved state has no
        run yet: a mistake in the first command costs nothing. Raises UserError that names the
        settings which differ.
        """
        earlier = {}
        if self.config_file.exists() and self.state_file.exists():
            earlier = read_settings(self.config_file)
            differing = [
                f"{name} ({earlier.get(name)!r}, now {value!r})"
                for name, value in dataclasses.asdict(config).items()
                if name not in _FREE_SETTINGS and earlier.get(name) != value
            ]
            if differing:
                raise UserError(
                    f"{self.path} was made with other settings: {', '.join(differing)}; "
                    "choose another run folder, or delete this one to start over"
                )
        config.to_yaml(self.config_file)
        return earlier

    def save_state(self, state: dict) -> None:
        """Write all that resuming needs, as one file."""
        # Through memory: PyTorch's own writer does not say that the disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.state_file, buffer.getbuffer())

    def load_state(self) -> dict | None:
        """What `save_state` wrote last; None at the beginning of a run."""
        if not self.state_file.exists():
            return None
        try:
            return torch.load(self.state_file, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(f"cannot read {self.state_file}: {reason(error)}") from None
        except MemoryError:
            raise
        except Exception as error:  # there is no end to what PyTorch raises for a damaged file
            kept = f", or begin another with the initial_weights {self.last}"
            raise UserError(
                f"{self.state_file} is damaged ({short_reason(error)}): delete the run folder"
                + (kept if self.last.exists() else "")
            ) from None

    def write_metrics(self, rows: list[dict]) -> None:
        """Write metrics.csv anew; None becomes an empty field."""
        table = [
            ["" if row[name] is None else row[name] for name in METRIC_COLUMNS] for row in rows
        ]
        write_csv(self.metrics_file, [METRIC_COLUMNS, *table])
