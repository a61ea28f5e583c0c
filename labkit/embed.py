"""Images to embeddings, in batches, on any device."""

import copy
from collections.abc import Iterator, Sequence
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

from labkit import devices
from labkit.checkpoint import load_weights
from labkit.data.images import Source, centre_crop, decode_pixels
from labkit.models import InputSpec, normalize
from labkit.utils import UserError, map_ahead, progress


class Embedder:
    """Turns faces into embeddings with trained weights.

    >>> embedder = Embedder("runs/demo/finetune/best.safetensors")
    >>> embedder([Image.open("face.jpg")]).shape
    (1, 512)

    Faces are cropped images; a photo with room around the face goes through `labkit.crop` first.
    precision: fp32, bf16, fp16, or auto, the 16-bit type that the device is fast in, if any.
    batch_size: images at a time, by default 64, on a processor as many as a core's cache holds.
    image_size: in pixels, for weights of another trainer alone, as ours say it themselves.
    """

    weights_path, weights_sha256, quiet = Path("memory"), "", False

    def __init__(self, weights, *, device=None, batch_size=None, precision="fp32", image_size=224):
        model, info = load_weights(weights, devices.best_device(device and str(device)), image_size)
        self._set(model, info.input, info.embedding_size, precision, batch_size)
        self.weights_path, self.weights_sha256 = info.path, info.sha256

    @classmethod
    def of_model(cls, model, spec, embedding_size: int, *, quiet=False, precision="fp32"):
        """Return an embedder around a network in memory, in the mode that it is in."""
        embedder = cls.__new__(cls)
        embedder._set(model, spec, embedding_size, precision)
        embedder.quiet = quiet
        return embedder

    def _set(self, model, spec: InputSpec, embedding_size, precision, batch_size=None) -> None:
        self.input_spec, self.image_size = spec, spec.image_size
        self.embedding_size = embedding_size
        self.device = next(model.parameters()).device
        self._threads = min(torch.get_num_threads(), 8) if self.device.type == "cpu" else 1  # GIL
        in_caches = 8 * 224**2 // spec.image_size**2 if self.device.type == "cpu" else 64
        self.batch_size = batch_size or max(min(in_caches, 64) // self._threads, 1)
        precision = devices.mixed_precision(self.device) if precision == "auto" else precision
        dtypes = {"fp32": None, "no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        if precision not in dtypes:
            raise UserError(f"there is no precision '{precision}': use fp32, bf16, fp16 or auto")
        self.dtype = dtypes[precision]
        if self.dtype:  # a copy whose large layers need not be cast for each batch
            model = copy.deepcopy(model)
            for layer in model.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.to(self.dtype)
        self.model = model.to(memory_format=devices.memory_format(self.device))

    def __call__(self, images) -> np.ndarray:
        """Return embeddings, float32 (n, embedding_size), each row of length 1.

        images: a list of PIL images or uint8 arrays (h, w, 3) of any sizes; or one uint8 array
        or tensor (n, 3, h, w) or (n, h, w, 3). They are resized and cropped as in training.
        """
        if isinstance(images, torch.Tensor):
            images = images.cpu().numpy()
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[3] != 3:
            images = images.transpose(0, 2, 3, 1)
        return self._embed((f"image {i}", self._crop(x)) for i, x in enumerate(images, 1))

    def files(
        self, files: Sequence[Source], skipped: list | None = None, *, mirror: bool = False
    ) -> np.ndarray:
        """Return the same for image files, decoded by threads; UserError names one of no use.

        With a list as `skipped`, the indices of unreadable files come into it; they have no row.
        With `mirror`, the faces are flipped.
        """
        min_size = round(self.image_size * 256 / 224)

        def read(i: int) -> tuple[Source, np.ndarray] | None:
            try:
                pixels = decode_pixels(files[i], min_size=min_size)
                return files[i], self._crop(pixels[:, ::-1] if mirror else pixels)
            except UserError:
                if skipped is None:
                    raise
                skipped.append(i)

        bar = progress(total=len(files), desc="embedding", unit="image", quiet=self.quiet)
        devices.keep_freed_memory(self.device)
        with ThreadPoolExecutor(min(8, cpu_count())) as threads, bar:
            images = map_ahead(threads, read, range(len(files)), 4 * self.batch_size)
            return self._embed(filter(None, images), bar.update)

    def _embed(self, images: Iterator[tuple], done=lambda count: None) -> np.ndarray:
        """The embeddings of (name, pixels), in batches: on a CPU several at once."""
        parts = [np.zeros((0, self.embedding_size), np.float32)]
        batches = iter(lambda: list(islice(images, self.batch_size)), [])
        with devices.side_by_side(self._threads) as pool:
            for rows in map_ahead(pool, self._rows, batches, 2 * self._threads):
                parts.append(rows)
                done(len(rows))
        return np.concatenate(parts)

    def _rows(self, batch: list[tuple]) -> np.ndarray:
        names, pixels = zip(*batch)
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        half = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        with torch.inference_mode(), half, devices.memory_told(self.device):
            inputs = stacked.to(self.device)
            rows = F.normalize(self.model(normalize(inputs, self.input_spec)).float())
        rows = rows.cpu().numpy()
        check_embeddings(rows, names)
        return rows

    def _crop(self, image: Image.Image | np.ndarray) -> np.ndarray:
        array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UserError(f"an image must be uint8 (h, w, 3), got {array.dtype} {array.shape}")
        return np.asarray(centre_crop(Image.fromarray(array), self.image_size))


def check_embeddings(embeddings: np.ndarray, names: Sequence) -> None:
    """Raise UserError that names the first image whose embedding (d,) is zero or not finite."""
    lengths = np.linalg.norm(np.asarray(embeddings, np.float32), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        raise UserError(f"the embedding of {names[bad[0]]} is zero or not finite ({len(bad)} are)")
