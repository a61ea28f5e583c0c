"""How a photograph is taken: expression, gaze, pose, camera, light, background, flaws."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from labkit.synth.draws import clipped, pick, rotation
from labkit.synth.head import load_head
from labkit.synth.skin import skin_colour
from labkit.synth.styles import hair_numbers


@dataclass(frozen=True)
class Photo:
    """Everything about one photograph, drawn anew for each. Colours are linear RGB.

    actions (52,) facial actions; gaze (2,) degrees left and up; head, body (3, 3) rotations;
    distance in metres; shift (2,) and zoom: the face detector's inaccuracy, in boxes.
    key: direction of the main light towards the light (camera frame), its colour and softness;
    ambient (9, 3): the surroundings as spherical harmonics. border (4,): how much of the square
    lies outside the photograph and is padded, left, top, right, bottom, as parts of its side.
    """

    actions: np.ndarray
    expression: str
    gaze: np.ndarray
    head: np.ndarray
    body: np.ndarray
    angles: tuple[float, float, float]
    distance: float
    shift: np.ndarray
    zoom: float
    key: np.ndarray
    key_colour: np.ndarray
    softness: float
    ambient: np.ndarray
    gloss: float
    makeup: np.ndarray
    tan: float
    hair: dict = field(repr=False)
    hair_style: str
    hair_colour: np.ndarray
    cloth: np.ndarray
    collar: np.ndarray
    background: dict = field(repr=False)
    glasses: str
    occluder: dict | None
    border: np.ndarray
    camera: dict = field(repr=False)
    noise_seed: int


# Natural combinations of facial actions; a name without a side moves both sides.
_EXPRESSIONS = {
    "neutral": (2.6, {}),
    "smile": (2.6, {"mouthSmile": 0.55, "cheekSquint": 0.35, "eyeSquint": 0.2, "mouthDimple": 0.2}),
    "grin": (
        2.0,
        {
            "mouthSmile": 0.75,
            "mouthUpperUp": 0.25,
            "mouthLowerDown": 0.22,
            "jawOpen": 0.1,
            "cheekSquint": 0.5,
            "eyeSquint": 0.3,
        },
    ),
    "laugh": (
        1.0,
        {
            "mouthSmile": 0.8,
            "jawOpen": 0.3,
            "mouthUpperUp": 0.3,
            "cheekSquint": 0.6,
            "eyeSquint": 0.4,
            "eyeBlink": 0.2,
        },
    ),
    "surprise": (0.6, {"jawOpen": 0.35, "browInnerUp": 0.6, "browOuterUp": 0.6, "eyeWide": 0.45}),
    "talk": (1.6, {"jawOpen": 0.2, "mouthFunnel": 0.15, "mouthLowerDown": 0.12}),
    "vowel": (0.8, {"jawOpen": 0.14, "mouthPucker": 0.35, "mouthFunnel": 0.25}),
    "frown": (0.7, {"browDown": 0.5, "mouthFrown": 0.4, "mouthPress": 0.2, "eyeSquint": 0.2}),
    "sad": (0.5, {"browInnerUp": 0.5, "mouthFrown": 0.45, "mouthShrugLower": 0.25}),
    "angry": (0.35, {"browDown": 0.75, "noseSneer": 0.3, "mouthPress": 0.35, "eyeWide": 0.15}),
    "pout": (0.5, {"mouthPucker": 0.45, "mouthShrugLower": 0.25}),
    "press": (0.5, {"mouthPress": 0.5, "mouthRollLower": 0.3, "mouthRollUpper": 0.25}),
    "smirk": (0.5, {"mouthSmileLeft": 0.5, "mouthDimpleLeft": 0.4, "browOuterUpLeft": 0.25}),
    "wink": (0.12, {"eyeBlinkLeft": 0.95, "cheekSquintLeft": 0.5, "mouthSmile": 0.5}),
    "blink": (0.3, {"eyeBlink": 0.85}),
    "disgust": (0.2, {"noseSneer": 0.6, "mouthUpperUp": 0.3, "browDown": 0.3, "eyeSquint": 0.3}),
}


@lru_cache(maxsize=1)
def _action_places() -> dict[str, int]:
    return {name: i for i, name in enumerate(load_head().action_names)}


def _actions(rng: np.random.Generator, star: bool) -> tuple[np.ndarray, str]:
    place = _action_places()
    weights = {name: weight for name, (weight, _) in _EXPRESSIONS.items()}
    if star:
        weights |= {"smile": 4.5, "grin": 2.6, "neutral": 3.6, "pout": 0.8, "wink": 0.25,
                    "angry": 0.1, "disgust": 0.05, "sad": 0.2, "frown": 0.25}  # fmt: skip
    expression = pick(rng, weights)
    strength = clipped(rng, 0.85, 0.25, 0.3, 1.3)
    mirrored = rng.random() < 0.5
    values = np.zeros(len(place))

    def add(name: str, amount: float) -> None:
        if name in place:
            values[place[name]] += amount
            return
        lean = rng.normal(0, 0.08)
        values[place[f"{name}Left"]] += amount * (1 + lean)
        values[place[f"{name}Right"]] += amount * (1 - lean)

    for name, amount in _EXPRESSIONS[expression][1].items():
        if mirrored and name.endswith("Left"):
            name = name[:-4] + "Right"
        add(name, amount * strength * float(np.exp(rng.normal(0, 0.15))))
    for name in ("browInnerUp", "browOuterUp", "browDown", "eyeSquint", "mouthPress"):
        add(name, abs(rng.normal(0, 0.06)))
    add("eyeBlink", (0.02 if star else 0.03) + abs(rng.normal(0, 0.05)))
    if star:
        add("mouthSmile", abs(rng.normal(0.08, 0.06)))
    return np.clip(values, 0, 1).astype(np.float32), expression


def _light(rng: np.random.Generator) -> dict:
    """One main light and surroundings, from a few kinds of scenes."""
    scene = pick(rng, {"studio": 2.0, "window": 2.0, "overcast": 1.6, "sun": 1.2, "lamp": 1.0,
                       "flash": 0.7, "stage": 0.4})  # fmt: skip
    around, height = rng.normal(0, 42), clipped(rng, 32, 18, -15, 75)
    warmth = rng.normal(0, 0.11)
    strength, fill, soft, colour_spread = {
        "studio": (1.1, 0.36, 0.6, 0.03),
        "window": (1.2, 0.27, 0.55, 0.05),
        "overcast": (0.6, 0.6, 0.9, 0.03),
        "sun": (1.45, 0.28, 0.08, 0.05),
        "lamp": (0.9, 0.3, 0.35, 0.06),
        "flash": (1.1, 0.25, 0.2, 0.03),
        "stage": (1.0, 0.4, 0.25, 0.16),
    }[scene]
    if scene in ("window", "lamp", "stage"):
        around = rng.choice([-1, 1]) * rng.uniform(20, 95)
    if scene == "flash":
        around, height = rng.normal(0, 6), rng.normal(8, 5)
    if scene == "lamp":
        warmth += 0.14
    a, b = np.radians(around), np.radians(height)
    key = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    tint = np.exp(np.array([warmth, 0.0, -warmth]) * 0.7 + rng.normal(0, colour_spread, 3))
    key_colour = strength * np.exp(rng.normal(0, 0.15)) * tint
    fill_tint = np.exp(np.array([-warmth, 0, warmth]) * 0.35 + rng.normal(0, colour_spread, 3))
    ambient = np.zeros((9, 3))
    level = fill * np.exp(rng.normal(0, 0.2)) * fill_tint
    ambient[0] = level * 3.545  # a uniform surround of radiance 1 has this first coefficient
    lean = rng.normal(0, 0.55, 3) + np.array([0, 0.55, 0.25])
    for row, value in zip((3, 1, 2), lean, strict=True):
        ambient[row] = level * value * np.exp(rng.normal(0, 0.15, 3))
    ambient[4:] = rng.normal(0, 0.15, (5, 1)) * level
    return {"key": key, "key_colour": key_colour, "softness": soft, "ambient": ambient}


def _background(rng: np.random.Generator) -> dict:
    def colour():
        return np.clip(np.exp(rng.normal(-1.5, 0.8)) * np.exp(rng.normal(0, 0.35, 3)), 0.005, 0.95)

    return {
        "kind": pick(rng, {"plain": 1.2, "clouds": 2.0, "blobs": 1.6, "bars": 1.0}),
        "colours": np.stack([colour(), colour(), colour()]),
        "scale": np.exp(rng.normal(-0.7, 0.5, 2)),
        "offset": rng.integers(0, 512, 4),
        "angle": rng.uniform(0, np.pi),
        "gradient": rng.normal(0, 0.5, 2),
        "light": np.exp(rng.normal(0.1, 0.3)),
    }


def _occluder(rng: np.random.Generator, person) -> dict | None:
    if rng.random() > (0.05 if person.population == "kstar" else 0.07):
        return None
    kind = pick(rng, {"hand": 0.8, "edge": 1.0, "mask": 0.7, "object": 0.6})
    side = rng.choice([-1, 1])
    centre = {
        "hand": (side * rng.uniform(0.45, 0.8), rng.uniform(0.3, 0.95)),
        "edge": (side * rng.uniform(1.1, 1.3), rng.uniform(-0.5, 0.5)),
        "mask": (0.0, 0.0),
        "object": (rng.uniform(-0.7, 0.7), rng.uniform(0.85, 1.15)),
    }[kind]
    return {
        "kind": kind,
        "centre": np.array(centre),
        "size": np.array([rng.uniform(0.22, 0.38), rng.uniform(0.3, 0.55)]),
        "angle": rng.uniform(-0.9, 0.9),
        "colour": np.array([0.75, 0.78, 0.8]) * np.exp(rng.normal(-0.1, 0.1, 3))
        if kind == "mask" and rng.random() < 0.75
        else skin_colour(person.melanin, person.blood + 0.1)
        if kind == "hand"
        else np.exp(rng.normal(-1.6, 0.7)) * np.exp(rng.normal(0, 0.3, 3)),
    }


def _border(rng: np.random.Generator) -> np.ndarray:
    """Most faces are well inside their photograph; some are at its edge, few fill it."""
    border = np.zeros(4)
    kind = rng.random()
    if kind < 0.03:
        border[:] = rng.uniform(0, 0.12, 4)
    elif kind < 0.12:
        border[rng.integers(4)] = rng.exponential(0.1)
    return border.clip(0, 0.25)


def draw_photo(rng: np.random.Generator, person, population: str) -> Photo:
    """One photograph of `person`."""
    star = population == "kstar"
    actions, expression = _actions(rng, star)
    # Stars look good in photographs: they face the camera more, and professionals take them.
    yaw = clipped(rng, 0, 13 if star else 16, -45, 45)
    pitch = clipped(rng, -1, 7.5, -25, 25)
    roll = clipped(rng, 0, 6, -20, 20)
    turn = rng.uniform(0.2, 0.9)
    towards_camera = rng.random() < 0.7
    gaze = rng.normal(0, 5, 2)
    if towards_camera:
        gaze = gaze * 0.4 - np.array([np.clip(yaw, -24, 24), np.clip(pitch, -14, 14)]) * 0.85
    light = _light(rng)
    hair = person.hair
    changed = rng.random() < hair["changes"]
    style = hair["other"] if changed else hair["style"]
    if star and person.gender == "female" and rng.random() < 0.06:
        style = "updo"
    colour = hair["colour"]
    dyes = np.array([[0.012, 0.010, 0.010], [0.05, 0.028, 0.018], [0.16, 0.09, 0.045],
                     [0.17, 0.15, 0.14], [0.45, 0.33, 0.19], [0.1, 0.018, 0.028]])  # fmt: skip
    if rng.random() < (0.14 if star else 0.08):
        colour = dyes[pick_index(rng, [4, 3, 2, 1, 0.6, 0.4])]
    glasses = "none"
    if person.glasses is not None and rng.random() < person.glasses["worn"]:
        glasses = "own"
    elif rng.random() < (0.015 if star else 0.03):
        glasses = "sun"
    lip = rng.uniform(0, 0.6) if person.gender == "female" else rng.uniform(0, 0.12)
    lip_tint = [0.85, 0.27, 0.32] if rng.random() < 0.6 else [0.7, 0.16, 0.18]
    quality = rng.random() ** (0.7 if star else 1.0)
    camera = {
        "exposure": clipped(rng, 0.0, 0.28, -0.7, 0.6),
        "balance": np.exp(rng.normal(0, 0.06, 3)),
        "saturation": 0.0 if rng.random() < 0.08 else clipped(rng, 1.0, 0.17, 0.5, 1.5),
        "contrast": clipped(rng, 1.05, 0.11, 0.75, 1.35),
        "blur": abs(rng.normal(0, 0.004)) + (0.006 * rng.random() if quality < 0.2 else 0),
        "noise": abs(rng.normal(0, 0.008)) + (0.02 * rng.random() if quality < 0.15 else 0),
        "resolution": rng.uniform(0.4, 0.75) if quality < 0.12 else 1.0,
        "jpeg": int(rng.integers(62, 96)) if quality < 0.5 else int(rng.integers(86, 97)),
        "offset": rng.integers(0, 512, 2),
    }
    head = rotation(yaw, pitch, roll)
    body = rotation(yaw * turn + rng.normal(0, 8), pitch * 0.2, roll * 0.3)
    cloth = np.clip(np.exp(rng.normal(-1.6, 0.9)) * np.exp(rng.normal(0, 0.4, 3)), 0.005, 0.85)
    return Photo(
        actions=actions, expression=expression, gaze=gaze.astype(np.float32), head=head, body=body,
        angles=(yaw, pitch, roll), distance=float(np.exp(rng.uniform(np.log(0.55), np.log(2.8)))),
        shift=rng.normal(0, [0.028, 0.036]), zoom=float(np.exp(rng.normal(0, 0.06))),
        gloss=float(np.exp(rng.normal(0, 0.35))),
        makeup=np.array([lip, *lip_tint]), tan=float(rng.normal(0, 0.05)),
        hair=hair_numbers(rng, hair, style), hair_style=style,
        hair_colour=colour * np.exp(rng.normal(0, 0.15)), cloth=cloth,
        collar=np.array([-0.150 - 0.02 * rng.random(), rng.choice([0.0, 0.0, -0.25, 0.15])]),
        background=_background(rng), glasses=glasses, occluder=_occluder(rng, person),
        border=_border(rng),
        camera=camera, noise_seed=int(rng.integers(2**31)), **light,
    )  # fmt: skip


def pick_index(rng: np.random.Generator, weights: list[float]) -> int:
    """An index drawn with probability proportional to its weight."""
    total = np.cumsum(weights)
    return int(
        min(np.searchsorted(total, rng.random() * total[-1], side="right"), len(weights) - 1)
    )
