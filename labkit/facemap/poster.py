"""Pictures of a FaceMap: a poster of faces on a grid, and layouts side by side."""

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from labkit.facemap.grid import to_grid
from labkit.facemap.layouts import faithfulness
from labkit.plots.style import LabFigure
from labkit.utils import UserError, atomic_path

MAX_PIXELS = 200_000_000
PRINT_DPI = 300
INK, FAINT = (17, 24, 39), (107, 114, 128)
PANEL = 1400
LAYOUT_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA", "grid": "Grid"}


def as_picture(thumbnail) -> Image.Image:
    """An RGB PIL image from a PIL image, a uint8 array (h, w, 3), JPEG bytes or a path."""
    if isinstance(thumbnail, Image.Image):
        return thumbnail.convert("RGB")
    if isinstance(thumbnail, np.ndarray):
        return Image.fromarray(thumbnail).convert("RGB")
    source = io.BytesIO(thumbnail) if isinstance(thumbnail, bytes) else thumbnail
    with Image.open(source) as image:
        return image.convert("RGB")


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False, hangul: bool = False) -> ImageFont.FreeTypeFont:
    """A scalable font: matplotlib's own DejaVu Sans, or for Hangul one of the system's."""
    found = hangul_font() if hangul else None
    if found is None:
        import matplotlib

        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        found = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(found), size)


@lru_cache(maxsize=1)
def hangul_font() -> Path | None:
    """A font file with Hangul if the system has one."""
    from matplotlib import font_manager

    wanted = ("nanum", "cjk", "malgun", "applesdgothic", "applegothic", "baekmuk", "unbatang")
    for path in sorted(font_manager.findSystemFonts()):
        if any(word in Path(path).name.lower().replace(" ", "") for word in wanted):
            return Path(path)
    return None


def _drawable(text: str) -> tuple[str, bool]:
    """The text and whether it needs a Hangul font; unprintable letters become a dot."""
    if all(ord(letter) < 0x1100 for letter in text):
        return text, False
    if hangul_font() is not None:
        return text, True
    return "".join(letter if ord(letter) < 0x1100 else "·" for letter in text), False


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
    """Faces on a grid, each in its own cell, similar faces near each other.

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

    Returns:
        an RGB image.

    Raises:
        UserError: the numbers of places, thumbnails and names differ.
    """
    xy = np.asarray(xy)
    check_lengths(len(xy), thumbnails=thumbnails, names=names)
    cells = to_grid(xy, columns) if cells is None else np.asarray(cells)
    wide, high = (int(edge) + 1 for edge in cells.max(axis=0))
    tile = max(16, min(tile, math.isqrt(MAX_PIXELS // max(wide * high, 1))))
    line = round(tile * 0.19) if names is not None else 0
    gap = max(1, tile // 40)
    step_x, step_y = tile + gap, tile + gap + line
    margin = max(tile // 3, 24)
    width = max(wide * step_x - gap + 2 * margin, 480)
    scale = max(14, min(width // 45, 220))
    head = round(scale * 2.0) if title else 0
    foot = round(scale * 0.9) if note else 0
    sheet = Image.new(
        "RGB", (width, margin + head + high * step_y - gap + foot + margin), background
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        text, hangul = _drawable(title)
        draw.text((margin, margin), text, INK, font(round(scale * 1.1), True, hangul))
    left = (width - (wide * step_x - gap)) // 2
    for i, (column, row) in enumerate(cells):
        x, y = left + int(column) * step_x, margin + head + int(row) * step_y
        sheet.paste(square(as_picture(thumbnails[i]), tile), (x, y))
        if names is not None:
            _caption(draw, str(names[i]), x, y + tile, tile, line)
    if note:
        size = max(11, round(scale * 0.5))
        draw.text((margin, sheet.height - margin), note, FAINT, font(size), anchor="lm")
    return sheet


def square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, `side` pixels wide."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return picture.resize((side, side), Image.Resampling.LANCZOS, box)


def _caption(draw: ImageDraw.ImageDraw, name: str, x: int, y: int, width: int, height: int):
    text, hangul = _drawable(name)
    size = max(7, round(height * 0.66))
    face = font(size, False, hangul)
    while draw.textlength(text, face) > width and size > 7:
        size -= 1
        face = font(size, False, hangul)
    while draw.textlength(text, face) > width and len(text) > 2:
        text = text[:-2] + "…"
    draw.text((x + width / 2, y + height / 2), text, INK, face, anchor="mm")


def save_poster(image: Image.Image, path: str | Path, *, dpi: int = PRINT_DPI) -> Path:
    """Write a poster as .png, .jpg or .pdf (one page, `dpi` dots per inch), whole or not at all.

    Raises:
        UserError: another file type, or the disk cannot be written.
    """
    path = Path(path)
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"cannot write a poster as {path.name}; use .png, .jpg or .pdf")
    settings = {
        "PNG": {"dpi": (dpi, dpi), "compress_level": 3},
        "JPEG": {"dpi": (dpi, dpi), "quality": 95},
        "PDF": {"resolution": float(dpi), "quality": 95, "title": "FaceMap"},
    }
    with atomic_path(path) as beside:
        image.save(beside, kind, **settings[kind])
    return path


def check_lengths(count: int, **sequences) -> None:
    """UserError when a sequence that is given has not `count` entries."""
    for name, sequence in sequences.items():
        if sequence is not None and len(sequence) != count:
            raise UserError(f"{len(sequence)} {name} for a map of {count} faces; give one for each")


def scattered(xy: np.ndarray, thumbnails: Sequence, *, side: int = PANEL, face: int | None = None):
    """A square picture with each face at its place on the map; the later lie on top."""
    count = len(xy)
    if face is None:
        face = int(np.clip(side / math.sqrt(max(count, 1)) * 0.85, 14, side / 7))
    sheet = Image.new("RGB", (side, side), (255, 255, 255))
    room = side - face - 8
    for (x, y), thumbnail in zip(np.asarray(xy), thumbnails, strict=True):
        corner = (round(4 + float(x) * room), round(4 + (1 - float(y)) * room))
        sheet.paste(square(as_picture(thumbnail), face), corner)
    return sheet


def map_figure(
    layouts: dict[str, np.ndarray],
    thumbnails: Sequence,
    *,
    embeddings: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    title: str | None = None,
    note: str = "",
):
    """A matplotlib Figure with one map of faces per layout, side by side.

    Args:
        layouts: name ("umap", "tsne", "pca" or any) → places (n, 2) in [0, 1].
        thumbnails: n pictures.
        embeddings: (n, d); adds how faithful each map is.
        labels: identities (n,); adds the identity purity.
        title: headline.
        note: a line at the foot.
    """
    if not layouts:
        raise UserError("no layout to draw; give at least one")
    pictures = [as_picture(thumbnail) for thumbnail in thumbnails]
    figure = LabFigure(figsize=(6.2 * len(layouts), 7.0), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(layouts), squeeze=False)[0]
    for axis, (name, xy) in zip(axes, layouts.items(), strict=True):
        check_lengths(len(xy), thumbnails=pictures)
        axis.imshow(np.asarray(scattered(xy, pictures)), interpolation="antialiased")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#d1d5db")
        axis.set_title(LAYOUT_NAMES.get(name, name), fontsize=15, fontweight="bold")
        if embeddings is not None:
            axis.set_xlabel(describe(faithfulness(embeddings, xy, labels)), fontsize=10)
    if title:
        figure.suptitle(title, fontsize=16)
    if note:
        figure.supxlabel(note, fontsize=9, color="#6b7280")
    return figure


def describe(faith: dict[str, float]) -> str:
    """The numbers of `faithfulness` as one line for people."""
    parts = [
        f"trustworthiness {faith['trustworthiness']:.2f}",
        f"{100 * faith['neighbours_kept']:.0f} % of true neighbours kept",
    ]
    if "identity_purity" in faith:
        parts.append(f"identity purity {faith['identity_purity']:.2f}")
    return "  ·  ".join(parts)
