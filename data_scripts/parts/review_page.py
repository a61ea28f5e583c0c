"""The page on which a person looks at what cleaning found, and corrects it.

One HTML file that needs no network. All names come as data and are put on the page as text, never
as markup, so that a file's name cannot do anything. Ticks are remembered by the browser until the
list is saved.
"""

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from joblib import cpu_count

from labkit.data import FaceFolder, decode_image
from labkit.utils import UserError, progress, write_text
from parts.clean_list import Finding, listed
from parts.measure import Measures
from parts.review_template import TEMPLATE

SIDE = 112
REASONS = {
    "in two identities": (
        "The same photo under two names",
        "One of the names is wrong. Keep a copy only where you know whose face it is.",
    ),
    "wrong face": (
        "Perhaps another person",
        "Far from the other photos of this identity and near those of another.",
    ),
    "odd face": (
        "Unlike the others of its identity",
        "Far from the other photos of this identity, near nobody else's: a stranger, a wrong "
        "crop, or an unusual photo. Kept unless you say otherwise.",
    ),
    "near-duplicate": (
        "Copies of one photo",
        "The best copy of each group is kept: the largest, then the sharpest.",
    ),
    "blurred": ("Blurred", "Too little detail for its contrast, whatever its size in pixels."),
    "too small": ("Too small", "Fewer pixels than asked for."),
    "flat": ("No picture", "One flat colour."),
    "unreadable": ("Unreadable", "The file cannot be decoded; it will be left out."),
}
"""reason → title and explanation, in the order of the page."""
COMPARED = ("wrong face", "odd face")


def write_page(
    path: Path,
    folder: FaceFolder,
    measures: Measures,
    findings: Sequence[Finding],
    groups: Sequence[Sequence[int]],
    same: Sequence[tuple[str, str, str]],
    *,
    about: str,
    most: int,
    verdicts=None,
) -> None:
    """Write the page for a list.

    groups: image numbers of near-duplicates, shown side by side. same: identities that may be one
    person. most: pictures shown per reason; what is beyond stays in the list as suggested.
    verdicts: of `wrong_faces`, for showing faces beside those that they are compared with.
    """
    number = {folder.name(i): i for i in range(len(folder))}
    where = {image: k for k, group in enumerate(groups) for image in group}
    by_reason: dict[str, list] = {reason: [] for reason in REASONS}
    for finding in findings:
        i = number[finding.file]
        place = groups[where[i]].index(i) if i in where else 0
        order = where.get(i, -1), place
        if finding.reason in COMPARED and verdicts is not None:
            order = float(verdicts.own[i] - verdicts.other[i]), 0
        by_reason[finding.reason].append((*order, i, finding))
    sections, shown = [], []
    for reason, rows in by_reason.items():
        rows.sort(key=lambda row: row[:3])
        cards = []
        for k, (_, _, i, finding) in enumerate(rows):
            cards.append(
                {
                    "file": listed(finding.file),
                    "keep": finding.keep,
                    "detail": finding.detail,
                    "size": f"{measures.width[i]}×{measures.height[i]}"
                    if measures.width[i]
                    else "",
                    "group": where.get(i, -1),
                }
            )
            if k < most and measures.width[i]:
                shown.append((i, cards[-1]))
                if reason in COMPARED and verdicts is not None:
                    cards[-1]["beside"] = _beside(folder, verdicts, i, shown)
        title, text = REASONS[reason]
        if cards:
            sections.append(
                {"reason": reason, "title": title, "text": text, "cards": cards, "most": most}
            )
    _add_pictures(folder, shown)
    data = {
        "about": about,
        "images": len(folder),
        "identities": len(folder.identities),
        "judged": None if verdicts is None else round(100 * verdicts.nearest_own),
        "sections": sections,
        "same": [[listed(name) for name in row] for row in same],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    data["key"] = blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
    write_text(path, TEMPLATE.replace("__DATA__", as_script_data(data)))


def _beside(folder: FaceFolder, verdicts, i: int, shown: list) -> list[dict]:
    """Typical faces of the image's own identity and, for a wrong face, of the nearest other."""
    labels = [int(folder.labels[i])]
    if verdicts.wrong[i]:
        labels.append(int(verdicts.nearest[i]))
    rows = []
    for label in labels:
        faces = [{} for _ in verdicts.typical(folder.indices_of(label))]
        shown.extend(zip(verdicts.typical(folder.indices_of(label)), faces))
        rows.append({"who": listed(folder.identities[label]), "faces": faces})
    return rows


def as_script_data(data: object) -> str:
    """JSON that can stand inside a <script> element whatever the strings in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


def _add_pictures(folder: FaceFolder, shown: list[tuple[int, dict]]) -> None:
    with (
        ThreadPoolExecutor(cpu_count()) as threads,
        progress(total=len(shown), desc="drawing the page", unit="pictures") as bar,
    ):
        for (_, card), picture in zip(
            shown, threads.map(lambda pair: thumbnail(folder.path(pair[0])), shown)
        ):
            card["picture"] = picture
            bar.update()


def thumbnail(path: Path, side: int = SIDE) -> str:
    """A small JPEG of an image file as a data URI; empty when it cannot be read any more."""
    try:
        image = decode_image(path, min_size=side)
    except UserError:
        return ""
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
