"""From people and photographs to posed triangles: everything before there are pixels."""

import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from labkit.synth import hair as hair_geometry
from labkit.synth.anatomy import CROWN, HULL_THETAS, hull_centre
from labkit.synth.draws import noise_bank
from labkit.synth.head import LASHES, LEFT_EYE, RIGHT_EYE, SKIN, load_head
from labkit.synth.light import light_vertices, rotate
from labkit.synth.raster import rasterize
from labkit.synth.skin import AXIS, MAP_HEIGHT, MAP_WIDTH, SkinPainter, map_place

# What a triangle is made of. From SOFT_FROM on, triangles are cut out by strands.
(MADE_OF_SKIN, MADE_OF_EYE, MADE_OF_TEETH, MADE_OF_TONGUE, MADE_OF_FRAME, MADE_OF_LENS,
 MADE_OF_LASH, MADE_OF_HAIR) = range(8)  # fmt: skip
_MATERIALS = {0: MADE_OF_SKIN, 1: MADE_OF_EYE, 2: MADE_OF_EYE, 3: MADE_OF_TEETH, 4: MADE_OF_TEETH,
              5: MADE_OF_TONGUE, 6: MADE_OF_LASH}  # fmt: skip
PIVOT = (0.0, -0.085, -0.005)
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
PEOPLE_KEPT = 256
MAP_BYTES = MAP_HEIGHT * MAP_WIDTH * 4 * 4


@dataclass
class Assets:
    """What all photographs share, on one device."""

    device: torch.device
    head_vertices: int
    faces: Tensor
    material: Tensor
    two_sided: Tensor
    soft_from: int
    shape_basis: Tensor
    template: Tensor
    actions: Tensor
    neighbours: Tensor
    skin_faces: Tensor
    static: Tensor
    transfer: Tensor
    open_transfer: Tensor
    head_weight: Tensor
    polar: Tensor
    ear: Tensor
    dim_inside: Tensor
    is_skin: Tensor
    eye_vertices: tuple[Tensor, Tensor]
    hull_corners: Tensor
    hull_weights: Tensor
    landmarks: Tensor
    chin: int
    hull_depth: float
    bank: Tensor
    painter: SkinPainter
    glass_start: int
    hair_start: int

    @property
    def vertices(self) -> int:
        return self.hair_start + HULL_THETAS * hair_geometry.ROWS


@lru_cache(maxsize=4)
def assets(device: str) -> Assets:
    """The head model made ready for one device."""
    head = load_head()
    count = len(head.template)
    average = head.template + head.shapes[[1, 4, 10, 13]].float().mean(0)
    part = head.vertex_part.long()
    eye_vertices = tuple((part == p).nonzero().squeeze(1) for p in (LEFT_EYE, RIGHT_EYE))
    eyes = torch.stack([average[v].mean(0) for v in eye_vertices])
    origin = eyes.mean(0) - torch.tensor([0.0, 0.0, AXIS])
    centred = average - origin

    u, v = (torch.tensor(a) for a in map_place(*(centred[:, i].numpy() for i in range(3))))
    inside = head.masks[:, 3] * (1 - head.masks[:, 0])
    static = torch.stack([u, v, head.masks[:, 0], inside], 1)
    lashes = (part == LASHES).nonzero().squeeze(1)
    skin = (part == SKIN).nonzero().squeeze(1)
    away = torch.cdist(centred[lashes], centred[skin]).amin(1)
    static[lashes, 0] = centred[lashes, 0] * 90
    static[lashes, 1] = (away / away.max()).clamp(0, 1)
    upper = torch.zeros(count, dtype=torch.bool)
    for v_eye, eye in zip(eye_vertices, eyes, strict=True):
        offset = average[v_eye] - eye
        static[v_eye, :3] = torch.nn.functional.normalize(offset, dim=1)
        static[v_eye, 3] = 0
        near = (average[lashes] - eye).norm(dim=1) < 0.045
        upper[lashes[near & (average[lashes][:, 1] > eye[1] + 0.0015)]] = True

    centre = hull_centre(average)
    ray = average - centre
    polar = torch.stack(
        [
            torch.atan2(ray[:, 0], ray[:, 2]) / (2 * math.pi),
            torch.rad2deg(torch.atan2(ray[:, [0, 2]].norm(dim=1), ray[:, 1])),
        ],
        1,
    )
    material = torch.tensor([_MATERIALS[int(p)] for p in head.part])
    useful = material != MADE_OF_LASH
    useful |= upper[head.faces].all(1)
    faces, material = head.faces[useful], material[useful]
    frame, lens = hair_geometry.glasses_faces()
    glass_start = count
    hair_start = count + int(lens.max()) + 1
    hair_start = max(hair_start, count + int(frame.max()) + 1)
    strands = hair_geometry.hair_faces()
    soft = material == MADE_OF_LASH
    all_faces = [faces[~soft], frame + glass_start, lens + glass_start, faces[soft]]
    all_material = [
        material[~soft],
        torch.full((len(frame),), MADE_OF_FRAME),
        torch.full((len(lens),), MADE_OF_LENS),
        material[soft],
        torch.full((len(strands),), MADE_OF_HAIR),
    ]
    soft_from = sum(len(f) for f in all_faces[:3])
    all_faces = torch.cat([*all_faces, strands + hair_start])
    all_material = torch.cat(all_material)

    lips = (head.masks[:, 0] > 0.5) & (part == SKIN)
    lip_x = torch.where(lips, centred[:, 0], torch.zeros(()))
    nose = int(torch.where((part == SKIN) & (centred[:, 1] > -0.07), centred[:, 2],
                           centred[:, 2] - 1).argmax())  # fmt: skip
    face_front = (part == SKIN) & (centred[:, 0].abs() < 0.004) & (centred[:, 2] > 0.07)
    chin = int(torch.where(face_front & (centred[:, 1] > -0.15), centred[:, 1],
                           centred[:, 1] + 1).argmin())  # fmt: skip

    place = _map_points(centred, head.faces[head.part == SKIN], u, v)
    basis = torch.cat([head.shapes, head.ancestry, head.local[:, 0], head.local[:, 1]]).float()
    actions = head.actions.double()
    for v_eye in eye_vertices:
        actions[:, v_eye] = 0
    height = centred[:, 1] + 0.10 * (centred[:, 2] < 0.02) * (centred[:, 1] < -0.05)
    weight = ((height + 0.205) / 0.085).clamp(0, 1)
    bank = noise_bank()
    moved = dict(
        faces=all_faces, material=all_material, two_sided=all_material >= MADE_OF_FRAME,
        shape_basis=basis.reshape(len(basis), -1), template=head.template,
        actions=actions.reshape(len(actions), -1), neighbours=_incident(faces, count),
        skin_faces=faces, static=static, transfer=head.transfer,
        open_transfer=head.open_transfer, head_weight=weight * weight * (3 - 2 * weight),
        polar=polar, ear=head.masks[:, 2] * (part == SKIN),
        dim_inside=((part >= 3) & (part <= 5)).float(),
        is_skin=(part == SKIN).float(),
        hull_corners=head.hull_vertices, hull_weights=head.hull_weights,
        landmarks=torch.tensor([nose, int(lip_x.argmax()), int(lip_x.argmin())]),
        bank=torch.tensor(bank),
    )  # fmt: skip
    return Assets(
        device=torch.device(device), head_vertices=count, soft_from=soft_from, chin=chin,
        hull_depth=float(centre[2] - origin[2]),
        painter=SkinPainter(place, bank), glass_start=glass_start, hair_start=hair_start,
        eye_vertices=tuple(v_eye.to(device) for v_eye in eye_vertices),
        **{name: value.to(device) for name, value in moved.items()},
    )  # fmt: skip


def _incident(faces: Tensor, count: int) -> Tensor:
    """For each vertex, the triangles around it (count, most); padded with len(faces)."""
    lists = [[] for _ in range(count)]
    for number, corners in enumerate(faces.tolist()):
        for vertex in corners:
            lists[vertex].append(number)
    most = min(max(len(entry) for entry in lists), 10)
    return torch.tensor([(e + [len(faces)] * most)[:most] for e in lists])


def _map_points(points: Tensor, faces: Tensor, u: Tensor, v: Tensor) -> np.ndarray:
    """The outermost point of the average head under each cell of the skin map."""
    seam = (u[faces].amax(1) - u[faces].amin(1)) > 0.4
    faces = faces[~seam]
    size = MAP_WIDTH
    xy = torch.stack([u * size, v * size], 1)
    away = 1.0 - (points[:, 0] ** 2 + (points[:, 2]) ** 2).sqrt()
    both = torch.ones(len(faces), dtype=torch.bool)
    pieces = rasterize(xy[None].float(), away[None], faces, size, two_sided=both)
    value = (points[faces[pieces.face]] * pieces.weights[..., None]).sum(1)
    grid = torch.full((size * size, 3), -1.0)
    grid[pieces.pixel] = value
    grid = grid.reshape(size, size, 3)
    rows = ((torch.arange(MAP_HEIGHT) + 0.5) / MAP_HEIGHT * size).long()
    return grid[rows].numpy()


@dataclass(eq=False)
class Dressed:
    """A person made ready for one device."""

    points: Tensor  # (head vertices, 3), centred between and behind the eyes
    skin_map: Tensor  # (MAP_HEIGHT * MAP_WIDTH, 4)
    bumps: Tensor  # (HULL_THETAS, ROWS)


class Wardrobe:
    """Dressed people, the most recent kept: building one costs some milliseconds."""

    def __init__(self, device: str):
        self.assets = assets(device)
        self.most = PEOPLE_KEPT
        if self.assets.device.type == "cuda":  # where painting would keep the GPU waiting
            memory = torch.cuda.get_device_properties(self.assets.device).total_memory
            self.most = max(PEOPLE_KEPT, memory // 4 // MAP_BYTES)
        self.kept: dict[object, Dressed] = {}
        self.lock = threading.Lock()

    def dressed(self, person) -> Dressed:
        key = (person.population, person.number, person.texture_seed)
        found = self.kept.get(key)
        if found is None:
            found = self._dress(person)
            with self.lock:
                while len(self.kept) >= self.most:
                    self.kept.pop(next(iter(self.kept)))
                self.kept[key] = found
        return found

    def _dress(self, person) -> Dressed:
        a = self.assets
        amounts = np.concatenate(
            [person.macro, person.race, person.local.clip(min=0), (-person.local).clip(min=0)]
        )
        amounts = torch.from_numpy(amounts.astype(np.float32)).to(a.device)
        points = a.template + torch.mv(a.shape_basis.T, amounts).reshape(-1, 3)
        eyes = torch.stack([points[v].mean(0) for v in a.eye_vertices])
        points = points - (eyes.mean(0) - points.new_tensor([0.0, 0.0, AXIS]))
        painted = torch.from_numpy(a.painter.paint(person)).reshape(-1, 4).to(a.device)
        rng = np.random.Generator(np.random.Philox(person.hair["texture"]))
        bumps = torch.from_numpy(
            rng.standard_normal((HULL_THETAS, hair_geometry.ROWS)).astype(np.float32)
        )
        return Dressed(points, painted, bumps.to(a.device))


def posed(a: Assets, people: list[Dressed], persons: list, photos: list) -> dict[str, Tensor]:
    """Place everything before the camera.

    Returns camera-frame points (batch, vertices, 3), `depth` (batch, vertices), `plane` (batch,
    vertices, 2) on the image plane at distance 1, `attributes` (batch, vertices, 8) for shading,
    landmarks (batch, 5, 2) and chin (batch, 2) on the same plane.
    """

    def gather(name: str, dtype=torch.float32) -> Tensor:
        stacked = np.stack([np.asarray(getattr(photo, name)) for photo in photos])
        return torch.from_numpy(stacked).to(a.device, dtype)

    def hair_gather(name: str) -> Tensor:
        stacked = np.stack([np.asarray(photo.hair[name], dtype=np.float32) for photo in photos])
        return torch.from_numpy(stacked).to(a.device)

    batch = len(photos)
    rest = torch.stack([person.points for person in people])
    # In double precision, so that a batch of one and of many round to the same single numbers.
    moved = gather("actions", torch.float64) @ a.actions
    points = rest + moved.float().reshape(batch, -1, 3)
    eyes = torch.stack([rest[:, v].mean(1) for v in a.eye_vertices], 1)
    gaze = _turn(gather("gaze"))
    for side, v in enumerate(a.eye_vertices):
        centre = eyes[:, side : side + 1]
        points[:, v] = rotate(gaze, points[:, v] - centre) + centre

    hair_numbers = {name: hair_gather(name) for name in photos[0].hair}
    hull = rest.index_select(1, a.hull_corners.reshape(-1))
    hull = hull.reshape(batch, *a.hull_corners.shape, 3) * a.hull_weights[..., None]
    hull = hull.sum(3)
    crown = rest[:, :, 1].amax(1)
    back = torch.full_like(crown, a.hull_depth)
    middle = torch.stack([torch.zeros_like(crown), crown - CROWN, back], 1)
    bumps = torch.stack([person.bumps for person in people])
    hair, hair_normal, strand, hair_q, alive = hair_geometry.hair_points(
        hull, middle, hair_numbers, bumps
    )
    covered = (hair_numbers["drop"] < 120).float()
    squeeze = 1 - 0.20 * covered[:, None] * a.ear
    points = torch.cat([points[..., :1] * squeeze[..., None], points[..., 1:]], 2)

    shapes = np.array(
        [
            [0.025, 0.019, 3.0, 0.002] if p.glasses is None or photo.glasses == "sun"
            else [p.glasses[k] for k in ("width", "height", "round", "thick")]
            for p, photo in zip(persons, photos, strict=True)
        ],
        dtype=np.float32,
    )  # fmt: skip
    half_head = hull[:, HULL_THETAS // 4, 15].norm(dim=-1)
    glasses = hair_geometry.glasses_points(
        points.new_tensor([0.0, 0.0, 0.0]) + eyes, half_head, torch.from_numpy(shapes).to(a.device)
    )

    normals = _normals(a, points)
    head, body = gather("head"), gather("body")
    pivot = points.new_tensor(PIVOT)
    weight = a.head_weight[None, :, None]
    turned = rotate(head, points - pivot) * weight + rotate(body, points - pivot) * (1 - weight)
    turned_normals = rotate(head, normals)
    hair_low = (1 - ((hair_q - 130) / 90).clamp(0, 1) * 0.6)[..., None]
    turned_hair = rotate(head, hair - pivot)
    turned_hair = turned_hair * hair_low + rotate(body, hair - pivot) * (1 - hair_low)
    everything = torch.cat([turned, rotate(head, glasses - pivot), turned_hair], 1) + pivot

    distance = gather("distance")
    depth = distance[:, None] - (everything[..., 2] - AXIS)
    plane = everything[..., :2] / depth[..., None]
    worn = torch.tensor([photo.glasses != "none" for photo in photos], device=a.device)
    dark = torch.tensor([photo.glasses == "sun" for photo in photos], device=a.device)
    hidden = torch.zeros_like(depth, dtype=torch.bool)
    hidden[:, a.hair_start :] = ~alive
    hidden[:, a.glass_start : a.hair_start] = ~worn[:, None]
    ring = 2 * hair_geometry.RIM
    for side in range(2):  # without its middle point a lens has no triangle
        hidden[:, a.glass_start + side * (ring + 1) + ring] |= ~dark
    depth = torch.where(hidden, torch.zeros_like(depth), depth)

    attributes, lit = light_vertices(
        a, persons, photos, normals, turned_normals, hair_numbers["ends"], hair_q, head, gather,
        rotate(head, hair_normal), rotate(head, strand),
    )  # fmt: skip
    eye_points = torch.stack([rotate(head, eyes[:, i : i + 1] - pivot)[:, 0] for i in range(2)], 1)
    eye_points = eye_points + pivot + eyes.new_tensor([0.0, 0.0, 0.0])
    five = torch.cat(
        [eye_points, everything[:, a.landmarks], everything[:, a.chin : a.chin + 1]], 1
    )
    flat = five[..., :2] / (distance[:, None] - (five[..., 2] - AXIS))[..., None]
    facing = (
        (turned_normals[..., 2] > 0.3) & (a.polar[:, 1] > 75) & (a.polar[:, 1] < 130)
    ).double()
    seen = lit.double()
    brightness = ((seen * facing).sum(1) / facing.sum(1).clamp_min(1)).float()
    return {
        "plane": plane,
        "brightness": brightness.clamp_min(0.05),
        "depth": depth,
        "attributes": attributes,
        "landmarks": flat[:, :5],
        "chin": flat[:, 5],
        "ends": hair_numbers["ends"],
        "starts": hair_numbers["starts"],
        "fray": hair_numbers["fray"],
    }


def _turn(gaze: Tensor) -> Tensor:
    """Rotations (batch, 3, 3) of eyeballs looking left and up by gaze (batch, 2) degrees."""
    left, up = torch.deg2rad(gaze).unbind(1)
    c, s = torch.cos(left), torch.sin(left)
    d, t = torch.cos(up), torch.sin(up)
    zero = torch.zeros_like(c)
    rows = [c, -s * -t, s * d, zero, d, t, -s, -c * t, c * d]
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def _normals(a: Assets, points: Tensor) -> Tensor:
    corners = points.index_select(1, a.skin_faces.reshape(-1)).reshape(len(points), -1, 3, 3)
    one, two, three = corners.unbind(2)
    flat = torch.linalg.cross(two - one, three - one)
    flat = torch.cat([flat, flat.new_zeros(len(points), 1, 3)], 1)
    total = flat.index_select(1, a.neighbours[:, 0])
    for column in range(1, a.neighbours.shape[1]):
        total = total + flat.index_select(1, a.neighbours[:, column])
    return torch.nn.functional.normalize(total, dim=-1)
