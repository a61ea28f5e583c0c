"""What is looked at before training begins, so that a mistake costs seconds and not an epoch."""

from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from labkit.config import TrainConfig
from labkit.data import PairList
from labkit.data.images import DAMAGED, FORMATS, what_is_wrong
from labkit.losses import build_loss
from labkit.models import InputSpec, normalize
from labkit.registry import line_of
from labkit.train.run import Position
from labkit.train.step import same_buffers
from labkit.trainset import TrainingData
from labkit.utils import UserError, progress, short_reason


def check_data(data: TrainingData, config: TrainConfig, here: Position, processes: int) -> None:
    """UserError when the data do not fit the settings or the run so far."""
    identities, images, listing = data.identities, data.images, data.digest()
    if identities < 2:
        raise UserError(f"{data.where} has one identity: training needs two or more")
    if config.num_classes is not None and identities > config.num_classes:
        raise UserError(
            f"{data.where} has {identities} identities, more than num_classes (nClasses) "
            f"{config.num_classes}: leave it out, or raise it"
        )
    if config.batch_size // processes * config.images_per_class < 2:
        raise UserError(
            f"a batch_size of {config.batch_size} leaves a process with one image, from which "
            "batch norm cannot learn: raise it"
        )
    if here.images and (here.identities, here.images) != (identities, images):
        raise UserError(
            f"{data.where} has changed since this run began ({here.images} images of "
            f"{here.identities} identities, now {images} of {identities}): "
            "choose another run folder"
        )
    if here.listing and here.listing != listing:
        raise UserError(
            f"{data.where} has changed since this run began (files or folders have other names): "
            "choose another run folder"
        )
    here.identities, here.images, here.listing = identities, images, listing


def read_validation(config: TrainConfig) -> PairList:
    """The validation list with its labels, once every image of it is known to be one."""
    pairs = PairList.read(config.val_list, config.val_dir)
    pairs.check_labels(config.val_list)
    for name in progress(pairs.files, desc="validation images", unit="image", leave=False):
        path = Path(config.val_dir) / name
        try:
            with open(path, "rb") as file, Image.open(file, formats=FORMATS):
                pass
        except (*DAMAGED, Image.DecompressionBombError) as error:
            raise UserError(
                f"the validation image {path} cannot be read: {what_is_wrong(error)}"
            ) from None
    return pairs


def checked_loss(config: TrainConfig, identities: int) -> nn.Module:
    """The loss of the settings, which must fit `images_per_class`."""
    names = ("margin", "scale", "mining", "temperature")
    settings = {name: getattr(config, name) for name in names}
    loss = build_loss(
        config.loss,
        embedding_size=config.embedding_size,
        num_classes=config.num_classes or identities,
        **{name: value for name, value in settings.items() if value is not None},
    )
    least = getattr(loss, "min_images_per_class", 1)
    if config.images_per_class < least:
        raise UserError(
            f"the loss {config.loss} compares images of one person: set images_per_class "
            f"(nPerClass) to {least} or more"
        )
    return loss


def try_out(network: nn.Module, loss: nn.Module, spec: InputSpec, config: TrainConfig) -> bool:
    """Two images through the network, and a batch of random embeddings through the loss.

    Returns whether parameters of one of them take no part. Leaves buffers and random states as
    they were. Raises UserError for a network that cannot take images of that size, and for a
    network or loss of the user's own that is not as the README says.
    """
    faces = torch.zeros(2, 3, spec.image_size, spec.image_size, dtype=torch.uint8)
    rows = (config.batch_size, config.images_per_class, config.embedding_size)
    with torch.random.fork_rng(devices=[]), same_buffers(network), same_buffers(loss):
        try:
            embeddings = network.eval()(normalize(faces, spec))
        except Exception as error:
            raise UserError(
                f"the network {config.model} does not work on images of {spec.image_size} px"
                f"{_place(error, config)}: {short_reason(error)}"
            ) from error
        wanted = (len(faces), config.embedding_size)
        if not isinstance(embeddings, torch.Tensor) or embeddings.shape != wanted:
            raise UserError(
                f"the network {config.model} must turn {len(faces)} images into a tensor of shape "
                f"{wanted}, it gives {_in_words(embeddings)}"
            )
        random = F.normalize(torch.randn(rows), dim=-1).requires_grad_()
        try:
            output = loss.train()(random, torch.arange(config.batch_size))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the loss {config.loss} does not work on embeddings of shape {rows}"
                f"{_place(error, config)}: {short_reason(error)}"
            ) from error
        loss_of_batch = output[0] if isinstance(output, tuple) and len(output) == 2 else None
        one_number = isinstance(loss_of_batch, torch.Tensor) and loss_of_batch.shape == ()
        if not one_number or not loss_of_batch.requires_grad:
            raise UserError(
                f"the loss {config.loss} must return LossOutput(loss, accuracy) with the loss a "
                f"tensor of one number that has a gradient, it gives {_in_words(output)}"
            )
        return _some_unused(network, embeddings.sum()) or _some_unused(loss, loss_of_batch)


def _some_unused(module: nn.Module, result: torch.Tensor) -> bool:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return False
    if not result.requires_grad:
        return True
    gradients = torch.autograd.grad(result, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _place(error: Exception, config: TrainConfig) -> str:
    return line_of(error, config.plugin) if config.plugin else ""


def _in_words(value: object) -> str:
    if isinstance(value, torch.Tensor):
        kind = "a tensor of shape " + str(tuple(value.shape))
        return kind if value.requires_grad else kind + " without a gradient"
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_words, value))})"
    return f"{type(value).__name__} {value!r}"[:60]
