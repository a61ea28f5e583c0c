"""Images to embeddings, in batches, on any device."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count
from PIL import Image
from torch import nn
from torch.nn import functional as F

from labkit.checkpoint import WeightsInfo, load_weights
from labkit.data import centre_crop, decode_image
from labkit.devices import best_device, memory_format, memory_kept, mixed_precision
from labkit.models import InputSpec, normalize
from labkit.utils import UserError, progress

USUAL_BATCH = 64
CACHED_PIXELS = 8 * 224 * 224  # of a batch, which a processor's caches hold between layers
PRECISIONS = {"fp32": None, "no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Embedder:
    """Turns faces into embeddings with trained weights.

    >>> embedder = Embedder("runs/demo/finetune/best.safetensors")
    >>> embedder([Image.open("face.jpg")]).shape
    (1, 512)

    Faces are cropped images; a photo with room around the face goes through `labkit.crop` first.
    The network computes in `precision`: fp32, bf16, fp16, or auto, the 16-bit type that the device
    is fast in, if any. Embeddings are float32 in any case. Images go through it `batch_size` at a
    time, by default 64, on a processor as many as its caches hold.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        precision: str = "fp32",
    ):
        device = best_device(str(device)) if device is not None else best_device()
        model, info = load_weights(weights, device)
        self._set(model, info.input, info.embedding_size, batch_size, precision)
        self.info: WeightsInfo | None = info
        self.weights_path, self.weights_sha256 = info.path, info.sha256

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        input_spec: InputSpec,
        embedding_size: int,
        *,
        batch_size: int | None = None,
        quiet: bool = False,
        precision: str = "fp32",
    ) -> "Embedder":
        """An embedder around a network in memory, in the mode that it is in."""
        embedder = cls.__new__(cls)
        embedder._set(model, input_spec, embedding_size, batch_size, precision)
        embedder.quiet = quiet
        embedder.info, embedder.weights_path, embedder.weights_sha256 = None, Path("memory"), ""
        return embedder

    def _set(
        self,
        model: nn.Module,
        spec: InputSpec,
        embedding_size: int,
        batch_size: int | None,
        precision: str,
    ):
        self.input_spec, self.quiet = spec, False
        self.embedding_size, self.image_size = embedding_size, spec.image_size
        self.device = next(model.parameters()).device
        self.batch_size = batch_size or _usual_batch(self.device, spec.image_size)
        if precision == "auto":
            precision = mixed_precision(self.device)
        if precision not in PRECISIONS:
            raise UserError(f"there is no precision '{precision}': use fp32, bf16, fp16 or auto")
        self.dtype = PRECISIONS[precision]
        self.model = _with_weights_in(self.dtype, model) if self.dtype else model
        self.model.to(memory_format=memory_format(self.device))

    def __call__(self, images) -> np.ndarray:
        """float32 (n, embedding_size), each row of length 1.

        images: a list of PIL images or uint8 arrays (h, w, 3) of any sizes; or one uint8 array
        or tensor (n, 3, h, w) or (n, h, w, 3). They are resized and cropped as in training.
        """
        ready = (self._pixels(image) for image in _each_image(images))
        parts = [self.embed_pixels(np.stack(batch)) for batch in _batches(ready, self.batch_size)]
        return np.concatenate(parts) if parts else self._nothing()

    def files(self, paths: Sequence[str | Path], *, desc: str = "embedding") -> np.ndarray:
        """The same for image files, decoded by threads while the network computes.

        Raises UserError that names the first file that cannot be read.
        """
        parts = []
        ahead = 4 * self.batch_size
        with (
            memory_kept(self.device),
            ThreadPoolExecutor(min(8, cpu_count())) as threads,
            progress(total=len(paths), desc=desc, unit="image", quiet=self.quiet) as bar,
        ):
            pixels = _map_ahead(threads, self._file_pixels, paths, ahead)
            for batch in _batches(pixels, self.batch_size):
                parts.append(self.embed_pixels(np.stack(batch)))
                bar.update(len(batch))
        return np.concatenate(parts) if parts else self._nothing()

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """One batch of uint8 (n, image_size, image_size, 3) to float32 (n, embedding_size)."""
        half = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        with torch.inference_mode(), half:
            batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            return F.normalize(self.model(normalize(batch, self.input_spec)).float()).cpu().numpy()

    def _file_pixels(self, path: str | Path) -> np.ndarray:
        return self._pixels(decode_image(path, min_size=round(self.image_size * 256 / 224)))

    def _pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(centre_crop(image, self.image_size))

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, self.embedding_size), dtype=np.float32)


def _usual_batch(device: torch.device, image_size: int) -> int:
    if device.type != "cpu":
        return USUAL_BATCH
    return min(max(CACHED_PIXELS // image_size**2, 1), USUAL_BATCH)


def _with_weights_in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers need not be cast for each batch."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.to(dtype)
    return model


def _each_image(images) -> Iterator[Image.Image]:
    if isinstance(images, torch.Tensor):
        images = images.cpu().numpy()
    if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[3] != 3:
        images = images.transpose(0, 2, 3, 1)
    for image in images:
        if isinstance(image, Image.Image):
            yield image.convert("RGB")
            continue
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UserError(
                f"an image must be uint8 (height, width, 3), found {array.dtype} {array.shape}"
            )
        yield Image.fromarray(array)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _map_ahead(threads: ThreadPoolExecutor, function, items: Sequence, ahead: int) -> Iterator:
    """`map` in order, with at most `ahead` results waiting, however many items there are."""
    items = iter(items)
    waiting = deque(threads.submit(function, item) for item in islice(items, ahead))
    while waiting:
        done = waiting.popleft()
        waiting.extend(threads.submit(function, item) for item in islice(items, 1))
        yield done.result()
