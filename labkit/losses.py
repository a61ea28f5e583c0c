"""Training objectives for embeddings.

    loss_function = build_loss("amsoftmax", embedding_size=512, num_classes=8631, margin=0.1)
    loss, accuracy = loss_function(embeddings, labels)  # (200, 1, 512) and (200,)
    loss.backward()

`Softmax`, `AMSoftmax` and `AAMSoftmax` classify each image: they learn a vector of `embedding_size`
numbers for each of the `num_classes` training identities (two or more). `Triplet` and those below
it compare the images of a batch with each other. Your own is a class under
`@LOSSES.register("mine")`, best one that extends `EmbeddingLoss`.
"""

import math
from inspect import signature
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from labkit.registry import LOSSES
from labkit.utils import UserError


class LossOutput(NamedTuple):
    """The loss of a batch and how often the embeddings were right."""

    loss: torch.Tensor  # scalar to call `backward()` on; float32, or float64 as the embeddings
    accuracy: torch.Tensor | None  # scalar without gradient, in percent; None if there is none


class EmbeddingLoss(nn.Module):
    """Base of the losses: checks shapes, computes in full precision, then calls `compute`.

    A loss of your own overrides `compute(embeddings, labels) -> LossOutput`. With a
    `min_images_per_class` above 1 it compares images: a batch must have as many of each identity
    and two identities or more, and several processes gather theirs first.
    """

    min_images_per_class: int = 1

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        """Return the loss and the accuracy of one batch.

        embeddings: (batch, images_per_class, embedding_size), floating point, not normalized;
        float16 and bfloat16 become float32. labels: (batch,), int64, no identity twice, in
        0 … num_classes - 1 for a loss that has it. Raises ValueError for shapes that do not fit, or
        one identity where images are compared; UserError for too few images per identity.
        """
        name, least = type(self).__name__, self.min_images_per_class
        if embeddings.ndim != 3 or labels.shape != embeddings.shape[:1]:
            wanted = "embeddings (batch, images_per_class, embedding_size) and labels (batch,)"
            shapes = f"{tuple(embeddings.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"expected {wanted}, got {shapes}")
        if embeddings.shape[1] < least:
            found = embeddings.shape[1]
            raise UserError(f"{name} needs at least {least} images per class, not {found}")
        if least > 1 and len(labels) < 2:
            raise ValueError(f"{name} needs at least 2 identities in a batch, got 1")
        if embeddings.dtype in (torch.float16, torch.bfloat16):
            embeddings = embeddings.float()
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(embeddings, labels)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        raise NotImplementedError(f"{type(self).__name__} has no compute(embeddings, labels)")


@LOSSES.register("softmax", "crossentropy")
class Softmax(EmbeddingLoss):
    """A linear classifier over the training identities with cross-entropy.

    loss = mean over images of -log softmax(W x + b)[label].
    """

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        check_setting("num_classes", num_classes, 2)
        self.fc = nn.Linear(embedding_size, num_classes)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        x, y = one_row_per_image(embeddings, labels)
        logits = self.fc(x)
        return LossOutput(F.cross_entropy(logits, y), top1_accuracy(logits, y))


@LOSSES.register("amsoftmax", "cosface", "additivemarginsoftmax")
class AMSoftmax(EmbeddingLoss):
    """Additive-margin softmax (CosFace).

    loss = mean over images of -log softmax(s · (cos θ_j - m · [j = label]))[label], where θ_j is
    the angle between the embedding and the learned vector of identity j, m the margin (0 or more)
    and s the scale (above 0).

    Source: Wang et al., Additive Margin Softmax for Face Verification, 2018 (arXiv:1801.05599),
    equation 6; Wang et al., CosFace, 2018 (arXiv:1801.09414), equation 4.
    """

    def __init__(self, embedding_size: int, num_classes: int, margin=0.1, scale=30.0):
        super().__init__()
        check_setting("num_classes", num_classes, 2)
        check_setting("margin", margin, 0)
        check_setting("scale", scale, 0, inclusive=False)
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.xavier_normal_(self.weight)

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        x, y = one_row_per_image(embeddings, labels)
        cosine = F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))
        is_own = F.one_hot(y, len(self.weight)).bool()  # as cosine: (images, num_classes)
        logits = self.scale * torch.where(is_own, self.with_margin(cosine), cosine)
        return LossOutput(F.cross_entropy(logits, y), top1_accuracy(cosine, y))

    def with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        return cosine - self.margin


@LOSSES.register("aamsoftmax", "arcface", "additiveangularmarginsoftmax")
class AAMSoftmax(AMSoftmax):
    """Additive-angular-margin softmax (ArcFace).

    loss = mean over images of -log softmax(s · cos(θ_j + m · [j = label]))[label]. Where
    θ + m would pass π, and the cosine would grow again, cos θ - m sin m is used instead.
    All else is as in `AMSoftmax`, but the margin m is an angle in radians, below π.

    Source: Deng et al., ArcFace, 2019 (arXiv:1801.07698), equation 3.
    """

    def __init__(self, embedding_size: int, num_classes: int, margin=0.5, scale=64.0):
        super().__init__(embedding_size, num_classes, margin, scale)
        if margin >= math.pi:
            raise UserError(f"the margin of AAMSoftmax is an angle below pi, not {margin}")

    def with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        # The floor keeps the square root's slope finite where an image sits on its own vector.
        sine = (1.0 - cosine.square()).clamp(min=1e-7).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)  # cos(θ + m)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, beyond)


@LOSSES.register("triplet")
class Triplet(EmbeddingLoss):
    """Triplet loss: the anchor must be nearer to the positive than to the negative, by a margin.

    loss = mean over triplets of max(0, |a - p|² - |a - n|² + margin), on embeddings of unit
    length. The anchor is the first image of an identity, the positives are its other images, one
    triplet each; the negative is an image of another identity of the batch, by `mining`: "random",
    "semihard" (the nearest of those farther away than the positive, or the farthest of all if none
    is) or "hard" (the nearest). The margin is in squared distances, which reach from 0 to 4.
    Accuracy: percent of triplets whose positive is nearer than their negative.

    Source: Schroff et al., FaceNet, 2015 (arXiv:1503.03832), equations 1 to 4.
    """

    min_images_per_class = 2

    def __init__(self, margin: float = 0.1, mining: str = "random"):
        super().__init__()
        check_setting("margin", margin, 0)
        if mining not in ("random", "semihard", "hard"):
            raise UserError(f"mining is one of random, semihard, hard, not {mining!r}")
        self.margin, self.mining = margin, mining

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        per_class = embeddings.shape[1]
        x = F.normalize(embeddings, dim=2)
        anchors = x[:, 0].repeat_interleave(per_class - 1, dim=0)
        positives = x[:, 1:].flatten(0, 1)
        # |a - b|² = 2 - 2 cos for unit vectors.
        to_positive = 2 - 2 * (anchors * positives).sum(dim=1)
        to_all = (2 - 2 * x[:, 0] @ x.flatten(0, 1).T).repeat_interleave(per_class - 1, dim=0)
        is_other = labels[:, None] != labels.repeat_interleave(per_class)[None, :]
        is_other = is_other.repeat_interleave(per_class - 1, dim=0)
        chosen = self._choose(to_positive.detach(), to_all.detach(), is_other)
        to_negative = to_all.gather(1, chosen[:, None]).squeeze(1)
        loss = F.relu(to_positive - to_negative + self.margin).mean()
        return LossOutput(loss, 100.0 * (to_positive < to_negative).float().mean())

    def _choose(self, to_positive, to_all, is_other) -> torch.Tensor:
        """The index of each triplet's negative among the images of the batch."""
        if self.mining == "random":
            # Drawn on the CPU, so that a seed gives the same negatives on every device.
            draw = torch.rand(len(is_other)).to(is_other.device)
            nth = (draw * is_other.sum(dim=1)).long().clamp(max=is_other.sum(dim=1) - 1)
            return (is_other.cumsum(dim=1) > nth[:, None]).int().argmax(dim=1)
        to_other = to_all.masked_fill(~is_other, torch.inf)
        if self.mining == "hard":
            return to_other.argmin(dim=1)
        semihard = to_other.masked_fill(to_all <= to_positive[:, None], torch.inf)
        farthest = to_all.masked_fill(~is_other, -torch.inf).argmax(dim=1)
        return torch.where(semihard.isfinite().any(dim=1), semihard.argmin(dim=1), farthest)


@LOSSES.register("proto", "prototypical")
class Prototypical(EmbeddingLoss):
    """Prototypical networks: each query must be nearest to its own identity's prototype.

    The first image of each identity is the query q, the mean of its others the prototype c.
    loss = mean over identities i of -log softmax over j of (-|q_i - c_j|²) at j = i.

    Source: Snell et al., Prototypical Networks for Few-shot Learning, 2017 (arXiv:1703.05175),
    equations 1 and 2.
    """

    min_images_per_class = 2

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        queries, prototypes = embeddings[:, 0], embeddings[:, 1:].mean(dim=1)
        # |q|² is the same for all prototypes and drops out of the softmax.
        scores = 2 * queries @ prototypes.T - prototypes.square().sum(dim=1)
        own = torch.arange(len(scores), device=scores.device)
        return LossOutput(F.cross_entropy(scores, own), top1_accuracy(scores, own))


class _LearnedScale(EmbeddingLoss):
    """Base of the losses with w · cos + b, where w > 0 and b are learned."""

    min_images_per_class = 2

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(10.0))
        self.b = nn.Parameter(torch.tensor(-5.0))

    def scores(self, cosine: torch.Tensor) -> torch.Tensor:
        # The value stays above 0; the gradient passes, so that w can grow again.
        w = self.w + (self.w.clamp(min=1e-6) - self.w).detach()
        return w * cosine + self.b


@LOSSES.register("angproto", "angleproto", "angularprototypical")
class AngularPrototypical(_LearnedScale):
    """Prototypical loss on cosines, with a learned scale and shift.

    The first image of each identity is the query q, the mean of its others the prototype c.
    loss = mean over identities i of -log softmax over j of (w cos(q_i, c_j) + b) at j = i.

    Source: Chung et al., In defence of metric learning for speaker recognition, 2020
    (arXiv:2003.11982), section 2.3, which has b too, though it cannot change the loss.
    """

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        queries = F.normalize(embeddings[:, 0], dim=1)
        prototypes = F.normalize(embeddings[:, 1:].mean(dim=1), dim=1)
        scores = self.scores(queries @ prototypes.T)
        own = torch.arange(len(scores), device=scores.device)
        return LossOutput(F.cross_entropy(scores, own), top1_accuracy(scores, own))


@LOSSES.register("ge2e", "generalizedendtoend")
class GE2E(_LearnedScale):
    """Generalized end-to-end loss: each image against the centroid of each identity.

    Embeddings e_ji of unit length; c_k is the mean of identity k's, without e_ji itself where
    k = j. loss = mean over images of -log softmax over k of (w cos(e_ji, c_k) + b) at k = j.

    Source: Wan et al., Generalized End-to-End Loss for Speaker Verification, 2018
    (arXiv:1710.10467), equations 1, 6, 8 and 9 (a mean here, where the paper has a sum).
    """

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        batch, per_class, _ = embeddings.shape
        e = F.normalize(embeddings, dim=2)
        total = e.sum(dim=1)
        without_self = F.normalize(total[:, None] - e, dim=2)
        own_cosine = (e * without_self).sum(dim=2, keepdim=True)
        cosine = e @ F.normalize(total, dim=1).T  # (batch, per_class, batch)
        is_own = torch.eye(batch, dtype=torch.bool, device=e.device)[:, None, :]
        scores = self.scores(torch.where(is_own, own_cosine, cosine)).flatten(0, 1)
        own = torch.arange(batch, device=e.device).repeat_interleave(per_class)
        return LossOutput(F.cross_entropy(scores, own), top1_accuracy(scores, own))


@LOSSES.register("softmaxproto", "softmaxprototypical")
class SoftmaxPrototypical(EmbeddingLoss):
    """The sum of `Softmax`, whose accuracy it has, and `AngularPrototypical`.

    Source: the combined objective of Heo et al., Clova baseline system for the VoxCeleb speaker
    recognition challenge 2020 (arXiv:2009.14153), section 2.3.
    """

    min_images_per_class = 2

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        self.softmax = Softmax(embedding_size, num_classes)
        self.angleproto = AngularPrototypical()

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        classified = self.softmax(embeddings, labels)
        matched = self.angleproto(embeddings, labels)
        return LossOutput(classified.loss + matched.loss, classified.accuracy)


@LOSSES.register("supcon", "supervisedcontrastive")
class SupCon(EmbeddingLoss):
    """Supervised contrastive loss: all images of the same identity against all others.

    Embeddings z of unit length, P(i) the other images of image i's identity.
    loss = mean over i of -1/|P(i)| Σ_{p in P(i)} log(exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ)),
    with the temperature τ above 0.
    Accuracy: percent of images whose nearest other image shows the same identity.

    Source: Khosla et al., Supervised Contrastive Learning, 2020 (arXiv:2004.11362), equation 2
    (a mean here, where the paper has a sum).
    """

    min_images_per_class = 2

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_setting("temperature", temperature, 0, inclusive=False)
        self.temperature = temperature

    def compute(self, embeddings: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        x, y = one_row_per_image(embeddings, labels)
        z = F.normalize(x, dim=1)
        is_self = torch.eye(len(z), dtype=torch.bool, device=z.device)
        is_positive = (y[:, None] == y) & ~is_self
        logits = (z @ z.T / self.temperature).masked_fill(is_self, -torch.inf)
        log_share = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(~is_positive, 0.0)
        loss = -(log_share.sum(dim=1) / is_positive.sum(dim=1)).mean()
        hits = is_positive.gather(1, logits.argmax(dim=1, keepdim=True))
        return LossOutput(loss, 100.0 * hits.float().mean())


def build_loss(
    name: str, *, embedding_size, num_classes=None,
    margin=None, scale=None, mining=None, temperature=None,
) -> EmbeddingLoss:  # fmt: skip
    """Build a loss by its name in `LOSSES`, with those of the settings that it takes.

    num_classes: training identities; may be None for losses that compare images only. None stands
    for the loss's default. Raises UserError for an unknown name, a value outside its range, or
    none for a setting without a default.
    """
    settings = dict(embedding_size=embedding_size, num_classes=num_classes, margin=margin)
    settings |= dict(scale=scale, mining=mining, temperature=temperature)
    given = {key: value for key, value in settings.items() if value is not None}
    loss = LOSSES.get(name)
    own = {} if getattr(loss, "__init__", 0) is nn.Module.__init__ else signature(loss).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        return loss(**given)  # **settings: it takes any
    for missing, parameter in own.items():
        if missing not in given and parameter.default is parameter.empty:
            way = "set it, or give" if missing in settings else "no setting has that name, so give"
            raise UserError(f"the loss {name} needs {missing}: {way} it a default in its code")
    return loss(**{key: value for key, value in given.items() if key in own})


def one_row_per_image(embeddings: torch.Tensor, labels: torch.Tensor) -> tuple:
    """Turn (batch, m, d) and (batch,) into (batch · m, d) and (batch · m,)."""
    return embeddings.flatten(0, 1), labels.repeat_interleave(embeddings.shape[1])


def top1_accuracy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the percent of rows of `scores` (n, c) whose largest entry is at `targets` (n,)."""
    return 100.0 * (scores.argmax(dim=1) == targets).float().mean()


def check_setting(name: str, value: float, low: float, *, inclusive: bool = True) -> None:
    """Raise UserError for a number below `low` (or at it, if not inclusive), or not finite."""
    if not (math.isfinite(value) and (value > low or (inclusive and value == low))):
        bound = f"{low:g} or more" if inclusive else f"more than {low:g}"
        raise UserError(f"{name} must be {bound}, not {value}")
