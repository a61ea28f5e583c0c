"""The data card, as Markdown and as one HTML page that needs no network."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import cpu_count
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
TO_FILL_IN = "TO FILL IN"
LAW = (
    "Faces that are used to tell who somebody is are special: sensitive information under Korea's "
    "Personal Information Protection Act (PIPA, Article 23 and Article 18 of its Enforcement "
    "Decree) and biometric data under the EU's General Data Protection Regulation (GDPR, "
    "Articles 4(14) and 9). Both ask for the consent of the people shown, given for this purpose, "
    "or for another ground in law; that a photo is on the web is none.",
    "Tell the people what the photos are for, who sees them and until when. Keep them where only "
    "the course can reach them, do not publish them or what was trained on them without asking, "
    "and delete them when the course is over.",
    "Whoever asks to be taken out has to be taken out (GDPR Article 17, PIPA Article 36): delete "
    "the person's folder, run split.py, make_pairs.py and check_data.py anew, and delete weights "
    "and galleries that hold the person.",
    "This is a reminder, not legal advice; your institution's review board and data-protection "
    "officer can give that.",
)
SYNTHETIC = "All people of this data set are rendered and do not exist; no consent is needed."


def as_markdown(report) -> str:
    """Return the card of a `check_data.Report` as Markdown."""
    return render_page(TEMPLATES / "data_card.md", **_card(report, _plain))


def _plain(text: str) -> Markup:
    """Return a text that Markdown shows as it is, on one line."""
    text = " ".join(str(text).split())
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, f"\\{character}")
    return Markup(text)


def _three(values: np.ndarray) -> str:
    return f"{values.min():,}, {np.median(values):,.0f}, {values.max():,}"


def _sides(numbers: dict) -> str:
    sides = numbers["shorter_side"]
    if not len(sides):
        return "no image can be read"
    if sides.min() == sides.max():
        return f"{sides.min()} px"
    return f"{sides.min()} to {sides.max()} px, mostly {numbers['most_common_side']}"


def as_html(report) -> str:
    """Return the card of a `check_data.Report` as a page with histograms and samples."""
    card = _card(report, listed)
    paths = [path for samples in report.samples.values() for _, some in samples for path in some]
    with ThreadPoolExecutor(cpu_count()) as threads:
        pictures = dict(zip(paths, threads.map(lambda path: thumbnail(path, 96), paths)))
    for numbers in card["sets"]:
        numbers["plots"] = [
            _histogram(numbers["images_per_identity"], "people by images per person"),
            _histogram(numbers["shorter_side"], "images by shorter side in pixels"),
        ]
        samples = report.samples.get(numbers["name"], [])
        numbers["samples"] = [(who, [pictures[path] for path in some]) for who, some in samples]
    return render_page(TEMPLATES / "data_card.html", **card)


def _card(report, text: Callable[[str], str]) -> dict:
    """Return what both templates show; `text` makes strings of people fit for them."""
    return {
        "title": text(f"Data card: {report.name}"),
        "problems": [text(problem) for problem in report.problems],
        "notes": [text(note) for note in report.notes],
        "sets": [
            numbers
            | {"name": name, "each": _three(numbers["images_per_identity"])}
            | {"sides": _sides(numbers)}
            for name, numbers in report.sets.items()
        ],
        "lists": report.lists,
        "about": [(name, text(report.about.get(name, "")), FIELDS[name]) for name in FIELDS],
        "synthetic": SYNTHETIC if report.synthetic else "",
        "to_fill_in": TO_FILL_IN,
        "law": LAW,
    }


def _histogram(values: np.ndarray, what: str, bars: int = 24) -> dict | None:
    """Return the bars of whole numbers, 84 high, 366 wide; None when there are none."""
    if not len(values):
        return None
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // bars))
    edges = np.arange(low, high + step + 1, step)
    counts = np.histogram(values, edges)[0]
    each = 366 / max(len(counts), 8)
    return {
        "what": what,
        "low": f"{low:,}",
        "high": f"{high:,}" if high > low else "",
        "most": f"{counts.max():,}",
        "width": round(len(counts) * each, 1),
        "bars": [
            {
                "x": round(k * each, 1),
                "width": round(max(each - 2, 1), 1),
                "height": round(84 * count / counts.max(), 1),
                "title": f"{edges[k]:,}{f' to {edges[k + 1] - 1:,}' * (step > 1)}: {count:,}",
            }
            for k, count in enumerate(counts)
        ],
    }
