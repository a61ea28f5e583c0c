import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from ipywidgets import Widget
from PIL import Image
from test_crop import BAD_FILES
from test_gallery import FakeEmbedder, faces  # noqa: F401

from labkit.crop import Face
from labkit.data.images import jpeg_bytes
from labkit.gallery import Gallery
from labkit.likeness import Calibration
from labkit.widgets import LookalikeApp, PhotoView, heat, with_boxes


@pytest.fixture
def gallery(faces):  # noqa: F811
    table = "identity,name,hangul,synthetic\nalpha,<b>Haneul</b>,하늘,1\n"
    (faces.parent / "identities.csv").write_text(table, encoding="utf-8")
    return Gallery.build(faces, FakeEmbedder())


@pytest.fixture
def app(gallery):
    return LookalikeApp(gallery, FakeEmbedder())


def photo_bytes() -> bytes:
    return jpeg_bytes(Image.new("RGB", (200, 160), (150, 120, 100)))


@pytest.fixture
def two_faces(monkeypatch):
    found = [Face((20, 20, 90, 90), 1.5), Face((110, 30, 160, 80), 0.9)]
    monkeypatch.setattr("labkit.widgets.find_faces", lambda photo: found)


def from_browser(app, kind, value=None, *buffers):
    """A message as the browser sends it."""
    app.view._handle_custom_msg({"kind": kind, "value": value}, list(buffers))


def upload(app, *files, piece=1000):
    """What the browser sends when files are chosen: their names, then their pieces."""
    from_browser(app, "begin", [name for name, _ in files])
    for index, (_, data) in enumerate(files):
        for start in range(0, len(data), piece):
            from_browser(app, "piece", index, data[start : start + piece])
    from_browser(app, "end")


@pytest.fixture
def told(monkeypatch):
    """Messages to the browser, as (message, buffers)."""
    messages = []
    monkeypatch.setattr(PhotoView, "send", lambda self, *message: messages.append(message))
    return messages


def buttons(app) -> set[str]:
    """The labels of the buttons that are shown."""
    return {b.description for b in app.buttons.children if b.layout.display != "none"}


def press(app, label: str) -> None:
    next(b for b in app.buttons.children if b.description == label).click()


def test_a_real_photo_gives_cards_with_names_as_text_not_as_markup(gallery):
    gallery.calibration = Calibration([[-1.0, -0.9, -0.8], [-1.0, -0.9, 0.9]])
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    app = LookalikeApp(gallery, FakeEmbedder(), photo)
    assert len(app.faces) == 1 and app.face.size == (256, 256) and len(app.matches) == 3
    assert app.message.startswith("One face found. Most alike:")
    page = app.answers.value
    assert page.count('class="card"') == 3 and "synthetic" in page and "하늘" in page
    assert "&lt;b&gt;Haneul" in page and "<b><b>" not in page
    assert "among 3 a stranger finds one this close in 50 of 100 searches" in app.message
    assert "same person" not in page and "chance" not in page
    app.use_box(app.faces[0].box)
    assert app.message.startswith("Cropped by hand. Most alike:") and "stranger" in app.message
    app.use_box((0, 0, 60, 60))
    assert app.message.startswith("No face was found in this box. Most alike:")
    assert "stranger" not in app.message and len(app.matches) == 3


def test_the_next_face_is_shown_or_the_one_that_is_clicked(app, two_faces, told):
    app.show_photo(photo_bytes(), "group.jpg")
    assert app.message.startswith("Face 1 of 2.") and "Next face" in buttons(app)
    for number in (2, 1):  # after the last the first again
        press(app, "Next face")
        assert app.message.startswith(f"Face {number} of 2.")
    for index in (1, 7):
        from_browser(app, "face", index)
        assert app.message.startswith("Face 2 of 2.")
    photo = [message for message, _ in told if message["kind"] == "photo"][-1]
    assert photo["caption"].endswith("others? drag a box")
    assert photo["current"] == 1 and photo["size"] == (200, 160)
    assert photo["boxes"] == [(20, 20, 90, 90), (110, 30, 160, 80)]
    told.clear()
    from_browser(app, "ready")  # a view that opens later
    assert [message["kind"] for message, _ in told] == ["photo", "crop"]
    assert all(Image.open(io.BytesIO(buffers[0])).width > 100 for _, buffers in told)


def test_several_uploads_are_shown_one_after_the_other(app, two_faces):
    upload(app, ("a.jpg", photo_bytes()), ("b.jpg", photo_bytes()))
    for name in ("a.jpg", "b.jpg", "a.jpg"):
        assert app.name == name
        press(app, "Next photo")
    upload(app, ("c.jpg", photo_bytes()))
    assert app.name == "c.jpg" and "Next photo" not in buttons(app)


def test_each_kind_of_bad_upload_shows_one_sentence_and_clears_the_last_answer(app, two_faces):
    for case, (data, sentence) in BAD_FILES.items():
        app.show_photo(photo_bytes(), "me.jpg")
        upload(app, (f"<{case}>.jpg", data))
        assert re.search(sentence, app.message) and f"<{case}>.jpg" in app.message, case
        assert "\n" not in app.message and app.message.count(". ") == 0
        assert f"&lt;{case}&gt;.jpg" in app.answers.value and "say bad" in app.answers.value
        assert "card" not in app.answers.value and app.matches == [] and buttons(app) == set()


def test_without_a_face_a_box_is_drawn(app):
    app.show_photo(photo_bytes(), "wall.jpg")
    assert "No face found in wall.jpg: drag a box" in app.message and app.matches == []
    from_browser(app, "box", [50, 40, 100, 80])
    assert app.message.startswith("No face was found in this box.") and len(app.matches) == 3
    for box, problem in (([900, 900, 950, 950], "outside the photo"), ([50, 40, 50, 80], "a box")):
        from_browser(app, "box", box)
        assert problem in app.message and "card" not in app.answers.value


def test_the_photo_is_never_part_of_the_widgets_state(gallery, two_faces):
    app = LookalikeApp(gallery, FakeEmbedder(), photo_bytes())
    app.why()
    state = str(Widget.get_manager_state()) + str(app.view.get_state())
    for star in range(len(gallery)):
        portrait = base64.b64encode(gallery.thumbnail_jpeg(star)).decode()
        assert portrait in app.answers.value
        state = state.replace(portrait, "a star")
    assert state.count("base64,") == state.count("base64,a star") > 0
    assert app.face.tobytes() not in state.encode() and "\\xff\\xd8" not in state


def test_a_gallery_of_other_weights_is_told_in_one_sentence(gallery, two_faces):
    app = LookalikeApp(gallery, FakeEmbedder("b" * 64), photo_bytes())
    assert "other weights" in app.message and app.matches == [] and buttons(app) == set()


def test_why_colours_the_face(app, two_faces, told):
    app.show_photo(photo_bytes(), "me.jpg")
    (_, [before]) = told[-1]
    press(app, "Why?")
    message, [after] = told[-1]
    assert message["kind"] == "crop" and "speaks for" in message["caption"] and after != before
    falls = np.pad([[1.0]], (0, 7))
    coloured = np.asarray(heat(Image.new("RGB", (64, 64), (100, 100, 100)), falls)).astype(int)
    assert np.abs(coloured[:6, :6] - 100).max() > 50 and (coloured[40:, 40:] == 100).all()


def test_boxes_are_drawn_at_their_place_in_the_smaller_photo():
    view = np.asarray(with_boxes(Image.new("RGB", (1200, 800)), [(400, 200, 800, 600)], 0))
    assert view.shape == (200, 300, 3)
    blue = np.argwhere((view == (37, 99, 235)).all(axis=2))
    assert blue.min(axis=0).tolist() == [50, 100] and blue.max(axis=0).tolist() == [150, 200]


def test_nothing_of_the_photo_is_in_the_output_until_it_is_kept(app, two_faces, monkeypatch):
    displayed, kept = [], []

    def display(thing, display_id=False):
        displayed.append(thing)
        return SimpleNamespace(update=kept.append)

    monkeypatch.setattr("labkit.widgets.display", display)
    app._ipython_display_()
    app.show_photo(photo_bytes(), "me.jpg")
    assert displayed[0] is app.widget and displayed[1].data == "" and kept == []
    press(app, "Keep")
    assert len(kept) == 1 and kept[0].data.startswith(b"\x89PNG")
