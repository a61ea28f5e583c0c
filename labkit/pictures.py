"""Which of Pillow's many kinds of images the kit reads, how, and what is wrong with a file."""

import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from labkit.errors import reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read, whatever a file's name says; others can start programs (EPS) or lack a decoder."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error)
"""What Pillow raises for a file that is cut short, damaged or no image."""


def what_is_wrong(error: Exception) -> str:
    """What an error in `DAMAGED` says of a file, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, OSError) and error.strerror:
        return reason(error)
    return f"cannot be decoded: {error}"


def rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; grey of 16 bits is scaled, where Pillow alone would turn it white."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        scale = 255 / 65535 if values.max(initial=0) > 255 else 1
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    return image.convert("RGB") if image.mode != "RGB" else image
