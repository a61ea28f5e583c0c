"""Losses that compare the images of a batch with each other."""

import torch
import torch.nn.functional as F
from torch import nn

from labkit.losses.base import (
    EmbeddingLoss,
    LossOutput,
    check_setting,
    percent_right,
    require_two_identities,
)
from labkit.losses.classification import Softmax
from labkit.registry import LOSSES
from labkit.utils import UserError


@LOSSES.register("triplet")
class Triplet(EmbeddingLoss):
    """Anchor, positive and negative: the positive must be nearer, by a margin.

    loss = mean over triplets of max(0, |a - p|² - |a - n|² + margin), on embeddings of unit
    length. The anchor is the first image of an identity, the positives are its other images, one
    triplet each; the negative is an image of another identity of the batch.

    Source: Schroff et al., FaceNet, 2015 (arXiv:1503.03832), equations 1 to 4.

    Args:
        margin: in squared distances, which reach from 0 to 4.
        mining: how the negative is chosen: "random" (any, with PyTorch's global CPU generator),
            "semihard" (the nearest of those farther away than the positive, or the farthest of all
            if none is) or "hard" (the nearest).

    Accuracy: percent of triplets whose positive is nearer than their negative.

    Raises:
        UserError: an unknown mining, a negative margin, fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = Triplet(margin=0.2, mining="semihard")
        >>> loss, accuracy = loss_function(embeddings, labels)  # (100, 2, 512) and (100,)
        >>> loss.backward()
    """

    min_images_per_class = 2
    MININGS = ("random", "semihard", "hard")

    def __init__(self, margin: float = 0.1, mining: str = "random"):
        super().__init__()
        check_setting("margin", margin, 0)
        if mining not in self.MININGS:
            raise UserError(f"mining is one of {', '.join(self.MININGS)}, not {mining!r}")
        self.margin = margin
        self.mining = mining

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        require_two_identities(embeddings, self)
        per_class = embeddings.shape[1]
        x = F.normalize(embeddings, dim=2)
        anchors = x[:, 0].repeat_interleave(per_class - 1, dim=0)
        positives = x[:, 1:].flatten(0, 1)
        # |a - b|² = 2 - 2 cos for unit vectors.
        to_positive = 2 - 2 * (anchors * positives).sum(dim=1)
        to_all = (2 - 2 * x[:, 0] @ x.flatten(0, 1).T).repeat_interleave(per_class - 1, dim=0)
        other = labels[:, None] != labels.repeat_interleave(per_class)[None, :]
        other = other.repeat_interleave(per_class - 1, dim=0)
        chosen = self._choose(to_positive.detach(), to_all.detach(), other)
        to_negative = to_all.gather(1, chosen[:, None]).squeeze(1)
        with torch.no_grad():
            accuracy = 100.0 * (to_positive < to_negative).float().mean()
        return LossOutput(F.relu(to_positive - to_negative + self.margin).mean(), accuracy)

    def _choose(self, to_positive, to_all, other) -> torch.Tensor:
        if self.mining == "random":
            # Drawn on the CPU, so that a seed gives the same negatives on every device.
            draw = torch.rand(len(other)).to(other.device)
            nth = (draw * other.sum(dim=1)).long().clamp(max=other.sum(dim=1) - 1)
            return (other.cumsum(dim=1) > nth[:, None]).int().argmax(dim=1)
        nearest = to_all.masked_fill(~other, torch.inf)
        if self.mining == "hard":
            return nearest.argmin(dim=1)
        semihard = nearest.masked_fill(to_all <= to_positive[:, None], torch.inf)
        farthest = to_all.masked_fill(~other, -torch.inf).argmax(dim=1)
        return torch.where(semihard.isfinite().any(dim=1), semihard.argmin(dim=1), farthest)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, mining={self.mining!r}"


@LOSSES.register("proto", "prototypical")
class Prototypical(EmbeddingLoss):
    """Prototypical networks: which identity's prototype is nearest to the query?

    The first image of each identity is the query q, the mean of its others the prototype c.
    loss = mean over identities i of -log softmax over j of (-|q_i - c_j|²) at j = i.

    Source: Snell et al., Prototypical Networks for Few-shot Learning, 2017 (arXiv:1703.05175),
    equations 1 and 2.

    Accuracy: percent of queries whose nearest prototype is their own.

    Raises:
        UserError: fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = Prototypical()
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 2, 512) and (200,)
        >>> loss.backward()
    """

    min_images_per_class = 2

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        require_two_identities(embeddings, self)
        queries, prototypes = embeddings[:, 0], embeddings[:, 1:].mean(dim=1)
        # |q|² is the same for all prototypes and drops out of the softmax.
        scores = 2 * queries @ prototypes.T - prototypes.square().sum(dim=1)
        return _match_by_position(scores)


class _LearnedScale(EmbeddingLoss):
    """Base of the losses with w · cos + b, where w > 0 and b are learned."""

    min_images_per_class = 2

    def __init__(self, init_w: float = 10.0, init_b: float = -5.0):
        super().__init__()
        check_setting("init_w", init_w, 0, inclusive=False)
        self.w = nn.Parameter(torch.tensor(float(init_w)))
        self.b = nn.Parameter(torch.tensor(float(init_b)))

    def scores(self, cosines: torch.Tensor) -> torch.Tensor:
        # The value stays above 0; the gradient passes, so that w can grow again.
        w = self.w + (self.w.clamp(min=1e-6) - self.w).detach()
        return w * cosines + self.b


@LOSSES.register("angproto", "angleproto", "angularprototypical")
class AngularPrototypical(_LearnedScale):
    """Prototypical loss on cosines, with a learned scale and shift.

    The first image of each identity is the query q, the mean of its others the prototype c.
    loss = mean over identities i of -log softmax over j of (w cos(q_i, c_j) + b) at j = i.

    Source: Chung et al., In defence of metric learning for speaker recognition, 2020
    (arXiv:2003.11982), section 2.3. (b cannot change the loss; it is kept because the paper and
    its checkpoints have it.)

    Args:
        init_w: the scale w at the start; more than 0, and kept so.
        init_b: the shift b at the start.

    Accuracy: percent of queries whose largest cosine is to their own prototype.

    Raises:
        UserError: init_w not positive, fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = AngularPrototypical()
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 2, 512) and (200,)
        >>> loss.backward()
    """

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        require_two_identities(embeddings, self)
        queries = F.normalize(embeddings[:, 0], dim=1)
        prototypes = F.normalize(embeddings[:, 1:].mean(dim=1), dim=1)
        return _match_by_position(self.scores(queries @ prototypes.T))


@LOSSES.register("ge2e", "generalizedendtoend")
class GE2E(_LearnedScale):
    """Generalized end-to-end loss: each image against the centroid of each identity.

    Embeddings e_ji of unit length; c_k is the mean of identity k's, without e_ji itself where
    k = j. loss = mean over images of -log softmax over k of (w cos(e_ji, c_k) + b) at k = j.

    Source: Wan et al., Generalized End-to-End Loss for Speaker Verification, 2018
    (arXiv:1710.10467), equations 1, 6, 8 and 9 (a mean here, where the paper has a sum).

    Args:
        init_w: the scale w at the start; more than 0, and kept so.
        init_b: the shift b at the start.

    Accuracy: percent of images whose largest cosine is to their own identity's centroid.

    Raises:
        UserError: init_w not positive, fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = GE2E()
        >>> loss, accuracy = loss_function(embeddings, labels)  # (100, 3, 512) and (100,)
        >>> loss.backward()
    """

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        require_two_identities(embeddings, self)
        batch, per_class, _ = embeddings.shape
        e = F.normalize(embeddings, dim=2)
        total = e.sum(dim=1)
        without_self = F.normalize(total[:, None] - e, dim=2)
        own = (e * without_self).sum(dim=2, keepdim=True)
        cosines = e @ F.normalize(total, dim=1).T
        position = torch.arange(batch, device=e.device)
        is_own = (position[:, None] == position)[:, None, :]
        scores = self.scores(torch.where(is_own, own, cosines)).flatten(0, 1)
        targets = position.repeat_interleave(per_class)
        return LossOutput(F.cross_entropy(scores, targets), percent_right(scores, targets))


@LOSSES.register("softmaxproto", "softmaxprototypical")
class SoftmaxPrototypical(EmbeddingLoss):
    """The sum of `Softmax` on every image and `AngularPrototypical` on the batch.

    Source: the combined objective of Heo et al., Clova baseline system for the VoxCeleb speaker
    recognition challenge 2020 (arXiv:2009.14153), section 2.3.

    Args:
        embedding_size: numbers per embedding.
        num_classes: training identities.
        init_w, init_b: as in `AngularPrototypical`.

    Accuracy: the one of `Softmax`.

    Raises:
        UserError: fewer than 2 classes, init_w not positive, fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = SoftmaxPrototypical(embedding_size=512, num_classes=1229)
        >>> loss, accuracy = loss_function(embeddings, labels)  # (200, 2, 512) and (200,)
        >>> loss.backward()
    """

    needs_classes = True
    min_images_per_class = 2

    def __init__(
        self, embedding_size: int, num_classes: int, init_w: float = 10.0, init_b: float = -5.0
    ):
        super().__init__()
        self.softmax = Softmax(embedding_size, num_classes)
        self.angleproto = AngularPrototypical(init_w, init_b)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        classified = self.softmax(embeddings, labels)
        matched = self.angleproto(embeddings, labels)
        return LossOutput(classified.loss + matched.loss, classified.accuracy)


@LOSSES.register("supcon", "supervisedcontrastive")
class SupCon(EmbeddingLoss):
    """Supervised contrastive loss: all images of the same identity against all others.

    Embeddings z of unit length, P(i) the other images of image i's identity.
    loss = mean over i of -1/|P(i)| Σ_{p in P(i)} log(exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ)).

    Source: Khosla et al., Supervised Contrastive Learning, 2020 (arXiv:2004.11362), equation 2
    (a mean here, where the paper has a sum).

    Args:
        temperature: τ, more than 0.

    Accuracy: percent of images whose nearest other image shows the same identity.

    Raises:
        UserError: a temperature that is not positive, fewer than 2 images per class.
        ValueError: only one identity in the batch.

    Example:
        >>> loss_function = SupCon(temperature=0.1)
        >>> loss, accuracy = loss_function(embeddings, labels)  # (100, 4, 512) and (100,)
        >>> loss.backward()
    """

    min_images_per_class = 2

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_setting("temperature", temperature, 0, inclusive=False)
        self.temperature = temperature

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        require_two_identities(embeddings, self)
        per_image = labels.repeat_interleave(embeddings.shape[1])
        z = F.normalize(embeddings.flatten(0, 1), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        positive = (per_image[:, None] == per_image) & ~itself
        logits = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        log_share = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(~positive, 0.0)
        loss = -(log_share.sum(dim=1) / positive.sum(dim=1)).mean()
        with torch.no_grad():
            hits = positive.gather(1, logits.argmax(dim=1, keepdim=True))
        return LossOutput(loss, 100.0 * hits.float().mean())

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _match_by_position(scores: torch.Tensor) -> LossOutput:
    """Cross-entropy of scores (batch, batch) whose right answers lie on the diagonal."""
    targets = torch.arange(len(scores), device=scores.device)
    return LossOutput(F.cross_entropy(scores, targets), percent_right(scores, targets))
