"""From triangles to colours: skin, eyes, hair, cloth, background, and the camera's own flaws."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from labkit.synth import scene
from labkit.synth.draws import NOISE_SIZE
from labkit.synth.hair import table_at
from labkit.synth.raster import Fragments
from labkit.synth.skin import BOTTOM, MAP_HEIGHT, MAP_WIDTH, TOP

PADDING = 128  # as crop.py pads what lies outside a photograph
_STRANDS_AROUND = 1.6 * NOISE_SIZE


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """table[index] along the first dimension, much faster for whole rows."""
    return table.index_select(0, index)


def numbers(name: str, photos: list, device) -> Tensor:
    """One attribute of the photographs as float32 (batch, …)."""
    stacked = np.stack([np.asarray(getattr(photo, name), dtype=np.float32) for photo in photos])
    return torch.from_numpy(stacked).to(device)


def blend(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: table (m, c), index and weights (n, k) to (n, c)."""
    return torch.nn.functional.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def strand_filter(a: scene.Assets, posed: dict[str, Tensor]):
    """Decides which pieces of hair and lashes are strands and which are the gaps between."""
    rows = posed["attributes"][..., 6:8].reshape(-1, 2).contiguous()
    bare_temples = bool((posed["starts"] > 0).any())

    def keep(image: Tensor, face: Tensor, weights: Tensor) -> Tensor:
        corners = rows_of(a.faces, face) + (image * a.vertices).unsqueeze(1)
        turns, q = blend(rows, corners, weights).unbind(1)
        hair = rows_of(a.material, face) == scene.MADE_OF_HAIR
        lash = 0.20 + 0.10 * _bank(a, 4, turns.abs() * 9.0, turns * 0.0) > q
        turns = torch.where(hair, turns, torch.zeros_like(turns))
        noise = _strand_noise(a, turns, q)
        fray = rows_of(posed["fray"], image)
        # Locks end early rather than late: nothing dangles far below the cut.
        inside = q + fray * noise.clamp(-0.7, 2.0) < table_at(posed["ends"], image, turns)
        if bare_temples:
            start = table_at(posed["starts"], image, turns)
            inside = inside & (q - 0.5 * fray * noise > start)
        return torch.where(hair, inside, lash)

    return keep


def _bank(a: scene.Assets, layer: int, x: Tensor, y: Tensor) -> Tensor:
    """The noise texture at whole cells of (x, y), wrapping around."""
    column = torch.floor(x).long() % NOISE_SIZE
    row = torch.floor(y).long() % NOISE_SIZE
    return rows_of(a.bank[layer].reshape(-1), row * NOISE_SIZE + column)


def _strand_noise(a: scene.Assets, turns: Tensor, q: Tensor) -> Tensor:
    around = (turns + 0.5) * _STRANDS_AROUND
    fine = _bank(a, 3, around * 2.7, q * 1.3 + 77)
    return 0.65 * _bank(a, 3, around, q * 0.9) + 0.6 * fine


def shade(
    a: scene.Assets,
    fragments: Fragments,
    posed: dict[str, Tensor],
    people: list,
    persons: list,
    photos: list,
    size: int,
) -> Tensor:
    """Linear RGB images (batch, size, size, 3) with their backgrounds."""
    device = a.device
    batch = len(photos)
    image = fragments.image
    rows = posed["attributes"].reshape(batch * a.vertices, -1)
    corners = rows_of(a.faces, fragments.face) + (image * a.vertices).unsqueeze(1)
    values = blend(rows, corners, fragments.weights)
    material = rows_of(a.material, fragments.face)
    light = {"colour": numbers("key_colour", photos, device), "level": posed["brightness"]}

    colour = torch.empty(len(image), 3, device=device)
    for code, paint in (
        (scene.MADE_OF_SKIN, _skin),
        (scene.MADE_OF_EYE, _eye),
        (scene.MADE_OF_HAIR, _hair),
    ):
        place = (material == code).nonzero().squeeze(1)
        painted = paint(
            a, rows_of(values, place), rows_of(image, place), light, people, persons, photos
        )
        colour.index_copy_(0, place, painted)
    flat = {
        scene.MADE_OF_TEETH: (0.74, 0.68, 0.58),
        scene.MADE_OF_TONGUE: (0.42, 0.13, 0.13),
        scene.MADE_OF_LASH: (0.012, 0.009, 0.008),
        scene.MADE_OF_LENS: (0.008, 0.008, 0.010),
    }
    for code, albedo in flat.items():
        place = (material == code).nonzero().squeeze(1)
        colour[place] = rows_of(values, place)[:, :3] * values.new_tensor(albedo)
    place = (material == scene.MADE_OF_FRAME).nonzero().squeeze(1)
    frames = np.stack(
        [np.full(3, 0.015) if p.glasses is None else p.glasses["colour"] for p in persons]
    )
    frames = torch.from_numpy(frames.astype(np.float32)).to(device)
    colour[place] = rows_of(values, place)[:, :3] * rows_of(frames, rows_of(image, place))

    free = torch.ones(batch * size * size, dtype=torch.bool, device=device)
    free = free.index_fill_(0, fragments.pixel, False).nonzero().squeeze(1)
    canvas = torch.empty(batch * size * size, 3, device=device)
    canvas.index_copy_(0, fragments.pixel, colour)
    canvas.index_copy_(0, free, background(a, photos, size, free))
    canvas = canvas.reshape(batch, size, size, 3)
    for i, photo in enumerate(photos):
        if photo.occluder is not None and photo.occluder["kind"] != "mask":
            _cover(canvas[i], photo.occluder, posed["brightness"][i], size)
    return canvas


def _cover(canvas: Tensor, occluder: dict, brightness: Tensor, size: int) -> None:
    """Put something before the face: a hand, the edge of something near, an object."""
    grid = (torch.arange(size, device=canvas.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    x, y = x - float(occluder["centre"][0]), y - float(occluder["centre"][1])
    c, s = math.cos(occluder["angle"]), math.sin(occluder["angle"])
    x, y = c * x + s * y, c * y - s * x
    wide, tall = (float(value) for value in occluder["size"])
    shadow = torch.ones_like(x)
    if occluder["kind"] == "hand":  # a palm and four fingers side by side
        inside = 1 - ((x / wide) ** 2 + ((y - 0.35) / 0.34) ** 2).sqrt()
        for finger in range(4):
            middle = (finger - 1.5) * wide * 0.5
            up = -tall * (0.75, 1.0, 1.05, 0.85)[finger]
            along = torch.maximum(up - y, y - 0.3).clamp_min(0)
            away = ((x - middle) ** 2 + along**2).sqrt() / (0.235 * wide)
            inside = torch.maximum(inside, (1 - away) * 0.4)
            shadow = torch.minimum(shadow, 0.7 + 0.3 * (away - 0.75).abs().clamp(0, 0.4) / 0.4)
    elif occluder["kind"] == "edge":
        inside = 0.55 - x.abs()
        shadow = 0.7 + 0.3 * (y + 1) / 2
    else:
        inside = 1 - ((x / wide) ** 4 + (y / tall) ** 4) ** 0.25
        shadow = 0.6 + 0.5 * (1 - (x / wide + 0.3) ** 2).clamp(0, 1)
    cover = (inside * size * 0.12).clamp(0, 1)[..., None]
    colour = torch.tensor(occluder["colour"], dtype=torch.float32, device=canvas.device)
    shown = colour * brightness * shadow[..., None]
    canvas.mul_(1 - cover).add_(shown * cover)


def _skin(a, values, image, light, people, persons, photos) -> Tensor:
    device = values.device
    different = list({id(person): person for person in people}.values())
    owner = torch.tensor([different.index(person) for person in people], device=device)
    maps = torch.stack([person.skin_map for person in different]).reshape(-1, 4)
    u, v = values[:, 6].contiguous(), values[:, 7].contiguous()
    painted = _bilinear(maps, rows_of(owner, image), u, v)
    eight = values[:, 4].clamp(0, 1) ** 8
    tight = eight * eight * eight
    shine = (0.055 * eight + 0.11 * tight) * values[:, 3] * painted[:, 3]
    colour = values[:, :3] * painted[:, :3] + values[:, 5:6]
    colour = torch.addcmul(colour, shine.unsqueeze(1), rows_of(light["colour"], image))

    masked = np.array(
        [
            [0, 0, 0, 0]
            if photo.occluder is None or photo.occluder["kind"] != "mask"
            else [*photo.occluder["colour"], 1]
            for photo in photos
        ],
        dtype=np.float32,
    )
    if masked.any():
        masked = rows_of(torch.from_numpy(masked).to(device), image)
        height, side = TOP - v * (TOP - BOTTOM), (u - 0.5).abs()
        edge = torch.minimum(-0.030 - 0.08 * side - height, height + 0.122 - 0.05 * side)
        edge = (edge * 500).clamp(0, 1) * masked[:, 3]
        folds = 1 - 0.12 * torch.sin(height * 420)
        folds = folds * rows_of(light["level"], image) * (0.7 + 0.35 * values[:, 4].clamp(0, 1))
        cover = masked[:, :3] * folds.unsqueeze(1)
        colour = torch.lerp(colour, cover, edge.unsqueeze(1))

    collar = rows_of(numbers("collar", photos, device), image)
    edge = collar[:, 0] - 0.47 * collar[:, 1] * (u - 0.5).abs() - TOP + v * (TOP - BOTTOM)
    place = (edge > 0).nonzero().squeeze(1)
    at, who = rows_of(colour, place), rows_of(image, place)
    edge = (rows_of(edge, place) * 400).clamp(0, 1).unsqueeze(1)
    cloth = rows_of(numbers("cloth", photos, device), who) * rows_of(values, place)[:, :3]
    return colour.index_copy_(0, place, torch.lerp(at, cloth, edge))


def _bilinear(maps: Tensor, image: Tensor, u: Tensor, v: Tensor) -> Tensor:
    x = (u * MAP_WIDTH - 0.5).clamp(0, MAP_WIDTH - 1.001)
    y = (v * MAP_HEIGHT - 0.5).clamp(0, MAP_HEIGHT - 1.001)
    left, top = torch.floor(x), torch.floor(y)
    fx, fy = x - left, y - top
    place = image * (MAP_HEIGHT * MAP_WIDTH) + top.long() * MAP_WIDTH + left.long()
    index = torch.stack([place, place + 1, place + MAP_WIDTH, place + (MAP_WIDTH + 1)], 1)
    both = fx * fy
    return blend(maps, index, torch.stack([1 - fx - fy + both, fx - both, fy - both, both], 1))


def _step(low: float, high: float, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _eye(a, values, image, light, people, persons, photos) -> Tensor:
    device = values.device
    across, up = values[:, 6], values[:, 7]
    size = torch.tensor([p.iris_size for p in persons], device=device)
    size = rows_of(size, image)
    iris = np.stack([p.iris for p in persons]).astype(np.float32)
    iris = rows_of(torch.from_numpy(iris).to(device), image)
    ring = ((across**2 + up**2).sqrt() / size).unsqueeze(1)

    angle = torch.atan2(up, across)
    fibres = _bank(a, 3, (angle / (2 * math.pi) + 0.5) * NOISE_SIZE * 0.9, ring[:, 0] * 20)
    glow = 1.25 - 0.45 * (up / size).unsqueeze(1)
    inner = iris * (1 + 0.25 * fibres.unsqueeze(1)).clamp(0.4, 1.8) * glow
    inner = inner * (1 - 0.65 * _step(0.78, 1.0, ring)) * (0.55 + 0.45 * _step(0.3, 0.6, ring))
    inner = inner * _step(0.36, 0.44, ring)
    white = values.new_tensor([0.74, 0.70, 0.68]) * (1 - 0.25 * _step(1.2, 2.6, ring))
    white = white * (1 - values.new_tensor([0.0, 0.07, 0.09]) * _step(1.3, 2.4, ring))
    outside = _step(0.96, 1.06, ring)
    albedo = inner * (1 - outside) + white * outside
    lid = 1 - 0.45 * _step(0.05, 0.45, up.unsqueeze(1))
    facing = values[:, 4:5].clamp(0, 1)
    spark = _step(0.9955, 0.9985, facing) * 0.7 + _step(0.95, 1.0, facing) * 0.03
    bright = rows_of(light["colour"], image).mean(1, keepdim=True) * 0.8 + 0.25
    return values[:, :3] * albedo * lid + spark * bright


def _hair(a, values, image, light, people, persons, photos) -> Tensor:
    device = values.device
    turns, q = values[:, 6], values[:, 7]
    fine = _strand_noise(a, turns, q)
    locks = _bank(a, 1, (turns + 0.5) * NOISE_SIZE, q * 0.4)
    colour = rows_of(numbers("hair_colour", photos, device), image)
    albedo = colour * (1.15 * (1 + 0.34 * fine + 0.16 * locks).clamp(0.25, 2.2)).unsqueeze(1)
    across = (1 - values[:, 4] ** 2).clamp(0, 1) ** 24
    shine = (across * (0.7 + 0.45 * fine).clamp(0, 2) * values[:, 3]).unsqueeze(1)
    return values[:, :3] * albedo + shine * (0.035 + 0.22 * colour) * rows_of(
        light["colour"], image
    )


_CELLS = 40


@lru_cache(maxsize=8)
def _between_cells(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each pixel of an image, four cells of the coarse background and their weights."""
    place = ((torch.arange(size, device=device) + 0.5) / size * _CELLS - 0.5).clamp(0, _CELLS - 1)
    low = torch.floor(place).long().clamp_max(_CELLS - 2)
    part = place - low
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rows, columns = rows.reshape(-1).to(device), columns.reshape(-1).to(device)
    first = low[rows] * _CELLS + low[columns]
    index = torch.stack([first, first + 1, first + _CELLS, first + _CELLS + 1], 1)
    y, x = part[rows], part[columns]
    return index, torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], 1)


def background(a: scene.Assets, photos: list, size: int, pixel: Tensor) -> Tensor:
    """Out-of-focus backgrounds at some pixels of (batch, size, size), linear RGB (n, 3)."""
    cells, device = _CELLS, a.device
    plans = [photo.background for photo in photos]

    def number(values, dtype=np.float32) -> Tensor:
        return torch.from_numpy(np.array(list(values), dtype=dtype)).to(device)

    grid = (torch.arange(cells, device=device) + 0.5) / cells * 2 - 1
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    offset = number((b["offset"] for b in plans), np.int64)
    step = number(b["scale"] * 3.0 for b in plans)
    place = (torch.arange(cells, device=device) * step[..., None]).long() + offset[:, :2, None]
    again = place + offset[:, 2:, None]
    clouds = a.bank[2]
    one = clouds[(place[:, 0] % NOISE_SIZE)[:, :, None], (place[:, 1] % NOISE_SIZE)[:, None]]
    two = clouds[(again[:, 0] % NOISE_SIZE)[:, :, None], (again[:, 1] % NOISE_SIZE)[:, None]]
    cosine, sine, waves, phase, lean, side = number(
        (math.cos(b["angle"]), math.sin(b["angle"]), 6 * b["scale"][0] + 2, b["offset"][0],
         2 * b["gradient"][0], 2 * b["gradient"][1])
        for b in plans
    ).T[..., None, None]  # fmt: skip
    across = x * cosine + y * sine
    kinds = [b["kind"] for b in plans]

    def are(kind: str) -> Tensor:
        return torch.tensor([name == kind for name in kinds], device=device)[:, None, None]

    bars = (torch.sin(across * waves + phase) * 2).clamp(-0.7, 0.7) + 0.2 * two
    blobs = (one - 0.6).clamp(0, 1) * 2
    one = torch.where(are("plain"), 0.3 * one, torch.where(are("blobs"), blobs, one))
    one = torch.where(are("bars"), bars, one)
    blobs = (two - 0.9).clamp(0, 1) * 2.5
    two = torch.where(are("plain"), 0.2 * two, torch.where(are("blobs"), blobs, two))
    one = torch.sigmoid(1.4 * one + lean * across)[..., None]
    two = torch.sigmoid(1.4 * two - 1 + side * x)[..., None]
    c = number(b["colours"] * b["light"] for b in plans)[:, :, None, None]
    coarse = (c[:, 0] * (1 - one) + c[:, 1] * one) * (1 - two) + c[:, 2] * two
    coarse = coarse.reshape(-1, 3)
    image = torch.div(pixel, size * size, rounding_mode="floor")
    index, weights = _between_cells(size, device)
    inside = pixel - image * (size * size)
    index = rows_of(index, inside) + (image * (cells * cells)).unsqueeze(1)
    return blend(coarse, index, rows_of(weights, inside))


def develop(a: scene.Assets, linear: Tensor, photos: list, size: int, brightness: Tensor) -> Tensor:
    """What the camera makes of linear RGB (batch, n, n, 3): uint8 (batch, 3, size, size).

    Lens and sensor blur with the reduction to `size` in one separable filter; then exposure,
    colour balance, a film-like curve, saturation, contrast, noise and the padding. `brightness`
    (batch,) is the light on the face, which automatic exposure mostly evens out.
    """
    device = a.device
    fine = linear.shape[1]
    cameras = [photo.camera for photo in photos]

    def number(name: str) -> Tensor:
        return torch.from_numpy(
            np.stack([np.asarray(camera[name], dtype=np.float32) for camera in cameras])
        ).to(device)

    centre = torch.arange(size, device=device) + 0.5
    cell = (torch.arange(fine, device=device) + 0.5) * (size / fine)
    away = (centre[:, None] - cell[None])[None]
    width = (0.40**2 + (number("blur") * size) ** 2 + 0.6 * (1 / number("resolution") - 1)).sqrt()
    filters = torch.exp(-0.5 * (away / width[:, None, None]) ** 2)
    filters = filters / filters.sum(2, keepdim=True)
    planes = linear.permute(0, 3, 1, 2)
    small = filters[:, None] @ planes @ filters[:, None].transpose(2, 3)

    gain = torch.exp2(number("exposure")) * (0.88 / brightness) ** 0.8
    gain = gain[:, None] * number("balance")
    small = small * gain[:, :, None, None]
    # A film-like curve (Narkowicz's fit of the ACES tone curve).
    small = small.clamp_min(0) * 0.66
    small = small * (2.51 * small + 0.03) / (small * (2.43 * small + 0.59) + 0.14)
    shown = small.clamp(1e-6, 1) ** (1 / 2.2)
    grey = (shown * shown.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    shown = grey + (shown - grey) * number("saturation")[:, None, None, None]
    shown = 0.46 + (shown - 0.46) * number("contrast")[:, None, None, None]
    offset = number("offset").long()
    channel = torch.arange(3, device=device)[None, :, None, None] * 171
    rows = offset[:, 0, None, None, None] + torch.arange(size, device=device)[:, None] + channel
    columns = offset[:, 1, None, None, None] + torch.arange(size, device=device) + 2 * channel
    place = (rows % NOISE_SIZE) * NOISE_SIZE + columns % NOISE_SIZE
    noise = rows_of(a.bank[4].reshape(-1), place.reshape(-1)).reshape(place.shape)
    shown = shown + noise * number("noise")[:, None, None, None]
    shown = (shown.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    for picture, photo in zip(shown, photos, strict=True):
        if photo.border.any():
            left, top, right, bottom = (round(float(part) * size) for part in photo.border)
            for side in (picture[:, :, :left], picture[:, :top], picture[:, :, size - right :],
                         picture[:, size - bottom :]):  # fmt: skip
                side.fill_(PADDING)
    return shown
