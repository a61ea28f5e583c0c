"""The leaderboard of a blind list: hand-ins ranked by EER, each tested against the one above.

Written as CSV and as one HTML page that stands alone. Names come from strangers' files: they are
shown escaped, without control signs, and never as a spreadsheet formula.
"""

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.evaluate.handins import HandIn, Key
from labkit.utils import UserError, make_folder, progress, write_csv, write_text

LONGEST_NAME = 60
FORMULA_STARTS = "=+-@＝＋－＠"


@dataclass
class Place:
    """One line of the leaderboard. Rates in percent.

    rank: 1 for the lowest EER, shared by equal ones. versus: the paired difference to the line
    above (this one's EER minus that one's), None for the first. same_as: the name of an earlier
    line whose scores order all pairs in the same way, or "".
    """

    rank: int
    name: str
    eer: float
    low: float
    high: float
    reference_eer: float
    tar_at_1_percent: float
    versus: metrics.PairedDifference | None
    same_as: str


def rank_hand_ins(
    hand_ins: Sequence[HandIn],
    key: Key,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Place]:
    """The good ones among `hand_ins`, best first; see `Place`.

    Intervals resample the people of the key. All hand-ins see the same draws, so that each can be
    tested against the one above it. Raises UserError when no hand-in is good.
    """
    good = [hand_in for hand_in in hand_ins if hand_in.good]
    if not good:
        raise UserError("no hand-in can be ranked")
    labels, people = key.pairs.labels, (key.left, key.right)
    eers = [metrics.eer(hand_in.scores, labels) for hand_in in good]
    names = display_names([hand_in.name for hand_in in good])
    order = sorted(range(len(good)), key=lambda i: (eers[i], names[i]))
    places: list[Place] = []
    above = None
    first_with: dict[bytes, str] = {}
    for i in progress(order, desc="ranking", unit="hand-in"):
        scores = good[i].scores
        draws = metrics.bootstrap(scores, labels, *people, samples=samples, seed=seed)
        low, high = metrics.bootstrap_ci(scores, labels, *people, level=level, draws=draws)
        versus = None
        if above is not None:
            versus = metrics.paired_difference(
                above[0], scores, labels, *people, level=level, draws=(above[1], draws)
            )
        ordering = np.unique(scores, return_inverse=True)[1].astype(np.int32).tobytes()
        tied = places and places[-1].eer == eers[i]
        places.append(
            Place(
                rank=places[-1].rank if tied else len(places) + 1,
                name=names[i],
                eer=eers[i],
                low=low,
                high=high,
                reference_eer=metrics.voxceleb_eer(scores, labels),
                tar_at_1_percent=100.0 * float(metrics.tar_at_far(scores, labels, [0.01])[0]),
                versus=versus,
                same_as=first_with.get(ordering, ""),
            )
        )
        first_with.setdefault(ordering, names[i])
        above = scores, draws
    return places


def display_names(names: Sequence[str]) -> list[str]:
    """Names as they may be shown: printable, at most 60 signs, no two alike."""
    shown, used = [], set()
    for name in names:
        plain = unicodedata.normalize("NFC", name)
        plain = "".join(sign if sign.isprintable() else "?" for sign in plain).strip() or "?"
        if len(plain) > LONGEST_NAME:
            plain = plain[: LONGEST_NAME - 1] + "…"
        number, unique = 1, plain
        while unique in used:
            number += 1
            unique = f"{plain} ({number})"
        used.add(unique)
        shown.append(unique)
    return shown


def spreadsheet_text(value: str) -> str:
    """Text that a spreadsheet shows as it is: what would start a formula gets an apostrophe."""
    return f"'{value}" if value.lstrip()[:1] in tuple(FORMULA_STARTS) else value


def write_leaderboard(
    folder: str | Path,
    places: Sequence[Place],
    rejected: Sequence[tuple[str, HandIn]],
    key: Key,
    *,
    title: str = "Leaderboard",
    samples: int = 1000,
    level: float = 0.95,
) -> dict[str, Path]:
    """Write leaderboard.csv, rejected.csv and leaderboard.html; returns them by name.

    `rejected` are the files' names with their hand-ins, none of which is good.
    """
    folder = make_folder(folder)
    paths = {name: folder / name for name in ("leaderboard.csv", "rejected.csv")}
    paths["leaderboard.html"] = folder / "leaderboard.html"
    write_csv(paths["leaderboard.csv"], [CSV_HEADER, *(_csv_row(place) for place in places)])
    names = display_names([name for name, _ in rejected])
    rows = [
        (spreadsheet_text(name), spreadsheet_text(problem))
        for name, (_, hand_in) in zip(names, rejected)
        for problem in hand_in.told()
    ]
    write_csv(paths["rejected.csv"], [("file", "problem"), *rows])
    page = _html(places, list(zip(names, (h for _, h in rejected))), key, title, samples, level)
    write_text(paths["leaderboard.html"], page)
    return paths


CSV_HEADER = (
    "rank", "name", "eer", "eer_low", "eer_high", "eer_by_reference_trainer",
    "true_accepts_at_1_percent_false_accepts", "behind_the_one_above", "behind_low",
    "behind_high", "p_value", "told_apart", "same_order_as",
)  # fmt: skip


def _csv_row(place: Place) -> tuple:
    numbers = (place.eer, place.low, place.high, place.reference_eer, place.tar_at_1_percent)
    versus = ("",) * 5
    if place.versus is not None:
        v = place.versus
        apart = "yes" if v.significant else "no"
        versus = (*(f"{x:.4f}" for x in (v.difference, v.low, v.high, v.p_value)), apart)
    return (
        place.rank,
        spreadsheet_text(place.name),
        *(f"{number:.4f}" for number in numbers),
        *versus,
        spreadsheet_text(place.same_as),
    )


def versus_text(place: Place) -> str:
    """How a line stands to the one above it, in words."""
    v = place.versus
    if v is None:
        return ""
    if v.significant:
        return f"behind by {v.difference:.2f} points ({v.low:.2f} to {v.high:.2f})"
    return f"cannot be told apart ({v.low:+.2f} to {v.high:+.2f})"


CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p { max-width: 48rem; } .note { color: #555; font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: middle; }
th { font-size: .86rem; color: #555; font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.name { font-weight: 600; overflow-wrap: anywhere; min-width: 9rem; }
.eer { font-weight: 700; font-size: 1.1em; }
.small { font-size: .88rem; color: #555; } .apart { font-weight: 600; }
.versus { min-width: 15rem; line-height: 1.35; }
svg { display: block; }
ul { margin: .2rem 0 .2rem 1.1rem; padding: 0; overflow-wrap: anywhere; }
@media print { tr { break-inside: avoid; } }
"""


def _html(places, rejected, key: Key, title: str, samples: int, level: float) -> str:
    esc, pairs = html.escape, key.pairs
    targets = int(pairs.labels.sum())
    largest = max((place.high for place in places), default=1.0) or 1.0
    handed_in = f"{len(places) + len(rejected):,} handed in, {len(rejected):,} rejected"
    body = [
        f"<h1>{esc(title)}</h1>",
        f'<p class="note">{handed_in}. '
        f"{targets:,} target and {len(pairs) - targets:,} imposter pairs of {key.people:,} people "
        f"({esc(key.known_by)}).</p>",
    ]
    if places:
        head = (
            ("n", ""), ("", "name"), ("n", "EER (%)"), ("n", f"{level:.0%} interval"),
            ("", f"0 to {largest:.1f} %"), ("n", "true accepts at 1&nbsp;% false accepts"),
            ("versus", "against the one above"),
        )  # fmt: skip
        body.append('<div class="scroll"><table><thead><tr>')
        body += [f'<th class="{kind}">{words}</th>' for kind, words in head]
        body.append("</tr></thead><tbody>")
        body += [_row(place, largest) for place in places]
        body.append("</tbody></table></div>")
        body.append(
            '<p class="note"><b>How to read it.</b> The EER is the rate at which false accepts '
            "equal false rejects; lower is better. The interval says where it might have come out "
            f"with other people in the list: it draws the {key.people:,} people with replacement, "
            f"{samples:,} times. The last column compares each line with the one above it on the "
            "same draws. Lines that cannot be told apart share a rank in all but name; and of "
            f"{round(1 / (1 - level))} comparisons of equals, about one says otherwise by chance. "
            "The interval of the difference can leave out zero even where the two intervals "
            "overlap, because both systems saw the same pairs.</p>"
        )
    if rejected:
        body.append("<h2>Rejected</h2><table><thead><tr><th>file</th><th>what is wrong</th></tr>")
        body.append("</thead><tbody>")
        for name, hand_in in rejected:
            items = "".join(f"<li>{esc(problem)}</li>" for problem in hand_in.told())
            body.append(f'<tr><td class="name">{esc(name)}</td><td><ul>{items}</ul></td></tr>')
        body.append("</tbody></table>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>{CSS}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _row(place: Place, largest: float) -> str:
    esc = html.escape
    same = f'<br><span class="small">orders all pairs as {esc(place.same_as)} does</span>'
    told = "apart" if place.versus is not None and place.versus.significant else "small"
    p_value = ""
    if place.versus is not None:
        p_value = f'<br><span class="small">p = {place.versus.p_value:.3f}</span>'
    return (
        f'<tr><td class="n">{place.rank}</td>'
        f'<td class="name">{esc(place.name)}{same if place.same_as else ""}</td>'
        f'<td class="n eer">{place.eer:.2f}</td>'
        f'<td class="n">{place.low:.2f} to {place.high:.2f}</td>'
        f"<td>{_bar(place, largest)}</td>"
        f'<td class="n">{place.tar_at_1_percent:.1f} %</td>'
        f'<td class="versus {told}">{esc(versus_text(place))}{p_value}</td></tr>'
    )


def _bar(place: Place, largest: float) -> str:
    """The interval as a line with a dot at the EER."""
    width = 180
    low, at, high = (4 + (width - 8) * x / largest for x in (place.low, place.eer, place.high))
    return (
        f'<svg width="{width}" height="18" role="img" '
        f'aria-label="{place.low:.2f} to {place.high:.2f} %">'
        f'<line x1="4" y1="9" x2="{width - 4}" y2="9" stroke="#eee" stroke-width="2"/>'
        f'<line x1="{low:.1f}" y1="9" x2="{high:.1f}" y2="9" stroke="#7FB3D9" stroke-width="6"/>'
        f'<circle cx="{at:.1f}" cy="9" r="4.5" fill="#0072B2"/></svg>'
    )
