import io
import os
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from labkit import crop
from labkit.crop import crop_face, find_faces, largest_face, read_photo, shows_face
from labkit.data import decode_image
from labkit.utils import UserError

GREY = (128, 128, 128)


def encoded(image, kind="JPEG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "camera"
    return block.tobytes()


def gradient(width=60, height=40) -> Image.Image:
    across, down = np.meshgrid(np.arange(width) * 4, np.arange(height) * 6)
    return Image.fromarray(np.stack([across, down, across // 2], axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "HEIF"])
def test_exif_rotation_is_honoured(kind, orientation):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    photo = gradient()
    settings = {} if kind == "TIFF" else dict(quality=100, subsampling="4:4:4")
    turned = read_photo(encoded(photo, kind, exif=exif(orientation), **settings))
    photo.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(photo)).astype(int)
    assert turned.size == ((40, 60) if orientation > 4 else (60, 40))
    assert np.abs(np.asarray(turned).astype(int) - wanted).mean() < 3


def test_a_photo_with_a_damaged_exif_block_is_read_as_it_lies():
    data = bytearray(encoded(gradient(), exif=exif(6)))
    at = data.index(b"Exif")
    data[at + 14 : at + 40] = b"\xff" * 26  # both entries
    assert read_photo(bytes(data)).size == (60, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF"])
def test_a_photo_with_changed_bytes_is_read_or_refused_in_one_sentence(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(gradient(), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif(6)}))
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(min(len(data), int(rng.choice([40, 400, len(data)]))))
            changed[place] = rng.integers(256)
        try:
            assert read_photo(bytes(changed)).mode == "RGB"
        except UserError as error:
            assert "\n" not in str(error)


def test_a_missing_package_is_named_in_one_sentence(monkeypatch):
    crop._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UserError, match="me.heic .* pip install pillow-heif"):
        read_photo(BAD_FILES["heic"][0], name="me.heic")
    with pytest.raises(UserError, match="pip install dlib-bin"):
        find_faces(gradient())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_common_formats_are_read(kind):
    data = encoded(gradient(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(read_photo(data)), np.asarray(gradient()))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode):
    photo = Image.new("RGB", (30, 20), GREY).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        photo = Image.fromarray(np.full((20, 30), 32768, dtype=np.uint16))
    read = read_photo(encoded(photo, "JPEG" if mode == "CMYK" else "PNG"))
    assert read.mode == "RGB" and read.size == (30, 20)
    assert mode not in ("L", "I;16") or abs(read.getpixel((5, 5))[0] - 128) <= 1


def test_transparent_parts_become_grey():
    assert read_photo(encoded(Image.new("RGBA", (8, 8)), "PNG")).getpixel((4, 4)) == GREY
    grey = Image.fromarray(np.full((20, 30), 32768, dtype=np.uint16))
    assert abs(read_photo(encoded(grey, "PNG", transparency=0)).getpixel((5, 5))[0] - 128) <= 1


def test_a_pil_image_is_not_changed():
    photo = gradient()
    read_photo(photo).putpixel((0, 0), (9, 9, 9))
    assert photo.getpixel((0, 0)) == (0, 0, 0)


def animated_gif() -> bytes:
    frames = [Image.new("L", (20, 20), 90 * i) for i in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BAD_FILES = {
    "text": (b"this is not a photo, whatever its name says", "not a picture"),
    "empty": (b"", "empty"),
    "truncated": (encoded(gradient(400, 300))[:3000], "cut short or damaged"),
    "truncated png": (encoded(gradient(400, 300), "PNG")[:900], "cut short or damaged"),
    "animated": (animated_gif(), "animation"),
    "huge": (encoded(Image.new("1", (10_000, 10_000)), "PNG"), "limit of 64 megapixels"),
    "heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC|damaged"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_one_clear_sentence_with_its_name(case, tmp_path):
    data, sentence = BAD_FILES[case]
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=sentence) as caught:
        read_photo(path)
    assert "holiday.jpg" in str(caught.value) and "\n" not in str(caught.value)
    for name, what in (("nobody.jpg", "no such file"), (".", "directory")):
        with pytest.raises(UserError, match=what):
            read_photo(tmp_path / name)


def test_only_regular_files_are_opened_so_that_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    for read in (read_photo, decode_image):
        with pytest.raises(UserError, match=r"x\.jpg.* not a file, but .*pipe"):
            read(tmp_path / "x.jpg")


def test_a_box_by_hand_is_told_to_show_a_face_or_none(astronaut, monkeypatch):
    [face] = find_faces(astronaut)
    left, top, right, bottom = face.box
    assert shows_face(astronaut, face.box) and shows_face(astronaut.crop(face.box), (0, 0, 99, 99))
    assert shows_face(astronaut, (left - 15, top - 25, right + 10, bottom + 20))
    for wall in ((0, 0, 80, 80), (10, 380, 130, 500), (right, top, right + 100, bottom)):
        assert not shows_face(astronaut, wall)
    assert not shows_face(Image.new("RGB", (640, 480), (170, 160, 150)), (100, 100, 300, 300))


def test_a_large_jpeg_is_decoded_at_reduced_scale(monkeypatch):
    monkeypatch.setattr(crop, "MAX_MEGAPIXELS", 0.1)
    assert read_photo(encoded(gradient(600, 300))).size == (300, 150)


@pytest.mark.parametrize("factor", [0.25, 1, 4])
def test_the_face_is_found_at_the_same_place_in_small_and_large_photos(astronaut, factor):
    size = tuple(round(edge * factor) for edge in astronaut.size)
    found = largest_face(astronaut.resize(size))
    left, top, right, bottom = found.box
    centre = np.array([left + right, top + bottom]) / 2
    assert np.abs(centre / factor - (224, 122)).max() < 15  # read off the picture by eye
    assert 70 < found.side / factor < 140 and found.confidence > 0.5


def test_several_faces_come_largest_first(astronaut):
    sheet = Image.new("RGB", (1600, 1024), GREY)
    sheet.paste(astronaut.resize((1024, 1024)), (0, 0))
    sheet.paste(astronaut.resize((560, 560)), (1030, 200))
    faces = [face for face in find_faces(sheet) if face.confidence > 0.4]
    assert len(faces) == 2 and faces[0].side > faces[1].side
    assert faces[0].box[0] < 600 < 1030 < faces[1].box[0]


def test_no_face_says_what_to_do():
    with pytest.raises(UserError, match=r"no face found in wall.jpg.*by hand"):
        largest_face(Image.new("RGB", (300, 200), GREY), name="wall.jpg")
    assert find_faces(Image.new("RGB", (1, 1))) == []


def test_the_crop_is_the_square_of_half_side_two_thirds_of_the_longer_side():
    photo = Image.new("RGB", (400, 300), (255, 0, 0))
    box = (100, 120, 160, 180)  # side 60, centre (130, 150): half side 40
    photo.paste((0, 0, 255), (90, 110, 170, 190))
    assert (np.asarray(crop_face(photo, box, size=80)) == (0, 0, 255)).all()
    photo.putpixel((90, 110), (0, 255, 0))
    assert crop_face(photo, box, size=80).getpixel((0, 0)) == (0, 255, 0)


def test_what_leaves_the_photo_is_grey():
    photo = Image.new("RGB", (60, 60), (10, 200, 30))
    wanted = np.full((80, 80, 3), 128)  # half side 40 around (30, 30)
    wanted[10:70, 10:70] = (10, 200, 30)
    assert np.array_equal(crop_face(photo, (0, 0, 60, 60), size=80), wanted)


SENSELESS = [(5, 5, 5, 9), (9, 9, 5, 5), (0, 0, np.nan, 5), (0, 0, np.inf, 5)]
OUTSIDE = [(500, 500, 560, 560), (-1e6, -1e6, 1e6, 1e6)]


@pytest.mark.parametrize("box", SENSELESS + OUTSIDE)
def test_a_box_without_an_area_outside_the_photo_or_far_larger_is_refused(box):
    with pytest.raises(UserError, match="outside the photo" if box in OUTSIDE else "left < right"):
        crop_face(gradient(), box)
