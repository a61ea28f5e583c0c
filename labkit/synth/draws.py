"""Repeatable random numbers: one stream per person and one per photograph."""

import math

import numpy as np

NOISE_SIZE = 512


def stream(*keys: int) -> np.random.Generator:
    """A generator that depends on the keys alone, not on what was drawn before it."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(k) for k in keys])))


def pick(rng: np.random.Generator, table: dict[str, float]) -> str:
    """One key of the table with probability proportional to its value."""
    weights = np.array(list(table.values()), dtype=float)
    place = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right")
    return list(table)[min(int(place), len(table) - 1)]


def clipped(rng: np.random.Generator, mean: float, spread: float, low: float, high: float) -> float:
    """A normal draw kept inside limits."""
    return float(min(max(rng.normal(mean, spread), low), high))


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Head rotation (3, 3) from degrees: yaw turns to the person's left, pitch looks up."""
    a, b, c = (math.radians(angle) for angle in (yaw, -pitch, roll))
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def noise_bank() -> np.ndarray:
    """Tileable noise textures (5, NOISE_SIZE, NOISE_SIZE), float32, zero mean, unit deviation.

    0 fine skin grain, 1 blotches, 2 large clouds, 3 hair strands (long in the second axis, fine
    in the first), 4 white noise. The same for everyone; people and photographs look at different
    places of it.
    """
    rng = stream(20_240_229)
    frequency = np.fft.fftfreq(NOISE_SIZE)
    fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
    radius = np.sqrt(fx**2 + fy**2) * NOISE_SIZE
    shapes = [
        np.exp(-(((np.log(radius + 1e-3) - math.log(90.0)) / 0.6) ** 2)),
        np.exp(-(((np.log(radius + 1e-3) - math.log(22.0)) / 0.6) ** 2)),
        np.exp(-(((np.log(radius + 1e-3) - math.log(5.0)) / 0.5) ** 2)),
        np.exp(-((fx * NOISE_SIZE / 110) ** 2) - ((fy * NOISE_SIZE / 7) ** 2)) * (radius > 2),
        np.ones_like(radius),
    ]
    bank = []
    for shape in shapes:
        white = rng.standard_normal((NOISE_SIZE, NOISE_SIZE))
        tile = np.fft.ifft2(np.fft.fft2(white) * shape).real
        bank.append((tile - tile.mean()) / tile.std())
    return np.stack(bank).astype(np.float32)
