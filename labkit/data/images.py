"""From an image file to pixels: the one place where images are decoded, cropped and encoded."""

import io
import math
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import interpolate

from labkit.data.records import Record
from labkit.utils import UserError, read_file, reason

warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF blocks and the like
with suppress(ImportError):
    import pillow_heif.HeifImagePlugin  # registers itself  # noqa: F401

# What is read, whatever a file's name says, if this Pillow can; others can start programs (EPS).
_KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_ENDINGS = {end: kind for end, kind in Image.registered_extensions().items() if kind in _KINDS}
FORMATS, IMAGE_EXTENSIONS = tuple(set(_ENDINGS.values())), tuple(_ENDINGS)
GREY = (128, 128, 128)
Source = str | Path | Record | bytes  # of an image file
# What Pillow raises for a file that is cut short, damaged or no image.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error)
CROP_DRAWS = 2 * 10 + 2  # random numbers that decide one crop: ten tries, and its place


def what_is_wrong(error: Exception) -> str:
    """Return what an error in `DAMAGED` says of a file, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    return reason(error) if getattr(error, "strerror", None) else f"damaged: {error}"


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image turned by its EXIF orientation, in RGB, transparent parts grey."""
    try:
        image = ImageOps.exif_transpose(image)
    except (*DAMAGED, TypeError):  # a damaged EXIF block says nothing of the orientation
        image = image.copy()
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow alone turns white
        values = np.asarray(image) * (255 / 65535)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, (*GREY, 255))
        image = Image.alpha_composite(backdrop, image.convert("RGBA"))
    return image.convert("RGB") if image.mode != "RGB" else image


def jpeg_bytes(image: Image.Image | np.ndarray, quality: int = 90) -> bytes:
    """Return an RGB image, or uint8 (height, width, 3), as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def read_source(source: Source) -> bytes:
    """Return the bytes of an image file; OSError or UserError when it cannot be read."""
    if isinstance(source, bytes):
        return source
    return source.read() if isinstance(source, Record) else read_file(source)


def decode_pixels(source: Source, *, min_size: int | None = None) -> np.ndarray:
    """Decode one image file to RGB, uint8 (height, width, 3).

    With `min_size`, a JPEG is decoded at the smallest of its built-in scales (1, 1/2, 1/4, 1/8)
    whose shorter side still has that many pixels, several times faster. simplejpeg gives the same
    pixels as Pillow in half the time. Raises UserError that names a file that cannot be read.
    """
    try:
        data = read_source(source)
        if data.startswith(b"\xff\xd8"):
            with suppress(ValueError):  # damaged, or in colours of its own: Pillow decides
                return _decode_jpeg(data, min_size)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.array(upright_rgb(image))
    except (*DAMAGED, Image.DecompressionBombError) as error:
        name = "the image" if isinstance(source, bytes) else source
        raise UserError(f"{name} cannot be read: {what_is_wrong(error)}") from None


def decode_image(source: Source, *, min_size: int | None = None) -> Image.Image:
    """Decode as `decode_pixels` does, to a Pillow image."""
    return Image.fromarray(decode_pixels(source, min_size=min_size))


def _decode_jpeg(data: bytes, min_size: int | None) -> np.ndarray:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError("a decompression bomb")
    fits = min(width, height) / min_size if min_size else 1
    factor = next((factor for factor in (8, 4, 2) if factor <= fits), 1)
    height, width = math.ceil(height / factor), math.ceil(width / factor)
    pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    header = data[: data.find(b"\xff\xdb")]  # before the first table of the picture
    _, mark, exif = header.partition(b"Exif\0\0")
    if mark or b"tiff:Orientation" in header:
        about = Image.Image()
        about.info = dict(exif=exif, xmp=header)
        with suppress(*DAMAGED, TypeError):  # a damaged EXIF block
            if (turn := about.getexif().get(ExifTags.Base.Orientation, 1)) > 1:
                image = Image.fromarray(pixels)
                image.getexif()[ExifTags.Base.Orientation] = turn
                return np.array(ImageOps.exif_transpose(image))
    return pixels


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the face as a network sees it outside training: (size, size) pixels.

    As in the VoxCeleb trainer: the shorter side resized to 256/224 of `size`, and its middle.
    """
    side = min(image.size) * size / round(size * 256 / 224)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def random_resized_crop(pixels: np.ndarray, size: int, draws: np.ndarray) -> np.ndarray:
    """Return a random part of an image, 0.8 to 1 of its area, stretched to (size, size) pixels.

    pixels: uint8 (height, width, 3). draws: float (CROP_DRAWS,), uniform in 0 to 1, which decide
    the part. The distribution is that of torchvision's RandomResizedCrop (Szegedy et al., 2015).
    """
    height, width = pixels.shape[:2]
    *tries, down, right = draws.tolist()
    low, high = math.log(3 / 4), math.log(4 / 3)
    for area, shape in zip(tries[::2], tries[1::2]):
        target = width * height * (0.8 + (1 - 0.8) * area)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            # Contiguous, so that PyTorch takes its fast way for interleaved bytes.
            part = np.ascontiguousarray(pixels[top : top + h, left : left + w])
            planes = torch.from_numpy(part).unsqueeze(0).permute(0, 3, 1, 2)
            resized = interpolate(planes, (size, size), mode="bilinear", antialias=True)
            return resized[0].permute(1, 2, 0).numpy()
    return np.asarray(centre_crop(Image.fromarray(pixels), size))
