"""The FaceMap as one interactive HTML file that needs no network."""

import base64
import colorsys
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from labkit.errors import UserError
from labkit.facemap.layouts import faithfulness
from labkit.facemap.page_script import (
    COLOUR,
    PANEL_STYLE,
    RESIZE,
    SEARCH,
    SELECT,
    START,
    SWITCH,
    TEMPLATE,
    TOOLTIP,
)
from labkit.facemap.poster import LAYOUT_NAMES, as_picture, check_lengths, describe, square
from labkit.files import write_text
from labkit.gallery.search import normalized, top_k

MOST_PICTURES = 6000
NEIGHBOURS = 12
PLAIN = "#d1d5db"
HINT = (
    "<p><b>Click a face</b> to light up the faces most like it in the embedding itself, which has "
    "far more than two dimensions: where they lie far apart on the map, the map had to give way."
    "</p><p>Drag to move, turn the wheel to zoom, Escape to clear.</p>"
)


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
        title: of the page.
        note: a line at the top, such as that the faces are synthetic.

    Returns:
        the path. Above 6,000 faces the map shows dots and the pictures appear on hover.

    Raises:
        UserError: lengths differ, or the file cannot be written.
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.events import DocumentReady
    from bokeh.resources import Resources

    maps = dict(xy) if isinstance(xy, Mapping) else {"map": xy}
    maps = {name: np.asarray(places, dtype=np.float64) for name, places in maps.items()}
    if not maps:
        raise UserError("no layout for the page; give at least one")
    page = _Page(maps, thumbnails, names, embeddings, labels, details, attributes, shown)
    document = Document()
    root, start = page.models()
    document.add_root(root)
    document.js_on_event(DocumentReady, start)
    text = file_html(
        document,
        Resources(mode="inline", log_level="fatal"),
        title=title,
        template=TEMPLATE,
        template_variables={"counted": f"{page.count:,} faces", "note": note},
    )
    # bokeh's own call writes a line to the browser's console
    text = text.replace("Bokeh.set_log_level(", "Bokeh.logger.set_level(")
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


def data_uri(thumbnail, side: int) -> str:
    """A picture as the text of a square JPEG that a page can hold."""
    buffer = io.BytesIO()
    square(as_picture(thumbnail), side).save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class _Page:
    """The bokeh models of one page."""

    def __init__(self, maps, thumbnails, names, embeddings, labels, details, attributes, shown):
        self.maps = maps
        self.count = count = len(next(iter(maps.values())))
        for places in maps.values():
            check_lengths(count, places=places)
        check_lengths(count, names=names, embeddings=embeddings, labels=labels)
        check_lengths(count, details=details, shown=shown)
        if shown is None:
            check_lengths(count, thumbnails=thumbnails)
        self.attributes = {name: list(values) for name, values in (attributes or {}).items()}
        for values in self.attributes.values():
            check_lengths(count, attributes=values)
        self.names = [str(name) for name in names]
        self.details = [str(detail) for detail in details] if details is not None else [""] * count
        self.embeddings, self.labels, self.shown = embeddings, labels, shown
        side = 112 if len(thumbnails) <= 1500 else 72 if len(thumbnails) <= MOST_PICTURES else 40
        self.pictures = [data_uri(thumbnail, side) for thumbnail in thumbnails]
        self.as_dots = count > MOST_PICTURES
        self.face = int(np.clip(640 / np.sqrt(max(count, 1)), 14, 64))

    def models(self):
        """The layout of the page, and the script that runs when it is ready."""
        from bokeh.layouts import column, row
        from bokeh.models import CustomJS

        models = self._sources()
        plot = self._plot(models)
        side = column(*self._widgets(plot, models), width=300, sizing_mode="stretch_height")
        root = row(plot, side, sizing_mode="stretch_both", styles={"height": "100%"})
        shown = [] if self.shown is None else np.asarray(self.shown, dtype=np.int32)
        args = dict(
            source=models["source"], images=models["images"], pictures=self.pictures, shown=shown
        )
        return root, CustomJS(args=args, code=START)

    def _sources(self) -> dict:
        """Data of the page: `source` is hovered and chosen, `images` only drawn."""
        from bokeh.models import ColumnDataSource

        first = next(iter(self.maps.values()))
        place = {"x": first[:, 0], "y": first[:, 1]}
        blank = [""] * self.count
        searched = [
            f"{name} {detail}".strip()
            for name, detail in zip(self.names, self.details, strict=True)
        ]
        source = ColumnDataSource(
            {
                **place,
                "name": self.names,
                "detail": self.details,
                "search": searched,
                "url": blank,
                "colour": [PLAIN] * self.count,
                "frame": np.zeros(self.count, dtype=np.float32),
            }
        )
        store = ColumnDataSource()
        for name, places in self.maps.items():
            store.data[f"{name} x"], store.data[f"{name} y"] = places[:, 0], places[:, 1]
        return {
            "source": source,
            "store": store,
            "images": None if self.as_dots else ColumnDataSource({**place, "url": blank}),
            "links": ColumnDataSource({"x0": [], "y0": [], "x1": [], "y1": []}),
            "lit": ColumnDataSource({"x": [], "y": [], "url": [], "colour": []}),
        }

    def _plot(self, models):
        from bokeh.models import BoxAnnotation, HoverTool, TapTool, WheelZoomTool
        from bokeh.plotting import figure

        plot = figure(
            tools="pan,reset,save",
            active_drag="pan",
            lod_threshold=None,
            match_aspect=True,
            sizing_mode="stretch_both",
            toolbar_location="above",
            output_backend="webgl" if self.as_dots else "canvas",
            background_fill_color="#fafafa",
            outline_line_color="#e5e7eb",
        )
        plot.x_range.range_padding = plot.y_range.range_padding = 0.12
        plot.axis.visible = False
        plot.grid.visible = False
        plot.toolbar.logo = None
        picture = dict(
            url="url", x="x", y="y", w=self.face, h=self.face, w_units="screen",
            h_units="screen", anchor="center",
        )  # fmt: skip
        frame = dict(marker="square", size=self.face, fill_alpha=0, line_color="colour")
        drawn = [plot.image_url(**picture, source=models["images"])] if not self.as_dots else []
        if self.as_dots:
            faces = plot.scatter(
                "x", "y", source=models["source"], size=5, color="colour", line_width=0
            )
        else:
            faces = plot.scatter(
                "x", "y", source=models["source"], **frame, line_alpha="frame", line_width=3
            )
        faces.selection_glyph = faces.nonselection_glyph = None
        plot.x_range.renderers = plot.y_range.renderers = [faces]
        veil = BoxAnnotation(fill_color="#fafafa", fill_alpha=0.82, visible=False)
        veil.level = "guide"
        plot.add_layout(veil)
        plot.segment(
            "x0", "y0", "x1", "y1", source=models["links"], line_color="#f59e0b", line_width=2,
            line_alpha=0.7, level="annotation",
        )  # fmt: skip
        drawn.append(plot.image_url(**picture, source=models["lit"], level="overlay"))
        rings = plot.scatter("x", "y", source=models["lit"], **frame, line_width=3, level="overlay")
        wheel = WheelZoomTool(zoom_on_axis=False)
        tap = TapTool(renderers=[faces])
        hover = HoverTool(renderers=[faces], tooltips=TOOLTIP, point_policy="snap_to_data")
        plot.add_tools(wheel, tap, hover)
        plot.toolbar.active_scroll, plot.toolbar.active_tap = wheel, tap
        models["veil"] = veil
        models["pictures"] = [renderer.glyph for renderer in drawn]
        models["frames"] = [rings.glyph] + ([] if self.as_dots else [faces.glyph])
        models["dots"] = [faces.glyph] if self.as_dots else []
        return plot

    def _widgets(self, plot, models):
        from bokeh.models import (
            AutocompleteInput,
            CustomJS,
            Div,
            InlineStyleSheet,
            RadioButtonGroup,
            Select,
            Slider,
        )

        def script(code, **args):
            return CustomJS(args=args, code=code)

        def text(content, **settings):
            return Div(text=content, stylesheets=[style], disable_math=True, **settings)

        style = InlineStyleSheet(css=PANEL_STYLE)
        wide = dict(sizing_mode="stretch_width")
        source, store = models["source"], models["store"]
        panel = text(HINT, sizing_mode="stretch_both", styles={"overflow-y": "auto"})
        parts = {name: models[name] for name in ("source", "links", "lit", "veil")}
        chosen = script(SELECT, **parts, near=self._near(), panel=panel, hint=HINT)
        source.selected.js_on_change("indices", chosen)
        search = AutocompleteInput(
            completions=sorted(set(source.data["search"])),
            search_strategy="includes",
            case_sensitive=False,
            restrict=False,
            min_characters=1,
            max_completions=12,
            placeholder="Find a star …",
            **wide,
        )
        found = script(SEARCH, source=source, xs=plot.x_range, ys=plot.y_range)
        search.js_on_change("value", found)
        widgets = [search]
        lines = self._lines()
        foot = text(lines[0], **wide)
        if len(self.maps) > 1:
            names = list(self.maps)
            shown = [LAYOUT_NAMES.get(name, name) for name in names]
            switch = RadioButtonGroup(labels=shown, active=0, **wide)
            parts = dict(source=source, store=store, images=models["images"], chosen=chosen)
            switch.js_on_change(
                "active", script(SWITCH, **parts, names=names, lines=lines, foot=foot)
            )
            widgets.append(switch)
        size = Slider(start=8, end=128, value=self.face, step=1, title="Size", **wide)
        parts = {name: models[name] for name in ("pictures", "frames", "dots")}
        size.js_on_change("value", script(RESIZE, **parts))
        widgets.append(size)
        if self.attributes:
            palettes = {}
            for name, values in self.attributes.items():
                palettes[name], store.data[f"colour {name}"] = coloured(values)
            legend = text("", **wide)
            options = ["nothing", *self.attributes]
            select = Select(title="Colour by", options=options, value="nothing", **wide)
            parts = dict(source=source, store=store, legend=legend)
            select.js_on_change("value", script(COLOUR, **parts, palettes=palettes, plain=PLAIN))
            widgets += [select, legend]
        return [*widgets, panel, foot]

    def _near(self):
        """For each face its nearest in the embedding, as two flat columns of k entries each."""
        from bokeh.models import ColumnDataSource

        k = min(NEIGHBOURS, self.count - 1) if self.embeddings is not None else 0
        faces, similarities = np.zeros((self.count, 0)), np.zeros((self.count, 0))
        if k > 0:
            rows = normalized(self.embeddings)
            found, alike = top_k(rows, rows, k + 1)
            others = found != np.arange(self.count)[:, None]
            others[others.all(axis=1), -1] = False
            faces = found[others].reshape(self.count, k)
            similarities = alike[others].reshape(self.count, k)
        return ColumnDataSource(
            {
                "face": faces.astype(np.int32).ravel(),
                "similarity": similarities.astype(np.float32).ravel(),
            },
            tags=[k],
        )

    def _lines(self) -> list[str]:
        """For each map a line on how faithful it is."""
        if self.embeddings is None:
            return [""] * len(self.maps)
        return [
            f"<p>{describe(faithfulness(self.embeddings, places, self.labels))}</p>"
            for places in self.maps.values()
        ]


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
