"""The data card, as Markdown and as one HTML page that needs no network."""

import html
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import cpu_count

from parts.review_page import thumbnail

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
_SYNTHETIC = "All people of this data set are rendered and do not exist; no consent is needed."


def as_markdown(report) -> str:
    """The card of a `check_data.Report` as Markdown."""
    lines = [f"# Data card: {_plain(report.name)}", ""]
    if report.problems:
        lines += ["**This data directory is not in order:**", ""]
        lines += [*(f"- {_plain(text)}" for text in report.problems), ""]
    lines += ["| set | people | images | images per person (least, median, most) | shorter side |"]
    lines += ["|---|---:|---:|---|---|"]
    for name, numbers in report.sets.items():
        lines.append(
            f"| {name} | {numbers['identities']:,} | {numbers['images']:,} | "
            f"{_three(numbers['images_per_identity'])} | {_sides(numbers)} |"
        )
    lines += ["", "| list | pairs | target pairs | images |", "|---|---:|---:|---:|"]
    for name, numbers in report.lists.items():
        targets = "blind" if numbers["targets"] is None else f"{numbers['targets']:,}"
        lines.append(f"| {name} | {numbers['pairs']:,} | {targets} | {numbers['files']:,} |")
    lines += ["", "## About the photos", ""]
    if report.synthetic:
        lines += [_SYNTHETIC, ""]
    for name, text in FIELDS.items():
        told = _plain(report.about.get(name) or f"{TO_FILL_IN}: {text} (--{name})")
        lines.append(f"- **{name.capitalize()}**: {told}")
    lines += ["", "## Consent and privacy law", ""]
    lines += [part for text in LAW for part in (text, "")]
    if report.notes:
        lines += ["## Notes", "", *(f"- {_plain(text)}" for text in report.notes), ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    text = " ".join(str(text).split())
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text


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
    """The card of a `check_data.Report` as a page with histograms and samples."""
    sections = []
    if report.problems:
        items = "".join(f"<li>{_safe(text)}</li>" for text in report.problems)
        sections.append(f'<div class="bad"><b>This data directory is not in order</b>'
                        f"<ul>{items}</ul></div>")  # fmt: skip
    elif report.sets:
        sections.append('<div class="good"><b>In order.</b> Every image was decoded and every '
                        "pair list read.</div>")  # fmt: skip
    sections.append(_numbers(report))
    sections.append(_about(report))
    for name in report.sets:
        sections.append(_one_set(report, name))
    law = "".join(f"<p>{_safe(text)}</p>" for text in LAW)
    sections.append(f"<h2>Consent and privacy law</h2><div class='law'>{law}</div>")
    if report.notes:
        items = "".join(f"<li>{_safe(text)}</li>" for text in report.notes)
        sections.append(f"<h2>Notes</h2><ul>{items}</ul>")
    page = _PAGE.replace("__TITLE__", f"Data card: {_safe(report.name)}")
    return page.replace("__BODY__", "\n".join(sections))


def _numbers(report) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{n['identities']:,}</td><td>{n['images']:,}</td>"
        f"<td>{_three(n['images_per_identity'])}</td><td>{_sides(n)}</td>"
        f"<td>{n['megabytes']:,.1f} MB</td></tr>"
        for name, n in report.sets.items()
    )
    lists = "".join(
        f"<tr><td>{name}</td><td>{n['pairs']:,}</td>"
        f"<td>{'blind' if n['targets'] is None else format(n['targets'], ',')}</td>"
        f"<td>{n['files']:,}</td></tr>"
        for name, n in report.lists.items()
    )
    return (
        "<table><tr><th>set</th><th>people</th><th>images</th><th>images per person<br>"
        "<small>least, median, most</small></th><th>shorter side</th><th>on disk</th></tr>"
        f"{rows}</table>"
        "<table><tr><th>list</th><th>pairs</th><th>target pairs</th><th>images</th></tr>"
        f"{lists}</table>"
    )


def _about(report) -> str:
    rows = "".join(
        f"<dt>{name.capitalize()}</dt><dd>{_safe(report.about[name])}</dd>"
        if report.about.get(name)
        else f"<dt>{name.capitalize()}</dt><dd class='todo'>{TO_FILL_IN}: {_safe(text)} "
        f"<code>--{name}</code></dd>"
        for name, text in FIELDS.items()
    )
    synthetic = f"<p>{_SYNTHETIC}</p>" if report.synthetic else ""
    return f"<h2>About the photos</h2>{synthetic}<dl>{rows}</dl>"


def _one_set(report, name: str) -> str:
    numbers = report.sets[name]
    plots = _histogram(numbers["images_per_identity"], "images per person", "people")
    plots += _histogram(numbers["shorter_side"], "shorter side in pixels", "images")
    samples = report.samples.get(name, [])
    paths = [path for _, some in samples for path in some]
    with ThreadPoolExecutor(cpu_count()) as threads:
        pictures = dict(zip(paths, threads.map(lambda path: thumbnail(path, 96), paths)))
    rows = ""
    for person, some in samples:
        faces = "".join(f'<img src="{pictures[path]}" alt="">' for path in some)
        rows += f"<figure>{faces}<figcaption>{_safe(person)}</figcaption></figure>"
    return f"<h2>{name}</h2><div class='plots'>{plots}</div><div class='samples'>{rows}</div>"


def _histogram(values: np.ndarray, across: str, up: str, bars: int = 24) -> str:
    """Whole numbers as an SVG bar chart."""
    if not len(values):
        return ""
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // bars))
    edges = np.arange(low, high + step + 1, step)
    counts = np.histogram(values, edges)[0]
    width, height, base, left = 420, 138, 100, 46
    each = (width - left - 10) / max(len(counts), 8)
    most = counts.max()
    drawn = []
    for k, count in enumerate(counts):
        tall = 84 * count / most
        span = f"{edges[k]:,}" if step == 1 else f"{edges[k]:,} to {edges[k + 1] - 1:,}"
        drawn.append(
            f'<rect x="{left + k * each:.1f}" y="{base - tall:.1f}" width="{max(each - 2, 1):.1f}" '
            f'height="{tall:.1f}"><title>{span}: {count:,} {up}</title></rect>'
        )
    end = left + len(counts) * each
    ticks = f'<text x="{left}" y="{base + 14}">{low:,}</text>'
    if high > low:
        ticks += f'<text x="{end - 2:.1f}" y="{base + 14}" text-anchor="end">{high:,}</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f'<line x1="{left}" x2="{end:.1f}" y1="{base}.5" y2="{base}.5"/>{"".join(drawn)}{ticks}'
        f'<text x="{left - 6}" y="22" text-anchor="end">{most:,}</text>'
        f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{height - 6}" class="axis">{up} by {across}</text></svg>'
    )


def _safe(text: str) -> str:
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>__TITLE__</title>
<style>
body { font: 15px/1.5 system-ui, "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", sans-serif;
  color: #1f2937; background: #f9fafb; margin: 0; }
main { max-width: 940px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 14px; } h2 { font-size: 18px; margin: 30px 0 8px; }
table { border-collapse: collapse; background: #fff; margin: 12px 0; }
td, th { border: 1px solid #e5e7eb; padding: 5px 12px; text-align: right;
  font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; font-weight: 600; }
th small { font-weight: 400; color: #6b7280; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 8px 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.todo { background: #fef3c7; padding: 0 8px; border-radius: 5px; }
.bad, .good { border-radius: 10px; padding: 12px 18px; margin: 12px 0; }
.bad { background: #fee2e2; } .good { background: #dcfce7; } .bad li { overflow-wrap: anywhere; }
.law { background: #fff; border-left: 4px solid #1d4ed8; padding: 4px 18px; }
.plots { display: flex; flex-wrap: wrap; gap: 10px 30px; }
svg rect { fill: #60a5fa; } svg line { stroke: #9ca3af; }
svg text { font-size: 11px; fill: #6b7280; } svg text.axis { font-size: 12px; fill: #374151; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr));
  gap: 8px 18px; }
figure { margin: 0; background: #fff; border: 1px solid #e5e7eb; border-radius: 8px; padding: 6px; }
figure img { width: 78px; height: 78px; object-fit: cover; border-radius: 5px; margin-right: 3px; }
figcaption { font-size: 13px; font-weight: 600; overflow-wrap: anywhere; }
</style></head>
<body><main><h1>__TITLE__</h1>
__BODY__
</main></body></html>
"""
