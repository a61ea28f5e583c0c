"""The style that all figures share, and figures made of pictures."""

import functools
import io
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from labkit.data import FaceFolder, PairList, decode_image
from labkit.utils import UserError, printable

# Okabe and Ito's palette, told apart with any kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
TARGET, IMPOSTER, BLACK, GREY = PALETTE[0], PALETTE[4], PALETTE[6], "#8A8A8A"
HANGUL_FONTS = ("Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo")
STYLE = Path(__file__).with_name("facelab.mplstyle")
TILE = 128  # pixels


class LabFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, once, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> LabFigure:
    """Return an empty white figure, in inches, laid out so that nothing overlaps."""
    figure = LabFigure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def styled(draw):
    """Draw under the kit's style and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with matplotlib.rc_context({"font.family": fonts()}, STYLE):
            figure = draw(*args, **kwargs)
            for _ in range(2):  # ticks are made in this style; the layout settles
                figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return inside


@functools.cache
def fonts() -> list[str]:
    """Return matplotlib's own font and the first installed one that has Hangul, if any."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *[name for name in HANGUL_FONTS if name in installed][:1]]


def text(value: object, length: int = 100) -> str:
    """Return a name on one line, shortened in the middle; its Hangul is composed."""
    shown = printable(unicodedata.normalize("NFC", str(value)), 1000)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in shown)
    length = max(length - wide, length // 2)  # which take the room of two
    tail = (length - 1) // 2
    return shown if len(shown) <= length else f"{shown[: length - 1 - tail]}…{shown[-tail:]}"


def as_picture(source, min_size: int | None = None) -> Image.Image:
    """Return an RGB PIL image from one, from an array or tensor, the bytes of a file or a path.

    Arrays are uint8, or floats in [0, 1], of shape (h, w, 3), (3, h, w) or (h, w). `min_size` and
    the UserError for a file are those of `decode_pixels`.
    """
    if isinstance(source, (str, os.PathLike, bytes)):
        return decode_image(source, min_size=min_size)
    if not isinstance(source, Image.Image):
        pixels = np.asarray(source)
        if pixels.dtype.kind == "f":
            pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
        source = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels)
    return source.convert("RGB")


def thumbnail(source, size: int = TILE) -> np.ndarray:
    """Return a picture as a white-padded square, uint8 (size, size, 3); grey if it is damaged."""
    try:
        picture = as_picture(source, min_size=size)
    except UserError:
        return np.full((size, size, 3), 200, np.uint8)
    return np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.LANCZOS, color="white"))


def panels(count: int, columns: int, width: float, height: float) -> tuple[LabFigure, list]:
    """Return a figure and `count` axes in rows, each panel so many inches wide and high."""
    if not count:
        raise UserError("there are no pictures to show")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(columns * width, rows * height)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def show_picture(axes, picture) -> None:
    """Show a picture without ticks, grid and frame."""
    axes.imshow(as_picture(picture))
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def face_sheet(folder: FaceFolder, identities: int = 6, images: int = 8, seed: int = 0):
    """Show some photos of some identities, each a row that begins with its name, by `seed`."""
    rng = np.random.default_rng(seed)
    count = min(identities, len(folder.identities))
    chosen = np.sort(rng.choice(len(folder.identities), count, replace=False))
    files = [np.sort(rng.permutation(folder.indices_of(int(k)))[:images]) for k in chosen]
    columns, pictures, titles = max(map(len, files)), [], []
    for k, own in zip(chosen, files):
        pictures += [folder.path(int(i)) for i in own]
        pictures += [np.full((1, 1, 3), 255, np.uint8)] * (columns - len(own))
        titles += [folder.identities[k], *[""] * (columns - 1)]
    return image_grid(pictures, columns, titles)


@styled
def image_grid(images, columns: int = 8, titles: Sequence[object] | None = None) -> LabFigure:
    """Show pictures that `thumbnail` takes in rows, each with its title below if it has one."""
    images = list(images)
    figure, axes = panels(len(images), columns, 1.25, 1.25 if titles is None else 1.5)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for i, image in enumerate(images):
        show_picture(axes[i], thumbnail(image))
        axes[i].set_xlabel("" if titles is None else text(titles[i], 16), fontsize=9)
    return figure


@styled
def matrix(values: np.ndarray, title: str = "") -> LabFigure:
    """Show a matrix (n, n) of cosines as colours, from -1 to 1."""
    figure = new_figure(4.6, 4.2)
    axes = figure.subplots()
    picture = axes.imshow(np.asarray(values), vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(picture, label="cosine")
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    return figure


@styled
def pair_sheet(
    pairs: PairList, scores: np.ndarray, indices: Sequence[int], root: str | Path, title: str = ""
) -> LabFigure:
    """Show the pairs of these indices side by side, with score, kind and file names in `root`."""
    figure, panel = panels(len(indices), 3, 3.3, 2.2)
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=13)
    for axes, i in zip(panel, indices):
        names = pairs.name_pair(int(i))
        left, right = (thumbnail(Path(root) / name) for name in names)
        show_picture(axes, np.hstack([left, np.full((TILE, 4, 3), 255, np.uint8), right]))
        below = [text(name, 22) for name in names]
        axes.set_xticks((TILE / 2, 4 + 1.5 * TILE), below, fontsize=8, color="#444444")
        kind, tint = "not labelled", GREY
        if pairs.labels is not None:
            kind, tint = ("same person", TARGET) if pairs.labels[i] else ("two people", IMPOSTER)
        axes.set_title(f"{scores[i]:.3f}")
        axes.set_title(kind, loc="right", fontsize=10, color=tint)
    return figure


@styled
def lookalike_sheet(face: Image.Image, matches, gallery, sentence: str = "") -> LabFigure:
    """Show the cropped face, then its five nearest stars with picture, name and similarity.

    `matches` is what `gallery.search` gives for one embedding. `sentence` says what it means.
    """
    matches = list(matches)[:5]
    figure, (first, *others) = panels(len(matches) + 1, 6, 2.3, 3.3)
    show_picture(first, face)
    first.set_title("Your photo", fontsize=11, loc="center")
    for rank, (axes, match) in enumerate(zip(others, matches), 1):
        show_picture(axes, gallery.thumbnail(match.identity, image=match.image))
        axes.set_title(f"{rank}. {text(match.name, 20)}", fontsize=11, loc="center")
        axes.set_xlabel(f"similarity {match.similarity:.3f}", fontsize=9)
    figure.suptitle("Your look-alikes among the stars", fontsize=13)
    notes = [line for s in (sentence, gallery.note) for line in wrap(s, 32 * (len(matches) + 1))]
    figure.supxlabel("\n".join(notes), fontsize=9, color="#6b7280")
    return figure
