"""Verification reports as files: JSON, PNG, PDF, and one HTML page that stands alone."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.evaluate.verification import VerificationReport
from labkit.utils import UserError, atomic_path, render_page, write_bytes, write_json, write_text


def save_report(
    reports: Sequence[VerificationReport],
    folder: str | Path,
    root: str | Path | None = None,
    others: Sequence[VerificationReport] = (),
) -> dict[str, Path]:
    """Write one report about one system or several into a folder, and return the paths by name.

    Files: `summary.json` (`{"systems": [...], "comparisons": [...]}`), `report.html`, the figures
    as PNG and together as `report.pdf`. With `root`, the test folder, the hardest pairs are shown.
    Systems measured on the same pairs are compared with the first one. `others` are in the numbers
    and the curves, without figures of their own. Raises UserError when two have one name.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # slow to import

    systems = [*reports, *others]
    names = [system.name for system in systems]
    if not reports or len(set(names)) < len(names):
        raise UserError(f"give reports with different names, got: {', '.join(names) or 'none'}")
    files = {"summary": "summary.json", "pdf": "report.pdf", "html": "report.html"}
    paths = {name: Path(folder, file) for name, file in files.items()}
    comparisons = _compare(systems)
    summary = {
        "systems": [system.to_dict() for system in systems],
        "comparisons": [{"name_a": names[0], "name_b": b, **vars(d)} for b, d in comparisons],
    }
    write_json(paths["summary"], summary)
    shown = []
    with atomic_path(paths["pdf"]) as temporary, PdfPages(temporary) as pdf:
        for kind, system, figure in _figures(reports, systems, root):
            number = f"-{names.index(system) + 1}" if system and len(reports) > 1 else ""
            png, name = figure._repr_png_(), f"{kind}{number}"
            pdf.savefig(figure)
            paths[name] = Path(folder, f"{name}.png")
            write_bytes(paths[name], png)
            heading = system if len(systems) > 1 else ""
            shown.append({"kind": kind, "system": heading, "png": base64.b64encode(png).decode()})
    sentences = [difference.summary(names[0], name) for name, difference in comparisons]
    template = Path(__file__).with_name("report.html")
    page = render_page(template, systems=systems, comparisons=sentences, figures=shown)
    write_text(paths["html"], page)
    return paths


def _compare(systems: Sequence) -> list[tuple[str, metrics.PairedDifference]]:
    """The name of each system on the pairs of the first, and the difference of their EERs."""
    first, found = systems[0], []
    for other in systems[1:] if first.bootstrap else ():
        parts = ("files", "left", "right", "labels")
        if all(np.array_equal(*(getattr(s.pairs, part) for s in (first, other))) for part in parts):
            difference = metrics.paired_difference(
                first.scores, other.scores, first.pairs.labels, *first.pairs.identities(),
                level=first.level, samples=first.bootstrap, seed=first.seed,
            )  # fmt: skip
            found.append((other.name, difference))
    return found


def _figures(reports: Sequence, systems: Sequence, root: str | Path | None):
    """Yield (kind, name of the system or "" for all, figure), in the order of the page."""
    from labkit import plots

    curves = {system.name: (system.scores, system.pairs.labels) for system in systems}
    yield "det", "", plots.det_curve(curves)
    yield "roc", "", plots.roc_curve(curves)
    for report in reports:
        name, pairs, scores = report.name, report.pairs, report.scores
        yield "scores", name, plots.score_histogram(scores, pairs.labels, report.threshold)
        if report.identity_eer:
            yield "identities", name, plots.identity_eer(report)
        if root is not None:
            for kind in ("hardest_targets", "hardest_imposters"):
                yield kind, name, plots.pair_sheet(pairs, scores, getattr(report, kind), root)
