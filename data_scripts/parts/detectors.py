"""The face detectors that `crop_raw.py --detector` offers.

Each is a function from an RGB photo to its faces. Detectors frame a face differently (OpenCV's
boxes are a little larger than the built-in one's), so use one for all sets of a course,
and the built-in one where photos will come through the look-alike widget.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from PIL import Image

from labkit.crop import Face, find_faces
from labkit.utils import UserError

Detector = Callable[[Image.Image], list[Face]]


def _dlib(second_look: bool) -> Detector:
    """Return the detector of the widget; quicker without its second look where it finds no face."""
    find_faces(Image.new("RGB", (32, 32)))  # its model takes a second to load; UserError if missing
    return partial(find_faces, second_look=second_look)


def _opencv() -> Detector:
    """Return Viola and Jones's cascade of Haar features, of OpenCV 4: fast, less exact."""
    try:
        import cv2

        model = "haarcascade_frontalface_default.xml"
        cascade = cv2.CascadeClassifier(cv2.data.haarcascades + model)
    except (ImportError, AttributeError):  # OpenCV 5 has no cascades
        told = "the detector opencv is not installed: pip install 'opencv-python-headless<5'"
        raise UserError(f"{told}, or take another --detector") from None
    cv2.setNumThreads(1)

    def find(photo: Image.Image) -> list[Face]:
        scale = min(1.0, 640 / max(photo.size))
        size = [max(1, round(side * scale)) for side in photo.size]
        small = photo.convert("L").resize(size, reducing_gap=2.0)
        least = max(24, max(small.size) // 12)
        boxes, _, weights = cascade.detectMultiScale3(
            np.asarray(small), 1.1, 6, minSize=(least, least), outputRejectLevels=True
        )
        return [
            Face((x / scale, y / scale, (x + w) / scale, (y + h) / scale), float(weight))
            for (x, y, w, h), weight in zip(boxes, weights)
        ]

    return find


def _none() -> Detector:
    """Return no detector: the largest square in the middle, for sets that are cropped already."""

    def find(photo: Image.Image) -> list[Face]:
        half = 0.375 * min(photo.size)  # the crop is 4/3 of the box
        x, y = photo.width / 2, photo.height / 2
        return [Face((x - half, y - half, x + half, y + half), 0.0)]

    return find


DETECTORS: dict[str, Callable[[], Detector]] = {
    "dlib": partial(_dlib, second_look=True),
    "dlib-quick": partial(_dlib, second_look=False),
    "opencv": _opencv,
    "none": _none,
}


@lru_cache
def detector(name: str) -> Detector:
    """Return the detector of that name, loaded once; UserError when it is not installed."""
    return DETECTORS[name]()
