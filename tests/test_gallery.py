import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labkit.data import FaceFolder, make_pairs
from labkit.gallery import (
    Calibration,
    Gallery,
    calibrate,
    fit_calibration,
    lookalike_sheet,
    occlusion_map,
    search,
)
from labkit.gallery.compact import CompactScreen, compiled
from labkit.gallery.search import normalized, top_k
from labkit.utils import UserError


class FakeEmbedder:
    """Embeds by a fixed random projection of the pixels."""

    embedding_size = 32

    def __init__(self, sha256="a" * 64, folder="."):
        self.weights_sha256 = sha256
        self.weights_path = Path(folder) / "best.safetensors"
        self.projection = np.random.default_rng(0).normal(size=(192, 32)).astype(np.float32)

    def __call__(self, images):
        pixels = [np.asarray(image.resize((8, 8))).ravel() / 255 - 0.5 for image in images]
        return normalized(np.stack(pixels).astype(np.float32) @ self.projection)


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


def brute_force(queries, rows, k):
    exact = np.asarray(queries, dtype=np.float64) @ np.asarray(rows, dtype=np.float64).T
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(exact, order, axis=1)


@pytest.mark.parametrize("count,k", [(1, 1), (7, 20), (500, 5), (3000, 1), (3000, 40)])
def test_search_equals_brute_force(monkeypatch, count, k):
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 257)
    monkeypatch.setattr(search, "QUERIES_PER_BLOCK", 3)
    rng = np.random.default_rng(count + k)
    rows, queries = normalized(rng.normal(size=(count, 48))), normalized(rng.normal(size=(7, 48)))
    numbers, values = top_k(queries, rows, k)
    wanted, similarities = brute_force(queries, rows, k)
    assert np.array_equal(numbers, wanted)
    assert np.allclose(values, similarities, atol=1e-6)


def test_search_with_many_equal_and_nearly_equal_rows_keeps_their_order(monkeypatch):
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 64)
    rng = np.random.default_rng(0)
    rows = np.repeat(normalized(rng.normal(size=(4, 16))), 200, axis=0)
    nearly = rows + 1e-8 * rng.normal(size=rows.shape).astype(np.float32)
    for case in (rows, nearly.astype(np.float32)):
        numbers, _ = top_k(rows[:1], case, 30)
        assert np.array_equal(numbers, brute_force(rows[:1], case, 30)[0])


def test_the_compact_screen_of_a_large_gallery_gives_the_same_answers(monkeypatch):
    rng = np.random.default_rng(5)
    rows = normalized(rng.normal(size=(4000, 64)))
    queries = normalized(rows[:5] + 0.02 * rng.normal(size=(5, 64)))
    screen = CompactScreen.of(rows)
    for k in (1, 10):
        numbers, values = screen.top_k(queries, k)
        assert np.array_equal(numbers, brute_force(queries, rows, k)[0])
        assert np.array_equal(values, top_k(queries, rows, k)[1])


def test_a_gallery_holds_means_and_the_picture_nearest_to_them(faces):
    embedder = FakeEmbedder()
    gallery = Gallery.build(faces, embedder)
    assert gallery.identities == ["alpha", "beta", "gamma"] == gallery.names
    for k, star in enumerate(gallery.identities):
        paths = sorted((faces / star).iterdir())
        own = embedder([Image.open(path).convert("RGB") for path in paths]).astype(np.float64)
        mean = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        assert np.allclose(gallery.means[k], mean, atol=1e-6)
        assert gallery.files[gallery.best[k]] == f"{star}/{paths[int((own @ mean).argmax())].name}"
    assert gallery.embeddings.dtype == np.float32 and gallery.embeddings.shape == (12, 32)
    assert not gallery.synthetic and gallery.note == ""


def test_a_saved_gallery_comes_back_the_same_and_stays_on_disk(faces, tmp_path):
    gallery = Gallery.build(faces, FakeEmbedder(folder=tmp_path / "run"))
    loaded = Gallery.load(gallery.save(tmp_path / "out" / "gallery.safetensors"))
    for name in ("embeddings", "labels", "means", "best"):
        assert np.array_equal(getattr(gallery, name), getattr(loaded, name))
    assert isinstance(loaded.embeddings, np.memmap)
    assert loaded.files == gallery.files and loaded.names == gallery.names
    assert loaded.weights_path == tmp_path / "run" / "best.safetensors"
    assert loaded.thumbnails() == gallery.thumbnails()
    assert loaded.thumbnail(1).size == (192, 192)
    assert loaded.thumbnail(1, image=5).size == (64, 64)
    best = Image.open(faces / loaded.files[loaded.best[2]]).resize((192, 192))
    difference = np.asarray(best).astype(int) - np.asarray(loaded.thumbnail(2))
    assert np.abs(difference).mean() < 20


def test_a_large_gallery_is_searched_through_its_compact_copy(faces, tmp_path, monkeypatch):
    from labkit.gallery import gallery as module

    monkeypatch.setattr(module, "LARGE", 5)
    gallery = Gallery.build(faces, FakeEmbedder())
    loaded = Gallery.load(gallery.save(tmp_path / "gallery.safetensors"))
    probes = gallery.embeddings[[3, 7]]
    assert loaded._compact is not None and gallery._compact is None
    found, wanted = (g.search(probes, 4, level="image") for g in (loaded, gallery))
    assert found == wanted


def test_a_loop_is_compiled_where_nothing_can_be_kept_on_disk():
    space = {}
    exec("def twice(x):\n    return 2 * x", space)  # from no file, so there is nowhere to keep it
    assert compiled(space["twice"])(21) == 42


def test_a_gallery_file_is_plain_safetensors_that_names_its_weights(faces, tmp_path):
    from safetensors import safe_open

    gallery = Gallery.build(faces, FakeEmbedder())
    gallery.save(tmp_path / "gallery.safetensors")
    with safe_open(tmp_path / "gallery.safetensors", framework="np") as stored:
        assert stored.metadata()["weights_sha256"] == "a" * 64
        assert np.array_equal(stored.get_tensor("embeddings"), gallery.embeddings)


def test_search_by_star_and_by_image(faces):
    embedder = FakeEmbedder()
    gallery = Gallery.build(faces, embedder)
    probe = embedder([Image.open(faces / "beta" / "2.png").convert("RGB")])
    [stars] = gallery.search(probe, k=5)
    assert [len(stars), stars[0].name, stars[0].image] == [3, "beta", None]
    assert stars == gallery.search(probe[0], k=5)
    assert stars[0].similarity == pytest.approx(float(probe[0] @ gallery.means[1]), abs=1e-6)
    image = gallery.search(probe[0], k=2, level="image")[0]
    assert image.file == "beta/2.png" and image.similarity == pytest.approx(1, abs=1e-6)
    assert gallery.files[image.image] == image.file


def test_wrong_questions_get_clear_answers(faces):
    gallery = Gallery.build(faces, FakeEmbedder())
    for arguments, sentence in (
        (dict(embeddings=np.ones(32), k=0), "at least 1"),
        (dict(embeddings=np.ones(32), level="film"), "film"),
        (dict(embeddings=np.ones(99)), "99 numbers do not fit a gallery of 32"),
    ):
        with pytest.raises(UserError, match=sentence):
            gallery.search(**arguments)
    with pytest.raises(UserError, match="other weights"):
        gallery.check(FakeEmbedder("b" * 64))
    gallery.check(FakeEmbedder())


def test_names_come_from_the_table_of_identities(faces, tmp_path):
    table = "identity,name,hangul,synthetic\nalpha,Haneul,하늘,1\nbeta,,,1\n"
    (tmp_path / "identities.csv").write_text(table, encoding="utf-8")
    gallery = Gallery.build(faces, FakeEmbedder())
    assert gallery.names == ["Haneul", "beta", "gamma"]
    assert gallery.details[0]["hangul"] == "하늘"
    assert gallery.synthetic and "synthetic" in gallery.note
    (faces / "identities.csv").write_text("nothing,useful\n1,2\n")
    assert FaceFolder.scan(faces).details()["alpha"]["name"] == "Haneul"


def test_a_few_images_of_each_star(faces):
    gallery = Gallery.build(faces, FakeEmbedder(), images_per_identity=2)
    assert gallery.files[:2] == ["alpha/0.png", "alpha/3.png"] and len(gallery.files) == 6


def test_one_bad_image_is_left_out_and_many_stop_the_build(faces):
    (faces / "alpha" / "1.png").write_bytes(b"not a picture")
    gallery = Gallery.build(faces, FakeEmbedder())
    assert gallery.skipped == ["alpha/1.png"] and len(gallery.files) == 11
    (faces / "beta" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 12 images .* alpha/1.png first"):
        Gallery.build(faces, FakeEmbedder())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x10" + bytes(40), None])
def test_a_file_that_is_no_gallery_is_refused(tmp_path, content):
    path = tmp_path / "gallery.safetensors"
    if content is None:
        from safetensors.numpy import save_file

        save_file({"x": np.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="not a gallery file"):
        Gallery.load(path)


def test_a_truncated_gallery_is_refused_and_a_missing_one_named(faces, tmp_path):
    path = Gallery.build(faces, FakeEmbedder()).save(tmp_path / "gallery.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        Gallery.load(path)
    with pytest.raises(UserError, match="does not exist"):
        Gallery.load(tmp_path / "none.safetensors")


def scores_and_labels(seed=0, targets=3000, imposters=9000):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0.55, 0.15, targets), rng.normal(0.1, 0.12, imposters)])
    return scores, np.repeat([1, 0], [targets, imposters])


def test_calibration_says_how_many_pairs_of_different_people_are_less_alike():
    scores, labels = scores_and_labels()
    calibration = fit_calibration(scores, labels)
    for similarity in (-0.1, 0.1, 0.3, 0.42):
        share = 100 * (scores[labels == 0] < similarity).mean()
        assert calibration.percentile(similarity) == pytest.approx(share, abs=0.11)
    assert calibration.percentile(2.0) == 100 and calibration.percentile(-2.0) == 0


def test_calibration_is_the_balanced_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    scores, labels = scores_and_labels()
    calibration = fit_calibration(scores, labels)
    oracle = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8, max_iter=1000)
    oracle.fit(scores[:, None], labels)
    grid = np.linspace(-0.2, 0.9, 23)
    wanted = oracle.predict_proba(grid[:, None])[:, 1]
    # Platt's smoothed targets move the curve a little
    assert np.allclose(calibration.probability(grid), wanted, atol=0.02)
    assert calibration.probability(0.4, prior=0.01) < calibration.probability(0.4)


def test_calibration_stays_finite_on_separable_scores_and_survives_a_file(tmp_path):
    calibration = fit_calibration([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0])
    assert 0.5 < calibration.probability(0.9) < 1
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    assert json.loads((tmp_path / "calibration.json").read_text())["targets"] == 2
    (tmp_path / "calibration.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not a calibration file"):
        Calibration.load(tmp_path / "calibration.json")


class FilesToo(FakeEmbedder):
    def files(self, paths):
        return self([Image.open(path) for path in paths])


def test_calibration_compares_each_photo_with_the_mean_of_the_others(faces):
    embedder = FilesToo()
    pairs = make_pairs(FaceFolder.scan(faces), per_image=6)
    calibration = calibrate(embedder, pairs, faces)
    vectors = dict(zip(pairs.files, embedder.files([faces / name for name in pairs.files])))
    scores = []
    for i in range(len(pairs)):
        left, right = pairs.name_pair(i)
        person = right.split("/")[0]
        mean = sum(v for name, v in vectors.items() if name.startswith(person) and name != left)
        scores.append(float(vectors[left] @ mean / np.linalg.norm(mean)))
    wanted = fit_calibration(scores, pairs.labels)
    assert (calibration.targets, calibration.imposters) == (wanted.targets, wanted.imposters)
    assert np.allclose(calibration.quantiles, wanted.quantiles, atol=1e-5)
    assert calibration.slope == pytest.approx(wanted.slope, rel=1e-3)
    with pytest.raises(UserError, match="blind"):
        calibrate(embedder, make_pairs(FaceFolder.scan(faces), labelled=False), faces)


def test_a_gallery_keeps_its_calibration(faces, tmp_path):
    gallery = Gallery.build(faces, FakeEmbedder())
    assert gallery.calibration is None
    gallery.calibration = fit_calibration(*scores_and_labels())
    loaded = Gallery.load(gallery.save(tmp_path / "gallery.safetensors"))
    assert loaded.calibration == gallery.calibration
    assert Gallery.load(loaded.save(tmp_path / "again.safetensors")).calibration is not None


def test_the_best_of_many_stars_is_told_as_luck():
    calibration = fit_calibration(*scores_and_labels())
    likeness = float(np.quantile(calibration.quantiles, 0.99))
    assert calibration.describe(likeness).startswith("closer than 99")
    assert calibration.describe(likeness, among=1).startswith("closer than 99")
    said = calibration.describe(likeness, among=1229)
    assert said.startswith("closer than 99") and "among 1,229 stars most people find" in said
    assert "chance" not in said
    assert "chance of the same person" in calibration.describe(0.6, among=1229)


def test_attributes_are_what_is_known_besides_names(faces, tmp_path):
    table = "identity,name,number,hair,glasses\nalpha,A,1,black,0\nbeta,B,2,blond,0\n"
    (tmp_path / "identities.csv").write_text(table, encoding="utf-8")
    gallery = Gallery.build(faces, FakeEmbedder())
    assert gallery.attributes == {
        "hair": ["black", "blond", ""],
        "glasses": ["0", "0", ""],
    }


def test_calibration_needs_both_kinds_and_finite_scores():
    with pytest.raises(UserError, match="different people"):
        fit_calibration([0.5, 0.6], [1, 1])
    with pytest.raises(UserError, match="finite"):
        fit_calibration([0.5, np.nan], [1, 0])
    with pytest.raises(UserError, match="one label per score"):
        fit_calibration([0.5, 0.2], [1])


def test_the_description_is_honest_when_nobody_is_alike():
    calibration = fit_calibration(*scores_and_labels())
    assert "not much alike" in calibration.describe(0.0)
    assert "closer than nearly every pair" in calibration.describe(0.7)
    assert "chance of the same person" in calibration.describe(0.5)


def test_the_sheet_shows_the_face_and_five_stars(faces):
    embedder = FakeEmbedder()
    gallery = Gallery.build(faces, embedder)
    face = Image.new("RGB", (64, 64), (200, 150, 120))
    matches = gallery.search(embedder([face])[0], 5)
    figure = lookalike_sheet(face, matches, gallery)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["Your photo", *(f"{i}. {m.name}" for i, m in enumerate(matches, 1))]
    buffer = io.BytesIO()
    figure.savefig(buffer)
    assert Image.open(buffer).width > 500


def test_the_occlusion_map_points_at_the_part_that_matters():
    class LooksAtOneCorner:
        def __call__(self, images):
            corner = [np.asarray(image)[:16, :16].mean() / 255 for image in images]
            return np.stack([[c, np.sqrt(1 - c**2)] for c in corner]).astype(np.float32)

    face = Image.new("RGB", (64, 64), (250, 250, 250))
    falls = occlusion_map(LooksAtOneCorner(), face, np.array([1.0, 0.0]), cells=8)
    assert falls.shape == (8, 8) and falls[:2, :2].min() > 0.1
    assert np.abs(falls[4:, 4:]).max() < 1e-6
