"""Verification reports as files: JSON, PNG, PDF, and one HTML page that stands alone."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import PairList
from labkit.evaluate.verification import VerificationReport, identities_of
from labkit.utils import (
    UserError,
    atomic_path,
    make_folder,
    render_page,
    write_bytes,
    write_json,
    write_text,
)

NOTE = (
    "The interval by identity draws people with replacement and is the one to quote: pairs that "
    "share a person are not independent, so the interval by pair is usually too narrow."
)


def save_report(
    reports: Sequence[VerificationReport],
    folder: str | Path,
    root: str | Path | None = None,
    title: str = "Face verification report",
    others: Sequence[VerificationReport] = (),
) -> dict[str, Path]:
    """Write one report about one system or several into a folder, and return the paths by name.

    Files: `summary.json` (`{"systems": [...], "comparisons": [...]}`), `report.html` (alone),
    `report.pdf`, and a PNG of each figure. With `root`, the test folder, the hardest target and
    imposter pairs are shown as pictures. Systems measured on the same pairs are compared with
    the first one. `others` are systems to compare with: they are in the numbers and the curves,
    without figures of their own. Raises UserError without a report, or when two have one name.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # slow to import

    if not reports:
        raise UserError("no report to save")
    systems = [*reports, *others]
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise UserError(f"two systems have one name: {', '.join(names)}")
    folder = make_folder(folder)
    differences = _compare(systems)
    sentences = [difference.summary(a, b) for a, b, difference in differences]
    summary = {
        "systems": [system.to_dict() for system in systems],
        "comparisons": [{"name_a": a, "name_b": b, **vars(d)} for a, b, d in differences],
    }
    paths = {"summary": folder / "summary.json"}
    write_json(paths["summary"], summary)
    figures, shown = _figures(reports, systems, root), []
    for kind, system, figure in figures:
        name, png = kind, figure._repr_png_()
        if system and len(reports) > 1:
            slug = re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-")[:40] or "system"
            name = f"{kind}-{names.index(system) + 1}-{slug}"
        paths[name] = folder / f"{name}.png"
        write_bytes(paths[name], png)
        heading = system if len(systems) > 1 else ""
        encoded = base64.b64encode(png).decode("ascii")
        shown.append({"kind": kind, "system": heading, "png": encoded})
    paths["pdf"], paths["html"] = folder / "report.pdf", folder / "report.html"
    with atomic_path(paths["pdf"]) as temporary, PdfPages(temporary) as pdf:
        pdf.savefig(_numbers_page(systems, sentences, title))
        for *_, figure in figures:
            pdf.savefig(figure)
    template = Path(__file__).with_name("report.html")
    page = render_page(
        template, title=title, systems=systems, comparisons=sentences, note=NOTE, figures=shown
    )
    write_text(paths["html"], page)
    return paths


def _compare(systems: Sequence) -> list[tuple[str, str, metrics.PairedDifference]]:
    """The first system's name, another's on the same pairs, and the paired difference of EER.

    Empty where the first report was made without a bootstrap.
    """
    first, found = systems[0], []
    for other in systems[1:]:
        if first.bootstrap and _same(first.pairs, other.pairs):
            difference = metrics.paired_difference(
                first.scores, other.scores, first.pairs.labels, *identities_of(first.pairs)[1:],
                level=first.level, samples=first.bootstrap, seed=first.seed,
            )  # fmt: skip
            found.append((first.name, other.name, difference))
    return found


def _same(a: PairList, b: PairList) -> bool:
    parts = [(pairs.left, pairs.right, pairs.labels) for pairs in (a, b)]
    return a.files == b.files and np.array_equal(*parts)


def _figures(reports: Sequence, systems: Sequence, root: str | Path | None) -> list[tuple]:
    """(kind, name of the system or "" for all, figure), in the order of the page."""
    from labkit import plots

    curves = {system.name: (system.scores, system.pairs.labels) for system in systems}
    figures = [("det", "", plots.det_curve(curves)), ("roc", "", plots.roc_curve(curves))]
    for report in reports:
        name, pairs, scores = report.name, report.pairs, report.scores
        histogram = plots.score_histogram(scores, pairs.labels, report.threshold)
        figures.append(("scores", name, histogram))
        if not np.isnan(report.identities.eer).all():
            figures.append(("identities", name, plots.identity_eer(report)))
        if root is not None:
            sheet = plots.pair_sheet(pairs, scores, report.hardest_targets, root)
            figures.append(("hardest_targets", name, sheet))
            sheet = plots.pair_sheet(pairs, scores, report.hardest_imposters, root)
            figures.append(("hardest_imposters", name, sheet))
    return figures


def _numbers_page(systems: Sequence, sentences: Sequence[str], title: str):
    """The first page of the PDF."""
    from labkit.plots.figures import new_figure, styled, text

    lines = [text(title), ""]
    for system in systems:
        lines += [*map(text, system.summary().splitlines()), ""]
    lines += [text(sentence) for sentence in sentences] + ["", NOTE]

    @styled
    def draw():
        figure = new_figure(11.7, max(8.3, 0.25 * len(lines) + 1))
        figure.text(
            0.05, 0.95, "\n".join(lines), va="top", wrap=True, fontsize=10, parse_math=False
        )
        return figure

    return draw()
