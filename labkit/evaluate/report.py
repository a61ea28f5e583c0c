"""Verification reports as files: JSON, PNG, PDF, and one HTML page that stands alone.

Works on `VerificationReport` objects.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages

from labkit import metrics, plots
from labkit.plots.style import DPI, LabFigure, new_figure, styled, text
from labkit.utils import UserError, atomic_path, make_folder, write_json, write_text

Section = tuple[str, str, str, LabFigure]  # file name, heading, explanation, figure


def save_report(
    reports: Sequence,
    folder: str | Path,
    root: str | Path | None = None,
    title: str = "Face verification report",
    others: Sequence = (),
) -> dict[str, Path]:
    """Write one report about one system or several into `folder`.

    Files: `summary.json` (`{"systems": [...], "comparisons": [...]}`), `report.html` (alone),
    `report.pdf`, and a PNG of each figure. With `root`, the test folder, the hardest target and
    imposter pairs are shown as pictures. Systems measured on the same pairs are compared with
    the first one. `others` are systems to compare with: they are in the numbers and the curves,
    without figures of their own. Returns the paths by name. Raises UserError without a report,
    or when two have one name.
    """
    if not reports:
        raise UserError("no report to save")
    detailed = len(reports)
    reports = [*reports, *others]
    names = [report.name for report in reports]
    if len(set(names)) < len(names):
        raise UserError(f"two systems have one name: {', '.join(names)}")
    folder = make_folder(folder)
    comparisons = compare(reports)
    sections = _sections(reports, detailed, root)
    paths = {"summary": folder / "summary.json"}
    write_json(
        paths["summary"],
        {
            "systems": [report.to_dict() for report in reports],
            "comparisons": [
                {"name_a": a, "name_b": b, **vars(difference)} for a, b, difference in comparisons
            ],
        },
    )
    pictures = {}
    for name, _, _, figure in sections:
        paths[name] = folder / f"{name}.png"
        pictures[name] = _png(figure)
        with atomic_path(paths[name]) as beside:
            beside.write_bytes(pictures[name])
    paths["pdf"] = folder / "report.pdf"
    with atomic_path(paths["pdf"]) as beside, PdfPages(beside) as pdf:
        pdf.savefig(_numbers_page(reports, comparisons, title))
        for *_, figure in sections:
            pdf.savefig(figure)
    paths["html"] = folder / "report.html"
    write_text(paths["html"], _html(reports, comparisons, sections, pictures, title))
    return paths


def compare(reports: Sequence) -> list[tuple[str, str, metrics.PairedDifference]]:
    """(first name, other name, paired difference of EER) for systems on the first one's pairs.

    Empty where the first report was made without a bootstrap.
    """
    first = reports[0]
    found = []
    if not first.bootstrap:
        return found
    left, right = first.identity_numbers()
    for other in reports[1:]:
        if not _same_pairs(first.pairs, other.pairs):
            continue
        same_draws = (first.bootstrap, first.seed) == (other.bootstrap, other.seed)
        difference = metrics.paired_difference(
            first.scores, other.scores, first.pairs.labels, left, right,
            samples=first.bootstrap, level=first.level, seed=first.seed,
            draws=(first.draws, other.draws) if same_draws else None,
        )  # fmt: skip
        found.append((first.name, other.name, difference))
    return found


def _same_pairs(a, b) -> bool:
    return a is b or (
        a.files == b.files
        and np.array_equal(a.left, b.left)
        and np.array_equal(a.right, b.right)
        and np.array_equal(a.labels, b.labels)
    )


def _sections(reports: Sequence, detailed: int, root: str | Path | None) -> list[Section]:
    systems = {report.name: (report.scores, report.pairs.labels) for report in reports}
    sections: list[Section] = [
        (
            "det",
            "DET curve",
            "False rejects against false accepts as the threshold moves, lower left is better. "
            "The axes are stretched so that two bell curves give a straight line. Dots: EER.",
            plots.det_curve(systems),
        ),
        (
            "roc",
            "ROC curve",
            "True accepts against false accepts, with rare false accepts spread out.",
            plots.roc_curve(systems),
        ),
    ]
    for number, report in enumerate(reports[:detailed]):
        of = f": {report.name}" if len(reports) > 1 else ""
        tail = f"-{number + 1}-{_slug(report.name)}" if detailed > 1 else ""

        def add(name: str, heading: str, words: str, draw: Callable, *, of=of, tail=tail) -> None:
            sections.append((name + tail, heading + of, words, draw()))

        add(
            "scores",
            "Scores",
            "Where the two hills overlap, no threshold is right for all pairs.",
            lambda report=report: plots.score_histogram(
                report.scores, report.pairs.labels, report.threshold
            ),
        )
        if not np.isnan(report.identities.eer).all():
            add(
                "identities",
                "Who is hard",
                "The EER of the pairs in which a person takes part. With few pairs each, "
                "it is a hint, not a measurement.",
                lambda report=report: plots.identity_eer(report),
            )
        if root is None:
            continue
        for kind, chosen, words in (
            ("target", report.hardest_targets, "One person, but the system sees two."),
            ("imposter", report.hardest_imposters, "Two people, but the system sees one."),
        ):
            add(
                f"hardest_{kind}s",
                f"Hardest {kind} pairs",
                words,
                lambda report=report, chosen=chosen: plots.pair_sheet(
                    report.pairs, report.scores, chosen, root
                ),
            )
    return sections


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "system"


def _png(figure: LabFigure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _table(reports: Sequence) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the numbers, one column for each system."""

    def interval(low: float | None, high: float | None) -> str:
        return "–" if low is None else f"{low:.2f} to {high:.2f}"

    level = f"{reports[0].level:.0%}"
    rows = [
        ["EER (%)", *(f"{r.eer:.2f}" for r in reports)],
        [f"EER, {level} interval by identity", *(interval(r.eer_low, r.eer_high) for r in reports)],
        [
            f"EER, {level} interval by pair",
            *(interval(r.eer_pair_low, r.eer_pair_high) for r in reports),
        ],
        ["EER by the reference trainer (%)", *(f"{r.reference_eer:.2f}" for r in reports)],
        ["threshold at the EER", *(f"{r.threshold:.4f}" for r in reports)],
    ]
    for far in reports[0].tar_at_far:
        rates = (f"{report.tar_at_far[far]:.1%}" for report in reports)
        rows.append([f"true accepts at {far:.1%} false accepts", *rates])
    rows += [
        ["area under the ROC", *(f"{r.auc:.4f}" for r in reports)],
        ["minimum detection cost (5 % targets)", *(f"{r.min_dcf:.3f}" for r in reports)],
        ["target pairs", *(f"{r.targets:,}" for r in reports)],
        ["imposter pairs", *(f"{r.imposters:,}" for r in reports)],
        ["images", *(f"{r.images:,}" for r in reports)],
        ["identities", *(f"{len(r.identities.names):,}" for r in reports)],
    ]
    return ["", *(r.name for r in reports)], rows


NOTE = (
    "The interval by identity draws people with replacement and is the one to quote: pairs that "
    "share a person are not independent, so the interval by pair is usually too narrow."
)


@styled
def _numbers_page(reports: Sequence, comparisons: Sequence, title: str) -> LabFigure:
    header, rows = _table(reports)
    width = max(8.3, 3.6 + 1.9 * len(reports))
    figure = new_figure(width, 0.3 * len(rows) + 2.4 + 0.2 * len(comparisons))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_title(text(title), fontsize=15)
    first = 3.4 / width
    cells = [
        [text(cell, 44 if k == 0 or len(reports) < 3 else 22) for k, cell in enumerate(row)]
        for row in [header, *rows]
    ]
    table = axes.table(cells, loc="upper left", cellLoc="right", edges="horizontal",
                       colWidths=[first] + [(1 - first) / len(reports)] * len(reports))  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    table.scale(1, 1.35)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#CCCCCC")
        cell.get_text().set_parse_math(False)
        if column == 0:
            cell.get_text().set_horizontalalignment("left")
        if row <= 1:
            cell.get_text().set_fontweight("bold")
    lines = [text(d.summary(a, b)) for a, b, d in comparisons]
    axes.text(0, 0, "\n".join([*lines, NOTE]), fontsize=9, wrap=True, va="bottom",
              transform=axes.transAxes, parse_math=False, color="#444444")  # fmt: skip
    return figure


CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; }
p { max-width: 46rem; margin: .3rem 0 .8rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid #ddd; text-align: right;
         font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td { white-space: nowrap; }
tbody tr:first-child td { font-weight: 700; font-size: 1.15em; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } .note { color: #555; font-size: .92rem; }
@media print { h2, img { break-inside: avoid; break-after: avoid; } }
"""


def _html(reports, comparisons, sections: Sequence[Section], pictures: dict, title: str) -> str:
    header, rows = _table(reports)

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="scroll"><table><thead>{row(header, "th")}</thead>',
        "<tbody>" + "\n".join(row(cells, "td") for cells in rows) + "</tbody></table></div>",
    ]
    for a, b, difference in comparisons:
        body.append(f"<p>{html.escape(difference.summary(a, b))}.</p>")
    body.append(f'<p class="note">{html.escape(NOTE)}</p>')
    for name, heading, words, _ in sections:
        data = base64.b64encode(pictures[name]).decode("ascii")
        body.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(words)}</p>")
        body.append(f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
