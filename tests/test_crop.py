import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from labkit import crop
from labkit.crop import Face, crop_face, find_faces, largest_face, read_photo
from labkit.utils import UserError

GREY = (128, 128, 128)


def encoded(image, kind="JPEG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def gradient(width=60, height=40) -> Image.Image:
    across, down = np.meshgrid(np.arange(width) * 4, np.arange(height) * 6)
    return Image.fromarray(np.stack([across, down, across // 2], axis=2).astype(np.uint8))


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut())


ASTRONAUT_FACE_CENTRE = (224, 122)  # read off the picture by eye


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_exif_rotation_is_honoured(kind, orientation):
    photo = gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = dict(quality=100, subsampling=0) if kind == "JPEG" else {}
    turned = read_photo(encoded(photo, kind, exif=exif, **settings))
    photo.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(photo)).astype(int)
    assert turned.size == ((40, 60) if orientation > 4 else (60, 40))
    assert np.abs(np.asarray(turned).astype(int) - wanted).mean() < 3


def test_a_photo_with_a_damaged_exif_block_is_read_as_it_lies():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    data = bytearray(encoded(gradient(), exif=exif))
    at = data.index(b"Exif")
    data[at + 14 : at + 40] = b"\xff" * 26  # both entries
    assert read_photo(bytes(data)).size == (60, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF"])
def test_a_photo_with_changed_bytes_is_read_or_refused_in_one_sentence(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    settings = {"exif": exif} if kind not in ("GIF", "BMP") else {}
    data = encoded(gradient(), kind, **settings)
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


def test_heic_photos_are_read_upright(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs the package pillow-heif")
    photo = gradient(240, 160)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(photo).save(path, quality=95, exif=exif.tobytes())
    wanted = np.asarray(photo.transpose(Image.Transpose.ROTATE_270)).astype(int)
    for source in (path, path.read_bytes()):
        read = np.asarray(read_photo(source)).astype(int)
        assert read.shape == wanted.shape and np.abs(read - wanted).mean() < 4


@pytest.mark.parametrize(
    "package,to_install", [("pillow_heif", "pillow-heif"), ("dlib", "dlib-bin")]
)
def test_a_missing_package_is_named_in_one_sentence(package, to_install, monkeypatch):
    crop._detector.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {to_install}"):
        if package == "dlib":
            find_faces(Image.new("RGB", (100, 100)))
        else:
            read_photo(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", name="me.heic")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_common_formats_are_read(kind):
    data = encoded(gradient(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(read_photo(data)), np.asarray(gradient()))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode):
    if mode == "I;16":
        photo = Image.fromarray(np.full((20, 30), 32768, dtype=np.uint16))
    else:
        photo = Image.new("RGB", (30, 20), GREY).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    read = read_photo(encoded(photo, kind))
    assert read.mode == "RGB" and read.size == (30, 20)
    if mode in ("L", "I;16"):
        assert abs(read.getpixel((5, 5))[0] - 128) <= 1


def test_transparent_parts_become_grey():
    assert read_photo(encoded(Image.new("RGBA", (8, 8)), "PNG")).getpixel((4, 4)) == GREY
    grey = Image.fromarray(np.full((20, 30), 32768, dtype=np.uint16))
    assert abs(read_photo(encoded(grey, "PNG", transparency=0)).getpixel((5, 5))[0] - 128) <= 1


def test_a_pil_image_is_not_changed():
    photo = gradient()
    read_photo(photo).putpixel((0, 0), (9, 9, 9))
    assert photo.getpixel((0, 0)) == (0, 0, 0)


def animated_gif() -> bytes:
    frames = [Image.new("P", (20, 20), i) for i in range(3)]
    frames[1].putpixel((3, 3), 9)
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
    with pytest.raises(UserError, match="upload.jpg"):
        read_photo(data, name="upload.jpg")
    for name, what in (("nobody.jpg", "no such file"), (".", "directory")):
        with pytest.raises(UserError, match=what):
            read_photo(tmp_path / name)


def test_a_large_jpeg_is_decoded_at_reduced_scale(monkeypatch):
    monkeypatch.setattr(crop, "MAX_MEGAPIXELS", 0.1)
    assert read_photo(encoded(gradient(600, 300))).size == (300, 150)


def test_a_real_face_is_found_and_cropped(astronaut):
    faces = find_faces(astronaut)
    left, top, right, bottom = faces[0].box
    x, y = ASTRONAUT_FACE_CENTRE
    assert left < x - 20 and right > x + 20 and top < y - 20 and bottom > y + 20
    assert right - left < 160 and faces[0].confidence > 0.5
    assert largest_face(astronaut) == faces[0]
    assert crop_face(astronaut, faces[0]).size == (256, 256)


@pytest.mark.parametrize("factor", [0.25, 4])
def test_the_face_is_found_at_the_same_place_in_small_and_large_photos(astronaut, factor):
    size = tuple(round(edge * factor) for edge in astronaut.size)
    found = largest_face(astronaut.resize(size, Image.Resampling.BICUBIC))
    centre = [(found.box[0] + found.box[2]) / 2, (found.box[1] + found.box[3]) / 2]
    assert np.abs(np.array(centre) / factor - ASTRONAUT_FACE_CENTRE).max() < 15
    assert 70 < found.side / factor < 140


def test_several_faces_come_largest_first(astronaut):
    sheet = Image.new("RGB", (1600, 1024), GREY)
    sheet.paste(astronaut.resize((1024, 1024)), (0, 0))
    sheet.paste(astronaut.resize((560, 560)), (1030, 200))
    faces = [face for face in find_faces(sheet) if face.confidence > 0.4]
    assert len(faces) == 2 and faces[0].side > faces[1].side
    assert faces[0].box[0] < 600 < 1030 < faces[1].box[0]


def test_beside_a_sure_face_weak_detections_are_left_out(monkeypatch, astronaut):
    for detected, kept in (([1.2, 0.5, 0.2], [0.5, 1.2]), ([0.3, 0.1], [0.1, 0.3])):
        faces = [Face((0, 0, 50, 50), confidence) for confidence in detected]
        monkeypatch.setattr(crop, "_detect", lambda *_, faces=faces: faces)
        assert sorted(face.confidence for face in find_faces(astronaut)) == kept


def test_no_face_says_what_to_do():
    with pytest.raises(UserError, match=r"no face found in wall.jpg.*by hand"):
        largest_face(Image.new("RGB", (300, 200), GREY), name="wall.jpg")
    assert find_faces(Image.new("RGB", (1, 1))) == []


def test_the_crop_is_the_square_of_half_side_two_thirds_of_the_longer_side():
    photo = Image.new("RGB", (400, 300), (255, 0, 0))
    box = (100, 120, 160, 180)  # side 60, centre (130, 150): half side 40
    photo.paste((0, 0, 255), (90, 110, 170, 190))
    cropped = np.asarray(crop_face(photo, Face(box, 1.0), size=80))
    assert (cropped == (0, 0, 255)).all()
    photo.putpixel((90, 110), (0, 255, 0))
    assert crop_face(photo, box, size=80).getpixel((0, 0)) == (0, 255, 0)


def test_what_leaves_the_photo_is_grey():
    photo = Image.new("RGB", (60, 60), (10, 200, 30))
    wanted = np.full((80, 80, 3), 128)  # half side 40 around (30, 30)
    wanted[10:70, 10:70] = (10, 200, 30)
    assert np.array_equal(crop_face(photo, (0, 0, 60, 60), size=80), wanted)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 9, 5, 5), (1, 2, 3), (0, 0, float("nan"), 5), "face", None]
)
def test_a_senseless_box_is_refused(box):
    with pytest.raises(UserError, match="box"):
        crop_face(gradient(), box)


def test_a_box_outside_the_photo_or_far_larger_is_refused():
    with pytest.raises(UserError, match="outside the photo of 60x40"):
        crop_face(gradient(), (500, 500, 560, 560))
    with pytest.raises(UserError, match="larger"):
        crop_face(gradient(), (-1e6, -1e6, 1e6, 1e6))
