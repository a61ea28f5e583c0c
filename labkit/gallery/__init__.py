"""Known people in one file, the search for the most alike, and what a likeness means."""

from labkit.gallery.gallery import Gallery, Match
from labkit.gallery.likeness import (
    Calibration,
    calibrate,
    fit_calibration,
    lookalike_sheet,
    occlusion_map,
)

__all__ = [
    "Calibration",
    "Gallery",
    "Match",
    "calibrate",
    "fit_calibration",
    "lookalike_sheet",
    "occlusion_map",
]
