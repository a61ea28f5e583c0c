"""From an image file to pixels: the one place where JPEGs are decoded."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from labkit.errors import UserError

RESIZE_PER_CROP = 256 / 224  # the reference trainer resizes to 256 and crops 224


def decode_image(source: str | Path | bytes, *, min_size: int | None = None) -> Image.Image:
    """One RGB image from a file or from the bytes of one.

    With `min_size`, a JPEG is decoded at the smallest of its built-in scales (1, 1/2, 1/4, 1/8)
    whose shorter side still has that many pixels, which is several times faster.
    Raises UserError that names the file when it cannot be read as an image.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if min_size is not None and image.format == "JPEG":
                scale = min_size / min(image.size)
                image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):
            raise UserError(f"{name} is not an image that can be read") from None
        raise UserError(f"{name} cannot be decoded as an image: {error}") from None


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The face as a network sees it outside training: (size, size) pixels.

    As in the reference trainer: the shorter side is resized to 256/224 of `size` and the middle
    `size` pixels are kept, here in one step.
    """
    side = min(image.size) * size / round(size * RESIZE_PER_CROP)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _resized(image, (left, top, left + side, top + side), size)


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A random part of the image, `scale` of its area, stretched to (size, size) pixels.

    The distribution is that of torchvision's RandomResizedCrop (Szegedy et al., 2015).
    """
    area = image.width * image.height
    for _ in range(10):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = math.sqrt(target * aspect), math.sqrt(target / aspect)
        if width <= image.width and height <= image.height:
            left = rng.uniform(0, image.width - width)
            top = rng.uniform(0, image.height - height)
            return _resized(image, (left, top, left + width, top + height), size)
    return centre_crop(image, size)


def _resized(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
