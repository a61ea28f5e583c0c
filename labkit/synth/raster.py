"""Triangles to pixels in plain PyTorch: one code path for CPU and CUDA, any batch size."""

from dataclasses import dataclass

import torch
from torch import Tensor

_DEPTH_STEPS = 2.0**30
_NEAREST = 0.2  # nothing is nearer to the camera than this
_EMPTY = 2**62


@dataclass
class Fragments:
    """The nearest surface under each covered pixel, as flat lists of length n, sorted by pixel.

    pixel: int64, index into the flattened (batch, size, size) image.
    image: int64, which image of the batch.
    face: int64, index into the triangles.
    weights: float32 (n, 3), weights of the triangle's corners on the screen (triangles are so
        small that perspective within one does not show).
    """

    pixel: Tensor
    image: Tensor
    face: Tensor
    weights: Tensor


def rasterize(
    xy: Tensor,
    depth: Tensor,
    faces: Tensor,
    size: int,
    *,
    two_sided: Tensor | None = None,
    keep=None,
    keep_from: int | None = None,
) -> Fragments:
    """Find the nearest triangle under each pixel centre.

    xy: float32 (batch, vertices, 2), pixels, x to the right and y down, pixel (0, 0) centred on
        (0.5, 0.5).
    depth: float32 (batch, vertices), distance from the camera plane, at least 0.2 in front.
    faces: int64 (faces, 3), shared by the batch; counter-clockwise as seen means front.
    two_sided: bool (faces,), triangles whose back is seen too.
    keep, keep_from: triangles from number `keep_from` on are cut out by
        `keep(image, face, weights) -> bool mask` before the depth test (hair, lashes).

    Triangles with a corner of depth 0 or less are left out.

    Each triangle is cut into pixel rows, each row into the pixels that the three edges leave, and
    one minimum over (depth, triangle) packed into 64 bits does the depth test for all.
    """
    batch = depth.shape[0]
    count = faces.shape[0]
    device = xy.device
    packed = torch.cat([xy, (1.0 / depth.clamp_min(1e-6)).unsqueeze(-1)], dim=-1)
    corners = packed.index_select(1, faces.reshape(-1)).reshape(batch * count, 9)
    x0, y0, q0, x1, y1, q1, x2, y2, q2 = corners.unbind(1)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    first_x = torch.ceil(torch.minimum(torch.minimum(x0, x1), x2) - 0.5).clamp(0, size)
    last_x = torch.floor(torch.maximum(torch.maximum(x0, x1), x2) - 0.5).clamp(-1, size - 1)
    first_y = torch.ceil(torch.minimum(torch.minimum(y0, y1), y2) - 0.5).clamp(0, size)
    last_y = torch.floor(torch.maximum(torch.maximum(y0, y1), y2) - 0.5).clamp(-1, size - 1)
    front = area < -1e-9
    if two_sided is not None:
        front = front | (two_sided.repeat(batch) & (area > 1e-9))
    visible = torch.maximum(torch.maximum(q0, q1), q2) < 1 / _NEAREST
    seen = front & visible & (last_x >= first_x) & (last_y >= first_y)
    chosen = seen.nonzero().squeeze(1)

    corners, area = corners.index_select(0, chosen), area.index_select(0, chosen)
    first_x, last_x = first_x.index_select(0, chosen), last_x.index_select(0, chosen)
    first_y, last_y = first_y.index_select(0, chosen), last_y.index_select(0, chosen)
    planes = _planes(corners, area, first_x, first_y)
    image = torch.div(chosen, count, rounding_mode="floor")
    face = chosen - image * count
    corner_pixel = image * (size * size) + (first_y * size + first_x).long()

    # Rows of each triangle; in each, the three edges say where the triangle begins and ends. An
    # edge crosses a row at a place that is linear in the row's number.
    a0, b0, c0, a1, b1, c1, az, bz, cz = planes.unbind(1)
    columns = [last_x - first_x, az, bz, cz]
    for slope, fall, value in ((a0, b0, c0), (a1, b1, c1), (-(a0 + a1), -(b0 + b1), 1 - c0 - c1)):
        divisor = torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)
        slant, place = -fall / divisor, -value / divisor
        opens = divisor > 0
        nothing = torch.zeros_like(slant)
        columns += [
            torch.where(opens, slant, nothing),
            torch.where(opens, place, nothing),
            torch.where(opens, nothing, slant),
            torch.where(opens, torch.full_like(place, float(size)), place),
        ]
    tall = (last_y - first_y + 1).long()
    triangle = torch.repeat_interleave(tall)
    down = torch.arange(len(triangle), device=device) - (torch.cumsum(tall, 0) - tall).index_select(
        0, triangle
    )
    rows = torch.stack(columns, 1).index_select(0, triangle)
    line = down.to(xy.dtype)
    begin, end = torch.zeros_like(line), rows[:, 0]
    for column in (4, 8, 12):
        begin = torch.maximum(begin, torch.addcmul(rows[:, column + 1], rows[:, column], line))
        end = torch.minimum(end, torch.addcmul(rows[:, column + 3], rows[:, column + 2], line))
    # Neighbours overlap by a hair's breadth rather than leave a crack.
    begin = torch.ceil(begin - 1e-3)
    length = (torch.floor(end + 1e-3) - begin + 1).clamp_min(0).long()
    begin = begin.clamp_max(size)
    row_pixel = corner_pixel.index_select(0, triangle) + down * size + begin.long()
    az = rows[:, 1]
    row_near = torch.addcmul(rows[:, 3], rows[:, 2], line) + az * begin

    row = torch.repeat_interleave(length)
    start = torch.cumsum(length, 0) - length
    step = torch.arange(len(row), device=device) - start.index_select(0, row)
    pixel = row_pixel.index_select(0, row) + step
    near = row_near.index_select(0, row) + az.index_select(0, row) * step.to(xy.dtype)
    owner = triangle.index_select(0, row)

    def weights_of(owner: Tensor, pixel: Tensor) -> Tensor:
        inside = pixel - corner_pixel.index_select(0, owner)
        line = torch.div(inside, size, rounding_mode="floor")
        column = (inside - line * size).to(xy.dtype)
        line = line.to(xy.dtype)
        p = planes.index_select(0, owner)
        first = p[:, 0] * column + p[:, 1] * line + p[:, 2]
        second = p[:, 3] * column + p[:, 4] * line + p[:, 5]
        return torch.stack([first, second, 1.0 - first - second], 1).clamp(0, 1)

    key = (_DEPTH_STEPS - near.clamp(0, 1 / _NEAREST) * (_DEPTH_STEPS * _NEAREST)).long()
    key = (key << 32) | owner
    buffer = torch.full((batch * size * size,), _EMPTY, dtype=torch.int64, device=device)
    if keep is None:
        buffer.scatter_reduce_(0, pixel, key, "amin")
    else:
        solid = face.index_select(0, owner) < keep_from
        hard, soft = solid.nonzero().squeeze(1), (~solid).nonzero().squeeze(1)
        buffer.scatter_reduce_(0, pixel.index_select(0, hard), key.index_select(0, hard), "amin")
        # Only what is not hidden anyway is worth the question whether it is a strand or a gap.
        key, owner, pixel = (x.index_select(0, soft) for x in (key, owner, pixel))
        soft = (key < buffer.index_select(0, pixel)).nonzero().squeeze(1)
        key, owner, pixel = (x.index_select(0, soft) for x in (key, owner, pixel))
        stays = keep(
            image.index_select(0, owner), face.index_select(0, owner), weights_of(owner, pixel)
        )
        key = torch.where(stays, key, torch.full_like(key, _EMPTY))
        buffer.scatter_reduce_(0, pixel, key, "amin")
    pixel = (buffer < _EMPTY).nonzero().squeeze(1)
    owner = buffer.index_select(0, pixel) & 0xFFFFFFFF
    return Fragments(
        pixel=pixel,
        image=image.index_select(0, owner),
        face=face.index_select(0, owner),
        weights=weights_of(owner, pixel),
    )


def _planes(corners: Tensor, area: Tensor, first_x: Tensor, first_y: Tensor) -> Tensor:
    """Coefficients (n, 9) of two corner weights and the inverse depth, counted in whole pixels
    from the first pixel of each triangle's box."""
    x0, y0, q0, x1, y1, q1, x2, y2, q2 = corners.unbind(1)
    left, top = first_x + 0.5, first_y + 0.5
    x0, x1, x2 = x0 - left, x1 - left, x2 - left
    y0, y1, y2 = y0 - top, y1 - top, y2 - top
    inverse_area = 1.0 / area
    a0 = (y1 - y2) * inverse_area
    b0 = (x2 - x1) * inverse_area
    c0 = (x1 * y2 - x2 * y1) * inverse_area
    a1 = (y2 - y0) * inverse_area
    b1 = (x0 - x2) * inverse_area
    c1 = (x2 * y0 - x0 * y2) * inverse_area
    return torch.stack(
        [
            *(a0, b0, c0, a1, b1, c1),
            a0 * (q0 - q2) + a1 * (q1 - q2),
            b0 * (q0 - q2) + b1 * (q1 - q2),
            c0 * (q0 - q2) + c1 * (q1 - q2) + q2,
        ],
        dim=1,
    )
