"""What is checked before training begins, so that a mistake costs seconds and not an epoch."""

import copy
from pathlib import Path

import torch
from torch import nn

from labkit.checkpoint import TrainingState
from labkit.config import TrainConfig
from labkit.data import FaceFolder
from labkit.losses import build_loss
from labkit.models import InputSpec, normalize
from labkit.registry import names_the_line
from labkit.utils import UserError, printable


def check_data(faces: FaceFolder, config: TrainConfig, state: TrainingState, processes: int) -> str:
    """Check that a face folder fits the settings, and note its size in `state`.

    Returns lines about what was passed over and left out, and the run folder when it is new.
    Raises UserError.
    """
    root, identities, images = faces.root, len(faces.identities), len(faces)
    if identities < 2:
        raise UserError(f"{root} has one identity: training needs two or more")
    if config.num_classes is not None and identities > config.num_classes:
        known = f"more than num_classes (nClasses) {config.num_classes}"
        raise UserError(f"{root} has {identities} identities, {known}: leave it out, or raise it")
    if config.batch_size // processes * config.images_per_class < 2:
        raise UserError("batch norm cannot learn from one image at a time: raise batch_size")
    going_on = state.images > 0
    state.identities, state.images = identities, images
    too_few = int((faces.counts() < config.images_per_class).sum())
    fewer = f"identities have fewer than {config.images_per_class} images and are left out"
    notes = [faces.note, f"{root}: {too_few} of {identities} {fewer}" if too_few else ""]
    notes += ["" if going_on else f"new run folder: {Path(config.run_dir).absolute()}"]
    return "".join(f"{note}\n" for note in notes if note)


def build_and_check_loss(config: TrainConfig, num_identities: int) -> nn.Module:
    """Return the loss of the settings, for that many identities; UserError if they do not fit."""
    names = ("embedding_size", "margin", "scale", "mining", "temperature")
    settings = {name: getattr(config, name) for name in names}
    with names_the_line(f"the loss {config.loss} cannot be made", config.plugin):
        loss = build_loss(config.loss, num_classes=config.num_classes or num_identities, **settings)
    least = getattr(loss, "min_images_per_class", 1)
    if config.images_per_class < least:
        needs = f"set images_per_class (nPerClass) to {least} or more"
        raise UserError(f"the loss {config.loss} compares images of one person: {needs}")
    return loss


def check_network_and_loss(
    network: nn.Module, loss: nn.Module, spec: InputSpec, config: TrainConfig
) -> bool:
    """Return whether parameters of the network or the loss take no part in the training.

    Two black images go through a copy of the network in eval mode, random embeddings through one
    of the loss; no buffer and no random state changes. Raises UserError when one fails or returns
    something else.
    """
    network, loss = copy.deepcopy(network).eval(), copy.deepcopy(loss).train()
    images = torch.zeros(2, 3, spec.image_size, spec.image_size, dtype=torch.uint8)
    shape = (config.batch_size, config.images_per_class, config.embedding_size)
    with torch.random.fork_rng(devices=[]):
        size = f"images of {spec.image_size} px"
        with names_the_line(f"the network {config.model} does not work on {size}", config.plugin):
            embeddings = network(normalize(images, spec))
        wanted = (2, config.embedding_size)
        if not isinstance(embeddings, torch.Tensor) or embeddings.shape != wanted:
            must = f"must turn 2 images into a tensor of shape {wanted}"
            raise UserError(f"the network {config.model} {must}, it gives {_in_words(embeddings)}")
        random = nn.functional.normalize(torch.randn(shape), dim=-1).requires_grad_()
        size = f"embeddings of shape {shape}"
        with names_the_line(f"the loss {config.loss} does not work on {size}", config.plugin):
            output = loss(random, torch.arange(config.batch_size))
    value, accuracy = output if isinstance(output, tuple) and len(output) == 2 else (None, None)
    is_scalar = isinstance(value, torch.Tensor) and value.shape == () and value.requires_grad
    if not is_scalar or (isinstance(accuracy, torch.Tensor) and accuracy.numel() != 1):
        must = "must return LossOutput(loss, accuracy), a scalar with a gradient and one or None"
        raise UserError(f"the loss {config.loss} {must}; it gives {_in_words(output)}")
    trained = [p for p in (*network.parameters(), *loss.parameters()) if p.requires_grad]
    outputs = embeddings.sum() + value
    *gradients, back = torch.autograd.grad(outputs, [*trained, random], allow_unused=True)
    for name, numbers in (("value", value), ("gradient", back)):
        if numbers is not None and not bool(torch.isfinite(numbers).all()):
            look = "look for a log or square root of 0, or a division by 0"
            raise UserError(f"the loss {config.loss} has a {name} that is no number: {look}")
    return any(gradient is None for gradient in gradients)


def _in_words(value: object) -> str:
    if isinstance(value, torch.Tensor):
        gradient = "" if value.requires_grad else " without a gradient"
        return f"a tensor of shape {tuple(value.shape)}{gradient}"
    words = ", ".join(map(_in_words, value)) if isinstance(value, tuple) else printable(value)
    return f"{type(value).__name__}({words})"
