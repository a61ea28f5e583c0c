"""Pictures that the notebooks and the app show."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

PREVIEW = 300


def heat(face: Image.Image, falls: np.ndarray) -> Image.Image:
    """The face with an `occlusion_map` over it: warm where it speaks for the match."""
    import matplotlib

    strength = np.clip(falls / max(float(np.abs(falls).max()), 1e-9), 0, 1)
    grid = Image.fromarray((255 * strength).astype(np.uint8))
    smooth = np.asarray(grid.resize(face.size, Image.Resampling.BICUBIC)) / 255
    colours = matplotlib.colormaps["inferno"](smooth)[..., :3] * 255
    opacity = 0.65 * smooth[..., None]
    mixed = np.asarray(face.convert("RGB")) * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def with_boxes(
    photo: Image.Image, boxes: Sequence, current: int, *, side: int = PREVIEW
) -> Image.Image:
    """The photo, its longer side at most `side`, with numbered boxes, the current one in blue."""
    view = smaller(photo, side)
    scale = view.width / photo.width
    draw = ImageDraw.Draw(view)
    for i, box in enumerate(boxes):
        colour = (37, 99, 235) if i == current else (255, 255, 255)
        corners = [round(edge * scale) for edge in box]
        draw.rectangle(corners, outline=colour, width=3)
        if len(boxes) > 1:
            draw.text((corners[0] + 6, corners[1] + 4), str(i + 1), fill=colour)
    return view


def smaller(photo: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is at most `side` pixels."""
    scale = min(1.0, side / max(photo.size))
    size = tuple(max(1, round(length * scale)) for length in photo.size)
    return photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def jpeg(picture: Image.Image) -> bytes:
    """The picture as the bytes of a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
