"""Photographs of rendered people as tensors."""

import dataclasses
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labkit.synth import scene, shade
from labkit.synth.people import KStars
from labkit.synth.raster import rasterize

RENDER_VERSION = 2
CHUNK = 8  # photographs drawn together: what a processor's cache holds
CHUNK_ON_GPU = 128
GUEST = 10_000_000
# A photograph shows the square around the face detector's box whose half side is the box's longer
# side divided by 1.5; the box itself is tied to eyes and chin as dlib's detector draws it.
CROP = 2 / 1.5


@lru_cache(maxsize=4)
def _wardrobe(device: str) -> scene.Wardrobe:
    return scene.Wardrobe(device)


def render(
    population,
    identities,
    photos,
    size: int = 128,
    device: str = "cpu",
    *,
    landmarks: bool = False,
):
    """Draw photograph `photos[i]` of person `identities[i]`.

    population: World(seed), KStars(seed) or another object with `person` and `photo`.
    identities, photos: sequences of whole numbers of the same length n (or one number each).
    Returns uint8 (n, 3, size, size) on `device`, with `landmarks` also float32 (n, 5, 2): x, y in
    pixels of left eye, right eye (the person's), nose tip, left and right mouth corner.

    The same person and photograph number give the same pixels on the same kind of device,
    whatever else is in the call.
    """
    numbers, shots = np.atleast_1d(identities).tolist(), np.atleast_1d(photos).tolist()
    if len(numbers) != len(shots):
        raise ValueError(f"{len(numbers)} identities but {len(shots)} photos")
    people = {k: population.person(k) for k in dict.fromkeys(numbers)}
    persons = [people[k] for k in numbers]
    drawn = [population.photo(k, j, people[k]) for k, j in zip(numbers, shots, strict=True)]
    return draw(persons, drawn, size, device, landmarks=landmarks)


@torch.no_grad()
def draw(
    persons: list,
    photos: list,
    size: int = 128,
    device: str = "cpu",
    *,
    landmarks: bool = False,
    wider: float = 1.0,
):
    """Like render, from Person and Photo objects.

    wider: how many times the usual square is shown, for a photograph that is still to be cropped.
    """
    wardrobe = _wardrobe(str(device))
    pictures, points = [], []
    chunk = CHUNK if wardrobe.assets.device.type == "cpu" else CHUNK_ON_GPU
    for start in range(0, len(persons), chunk):
        part = slice(start, start + chunk)
        picture, five = _draw_chunk(wardrobe, persons[part], photos[part], size, wider)
        pictures.append(picture)
        points.append(five)
    if not pictures:
        pictures = [torch.empty(0, 3, size, size, dtype=torch.uint8, device=device)]
        points = [torch.empty(0, 5, 2, device=device)]
    return (torch.cat(pictures), torch.cat(points)) if landmarks else torch.cat(pictures)


def _draw_chunk(
    wardrobe: scene.Wardrobe, persons, photos, size: int, wider: float
) -> tuple[Tensor, Tensor]:
    a = wardrobe.assets
    people = [wardrobe.dressed(person) for person in persons]
    posed = scene.posed(a, people, persons, photos)
    centre, half = face_square(posed["landmarks"], posed["chin"], photos)
    half = half * wider
    fine = fine_size(size)
    scale = (fine / 2) / half
    flip = centre.new_tensor([1.0, -1.0])
    xy = (posed["plane"] - centre[:, None]) * flip * scale[:, None, None] + fine / 2
    fragments = rasterize(
        xy,
        posed["depth"],
        a.faces,
        fine,
        two_sided=a.two_sided,
        keep=shade.strand_filter(a, posed),
        keep_from=a.soft_from,
    )
    linear = shade.shade(a, fragments, posed, people, persons, photos, fine)
    picture = shade.develop(a, linear, photos, size, posed["brightness"])
    five = (posed["landmarks"] - centre[:, None]) * flip * (size / 2 / half)[:, None, None]
    return picture, five + size / 2


def fine_size(size: int) -> int:
    """Pixels a side before the reduction that smooths edges."""
    return (size * 5 // 4 + 7) // 8 * 8


def face_square(landmarks: Tensor, chin: Tensor, photos: list) -> tuple[Tensor, Tensor]:
    """Centre (batch, 2) and half side (batch,) of the crop on the image plane."""
    eyes = landmarks[:, :2].mean(1)
    down = chin - eyes
    long = down.norm(dim=1)
    device = landmarks.device
    shift = shade.numbers("shift", photos, device)
    zoom = shade.numbers("zoom", photos, device)
    # Fitted to dlib's frontal detector on rendered heads of all poses.
    turned = torch.tensor([photo.angles[0] / 45 for photo in photos], device=device)
    box = 1.30 * long * zoom
    centre = eyes + 0.27 * down + shift * box[:, None]
    centre = centre + torch.stack([0.085 * turned, 0.08 * turned.abs()], 1) * box[:, None]
    return centre, box * CROP / 2


@torch.no_grad()
def find_landmarks(persons: list, photos: list, size: int = 128, device: str = "cpu") -> Tensor:
    """The landmarks that `draw` returns, float32 (n, 5, 2), without drawing the pictures."""
    wardrobe = _wardrobe(str(device))
    found = [torch.empty(0, 5, 2, device=device)]
    for start in range(0, len(persons), CHUNK):
        part = slice(start, start + CHUNK)
        people = [wardrobe.dressed(person) for person in persons[part]]
        posed = scene.posed(wardrobe.assets, people, persons[part], photos[part])
        centre, half = face_square(posed["landmarks"], posed["chin"], photos[part])
        flip = centre.new_tensor([1.0, -1.0])
        five = (posed["landmarks"] - centre[:, None]) * flip * (size / 2 / half)[:, None, None]
        found.append(five + size / 2)
    return torch.cat(found)


def guest_photo(seed: int = 0, size: int = 480) -> Image.Image:
    """A portrait (size, size) of a rendered person who is in no set, still to be cropped."""
    stars = KStars(seed)
    guest = stars.person(GUEST)
    shots = [stars.photo(GUEST, j, guest) for j in range(60)]

    def flaws(shot) -> float:
        camera = shot.camera
        return (
            abs(shot.angles[0])
            + abs(shot.angles[1])
            + 40 * (shot.occluder is not None or shot.border.any())
            + 40 * (shot.glasses != "none")
            + 20 * (shot.expression not in ("neutral", "smile"))
            + 60 * abs(camera["exposure"])
            + 60 * abs(camera["saturation"] - 1)
        )

    plain = min(shots, key=flaws)
    sharp = {**plain.camera, "blur": 0.002, "noise": 0.01, "resolution": 1.0}
    plain = dataclasses.replace(plain, camera=sharp)
    picture = draw([guest], [plain], size, wider=1.6)[0]
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
