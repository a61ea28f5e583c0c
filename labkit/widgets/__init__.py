"""What a person presses and looks at in a notebook: the look-alike app."""

from labkit.widgets.lookalike import LookalikeApp
from labkit.widgets.photo_view import heat, with_boxes

__all__ = ["LookalikeApp", "heat", "with_boxes"]
