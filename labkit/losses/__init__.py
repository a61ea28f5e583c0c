"""Training objectives for embeddings.

    loss_function = build_loss("amsoftmax", embedding_size=512, num_classes=8631, margin=0.1)
    loss, accuracy = loss_function(embeddings, labels)
    loss.backward()

Every loss takes embeddings of shape (batch, images_per_class, embedding_size), one row per
identity, and labels of shape (batch,), and gives back a `LossOutput`. The losses of
`labkit.losses.classification` learn one vector per training identity; those of
`labkit.losses.metric` compare the images of a batch with each other.

Your own is a class under `@LOSSES.register("mine")`, best one that extends `EmbeddingLoss`.
"""

from typing import Any

from labkit.losses.base import EmbeddingLoss, LossOutput
from labkit.losses.classification import AAMSoftmax, AMSoftmax, Softmax
from labkit.losses.metric import (
    GE2E,
    AngularPrototypical,
    Prototypical,
    SoftmaxPrototypical,
    SupCon,
    Triplet,
)
from labkit.registry import LOSSES, call_with_own_settings
from labkit.utils import UserError

__all__ = [
    "AAMSoftmax",
    "AMSoftmax",
    "AngularPrototypical",
    "EmbeddingLoss",
    "GE2E",
    "LossOutput",
    "Prototypical",
    "Softmax",
    "SoftmaxPrototypical",
    "SupCon",
    "Triplet",
    "build_loss",
    "needs_classes",
]


def needs_classes(name: str) -> bool:
    """Whether a loss must know the number of training identities.

    Raises:
        UserError: the name is unknown.
    """
    return bool(getattr(LOSSES.get(name), "needs_classes", False))


def build_loss(
    name: str, *, embedding_size: int, num_classes: int | None = None, **settings: Any
) -> EmbeddingLoss:
    """A loss by its name, with those of the settings that it takes.

    Args:
        name: a name in `LOSSES` (see `LOSSES.names()`).
        embedding_size: numbers per embedding.
        num_classes: training identities; may be None for losses that compare images only.
        **settings: margin, scale, mining, … A setting of another loss is left out in silence, so
            that one set of settings serves every loss.

    Raises:
        UserError: an unknown name, a setting that no loss takes, a value outside its range, or no
            `num_classes` for a loss that needs it.

    Example:
        >>> loss_function = build_loss("angproto", embedding_size=512)
        >>> loss_function.min_images_per_class
        2
    """
    if num_classes is None and needs_classes(name):
        raise UserError(
            f"the loss {LOSSES.canonical(name)} needs the number of training identities"
        )
    settings = {"embedding_size": embedding_size, "num_classes": num_classes, **settings}
    return call_with_own_settings(LOSSES, name, settings)
