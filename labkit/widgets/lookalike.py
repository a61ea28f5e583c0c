"""The look-alike app: from a photo to the stars most like a face in it."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.crop import Face, crop_face, find_faces, read_photo
from labkit.gallery import Match, lookalike_sheet, occlusion_map
from labkit.utils import UserError
from labkit.widgets.photo_view import LARGEST_FILE, PhotoView
from labkit.widgets.pictures import heat

AS_SEEN = "as the network sees it"
STYLE = """
<style>
.facelab { font: 14px system-ui, sans-serif; color: var(--jp-ui-font-color1, #111827); }
.facelab .say { padding: 8px 12px; border-radius: 8px; background: rgba(37, 99, 235, .10); }
.facelab .say.bad { background: rgba(220, 38, 38, .12); }
.facelab .cards { display: flex; flex-wrap: wrap; gap: 12px; }
.facelab .card { width: 148px; border: 1px solid rgba(127, 127, 127, .3); border-radius: 12px;
  overflow: hidden; }
.facelab .card img { width: 148px; height: 148px; object-fit: cover; display: block; }
.facelab .card div { padding: 7px 10px 10px; line-height: 1.35; }
.facelab .card b { display: block; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.facelab .card small { color: var(--jp-ui-font-color2, #6b7280); display: block; }
.facelab .card i { display: block; height: 6px; border-radius: 3px; margin: 6px 0 4px;
  background: rgba(127, 127, 127, .25); }
.facelab .card u { display: block; height: 6px; border-radius: 3px; background: #2563eb; }
</style>
"""


class LookalikeApp:
    """Choose or drop photos, see the faces found and the stars most like them.

    The photo stays in memory: nothing is written to disk, and nothing of it goes into the
    notebook's outputs or widget state unless "Keep" is pressed. A mistake shows as one sentence.

    >>> LookalikeApp(gallery, embedder)

    Attributes:
        widget: the ipywidgets box, shown when the app is the last line of a cell.
        message: the sentence shown last.
        faces: the faces of the photo, as `find_faces` gives them.
        face: the cut face that is shown, or None.
        matches: its stars, most alike first.
    """

    def __init__(self, gallery, embedder, photo=None, *, calibration=None, k: int = 5):
        """
        Args:
            gallery: a `Gallery`.
            embedder: the `Embedder` with the weights that made it; with others the app says so
                and takes no photo.
            photo: a first photo: a path, bytes or a PIL image.
            calibration: adds what a likeness means; by default the gallery's own.
            k: how many stars.
        """
        self.gallery, self.embedder, self.k = gallery, embedder, k
        self.calibration = calibration or gallery.calibration
        self._photos: list[tuple[str, Image.Image | bytes | None]] = []
        self._place = 0
        self._handle = None
        self._build()
        self._reset()
        try:
            gallery.check(embedder)
        except UserError as error:
            self.view.layout.display = "none"
            self._say(str(error), bad=True)
            return
        self._say("Choose or drop one or more photos. They stay in memory.")
        if photo is not None:
            self.show_photo(photo)

    def _build(self) -> None:
        import ipywidgets as widgets

        def button(label, icon, action, tip):
            made = widgets.Button(description=label, icon=icon, tooltip=tip)
            made.layout.width = "auto"
            made.on_click(lambda _: action())
            return made

        self.view = PhotoView(self._received, self._show_face, self.use_box)
        self.next_face_button = button("Next face", "forward", self.next_face, "The next face")
        self.next_photo_button = button("Next photo", "image", self.next_photo, "The next photo")
        self.why_button = button("Why?", "search", self.why, "What speaks for the first star")
        self.keep_button = button("Keep", "save", self.keep, "Put the sheet into the notebook")
        self._status, self._cards = widgets.HTML(), widgets.HTML()
        buttons = widgets.HBox(
            [self.next_face_button, self.next_photo_button, self.why_button, self.keep_button],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        self.widget = widgets.VBox(
            [widgets.HTML(STYLE), self.view, self._status, self._cards, buttons],
            layout=widgets.Layout(grid_gap="8px"),
        )

    def __repr__(self) -> str:
        return f"LookalikeApp({self.gallery!r})"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.widget)
        self._handle = display(HTML(""), display_id=True)

    def _reset(self) -> None:
        self.name, self.photo, self.face = "", None, None
        self.faces: list[Face] = []
        self.matches: list[Match] = []
        self._current = 0
        self._cards.value = ""
        self.view.clear()
        self._refresh()

    def _refresh(self) -> None:
        for control, useful in (
            (self.next_face_button, len(self.faces) > 1),
            (self.next_photo_button, len(self._photos) > 1),
            (self.why_button, bool(self.matches)),
            (self.keep_button, bool(self.matches)),
        ):
            control.layout.display = "" if useful else "none"

    def _say(self, sentence: str, bad: bool = False) -> None:
        self.message = sentence
        kind = "say bad" if bad else "say"
        self._status.value = (
            f'<div class="facelab"><div class="{kind}">{html.escape(sentence)}</div></div>'
        )

    def _received(self, files: list[tuple[str, bytes | None]]) -> None:
        self._photos, self._place = list(files), 0
        self._look()

    def show_photo(self, photo, name: str | None = None) -> None:
        """Find the faces of a photo and show the stars most like the first.

        Args:
            photo: bytes of a file, a path, or a PIL image.
            name: what to call it; by default the file's name.
        """
        if name is None:
            name = Path(photo).name if isinstance(photo, (str, Path)) else "the photo"
        self._photos, self._place = [(name, photo)], 0
        self._look()

    def next_face(self) -> None:
        """Show the stars for the next face of the photo, after the last the first again."""
        if self.faces:
            self._show_face((self._current + 1) % len(self.faces))

    def next_photo(self) -> None:
        """Go to the next of the photos, after the last the first again."""
        if self._photos:
            self._place = (self._place + 1) % len(self._photos)
            self._look()

    def _look(self) -> None:
        """Find the faces of the photo whose turn it is, and show the first."""
        name, photo = self._photos[self._place]
        self._reset()
        self._say(f"Looking at {name} …")
        try:
            self.gallery.check(self.embedder)
            if photo is None:
                size = LARGEST_FILE // 1024**2
                raise UserError(f"{name} is larger than {size} MB; make the photo smaller first")
            self.photo, self.name = read_photo(photo, name=name), name
            self.faces = find_faces(self.photo)
        except UserError as error:
            self._say(str(error), bad=True)
        except MemoryError:
            self._say(f"{name} does not fit into memory; make the photo smaller first", bad=True)
        else:
            if self.faces:
                self._show_face(0)
                return
            self.view.show(self.photo, [], 0, f"{name} · drag a box around the face")
            self._say(
                f"No face found in {name}: drag a box around the face with the mouse, from the "
                "forehead to the chin, or choose a photo that looks at the camera.",
                bad=True,
            )
        self._refresh()

    def _show_face(self, number: int) -> None:
        if not 0 <= number < len(self.faces):
            return
        self._current = number
        boxes = [face.box for face in self.faces]
        hint = "click a face, or drag a box" if len(boxes) > 1 else "not it? drag a box"
        self.view.show(self.photo, boxes, number, f"{self.name} · {hint}")
        self._show_matches(boxes[number])
        count = len(self.faces)
        found = "One face found." if count == 1 else f"Face {number + 1} of {count}."
        if self.matches:
            self._say(f"{found} {self._verdict(self.matches[0])}")

    def use_box(self, box: tuple[float, float, float, float]) -> None:
        """Show the stars for a face that is given by hand.

        Args:
            box: (left, top, right, bottom) in pixels of the photo, forehead to chin.
        """
        if self.photo is not None:
            self.view.show(self.photo, [box], 0, f"{self.name} · drag another box to try again")
            self._show_matches(box)
            if self.matches:
                self._say(f"Cut by hand. {self._verdict(self.matches[0])}")

    def _show_matches(self, box) -> None:
        try:
            self.face = crop_face(self.photo, box)
            self.matches = self.gallery.search(self.embedder([self.face])[0], self.k)
        except UserError as error:
            self.face, self.matches = None, []
            self._say(str(error), bad=True)
        self.view.show_face(self.face, AS_SEEN)
        self._cards.value = self._card_row() if self.matches else ""
        self._refresh()

    def _verdict(self, match: Match) -> str:
        if self.calibration is None:
            return f"Most alike: {match.name}, similarity {match.similarity:.3f}."
        said = self.calibration.describe(match.similarity, len(self.gallery))
        return f"Most alike: {match.name}, {said}."

    def _card_row(self) -> str:
        cards = "".join(self._card(match) for match in self.matches)
        note = (
            f"<p><small>{html.escape(self.gallery.note)}</small></p>" if self.gallery.note else ""
        )
        return f'<div class="facelab"><div class="cards">{cards}</div>{note}</div>'

    def _card(self, match: Match) -> str:
        portrait = base64.b64encode(self.gallery.thumbnail_jpeg(match.identity)).decode()
        hangul = str(self.gallery.details[match.identity].get("hangul", ""))
        lines = [hangul] if hangul else []
        lines.append(f"similarity {match.similarity:.3f}")
        if self.calibration is not None:
            percentile = float(self.calibration.percentile(match.similarity))
            lines.append(f"closer than {percentile:.1f} % of pairs of different people")
        small = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
        share = 100 * min(max(match.similarity, 0.0), 1.0)
        name = html.escape(match.name)
        return (
            f'<div class="card"><img src="data:image/jpeg;base64,{portrait}" alt="{name}">'
            f'<div><b>{name}</b><i><u style="width:{share:.0f}%"></u></i>{small}</div></div>'
        )

    def why(self) -> None:
        """Colour the parts of the face that speak for the first star, by covering them in turn."""
        if not self.matches:
            return
        star = self.gallery.means[self.matches[0].identity]
        falls = occlusion_map(self.embedder, self.face, np.asarray(star))
        self.view.show_face(heat(self.face, falls), f"warm: speaks for {self.matches[0].name}")

    def keep(self) -> None:
        """Put the sheet of face and stars into the notebook's output, where it is saved."""
        if not self.matches:
            return
        sheet = lookalike_sheet(self.face, self.matches, self.gallery, calibration=self.calibration)
        if self._handle is not None:
            from IPython.display import Image as Picture

            buffer = io.BytesIO()
            sheet.savefig(buffer, format="png")
            self._handle.update(Picture(data=buffer.getvalue(), format="png"))
        self._say("Kept: the sheet below is now part of the notebook.")
