"""Pictures of a FaceMap: a poster of faces on a grid, and layouts side by side."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont, ImageOps

from labkit.facemap.grid import to_grid
from labkit.facemap.layouts import faithfulness
from labkit.plots.sheets import as_picture, panels, show_picture
from labkit.plots.style import LabFigure, fonts, styled, text
from labkit.utils import UserError, atomic_path

MAX_PIXELS = 200_000_000
PRINT_DPI = 300
INK, FAINT = (17, 24, 39), (107, 114, 128)
PANEL = 1400  # pixels
LAYOUT_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA", "grid": "Grid"}


def poster(
    xy: np.ndarray,
    thumbnails: Sequence,
    names: Sequence[str] | None = None,
    *,
    cells: np.ndarray | None = None,
    columns: int | None = None,
    tile: int = 160,
    title: str | None = "FaceMap",
    note: str = "",
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Return an RGB image of faces on a grid, each in its own cell, similar faces near each other.

    Args:
        xy: the map (n, 2), y up.
        thumbnails: n pictures: PIL images, uint8 arrays, JPEG bytes or paths.
        names: n names to write under the faces.
        cells: from `to_grid`; by default made here.
        columns: width of the grid when cells are made here.
        tile: side of a face in pixels; made smaller when the poster would pass 200 megapixels.
        title: headline; None for none.
        note: a line at the foot, such as that the faces are synthetic.
        background: RGB.

    Raises:
        UserError: the numbers of places, thumbnails and names differ.
    """
    check_lengths(len(xy), thumbnails=thumbnails, names=names)
    cells = to_grid(xy, columns) if cells is None else np.asarray(cells)
    wide, high = (int(edge) + 1 for edge in cells.max(axis=0))
    tile = max(16, min(tile, math.isqrt(MAX_PIXELS // (wide * high))))
    line = round(tile * 0.19) if names is not None else 0
    gap = max(1, tile // 40)
    step_x, step_y = tile + gap, tile + gap + line
    margin = max(tile // 3, 24)
    width = max(wide * step_x - gap + 2 * margin, 480)
    scale = max(14, min(width // 45, 220))
    head = round(scale * 2.0) if title else 0
    foot = round(scale * 0.9) if note else 0
    height = margin + head + high * step_y - gap + foot + margin
    sheet = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(sheet)
    title, note = text(title or ""), text(note)
    draw.text((margin, margin), title, INK, _font(title, round(scale * 1.1), bold=True))
    left = (width - (wide * step_x - gap)) // 2
    for i, (column, row) in enumerate(cells):
        x, y = left + int(column) * step_x, margin + head + int(row) * step_y
        sheet.paste(square(thumbnails[i], tile), (x, y))
        if names is not None:
            name, size = text(names[i], max(tile // 5, 3)), max(7, round(line * 0.66))
            too_wide = max(1, draw.textlength(name, _font(name, size)) / tile)
            font = _font(name, max(7, int(size / too_wide)))
            draw.text((x + tile / 2, y + tile + line / 2), name, INK, font, anchor="mm")
    font = _font(note, max(11, round(scale * 0.5)))
    draw.text((margin, height - margin), note, FAINT, font, anchor="lm")
    return sheet


def _font(words: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, or one with Hangul for words that need it."""
    return _load_font(fonts()[-1 if max(words, default="") > "\u2e80" else 0], size, bold)


@lru_cache(maxsize=64)
def _load_font(family: str, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    properties = FontProperties(family=family, weight="bold" if bold else "normal")
    return ImageFont.truetype(findfont(properties), size)


def square(thumbnail, side: int) -> Image.Image:
    """Return the middle square of a picture, `side` pixels wide."""
    return ImageOps.fit(as_picture(thumbnail), (side, side), Image.Resampling.LANCZOS)


def save_poster(image: Image.Image, path: str | Path, *, dpi: int = PRINT_DPI) -> Path:
    """Write a poster as .png, .jpg or .pdf (one page, `dpi` dots per inch), whole or not at all.

    Raises:
        UserError: another file type, or the disk cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf"):
        raise UserError(f"cannot write a poster as {path.name}; use .png, .jpg or .pdf")
    with atomic_path(path) as temporary:
        image.save(temporary, dpi=(dpi, dpi), quality=95, compress_level=3, title="FaceMap")
    return path


def check_lengths(count: int, /, **sequences) -> None:
    """Raise UserError when a sequence that is given has not `count` entries."""
    for name, sequence in sequences.items():
        if sequence is not None and len(sequence) != count:
            raise UserError(f"{len(sequence)} {name} for a map of {count} faces; give one for each")


def _scattered(xy: np.ndarray, thumbnails: Sequence) -> Image.Image:
    """Return a square picture with each face at its place on the map; the later lie on top."""
    face = int(np.clip(PANEL / math.sqrt(max(len(xy), 1)) * 0.85, 14, PANEL / 7))
    sheet = Image.new("RGB", (PANEL, PANEL), (255, 255, 255))
    corners = 4 + (np.asarray(xy) * (1, -1) + (0, 1)) * (PANEL - face - 8)
    for (x, y), thumbnail in zip(corners.round().astype(int).tolist(), thumbnails):
        sheet.paste(square(thumbnail, face), (x, y))
    return sheet


@styled
def map_figure(
    layouts: dict[str, np.ndarray],
    thumbnails: Sequence,
    *,
    embeddings: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    title: str | None = None,
    note: str = "",
) -> LabFigure:
    """Return a figure with one map of faces per layout, side by side.

    Args:
        layouts: name ("umap", "tsne", "pca" or any) → places (n, 2) in [0, 1].
        thumbnails: n pictures.
        embeddings: (n, d); adds how faithful each map is.
        labels: identities (n,); adds the identity purity.
        title: headline.
        note: a line at the foot.
    """
    figure, axes = panels(len(layouts), len(layouts), 6.2, 7.0)
    for axis, (name, xy) in zip(axes, layouts.items()):
        check_lengths(len(xy), thumbnails=thumbnails)
        show_picture(axis, _scattered(xy, thumbnails), frame="#d1d5db")
        axis.set_title(LAYOUT_NAMES.get(name, name), fontsize=15, loc="center")
        if embeddings is not None:
            axis.set_xlabel(describe(faithfulness(embeddings, xy, labels)))
    figure.suptitle(title or "", fontsize=16)
    figure.supxlabel(note, fontsize=9, color="#6b7280")
    return figure


def describe(faith: dict[str, float]) -> str:
    """Return the numbers of `faithfulness` as one line for people."""
    line = f"trustworthiness {faith['trustworthiness']:.2f}"
    line += f"  ·  {100 * faith['neighbours_kept']:.0f} % of true neighbours kept"
    if "identity_purity" in faith:
        line += f"  ·  identity purity {faith['identity_purity']:.2f}"
    return line
