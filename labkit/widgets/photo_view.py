"""A photo with its faces: the part of the app that shows it, and pictures of it."""

from collections.abc import Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image, ImageDraw

from labkit.crop import Box
from labkit.data.images import jpeg_bytes

MAX_FILE_SIZE = 100 * 1024 * 1024


class PhotoView(anywidget.AnyWidget):
    """A photo with its faces in frames, the cropped face beside it, and a button for files.

    Pictures travel as messages, not as the widget's state, so that neither JupyterLab nor
    papermill can write them into a notebook. Files come in pieces: as one message, a photo above
    10 MiB would close the connection to the kernel.

    `on_files` is called with [(name, bytes), …], None in place of the bytes of too large a file;
    `on_face` with the index of a face that was clicked; `on_box` with a box that was drawn,
    (left, top, right, bottom) in pixels of the photo.
    """

    _esm = Path(__file__).with_name("photo_view.js")
    _css = Path(__file__).with_name("photo_view.css")
    largest_file = traitlets.Int(MAX_FILE_SIZE).tag(sync=True)

    def __init__(self, on_files, on_face, on_box):
        super().__init__()
        self._on_files, self._on_face, self._on_box = on_files, on_face, on_box
        self._shown: dict[str, tuple[dict, list[bytes]]] = {}
        self.show(None)
        self.show_face(None)
        self.on_msg(self._hear)

    def show(self, photo: Image.Image | None, boxes: Sequence[Box] = (), current=0, caption=""):
        """Show a photo with a frame for each box (pixels), the current one in blue; or none."""
        self._size = np.array(photo.size * 2 if photo else (1, 1, 1, 1))
        shares = [(np.array(box) / self._size).tolist() for box in boxes]
        self._tell("photo", photo and smaller(photo, 640), caption, boxes=shares, current=current)

    def show_face(self, face: Image.Image | None, caption: str = "") -> None:
        """Show the cropped face, or none."""
        self._tell("crop", face, caption)

    def _tell(self, kind: str, picture: Image.Image | None, caption: str, **more) -> None:
        message = dict(kind=kind, filled=picture is not None, caption=caption, **more)
        self._shown[kind] = message, [jpeg_bytes(picture)] if picture else []
        self.send(*self._shown[kind])

    def _hear(self, _, message: dict, buffers: list) -> None:
        kind = message["kind"]
        if kind == "ready":  # a new view, such as after the page was loaded again
            for shown in self._shown.values():
                self.send(*shown)
        elif kind == "begin":
            self._coming = [(file["name"], file["size"], []) for file in message["files"]]
        elif kind == "piece":
            self._coming[message["index"]][2].append(bytes(buffers[0]))
        elif kind == "end" and self._coming:
            self._on_files([
                (name, b"".join(pieces) if size <= self.largest_file else None)
                for name, size, pieces in self._coming
            ])  # fmt: skip
        elif kind == "face":
            self._on_face(message["index"])
        elif kind == "box":
            self._on_box(tuple((self._size * message["box"]).tolist()))


def heat(face: Image.Image, falls: np.ndarray) -> Image.Image:
    """Return the face with an `occlusion_map` over it: warm where it speaks for the match."""
    import matplotlib

    strength = np.clip(falls / max(float(np.abs(falls).max()), 1e-9), 0, 1)
    grid = Image.fromarray((255 * strength).astype(np.uint8))
    smooth = grid.resize(face.size, Image.Resampling.BICUBIC)
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
