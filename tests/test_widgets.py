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
from labkit.likeness import fit_calibration
from labkit.widgets import LookalikeApp, heat, with_boxes


@pytest.fixture
def gallery(faces):  # noqa: F811
    table = "identity,name,hangul,synthetic\nalpha,<b>Haneul</b>,하늘,1\n"
    (faces.parent / "identities.csv").write_text(table, encoding="utf-8")
    return Gallery.build(faces, FakeEmbedder())


@pytest.fixture
def app(gallery):
    return LookalikeApp(gallery, FakeEmbedder())


def photo_bytes(colour=(150, 120, 100)) -> bytes:
    return jpeg_bytes(Image.new("RGB", (200, 160), colour))


@pytest.fixture
def two_faces(monkeypatch):
    found = [Face((20, 20, 90, 90), 1.5), Face((110, 30, 160, 80), 0.9)]
    monkeypatch.setattr("labkit.widgets.lookalike.find_faces", lambda photo: found)


def from_browser(app, *buffers, **message):
    """A message as the browser sends it."""
    app.view._handle_custom_msg(message, list(buffers))


def upload(app, *files, piece=1000):
    """What the browser sends when files are chosen: their names and sizes, then their pieces."""
    about = [{"name": name, "size": len(data)} for name, data in files]
    from_browser(app, kind="begin", files=about)
    for index, (_, data) in enumerate(files):
        for start in range(0, len(data), piece):
            from_browser(app, data[start : start + piece], kind="piece", index=index)
    from_browser(app, kind="end")


@pytest.fixture
def told(monkeypatch):
    """Messages to the browser, as (message, buffers)."""
    messages = []
    monkeypatch.setattr(
        "labkit.widgets.photo_view.PhotoView.send",
        lambda self, message, buffers=None: messages.append((message, buffers)),
    )
    return messages


def buttons(app) -> set[str]:
    """The labels of the buttons that are shown."""
    return {b.description for b in app.buttons.children if b.layout.display != "none"}


def press(app, label: str) -> None:
    next(b for b in app.buttons.children if b.description == label).click()


def test_a_real_photo_gives_cards_with_names_as_text_not_as_markup(gallery):
    data = pytest.importorskip("skimage.data")
    app = LookalikeApp(gallery, FakeEmbedder(), photo=Image.fromarray(data.astronaut()))
    assert len(app.faces) == 1 and app.face.size == (256, 256)
    assert len(app.matches) == 3 and app.answers.value.count('class="card"') == 3
    assert "synthetic" in app.answers.value
    assert app.message.startswith("One face found. Most alike:")
    assert "&lt;b&gt;Haneul" in app.answers.value and "<b><b>" not in app.answers.value
    assert "하늘" in app.answers.value


def test_the_next_face_is_shown_or_the_one_that_is_clicked(app, two_faces, told):
    app.show_photo(photo_bytes(), "group.jpg")
    assert app.message.startswith("Face 1 of 2.") and "Next face" in buttons(app)
    for number in (2, 1):  # after the last the first again
        press(app, "Next face")
        assert app.message.startswith(f"Face {number} of 2.")
    for index in (1, 7):
        from_browser(app, kind="face", index=index)
        assert app.message.startswith("Face 2 of 2.")
    photo = [message for message, _ in told if message["kind"] == "photo"][-1]
    assert photo["current"] == 1
    assert photo["boxes"][1] == pytest.approx([110 / 200, 30 / 160, 160 / 200, 80 / 160])
    told.clear()
    from_browser(app, kind="ready")  # a view that opens later
    assert [message["kind"] for message, _ in told] == ["photo", "crop"]
    assert all(Image.open(io.BytesIO(buffers[0])).width > 100 for _, buffers in told)


def test_several_uploads_are_shown_one_after_the_other(app, two_faces):
    upload(app, ("a.jpg", photo_bytes()), ("b.jpg", photo_bytes((10, 200, 10))))
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
    app.view.largest_file = 100
    upload(app, ("huge.jpg", photo_bytes()))
    assert "huge.jpg is larger than 100 MB" in app.message


def test_without_a_face_a_box_is_drawn(app):
    app.show_photo(photo_bytes(), "wall.jpg")
    assert "No face found in wall.jpg: drag a box" in app.message and app.matches == []
    from_browser(app, kind="box", box=[0.25, 0.25, 0.5, 0.5])  # of a photo of 200 x 160 pixels
    assert app.message.startswith("Cropped by hand.") and len(app.matches) == 3
    by_hand = app.face
    app.use_box((50, 40, 100, 80))
    assert np.array_equal(np.asarray(by_hand), np.asarray(app.face))
    app.use_box((900, 900, 950, 950))
    assert "outside the photo" in app.message and "card" not in app.answers.value


def test_the_photo_is_never_part_of_the_widgets_state(gallery, two_faces):
    app = LookalikeApp(gallery, FakeEmbedder(), photo_bytes())
    app.why()
    state = str(Widget.get_manager_state()) + str(app.view.get_state())
    for star in range(len(gallery)):
        portrait = base64.b64encode(gallery.thumbnail_jpeg(star)).decode()
        assert portrait in app.answers.value
        state = state.replace(portrait, "a star")
    assert "base64,a star" in state
    assert app.face.tobytes() not in state.encode() and "\\xff\\xd8" not in state
    assert app.answers.value.count("base64") == 3


def test_a_gallery_of_other_weights_is_told_in_one_sentence(gallery, two_faces):
    app = LookalikeApp(gallery, FakeEmbedder("b" * 64), photo_bytes())
    assert "made with other weights" in app.message and "say bad" in app.answers.value
    assert app.matches == [] and buttons(app) == set()


def test_calibration_puts_the_likeness_into_words(gallery, two_faces):
    calibration = fit_calibration([0.9, 0.8, 0.7, 0.1, 0.0, -0.1], [1, 1, 1, 0, 0, 0])
    app = LookalikeApp(gallery, FakeEmbedder(), photo_bytes(), calibration=calibration)
    assert "pairs of different people" in app.answers.value
    gallery.calibration = calibration
    assert LookalikeApp(gallery, FakeEmbedder(), photo_bytes()).calibration is calibration


def test_why_colours_the_face(app, two_faces, told):
    app.show_photo(photo_bytes(), "me.jpg")
    (_, [before]) = told[-1]
    press(app, "Why?")
    message, [after] = told[-1]
    assert message["kind"] == "crop" and "speaks for" in message["caption"] and after != before
    falls = np.zeros((8, 8), dtype=np.float32)
    falls[0, 0] = 1
    face = Image.new("RGB", (64, 64), (100, 100, 100))
    coloured = np.asarray(heat(face, falls)).astype(int)
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
        return SimpleNamespace(update=kept.append) if display_id else None

    monkeypatch.setattr("labkit.widgets.lookalike.display", display)
    app._ipython_display_()
    app.show_photo(photo_bytes(), "me.jpg")
    assert displayed[0] is app.widget and displayed[1].data == "" and kept == []
    assert "base64" not in repr(app)
    press(app, "Keep")
    assert len(kept) == 1 and kept[0].data.startswith(b"\x89PNG")
