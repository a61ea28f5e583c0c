"""From any photo to a face cut as the training sets are cut."""

import io
import math
import struct
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from labkit.data.images import DAMAGED, FORMATS, rgb
from labkit.utils import UserError, reason

GREY = (128, 128, 128)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a photo upright, by its EXIF orientation."""
MAX_MEGAPIXELS = 64
DETECTION_SIDES = (640, 1600)
"""A photo's longer side is brought between these two, in pixels, before detection."""
SECOND_LOOK_SIDE = 2400
"""The longer side at which a photo without a face is searched once more, for small faces."""
SURE, WEAK = 0.8, 0.4
"""Beside a face of the first score, detections below the second are left out."""


@dataclass(frozen=True)
class Face:
    """A detected face.

    Attributes:
        box: (left, top, right, bottom) in pixels of the photo; may leave the photo.
        confidence: the detector's score; above 0 for a detection, above 1 for a sure one.
    """

    box: tuple[float, float, float, float]
    confidence: float

    @property
    def side(self) -> float:
        """The longer side of the box, in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def read_photo(source: str | Path | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """A photo as it should be looked at: RGB, turned upright by its EXIF orientation.

    Reads JPEG, PNG, WebP, BMP, TIFF and still GIF files, and HEIC when `pillow-heif` is
    installed. Transparent parts become grey. JPEGs above 64 megapixels are decoded at a reduced
    scale.

    Args:
        source: a path, the file's bytes, or a PIL image (not changed).
        name: what to call the photo in messages; by default the path.

    Raises:
        UserError: the file is missing, empty, no picture, damaged, an animation, or above
            64 megapixels.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = name or "the photo", bytes(source)
    else:
        name = name or str(source)
        try:
            data = Path(source).read_bytes()
        except IsADirectoryError:
            raise UserError(f"{name} is a folder; give the path of one photo") from None
        except (OSError, ValueError) as error:
            what = reason(error) if isinstance(error, OSError) else "not a valid path"
            raise UserError(f"cannot read the photo {name}: {what}") from None
    if not data:
        raise UserError(f"{name} is empty (0 bytes); copy or download the photo again")
    return _decode(data, name)


def _decode(data: bytes, name: str) -> Image.Image:
    formats = FORMATS + (("HEIF",) if _heif() else ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                if image.format != "MPO" and getattr(image, "is_animated", False):
                    if image.format != "TIFF":
                        raise UserError(f"{name} is an animation; save one frame as JPEG or PNG")
                _shrink_to_limit(image, name)
                return _upright_rgb(image)
    except UnidentifiedImageError:
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise UserError(
                f"{name} is a HEIC photo; pip install pillow-heif, or save it as JPEG"
            ) from None
        raise UserError(f"{name} is not a picture; use a JPEG, PNG or WebP photo") from None
    except Image.DecompressionBombError:
        raise _too_large(name, None) from None
    except DAMAGED:
        raise UserError(
            f"{name} is cut short or damaged; copy or download the photo again"
        ) from None


def _shrink_to_limit(image: Image.Image, name: str) -> None:
    width, height = image.size
    limit = MAX_MEGAPIXELS * 1_000_000
    if width * height > limit:
        image.draft("RGB", (width // 2, height // 2))
    if image.width * image.height > limit:
        raise _too_large(name, width * height)


def _too_large(name: str, pixels: int | None) -> UserError:
    size = f"{pixels / 1e6:,.0f}" if pixels else "far too many"
    return UserError(
        f"{name} has {size} megapixels, above the limit of {MAX_MEGAPIXELS}; make it smaller first"
    )


def _upright(image: Image.Image) -> Image.Image:
    """A copy, turned as the camera's orientation says; a damaged EXIF block says nothing."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode in ("RGBA", "LA", "PA") or (
        "transparency" in image.info and not image.mode.startswith("I")
    ):
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (*GREY, 255))
        image = Image.alpha_composite(backdrop, image)
    return rgb(image)


@lru_cache(maxsize=1)
def _heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@lru_cache(maxsize=1)
def _detector():
    try:
        import dlib
    except ImportError:
        raise UserError(
            "the face detector is missing; pip install dlib-bin, or give the box by hand"
        ) from None
    return dlib.get_frontal_face_detector()


def find_faces(
    photo: Image.Image, *, min_confidence: float = 0.0, second_look: bool = True
) -> list[Face]:
    """The faces that look roughly at the camera, largest and surest first; empty when none.

    Histograms of oriented gradients with a linear classifier (Dalal and Triggs 2005, as trained
    by King for dlib). A photo's longer side is scaled to between 640 and 1600 pixels first; when
    nothing is found there, a second look at 2400 pixels finds faces from about 1/30 of it. Beside
    a sure face, weak detections are left out: they are folds and hands more often than people.

    Args:
        photo: an RGB picture of any size.
        min_confidence: detections of a lower score are left out.
        second_look: search once more where nothing is found; takes six times as long there.

    Raises:
        UserError: the detector (package dlib-bin) is not installed.
    """
    longest = max(photo.size)
    side = min(max(longest, DETECTION_SIDES[0]), DETECTION_SIDES[1])
    faces = _detect(photo, side / longest, min_confidence)
    if second_look and not faces and min(photo.size) >= 16:
        faces = _detect(photo, min(4 * longest, SECOND_LOOK_SIDE) / longest, min_confidence)
    if any(face.confidence >= SURE for face in faces):
        faces = [face for face in faces if face.confidence >= WEAK]
    return sorted(faces, key=lambda face: -face.side * min(max(face.confidence, 0.05), 1.0))


def _detect(photo: Image.Image, scale: float, min_confidence: float) -> list[Face]:
    size = tuple(max(1, round(length * scale)) for length in photo.size)
    scaled = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    boxes, scores, _ = _detector().run(np.asarray(scaled), 0, min_confidence)
    across, down = photo.width / size[0], photo.height / size[1]
    return [
        Face(
            (
                round(box.left() * across, 1),
                round(box.top() * down, 1),
                round((box.right() + 1) * across, 1),
                round((box.bottom() + 1) * down, 1),
            ),
            round(float(score), 3),
        )
        for box, score in zip(boxes, scores, strict=True)
    ]


def largest_face(photo: Image.Image, *, name: str = "the photo") -> Face:
    """The first of `find_faces`; UserError when there is none."""
    faces = find_faces(photo)
    if not faces:
        raise UserError(
            f"no face found in {name}; use one that looks at the camera in good light, "
            "or give the face's box (left, top, right, bottom) by hand"
        )
    return faces[0]


def only_face(photo: Image.Image, *, name: str = "the photo") -> Face:
    """The one face of the photo; UserError when there is none or more than one."""
    faces = find_faces(photo)
    if len(faces) > 1:
        raise UserError(
            f"{len(faces)} faces found in {name}; cut the photo to one person, or give the box "
            "(left, top, right, bottom) by hand"
        )
    return faces[0] if faces else largest_face(photo, name=name)


def square_around(box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """The square that is cut for a face: centre x, centre y and half side, in pixels.

    The half side is the longer side of the box divided by 1.5, so that the box fills three
    quarters of the cut.

    Raises:
        UserError: the box is not four finite numbers with left < right and top < bottom.
    """
    try:
        left, top, right, bottom = (float(edge) for edge in box)
    except (TypeError, ValueError):
        raise UserError(f"a face's box is (left, top, right, bottom), not {box!r}") from None
    if not all(map(math.isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
        raise UserError(
            f"the box ({left:g}, {top:g}, {right:g}, {bottom:g}) is empty; "
            "give left < right and top < bottom in pixels"
        )
    half = max(right - left, bottom - top) / 1.5
    return (left + right) / 2, (top + bottom) / 2, half


def crop_face(
    photo: Image.Image,
    face_or_box: Face | tuple[float, float, float, float],
    size: int = 256,
    *,
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Image.Image:
    """The face cut as the training sets are cut: a square of `size` pixels, RGB.

    The square lies around the centre of the box, its half side is the longer side of the box
    divided by 1.5, and what lies outside the photo is grey (128, 128, 128).

    Args:
        photo: an RGB picture.
        face_or_box: a `Face`, or (left, top, right, bottom) in pixels of the photo.
        size: side of the result in pixels.
        eyes: centres of the two eyes (x, y) in pixels of the photo, in either order; when given,
            the photo is turned about the middle of the box until they are level.

    Raises:
        UserError: the box is empty, not four numbers, or outside the photo.
    """
    box = face_or_box.box if isinstance(face_or_box, Face) else face_or_box
    x, y, half = square_around(box)
    side = max(1, round(2 * half))
    left, top = round(x - side / 2), round(y - side / 2)
    if left >= photo.width or top >= photo.height or left + side <= 0 or top + side <= 0:
        raise UserError(
            f"the box {tuple(round(float(edge)) for edge in box)} lies outside the photo of "
            f"{photo.width}x{photo.height} pixels"
        )
    if side > 8 * max(photo.size):
        raise UserError("the box is many times larger than the photo; give it in pixels")
    tilt = _tilt(eyes) if eyes is not None else 0.0
    if abs(tilt) < 0.1:
        patch = _padded(photo, left, top, side)
    else:
        margin = math.ceil(side * (math.sqrt(2) - 1) / 2) + 1
        around = _padded(photo, left - margin, top - margin, side + 2 * margin)
        turned = around.rotate(tilt, Image.Resampling.BICUBIC, fillcolor=GREY)
        patch = turned.crop((margin, margin, margin + side, margin + side))
    return patch.resize((size, size), Image.Resampling.BICUBIC)


def _tilt(eyes) -> float:
    """Degrees, counted clockwise in the picture, by which the line of the eyes leans."""
    (x1, y1), (x2, y2) = sorted((float(x), float(y)) for x, y in eyes)
    return math.degrees(math.atan2(y2 - y1, x2 - x1))


def _padded(photo: Image.Image, left: int, top: int, side: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), GREY)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + side, photo.width), min(top + side, photo.height)
    if x0 < x1 and y0 < y1:
        canvas.paste(photo.crop((x0, y0, x1, y1)).convert("RGB"), (x0 - left, y0 - top))
    return canvas
