"""The figures that notebooks and reports show; every function returns a new one to `savefig`."""

from labkit.plots.curves import (
    det_curve,
    identity_eer,
    margin_figure,
    roc_curve,
    score_histogram,
    show_curves,
    training_curves,
)
from labkit.plots.figures import (
    face_sheet,
    image_grid,
    lookalike_sheet,
    matrix,
    pair_sheet,
    thumbnail,
)
