"""A person's own skin: colour from two pigments, grain, blotches, moles, brows, beard.

Painted once per person on a map of the head (an unrolled cylinder, finer at the face), where
each cell knows which point of the average head it covers, so that features are placed in metres.
"""

import numpy as np

from labkit.synth.draws import NOISE_SIZE, stream

MAP_HEIGHT, MAP_WIDTH = 256, 384
TOP, BOTTOM = 0.145, -0.195  # metres above the eyes, below the eyes
AXIS = 0.1  # metres from the eyes back to the cylinder's axis

_CLEAR = np.array([0.86, 0.655, 0.545])  # linear RGB of skin without pigment
_MELANIN = np.array([1.9, 2.45, 2.95])  # absorption per unit
_BLOOD = np.array([0.10, 0.50, 0.42])


def map_place(x: np.ndarray, y: np.ndarray, z: np.ndarray):
    """Map coordinates (u, v) in [0, 1] of points in metres from the cylinder's axis, at the eyes'
    height."""
    w = np.arctan2(x, z) / np.pi
    u = 0.5 + 0.5 * w * (1.6 - 0.6 * np.abs(w))
    return u, (TOP - y) / (TOP - BOTTOM)


def skin_colour(melanin, blood) -> np.ndarray:
    """Linear RGB (..., 3) of skin with that much melanin and haemoglobin (Beer's law)."""
    melanin, blood = np.asarray(melanin)[..., None], np.asarray(blood)[..., None]
    exponent = -melanin * _MELANIN.astype(np.float32) - blood * _BLOOD.astype(np.float32)
    return _CLEAR.astype(np.float32) * np.exp(exponent)


def _step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(x, y, cx, cy, rx, ry):
    return np.exp(-(((x - cx) / rx) ** 2) - (((y - cy) / ry) ** 2))


class SkinPainter:
    """Paints skin maps; holds what all people share."""

    def __init__(self, place: np.ndarray, bank: np.ndarray):
        """place: (MAP_HEIGHT, MAP_WIDTH, 3) points of the average head under each map cell."""
        self.place = place.astype(np.float32)
        self.x, self.y = self.place[..., 0], self.place[..., 1]
        self.ax = np.abs(self.x)
        self.bank = bank
        ax, y = self.ax, self.y
        self.front = _step(-0.02, 0.03, place[..., 2].astype(np.float32) + AXIS - 0.03)
        self.cheeks = _bump(ax, y, 0.046, -0.038, 0.022, 0.020)
        self.nose = _bump(ax, y, 0.0, -0.036, 0.013, 0.014)
        self.chin = _bump(ax, y, 0.0, -0.098, 0.016, 0.012)
        self.under_eyes = _bump(ax, y, 0.030, -0.017, 0.016, 0.006)
        self.freckled = np.clip(
            _bump(ax, y, 0.03, -0.026, 0.036, 0.022) + 0.35 * _bump(ax, y, 0, 0.03, 0.05, 0.03),
            0, 1,
        )  # fmt: skip
        fold = 0.0205 + 0.30 * (-0.047 - y)
        self.folds = np.exp(-(((ax - fold) / 0.0022) ** 2)) * _step(-0.078, -0.066, y)
        self.folds *= 1 - _step(-0.05, -0.043, y)
        lines = 0.5 + 0.5 * np.sin((y + 0.35 * ax * ax / 0.05) * 2 * np.pi / 0.0125)
        self.forehead = lines**6 * _step(0.026, 0.034, y) * (1 - _step(0.055, 0.07, y))
        self.forehead *= 1 - _step(0.03, 0.055, ax)
        feet = np.sin(np.arctan2(y - 0.0, ax - 0.042) * 9)
        self.crow = np.clip(feet, 0, 1) ** 4 * _bump(ax, y, 0.057, -0.002, 0.007, 0.013)
        near_mouth = _bump(ax, y, 0.0, -0.074, 0.030, 0.0085)
        self.moustache = _step(-0.071, -0.066, y) * (1 - _step(-0.055, -0.049, y))
        self.moustache *= 1 - _step(0.027, 0.034, ax)
        self.chin_beard = (1 - _step(-0.094, -0.082, y)) * (1 - _step(0.026, 0.036, ax))
        self.chin_beard = np.maximum(
            self.chin_beard,
            _step(0.024, 0.03, ax) * (1 - _step(0.034, 0.042, ax)) * (1 - _step(-0.066, -0.058, y)),
        )
        line = -0.040 - 0.55 * np.clip(0.068 - ax, 0, 0.06)
        self.cheek_beard = (1 - _step(line - 0.006, line + 0.010, y)) * _step(0.028, 0.042, ax)
        throat = _step(-0.130, -0.114, y) * _step(0.0, 0.03, place[..., 2].astype(np.float32))
        self.chin_beard = self.chin_beard * throat * (1 - 0.97 * near_mouth.clip(0, 1))
        self.cheek_beard = self.cheek_beard * throat * self.front

    def _noise(self, layer: int, rng: np.random.Generator) -> np.ndarray:
        dy, dx = rng.integers(0, NOISE_SIZE - MAP_HEIGHT), rng.integers(0, NOISE_SIZE - MAP_WIDTH)
        tile = self.bank[layer, dy : dy + MAP_HEIGHT, dx : dx + MAP_WIDTH]
        return tile[:, ::-1] if rng.random() < 0.5 else tile

    def paint(self, person) -> np.ndarray:
        """The person's map (MAP_HEIGHT, MAP_WIDTH, 4), float32: linear RGB of skin, brows and
        beard, and how much a highlight shows there (about 1, less on hair)."""
        rng = stream(person.texture_seed, 5)
        skin = person.skin
        grain, blotch, cloud = (self._noise(layer, rng) for layer in (0, 1, 2))
        melanin = np.float32(person.melanin) * (1 + 0.05 * skin["blotch"] * blotch + 0.05 * cloud)
        melanin = (
            melanin + 0.010 * skin["grain"] * grain + 0.10 * skin["dark_eyes"] * (self.under_eyes)
        )
        blood = person.blood + 0.05 * skin["blotch"] * cloud + 0.03 * skin["grain"] * grain
        blood = blood + 0.35 * skin["cheeks"] * self.cheeks + 0.3 * skin["nose"] * self.nose
        blood = blood + 0.12 * self.chin
        if skin["freckles"] > 0:
            spots = _step(1.3, 2.1, self._noise(0, rng) + 0.4 * self._noise(1, rng))
            melanin = melanin + 0.32 * skin["freckles"] * spots * self.freckled
        if skin["wrinkles"] > 0:
            lines = 0.8 * self.folds + 0.4 * self.forehead + 0.5 * self.crow
            melanin = melanin + 0.28 * skin["wrinkles"] * lines * (1 + 0.3 * blotch)
        for angle, height, radius, strength in skin["moles"]:
            self._mole(melanin, angle, height, radius, strength)
        albedo = skin_colour(np.clip(melanin, 0.01, 2.5), np.clip(blood, 0, 1.5))
        hair = np.maximum(self._brows(person.brows, rng), self._beard(person.beard, rng))
        hair = hair[..., None].astype(np.float32)
        albedo = albedo * (1 - hair) + person.brow_colour.astype(np.float32) * hair
        gloss = np.clip(1 + 0.18 * grain, 0.3, 2)[..., None] * (1 - 0.75 * hair)
        return np.concatenate([albedo, gloss], axis=2).astype(np.float32)

    def _mole(self, melanin, angle, height, radius, strength) -> None:
        row = int((TOP - height) / (TOP - BOTTOM) * MAP_HEIGHT)
        x, z = self.place[row, :, 0], self.place[row, :, 2]
        column = int(np.abs(np.arctan2(x, z) - np.radians(angle)).argmin())
        near = slice(max(row - 5, 0), row + 6), slice(max(column - 9, 0), column + 10)
        away = np.linalg.norm(self.place[near] - self.place[row, column], axis=-1) / radius
        melanin[near] += strength * 1.2 * np.exp(-(away**2))

    def _brows(self, brows: dict, rng: np.random.Generator) -> np.ndarray:
        along = (self.ax - brows["gap"]) / (0.041 * brows["length"])
        middle = 0.0205 + brows["height"] + brows["tilt"] * (self.ax - 0.033)
        middle = middle + brows["arch"] * np.sin(np.pi * np.clip(along, 0, 1) ** 1.3)
        middle = middle - 0.006 * np.clip(along - 0.6, 0, 1) ** 1.5
        half = brows["thick"] * (1 - brows["taper"] * np.clip(along, 0, 1) ** 1.6 * 0.8)
        strands = 0.5 + 0.35 * self._noise(3, rng) + 0.2 * self._noise(0, rng)
        away = np.abs(self.y - middle) / half
        body = (1 - _step(0.3, 1.2, away)) * _step(-0.10, 0.30, along)
        body = body * (1 - _step(0.9, 1.06, along)) * self.front
        return np.clip(body * brows["density"] * np.clip(0.75 + 0.5 * strands, 0, 1.25), 0, 0.97)

    def _beard(self, beard: dict, rng: np.random.Generator) -> np.ndarray:
        if beard["amount"] == 0:
            return np.zeros_like(self.x)
        where = np.maximum(
            self.moustache * beard["moustache"],
            np.maximum(self.chin_beard * beard["chin"], self.cheek_beard * beard["cheek"]),
        )
        strands = 0.80 + 0.06 * self._noise(0, rng) + 0.20 * self._noise(4, rng)
        return np.clip(where * beard["amount"] * np.clip(strands, 0, 1.3), 0, 0.96)
