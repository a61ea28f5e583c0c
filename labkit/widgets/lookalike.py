"""The look-alike app: from a photo to the stars most like a face in it."""

import base64
import io
from pathlib import Path

import ipywidgets
from IPython.display import HTML, display
from IPython.display import Image as Picture
from PIL import Image

from labkit.crop import Box, Face, crop_face, find_faces, read_photo
from labkit.gallery import Match
from labkit.likeness import occlusion_map
from labkit.plots import lookalike_sheet
from labkit.utils import UserError, render_page
from labkit.widgets.photo_view import MAX_FILE_SIZE, PhotoView, heat

PAGE = Path(__file__).with_name("lookalike.html")


class LookalikeApp:
    """Choose or drop photos, see the faces found and the stars most like them.

    >>> LookalikeApp(gallery, embedder)

    The photo stays in memory: nothing is written to disk, and nothing of it goes into the
    notebook's outputs or widget state unless "Keep" is pressed. A mistake shows as one sentence,
    an embedder with other weights than the gallery's too. A first `photo` may be given: a path,
    bytes or a PIL image; `calibration`, by default the gallery's own, adds what a likeness means;
    `k` is the number of stars.

    `widget` is the ipywidgets box; `message` is the sentence shown last; `faces` are the faces of
    the photo; `face` is the cropped one, or None; `matches` are its stars, most similar first.
    """

    def __init__(self, gallery, embedder, photo=None, *, calibration=None, k: int = 5):
        self.gallery, self.embedder, self.k = gallery, embedder, k
        self.calibration = calibration or gallery.calibration
        self._photos: list[tuple[str, Image.Image | bytes | None]] = []
        self._turn, self._output = 0, None
        self.view = PhotoView(self._receive, self._show_face, self.use_box)
        self.answers = ipywidgets.HTML()
        self.buttons = ipywidgets.HBox(layout={"flex_flow": "row wrap"})
        for label, icon, action in (
            ("Next face", "forward", self.next_face),
            ("Next photo", "image", self.next_photo),
            ("Why?", "search", self.why),
            ("Keep", "save", self.keep),
        ):
            button = ipywidgets.Button(description=label, icon=icon, layout={"width": "auto"})
            button.on_click(lambda _, action=action: action())
            self.buttons.children += (button,)
        parts = [self.view, self.answers, self.buttons]
        self.widget = ipywidgets.VBox(parts, layout={"grid_gap": "8px"})
        self._forget()
        try:
            gallery.check(embedder)
            self._say("Choose or drop one or more photos. They stay in memory.")
        except UserError as error:
            self._say(str(error), bad=True)
        if photo is not None:
            self.show_photo(photo)

    def __repr__(self) -> str:
        return f"LookalikeApp({self.gallery!r})"

    def _ipython_display_(self) -> None:
        display(self.widget)
        self._output = display(HTML(""), display_id=True)

    def _forget(self) -> None:
        self.name, self.photo, self.face, self._current = "", None, None, 0
        self.faces: list[Face] = []
        self.matches: list[Match] = []
        self.view.show(None)
        self.view.show_face(None)

    def _say(self, sentence: str, bad: bool = False) -> None:
        """Show a sentence, the stars below it, and the buttons that are of use."""
        self.message = sentence
        values = dict(cards=[self._card(match) for match in self.matches], note=self.gallery.note)
        self.answers.value = render_page(PAGE, message=sentence, bad=bad, **values)
        useful = (len(self.faces) > 1, len(self._photos) > 1, self.matches, self.matches)
        for button, is_useful in zip(self.buttons.children, useful):
            button.layout.display = "" if is_useful else "none"

    def _card(self, match: Match) -> dict:
        hangul = self.gallery.details[match.identity].get("hangul")
        lines = [hangul] if hangul else []
        lines.append(f"similarity {match.similarity:.3f}")
        if self.calibration is not None:
            percentile = float(self.calibration.percentile(match.similarity))
            lines.append(f"closer than {percentile:.1f} % of pairs of different people")
        portrait = base64.b64encode(self.gallery.thumbnail_jpeg(match.identity)).decode()
        percent = round(100 * min(max(match.similarity, 0), 1))
        return dict(name=match.name, portrait=portrait, percent=percent, lines=lines)

    def _receive(self, files: list[tuple[str, bytes | None]]) -> None:
        self._photos, self._turn = files, 0
        self._look()

    def show_photo(self, photo, name: str | None = None) -> None:
        """Find the faces of a photo (a path, bytes, a PIL image) and the stars like the first."""
        if name is None:
            name = Path(photo).name if isinstance(photo, (str, Path)) else "the photo"
        self._receive([(name, photo)])

    def next_face(self) -> None:
        """Show the stars for the next face of the photo, after the last the first again."""
        self._show_face((self._current + 1) % max(len(self.faces), 1))

    def next_photo(self) -> None:
        """Go to the next of the photos, after the last the first again."""
        if self._photos:
            self._turn = (self._turn + 1) % len(self._photos)
            self._look()

    def _look(self) -> None:
        """Find the faces of the photo whose turn it is, and show the first."""
        name, photo = self._photos[self._turn]
        self._forget()
        self._say(f"Looking at {name} …")
        try:
            self.gallery.check(self.embedder)
            if photo is None:
                limit = f"{MAX_FILE_SIZE // 1024**2} MB"
                raise UserError(f"{name} is larger than {limit}; make the photo smaller first")
            self.photo, self.name = read_photo(photo, name=name), name
            self.faces = find_faces(self.photo)
        except UserError as error:
            self._say(str(error), bad=True)
            return
        if self.faces:
            self._show_face(0)
        else:
            self.view.show(self.photo, caption=f"{name} · drag a box around the face")
            what_to_do = "drag a box around the face, or choose a photo that looks at the camera"
            self._say(f"No face found in {name}: {what_to_do}.", bad=True)

    def _show_face(self, index: int) -> None:
        count = len(self.faces)
        if 0 <= index < count:
            self._current, boxes = index, [face.box for face in self.faces]
            hint = "click a face, or drag a box" if count > 1 else "not it? drag a box"
            self.view.show(self.photo, boxes, index, f"{self.name} · {hint}")
            found = "One face found." if count == 1 else f"Face {index + 1} of {count}."
            self._search(boxes[index], found)

    def use_box(self, box: Box) -> None:
        """Show the stars for a face given by hand: (left, top, right, bottom) in pixels."""
        if self.photo is not None:
            self.view.show(self.photo, [box], 0, f"{self.name} · drag another box to try again")
            self._search(box, "Cropped by hand.")

    def _search(self, box: Box, found: str) -> None:
        try:
            self.face = crop_face(self.photo, box)
            self.matches = self.gallery.search(self.embedder([self.face])[0], self.k)
        except UserError as error:
            self.face, self.matches = None, []
            self._say(str(error), bad=True)
        else:
            best = self.matches[0]
            said = f"similarity {best.similarity:.3f}"
            if self.calibration is not None:
                said = self.calibration.describe(best.similarity, len(self.gallery))
            self._say(f"{found} Most alike: {best.name}, {said}.")
        self.view.show_face(self.face, "as the network sees it")

    def why(self) -> None:
        """Colour the parts of the face that speak for the first star, by covering them in turn."""
        if self.matches:
            star = self.gallery.means[self.matches[0].identity]
            falls = occlusion_map(self.embedder, self.face, star)
            self.view.show_face(heat(self.face, falls), f"warm: speaks for {self.matches[0].name}")

    def keep(self) -> None:
        """Put the sheet of face and stars into the notebook's output, where it is saved."""
        if self.matches and self._output is not None:
            picture = io.BytesIO()
            sheet = lookalike_sheet(
                self.face, self.matches, self.gallery, calibration=self.calibration
            )
            sheet.savefig(picture, format="png")
            self._output.update(Picture(data=picture.getvalue(), format="png"))
            self._say("Kept: the sheet below is now part of the notebook.")
