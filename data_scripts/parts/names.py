"""Names from elsewhere: made readable, normal (NFC) and harmless before they become paths.

A name in an archive is a claim by whoever made it. Nothing is ever written to a path taken from
one; `safe_parts` refuses names that are paths to elsewhere, and `plain` makes each remaining part
into a file name that every file system takes.
"""

import re
import unicodedata

MAX_BYTES = 120  # of UTF-8 for one part: room for an ending below the usual limit of 255
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?$", re.IGNORECASE)


def decode(raw: bytes) -> str:
    """Return a name from bytes in UTF-8, else CP949 (Korean Windows), else CP437."""
    for encoding in ("utf-8", "cp949"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("cp437")


def repaired(name: str) -> str:
    """Return a name of the file system or a tar archive, where bytes that are no UTF-8 may hide."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        name = decode(name.encode("utf-8", "surrogateescape"))
    return unicodedata.normalize("NFC", name)


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path with `/` or `\\` between them, in NFC, without `.`.

    Raises ValueError when the name is empty, absolute, has a drive, a null byte, or `..`.
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not parts:
        raise ValueError("the name is empty")
    if "\0" in name:
        raise ValueError("the name holds a null byte")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise ValueError("the path is absolute")
    if ".." in parts:
        raise ValueError("the path leaves its folder")
    return parts


def plain(part: str) -> str:
    """Return a part of a path as a file name that is neither hidden nor special anywhere, in NFC.

    Raises ValueError when nothing of it is left.
    """
    part = unicodedata.normalize("NFC", _UNFIT.sub("_", part)).strip().lstrip(".").rstrip(". ")
    part = re.sub("^[=+@-]", "_", part)  # what a spreadsheet would take for a formula
    if len(part.encode("utf-8", "replace")) > MAX_BYTES:
        part = part.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore").rstrip(". ")
    if not part.strip("_"):
        raise ValueError("the name has no letter or digit")
    return f"_{part}" if _RESERVED.match(part) else part


def claim(taken: set[str], *candidates: str) -> str | None:
    """Return the first candidate that is not in `taken`, and add it; None when there is none."""
    for name in candidates:
        if name not in taken:
            taken.add(name)
            return name
    return None
