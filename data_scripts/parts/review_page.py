"""The page on which a person looks at what cleaning found, and corrects it.

One HTML file that needs no network. All names come as data and are put on the page as text, never
as markup, so that a file's name cannot do anything. The browser remembers ticks until the list is
saved.
"""

import base64
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from joblib import cpu_count

from labkit.data import FaceFolder, decode_image
from labkit.data.images import jpeg_bytes
from labkit.utils import UserError, progress, render_page, write_text
from parts.clean_list import Finding
from parts.measure import Measures
from parts.tables import listed

SIDE = 112
TEMPLATES = Path(__file__).parents[1] / "templates"
COMPARED = ("wrong face", "odd face")
REASONS = (
    *("in two identities", *COMPARED, "near-duplicate"),
    *("blurred", "too small", "flat", "unreadable"),
)  # in the order of the page, which has their titles


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
    verdicts,
) -> None:
    """Write the page for a list.

    groups: image numbers of near-duplicates, shown side by side. same: identities that may be one
    person. most: pictures shown per reason; what is beyond stays in the list as suggested.
    verdicts: of `label_errors` or None, to show faces beside those that they are compared with.
    """
    number = {folder.name(i): i for i in range(len(folder))}
    where = {image: k for k, group in enumerate(groups) for image in group}
    by_reason: dict[str, list] = {reason: [] for reason in REASONS}
    for finding in findings:
        i = number[finding.file]
        order = where.get(i, -1), groups[where[i]].index(i) if i in where else 0
        if finding.reason in COMPARED:
            order = float(verdicts.own[i] - verdicts.other[i]), 0
        by_reason[finding.reason].append((*order, i, finding))
    sections, shown = [], []
    for reason, rows in by_reason.items():
        cards = []
        for _, _, i, finding in sorted(rows, key=lambda row: row[:3]):
            card = dict(file=listed(finding.file), keep=finding.keep, detail=finding.detail)
            card["size"] = f"{measures.width[i]}×{measures.height[i]}" if measures.width[i] else ""
            card["group"] = where.get(i, -1)
            cards.append(card)
            if len(cards) <= most and measures.width[i]:
                shown.append((i, card))
                if reason in COMPARED:
                    card["beside"] = _beside(folder, verdicts, i, shown)
        if cards:
            sections.append({"reason": reason, "cards": cards, "most": most})
    with ThreadPoolExecutor(cpu_count()) as threads:
        pictures = threads.map(lambda pair: thumbnail(folder.source(pair[0])), shown)
        bar = progress(pictures, total=len(shown), desc="drawing the page", unit="pictures")
        for (_, card), picture in zip(shown, bar):
            card["picture"] = picture
    data = {
        "about": listed(about),
        "images": len(folder),
        "identities": len(folder.identities),
        "judged": None if verdicts is None else round(100 * verdicts.nearest_own),
        "sections": sections,
        "same": [[listed(name) for name in row] for row in same],
    }
    data["key"] = blake2b(json.dumps(data).encode(), digest_size=8).hexdigest()
    write_text(path, render_page(TEMPLATES / "review.html", data=data))


def _beside(folder: FaceFolder, verdicts, i: int, shown: list) -> list[dict]:
    """Return typical faces of the own identity and, for a label error, of the nearest other."""
    rows = []
    for label in (folder.labels[i], verdicts.nearest[i])[: 1 + verdicts.wrong[i]]:
        typical = verdicts.typical(folder.indices_of(int(label)))
        faces = [{} for _ in typical]
        shown.extend(zip(typical, faces))
        rows.append({"who": listed(folder.identities[label]), "faces": faces})
    return rows


def thumbnail(path: Path, side: int = SIDE) -> str:
    """Return a small JPEG of an image file as a data URI; empty when it cannot be read any more."""
    try:
        image = decode_image(path, min_size=side)
    except UserError:
        return ""
    image.thumbnail((side, side))
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, 82)).decode()
