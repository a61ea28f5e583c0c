"""What a person presses and looks at in a notebook: the look-alike app."""

import base64
import html
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from labkit.crop import Face, crop_face, find_faces, read_photo
from labkit.errors import UserError
from labkit.gallery import Match, lookalike_sheet, occlusion_map

PREVIEW = 300
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
.facelab figure { margin: 0; }
.facelab figure img { border-radius: 12px; display: block; max-width: 100%; }
.facelab figcaption { color: var(--jp-ui-font-color2, #6b7280); padding-top: 4px; }
</style>
"""


class LookalikeApp:
    """Upload photos, see the faces found and the stars most like them.

    The photo stays in memory: nothing is written to disk, and nothing of it goes into the
    notebook's outputs unless "Keep" is pressed. A mistake shows as one sentence.

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
            embedder: the `Embedder` with the weights that made it; checked.
            photo: a first photo: a path, bytes or a PIL image.
            calibration: adds what a likeness means.
            k: how many stars.

        Raises:
            UserError: the gallery was made with other weights.
        """
        gallery.check(embedder)
        self.gallery, self.embedder, self.calibration, self.k = gallery, embedder, calibration, k
        self._photos: list[tuple[str, Image.Image | bytes]] = []
        self._handle = None
        self.photo: Image.Image | None = None
        self._build()
        self._reset()
        if photo is None:
            self._say("Choose one or more photos. They stay in memory.")
        else:
            self.show_photo(photo)

    def _build(self) -> None:
        import ipywidgets as widgets

        def button(label, icon, action, tip):
            made = widgets.Button(description=label, icon=icon, tooltip=tip)
            made.layout.width = "auto"
            made.on_click(lambda _: action())
            return made

        def slider(label, value, least=0.0):
            made = widgets.FloatSlider(
                value, min=least, max=1, step=0.01, description=label, readout=False
            )
            made.observe(lambda _: self._preview_box(), "value")
            return made

        self.upload = widgets.FileUpload(accept="image/*", multiple=True, description="Photos")
        self.upload.observe(self._uploaded, "value")
        self.next_face_button = button("Next face", "forward", self.next_face, "The next face")
        self.next_photo_button = button("Next photo", "image", self.next_photo, "The next photo")
        self.why_button = button("Why?", "search", self.why, "What speaks for the first star")
        self.keep_button = button("Keep", "save", self.keep, "Put the sheet into the notebook")
        self.box_button = button("Draw the box", "crop", self.draw_box, "Set the face by hand")
        self.use_box_button = button("Use this box", "check", self.use_box, "Cut this square")
        self._across, self._down = slider("across", 0.5), slider("down", 0.5)
        self._size = slider("size", 0.4, least=0.02)
        self._status, self._photo_view = widgets.HTML(), widgets.HTML()
        self._face_view, self._cards = widgets.HTML(), widgets.HTML()
        self._by_hand = widgets.VBox([self._across, self._down, self._size, self.use_box_button])
        self._buttons = widgets.HBox(
            [
                self.upload,
                self.next_face_button,
                self.next_photo_button,
                self.why_button,
                self.box_button,
                self.keep_button,
            ],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        pictures = widgets.HBox([self._photo_view, self._by_hand, self._face_view])
        pictures.layout = widgets.Layout(flex_flow="row wrap", grid_gap="16px")
        self.widget = widgets.VBox(
            [widgets.HTML(STYLE), self._buttons, self._status, pictures, self._cards],
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
        for view in (self._photo_view, self._face_view, self._cards):
            view.value = ""
        self._by_hand.layout.display = "none"
        self._refresh()

    def _refresh(self) -> None:
        for control, useful in (
            (self.next_face_button, len(self.faces) > 1),
            (self.next_photo_button, len(self._photos) > 1),
            (self.why_button, bool(self.matches)),
            (self.keep_button, bool(self.matches)),
            (self.box_button, self.photo is not None),
        ):
            control.layout.display = "" if useful else "none"

    def _say(self, sentence: str, bad: bool = False) -> None:
        self.message = sentence
        kind = "say bad" if bad else "say"
        self._status.value = (
            f'<div class="facelab"><div class="{kind}">{html.escape(sentence)}</div></div>'
        )

    def _uploaded(self, change) -> None:
        files = [(item["name"], bytes(item["content"])) for item in change["new"]]
        if not files:
            return
        self._photos = files
        with suppress(Exception):
            self.upload.value = ()
        name, data = self._photos[0]
        self.show_photo(data, name)

    def show_photo(self, photo, name: str | None = None) -> None:
        """Find the faces of a photo and show the stars most like the first.

        Args:
            photo: bytes of a file, a path, or a PIL image.
            name: what to call it; by default the file's name.
        """
        if name is None:
            name = Path(photo).name if isinstance(photo, (str, Path)) else "the photo"
        if name not in [known for known, _ in self._photos]:
            self._photos = [(name, photo)]
        self._say(f"Looking at {name} …")
        self._reset()
        self.name = name
        try:
            self.photo = read_photo(photo, name=name)
            self.faces = find_faces(self.photo)
        except UserError as error:
            self._refresh()
            self._say(str(error), bad=True)
            return
        if not self.faces:
            self.draw_box()
            self._say(
                f"No face found in {name}: set the square with the sliders and press "
                "“Use this box”, or choose a photo that looks at the camera.",
                bad=True,
            )
            return
        self._show_face(0)

    def next_face(self) -> None:
        """Show the stars for the next face of the photo, after the last the first again."""
        if self.faces:
            self._show_face((self._current + 1) % len(self.faces))

    def next_photo(self) -> None:
        """Go to the next of the uploaded photos, after the last the first again."""
        names = [name for name, _ in self._photos]
        if not names:
            return
        place = (names.index(self.name) + 1) % len(names) if self.name in names else 0
        name, data = self._photos[place]
        self.show_photo(data, name)

    def _show_face(self, number: int) -> None:
        self._current = number
        self._by_hand.layout.display = "none"
        boxes = [face.box for face in self.faces]
        self._photo_view.value = _figure(with_boxes(self.photo, boxes, number), self.name)
        self._show_matches(self.faces[number].box)
        count = len(self.faces)
        found = "One face found." if count == 1 else f"Face {number + 1} of {count}."
        if self.matches:
            self._say(f"{found} {self._verdict(self.matches[0])}")

    def _show_matches(self, box) -> None:
        try:
            self.face = crop_face(self.photo, box)
            self.matches = self.gallery.search(self.embedder([self.face])[0], self.k)
        except UserError as error:
            self.face, self.matches = None, []
            self._say(str(error), bad=True)
        else:
            self._face_view.value = _figure(self.face, "as the network sees it", 200)
            self._cards.value = self._card_row()
        self._refresh()

    def _verdict(self, match: Match) -> str:
        if self.calibration is None:
            return f"Most alike: {match.name}, similarity {match.similarity:.3f}."
        said = self.calibration.describe(match.similarity)
        return f"Most alike: {match.name}, {said}."

    def _card_row(self) -> str:
        cards = "".join(self._card(match) for match in self.matches)
        note = (
            f"<p><small>{html.escape(self.gallery.note)}</small></p>" if self.gallery.note else ""
        )
        return f'<div class="facelab"><div class="cards">{cards}</div>{note}</div>'

    def _card(self, match: Match) -> str:
        picture = _uri(self.gallery.thumbnail_jpeg(match.identity))
        hangul = str(self.gallery.details[match.identity].get("hangul", ""))
        lines = [hangul] if hangul else []
        lines.append(f"similarity {match.similarity:.3f}")
        if self.calibration is not None:
            percentile = float(self.calibration.percentile(match.similarity))
            lines.append(f"closer than {percentile:.1f} % of pairs of different people")
        small = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
        share = 100 * min(max(match.similarity, 0.0), 1.0)
        return (
            f'<div class="card"><img src="{picture}"><div><b>{html.escape(match.name)}</b>'
            f'<i><u style="width:{share:.0f}%"></u></i>{small}</div></div>'
        )

    def draw_box(self) -> None:
        """Offer sliders to set the face's square by hand."""
        if self.photo is not None:
            self._by_hand.layout.display = ""
            self._preview_box()
            self._refresh()

    def _box_by_hand(self) -> tuple[float, float, float, float]:
        """The box whose cut is the square of the sliders."""
        half = self._size.value * max(self.photo.size) * 0.75 / 2
        x, y = self._across.value * self.photo.width, self._down.value * self.photo.height
        return x - half, y - half, x + half, y + half

    def _preview_box(self) -> None:
        if self.photo is not None and self._by_hand.layout.display != "none":
            picture = with_boxes(self.photo, [self._box_by_hand()], 0)
            self._photo_view.value = _figure(picture, self.name)

    def use_box(self) -> None:
        """Show the stars for the square that the sliders set."""
        if self.photo is not None:
            self._show_matches(self._box_by_hand())
            if self.matches:
                self._say(f"Cut by hand. {self._verdict(self.matches[0])}")

    def why(self) -> None:
        """Colour the parts of the face that speak for the first star, by covering them in turn."""
        if not self.matches:
            return
        star = self.gallery.means[self.matches[0].identity]
        falls = occlusion_map(self.embedder, self.face, np.asarray(star))
        caption = f"warm: speaks for {self.matches[0].name}"
        self._face_view.value = _figure(heat(self.face, falls), caption, 200)

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


def with_boxes(photo: Image.Image, boxes: Sequence, current: int) -> Image.Image:
    """The photo in preview size with numbered boxes, the current one in blue."""
    scale = min(1.0, PREVIEW / max(photo.size))
    size = tuple(max(1, round(length * scale)) for length in photo.size)
    view = photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    draw = ImageDraw.Draw(view)
    for i, box in enumerate(boxes):
        colour = (37, 99, 235) if i == current else (255, 255, 255)
        corners = [round(edge * scale) for edge in box]
        draw.rectangle(corners, outline=colour, width=3)
        if len(boxes) > 1:
            draw.text((corners[0] + 6, corners[1] + 4), str(i + 1), fill=colour)
    return view


def _figure(picture: Image.Image, caption: str, width: int | None = None) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    wide = f' width="{width}"' if width else ""
    return (
        f'<div class="facelab"><figure><img src="{_uri(buffer.getvalue())}"{wide}>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure></div>"
    )


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
