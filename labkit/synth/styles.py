"""Hair styles as numbers: where hair ends around the head, how thick it lies, how it waves.

A style is read on a polar map of the skull. theta is the angle from the middle of the face (0) over
the ear (about 100) to the back (180). q runs from the crown down: degrees of arc while hair lies on
the skull, then PER_METRE units for each metre that it hangs free.
"""

import numpy as np

from labkit.synth.draws import clipped, pick

PER_METRE = 600.0
TABLE = 192

# (theta, q) where hair ends. The natural hairline: forehead, temple, sideburn, over the ear, nape.
_HAIRLINE = ((0, 63), (22, 64), (40, 69), (55, 78), (68, 87), (77, 93), (83, 112), (93, 113),
             (98, 102), (118, 102), (132, 119), (155, 124), (180, 127))  # fmt: skip
_CURTAIN = ((52, 79), (61, 96), (68, 114))


def _long(front, hang: float) -> tuple:
    """A hairline at the front that hangs `hang` metres below the jaw's height at the sides."""
    end = 96 + hang * PER_METRE
    return (*front, (79, end * 0.93), (90, end), (180, end))


_FRONT = ((0, 63), (25, 65), (40, 69))
_FRINGE = ((0, 83), (20, 84), (40, 86), (50, 90))

# ends; where hair leaves the skull (drop); thickness in millimetres: top, side, front; tip: share
# of the thickness left at the end; fray: raggedness of the end in q; wave, curl in millimetres;
# part: how far (degrees) the parting may sit off the middle; start: where hair begins.
STYLES = {
    "bald": None,
    "horseshoe": dict(ends=_HAIRLINE, start=((0, 200), (70, 200), (82, 90), (110, 76), (180, 70)),
                      thick=(4, 7, 3), tip=0.2, fray=4),
    "receding": dict(ends=((0, 56), (14, 57), (30, 48), (48, 60), (62, 82), *_HAIRLINE[4:]),
                     thick=(8, 6, 8), tip=0.15, fray=4),
    "buzz": dict(ends=_HAIRLINE, thick=(3, 2.5, 3), tip=0.3, fray=3),
    "crop": dict(ends=_HAIRLINE, thick=(16, 7, 16), tip=0.3, fray=4, curl=1),
    "textured crop": dict(ends=((0, 73), (25, 74), (45, 79), *_HAIRLINE[4:]), thick=(22, 9, 20),
                          tip=0.5, fray=9, curl=3),
    "quiff": dict(ends=_HAIRLINE, thick=(26, 7, 40), tip=0.35, fray=3, curl=2),
    "side part": dict(ends=((0, 69), (25, 68), (45, 75), *_HAIRLINE[4:]), thick=(25, 10, 30),
                      tip=0.4, fray=5, part=24),
    "two-block": dict(ends=((0, 83), (25, 84), (45, 88), (62, 97), (77, 106), (84, 112), (93, 112),
                            (98, 104), (118, 105), (132, 119), (180, 126)),
                      thick=(27, 16, 20), tip=0.5, fray=8, part=16),
    "comma": dict(ends=((0, 72), (12, 65), (26, 79), (44, 91), (60, 96), (77, 105), (84, 112),
                        (93, 112), (98, 103), (118, 103), (132, 119), (180, 126)),
                  thick=(27, 14, 26), tip=0.5, fray=7, part=14),
    "bowl": dict(ends=((0, 84), (40, 87), (60, 97), (80, 106), (100, 109), (130, 118), (180, 123)),
                 thick=(26, 19, 17), tip=0.7, fray=5),
    "pixie": dict(ends=((0, 77), (20, 81), (40, 86), (58, 95), (72, 108), (84, 116), (93, 116),
                        (100, 107), (120, 110), (135, 122), (180, 130)),
                  thick=(22, 11, 17), tip=0.4, fray=9, part=20),
    "bob": dict(ends=_long((*_FRONT, *_CURTAIN), 0.085), thick=(22, 20, 13), tip=0.9, fray=6,
                drop=92),
    "fringe bob": dict(ends=_long((*_FRINGE, (58, 96), (64, 112)), 0.085), thick=(23, 20, 17),
                       tip=0.9, fray=6, drop=92),
    "long": dict(ends=_long((*_FRONT, *_CURTAIN), 0.30), thick=(18, 17, 11), tip=1.0, fray=8,
                 drop=92, part=12),
    "long fringe": dict(ends=_long((*_FRINGE, (58, 96), (64, 112)), 0.30), thick=(20, 18, 16),
                        tip=1.0, fray=8, drop=92),
    "wavy": dict(ends=_long((*_FRONT, *_CURTAIN), 0.24), thick=(22, 24, 15), tip=1.0, fray=12,
                 drop=90, wave=7, curl=2, part=18),
    "curtain": dict(ends=_long(((0, 62), (10, 66), (24, 78), (40, 91), (52, 106), (64, 120)), 0.2),
                    thick=(21, 20, 17), tip=1.0, fray=8, drop=92, wave=3),
    "updo": dict(ends=_HAIRLINE, thick=(9, 6, 8), tip=0.35, fray=3, bun=30),
    "afro": dict(ends=((0, 62), (40, 69), (62, 85), (80, 106), (93, 108), (110, 107), (130, 118),
                       (180, 126)),
                 thick=(52, 46, 40), tip=0.75, fray=6, curl=7),
    "curly": dict(ends=_long((*_FRONT, *_CURTAIN), 0.12), thick=(32, 34, 22), tip=1.0, fray=14,
                  drop=90, wave=6, curl=7, part=15),
}  # fmt: skip

_MEN = {"crop": 3, "textured crop": 2, "side part": 2.5, "quiff": 2, "buzz": 1.5, "receding": 0.3,
        "two-block": 0.7, "bowl": 0.2, "wavy": 0.15, "afro": 0.1, "curly": 0.1, "bald": 0.35,
        "comma": 0.4}  # fmt: skip
_OLDER_MEN = {"crop": 2, "side part": 2, "receding": 2.5, "horseshoe": 2, "bald": 1.4, "buzz": 1.2}
_WOMEN = {"long": 2.5, "wavy": 2, "bob": 1.6, "fringe bob": 0.8, "long fringe": 1, "updo": 1.6,
          "pixie": 0.8, "curtain": 1, "curly": 0.3, "afro": 0.1}  # fmt: skip
_OLDER_WOMEN = {"bob": 2, "pixie": 2, "updo": 1.4, "wavy": 1.2, "crop": 0.8, "long": 0.5}
_STAR_MEN = {"two-block": 3, "comma": 3, "textured crop": 1.5, "side part": 1.5, "quiff": 1,
             "bowl": 1, "curtain": 0.25, "crop": 0.5}  # fmt: skip
_STAR_WOMEN = {"long": 3, "long fringe": 2.2, "wavy": 2.2, "curtain": 2, "bob": 1.2,
               "fringe bob": 1.2, "updo": 1.4, "pixie": 0.25}  # fmt: skip


def draw_hair(rng: np.random.Generator, *, gender: str, age: float, star: bool, curly: float):
    """A person's usual hair: style name, a second style worn now and then, own proportions."""
    if star:
        table = _STAR_MEN if gender == "male" else _STAR_WOMEN
    elif gender == "male":
        table = _OLDER_MEN if age > 52 else _MEN
    else:
        table = _OLDER_WOMEN if age > 55 else _WOMEN
    if curly > 0.5:
        table = {**table, "afro": 2.5 if age < 60 else 1.0, "curly": 2.5 if gender == "female" else
                 0.5, "buzz": table.get("buzz", 0.3) * 2}  # fmt: skip
        for straight in ("long", "long fringe", "fringe bob", "two-block", "comma", "bowl"):
            table.pop(straight, None)
    style = pick(rng, table)
    other = style if style in ("bald", "horseshoe", "receding", "afro") else pick(rng, table)
    return {
        "style": style,
        "other": other,
        "changes": rng.uniform(0.1, 0.35),
        "line": clipped(rng, 0.0, 2.2, -4, 4),  # hairline higher or lower
        "volume": clipped(rng, 1.0, 0.16, 0.65, 1.4),
        "length": clipped(rng, 1.0, 0.15, 0.7, 1.35),
        "side": 1 if rng.random() < 0.5 else -1,
        "curl": max(0.0, rng.normal(0, 0.5)) + 2.5 * curly,
        "texture": int(rng.integers(2**31)),
        "strands": rng.uniform(0.7, 1.3),
    }


def hair_numbers(rng: np.random.Generator, hair: dict, style_name: str) -> dict:
    """The numbers from which a photograph's hair is built.

    ends, starts: float32 (TABLE,), q over theta in [-180, 180); drop: q where hair leaves the
    skull; thick (3,) metres; tip, wave, curl (metres), bun (metres), fray (q).
    """
    style = STYLES[style_name] or dict(ends=((0, -50), (180, -50)), thick=(0, 0, 0), fray=0)
    theta = (np.arange(TABLE) - TABLE // 2) * (360.0 / TABLE)
    part = style.get("part", 6) * hair["side"] * (0.8 + 0.3 * rng.standard_normal())
    # The parting moves the front of the style, the ears keep their place.
    moved = theta - part * np.clip(1 - np.abs(theta) / 60, 0, 1)

    def table(points, scale=1.0):
        angles, values = np.array(points, dtype=float).T
        hanging = np.maximum(values - 110, 0)
        return np.interp(np.abs(moved), angles, np.minimum(values, 110) + hanging * scale)

    length = hair["length"] * float(np.exp(rng.normal(0, 0.05)))
    ends = table(style["ends"], length)
    if style_name != "bald":
        front = np.clip(1 - np.abs(theta) / 70, 0, 1)
        ends = ends + front * (hair["line"] + rng.normal(0, 1.5))
        if (
            style.get("fray", 0) >= 7
        ):  # loose locks of a fringe differ from photograph to photograph
            phase = rng.uniform(0, 2 * np.pi, 3)
            locks = sum(
                np.sin(np.radians(theta) * f + p) for f, p in zip((5, 9, 14), phase, strict=True)
            )
            ends = ends + front * locks * 1.6
    starts = table(style["start"]) if "start" in style else np.full(TABLE, -10.0)
    curl = style.get("curl", 0) * (0.6 + 0.4 * hair["curl"])
    return {
        "ends": ends.astype(np.float32),
        "starts": starts.astype(np.float32),
        "drop": float(style.get("drop", 150)),
        "thick": np.array(style["thick"]) * 1e-3 * hair["volume"] * np.exp(rng.normal(0, 0.05)),
        "tip": float(style.get("tip", 1)),
        "wave": style.get("wave", 0) * 1e-3 + (style.get("drop") is not None) * 1e-3,
        "curl": curl * 1e-3,
        "bun": style.get("bun", 0) * 1e-3,
        "fray": float(style["fray"]) * hair["strands"],
    }
