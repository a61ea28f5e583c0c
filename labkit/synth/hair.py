"""Hair and glasses as geometry that follows each head's own shape."""

import math

import torch
from torch import Tensor

from labkit.synth.anatomy import HULL_PHI_END, HULL_PHIS, HULL_THETAS
from labkit.synth.styles import PER_METRE, TABLE

ROWS = 26
RIM = 28


def hair_faces() -> Tensor:
    """Triangles (faces, 3) of the hair grid: HULL_THETAS columns around, ROWS down."""
    column = torch.arange(HULL_THETAS)[:, None]
    row = torch.arange(ROWS - 1)[None, :]
    a, b = column * ROWS + row, ((column + 1) % HULL_THETAS) * ROWS + row
    one = torch.stack([a, a + 1, b], -1).reshape(-1, 3)
    two = torch.stack([b, a + 1, b + 1], -1).reshape(-1, 3)
    return torch.cat([one, two])


def _smooth(low, high, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def table_at(table: Tensor, image: Tensor | None, turns: Tensor) -> Tensor:
    """Look up q tables (batch, TABLE) at theta given in turns, -0.5 to 0.5."""
    place = (turns + 0.5) * TABLE
    low = torch.floor(place)
    part = place - low
    low = low.long() % TABLE
    high = (low + 1) % TABLE
    if image is None:
        return table[:, low] * (1 - part) + table[:, high] * part
    flat = table.reshape(-1)
    low, high = image * TABLE + low, image * TABLE + high
    return flat.index_select(0, low) * (1 - part) + flat.index_select(0, high) * part


def hair_points(hull: Tensor, centre: Tensor, hair: dict[str, Tensor], bumps: Tensor):
    """Place the hair grid on heads.

    hull: (batch, HULL_THETAS, HULL_PHIS, 3) skull points; centre: (batch, 3), where they are
    counted from; hair: batched numbers of styles.hair_numbers; bumps: (batch, HULL_THETAS, ROWS)
    noise of the person's own locks.

    Returns points (batch, vertices, 3), normals and strand directions of the same shape, q
    (batch, vertices), and alive (batch, vertices): whether a point can be seen at all.
    """
    batch = hull.shape[0]
    turns = torch.arange(HULL_THETAS, device=hull.device) / HULL_THETAS
    turns = torch.where(turns >= 0.5, turns - 1, turns)
    ends = table_at(hair["ends"], None, turns)  # (batch, columns)
    last = hair["ends"].amax(1) + hair["fray"] + 6
    q = 3 + (last - 3).clamp_min(1)[:, None] * torch.linspace(0, 1, ROWS, device=hull.device)
    drop = hair["drop"][:, None]
    phi = torch.minimum(q, drop)
    place = ((phi * (math.pi / 180) - 0.02) / (HULL_PHI_END - 0.02) * (HULL_PHIS - 1)).clamp(
        0, HULL_PHIS - 1.001
    )
    low = torch.floor(place)
    part = (place - low)[:, None, :, None]
    index = low.long()[:, None, :, None].expand(-1, HULL_THETAS, -1, 3)
    skull = hull.gather(2, index) * (1 - part) + hull.gather(2, index + 1) * part
    outward = torch.nn.functional.normalize(skull - centre[:, None, None], dim=-1)

    theta = (turns * 2 * math.pi)[None, :, None]
    top, side, front = (hair["thick"][:, i, None, None] for i in range(3))
    down = q[:, None, :]
    thick = top + (side - top) * _smooth(35, 85, down)
    forward = _smooth(0.30, 0.95, torch.cos(theta)) * _smooth(12, 45, down)
    forward = forward * (1 - _smooth(88, 100, down))
    thick = thick + (front - thick) * forward
    end = ends[:, :, None]
    tip = hair["tip"][:, None, None]
    thick = thick * (1 + (tip - 1) * _smooth(end - 26, end, down))
    bun = hair["bun"][:, None, None]
    thick = thick + bun * (1 - _smooth(8, 24, down))
    hanging = ((q - drop).clamp_min(0) / PER_METRE)[:, None, :]
    thick = (thick + hair["curl"][:, None, None] * bumps).clamp_min(0.0012)
    wave = hair["wave"][:, None, None] * _smooth(0, 0.08, hanging)
    phase = hanging * (2 * math.pi / 0.075) + 3 * bumps + 2 * theta
    thick = thick + wave * torch.sin(phase)
    points = skull + outward * thick[..., None]
    flat = outward.clone()
    flat[..., 1] = 0
    points = points + flat * (0.10 * hanging)[..., None]
    points[..., 1] = points[..., 1] - hanging

    along = torch.empty_like(points)
    along[:, :, 1:-1] = points[:, :, 2:] - points[:, :, :-2]
    along[:, :, 0] = points[:, :, 1] - points[:, :, 0]
    along[:, :, -1] = points[:, :, -1] - points[:, :, -2]
    around = torch.roll(points, -1, 1) - torch.roll(points, 1, 1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(along, around), dim=-1)
    along = torch.nn.functional.normalize(along, dim=-1)
    step = (last - 3) / (ROWS - 1)
    widest = torch.maximum(ends, torch.maximum(torch.roll(ends, 1, 1), torch.roll(ends, -1, 1)))
    alive = down < widest[:, :, None] + hair["fray"][:, None, None] * 1.5 + step[:, None, None]
    vertices = HULL_THETAS * ROWS
    return (
        points.reshape(batch, vertices, 3),
        normals.reshape(batch, vertices, 3),
        along.reshape(batch, vertices, 3),
        down.expand(-1, HULL_THETAS, -1).reshape(batch, vertices),
        alive.reshape(batch, vertices),
    )


def glasses_faces() -> tuple[Tensor, Tensor]:
    """Triangles of the frame and of the two lenses, in the order of glasses_points."""
    frame, lens = [], []
    for side in range(2):
        base = side * (2 * RIM + 1)
        for i in range(RIM):
            a, b = base + 2 * i, base + 2 * ((i + 1) % RIM)
            frame += [[a, a + 1, b], [b, a + 1, b + 1]]
            lens.append([a + 1, b + 1, base + 2 * RIM])
    bars = 2 * (2 * RIM + 1)
    for bar in range(3):
        a = bars + 4 * bar
        frame += [[a, a + 1, a + 2], [a + 2, a + 1, a + 3]]
    return torch.tensor(frame), torch.tensor(lens)


def glasses_points(eyes: Tensor, half_head: Tensor, shape: Tensor) -> Tensor:
    """Frame and lens points (batch, vertices, 3).

    eyes: (batch, 2, 3) eyeball centres, left first; half_head: (batch,) the head's half width at
    the temples; shape: (batch, 4): half width and height of a lens, roundness, thickness, metres.
    """
    angle = torch.arange(RIM, device=eyes.device) * (2 * math.pi / RIM)
    width, height, power, thick = shape.unbind(1)
    c, s = torch.cos(angle)[None], torch.sin(angle)[None]
    round_off = (c.abs() ** power[:, None] + s.abs() ** power[:, None]) ** (-1 / power[:, None])
    groups = []
    for side, sign in ((0, 1.0), (1, -1.0)):
        # A lens sits a little outside and below the eye, and bends back at its outer end.
        centre = eyes[:, side] + eyes.new_tensor([sign * 0.0015, -0.003, 0.0])
        rims = []
        for grow in (1.0, -1.0):
            x = (width + grow * thick)[:, None] * c * round_off
            y = (height + grow * thick)[:, None] * s * round_off
            z = 0.0245 - 0.10 * sign * x.clamp(-0.05, 0.05) - 3.0 * (sign * x).clamp_min(0) ** 2
            rims.append(torch.stack([x, y, z], -1) + centre[:, None])
        ring = torch.stack(rims, 2).reshape(len(eyes), 2 * RIM, 3)
        groups += [ring, ring[:, 1::2].mean(1, keepdim=True)]
    left, right = groups[0], groups[2]
    inner_left, inner_right = left[:, RIM], right[:, 0]  # at angle pi and 0
    up = torch.stack([torch.zeros_like(thick), thick + 0.0006, torch.zeros_like(thick)], 1)
    lift = eyes.new_tensor([0.0, 0.002, 0.001])
    groups.append(
        torch.stack([inner_left + lift + up, inner_left + lift - up, inner_right + lift + up,
                     inner_right + lift - up], 1)
    )  # fmt: skip
    for side, sign in ((0, 1.0), (1, -1.0)):
        outer = (left[:, 0] if side == 0 else right[:, RIM]) + eyes.new_tensor([0, 0.004, 0])
        ear = torch.stack(
            [sign * (half_head + 0.003), eyes[:, side, 1] + 0.004, eyes[:, side, 2] - 0.105], 1
        )
        groups.append(torch.stack([outer + up, outer - up, ear + up, ear - up], 1))
    return torch.cat(groups, 1)
