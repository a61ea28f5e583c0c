"""Checkpoints of the reference trainer, read without running anything that is in them."""

import pickle
import re
import warnings
from pathlib import Path

import torch
from torch import nn

from labkit.models import build_model
from labkit.registry import MODELS
from labkit.utils import UserError, reason

NETWORK = "__S__."

# The networks whose layers the reference trainer names as ours.
SAME_LAYERS = (
    "ThinResNet34",
    "ThinResNet50",
    "ThinResNet50V2",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "IResNet18",
    "IResNet34",
    "IResNet50",
)


def load_reference_model(path: str | Path, model_name: str | None = None) -> nn.Module:
    """The network in a `.model` file of the reference trainer.

    Such a file is a PyTorch state dict whose keys begin with `__S__.` (the network) and `__L__.`
    (the loss, left aside here). Only tensors are read from it.

    Args:
        path: the file.
        model_name: the network's name; None to find the one whose layers fit.

    Returns:
        The network on the CPU in eval mode, with the file's embedding size and every one of its
        weights. The class name of the returned module is the network's name.

    Raises:
        UserError: the file is missing, is no checkpoint, would run code when loaded, or holds
            another network than `model_name`.
    """
    path = Path(path)
    weights = _network_weights(path)
    if "fc.weight" not in weights or weights["fc.weight"].ndim != 2:
        raise UserError(f"{path}: the network has no layer fc, so it is none of this kit's")
    embedding_size = len(weights["fc.weight"])
    candidates = SAME_LAYERS if model_name is None else (MODELS.canonical(model_name),)
    for name in candidates:
        if _mismatch(name, embedding_size, weights) is None:
            model = build_model(name, embedding_size)
            model.load_state_dict(weights)
            return model.eval()
    if model_name is None:
        raise UserError(f"{path}: fits none of {', '.join(SAME_LAYERS)}")
    raise UserError(
        f"{path}: is no {candidates[0]}: {_mismatch(candidates[0], embedding_size, weights)};"
        " leave the model's name out to have it found"
    )


def _network_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about how the file was pickled
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except pickle.UnpicklingError as error:
        if re.search("GLOBAL|unrecognized function|allowlisted", str(error)):
            raise UserError(
                f"{path}: refused, because it holds more than weights and loading it could run"
                " code; save the state dict alone"
            ) from None
        raise UserError(f"{path}: is damaged or not a PyTorch checkpoint") from None
    except Exception:
        # What a damaged file makes torch.load raise has no common class.
        raise UserError(f"{path}: is damaged or not a PyTorch checkpoint") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state dict but a {type(state).__name__}")
    weights = {}
    for key, value in state.items():
        key = str(key).removeprefix("module.")
        if key.startswith(NETWORK) and isinstance(value, torch.Tensor):
            weights[key.removeprefix(NETWORK)] = value
    if not weights:
        raise UserError(
            f"{path}: is no checkpoint of the reference trainer, whose keys begin with {NETWORK}"
        )
    return weights


def _mismatch(name: str, embedding_size: int, weights: dict[str, torch.Tensor]) -> str | None:
    """What keeps `weights` from being those of the network `name`; None if they are."""
    with torch.device("meta"):
        wanted = build_model(name, embedding_size).state_dict()
    for key, tensor in wanted.items():
        if key not in weights:
            return f"layer {key} is missing"
        if weights[key].shape != tensor.shape:
            return f"layer {key} is {tuple(weights[key].shape)}, not {tuple(tensor.shape)}"
    extra = sorted(set(weights) - set(wanted))
    return f"layer {extra[0]} is one too many" if extra else None
