"""Who is photographed: the populations, and what stays the same in all photographs of a person."""

from dataclasses import dataclass, field

import numpy as np

from labkit.synth import names
from labkit.synth.draws import clipped, pick, stream
from labkit.synth.head import ANCESTRIES
from labkit.synth.photo import Photo, draw_photo
from labkit.synth.shape import draw_local, macro_weights
from labkit.synth.styles import STYLES, draw_hair

IDENTITY = 0
PHOTO = 1


@dataclass(frozen=True)
class Person:
    """Everything about a rendered person that no photograph changes.

    name: the folder's name and, for stars, the invented stage name; hangul: the same in Hangul.
    gender, age (years), ancestry: what the shape is drawn from; ancestry_weights sums to 1.
    macro (18,), race (18,), local (controls,): how much of the head model's shapes; a negative
    local value is that much of the control's negative side.
    melanin, blood: skin pigments, 0 to 1. Colours are linear RGB.
    """

    population: str
    number: int
    name: str
    hangul: str
    gender: str
    age: float
    ancestry: str
    ancestry_weights: tuple[float, float, float]
    macro: np.ndarray
    race: np.ndarray
    local: np.ndarray
    melanin: float
    blood: float
    skin: dict = field(repr=False)
    brows: dict = field(repr=False)
    iris: np.ndarray = field(repr=False)
    iris_size: float
    lip_colour: np.ndarray = field(repr=False)
    hair: dict = field(repr=False)
    beard: dict = field(repr=False)
    glasses: dict | None = field(repr=False)
    texture_seed: int = field(repr=False)

    @property
    def brow_colour(self) -> np.ndarray:
        """Linear RGB of brows and beard: the hair's own colour, a little darker."""
        own = self.hair["natural"]
        return own * min(0.8, 0.2 / own.max())

    @property
    def synthetic(self) -> bool:
        """Always true: nobody of this name or face exists."""
        return True

    def attributes(self) -> dict[str, object]:
        """The row that `identities.csv` holds."""
        return {
            "identity": self.folder,
            "number": self.number,
            "population": self.population,
            "name": self.name,
            "hangul": self.hangul,
            "synthetic": 1,
            "gender": self.gender,
            "age": round(self.age),
            "ancestry": self.ancestry,
            "melanin": round(self.melanin, 3),
            "hair": self.hair["style"],
            "hair_colour": self.hair["colour_name"],
            "beard": self.beard["kind"],
            "glasses": int(self.glasses is not None),
            "moles": len(self.skin["moles"]),
            "freckles": round(self.skin["freckles"], 2),
        }

    @property
    def folder(self) -> str:
        """The identity's folder name: letters, digits and underscores."""
        return self.name.replace(" ", "_")


class _Population:
    """People numbered 0, 1, 2, …, each with as many photographs as wanted."""

    name = ""
    code = 0

    def __init__(self, seed: int = 0):
        self.seed = int(seed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(seed={self.seed})"

    def person(self, identity: int) -> Person:
        """Person number `identity`: the same whatever else is drawn."""
        rng = stream(self.seed, self.code, int(identity), IDENTITY)
        return self._draw(int(identity), rng)

    def photo(self, identity: int, photo: int, person: Person | None = None) -> Photo:
        """How photograph number `photo` of that person is taken."""
        rng = stream(self.seed, self.code, int(identity), PHOTO, int(photo))
        return draw_photo(rng, person or self.person(identity), self.name)

    def _draw(self, identity: int, rng: np.random.Generator) -> Person:
        raise NotImplementedError


# Ancestry: share in World, weights of the head model's three ancestries (mean), melanin (mean,
# spread), and how light the hair and eyes may be.
_ORIGINS = {
    "african": (0.2, (0.9, 0.03, 0.07), (0.72, 0.16), 0.0),
    "east asian": (0.24, (0.02, 0.93, 0.05), (0.24, 0.07), 0.0),
    "south asian": (0.18, (0.15, 0.25, 0.6), (0.45, 0.12), 0.02),
    "european": (0.26, (0.02, 0.03, 0.95), (0.13, 0.06), 0.55),
    "mixed": (0.12, (0.33, 0.33, 0.34), (0.36, 0.14), 0.12),
}

HAIR_COLOURS = {
    "black": (0.010, 0.009, 0.009),
    "dark brown": (0.030, 0.018, 0.012),
    "brown": (0.075, 0.040, 0.022),
    "light brown": (0.16, 0.090, 0.045),
    "blond": (0.36, 0.24, 0.11),
    "red": (0.20, 0.060, 0.022),
    "grey": (0.30, 0.29, 0.28),
    "white": (0.60, 0.59, 0.57),
    "ash": (0.17, 0.15, 0.14),
    "wine": (0.10, 0.018, 0.028),
    "pink": (0.55, 0.22, 0.28),
    "silver": (0.46, 0.46, 0.48),
}
_IRISES = {
    "dark brown": (0.030, 0.014, 0.007),
    "brown": (0.075, 0.033, 0.013),
    "hazel": (0.13, 0.085, 0.030),
    "green": (0.10, 0.13, 0.060),
    "blue": (0.10, 0.17, 0.27),
    "grey": (0.17, 0.20, 0.22),
}


def _common(population, number, rng, *, gender, age, ancestry, weights, melanin, light, **own):
    """The draws that both populations share."""
    star = population == "kstar"
    local = draw_local(rng, gender=gender, age=age, star=star, asian=weights[1])
    macro, race = macro_weights(
        gender=clipped(rng, 0.93 if gender == "male" else 0.07, 0.07, 0.0, 1.0),
        age=age,
        weight=clipped(rng, 0.34 if star else 0.52, 0.1 if star else 0.17, 0.1, 0.95),
        ancestry=weights,
    )
    natural = {"black": 1.0, "dark brown": 0.5}
    if light:
        natural = {"black": 0.1, "dark brown": 0.8, "brown": 1.0, "light brown": 0.8 * light}
        natural |= {"blond": 0.8 * light, "red": 0.22 * light}
    grey = 0.0 if star else float(np.clip((age - 38) / 35 + rng.normal(0, 0.25), 0, 1))
    colour_name = pick(rng, natural)
    own_colour = np.array(HAIR_COLOURS[colour_name])
    if star and rng.random() < 0.5:
        colour_name = pick(rng, {"brown": 3, "light brown": 2, "ash": 1, "wine": 1, "blond": 0.6})
    elif grey > 0.75:
        colour_name = "white" if rng.random() < 0.4 else "grey"
    colour = np.array(HAIR_COLOURS[colour_name])
    colour = colour * (1 - 0.6 * grey) + np.array(HAIR_COLOURS["grey"]) * 0.6 * grey
    colour = colour * np.exp(rng.normal(0, 0.12))
    hair = draw_hair(rng, gender=gender, age=age, star=star, curly=weights[0])
    own_colour = own_colour * (1 - 0.5 * grey) + np.array(HAIR_COLOURS["grey"]) * 0.5 * grey
    hair |= {"colour": colour, "colour_name": colour_name, "natural": own_colour}
    irises = {"dark brown": 1.0, "brown": 0.5}
    if light:
        irises = {"dark brown": 0.35, "brown": 1.0, "hazel": light, "green": 0.5 * light}
        irises |= {"blue": 1.3 * light, "grey": 0.4 * light}
    if star and rng.random() < 0.2:  # coloured lenses
        irises = {"brown": 1.0, "hazel": 0.7, "grey": 0.5}
    iris = np.array(_IRISES[pick(rng, irises)]) * np.exp(rng.normal(0, 0.2))
    blood = clipped(rng, 0.32 if star else 0.34, 0.1, 0.05, 0.8)
    lips = np.array([0.80, 0.42, 0.43]) * np.exp(rng.normal(0, 0.1, 3) * [0.4, 1, 1])
    if gender == "female":
        lips = lips * np.array([1.0, 0.85, 0.88])
    moles = []
    for _ in range(int(min(rng.poisson(1.6 if star else 3.0), 12))):
        spot = (rng.uniform(-48, 48), rng.uniform(-0.09, 0.06))
        moles.append((*spot, rng.uniform(0.0009, 0.0026), rng.uniform(0.35, 0.9)))
    freckles = 0.0
    if light and rng.random() < 0.3:
        freckles = float(rng.uniform(0.3, 1.0))
    elif rng.random() < 0.05:
        freckles = float(rng.uniform(0.1, 0.4))
    skin = {
        "moles": moles,
        "freckles": freckles,
        "grain": rng.uniform(0.5, 1.2) * (0.6 if star else 1.0) * (0.8 + max(0, age - 40) / 50),
        "blotch": rng.uniform(0.4, 1.2) * (0.55 if star else 1.0),
        "cheeks": rng.uniform(0.1, 0.7),
        "nose": rng.uniform(0.05, 0.5),
        "dark_eyes": rng.uniform(0.0, 0.6) * (0.5 if star else 1.0),
        "wrinkles": float(np.clip((age - 32) / 40, 0, 1) * rng.uniform(0.6, 1.0)),
        "gloss": rng.uniform(0.6, 1.3),
    }
    brows = {
        "thick": clipped(rng, 0.0046 if gender == "male" else 0.0034, 0.0009, 0.0018, 0.007),
        "length": clipped(rng, 1.0, 0.08, 0.8, 1.2),
        "arch": clipped(rng, 0.0012 if star else 0.0022, 0.0013, -0.001, 0.006),
        "tilt": clipped(rng, -0.02 if star else 0.0, 0.035 if star else 0.07, -0.16, 0.16),
        "height": clipped(rng, 0.0, 0.0016, -0.003, 0.004),
        "gap": clipped(rng, 0.0125, 0.0022, 0.006, 0.018),
        "density": clipped(rng, 0.8, 0.14, 0.35, 1.0) * (1 - 0.35 * skin["wrinkles"]),
        "taper": clipped(rng, 0.6, 0.2, 0.2, 1.0),
    }
    beard = {"kind": "none", "amount": 0.0, "moustache": 0.0, "chin": 0.0, "cheek": 0.0}
    if gender == "male":
        kinds = {"none": 0.45, "stubble": 0.28, "moustache": 0.06, "goatee": 0.08, "full": 0.13}
        if star:
            kinds = {"none": 0.9, "stubble": 0.09, "goatee": 0.01}
        kind = pick(rng, kinds)
        parts = {
            "none": (0.06, 0.5, 0.5, 0.3),
            "stubble": (0.4, 0.9, 1.0, 0.7),
            "moustache": (0.85, 1.0, 0.1, 0.0),
            "goatee": (0.85, 0.9, 1.0, 0.0),
            "full": (0.95, 1.0, 1.0, 1.0),
        }[kind]
        values = (parts[0] * rng.uniform(0.7, 1.05), *parts[1:])
        beard = dict(
            zip(("kind", "amount", "moustache", "chin", "cheek"), (kind, *values), strict=True)
        )
    glasses = None
    if rng.random() < (0.1 if star else 0.16 + 0.2 * (age > 45)):
        glasses = {
            "width": rng.uniform(0.022, 0.027),
            "height": rng.uniform(0.015, 0.023),
            "round": rng.uniform(2.0, 5.0),
            "thick": rng.uniform(0.0007, 0.0022),
            "colour": np.array(
                [[0.01, 0.01, 0.01], [0.05, 0.02, 0.01], [0.35, 0.3, 0.2], [0.3, 0.3, 0.32]]
            )[rng.integers(4)],
            "worn": rng.uniform(0.5, 1.0),
        }
    return Person(
        population=population,
        number=number,
        gender=gender,
        age=age,
        ancestry=ancestry,
        ancestry_weights=tuple(weights),
        macro=macro,
        race=race,
        local=local,
        melanin=melanin,
        blood=blood,
        skin=skin,
        brows=brows,
        iris=iris,
        iris_size=rng.uniform(0.40, 0.44) * (1.08 if star else 1.0),
        lip_colour=lips,
        hair=hair,
        beard=beard,
        glasses=glasses,
        texture_seed=int(rng.integers(2**31)),
        **own,
    )


class World(_Population):
    """People of all ancestries, genders and ages from fifteen up; stands in for VGGFace2."""

    name = "world"
    code = 1

    def _draw(self, identity: int, rng: np.random.Generator) -> Person:
        ancestry = pick(rng, {name: values[0] for name, values in _ORIGINS.items()})
        _, mean, (melanin, spread), light = _ORIGINS[ancestry]
        weights = rng.dirichlet(np.array(mean) * (3 if ancestry == "mixed" else 14) + 0.05)
        gender = "female" if rng.random() < 0.5 else "male"
        age = float(min(15 + rng.gamma(2.2, 11.0), 88))
        return _common(
            "world", identity, rng, gender=gender, age=age, ancestry=ancestry, weights=weights,
            melanin=clipped(rng, melanin, spread, 0.03, 1.05), light=light,
            name=f"w{identity:05d}", hangul="",
        )  # fmt: skip


class KStars(_Population):
    """Young East-Asian people with invented stage names; stands in for a set of stars."""

    name = "kstar"
    code = 2

    def _draw(self, identity: int, rng: np.random.Generator) -> Person:
        gender = "female" if rng.random() < 0.5 else "male"
        age = clipped(rng, 23, 3.2, 17, 32)
        asian = rng.uniform(0.8, 1.0)
        latin, hangul = names.stage_name(self.seed, identity)
        return _common(
            "kstar", identity, rng, gender=gender, age=age, ancestry="east asian",
            weights=np.array([0.0, asian, 1 - asian]),
            melanin=clipped(rng, 0.17, 0.05, 0.06, 0.32), light=0.0, name=latin, hangul=hangul,
        )  # fmt: skip


__all__ = ["ANCESTRIES", "STYLES", "KStars", "Person", "World"]
