"""The part of the app that shows a photo: choose or drop files, choose a face, draw a box."""

from collections.abc import Callable, Sequence

import anywidget
import traitlets
from PIL import Image

from labkit.widgets.photo_script import LOOKS, SCRIPT
from labkit.widgets.pictures import jpeg, smaller

SHOWN_SIDE = 640
LARGEST_FILE = 100 * 1024 * 1024

Box = tuple[float, float, float, float]


class PhotoView(anywidget.AnyWidget):
    """A photo with its faces in frames, the cut face beside it, and a button for files.

    Pictures travel to the browser and back as messages, not as the widget's state, so that
    neither JupyterLab nor papermill can write them into a notebook. Files come in pieces: as one
    message, a photo above 10 MiB would close the connection to the kernel.

    Args:
        on_files: called with [(name, bytes), …]; None in place of the bytes of a file that is
            larger than `LARGEST_FILE`.
        on_face: called with the number of a face that was clicked.
        on_box: called with a box that was drawn, (left, top, right, bottom) in pixels of the
            photo.
    """

    _esm = SCRIPT
    _css = LOOKS
    largest_file = traitlets.Int(LARGEST_FILE).tag(sync=True)

    def __init__(
        self,
        on_files: Callable[[list[tuple[str, bytes | None]]], None],
        on_face: Callable[[int], None],
        on_box: Callable[[Box], None],
    ):
        super().__init__()
        self._on_files, self._on_face, self._on_box = on_files, on_face, on_box
        self._coming: list[tuple[str, int, list[bytes]]] = []
        self._size = (1, 1)
        self._shown: dict[str, tuple[dict, list[bytes]]] = {}
        self.clear()
        self.on_msg(self._heard)

    def clear(self) -> None:
        """Show no photo and no face."""
        self._tell("photo", None, "", boxes=[], current=0)
        self.show_face(None)

    def show(self, photo: Image.Image, boxes: Sequence[Box], current: int, caption: str) -> None:
        """Show a photo with a frame for each box (pixels of the photo), the current one in blue."""
        self._size = width, height = photo.size
        shares = [
            [left / width, top / height, right / width, bottom / height]
            for left, top, right, bottom in boxes
        ]
        self._tell("photo", smaller(photo, SHOWN_SIDE), caption, boxes=shares, current=current)

    def show_face(self, face: Image.Image | None, caption: str = "") -> None:
        """Show the cut face, or none."""
        self._tell("cut", face, caption)

    def _tell(self, kind: str, picture: Image.Image | None, caption: str, **more) -> None:
        message = dict(kind=kind, filled=picture is not None, caption=caption, **more)
        self._shown[kind] = message, [jpeg(picture)] if picture is not None else []
        self.send(*self._shown[kind])

    def _heard(self, _, message: dict, buffers: list) -> None:
        kind = message.get("kind")
        if kind == "ready":  # a new view, such as after the page was loaded again
            for shown in self._shown.values():
                self.send(*shown)
        elif kind == "begin":
            self._coming = [(str(f["name"]), int(f["size"]), []) for f in message["files"]]
        elif kind == "piece":
            self._coming[message["number"]][2].append(bytes(buffers[0]))
        elif kind == "end":
            files, self._coming = self._coming, []
            whole = [
                (name, b"".join(pieces) if size <= self.largest_file else None)
                for name, size, pieces in files
            ]
            if whole:
                self._on_files(whole)
        elif kind == "face":
            self._on_face(int(message["number"]))
        elif kind == "box":
            left, top, right, bottom = map(float, message["box"])
            width, height = self._size
            self._on_box((left * width, top * height, right * width, bottom * height))
