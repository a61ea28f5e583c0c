"""Light on vertices: what shading interpolates between them."""

import numpy as np
import torch
from torch import Tensor

from labkit.synth import hair as hair_geometry
from labkit.synth.anatomy import HULL_THETAS, harmonics


def rotate(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply (batch, 3, 3) to (batch, n, 3), element by element."""
    x, y, z = points.unbind(-1)
    m = matrix[:, :, :, None]
    rows = [m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] * z for i in range(3)]
    return torch.stack(rows, -1)


_BANDS = (1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25)


def light_vertices(
    a, persons, photos, normals, turned, ends, hair_q, head, gather, hair_normal, strand
) -> tuple[Tensor, Tensor]:
    """What shading needs of each vertex, (batch, vertices, 8): light that comes back from it,
    already tinted (3), strength of its highlight, how squarely it mirrors the main light, light
    that grazes it, and two numbers of its material (map place, eye direction, or strand); and the
    bare light on the head (batch, head vertices)."""
    batch = len(photos)
    ambient, key, colour = gather("ambient"), gather("key"), gather("key_colour")
    soft = gather("softness")[:, None]
    bands = normals.new_tensor(_BANDS)[:, None]
    back = head.transpose(1, 2)
    key_head = rotate(back, key[:, None])[:, 0]
    half = torch.nn.functional.normalize(key + key.new_tensor([0, 0, 1.0]), dim=1)

    surround = (harmonics(normals) @ (ambient * bands)).clamp_min(0.02)
    lights = torch.stack([ambient.mean(2), harmonics(key_head)], 2)
    shadowed = a.transfer.expand(batch, -1, -1) @ lights
    unshadowed = (a.open_transfer.expand(batch, -1, -1) @ lights).clamp_min(0)
    open_share = ((shadowed[..., 0] + 0.02) / (unshadowed[..., 0] + 0.02)).clamp(0.05, 1)
    lit = ((shadowed[..., 1] + 0.03) / (unshadowed[..., 1] + 0.03)).clamp(0, 1)
    under = hair_geometry.table_at(ends, None, a.polar[:, 0])
    hair_shade = hair_geometry._smooth(under - 3, under + 11, a.polar[None, :, 1])
    hair_shade = 0.45 + 0.55 * hair_shade
    open_share = open_share * hair_shade * (1 - 0.55 * a.dim_inside)
    open_share = torch.maximum(open_share, 0.22 * a.dim_inside[None])
    lit = torch.maximum(lit * hair_shade, 0.35 * a.dim_inside[None])

    cosine = _dot(turned, key)[..., None]
    wrap = soft[..., None] * 0.45 + normals.new_tensor([0.22, 0.10, 0.07])
    direct = ((cosine + wrap) / (1 + wrap)).clamp_min(0)
    diffuse = surround * open_share[..., None] + colour[:, None] * direct * lit[..., None]
    brightness = diffuse.mean(2)

    # Lips, the mouth's inside and a tan only tint what the skin map says.
    lips, inside = a.static[:, 2], a.static[:, 3]
    is_skin = a.is_skin
    makeup = gather("makeup")
    own = torch.from_numpy(np.stack([p.lip_colour for p in persons]).astype(np.float32))
    lip = own.to(a.device) * (1 - makeup[:, :1]) + makeup[:, 1:] * makeup[:, :1]
    tint = 1 + (0.85 * lips * is_skin)[None, :, None] * (lip[:, None] - 1)
    tint = tint * (1 + (inside * is_skin)[:, None] * (normals.new_tensor([0.3, 0.1, 0.1]) - 1))
    tint = tint * torch.exp(-gather("tan"))[:, None, None]
    own_gloss = torch.tensor([p.skin["gloss"] for p in persons], device=a.device)
    gloss = (gather("gloss") * own_gloss)[:, None]
    wet = (lips * is_skin)[None] * (0.6 + makeup[:, :1])
    gloss = (gloss + 1.5 * wet) * lit * (1 - inside * is_skin)
    level = (ambient[:, 0] * 0.282).mean(1)[:, None]
    rim = (1 - turned[..., 2].clamp(0, 1)) ** 4 * 0.07 * level

    # The wet cornea mirrors the light even when it stands far to the side.
    towards = key * key.new_tensor([0.55, 0.5, 0]) + key.new_tensor([0.0, 0.18, 1.0])
    glance = torch.nn.functional.normalize(towards, dim=1) + towards.new_tensor([0, 0, 1.0])
    glance = torch.nn.functional.normalize(glance, dim=1)
    facing = _dot(turned, half)
    for v in a.eye_vertices:
        facing[:, v] = _dot(turned[:, v], glance)
    place = a.static[:, :2].expand(batch, -1, -1)
    head_part = torch.cat(
        [diffuse * tint, gloss[..., None], facing[..., None], rim[..., None], place], -1
    )

    glass = torch.zeros(batch, a.hair_start - a.glass_start, 8, device=a.device)
    glass[..., :3] = (ambient[:, 0] * 0.282 + colour * 0.6)[:, None]

    # Strands: lit by how squarely light meets them, softly shadowed towards the back.
    outward = torch.where(hair_normal[..., 2:] < 0, -hair_normal, hair_normal)
    surround = (harmonics(rotate(back, outward)) @ (ambient * bands)).clamp_min(0.02)
    direct = ((_dot(hair_normal, key) + 0.35) / 1.35).clamp_min(0)[..., None]
    behind = 0.35 + 0.65 * ((hair_normal[..., 2:] + 0.6) / 0.8).clamp(0, 1)
    deep = 1 - 0.35 * ((hair_q - 95) / 60).clamp(0, 1)[..., None]
    diffuse = (surround * 0.8 + colour[:, None] * direct) * behind * deep
    turns = torch.arange(HULL_THETAS, device=a.device) / HULL_THETAS
    turns = torch.where(turns >= 0.5, turns - 1, turns)
    turns = turns.repeat_interleave(hair_geometry.ROWS).expand(batch, -1)[..., None]
    strand_part = torch.cat(
        [diffuse, direct, _dot(strand, half)[..., None], torch.zeros_like(turns), turns,
         hair_q[..., None]], -1,
    )  # fmt: skip
    return torch.cat([head_part, glass, strand_part], 1), brightness


def _dot(vectors: Tensor, one: Tensor) -> Tensor:
    """(batch, n, 3) with (batch, 3): (batch, n)."""
    x, y, z = vectors.unbind(-1)
    return x * one[:, 0:1] + y * one[:, 1:2] + z * one[:, 2:3]
