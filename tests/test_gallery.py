import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from labkit.data import FaceFolder, PairList, decode_image, make_pairs
from labkit.gallery import Gallery, top_k
from labkit.likeness import Calibration, calibrate, occlusion_map
from labkit.utils import UserError, l2_normalize


class FakeEmbedder:
    """Embeds by a fixed random projection of the pixels."""

    def __init__(self, sha256="a" * 64, folder="."):
        self.weights_sha256 = sha256
        self.weights_path = Path(folder) / "best.safetensors"
        self.projection = np.random.default_rng(0).normal(size=(192, 32)).astype(np.float32)

    def __call__(self, images):
        pixels = [np.asarray(image.resize((8, 8))).ravel() / 255 - 0.5 for image in images]
        return l2_normalize(np.stack(pixels).astype(np.float32) @ self.projection)

    def files(self, paths):
        return self([decode_image(path) for path in paths])


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(1)
    for star in ("gamma", "alpha", "beta"):
        (tmp_path / "faces" / star).mkdir(parents=True)
        base = rng.integers(0, 256, (8, 8, 3))
        for j in range(4):
            noisy = (base + rng.integers(-30, 30, base.shape)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((200, 200), Image.Resampling.NEAREST)
            image.save(tmp_path / "faces" / star / f"{j}.png")
    return tmp_path / "faces"


@pytest.fixture
def gallery(faces):
    return Gallery.build(faces, FakeEmbedder())


@pytest.mark.parametrize("count,k", [(1, 1), (7, 20), (500, 5), (3000, 1), (3000, 40)])
def test_search_equals_a_full_sort(count, k):
    rng = np.random.default_rng(count + k)
    rows, queries = (l2_normalize(rng.normal(size=(n, 48))) for n in (count, 7))
    for query in queries:
        indices, cosines = top_k(query, rows, k)
        exact = rows.astype(np.float64) @ query.astype(np.float64)
        assert np.array_equal(indices, np.argsort(-exact, kind="stable")[:k])
        assert np.allclose(cosines, exact[indices], atol=1e-6)


def test_equal_rows_come_in_the_order_of_their_indices():
    rng = np.random.default_rng(0)
    signs = rng.choice([-0.25, 0.25], (300, 16)).astype(np.float32)  # products are exact
    rows = np.concatenate([signs, np.repeat(signs[:2], 701, axis=0), signs])
    exact = rows @ signs[0]
    for k in (1, 30, 800):
        indices, cosines = top_k(signs[0], rows, k)
        assert indices.tolist() == sorted(range(len(rows)), key=lambda i: (-exact[i], i))[:k]
        assert np.array_equal(cosines, exact[indices])


def test_a_gallery_holds_means_and_the_picture_nearest_to_them(faces, gallery):
    assert gallery.identities == ["alpha", "beta", "gamma"] == gallery.names
    for k, star in enumerate(gallery.identities):
        paths = sorted((faces / star).iterdir())
        own = FakeEmbedder().files(paths).astype(np.float64)
        mean = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        assert np.allclose(gallery.means[k], mean, atol=1e-6)
        assert gallery.files[gallery.best[k]] == f"{star}/{paths[int((own @ mean).argmax())].name}"
    assert gallery.embeddings.shape == (12, 32) and gallery.note == ""


def test_a_saved_gallery_comes_back_the_same_and_stays_on_disk(faces, tmp_path):
    gallery = Gallery.build(faces, FakeEmbedder(folder=tmp_path / "run"))
    gallery.calibration = Calibration([[0.1, 0.2], [0.3, -0.1]])
    loaded = Gallery.load(gallery.save(tmp_path / "out" / "gallery.safetensors"))
    for name in ("embeddings", "labels", "means", "best"):
        assert np.array_equal(getattr(gallery, name), getattr(loaded, name))
    assert "out/gallery.safetensors" in Path("/proc/self/maps").read_text()
    assert loaded.files == gallery.files and loaded.names == gallery.names
    assert loaded.weights_path == tmp_path / "run" / "best.safetensors"
    assert loaded.thumbnails() == gallery.thumbnails()
    assert [loaded.thumbnail(1).width, loaded.thumbnail(1, image=5).width] == [192, 64]
    again = Gallery.load(loaded.save(tmp_path / "again.safetensors"))
    assert again.calibration == gallery.calibration and again.details == gallery.details
    assert again.weights_sha256 == "a" * 64


def test_search_by_star_and_by_image(faces, gallery):
    probe = FakeEmbedder().files([faces / "beta" / "2.png"])
    [stars] = gallery.search(probe, k=5)
    assert [len(stars), stars[0].name, stars[0].image] == [3, "beta", None]
    assert stars == gallery.search(probe[0], k=5)
    assert stars[0].similarity == pytest.approx(float(probe[0] @ gallery.means[1]), abs=1e-6)
    image = gallery.search(probe[0], k=2, level="image")[0]
    assert image.file == "beta/2.png" and image.similarity == pytest.approx(1, abs=1e-6)
    assert gallery.files[image.image] == image.file


def test_wrong_questions_get_clear_answers(gallery):
    for question, sentence in (
        (dict(embeddings=np.ones(32), k=0), "ask for 1"),
        (dict(embeddings=np.ones(32), level="film"), "film"),
        (dict(embeddings=np.ones(99)), "99 numbers do not fit a gallery of 32"),
        (dict(embeddings=np.full(32, np.nan)), "not finite"),
    ):
        with pytest.raises(UserError, match=sentence):
            gallery.search(**question)
    with pytest.raises(UserError, match="other weights"):
        gallery.check(FakeEmbedder("b" * 64))


def test_names_and_attributes_come_from_the_table_of_identities(faces, tmp_path):
    table = "identity,name,hangul,synthetic,hair\nalpha,Haneul,하늘,1,black\nbeta,,,1,blond\n"
    (tmp_path / "identities.csv").write_text(table, encoding="utf-8")
    gallery = Gallery.build(FaceFolder.scan(faces), FakeEmbedder())
    assert gallery.names == ["Haneul", "beta", "gamma"]
    assert gallery.details[0]["hangul"] == "하늘" and "synthetic" in gallery.note
    assert gallery.attributes == {"hair": ["black", "blond", ""]}


def test_one_bad_image_is_left_out_and_many_stop_the_build(faces):
    (faces / "alpha" / "1.png").write_bytes(b"not a picture")
    gallery = Gallery.build(faces, FakeEmbedder())
    assert gallery.skipped == ["alpha/1.png"] and len(gallery.files) == 11
    (faces / "beta" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 12 images .* alpha/1.png first"):
        Gallery.build(faces, FakeEmbedder())


DAMAGE = {
    "empty": lambda file: b"",
    "another file": lambda file: b"\x10" + bytes(40),
    "cut short": lambda file: file[:-50],
    "another kind": lambda file: file.replace(b"kstar-facelab gallery", b"kstar-facelab nothing"),
    "a label of no star": lambda file: file.replace(np.int64([2, 2]), np.int64([2, 7]), 1),
    "names missing": lambda file: file.replace(b'["alpha", "beta", "gamma"]', b"[1, 2]".ljust(26)),
    "damaged header": lambda file: file.replace(b'"dtype"', b'"dtypo"').replace(b'"shape"', b'"X"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_or_no_gallery_is_refused_in_one_line(gallery, tmp_path, damage):
    path = gallery.save(tmp_path / "gallery.safetensors")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(UserError, match="cannot be read as a gallery") as caught:
        Gallery.load(path)
    assert "gallery.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="none.safetensors does not exist"):
        Gallery.load(tmp_path / "none.safetensors")


def test_a_gallery_file_of_before_still_says_how_close_strangers_are(gallery, tmp_path):
    path = gallery.save(tmp_path / "gallery.safetensors")
    before = dict(slope=9.0, intercept=-3.0, targets=5, imposters=90)
    before["quantiles"] = np.linspace(0, 0.5, 1001).tolist()
    tensors, about = load_file(path), dict(safe_open(path, "np").metadata())
    info = json.loads(tensors["names"].tobytes()) | dict(calibration=before)
    tensors["names"] = np.frombuffer(json.dumps(info).encode(), np.uint8)
    save_file(tensors, path, about)
    calibration = Gallery.load(path).calibration
    assert calibration.percentile(0.45) == pytest.approx(90, abs=0.2)
    assert calibration.strangers(0.45, 10) == pytest.approx(100 * (1 - 0.9**10), abs=0.7)
    assert "one this close in about 66 of 100 searches" in calibration.describe(0.45, 10)
    assert Gallery.load(Gallery.load(path).save(path)).calibration == calibration


def strangers(people: int, seed: int, photos: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Photos (people, photos, 24) and means; groups, noise and shared features as faces have."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(0).normal(size=(5, 24))
    persons = 0.4 * groups[rng.integers(0, 5, people)] + rng.normal(size=(people, 24))
    noise = rng.gamma(4, 0.2, (people, 1, 1)) * rng.normal(size=(people, photos, 24))
    faces = l2_normalize(persons[:, None] + noise)
    return faces, l2_normalize(faces.mean(axis=1))


def measured_on(people: int, seed: int = 1) -> Calibration:
    faces, means = strangers(people, seed)
    other = np.repeat(~np.eye(people, dtype=bool), faces.shape[1], axis=0)
    return Calibration((faces.reshape(-1, 24) @ means.T)[other].reshape(-1, people - 1).tolist())


@pytest.mark.parametrize(("among", "off"), [(1, 5), (20, 5), (60, 5), (450, 12), (1229, 15)])
def test_strangers_find_one_this_close_as_often_as_in_real_searches(among, off):
    """Searches of 2,400 photos of other people in a gallery of other people again."""
    calibration, (probes, _), (_, gallery) = measured_on(150), strangers(600, 2), strangers(1229, 3)
    best = (probes.reshape(-1, 24) @ gallery[:among].T).max(axis=1)
    for share in (75, 50, 25):
        similarity = np.quantile(best, 1 - share / 100)
        assert calibration.strangers(similarity, among) == pytest.approx(share, abs=off)
    assert calibration.measured(among) == (among <= 149)


def test_searches_among_all_or_some_of_those_compared_are_counted():
    rows = np.array(measured_on(12).similarities)
    calibration, similarity = Calibration(rows.tolist()), float(np.quantile(rows, 0.9))
    found = (rows.max(axis=1) >= similarity).mean()
    assert calibration.strangers(similarity, 11) == pytest.approx(100 * found)
    draws = [rows[:, list(pair)].max(axis=1) >= similarity for pair in combinations(range(11), 2)]
    assert calibration.strangers(similarity, 2) == pytest.approx(100 * np.mean(draws))
    for likeness in (-2, similarity, 2):
        share = 100 * (rows < likeness).mean()
        assert calibration.percentile(likeness) == pytest.approx(share, abs=1e-9)


def test_calibration_compares_each_photo_with_the_means_of_all_the_others(faces):
    embedder = FakeEmbedder()
    pairs = make_pairs(FaceFolder.scan(faces), per_image=6)
    vectors = dict(zip(pairs.files, embedder.files([faces / name for name in pairs.files])))
    wanted = []
    for name, own in vectors.items():
        others = [star for star in ("alpha", "beta", "gamma") if not name.startswith(star)]
        sums = [sum(v for n, v in vectors.items() if n.startswith(star)) for star in others]
        wanted.append([float(own @ total / np.linalg.norm(total)) for total in sums])
    assert np.allclose(calibrate(embedder, pairs, faces).similarities, wanted, atol=1e-4)
    with pytest.raises(UserError, match="blind"):
        calibrate(embedder, make_pairs(FaceFolder.scan(faces), labelled=False), faces)
    alone = PairList.from_names(["alpha/0.png"], ["alpha/1.png"], [1])
    with pytest.raises(UserError, match="one person"):
        calibrate(embedder, alone, faces)


def test_the_description_speaks_of_strangers_and_never_of_one_person():
    calibration = measured_on(80)
    said = [calibration.describe(similarity, 450) for similarity in np.linspace(-1, 1, 201)]
    assert not any("chance" in words or "same person" in words for words in said)
    assert "not much alike" in said[0]
    assert "nearly every pair" in said[-1] and "in fewer than 2 of 100 searches" in said[-1]
    assert any("among 450 a stranger finds one this close in about 5" in words for words in said)
    close = float(np.quantile(calibration.similarities, 0.98))
    assert "closer than 98.0 % of pairs" in calibration.describe(close, 79)
    assert "in more than 99 of 100 searches" in calibration.describe(close, 10**6)
    assert "about" not in calibration.describe(close, 20)


def test_the_occlusion_map_points_at_the_part_that_matters():
    def looks_at_one_corner(images):
        corner = [np.asarray(image)[:16, :16].mean() / 255 for image in images]
        return np.stack([[c, np.sqrt(1 - c**2)] for c in corner]).astype(np.float32)

    face = Image.new("RGB", (64, 64), (250, 250, 250))
    falls = occlusion_map(looks_at_one_corner, face, np.array([1.0, 0.0]), cells=8)
    assert falls.shape == (8, 8) and falls[:2, :2].min() > 0.1
    assert np.abs(falls[4:, 4:]).max() < 1e-6
