"""Faces from a map onto the cells of a grid, by optimal assignment."""

import math

import numpy as np

from labkit.utils import UserError

EXACT_GRID = 2500
BLOCK = 500


def to_grid(xy: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Cells of a grid for the points of a map, no two in one cell, moved as little as can be.

    Up to 2,500 points the sum of squared moves is the smallest possible (Jonker and Volgenant's
    assignment); above, the map is halved again and again into blocks, each assigned so, and then
    overlapping windows of the grid are assigned anew, which comes near it.

    Args:
        xy: (n, 2), y up.
        columns: width of the grid; by default about a square.

    Returns:
        int64 (n, 2): column from the left and row from the top. Rows are as many as needed.

    Raises:
        UserError: columns is below 1.
    """
    xy = np.asarray(xy, dtype=np.float64)
    count = len(xy)
    if columns is None:
        columns = max(1, math.ceil(math.sqrt(count)))
    if columns < 1:
        raise UserError(f"a grid of {columns} columns; use at least 1")
    columns = min(columns, max(count, 1))
    rows = max(1, math.ceil(count / columns))
    wanted = _stretched(xy, columns, rows)
    if count <= EXACT_GRID:
        cells = _all_cells(0, 0, columns, rows)
        return cells[_assign(wanted, cells)]
    cells = np.empty((count, 2), dtype=np.int64)
    _halve(wanted, np.arange(count), (0, 0, columns, rows), cells)
    for shift in (0.5, 0.0):
        _improve(wanted, cells, columns, rows, shift)
    return cells


def snapped(xy: np.ndarray, columns: int | None = None) -> np.ndarray:
    """The map with its faces on the grid of `to_grid`, as a map: float32 (n, 2) in [0, 1], y up."""
    cells = to_grid(xy, columns)
    if not len(cells):
        return np.zeros((0, 2), dtype=np.float32)
    places = (cells - cells.max(axis=0) / 2) * (1, -1) / max(int(cells.max()), 1) + 0.5
    return places.astype(np.float32)


def _stretched(xy: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """The map stretched over the grid: x in [0, columns - 1], y downwards in [0, rows - 1]."""
    if not len(xy):
        return np.zeros((0, 2))
    low, span = xy.min(axis=0), np.ptp(xy, axis=0)
    shares = (xy - low) / np.where(span > 0, span, 1)
    shares[:, span <= 0] = 0.5
    shares[:, 1] = 1 - shares[:, 1]
    return shares * (columns - 1, rows - 1)


def _all_cells(left: int, top: int, width: int, height: int) -> np.ndarray:
    down, across = np.divmod(np.arange(width * height), width)
    return np.stack([left + across, top + down], axis=1)


def _assign(wanted: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """For each point the cell, so that the sum of squared distances is least."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    return linear_sum_assignment(cdist(wanted, cells, "sqeuclidean"))[1]


def _halve(wanted: np.ndarray, members: np.ndarray, area, cells: np.ndarray) -> None:
    """Give the members cells of the area (left, top, width, height), by halving it."""
    left, top, width, height = area
    if width * height <= BLOCK:
        free = _all_cells(*area)
        cells[members] = free[_assign(wanted[members], free)]
        return
    axis = 0 if width >= height else 1
    half = (width if axis == 0 else height) // 2
    if axis == 0:
        first, second = (left, top, half, height), (left + half, top, width - half, height)
    else:
        first, second = (left, top, width, half), (left, top + half, width, height - half)
    share = first[2] * first[3] / (width * height)
    count = max(round(len(members) * share), len(members) - second[2] * second[3])
    count = min(count, first[2] * first[3])
    order = members[np.argsort(wanted[members, axis], kind="stable")]
    _halve(wanted, order[:count], first, cells)
    _halve(wanted, order[count:], second, cells)


def _improve(wanted: np.ndarray, cells: np.ndarray, columns: int, rows: int, shift: float) -> None:
    """Assign anew within windows of the grid, which never makes the sum larger."""
    side = math.isqrt(BLOCK)
    offset = round(side * shift)
    window = (cells + offset) // side
    number = window[:, 1] * (columns // side + 2) + window[:, 0]
    order = np.argsort(number, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        across, down = window[members[0]] * side - offset
        left, top = max(across, 0), max(down, 0)
        width = min(across + side, columns) - left
        free = _all_cells(left, top, width, min(down + side, rows) - top)
        cells[members] = free[_assign(wanted[members], free)]
