"""Faces from a map onto the cells of a grid, by optimal assignment."""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from labkit.utils import UserError

MAX_EXACT = 2500  # cells


def to_grid(xy: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return cells of a grid for the points of a map, no two in one cell, moved little.

    Up to 2,500 cells the sum of squared moves is the smallest possible (Jonker and Volgenant's
    assignment); a larger grid is halved again and again into parts that are each assigned so.

    Args:
        xy: (n, 2), y up.
        columns: width of the grid; by default about a square.

    Returns:
        int64 (n, 2): column from the left and row from the top. Rows are as many as needed.

    Raises:
        UserError: columns is below 1.
    """
    xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
    count = len(xy)
    columns = max(1, math.ceil(math.sqrt(count))) if columns is None else columns
    if columns < 1:
        raise UserError(f"a grid of {columns} columns; use at least 1")
    cells = np.empty((count, 2), dtype=np.int64)
    if not count:
        return cells
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    span = np.ptp(xy, axis=0)
    shares = np.where(span > 0, (xy - xy.min(axis=0)) / np.where(span > 0, span, 1), 0.5)
    wanted = np.abs(shares - (0, 1)) * (columns - 1, rows - 1)  # y downwards
    down, across = np.divmod(np.arange(rows * columns), columns)
    _assign(wanted, np.arange(count), np.stack([across, down], axis=1), cells)
    return cells


def snapped(xy: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return the map with its faces on the grid of `to_grid`: float32 (n, 2) in [0, 1], y up."""
    cells = to_grid(xy, columns)
    if not len(cells):
        return np.zeros((0, 2), dtype=np.float32)
    places = (cells - cells.max(axis=0) / 2) * (1, -1) / max(int(cells.max()), 1) + 0.5
    return places.astype(np.float32)


def _assign(wanted: np.ndarray, faces: np.ndarray, free: np.ndarray, cells: np.ndarray) -> None:
    """Give the faces cells of those that are free, halving a large area."""
    if len(free) <= MAX_EXACT:
        distances = cdist(wanted[faces], free, "sqeuclidean")
        cells[faces] = free[linear_sum_assignment(distances)[1]]
        return
    axis = int(np.ptp(free, axis=0).argmax())
    free = free[np.argsort(free[:, axis], kind="stable")]
    faces = faces[np.argsort(wanted[faces, axis], kind="stable")]
    half = len(free) // 2
    count = round(len(faces) * half / len(free))
    _assign(wanted, faces[:count], free[:half], cells)
    _assign(wanted, faces[count:], free[half:], cells)
