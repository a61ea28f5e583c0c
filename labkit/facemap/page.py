"""The FaceMap as one interactive HTML file that needs no network.

Faces are drawn on one canvas, from sheets that hold many pictures each, so that thousands of them
move with the mouse; a plotting library draws each as an image of its own, several frames a second.
"""

import base64
import colorsys
import html
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.facemap.layouts import faithfulness
from labkit.facemap.neighbours import nearest
from labkit.facemap.page_look import PAGE, STYLE
from labkit.facemap.page_script import SCRIPT
from labkit.facemap.poster import LAYOUT_NAMES, as_picture, check_lengths, describe, square
from labkit.utils import l2_normalize as normalized
from labkit.utils import UserError, write_text

PICTURE_SIDES = ((1500, 112), (6000, 80), (float("inf"), 32))
"""Up to so many pictures, each has this side; multiples of 16, so that JPEG keeps them apart."""
SHEET = 2048
NEIGHBOURS = 12


def to_html(
    path: str | Path,
    xy: np.ndarray | Mapping[str, np.ndarray],
    thumbnails: Sequence,
    names: Sequence[str],
    embeddings: np.ndarray | None = None,
    *,
    labels: np.ndarray | None = None,
    details: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence] | None = None,
    shown: np.ndarray | None = None,
    chosen: int | None = None,
    title: str = "FaceMap",
    note: str = "",
) -> Path:
    """Write an interactive page: hover, search, pan, zoom; a click lights up the nearest faces.

    Args:
        path: of the .html file.
        xy: a map (n, 2), or several by name ("umap", "tsne", "pca" or any) to switch between.
        thumbnails: n pictures: PIL images, uint8 arrays, JPEG bytes or paths.
        names: n names to show and to search.
        embeddings: (n, d); for the nearest faces on a click and the figures at the foot.
        labels: identities (n,); adds the identity purity at the foot.
        details: n second lines, such as a name in Hangul; searched too.
        attributes: name → n values (text or numbers) to colour the frames by.
        shown: int (n,), for each face the number of its picture in `thumbnails`, when pictures
            are shared; by default face i shows picture i.
        chosen: number of a face that is lit up when the page opens.
        title: of the page.
        note: a line at the top, such as that the faces are synthetic.

    Returns:
        the path. The more pictures, the smaller they are: 112 pixels up to 1,500 of them, 80 up
        to 6,000, 32 beyond.

    Raises:
        UserError: lengths differ, or the file cannot be written.
    """
    maps = dict(xy) if isinstance(xy, Mapping) else {"map": xy}
    if not maps:
        raise UserError("no layout for the page; give at least one")
    count = len(next(iter(maps.values())))
    check_lengths(count, names=names, embeddings=embeddings, labels=labels, details=details)
    check_lengths(count, shown=shown, **maps)
    if shown is None:
        check_lengths(count, thumbnails=thumbnails)
    attributes = attributes or {}
    check_lengths(count, **attributes)
    side = next(side for most, side in PICTURE_SIDES if len(thumbnails) <= most)
    sheets = picture_sheets(thumbnails, side)
    data = {
        "names": [str(name) for name in names],
        "details": [str(detail) for detail in details] if details is not None else [""] * count,
        "maps": [_map(name, places, embeddings, labels) for name, places in maps.items()],
        "near": _near(embeddings, count),
        "shown": None if shown is None else _base64(shown, np.int32),
        "side": side,
        "across": SHEET // side,
        "sheets": [_jpeg(sheet) for sheet in sheets],
        "wide": [sheet.width for sheet in sheets],
        "high": [sheet.height for sheet in sheets],
        "attributes": [_attribute(name, values) for name, values in attributes.items()],
        "face": int(np.clip(640 / np.sqrt(max(count, 1)), 6, 64)),
        "chosen": chosen,
    }
    text = PAGE.format(
        title=html.escape(title),
        counted=f"{count:,} faces",
        note=html.escape(note),
        style=STYLE,
        script=SCRIPT,
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    )
    write_text(path, text)
    return Path(path)


def notebook_view(path: str | Path, *, height: int = 720):
    """The page as something a notebook shows, and keeps in its HTML copy: a sandboxed frame."""
    from IPython.display import HTML

    text = html.escape(Path(path).read_text(encoding="utf-8"), quote=True)
    frame = (
        f'<iframe srcdoc="{text}" sandbox="allow-scripts" width="100%" height="{height}" '
        'style="border:1px solid #e5e7eb;border-radius:10px"></iframe>'
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it proposes IFrame, which cannot hold a page
        return HTML(frame)


def picture_sheets(thumbnails: Sequence, side: int) -> list[Image.Image]:
    """The pictures as squares of `side` pixels, row by row on sheets of at most 2048 pixels."""
    across = SHEET // side
    sheets = []
    for first in range(0, len(thumbnails), across * across):
        part = thumbnails[first : first + across * across]
        size = min(len(part), across) * side, -(-len(part) // across) * side
        sheet = Image.new("RGB", size)
        for i, thumbnail in enumerate(part):
            row, column = divmod(i, across)
            sheet.paste(square(as_picture(thumbnail), side), (column * side, row * side))
        sheets.append(sheet)
    return sheets


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _base64(values, kind) -> str:
    """Numbers as the page reads them: little-endian bytes in base64."""
    little = np.dtype(kind).newbyteorder("<")
    return base64.b64encode(np.ascontiguousarray(values, dtype=little).tobytes()).decode()


def _map(name: str, places: np.ndarray, embeddings, labels) -> dict:
    """A layout: what its button says, its places, and a line on how faithful it is."""
    line = "" if embeddings is None else describe(faithfulness(embeddings, places, labels))
    return {
        "title": LAYOUT_NAMES.get(name, name),
        "places": _base64(places, np.float32),
        "line": line,
    }


def _near(embeddings: np.ndarray | None, count: int) -> dict:
    """For each face its nearest in the embedding, in flat columns of k entries each."""
    k = min(NEIGHBOURS, count - 1) if embeddings is not None else 0
    faces, similarities = np.zeros((count, 0)), np.zeros((count, 0))
    if k > 0:
        faces, similarities = nearest(normalized(embeddings), k)
    return {
        "k": k,
        "face": _base64(faces, np.int32),
        "similarity": _base64(similarities, np.float32),
    }


def _attribute(name: str, values: Sequence) -> dict:
    palette, places = coloured(values)
    return {"name": name, "palette": palette, "places": _base64(places, np.int32)}


def coloured(values: Sequence) -> tuple[list[tuple[str, str]], np.ndarray]:
    """A palette of (text, colour) and for each value its place in it; numbers go into bins."""
    try:
        numbers = np.array([float(value) for value in values])
        distinct = np.unique(numbers)
    except (TypeError, ValueError):
        numbers, distinct = None, None
    if numbers is not None and np.isfinite(numbers).all() and len(distinct) > 8:
        edges = np.quantile(numbers, np.linspace(0, 1, 9))
        places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, 7)
        texts = [
            f"{low:.3g} to {high:.3g}" for low, high in zip(edges[:-1], edges[1:], strict=True)
        ]
        hues = np.linspace(0.68, 0.02, 8)
    else:
        texts, places = np.unique([str(value) for value in values], return_inverse=True)
        hues = (
            np.arange(len(texts)) * 0.618034 % 1
            if len(texts) > 8
            else (np.arange(len(texts)) / max(len(texts), 1))
        )
    palette = [
        (
            str(text),
            "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(h, 0.5, 0.7)),
        )
        for text, h in zip(texts, hues, strict=True)
    ]
    return palette, places.astype(np.int32)
