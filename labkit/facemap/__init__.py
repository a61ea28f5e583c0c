"""Maps on which similar faces lie near each other: layouts, grid, poster, interactive page."""

from labkit.facemap.layouts import METHODS, faithfulness, layout, place
from labkit.facemap.page import notebook_view, to_html
from labkit.facemap.poster import describe, map_figure, poster, save_poster, snapped, to_grid
