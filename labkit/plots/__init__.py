"""The figures that notebooks and reports show. Every function returns a new Figure.

Nothing here needs pyplot or changes matplotlib's settings; save a figure with its `savefig`.
"""

from labkit.plots.curves import (
    det_curve,
    identity_eer,
    margin_figure,
    read_training_log,
    roc_curve,
    score_histogram,
    show_curves,
    training_curves,
)
from labkit.plots.sheets import face_sheet, image_grid, lookalike_sheet, pair_sheet, thumbnail
from labkit.plots.style import LabFigure

__all__ = [
    "LabFigure",
    "det_curve",
    "face_sheet",
    "identity_eer",
    "image_grid",
    "lookalike_sheet",
    "margin_figure",
    "pair_sheet",
    "read_training_log",
    "roc_curve",
    "score_histogram",
    "show_curves",
    "thumbnail",
    "training_curves",
]
