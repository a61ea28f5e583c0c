"""From any photo to a face, cropped as the training sets are cropped."""

import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from labkit.data.images import DAMAGED, FORMATS, GREY, Source, read_source, upright_rgb
from labkit.utils import UserError, reason

MAX_MEGAPIXELS = 64
DETECTION_SIDES = (640, 1600)  # a photo's longer side is scaled to between these, in pixels
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Face:
    """A detected face."""

    box: Box  # (left, top, right, bottom) in pixels of the photo, which it may leave
    confidence: float  # the detector's score, above 0 for a detection, above 1 for a sure one

    @property
    def side(self) -> float:
        """The longer side of the box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


def read_photo(source: Source | Image.Image, *, name: str | None = None) -> Image.Image:
    """Return a photo in RGB, turned upright by its EXIF orientation.

    `source` is an image file (see `Source`) or a PIL image (not changed), of the `FORMATS` of
    `labkit.data.images`; `name` is what to call it in messages. Transparent parts become grey;
    JPEGs above 64 megapixels are decoded at a reduced scale. Raises UserError for a file that is
    missing, empty, no picture, damaged, an animation, or above 64 megapixels.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    name = name or ("the photo" if isinstance(source, bytes) else str(source))
    try:
        data = read_source(source)
    except OSError as error:
        raise UserError(f"cannot read the photo {name}: {reason(error)}") from None
    if not data:
        raise UserError(f"{name} is empty (0 bytes); copy or download the photo again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format not in ("MPO", "TIFF") and getattr(image, "is_animated", False):
                raise UserError(f"{name} is an animation; save one frame as JPEG or PNG")
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                image.draft("RGB", (image.width // 2, image.height // 2))
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                raise Image.DecompressionBombError
            return upright_rgb(image)
    except UnidentifiedImageError:
        what = "not a picture; use JPEG, PNG or WebP, or for HEIC pip install pillow-heif"
    except Image.DecompressionBombError:
        what = f"above the limit of {MAX_MEGAPIXELS} megapixels; make it smaller first"
    except DAMAGED:
        what = "cut short or damaged; copy or download the photo again"
    raise UserError(f"{name} is {what}")


@lru_cache(maxsize=1)
def _detector():
    try:
        import dlib
    except ImportError:
        raise UserError("no face detector: pip install dlib-bin, or give a box by hand") from None
    return dlib.get_frontal_face_detector()


def find_faces(photo: Image.Image, *, second_look: bool = True) -> list[Face]:
    """Return the faces that look roughly at the camera, largest and surest first.

    Histograms of oriented gradients with a linear classifier (Dalal and Triggs 2005, as trained
    by King for dlib). When nothing is found, a `second_look` at 2400 pixels, which takes six times
    as long, finds faces from about 1/30 of the photo. Beside a sure face, weak detections are left
    out: they are folds and hands more often than people. Raises UserError without dlib-bin.
    """
    longest = max(photo.size)
    faces = _detect(photo, float(np.clip(longest, *DETECTION_SIDES)) / longest)
    if second_look and not faces and min(photo.size) >= 16:
        faces = _detect(photo, min(4 * longest, 2400) / longest)
    if any(face.confidence >= 0.8 for face in faces):
        faces = [face for face in faces if face.confidence >= 0.4]
    return sorted(faces, key=lambda face: -face.side * min(max(face.confidence, 0.05), 1.0))


def _detect(photo: Image.Image, scale: float) -> list[Face]:
    size = tuple(max(1, round(length * scale)) for length in photo.size)
    scaled = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    found, scores, _ = _detector().run(np.asarray(scaled), 0, 0.0)
    faces = []
    for face, score in zip(found, scores):
        edges = (face.left(), face.top(), face.right() + 1, face.bottom() + 1)
        box = np.multiply(edges, np.divide(photo.size, size).tolist() * 2).round(1).tolist()
        faces.append(Face(tuple(box), round(float(score), 3)))
    return faces


def largest_face(photo: Image.Image, *, name: str = "the photo") -> Face:
    """Return the first of `find_faces`; UserError when there is none."""
    faces = find_faces(photo)
    if not faces:
        raise UserError(f"no face found in {name}: it must look at the camera; or box it by hand")
    return faces[0]


def square_around(box: Box) -> tuple[float, float, float]:
    """Return the square to crop for (left, top, right, bottom): centre x, y, half side, in pixels.

    The box fills three quarters of it. Raises UserError for a box without an area.
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom and math.isfinite(right - left + bottom - top)):
        raise UserError(f"a box (left, top, right, bottom) has left < right, top < bottom: {box!r}")
    half = max(right - left, bottom - top) / 1.5
    return (left + right) / 2, (top + bottom) / 2, half


def crop_face(photo: Image.Image, face_or_box: Face | Box, size: int = 256) -> Image.Image:
    """Return the square of `square_around` as RGB (size, size), grey where it leaves the photo.

    Raises UserError for a box without an area, outside the photo or far larger.
    """
    box = face_or_box.box if isinstance(face_or_box, Face) else face_or_box
    x, y, half = square_around(box)
    side = max(1, round(2 * half))
    left, top = round(x - side / 2), round(y - side / 2)
    overlaps = -side < left < photo.width and -side < top < photo.height
    if not overlaps or side > 8 * max(photo.size):
        raise UserError(f"the box {box} lies outside the photo of {photo.size} or is far larger")
    square = Image.new("RGB", (side, side), GREY)
    square.paste(photo, (-left, -top))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def shows_face(photo: Image.Image, box: Box) -> bool:
    """Return whether the detector finds a face in a box drawn by hand; True without a detector."""
    x, y, half = square_around(box)
    around = (x - 2 * half, y - 2 * half, x + 2 * half, y + 2 * half)
    around = np.clip(around, 0, photo.size * 2).round()  # the box with its surroundings
    try:
        faces = find_faces(photo.crop(around.tolist()), second_look=False)
    except UserError:
        return True
    centres = np.array([face.box for face in faces]).reshape(-1, 2, 2).mean(axis=1) + around[:2]
    return bool((np.abs(centres - (x, y)) < 0.75 * half).all(axis=1).any())
