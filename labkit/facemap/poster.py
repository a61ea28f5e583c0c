"""Pictures of a FaceMap: a poster of faces on a grid, and layouts side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from labkit.facemap.layouts import faithfulness
from labkit.plots import LabFigure, as_picture, fonts, panels, show_picture, styled, text
from labkit.utils import UserError, atomic_path

MAX_EXACT = 2500  # faces on a grid by optimal assignment
MAX_PIXELS = 200_000_000
INK, FAINT = (17, 24, 39), (107, 114, 128)
LAYOUT_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA", "grid": "Grid"}


def to_grid(xy: np.ndarray) -> np.ndarray:
    """Return cells of a nearly square grid for a map (n, 2) with y up, no two faces in one cell.

    They are int64 (n, 2): column from the left, row from the top. Up to 2,500 faces the sum of
    squared moves is the smallest possible (Jonker and Volgenant's assignment); more are sorted from
    the top into rows, and each row from the left.
    """
    count = len(xy)
    columns = math.ceil(math.sqrt(count))
    row, column = np.divmod(np.arange(columns * math.ceil(count / columns)), columns)
    free = np.stack([column, row], axis=1)
    if count > MAX_EXACT:
        rows = np.argsort(np.argsort(-xy[:, 1])) // columns
        cells = np.empty((count, 2), dtype=np.int64)
        cells[np.lexsort([xy[:, 0], rows])] = free[:count]
        return cells
    span = np.ptp(xy, axis=0)
    shares = (xy - xy.min(axis=0)) / np.where(span > 0, span, 1)
    wanted = np.abs(shares - (0, 1)) * free[-1]  # y downwards
    return free[linear_sum_assignment(cdist(wanted, free, "sqeuclidean"))[1]]


def snapped(xy: np.ndarray) -> np.ndarray:
    """Return the map with its faces on the grid of `to_grid`: float32 (n, 2) in [0, 1], y up."""
    cells = to_grid(xy)
    places = (cells - cells.max(axis=0) / 2) * (1, -1) / max(cells.max(), 1) + 0.5
    return places.astype(np.float32)


def poster(
    xy: np.ndarray,
    thumbnails: Sequence,
    names: Sequence[str] | None = None,
    *,
    cells: np.ndarray | None = None,
    title: str = "FaceMap",
    note: str = "",
) -> Image.Image:
    """Return an RGB image of faces on a grid, similar faces near each other, names below them.

    `xy` is a map (n, 2) with y up; `thumbnails` are n pictures (PIL images, uint8 arrays, JPEG
    bytes or paths); `cells` come from `to_grid`. A face has 160 pixels, fewer when the poster
    would pass 200 megapixels. Raises UserError when the lengths differ.
    """
    check_lengths(len(xy), thumbnails=thumbnails, names=names)
    cells = to_grid(xy) if cells is None else np.asarray(cells)
    wide, high = (cells.max(axis=0) + 1).tolist()
    tile = max(16, min(160, math.isqrt(MAX_PIXELS // (wide * high))))
    line = 0 if names is None else tile // 5
    gap, margin = max(1, tile // 40), max(24, tile // 3)
    width = max(480, wide * (tile + gap) - gap + 2 * margin)
    scale = min(max(width // 45, 14), 220)
    left, top = (width - wide * (tile + gap) + gap) // 2, margin + (2 * scale if title else 0)
    height = top + high * (tile + line + gap) + (scale if note else 0) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), text(title), INK, _font(scale, bold=True))
    draw.text((margin, height - margin), text(note), FAINT, _font(max(11, scale / 2)), anchor="lm")
    font = _font(max(7, line * 0.66))
    for i, (column, row) in enumerate(cells.tolist()):
        x, y = left + column * (tile + gap), top + row * (tile + line + gap)
        sheet.paste(square(thumbnails[i], tile), (x, y))
        if names is not None:
            name = text(names[i], 32)
            fitting = font.size * min(1, tile / max(font.getlength(name), 1))
            middle = (x + tile / 2, y + tile + line / 2)
            draw.text(middle, name, INK, font.font_variant(size=fitting), anchor="mm")
    return sheet


def _font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    weight = "bold" if bold else "normal"
    return ImageFont.truetype(findfont(FontProperties(family=fonts()[-1], weight=weight)), size)


def square(thumbnail, side: int) -> Image.Image:
    return ImageOps.fit(as_picture(thumbnail), (side, side), Image.Resampling.LANCZOS)


def save_poster(image: Image.Image, path: str | Path) -> Path:
    """Write a poster as .png, .jpg or .pdf with 300 dots per inch; UserError for another type."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf"):
        raise UserError(f"cannot write a poster as {path.name}; use .png, .jpg or .pdf")
    with atomic_path(path) as temporary:
        image.save(temporary, dpi=(300, 300), quality=95, compress_level=3, title="FaceMap")
    return path


def check_lengths(count: int, /, **sequences) -> None:
    """Raise UserError when a sequence that is given has not `count` entries."""
    for name, sequence in sequences.items():
        if sequence is not None and len(sequence) != count:
            raise UserError(f"{len(sequence)} {name} for a map of {count} faces; give one for each")


@styled
def map_figure(
    layouts: dict[str, np.ndarray],
    thumbnails: Sequence,
    *,
    embeddings: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    note: str = "",
) -> LabFigure:
    """Return a figure with one map of faces per layout, side by side.

    `layouts` maps names ("umap", "tsne", "pca" or any) to places (n, 2) in [0, 1]. `embeddings`
    (n, d) add how faithful each map is, `labels` (n,) its identity purity.
    """
    figure, axes = panels(len(layouts), len(layouts), 6.2, 7.0)
    side = 1400  # pixels of a map
    for axis, (name, xy) in zip(axes, layouts.items()):
        check_lengths(len(xy), thumbnails=thumbnails)
        face = int(np.clip(0.85 * side / math.sqrt(len(xy)), 14, side / 7))
        sheet = Image.new("RGB", (side, side), "white")
        corners = np.abs(xy - np.array((0, 1))) * (side - face)
        for corner, thumbnail in zip(corners.round().astype(int).tolist(), thumbnails):
            sheet.paste(square(thumbnail, face), corner)
        show_picture(axis, sheet)
        axis.spines[:].set(visible=True, color="#d1d5db")
        axis.set_title(LAYOUT_NAMES.get(name, name), fontsize=15, loc="center")
        if embeddings is not None:
            axis.set_xlabel(describe(faithfulness(embeddings, xy, labels)))
    figure.supxlabel(note, fontsize=9, color="#6b7280")
    return figure


def describe(faith: dict[str, float]) -> str:
    """Return the numbers of `faithfulness` as one line for people."""
    named = [f"{name.replace('_', ' ')} {faith[name]:.2f}" for name in faith if name != "k"]
    return "  ·  ".join(named)
