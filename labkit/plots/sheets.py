"""Figures made of pictures: faces of a few people, a batch, pairs with their scores."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from labkit.data import FaceFolder, PairList, decode_image
from labkit.plots.style import GREY, IMPOSTER, TARGET, LabFigure, new_figure, styled, text
from labkit.utils import UserError

INCHES_PER_TILE = 1.15
GAP = 4


def thumbnail(source, size: int) -> np.ndarray:
    """A picture as a white-padded square, uint8 (size, size, 3).

    `source` is a path, a PIL image, or an array or tensor of uint8 or of floats in [0, 1], with
    shape (h, w, 3), (3, h, w) or (h, w). A file that cannot be read becomes a grey square.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            source = decode_image(source, min_size=size)
        except UserError:
            return np.full((size, size, 3), 200, np.uint8)
    if not isinstance(source, Image.Image):
        source = Image.fromarray(_pixels(source))
    fitted = ImageOps.contain(source.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.pad(fitted, (size, size), color="white"))


def _pixels(image) -> np.ndarray:
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise UserError(f"expected a picture of shape (h, w, 3) or (3, h, w), got {array.shape}")
    if array.dtype != np.uint8:
        array = (np.clip(array, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(array)


def mosaic(tiles: Sequence[Sequence[np.ndarray | None]], size: int) -> np.ndarray:
    """Rows of square tiles on white with gaps; None leaves a place empty. uint8 (h, w, 3)."""
    rows, columns, step = len(tiles), max(map(len, tiles)), size + GAP
    sheet = np.full((rows * step - GAP, columns * step - GAP, 3), 255, np.uint8)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            if tile is not None:
                sheet[r * step : r * step + size, c * step : c * step + size] = tile
    return sheet


@styled
def face_sheet(
    folder: FaceFolder, identities: int = 6, images: int = 8, seed: int = 0, size: int = 96
) -> LabFigure:
    """Some photos of some identities, one identity a row with its name; drawn with `seed`."""
    rng = np.random.default_rng(seed)
    count = min(identities, len(folder.identities))
    chosen = np.sort(rng.choice(len(folder.identities), count, replace=False))
    tiles, names = [], []
    for k in chosen:
        own = np.array(folder.indices_of(int(k)))
        own = np.sort(rng.permutation(own)[:images])
        tiles.append([thumbnail(folder.path(int(i)), size) for i in own])
        names.append(folder.identities[k])
    columns = max(map(len, tiles))
    label = max(len(text(name, 18)) for name in names)
    figure = new_figure(
        columns * INCHES_PER_TILE + 0.1 + 0.09 * label, count * INCHES_PER_TILE + 0.1
    )
    axes = figure.add_subplot()
    axes.imshow(mosaic(tiles, size), interpolation="antialiased")
    _bare(axes)
    middles = np.arange(count) * (size + GAP) + size / 2
    axes.set_yticks(middles, [text(name, 18) for name in names], parse_math=False)
    return figure


@styled
def image_grid(
    images, columns: int = 8, titles: Sequence[object] | None = None, size: int | None = None
) -> LabFigure:
    """Pictures in rows, each with its title below when titles are given.

    `images` is an array or tensor (n, 3, h, w) or (n, h, w, 3), uint8 or floats in [0, 1], or a
    list of pictures that `thumbnail` takes. `size` is the pixels of a tile, else the pictures'
    own longer side, at most 160.
    """
    images = list(images)
    if not images:
        raise UserError("no images to show")
    if titles is not None and len(titles) != len(images):
        raise UserError(f"{len(titles)} titles for {len(images)} images: give one for each")
    if size is None:
        first = images[0]
        is_path = isinstance(first, (str, os.PathLike))
        shape = (160,) if is_path else getattr(first, "shape", None) or first.size
        size = min(160, max(shape))
    columns = min(columns, len(images))
    flat = [thumbnail(image, size) for image in images]
    tiles = [flat[i : i + columns] for i in range(0, len(flat), columns)]
    if titles is None:
        figure = new_figure(columns * INCHES_PER_TILE, len(tiles) * INCHES_PER_TILE)
        axes = figure.add_subplot()
        axes.imshow(mosaic(tiles, size), interpolation="antialiased")
        _bare(axes)
        return figure
    width = max(INCHES_PER_TILE, 1.4)
    figure = new_figure(columns * width, len(tiles) * (width + 0.25))
    grid = figure.subplots(len(tiles), columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, tile, title in zip(grid, flat, titles):
        axes.imshow(tile, interpolation="antialiased")
        axes.set_title(
            text(title, 20), fontsize=9, fontweight="normal", loc="center", y=-0.16,
            parse_math=False,
        )  # fmt: skip
    return figure


@styled
def pair_sheet(
    pairs: PairList,
    scores: np.ndarray,
    indices: Sequence[int],
    root: str | Path,
    title: str = "",
    columns: int = 3,
    size: int = 128,
) -> LabFigure:
    """Pairs as two pictures side by side, with their score, kind and file names.

    `indices` are the numbers of the pairs to show, in this order; `root` is the test folder.
    """
    indices = [int(i) for i in indices]
    if not indices:
        raise UserError("no pairs to show")
    columns = min(columns, len(indices))
    rows = -(-len(indices) // columns)
    pixels = size / 1.5  # per inch
    wide, high = 2 * size + GAP + round(0.35 * pixels), size + round(0.7 * pixels)
    top = round((0.42 if title else 0.0) * pixels)
    sheet = np.full((top + rows * high, columns * wide, 3), 255, np.uint8)
    figure = new_figure(sheet.shape[1] / pixels, sheet.shape[0] / pixels)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if title:
        axes.text(0.1 * pixels, top / 2, title, va="center", fontweight="bold", fontsize=13)
    for place, i in enumerate(indices):
        x = (place % columns) * wide + round(0.175 * pixels)
        y = top + (place // columns) * high + round(0.33 * pixels)
        names = pairs.name_pair(i)
        pictures = mosaic([[thumbnail(Path(root) / name, size) for name in names]], size)
        sheet[y : y + size, x : x + pictures.shape[1]] = pictures
        label = None if pairs.labels is None else int(pairs.labels[i])
        kind, tint = {1: ("same person", TARGET), 0: ("two people", IMPOSTER)}.get(
            label, ("not labelled", GREY)
        )
        axes.text(x, y - 5, f"{scores[i]:.3f}", fontsize=12, fontweight="bold")
        axes.text(x + pictures.shape[1], y - 5, kind, ha="right", fontsize=10, color=tint,
                  fontweight="bold")  # fmt: skip
        for side, name in enumerate(names):
            axes.text(
                x + side * (size + GAP) + size / 2, y + size + 5, text(name, 22), ha="center",
                va="top", fontsize=8, color="#444444", parse_math=False,
            )  # fmt: skip
    axes.imshow(sheet, interpolation="antialiased", aspect="auto")
    return figure


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
