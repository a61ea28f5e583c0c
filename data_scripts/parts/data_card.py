"""The data card, as Markdown and as one HTML page that needs no network."""

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from labkit.utils import render_page
from parts.review_page import TEMPLATES, thumbnail
from parts.tables import listed

FIELDS = {
    "licence": "under which licence or terms the photos may be used",
    "source": "where the photos come from, who collected them and when",
    "consent": "who has agreed to what, and how they can withdraw",
    "contact": "whom to ask, and to tell when a photo has to go",
}


def as_markdown(report) -> str:
    """Return the card of a `check_data.Report` as Markdown."""
    return render_page(TEMPLATES / "data_card.md", **_card(report, _plain))


def _plain(text: str) -> Markup:
    """Return a text that Markdown shows as it is, on one line."""
    text = " ".join(str(text).split())
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, f"\\{character}")
    return Markup(text)


def _sides(sides: np.ndarray) -> str:
    if not len(sides):
        return "no image can be read"
    if sides.min() == sides.max():
        return f"{sides.min()} px"
    return f"{sides.min()} to {sides.max()} px, mostly {np.bincount(sides).argmax()}"


def as_html(report) -> str:
    """Return the card of a `check_data.Report` as a page with histograms and samples."""
    card = _card(report, listed)
    for numbers in card["sets"]:
        numbers["plots"] = [
            _histogram(numbers["images_per_identity"], "people by images per person"),
            _histogram(numbers["shorter_side"], "images by shorter side in pixels"),
        ]
        numbers["samples"] = [
            (who, [thumbnail(path, 96) for path in paths]) for who, paths in numbers["faces"]
        ]
    return render_page(TEMPLATES / "data_card.html", **card)


def _card(report, text: Callable[[str], str]) -> dict:
    """Return what both templates show; `text` makes strings of people fit for them."""
    for name, numbers in report.sets.items():
        each = numbers["images_per_identity"]
        numbers |= {"name": name, "sides": _sides(numbers["shorter_side"])}
        numbers["each"] = f"{each.min():,}, {np.median(each):,.0f}, {each.max():,}"
    return {
        "title": text(f"Data card: {report.name}"),
        "problems": [text(problem) for problem in report.problems],
        "notes": [text(note) for note in report.notes],
        "sets": list(report.sets.values()),
        "lists": report.lists,
        "about": [(name, text(report.about.get(name, "")), FIELDS[name]) for name in FIELDS],
        "synthetic": report.synthetic,
    }


def _histogram(values: np.ndarray, what: str) -> dict | None:
    """Return the counts of whole numbers in at most 24 bars, each from an edge to the next."""
    if not len(values):
        return None
    step = 1 + int(values.max() - values.min()) // 24
    edges = np.arange(values.min(), values.max() + step + 1, step)
    counts = np.histogram(values, edges)[0].tolist()
    return {"what": what, "step": step, "high": int(values.max()), "bars": [*zip(edges, counts)]}
