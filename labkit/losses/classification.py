"""Losses that learn one vector per training identity and sort images among them.

With more than one image per identity in a batch, every image counts as one example.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from labkit.losses.base import EmbeddingLoss, LossOutput, check_setting, percent_right
from labkit.registry import LOSSES
from labkit.utils import UserError


@LOSSES.register("softmax", "crossentropy")
class Softmax(EmbeddingLoss):
    """A linear classifier over the training identities with cross-entropy.

    loss = mean over images of -log softmax(W x + b)[label].

    Args:
        embedding_size: numbers per embedding.
        num_classes: training identities.

    Accuracy: percent of images whose largest logit is their own identity's.

    Raises:
        UserError: fewer than 2 classes.

    Example:
        >>> loss_function = Softmax(embedding_size=512, num_classes=8631)
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 1, 512) and (200,)
        >>> loss.backward()
    """

    needs_classes = True

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        _check_classes(num_classes)
        self.fc = nn.Linear(embedding_size, num_classes)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        x, targets = one_row_per_image(embeddings, labels)
        logits = self.fc(x)
        return LossOutput(F.cross_entropy(logits, targets), percent_right(logits, targets))


class CosineClassifier(EmbeddingLoss):
    """Base of the margin losses: cosines between images and one unit vector per identity.

    A subclass overrides `with_margin`, which makes the cosine to the own identity smaller and so
    its task harder while training.
    """

    needs_classes = True

    def __init__(self, embedding_size: int, num_classes: int, margin: float, scale: float):
        super().__init__()
        _check_classes(num_classes)
        check_setting("margin", margin, 0)
        check_setting("scale", scale, 0, inclusive=False)
        self.margin = margin
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.xavier_normal_(self.weight)

    def with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        """The cosine of each image to its own identity (n,) after the margin (n,)."""
        raise NotImplementedError

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        x, targets = one_row_per_image(embeddings, labels)
        cosines = F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))
        own = cosines.gather(1, targets[:, None])
        shrunk = self.with_margin(own.squeeze(1))[:, None]
        logits = self.scale * cosines.scatter(1, targets[:, None], shrunk)
        return LossOutput(F.cross_entropy(logits, targets), percent_right(cosines, targets))

    def extra_repr(self) -> str:
        classes, size = self.weight.shape
        return (
            f"embedding_size={size}, num_classes={classes}, margin={self.margin},"
            f" scale={self.scale}"
        )


@LOSSES.register("amsoftmax", "cosface", "additivemarginsoftmax")
class AMSoftmax(CosineClassifier):
    """Additive-margin softmax (CosFace).

    loss = mean over images of -log softmax(s · (cos θ_j - m · [j = label]))[label], where θ_j is
    the angle between the embedding and the vector of identity j.

    Source: Wang et al., Additive Margin Softmax for Face Verification, 2018 (arXiv:1801.05599),
    equation 6; Wang et al., CosFace, 2018 (arXiv:1801.09414), equation 4.

    Args:
        embedding_size: numbers per embedding.
        num_classes: training identities.
        margin: m, subtracted from the cosine to the own identity.
        scale: s, the factor on all cosines.

    Accuracy: percent of images whose largest cosine, without margin, is their own identity's.

    Raises:
        UserError: fewer than 2 classes, a margin below 0 or a scale that is not positive.

    Example:
        >>> loss_function = AMSoftmax(512, 8631, margin=0.1, scale=30)
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 1, 512) and (200,)
        >>> loss.backward()
    """

    def __init__(
        self, embedding_size: int, num_classes: int, margin: float = 0.1, scale: float = 30.0
    ):
        super().__init__(embedding_size, num_classes, margin, scale)

    def with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        return cosine - self.margin


@LOSSES.register("aamsoftmax", "arcface", "additiveangularmarginsoftmax")
class AAMSoftmax(CosineClassifier):
    """Additive-angular-margin softmax (ArcFace).

    loss = mean over images of -log softmax(s · cos(θ_j + m · [j = label]))[label]. Where
    θ + m would pass π, and the cosine would grow again, cos θ - m sin m is used instead.

    Source: Deng et al., ArcFace, 2019 (arXiv:1801.07698), equation 3.

    Args:
        embedding_size: numbers per embedding.
        num_classes: training identities.
        margin: m, added to the angle to the own identity, in radians (0 to π).
        scale: s, the factor on all cosines.

    Accuracy: percent of images whose largest cosine, without margin, is their own identity's.

    Raises:
        UserError: fewer than 2 classes, a margin outside 0 to π or a scale that is not positive.

    Example:
        >>> loss_function = AAMSoftmax(512, 8631, margin=0.5, scale=64)
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 1, 512) and (200,)
        >>> loss.backward()
    """

    def __init__(
        self, embedding_size: int, num_classes: int, margin: float = 0.5, scale: float = 64.0
    ):
        super().__init__(embedding_size, num_classes, margin, scale)
        if margin >= math.pi:
            raise UserError(f"the margin of AAMSoftmax is an angle below pi, not {margin}")

    def with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        # The floor keeps the square root's slope finite where an image sits on its own vector.
        sine = (1.0 - cosine.square()).clamp(min=1e-7).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, beyond)


def one_row_per_image(
    embeddings: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, m, d) and (batch,) to (batch · m, d) and (batch · m,)."""
    return embeddings.flatten(0, 1), labels.repeat_interleave(embeddings.shape[1])


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 training identities, not {num_classes}")
