"""Images to embeddings, in batches, on any device."""

import copy
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
from labkit.devices import best_device, keep_freed_memory, memory_format, mixed_precision
from labkit.models import InputSpec, normalize
from labkit.utils import UserError, map_ahead, progress

DEFAULT_BATCH = 64
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

    info: WeightsInfo | None = None
    weights_path, weights_sha256 = Path("memory"), ""

    def __init__(self, weights: str | Path, *, device=None, batch_size=None, precision="fp32"):
        model, info = load_weights(weights, best_device(device and str(device)))
        self._set(model, info.input, info.embedding_size, batch_size, precision)
        self.info, self.weights_path, self.weights_sha256 = info, info.path, info.sha256

    @classmethod
    def of_model(
        cls, model: nn.Module, input_spec: InputSpec, embedding_size: int,
        *, batch_size: int | None = None, quiet: bool = False, precision: str = "fp32",
    ) -> "Embedder":  # fmt: skip
        """Return an embedder around a network in memory, in the mode that it is in."""
        embedder = cls.__new__(cls)
        embedder._set(model, input_spec, embedding_size, batch_size, precision, quiet)
        return embedder

    def _set(self, model, spec, embedding_size, batch_size, precision, quiet=False) -> None:
        self.input_spec, self.image_size = spec, spec.image_size
        self.embedding_size, self.quiet = embedding_size, quiet
        self.device = next(model.parameters()).device
        cached = min(max(CACHED_PIXELS // spec.image_size**2, 1), DEFAULT_BATCH)
        self.batch_size = batch_size or (cached if self.device.type == "cpu" else DEFAULT_BATCH)
        if precision == "auto":
            precision = mixed_precision(self.device)
        if precision not in PRECISIONS:
            raise UserError(f"there is no precision '{precision}': use fp32, bf16, fp16 or auto")
        self.dtype = PRECISIONS[precision]
        if self.dtype:  # a copy whose large layers need not be cast for each batch
            model = copy.deepcopy(model)
            for layer in model.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.to(self.dtype)
        self.model = model.to(memory_format=memory_format(self.device))

    def __call__(self, images) -> np.ndarray:
        """Return embeddings, float32 (n, embedding_size), each row of length 1.

        images: a list of PIL images or uint8 arrays (h, w, 3) of any sizes; or one uint8 array
        or tensor (n, 3, h, w) or (n, h, w, 3). They are resized and cropped as in training.
        """
        pixels = (np.asarray(centre_crop(image, self.image_size)) for image in _each(images))
        return self._embed(pixels)

    def files(self, paths: Sequence[str | Path], *, desc: str = "embedding") -> np.ndarray:
        """Return the same for image files, decoded by threads while the network computes.

        Raises UserError that names a file that cannot be read, or whose embedding is not usable.
        """
        bar = progress(total=len(paths), desc=desc, unit="image", quiet=self.quiet)
        keep_freed_memory(self.device)
        with ThreadPoolExecutor(min(8, cpu_count())) as threads, bar:
            pixels = map_ahead(threads, self._file_pixels, paths, 4 * self.batch_size)
            rows = self._embed(pixels, bar.update)
        check_embeddings(rows, paths)
        return rows

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch of uint8 (n, image_size, image_size, 3): float32 (n, embedding_size)."""
        half = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        with torch.inference_mode(), half:
            batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            return F.normalize(self.model(normalize(batch, self.input_spec)).float()).cpu().numpy()

    def _embed(self, pixels: Iterator[np.ndarray], done=lambda count: None) -> np.ndarray:
        parts = [np.zeros((0, self.embedding_size), np.float32)]
        while batch := list(islice(pixels, self.batch_size)):
            parts.append(self.embed_pixels(np.stack(batch)))
            done(len(batch))
        return np.concatenate(parts)

    def _file_pixels(self, path: str | Path) -> np.ndarray:
        image = decode_image(path, min_size=round(self.image_size * 256 / 224))
        return np.asarray(centre_crop(image, self.image_size))


def check_embeddings(embeddings: np.ndarray, names: Sequence) -> None:
    """Raise UserError that names the first image whose embedding (d,) is zero or not finite."""
    lengths = np.linalg.norm(np.asarray(embeddings, np.float32), axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise UserError(f"the embedding of {names[bad[0]]} is zero or not finite ({len(bad)} are)")


def _each(images: Iterable) -> Iterator[Image.Image]:
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
            raise UserError(f"an image must be uint8 (h, w, 3), got {array.dtype} {array.shape}")
        yield Image.fromarray(array)
