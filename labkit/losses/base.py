"""What all losses share: shapes, precision and the answer they give."""

import math
from typing import NamedTuple

import torch
from torch import nn

from labkit.utils import UserError


class LossOutput(NamedTuple):
    """What a loss answers.

    Attributes:
        loss: scalar tensor to call `backward()` on; float32, or float64 for float64 embeddings.
        accuracy: scalar tensor without gradient, percent (0 to 100) of the loss's own questions
            ("which identity is this?") that the embeddings answer right; None where there is none.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor | None


class EmbeddingLoss(nn.Module):
    """Base of the losses: checks shapes, keeps autocast away, then calls `compute`.

    A loss of your own overrides `compute(embeddings, labels) -> LossOutput`, which is called with
    embeddings (batch, images_per_class, embedding_size) in float32 (float64 stays float64), also
    when the network runs in half precision.

    With several processes, gather the embeddings and labels of all of them first and call the loss
    on the result: every negative that a loss uses comes from what it is given, and nothing else is
    kept between calls.

    Attributes:
        needs_classes: whether the constructor takes `num_classes`, and labels must lie in
            0 … num_classes - 1. Other losses only ask which labels are equal.
        min_images_per_class: the fewest images per identity in a batch.
    """

    needs_classes: bool = False
    min_images_per_class: int = 1

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        """Loss and accuracy of one batch.

        Args:
            embeddings: (batch, images_per_class, embedding_size), floating point.
            labels: (batch,), int64; no identity twice.

        Raises:
            ValueError: shapes that do not fit.
            UserError: fewer images per identity than `min_images_per_class`.
        """
        if embeddings.ndim != 3 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                "expected embeddings (batch, images_per_class, embedding_size) and labels (batch,),"
                f" got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
            )
        if embeddings.shape[1] < self.min_images_per_class:
            raise UserError(
                f"{type(self).__name__} compares images of one identity: it needs at least"
                f" {self.min_images_per_class} images per class, not {embeddings.shape[1]}"
            )
        if embeddings.dtype in (torch.float16, torch.bfloat16):
            embeddings = embeddings.float()
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(embeddings, labels)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        raise NotImplementedError(f"{type(self).__name__} has no compute(embeddings, labels)")


@torch.no_grad()
def percent_right(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Percent of rows of `scores` (n, c) whose largest entry is at `targets` (n,); scalar."""
    return 100.0 * (scores.argmax(dim=1) == targets).float().mean()


def require_two_identities(embeddings: torch.Tensor, loss: nn.Module) -> None:
    """Raises ValueError for a batch in which no image has a negative."""
    if embeddings.shape[0] < 2:
        raise ValueError(f"{type(loss).__name__} needs at least 2 identities in a batch, got 1")


def check_setting(name: str, value: float, low: float, *, inclusive: bool = True) -> None:
    """Raises UserError for a number below `low` (or at it), or not finite."""
    if not (math.isfinite(value) and (value > low or (inclusive and value == low))):
        bound = f"{low:g} or more" if inclusive else f"more than {low:g}"
        raise UserError(f"{name} must be {bound}, not {value}")
