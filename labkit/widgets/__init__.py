"""The look-alike app that a person uses in a notebook, and what it shows of a photo."""

import io
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
from IPython.display import HTML, display
from IPython.display import Image as Picture
from PIL import Image, ImageDraw

from labkit.crop import Box, crop_face, find_faces, read_photo, shows_face
from labkit.data.images import jpeg_bytes
from labkit.likeness import occlusion_map
from labkit.plots import lookalike_sheet
from labkit.utils import UserError, render_page


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


PAGE = Path(__file__).with_name("lookalike.html")
NO_FACE = "No face was found in this box."


class LookalikeApp:
    """Choose or drop photos, see the faces found and the stars most like them.

    >>> LookalikeApp(gallery, embedder)

    A first `photo` may be given: a path, bytes or a PIL image. It stays in memory, and nothing of
    it goes into the notebook's outputs or widget state unless "Keep" is pressed.

    `message` is the sentence shown last; `faces` are the faces of the photo; `face` is the cropped
    one; `matches` are its stars, most similar first.
    """

    def __init__(self, gallery, embedder, photo=None):
        self.gallery, self.embedder = gallery, embedder
        self.view = PhotoView(self._receive, self._show, self.use_box)
        self.answers = ipywidgets.HTML()
        self.buttons = ipywidgets.HBox(layout={"flex_flow": "row wrap"})
        for label, icon, action in (
            ("Next face", "forward", lambda: self._show((self._current + 1) % len(self.faces))),
            ("Next photo", "image", lambda: self._look((self._turn + 1) % len(self._photos))),
            ("Why?", "search", self.why),
            ("Keep", "save", self.keep),
        ):
            button = ipywidgets.Button(description=label, icon=icon, layout={"width": "auto"})
            button.on_click(lambda _, action=action: action())
            self.buttons.children += (button,)
        self.widget = ipywidgets.VBox([self.view, self.answers, self.buttons])
        self._photos: list[tuple[str, str | Path | bytes | Image.Image]] = []
        self._forget()
        self._say("Choose or drop one or more photos. They stay in memory.")
        if photo is not None:
            self.show_photo(photo)

    def _ipython_display_(self) -> None:
        display(self.widget)
        self._output = display(HTML(""), display_id=True)

    def _forget(self) -> None:
        self.photo = self.face = None
        self.faces, self.matches = [], []
        self.view.show("photo", None)
        self.view.show("crop", None)

    def _say(self, sentence: str, bad: bool = False) -> None:
        """Show a sentence, the stars below it, and the buttons that are of use."""
        self.message = sentence
        values = dict(gallery=self.gallery, matches=self.matches, b64encode=b64encode)
        self.answers.value = render_page(PAGE, message=sentence, bad=bad, **values)
        useful = (len(self.faces) > 1, len(self._photos) > 1, self.matches, self.matches)
        for button, is_useful in zip(self.buttons.children, useful):
            button.layout.display = "" if is_useful else "none"

    def _receive(self, files: list[tuple[str, bytes]]) -> None:
        self._photos = files
        self._look(0)

    def show_photo(self, photo, name: str = "the photo") -> None:
        """Find the faces of a photo (a path, bytes, a PIL image) and the stars like the first."""
        name = Path(photo).name if isinstance(photo, (str, Path)) else name
        self._receive([(name, photo)])

    def _look(self, turn: int) -> None:
        self._turn, (self.name, photo) = turn, self._photos[turn]
        self._forget()
        self._say(f"Looking at {self.name} …")
        try:
            self.gallery.check(self.embedder)
            if photo == b"":
                raise UserError(f"{self.name} is empty or above 100 MB; choose another photo")
            self.photo = read_photo(photo, name=self.name)
            self.faces = find_faces(self.photo)
            if not self.faces:
                self.view.show("photo", self.photo, f"{self.name} · drag a box around the face")
                raise UserError(f"No face found in {self.name}: drag a box around one")
            self._show(0)
        except UserError as error:
            self._say(str(error), bad=True)

    def _show(self, index: int) -> None:
        count = len(self.faces)
        if index < count:  # a frame drawn by hand may be clicked too
            self._current, boxes = index, [face.box for face in self.faces]
            caption = f"{self.name} · click a face; others? drag a box"
            self.view.show("photo", self.photo, caption, boxes, index)
            found = "One face found." if count == 1 else f"Face {index + 1} of {count}."
            self._search(boxes[index], found)

    def use_box(self, box: Box) -> None:
        """Show the stars for a face given by hand: (left, top, right, bottom) in pixels."""
        self.view.show("photo", self.photo, f"{self.name} · not it? drag another box", [box])
        self.matches = []
        try:
            self._search(box)
        except UserError as error:
            self.view.show("crop", None)
            self._say(str(error), bad=True)

    def _search(self, box: Box, found: str = "") -> None:
        """Crop and search; `found` is empty for a box drawn by hand."""
        self.face = crop_face(self.photo, box)
        self.view.show("crop", self.face, "as the network sees it")
        self.matches = self.gallery.search(self.embedder([self.face])[0])
        best, calibration = self.matches[0], self.gallery.calibration
        if not found and shows_face(self.photo, box):
            found = "Cropped by hand."
        likeness = f"similarity {best.similarity:.3f}"
        if found and calibration is not None:
            likeness = calibration.describe(best.similarity, len(self.gallery))
        self.answer = f"{found or NO_FACE} Most alike: {best.name}, {likeness}."
        self._say(self.answer, bad=not found)

    def why(self) -> None:
        """Colour the parts of the face that speak for the first star, by covering them in turn."""
        best = self.matches[0]
        falls = occlusion_map(self.embedder, self.face, self.gallery.means[best.identity])
        self.view.show("crop", heat(self.face, falls), f"warm: speaks for {best.name}")

    def keep(self) -> None:
        """Put the sheet of face and stars into the notebook's output, where it is saved."""
        picture = io.BytesIO()
        sheet = lookalike_sheet(self.face, self.matches, self.gallery, self.answer)
        sheet.savefig(picture, format="png")
        self._output.update(Picture(data=picture.getvalue(), format="png"))
        self._say("Kept: the sheet below is now part of the notebook.")
