"""How heads differ: amounts of the head model's shapes, with natural correlations and limits."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from labkit.synth.head import AGES, ANCESTRIES, GENDERS, WEIGHTS, load_head

# Controls that make caricatures, or only what the camera does anyway, are used sparingly or not.
_SCALE = {
    "head-trans": 0.0,
    "head-angle": 0.1,
    "head-age": 0.0,
    "head-fat": 0.5,
    "head-scale": 0.55,
    "head-back-scale": 0.5,
    "head-square": 0.35,
    "head-round": 0.45,
    "head-oval": 0.6,
    "head-rectangular": 0.4,
    "head-triangular": 0.3,
    "head-invertedtriangular": 0.5,
    "head-diamond": 0.45,
    "neck": 0.3,
    "neck-double": 0.5,
    "measure-neck": 0.4,
    "ear-shape-triangle": 0.3,
    "ear": 0.7,
    "forehead-nubian": 0.4,
    "forehead": 0.7,
    "nose-trans-out": 0.0,
    "nose-compression": 0.5,
    "nose-greek": 0.6,
    "nose-hump": 0.75,
    "nose": 0.9,
    "mouth-trans-out": 0.0,
    "mouth-laugh-lines": 0.4,
    "mouth-dimples": 0.6,
    "mouth-scale-vert": 0.45,
    "mouth-upperlip-middle": 0.25,
    "mouth-lowerlip-middle": 0.25,
    "mouth-upperlip": 0.55,
    "mouth-lowerlip": 0.55,
    "mouth-cupidsbow": 0.6,
    "mouth": 0.7,
    "chin-prognathism": 0.5,
    "chin-jaw-drop": 0.5,
    "chin-cleft": 0.7,
    "chin": 0.8,
    "eye-bag": 0.5,
    "eye-push": 0.6,
    "eye-scale": 0.65,
    "eye-trans": 0.8,
    "eye-height": 0.6,
    "eye": 0.8,
    "eyebrows": 0.55,
    "cheek": 0.85,
}
_SPREAD = 0.46
_LIMIT = 0.9


def _scale(name: str) -> float:
    bare = name[2:] if name[:2] in ("l-", "r-") else name
    found = [key for key in _SCALE if bare.startswith(key)]
    return _SCALE[max(found, key=len)] if found else 0.7


# What goes together: a few factors, each moving several controls (sign and strength).
_FACTORS = (
    {"nose-scale-horiz": 0.5, "nose-width": 0.5, "nose-nostrils-width": 0.5, "nose-flaring": 0.5},
    {"nose-scale-depth": 0.5, "nose-hump": 0.4, "nose-greek": 0.3, "nose-trans-forward": 0.4},
    {"mouth-upperlip-volume": 0.6, "mouth-lowerlip-volume": 0.6, "mouth-upperlip-height": 0.5,
     "mouth-lowerlip-height": 0.5},
    {"head-fat": 0.6, "cheek-volume": 0.6, "chin-width": 0.4, "neck-double": 0.4,
     "measure-neck-circ": 0.5, "head-scale-horiz": 0.3},
    {"chin-width": 0.5, "chin-bones": 0.6, "head-square": 0.4, "chin-height": 0.3},
    {"eye-scale": 0.5, "eye-height1": 0.4, "eye-height2": 0.5, "eye-height3": 0.4},
    {"head-scale-vert": 0.6, "forehead-scale-vert": 0.4, "nose-scale-vert": 0.4,
     "chin-height": 0.4, "head-oval": 0.3},
    {"cheek-bones": 0.7, "forehead-temple": -0.3, "head-diamond": 0.4},
    {"eye-corner2": 0.7, "eyebrows-angle": 0.5, "eye-corner1": -0.3},
)  # fmt: skip


# Means that a population shares.
_ASIAN = {"eye-epicanthus": -0.35}
_STAR = {
    "eye-scale": 0.5,
    "eye-height2": 0.12,
    "nose-scale-horiz": -0.2,
    "chin-width": -0.1,
    "nose-point-up": 0.15,
    "head-fat": -0.15,
    "eye-bag-incr": -0.2,
    "nose-scale-depth": 0.1,
    "head-invertedtriangular": 0.2,
    "nose-width": -0.15,
    "head-scale-horiz": -0.1,
    "cheek-bones": -0.1,
    "mouth-scale-horiz": -0.1,
    "mouth-scale-vert": -0.2,
    "mouth-upperlip-height": -0.12,
    "mouth-angles": 0.3,
    "eyebrows-angle": 0.12,
    "measure-neck-circ": -0.1,
    "neck-scale-horiz": -0.1,
}
_STAR_WOMAN = {"chin-width": -0.2, "measure-neck-circ": -0.25}
_OLD = {"eye-bag-incr": 0.5, "neck-double": 0.5, "mouth-laugh-lines": 0.5, "cheek-trans": -0.4}


@dataclass(frozen=True)
class _Controls:
    """The controls as arrays: what moves them and how far."""

    group: np.ndarray  # (controls,) number of the control, left and right the same
    groups: int
    sided: np.ndarray
    spread: np.ndarray
    factors: np.ndarray  # (factors, controls)
    asian: np.ndarray  # means
    star: np.ndarray
    star_woman: np.ndarray
    old: np.ndarray


@lru_cache(maxsize=1)
def _controls() -> _Controls:
    names = load_head().local_names
    bare = [name[2:] if name[:2] in ("l-", "r-") else name for name in names]
    groups = sorted(set(bare))

    def starting(table: dict[str, float]) -> np.ndarray:
        return np.array(
            [next((v for key, v in table.items() if name.startswith(key)), 0.0) for name in bare]
        )

    return _Controls(
        group=np.array([groups.index(name) for name in bare]),
        groups=len(groups),
        sided=np.array([name != short for name, short in zip(names, bare, strict=True)]),
        spread=_SPREAD * np.array([_scale(name) for name in names]),
        factors=np.stack([starting(factor) for factor in _FACTORS]),
        asian=starting(_ASIAN),
        star=starting(_STAR),
        star_woman=starting(_STAR_WOMAN),
        old=starting(_OLD),
    )


def draw_local(
    rng: np.random.Generator, *, gender: str, age: float, star: bool, asian: float
) -> np.ndarray:
    """Amounts (controls,) of the local shape changes, -1 to 1; left and right nearly alike."""
    c = _controls()
    own = rng.standard_normal(c.groups)[c.group]
    sides = rng.standard_normal(len(c.group)) * c.sided
    factors = rng.standard_normal(len(c.factors))
    amount = 0.85 * own + 0.8 * (factors @ c.factors) + 0.12 * sides
    mean = asian * c.asian
    if star:
        mean = mean + c.star + (c.star_woman if gender == "female" else 0)
    values = mean + c.spread * (1.12 if star else 1.0) * amount
    values = values + c.old * max(0.0, age - 45) / 60
    return (np.clip(values, -_LIMIT, _LIMIT) * (c.spread > 0)).astype(np.float32)


def macro_weights(*, gender: float, age: float, weight: float, ancestry) -> tuple:
    """Weights of the head model's `shapes` (18,) and `ancestry` shapes (18,).

    gender 0 female to 1 male, age in years, weight 0 to 1, ancestry as in head.ANCESTRIES.
    """
    # The model's own scale: child 12 years, young 25, old 90.
    stops = np.interp(age, [12, 25, 90], [0, 1, 2])
    ages = np.maximum(0, 1 - np.abs(np.arange(len(AGES)) - stops))
    genders = np.array([1 - gender, gender])
    weights = np.maximum(0, 1 - np.abs(np.arange(len(WEIGHTS)) - 2 * weight))
    macro = np.einsum("g,a,w->gaw", genders, ages, weights).reshape(-1)
    race = np.einsum("r,g,a->rga", np.asarray(ancestry), genders, ages).reshape(-1)
    assert len(genders) == len(GENDERS) and len(ancestry) == len(ANCESTRIES)
    return macro.astype(np.float32), race.astype(np.float32)
