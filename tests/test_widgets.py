import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets")

from labkit import widgets
from labkit.crop import Face
from labkit.errors import UserError
from labkit.gallery import Gallery, fit_calibration
from labkit.gallery.search import normalized
from labkit.widgets import LookalikeApp, heat


class FakeEmbedder:
    weights_path, weights_sha256 = "best.safetensors", "a" * 64

    def __call__(self, images):
        pixels = [np.asarray(image.resize((6, 6))).ravel() / 255 - 0.4 for image in images]
        return normalized(np.stack(pixels))


@pytest.fixture
def gallery(tmp_path):
    rng = np.random.default_rng(0)
    for star in ("one", "two", "three"):
        (tmp_path / "faces" / star).mkdir(parents=True)
        pixels = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((96, 96))
        image.save(tmp_path / "faces" / star / "a.png")
    table = "identity,name,hangul,synthetic\none,<b>Haneul</b>,하늘,1\n"
    (tmp_path / "identities.csv").write_text(table, encoding="utf-8")
    return Gallery.build(tmp_path / "faces", FakeEmbedder())


@pytest.fixture
def app(gallery):
    return LookalikeApp(gallery, FakeEmbedder())


def photo_bytes(colour=(150, 120, 100)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 160), colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def two_faces(monkeypatch):
    faces = [Face((20, 20, 90, 90), 1.5), Face((110, 30, 160, 80), 0.9)]
    monkeypatch.setattr(widgets, "find_faces", lambda photo: faces)
    return faces


def upload(app, *files):
    app._uploaded({"new": [{"name": name, "content": memoryview(data)} for name, data in files]})


def shown(control) -> bool:
    return control.layout.display != "none"


def test_a_real_photo_gives_cards(gallery):
    data = pytest.importorskip("skimage.data")
    app = LookalikeApp(gallery, FakeEmbedder(), photo=Image.fromarray(data.astronaut()))
    assert len(app.faces) == 1 and app.face.size == (256, 256)
    assert len(app.matches) == 3 and app._cards.value.count('class="card"') == 3
    assert "synthetic" in app._cards.value
    assert app.message.startswith("One face found. Most alike:")


def test_names_are_shown_as_text_not_as_markup(app, two_faces):
    app.show_photo(photo_bytes(), "me.jpg")
    assert "&lt;b&gt;Haneul" in app._cards.value and "<b><b>" not in app._cards.value
    assert "하늘" in app._cards.value


def test_the_next_face_is_shown_and_the_first_comes_again(app, two_faces):
    app.show_photo(photo_bytes(), "group.jpg")
    assert app.message.startswith("Face 1 of 2.") and shown(app.next_face_button)
    app.next_face_button.click()
    assert app.message.startswith("Face 2 of 2.")
    app.next_face()
    assert app.message.startswith("Face 1 of 2.")


def test_several_uploads_are_shown_one_after_the_other(app, two_faces):
    upload(app, ("a.jpg", photo_bytes()), ("b.jpg", photo_bytes((10, 200, 10))))
    assert app.name == "a.jpg" and shown(app.next_photo_button)
    app.next_photo_button.click()
    assert app.name == "b.jpg"
    app.next_photo()
    assert app.name == "a.jpg"
    upload(app, ("c.jpg", photo_bytes()))
    assert app.name == "c.jpg" and not shown(app.next_photo_button)


@pytest.mark.parametrize("data,sentence", [(b"", "empty"), (b"text", "not a picture")])
def test_a_bad_upload_shows_one_sentence_and_clears_the_last_answer(app, two_faces, data, sentence):
    app.show_photo(photo_bytes(), "me.jpg")
    upload(app, ("<bad>.jpg", data))
    assert sentence in app.message and "<bad>.jpg" in app.message
    assert "&lt;bad&gt;.jpg" in app._status.value and "say bad" in app._status.value
    assert app._cards.value == "" and app.matches == [] and not shown(app.keep_button)


def test_without_a_face_the_box_can_be_set_by_hand(app):
    app.show_photo(photo_bytes(), "wall.jpg")
    assert "No face found in wall.jpg" in app.message and shown(app._by_hand)
    app._across.value, app._down.value, app._size.value = 0.4, 0.5, 0.5
    app.use_box_button.click()
    assert app.message.startswith("Cut by hand.") and len(app.matches) == 3
    left, top, right, bottom = app._box_by_hand()
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((80, 80))
    assert (right - left) / 0.75 == pytest.approx(100)  # half of the longer side


def test_other_weights_are_refused(gallery):
    other = FakeEmbedder()
    other.weights_sha256 = "b" * 64
    with pytest.raises(UserError, match="other weights"):
        LookalikeApp(gallery, other)


def test_calibration_puts_the_likeness_into_words(gallery, two_faces):
    calibration = fit_calibration([0.9, 0.8, 0.7, 0.1, 0.0, -0.1], [1, 1, 1, 0, 0, 0])
    app = LookalikeApp(gallery, FakeEmbedder(), photo_bytes(), calibration=calibration)
    assert "pairs of different people" in app._cards.value


def test_why_colours_the_face(app, two_faces):
    app.show_photo(photo_bytes(), "me.jpg")
    before = app._face_view.value
    app.why_button.click()
    assert app._face_view.value != before and "speaks for" in app._face_view.value
    falls = np.zeros((8, 8), dtype=np.float32)
    falls[0, 0] = 1
    face = Image.new("RGB", (64, 64), (100, 100, 100))
    coloured = np.asarray(heat(face, falls)).astype(int)
    assert np.abs(coloured[:6, :6] - 100).max() > 50 and (coloured[40:, 40:] == 100).all()


def test_nothing_of_the_photo_is_in_the_output_until_it_is_kept(app, two_faces, monkeypatch):
    import IPython.display

    displayed, kept = [], []

    class Handle:
        def update(self, picture):
            kept.append(picture)

    def display(thing, display_id=False):
        displayed.append(thing)
        return Handle() if display_id else None

    monkeypatch.setattr(IPython.display, "display", display)
    app._ipython_display_()
    app.show_photo(photo_bytes(), "me.jpg")
    assert displayed[0] is app.widget and displayed[1].data == "" and kept == []
    assert "base64" not in repr(app)
    app.keep_button.click()
    assert len(kept) == 1 and kept[0].data.startswith(b"\x89PNG")
