import base64
import io
import itertools
import json
import re
import sys

import matplotlib.colors
import numpy as np
import pytest
import torch
from PIL import Image

from labkit.facemap import (
    METHODS,
    faithfulness,
    layout,
    map_figure,
    place,
    poster,
    save_poster,
    snapped,
    to_grid,
    to_html,
)
from labkit.utils import UserError


def clusters(groups=4, each=6, size=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, size))
    points = np.repeat(centres, each, axis=0) + 0.15 * rng.normal(size=(groups * each, size))
    return points.astype(np.float32), np.repeat(np.arange(groups), each)


def tiles(count):
    colours = np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
    return [Image.new("RGB", (40, 40), tuple(colour)) for colour in colours]


@pytest.mark.parametrize("method", METHODS)
def test_a_layout_is_repeatable_and_keeps_groups_together(method):
    points, labels = clusters()
    xy = layout(points, method, seed=3)
    assert np.array_equal(xy, layout(points, method, seed=3))
    assert faithfulness(points, xy, labels, k=5)["identity_purity"] > 0.95
    assert np.ptp(xy, axis=0).max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_faces_have_places_too(method, count):
    xy = layout(np.random.default_rng(0).normal(size=(count, 8)), method)
    assert xy.shape == (count, 2) and xy.dtype == np.float32
    assert np.isfinite(xy).all() and xy.min() >= 0 and xy.max() <= 1
    assert (layout(np.ones((count, 4)), method) == 0.5).all()  # equal faces lie in one place


def test_the_wait_for_umap_is_announced_before_it_begins(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    monkeypatch.setitem(sys.modules, "umap.umap_", None)  # its import fails
    with pytest.raises(ImportError):
        layout(np.random.default_rng(0).normal(size=(9, 4)), "umap")
    assert "compiles itself" in capsys.readouterr().out


def test_wrong_input_to_a_layout_is_named():
    with pytest.raises(UserError, match="unknown layout 'umpa'; use one of umap, tsne, pca"):
        layout(None, "umpa")
    with pytest.raises(UserError, match="not finite"):
        layout(np.array([[1.0, np.nan]]), "pca")
    with pytest.raises(UserError, match="no faces"):
        layout(np.empty((0, 8)), "pca")


def test_the_numbers_of_faithfulness_equal_a_loop():
    rng = np.random.default_rng(0)
    points, xy, labels = rng.normal(size=(50, 6)), rng.normal(size=(50, 2)), rng.integers(0, 9, 50)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    kept, pure, penalty = [], [], 0
    for i in range(50):
        others = [j for j in range(50) if j != i]
        ranked = sorted(others, key=lambda j: -float(unit[i] @ unit[j]))
        near = sorted(others, key=lambda j: float(((xy[i] - xy[j]) ** 2).sum()))[:4]
        kept.append(len(set(ranked[:4]) & set(near)) / 4)
        penalty += sum(max(ranked.index(j) + 1 - 4, 0) for j in near)
        possible = min((labels == labels[i]).sum() - 1, 4)
        if possible:
            pure.append(sum(labels[j] == labels[i] for j in near) / possible)
    faith = faithfulness(points, xy, labels, k=4)
    # Venna and Kaski (2001), equation 3
    trust = 1 - 2 / (50 * 4 * (2 * 50 - 3 * 4 - 1)) * penalty
    assert faith["trustworthiness"] == pytest.approx(trust)
    assert faith["neighbours_kept"] == pytest.approx(np.mean(kept))
    assert faith["identity_purity"] == pytest.approx(np.mean(pure))
    assert faithfulness(points[:2], xy[:2], labels[:2])["trustworthiness"] == 1


def test_the_grid_is_the_best_of_all_assignments():
    xy = np.random.default_rng(4).random((6, 2))
    wanted = (xy - xy.min(axis=0)) / np.ptp(xy, axis=0) * (2, -1) + (0, 1)

    def moves(cells):
        return ((wanted - cells) ** 2).sum()

    places = [(column, row) for row in range(2) for column in range(3)]
    best = min(moves(np.array(order)) for order in itertools.permutations(places))
    assert moves(to_grid(xy)) == pytest.approx(best)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])  # y points up, rows go down
    assert to_grid(corners).tolist() == [[0, 1], [1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 3001])
def test_no_two_faces_share_a_cell_and_the_order_of_the_map_is_kept(count):
    xy = np.random.default_rng(0).random((count, 2))
    cells = to_grid(xy)
    assert len({tuple(cell) for cell in cells}) == count and cells.dtype == np.int64
    side = np.ceil(np.sqrt(count))
    assert (cells >= 0).all() and (cells < (side, np.ceil(count / side))).all()
    places = snapped(xy)
    assert places.min() >= 0 and places.max() <= 1
    if count > 50:
        assert (np.diag(np.corrcoef(places.T, xy.T)[:2, 2:]) > 0.95).all()


def test_a_new_photo_lies_by_its_neighbours():
    points, _ = clusters()
    xy = layout(points, "pca")
    spot = place(points[7] + 0.01, points, xy)
    assert spot.shape == (1, 2) and np.linalg.norm(spot - xy[7]) < 0.05
    assert place(points[:3], points[:1], xy[:1]).tolist() == [xy[0].tolist()] * 3


def test_the_poster_shows_each_face_whole():
    faces, xy = tiles(7), np.random.default_rng(0).random((7, 2))
    sheet = poster(xy, faces, title="")
    margin, step = 160 // 3, 160 + 4
    left = (sheet.width - (3 * step - 4)) // 2
    for face, (column, row) in zip(faces, to_grid(xy), strict=True):
        corner = (left + column * step, margin + row * step)
        tile = np.asarray(sheet.crop((*corner, corner[0] + 160, corner[1] + 160)))
        assert (tile == face.getpixel((0, 0))).all()


def test_a_poster_with_names_in_any_script_is_written_as_png_and_pdf(tmp_path):
    xy = np.random.default_rng(0).random((5, 2))
    names = ["Kim", "하늘", "A very long name that does not fit", "", "Łukasz"]
    sheet = poster(xy, tiles(5), names, title="스타 FaceMap", note="All faces are synthetic")
    for kind, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".jpg", b"\xff\xd8")):
        path = save_poster(sheet, tmp_path / f"poster{kind}")
        assert path.read_bytes().startswith(start)
    assert Image.open(tmp_path / "poster.png").info["dpi"][0] == pytest.approx(300, abs=0.1)
    with pytest.raises(UserError, match=r"use .png, .jpg or .pdf"):
        save_poster(sheet, tmp_path / "poster.txt")
    with pytest.raises(UserError, match="4 names for a map of 5 faces"):
        poster(xy, tiles(5), names[:4])


def test_the_figure_has_one_panel_per_layout():
    points, labels = clusters(groups=2, each=5)
    maps = {"pca": layout(points, "pca"), "tsne": points[:, :2].clip(0, 1)}
    figure = map_figure(maps, tiles(10), embeddings=points, labels=labels)
    assert [axis.get_title() for axis in figure.axes] == ["PCA", "t-SNE"]
    assert "trustworthiness" in figure.axes[0].get_xlabel()


def make_page(path, count=12, **settings):
    points = np.random.default_rng(0).normal(size=(count, 8))
    names = [f"</script><!-- <b>{i}" for i in range(count)]
    maps = {"pca": points[:, :2], "grid": snapped(points[:, :2])}
    return to_html(path, maps, tiles(count), names, points, **settings)


def data_of(path) -> dict:
    start = '<script id="facemap-data" type="application/json">'
    return json.loads(path.read_text().split(start)[1].split("</script>")[0])


def test_the_page_stands_alone_and_holds_its_layouts_and_names(tmp_path):
    attributes = {"hair": ["b", "a"] * 6, "age": [str(age) for age in range(12)]}
    attributes |= {"glasses": ["0", "1", "1"] * 4, "colour": [f"dye {i:02d}" for i in range(12)]}
    about = dict(note="All are synthetic", title="Stars & more", attributes=attributes)
    path = make_page(tmp_path / "map.html", **about)
    text = path.read_text()
    assert "All are synthetic" in text and "<title>Stars &amp; more</title>" in text
    assert not re.search(r"(src|href)=|url\(.?http|import ", text.replace('href="data:,"', ""))
    data = data_of(path)
    assert "<b>3" not in text and data["names"][3] == "</script><!-- <b>3"
    assert [map["title"] for map in data["maps"]] == ["PCA", "Grid"]
    points = np.random.default_rng(0).normal(size=(12, 8))
    np.testing.assert_allclose(data["maps"][0]["places"], points[:, :2], atol=1e-5)
    assert "trustworthiness" in data["maps"][0]["line"]
    hair, age, glasses, dyes = data["attributes"]
    assert [text for text, _ in glasses["palette"]] == ["no", "yes"]
    assert glasses["groups"] == [0, 1, 1] * 4
    shades = np.array([matplotlib.colors.to_rgb(colour) for _, colour in dyes["palette"]])
    assert (np.abs(shades[:, None] - shades).sum(axis=2) + 9 * np.eye(12)).min() > 0.4
    assert [text for text, _ in hair["palette"]] == ["a", "b"] and hair["groups"] == [1, 0] * 6
    assert len({colour for _, colour in age["palette"]}) == 8 and max(age["groups"]) == 7
    assert age["groups"] == sorted(age["groups"])
    for embeddings in (np.ones((1, 4)), None):
        page = to_html(tmp_path / "one.html", np.array([[0.5, 0.5]]), tiles(1), ["x"], embeddings)
        assert data_of(page)["near"] == []


def test_the_page_holds_each_picture_in_its_place_on_a_sheet(tmp_path):
    data = data_of(make_page(tmp_path / "map.html", 330))  # 18 by 18 of 112 pixels, and 6 more
    across = data["across"]
    assert data["side"] == 112 and len(data["sheets"]) == 2
    assert (data["sheets"][1]["wide"], data["sheets"][1]["high"]) == (6 * 112, 112)
    for i, face in list(enumerate(tiles(330)))[::47] + [(329, tiles(330)[329])]:
        row, column = divmod(i % across**2, across)
        encoded = data["sheets"][i // across**2]["address"].split(",")[1]
        sheet = Image.open(io.BytesIO(base64.b64decode(encoded)))
        seen = sheet.getpixel((column * 112 + 3, row * 112 + 108))
        assert np.abs(np.array(seen) - face.getpixel((0, 0))).max() < 6
    with pytest.raises(UserError, match="3 thumbnails for a map of 12 faces"):
        to_html(tmp_path / "map.html", np.zeros((12, 2)), tiles(3), ["x"] * 12)


def test_the_nearest_faces_in_the_page_are_those_of_the_embedding(tmp_path):
    points = np.random.default_rng(0).normal(size=(30, 8))
    points[20:] = points[:10]  # equal faces must not name themselves
    path = to_html(tmp_path / "map.html", points[:, :2], tiles(30), ["x"] * 30, points)
    faces, alike = (np.array(data_of(path)[name]) for name in ("near", "similarities"))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    truth = unit @ unit.T
    np.fill_diagonal(truth, -9)
    for i in range(30):
        assert i not in faces[i] and len(set(faces[i])) == 12
        assert np.allclose(alike[i], np.sort(truth[i])[::-1][:12], atol=2e-5)
        assert np.allclose(truth[i][faces[i]], alike[i], atol=2e-5)


def test_a_layout_leaves_the_threads_of_pytorch_as_they_were():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        layout(np.random.default_rng(0).normal(size=(30, 8)), "umap")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
