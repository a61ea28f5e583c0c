"""What is learnt once from the neutral head: its own shadows, and the hull that hair grows on."""

import math

import torch
from torch import Tensor

from labkit.synth.raster import rasterize

CUT_HEIGHT = 4.9  # decimetres in MakeHuman's own coordinates: the upper chest
CUT_WIDTH = 2.1
HEAD_OUTLINES = (
    "head-oval",
    "head-round",
    "head-square",
    "head-rectangular",
    "head-triangular",
    "head-invertedtriangular",
    "head-diamond",
)
CROWN = 0.105  # metres from the top of the head down to where hair directions are counted from
HULL_THETAS = 48
HULL_PHIS = 24
HULL_PHI_END = math.radians(138)


def harmonics(direction: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of unit vectors (..., 3): (..., 9)."""
    x, y, z = direction.unbind(-1)
    one = torch.ones_like(x)
    return torch.stack(
        [
            0.282095 * one,
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        dim=-1,
    )


def sphere(count: int) -> Tensor:
    """Unit vectors (count, 3) spread evenly over the sphere (golden-angle spiral)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    y = 1 - 2 * i / count
    angle = math.pi * (3 - math.sqrt(5)) * i
    radius = (1 - y * y).sqrt()
    return torch.stack([radius * angle.cos(), y, radius * angle.sin()], 1).float()


def vertex_normals(points: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (vertices, 3) of one mesh, weighted by area."""
    a, b, c = points[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(points)
    for corner in range(3):
        total.index_add_(0, faces[:, corner], normal)
    return torch.nn.functional.normalize(total, dim=1)


def light_transfer(points: Tensor, faces: Tensor, part: Tensor, directions: int = 192):
    """Diffuse transfer of each vertex, with and without the head's own shadow: two (vertices, 9).

    The head is looked at from many directions; what a direction does not see gets no light from
    it (precomputed radiance transfer, Sloan et al. 2002, for diffuse surfaces).
    """
    size = 160
    normals = vertex_normals(points, faces)
    solid = faces[part < 3]
    centre = (points.amin(0) + points.amax(0)) / 2
    reach = float((points - centre).norm(dim=1).max())
    shadowed = torch.zeros(len(points), 9)
    unshadowed = torch.zeros(len(points), 9)
    two_sided = torch.ones(len(solid), dtype=torch.bool)
    for towards in sphere(directions):
        up = torch.tensor([0.0, 1.0, 0.0]) if abs(towards[1]) < 0.9 else torch.tensor([1.0, 0, 0])
        right = torch.nn.functional.normalize(torch.linalg.cross(up, towards), dim=0)
        above = torch.linalg.cross(towards, right)
        local = (points - centre) / reach
        x, y = local @ right, local @ above
        depth = 100.0 - local @ towards
        xy = torch.stack([(x + 1) / 2 * size, (1 - y) / 2 * size], 1)
        pieces = rasterize(xy[None], depth[None], solid, size, two_sided=two_sided)
        surface = torch.full((size * size,), 1e9)
        surface[pieces.pixel] = (depth[solid[pieces.face]] * pieces.weights).sum(1)
        cell = xy.long().clamp(0, size - 1)
        around = surface.reshape(size, size)
        # A vertex lies on the surface itself: forgive what one pixel of slope can differ.
        seen = (depth < around[cell[:, 1], cell[:, 0]] + 0.018).float()
        cosine = (normals @ towards).clamp_min(0)
        weight = 4 * math.pi / directions / math.pi
        basis = harmonics(towards)
        unshadowed += weight * cosine[:, None] * basis
        shadowed += weight * (cosine * seen)[:, None] * basis
    return shadowed, unshadowed


def hull(points: Tensor, faces: Tensor, part: Tensor, ears: Tensor):
    """Where rays from the middle of the head leave it, as weighted sums of vertices.

    theta runs over HULL_THETAS steps around the vertical axis from the face's front towards the
    person's left; phi over HULL_PHIS steps from the crown down. Returns vertex numbers and weights
    (HULL_THETAS, HULL_PHIS, 6). Ears are no skull: what lies behind them is bridged.
    """
    narrow = points[faces][:, :, 0].abs().amax(1) < 0.088
    skin = ((part == 0) & (ears[faces].amax(1) < 0.5) & narrow).nonzero().squeeze(1)
    theta = torch.arange(HULL_THETAS) * (2 * math.pi / HULL_THETAS)
    phi = torch.linspace(0.02, HULL_PHI_END, HULL_PHIS)
    rays = torch.stack(
        [
            phi.sin()[None] * theta.sin()[:, None],
            phi.cos()[None].expand(HULL_THETAS, -1),
            phi.sin()[None] * theta.cos()[:, None],
        ],
        dim=-1,
    )
    a, b, c = (points[faces[skin]] - hull_centre(points)).unbind(1)
    vertices = torch.zeros(HULL_THETAS, HULL_PHIS, 6, dtype=torch.int64)
    weights = torch.zeros(HULL_THETAS, HULL_PHIS, 6)
    for column in range(HULL_THETAS):
        found = {}
        for row in range(HULL_PHIS):
            face, corner_weights = _farthest_hit(rays[column, row], a, b, c)
            if face is not None:
                found[row] = faces[skin[face]], corner_weights
        for row in range(HULL_PHIS):
            above = max((r for r in found if r <= row), default=min(found))
            below = min((r for r in found if r >= row), default=max(found))
            share = 0.0 if above == below else (row - above) / (below - above)
            vertices[column, row] = torch.cat([found[above][0], found[below][0]])
            weights[column, row] = torch.cat(
                [(1 - share) * found[above][1], share * found[below][1]]
            )
    return vertices, weights


def _farthest_hit(ray: Tensor, a: Tensor, b: Tensor, c: Tensor):
    """The farthest triangle that a ray from the origin meets and the weights of its corners
    (Möller and Trumbore 1997), or (None, None)."""
    across = torch.linalg.cross(ray.expand_as(c), c - a)
    determinant = ((b - a) * across).sum(1)
    flat = determinant.abs() < 1e-12
    inverse = 1 / torch.where(flat, torch.ones_like(determinant), determinant)
    u = (-a * across).sum(1) * inverse
    other = torch.linalg.cross(-a, b - a)
    v = (ray * other).sum(1) * inverse
    t = ((c - a) * other).sum(1) * inverse
    good = ~flat & (u >= -1e-4) & (v >= -1e-4) & (u + v <= 1 + 1e-4) & (t > 0)
    if not good.any():
        return None, None
    best = torch.where(good, t, torch.full_like(t, -1.0)).argmax()
    return best, torch.stack([1 - u[best] - v[best], u[best], v[best]])


def hull_centre(points: Tensor) -> Tensor:
    """The point inside the head from which hair directions are counted: between the ears."""
    top = points[:, 1].max()
    return torch.stack([points.new_zeros(()), top - CROWN, points.new_tensor(0.048)])
