"""Figures made of pictures: faces of a few people, a batch, pairs with scores, look-alikes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from labkit.data import FaceFolder, PairList, decode_image
from labkit.plots.style import GREY, IMPOSTER, TARGET, LabFigure, new_figure, styled, text
from labkit.utils import UserError

GAP = 4  # pixels between the pictures of a mosaic


def as_picture(source, min_size: int | None = None) -> Image.Image:
    """Return an RGB PIL image from one, from an array or tensor, the bytes of a file or a path.

    Arrays are uint8, or floats in [0, 1], of shape (h, w, 3), (3, h, w) or (h, w). A JPEG may be
    decoded at a smaller scale whose shorter side has at least `min_size` pixels. Raises UserError
    when a file cannot be read as an image.
    """
    if isinstance(source, (str, os.PathLike, bytes)):
        return decode_image(source, min_size=min_size)
    if not isinstance(source, Image.Image):
        pixels = source.cpu() if torch.is_tensor(source) else torch.from_numpy(np.array(source))
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round().byte()
        source = to_pil_image(pixels.permute(2, 0, 1) if pixels.shape[-1] == 3 else pixels)
    return source.convert("RGB")


def thumbnail(source, size: int) -> np.ndarray:
    """Return what `as_picture` takes as a white-padded square, uint8 (size, size, 3).

    A file that cannot be read becomes a grey square.
    """
    try:
        picture = as_picture(source, min_size=size)
    except UserError:
        return np.full((size, size, 3), 200, np.uint8)
    fitted = ImageOps.contain(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.pad(fitted, (size, size), color="white"))


def mosaic(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Return square tiles in rows on white as one picture, uint8 (h, w, 3)."""
    stack = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)
    return make_grid(stack, columns, padding=GAP, pad_value=255).permute(1, 2, 0).numpy()


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


def show_picture(axes, picture: np.ndarray | Image.Image, frame: str = "none") -> None:
    """Show a picture without ticks and grid, in a frame of a colour."""
    axes.imshow(np.asarray(picture))
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set(visible=True, color=frame)


@styled
def face_sheet(
    folder: FaceFolder, identities: int = 6, images: int = 8, seed: int = 0, size: int = 96
) -> LabFigure:
    """Show some photos of some identities, one identity a row with its name; drawn with `seed`."""
    rng = np.random.default_rng(seed)
    count = min(identities, len(folder.identities))
    chosen = np.sort(rng.choice(len(folder.identities), count, replace=False))
    files = [np.array(folder.indices_of(int(k))) for k in chosen]
    columns = min(images, max(map(len, files)))
    tiles = []
    for own in files:
        own = np.sort(rng.permutation(own)[:columns])
        tiles += [thumbnail(folder.path(int(i)), size) for i in own]
        tiles += [np.full((size, size, 3), 255, np.uint8)] * (columns - len(own))
    figure, (axes,) = panels(1, 1, 1.15 * columns + 1.6, 1.15 * count + 0.1)
    show_picture(axes, mosaic(tiles, columns))
    middles = np.arange(count) * (size + GAP) + GAP + size / 2
    axes.set_yticks(middles, [text(folder.identities[k], 18) for k in chosen])
    return figure


@styled
def image_grid(
    images, columns: int = 8, titles: Sequence[object] | None = None, size: int = 160
) -> LabFigure:
    """Show pictures in rows, each with its title below when titles are given.

    `images` is a list of pictures that `thumbnail` takes, or an array or tensor (n, 3, h, w) or
    (n, h, w, 3), uint8 or floats in [0, 1]. `size` is the pixels of a tile.
    """
    images = list(images)
    figure, axes = panels(len(images), columns, 1.25, 1.25 if titles is None else 1.5)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for i, image in enumerate(images):
        show_picture(axes[i], thumbnail(image, size))
        axes[i].set_xlabel("" if titles is None else text(titles[i], 20), fontsize=9)
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
    """Show pairs as two pictures side by side, with their score, kind and file names.

    `indices` are those of the pairs to show, in this order; `root` is the test folder.
    """
    figure, panel = panels(len(indices), columns, 3.3, 2.2)
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=13)
    for axes, i in zip(panel, indices):
        names = pairs.name_pair(int(i))
        show_picture(axes, mosaic([thumbnail(Path(root) / name, size) for name in names], 2))
        middles = (GAP + size / 2, 2 * GAP + size * 1.5)
        axes.set_xticks(middles, [text(name, 22) for name in names], fontsize=8, color="#444444")
        kind, tint = "not labelled", GREY
        if pairs.labels is not None:
            kind, tint = ("same person", TARGET) if pairs.labels[i] else ("two people", IMPOSTER)
        axes.set_title(f"{scores[i]:.3f}")
        axes.set_title(kind, loc="right", fontsize=10, color=tint)
    return figure


@styled
def lookalike_sheet(face: Image.Image, matches, gallery, *, calibration=None) -> LabFigure:
    """Show the cropped face, then its five nearest stars with picture, name and similarity.

    `matches` is what `gallery.search` gives for one embedding. `calibration`, by default the
    gallery's own, adds how unusual each likeness is.
    """
    calibration = calibration or gallery.calibration
    matches = list(matches)[:5]
    figure, (first, *others) = panels(len(matches) + 1, 6, 2.3, 3.5)
    show_picture(first, face.convert("RGB"), frame=TARGET)
    first.set_title("Your photo", fontsize=11, loc="center")
    for rank, (axes, match) in enumerate(zip(others, matches), 1):
        show_picture(axes, gallery.thumbnail(match.identity, image=match.image), frame="#d1d5db")
        axes.set_title(f"{rank}. {text(match.name, 20)}", fontsize=11, loc="center")
        for share, tint in ((1.0, "#e5e7eb"), (np.clip(match.similarity, 0, 1), TARGET)):
            bar = {"transform": axes.transAxes, "clip_on": False, "solid_capstyle": "butt"}
            axes.plot([0, share], [-0.035] * 2, color=tint, linestyle="-", linewidth=4, **bar)
        words = f"similarity {match.similarity:.3f}"
        if calibration is not None:
            words += f"\ncloser than {float(calibration.percentile(match.similarity)):.1f} %"
        axes.set_xlabel(words, fontsize=9, labelpad=10)
    figure.suptitle("Your look-alikes among the stars", fontsize=13)
    meaning = "closer than … % of pairs of different people" if calibration is not None else ""
    notes = [note for note in (gallery.note, meaning) if note]
    figure.supxlabel("  ·  ".join(notes), fontsize=8, color="#6b7280")
    return figure
