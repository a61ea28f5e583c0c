"""The FaceMap as one interactive HTML file that needs no network.

Faces are drawn on one canvas, from sheets of many pictures each, so that thousands of them move.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import escape
from PIL import Image

from labkit.data.images import jpeg_bytes
from labkit.facemap.layouts import faithfulness, nearest
from labkit.facemap.poster import LAYOUT_NAMES, check_lengths, describe, square
from labkit.utils import l2_normalize, render_page, write_text

SHEET = 2048  # pixels
GROUPS = 8  # of numbers, to colour by
COLOURS = """e6194b 4363d8 3cb44b f58231 911eb4 42d4f4 f032e6 9a6324 000075 ffe119 469990 a9a9a9
800000 808000 bfef45 fabed4 dcbeff aaffc3""".split()  # of texts, told apart at a glance


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
    chosen: int | None = None,
    title: str = "FaceMap",
    note: str = "",
) -> Path:
    """Write an interactive page: hover, search, pan, zoom; a click lights up the nearest faces.

    xy: a map (n, 2), or several by name ("umap", "tsne", "pca" or any) to switch between.
    thumbnails: n pictures: PIL images, uint8 arrays, JPEG bytes or paths. embeddings: (n, d), for
    the nearest faces on a click. labels: identities (n,), for the identity purity at the foot.
    names, details: n first and second lines to show and search. attributes: name → n values (text
    or numbers) to colour the frames by. chosen: index of a face that is lit up at first. note: a
    line at the top. Raises UserError when lengths differ or the file cannot be written.
    """
    maps = dict(xy) if isinstance(xy, Mapping) else {"map": xy}
    count = len(next(iter(maps.values())))
    attributes = attributes or {}
    details = [""] * count if details is None else details
    check_lengths(count, thumbnails=thumbnails, names=names, embeddings=embeddings, labels=labels)
    check_lengths(count, **{"details": details, **maps, **attributes})
    side = 112 if count <= 1500 else 80 if count <= 6000 else 32  # multiples of 16, as in JPEG
    per_sheet = (SHEET // side) ** 2
    data = {
        "names": [str(name) for name in names],
        "details": [str(detail) for detail in details],
        "maps": [_map(name, places, embeddings, labels) for name, places in maps.items()],
        "side": side,
        "across": SHEET // side,
        "sheets": [_sheet(thumbnails[i : i + per_sheet], side) for i in range(0, count, per_sheet)],
        "attributes": [{"name": name, **grouped(values)} for name, values in attributes.items()],
        "chosen": chosen,
    }
    near = similarities = np.zeros(0)
    if embeddings is not None and count > 1:
        near, similarities = nearest(l2_normalize(embeddings), None, min(12, count - 1))
    data |= {"near": near.tolist(), "similarities": _rounded(similarities)}
    about = {"title": title, "counted": f"{count:,} faces", "note": note}
    write_text(path, render_page(Path(__file__).with_name("page.html"), **about, data=data))
    return Path(path)


def notebook_view(path: str | Path):
    """Return the page as something a notebook shows and keeps: a sandboxed frame."""
    from IPython.display import HTML

    page = escape(Path(path).read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="720"></iframe>'
    return HTML(f"<div>{frame}</div>")


def _map(name: str, places: np.ndarray, embeddings, labels) -> dict:
    line = "" if embeddings is None else describe(faithfulness(embeddings, places, labels))
    return {"title": LAYOUT_NAMES.get(name, name), "places": _rounded(places), "line": line}


def _rounded(values: np.ndarray) -> list:
    return np.asarray(values, dtype=np.float64).round(5).tolist()


def _sheet(thumbnails: Sequence, side: int) -> dict:
    """Return pictures as squares of `side` pixels, row by row on one JPEG, with its size."""
    across = SHEET // side
    wide, high = min(len(thumbnails), across) * side, -(-len(thumbnails) // across) * side
    sheet = Image.new("RGB", (wide, high))
    for i, thumbnail in enumerate(thumbnails):
        sheet.paste(square(thumbnail, side), (i % across * side, i // across * side))
    encoded = base64.b64encode(jpeg_bytes(sheet, 82)).decode()
    return {"address": f"data:image/jpeg;base64,{encoded}", "wide": wide, "high": high}


def grouped(values: Sequence) -> dict:
    """Return `palette`, (text, CSS colour) of each group, and `groups`, the group of each value.

    Equal texts are a group; more than eight different numbers are cut at their quantiles.
    """
    try:
        numbers = np.array(values, dtype=np.float64)
    except ValueError:
        numbers = np.zeros(0)
    if len(np.unique(numbers)) > GROUPS and np.isfinite(numbers).all():
        edges = np.quantile(numbers, np.linspace(0, 1, GROUPS + 1))
        groups = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, GROUPS - 1)
        texts = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges, edges[1:])]
        colours = [f"hsl({hue:.0f} 70% 50%)" for hue in np.linspace(245, 7, GROUPS)]
    else:
        texts, groups = np.unique(np.array(values, dtype=str), return_inverse=True)
        texts = ["no", "yes"] if set(texts) == {"0", "1"} else texts
        colours = [f"#{COLOURS[i % len(COLOURS)]}" for i in range(len(texts))]
    return {"palette": [*zip(map(str, texts), colours)], "groups": groups.tolist()}
