"""A photo with its faces: the part of the app that shows it, and pictures of it."""

from collections.abc import Sequence
from pathlib import Path

import anywidget
import numpy as np
from PIL import Image, ImageDraw

from labkit.crop import Box
from labkit.data.images import jpeg_bytes


class PhotoView(anywidget.AnyWidget):
    """A photo with its faces in frames, the cropped face beside it, and a button for files.

    Pictures travel as messages, not as the widget's state, which is saved with a notebook. Files
    come in pieces: a message above 10 MiB would close the connection to the kernel.

    `files` is called with [(name, bytes), …], no bytes for a file above 100 MB; `face` with the
    index of a face that was clicked; `box` with (left, top, right, bottom) in pixels as drawn.
    """

    _esm = Path(__file__).with_name("photo_view.js")
    _css = Path(__file__).with_name("photo_view.css")

    def __init__(self, files, face, box):
        super().__init__()
        self._actions = dict(files=files, face=face, box=box)
        self._shown: dict[str, tuple[dict, list[bytes]]] = {}
        self.on_msg(self._hear)

    def show(self, kind: str, picture: Image.Image | None, caption="", boxes=(), current=0):
        """Show a picture, or none, as the "crop" or as the "photo", with a frame for each box."""
        message = dict(kind=kind, caption=caption, boxes=boxes, current=current)
        message["size"] = picture and picture.size
        self._shown[kind] = message, [jpeg_bytes(smaller(picture, 640))] if picture else []
        self.send(*self._shown[kind])

    def _hear(self, _, message: dict, buffers: list) -> None:
        kind, value = message["kind"], message.get("value")
        if kind == "ready":  # a new view, such as after the page was loaded again
            for shown in self._shown.values():
                self.send(*shown)
        elif kind == "begin":
            self._coming = [(name, []) for name in value]
        elif kind == "piece":
            self._coming[value][1].append(bytes(buffers[0]))
        elif kind == "end":
            self._actions["files"]([(name, b"".join(pieces)) for name, pieces in self._coming])
        else:
            self._actions[kind](value)


def heat(face: Image.Image, falls: np.ndarray) -> Image.Image:
    """Return the face with an `occlusion_map` over it: warm where it speaks for the match."""
    import matplotlib

    strength = np.clip(falls / max(float(np.abs(falls).max()), 1e-9), 0, 1)
    smooth = Image.fromarray((255 * strength).astype(np.uint8)).resize(face.size)
    colours = matplotlib.colormaps["inferno"](np.asarray(smooth), bytes=True)[..., :3]
    opacity = smooth.point(lambda value: round(0.65 * value))
    return Image.composite(Image.fromarray(colours), face.convert("RGB"), opacity)


def with_boxes(photo: Image.Image, boxes: Sequence[Box], current: int) -> Image.Image:
    """Return the photo, at most 300 px, with numbered boxes, the current one in blue."""
    view = smaller(photo, 300)
    draw = ImageDraw.Draw(view)
    for i, box in enumerate(boxes):
        colour = (37, 99, 235) if i == current else (255, 255, 255)
        corners = [round(edge * view.width / photo.width) for edge in box]
        draw.rectangle(corners, outline=colour, width=3)
        if len(boxes) > 1:
            draw.text((corners[0] + 6, corners[1] + 4), str(i + 1), fill=colour)
    return view


def smaller(photo: Image.Image, side: int) -> Image.Image:
    """Return a copy whose longer side is at most `side` pixels."""
    photo = photo.copy()
    photo.thumbnail((side, side))
    return photo
