"""What a person presses and looks at in a notebook: the look-alike app."""

from labkit.widgets.lookalike import LookalikeApp
from labkit.widgets.photo_view import PhotoView
from labkit.widgets.pictures import heat, with_boxes

__all__ = ["LookalikeApp", "PhotoView", "heat", "with_boxes"]
