"""One training step: images to a loss and its gradient, whole or in chunks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn

from labkit.devices import random_state, set_random_state
from labkit.losses import LossOutput
from labkit.models import InputSpec, normalize
from labkit.train.processes import rows_of_all


class TrainingStep(nn.Module):
    """Network and loss as one module: uint8 images (batch, images_per_class, 3, h, w) to a loss.

    With several processes, a loss that compares the faces of a batch sees those of all of them.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, spec: InputSpec, compiled: bool):
        super().__init__()
        self.network, self.loss, self.spec = network, loss, spec
        # In a tuple, so that the compiled twin is not registered as more parameters.
        self._embed = (torch.compile(network) if compiled else network,)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> LossOutput:
        return self.compare(self.embed(images.flatten(0, 1)), images.shape[1], labels)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, h, w) to embeddings (n, embedding_size)."""
        return self._embed[0](normalize(images, self.spec))

    def compare(self, rows: torch.Tensor, per_class: int, labels: torch.Tensor) -> LossOutput:
        """The loss of embeddings (batch · per_class, embedding_size) and labels (batch,)."""
        embeddings = rows.view(-1, per_class, rows.shape[1])
        if compares_images(self.loss):
            embeddings, labels = rows_of_all(embeddings), rows_of_all(labels)
        return self.loss(embeddings, labels)


def compares_images(loss: nn.Module) -> bool:
    """Whether a loss needs all faces of the batch at once; a plain module may not say."""
    return getattr(loss, "min_images_per_class", 1) > 1


def whole_gradient(
    trained: nn.Module, images: torch.Tensor, labels: torch.Tensor, accelerator: Accelerator
) -> LossOutput:
    """Loss of a batch, its gradient added to the parameters."""
    output = trained(images, labels)
    accelerator.backward(output[0])
    return output


def chunked_gradient(
    step: TrainingStep,
    images: torch.Tensor,
    labels: torch.Tensor,
    accelerator: Accelerator,
    images_at_once: int,
) -> LossOutput:
    """The same loss and gradient, with the network at work on about `images_at_once` images at a
    time, in chunks of one size, since batch norm cannot learn from a chunk of one image.

    The embeddings of all chunks are computed without keeping what their gradient needs, then the
    loss and its gradient with respect to the embeddings, then each chunk once more with its
    gradient. It costs one more forward pass and needs the memory of one chunk, so a loss that
    compares images can have batches of thousands. Random layers draw the same both times. Batch
    norm sees the images of a chunk, as it sees those of one process when there are several.

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    2021 (arXiv:2101.06983), section 3.
    """
    per_class = images.shape[1]
    count = len(images) * per_class
    parts_of_batch = max(1, min(-(-count // images_at_once), count // 2))
    chunks = images.flatten(0, 1).tensor_split(parts_of_batch)
    with accelerator.autocast():
        with torch.no_grad(), same_buffers(step.network):
            parts, before = [], []
            for chunk in chunks:
                before.append(random_state(chunk.device))
                parts.append(step.embed(chunk))
        rows = torch.cat(parts).requires_grad_()
        output = step.compare(rows, per_class, labels)
    accelerator.backward(output[0])
    after = random_state(rows.device)
    for chunk, gradient, state in zip(chunks, rows.grad.tensor_split(parts_of_batch), before):
        set_random_state(state, rows.device)
        with accelerator.autocast():
            embeddings = step.embed(chunk)
        if embeddings.requires_grad:
            embeddings.backward(gradient)
    set_random_state(after, rows.device)
    if accelerator.num_processes > 1:
        _average_gradients(step, accelerator.num_processes)
    return output


def gradient_of(
    trained: nn.Module, step: TrainingStep, accelerator: Accelerator, images_at_once: int | None
) -> Callable[[torch.Tensor, torch.Tensor], LossOutput]:
    """How this run gets from images and labels to a loss with its gradient."""
    if images_at_once is None:
        return lambda images, labels: whole_gradient(trained, images, labels, accelerator)
    return lambda images, labels: chunked_gradient(
        step, images, labels, accelerator, images_at_once
    )


@contextmanager
def same_buffers(network: nn.Module) -> Iterator[None]:
    """Leave running statistics as they were: each image counts in them once."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            buffer.copy_(value)
            module._buffers[name] = buffer  # where a forward pass has put another in its place


def _average_gradients(step: nn.Module, processes: int) -> None:
    """What DistributedDataParallel does, for gradients that it has not seen."""
    gradients = [p.grad for p in step.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))
