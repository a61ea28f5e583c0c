"""Gradient caching: batches of thousands in the memory of a few images."""

import contextlib

import torch
from accelerate import Accelerator
from torch import nn

from labkit.devices import random_state, set_random_state
from labkit.losses import LossOutput
from labkit.models import InputSpec, normalize


def cached_gradient(
    network: nn.Module,
    loss: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    accelerator: Accelerator,
    spec: InputSpec,
    *,
    images_at_once: int,
) -> LossOutput:
    """Return the loss of a batch and add its gradient, with about `images_at_once` in memory.

    images: uint8 (batch, images_per_class, 3, h, w); labels: int64 (batch,). The embeddings of all
    chunks are computed without what their gradient needs, then the loss and its gradient with
    respect to the embeddings, then each chunk once more with its gradient: one more forward pass,
    the memory of one chunk, so that a loss that compares images can have large batches. Random
    layers draw the same both times; batch norm sees the images of one chunk.

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    2021 (arXiv:2101.06983), section 3.
    """
    images, shape = images.flatten(0, 1), images.shape[:2]
    # Chunks of equal size: batch norm cannot learn from a chunk of one image.
    chunks = images.tensor_split(max(1, min(-(-len(images) // images_at_once), len(images) // 2)))
    states, parts = [], []
    buffers = [buffer.clone() for buffer in network.buffers()]
    with torch.no_grad(), accelerator.autocast():
        for chunk in chunks:
            states.append(random_state(chunk.device))
            parts.append(network(normalize(chunk, spec)))
        for buffer, before in zip(network.buffers(), buffers):
            buffer.copy_(before)  # each image counts in the running statistics once
    embeddings = torch.cat(parts).float().requires_grad_()
    with accelerator.autocast():
        output = loss(embeddings.view(*shape, -1), labels)
    accelerator.backward(output[0])

    after = random_state(images.device)
    gradients = embeddings.grad.tensor_split(len(chunks))
    for i, (chunk, gradient, state) in enumerate(zip(chunks, gradients, states)):
        set_random_state(state, images.device)
        # DistributedDataParallel averages over the processes once, after the last chunk.
        waits = hasattr(network, "no_sync") and i + 1 < len(chunks)
        with accelerator.autocast(), network.no_sync() if waits else contextlib.nullcontext():
            again = network(normalize(chunk, spec))
            if again.requires_grad:
                again.backward(gradient.to(again.dtype))
    set_random_state(after, images.device)
    return output
