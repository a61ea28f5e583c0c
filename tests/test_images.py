"""From image files to pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from labkit.crop import read_photo
from labkit.data import centre_crop, decode_image
from labkit.data.images import CROP_DRAWS, GREY, decode_pixels, random_resized_crop
from labkit.utils import UserError

CASES = Path(__file__).parent / "cases"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(256, 256), (300, 257), (97, 111)])
@pytest.mark.parametrize("min_size", [None, 30, 64, 200])
def test_a_jpeg_has_the_pixels_that_pillow_gives(shape, min_size):
    file = io.BytesIO()
    Image.fromarray(noise(*shape)).save(file, "JPEG", quality=80)
    pillow = Image.open(file)
    if min_size:
        scale = min_size / min(shape)
        pillow.draft("RGB", (round(shape[1] * scale), round(shape[0] * scale)))
    assert np.array_equal(decode_pixels(file.getvalue(), min_size=min_size), np.asarray(pillow))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (40, 30), (128, 128, 128)).convert(mode).save(tmp_path / "x.jpg")
    pixels = decode_pixels(tmp_path / "x.jpg", min_size=20)
    assert pixels.dtype == np.uint8 and pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_grey_of_16_bits_keeps_its_brightness(tmp_path):
    Image.fromarray(np.full((20, 30), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert np.unique(decode_pixels(tmp_path / "grey.png")).tolist() in ([127], [128])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image"),
        (b"text, not an image", "not an image"),
        # Pillow would start another program for this one.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"\xff\xd8\xff\xe0 cut short", "damaged: "),
        (None, "no such file"),
    ],
)
def test_an_unreadable_image_is_named_with_the_reason(tmp_path, content, message):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.jpg cannot be read: {message}"):
        decode_image(path)


def test_the_centre_crop_is_the_voxceleb_trainers():
    """Resize the shorter side to 256 and cut the middle 224, in one step instead of two."""
    gradient = np.linspace(0, 255, 200).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(gradient, (150, 1))] * 3, axis=2))
    ours = np.asarray(centre_crop(image, 224), int)
    resized = image.resize((round(200 * 256 / 150), 256), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    theirs = np.asarray(resized.crop((left, top, left + 224, top + 224)), int)
    assert np.abs(ours - theirs).max() <= 2


def test_random_crops_keep_the_asked_share_of_the_area():
    ramp = np.mgrid[0:200, 0:200].astype(np.uint8)
    image = np.stack([ramp[0], ramp[1], ramp[0]], axis=2)
    shares = []
    for seed in range(200):
        draws = np.random.default_rng(seed).random(CROP_DRAWS)
        crop = random_resized_crop(image, 50, draws).astype(float)
        height, width = np.ptp(crop[:, :, 0]) * 50 / 49, np.ptp(crop[:, :, 1]) * 50 / 49
        shares.append(height * width / 200**2)
    assert min(shares) > 0.76 and max(shares) < 1.04
    assert np.mean(shares) == pytest.approx(0.88, abs=0.03)


def test_a_random_crop_has_the_pixels_of_pillows_resize():
    rough = Image.fromarray(noise(120, 100, seed=1))
    smooth = np.array(rough.resize((200, 240), Image.Resampling.BICUBIC))
    draws = np.ones(CROP_DRAWS)  # the whole area, at the image's own ratio, from 3/4 to 4/3
    draws[1], draws[-2:] = np.log((200 / 240) / (3 / 4)) / np.log((4 / 3) / (3 / 4)), 0
    ours = random_resized_crop(smooth, 64, draws)
    theirs = np.asarray(Image.fromarray(smooth).resize((64, 64), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).max() <= 1


def saved(image: Image.Image, kind: str = "JPEG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("min_size", [None, 20])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_tag_says(orientation, min_size):
    """As Pillow turns it, whoever opens it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", orientation
    turned = saved(Image.fromarray(noise(97, 61)), exif=exif)
    image = Image.open(io.BytesIO(turned))
    if min_size:
        image.draft("RGB", (20, 32))
    wanted = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_pixels(turned, min_size=min_size), wanted)
    if not min_size:
        assert np.array_equal(np.asarray(read_photo(turned)), wanted)


@pytest.mark.parametrize("case", ["xmp", "damaged", "absent"])
def test_an_orientation_in_xmp_or_a_damaged_exif_block_is_taken_as_pillow_does(case):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    given = dict(xmp=dict(xmp=xmp), damaged=dict(exif=exif), absent={})[case]
    data = bytearray(saved(Image.fromarray(noise(40, 60)), **given))
    if case == "damaged":
        at = data.index(b"Exif")
        data[at + 14 : at + 40] = b"\xff" * 26
    height = 60 if case == "xmp" else 40
    assert decode_pixels(bytes(data)).shape[0] == read_photo(bytes(data)).height == height


def test_a_phones_photo_in_a_face_folder_is_the_upright_one():
    upright, turned = (
        np.asarray(decode_image(CASES / "exif/faces/a" / name).convert("L"), float).ravel()
        for name in ("upright.jpg", "exif6.jpg")
    )
    assert np.corrcoef(upright, turned)[0, 1] > 0.95


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_what_lies_under_a_transparent_part_is_not_seen(kind):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_pixels(saved(image, kind))[4, 4].tolist() == list(GREY)


def test_a_cut_out_face_is_the_same_in_a_folder_and_as_a_photo():
    for path in sorted((CASES / "transparent").rglob("*.png")):
        pixels = decode_pixels(path)
        assert np.array_equal(pixels, np.asarray(read_photo(path)))
        hidden = np.asarray(Image.open(path))[..., 3] == 0
        assert hidden.any() and (pixels[hidden] == GREY).all()
