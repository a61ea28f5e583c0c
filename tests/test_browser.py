"""The look-alike app and the FaceMap page in a real browser."""

import base64
import io
import json
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from browser import (
    browser,
    choose_files,
    chromium_path,
    jupyter_lab,
    lookalike_page,
    run_cell,
    wait_for_kernel,
)
from PIL import Image

from labkit.checkpoint import save_weights
from labkit.facemap import layout, notebook_view, to_html
from labkit.gallery import Gallery
from labkit.models import InputSpec, build_model

sys.path.insert(0, str(Path(__file__).parent.parent / "data_scripts"))
import release  # noqa: E402

pytest.importorskip("playwright", reason="the browser tests need the package playwright")
if chromium_path() is None:
    pytest.skip("the browser tests need Chromium (apt install chromium)", allow_module_level=True)

CARD = ".facelab .card"


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos by name: NASA's portrait of Eileen Collins, turned and doubled, and what is none."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("photos")
    portrait = Image.fromarray(data.astronaut())
    portrait.save(folder / "portrait.jpg", quality=95)
    portrait.convert("L").rotate(6).save(folder / "grey.png")
    group = Image.new("RGB", (1100, 512), (128, 128, 128))
    group.paste(portrait, (0, 0))
    group.paste(portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (560, 0))
    group.save(folder / "group.jpg")
    Image.new("RGB", (600, 400), (120, 140, 160)).save(folder / "wall.jpg")
    grain = np.random.default_rng(0).integers(0, 256, (2600, 2600, 3)).astype(np.uint8)
    large = Image.fromarray(grain)
    large.paste(portrait.resize((2000, 2000)), (300, 300))
    large.save(folder / "large.png", compress_level=1)
    assert (folder / "large.png").stat().st_size > 10 * 1024**2  # too much for one message
    (folder / "text.jpg").write_text("this is no picture")
    return folder


@pytest.fixture(scope="module")
def lab_page(chromium, data_directory, photos, tmp_path_factory):
    """A JupyterLab with notebook 4, run to its end on a run folder with untrained weights."""
    folder = tmp_path_factory.mktemp("course")
    run = folder / "run"
    torch.manual_seed(0)
    about = dict(model_name="ThinResNet34", embedding_size=16, input_spec=InputSpec(48))
    save_weights(run / "finetune" / "best.safetensors", build_model("ThinResNet34", 16), **about)
    (run / "lookalike").mkdir()
    (run / "lookalike" / "guest.jpg").write_bytes((photos / "portrait.jpg").read_bytes())
    with lookalike_page(chromium, folder, run, data_directory, 1600) as page:
        page.set_default_timeout(30_000)
        yield page, folder


def wait_for_sentence(page, words: str) -> None:
    page.wait_for_selector(f".facelab .say:has-text('{words}')")


def wait_for_photo(page, name: str) -> None:
    page.wait_for_selector(f".whole figcaption:has-text('{name}')")


def saved(page, folder) -> tuple[dict, list[dict]]:
    """The notebook as JupyterLab saves it, and the outputs of the app's cell."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    notebook = json.loads((folder / "04_lookalike.ipynb").read_text(encoding="utf-8"))
    app_cell = next(c for c in notebook["cells"] if "LookalikeApp(" in "".join(c["source"]))
    return notebook, [output["data"] for output in app_cell["outputs"]]


def test_uploaded_photos_give_cards_and_leave_nothing_in_the_notebook(lab_page, photos):
    page, folder = lab_page
    before = {file for file in folder.rglob("*") if ".own" not in file.parts}

    choose_files(page, photos / "portrait.jpg")
    wait_for_sentence(page, "One face found.")
    assert page.locator(CARD).count() == 5 and page.locator(".overlay .box").count() == 1
    first = page.inner_text(".facelab .cards")
    wait_for_photo(page, "portrait.jpg")
    assert page.evaluate("() => document.querySelector('.crop img').naturalWidth") == 256

    choose_files(page, photos / "grey.png")
    wait_for_photo(page, "grey.png")
    wait_for_sentence(page, "One face found.")
    assert page.locator(CARD).count() == 5 and page.inner_text(".facelab .cards") != first

    notebook, outputs = saved(page, folder)
    kinds = {kind for data in outputs for kind in data}
    assert kinds <= {"application/vnd.jupyter.widget-view+json", "text/plain", "text/html"}
    state = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    gallery = Gallery.load(folder / "run" / "lookalike" / "gallery.safetensors")
    text = str(state)
    for portrait in gallery.thumbnails():
        text = text.replace(base64.b64encode(portrait).decode(), "a star")
    assert "a star" in text and text.count("base64,") == text.count("base64,a star")
    assert not any(model.get("buffers") for model in state.values())
    after = {file for file in folder.rglob("*") if ".own" not in file.parts}
    names = {file.name for file in after - before}
    assert names <= {".ipynb_checkpoints", "04_lookalike-checkpoint.ipynb"}

    page.click("button:has-text('Keep')")
    wait_for_sentence(page, "Kept")
    [sheet] = [data["image/png"] for data in saved(page, folder)[1] if "image/png" in data]
    assert Image.open(io.BytesIO(base64.b64decode(sheet))).width > 500


DROP = """async (target, encoded) => {
  const blob = await (await fetch("data:image/jpeg;base64," + encoded)).blob()
  const carried = new DataTransfer()
  carried.items.add(new File([blob], "dropped.jpg", {type: "image/jpeg"}))
  target.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true}))
}"""


def test_a_face_of_a_group_that_was_dropped_is_chosen_by_a_click(lab_page, photos):
    page, _ = lab_page
    encoded = base64.b64encode((photos / "group.jpg").read_bytes()).decode()
    page.locator(".facelab-photo").evaluate(DROP, encoded)
    wait_for_photo(page, "dropped.jpg")
    wait_for_sentence(page, "Face 1 of 2.")
    page.locator(".overlay .box:not(.current)").click()
    wait_for_sentence(page, "Face 2 of 2.")
    page.click("button:has-text('Why?')")
    page.wait_for_selector(".crop figcaption:has-text('speaks for')")


def test_without_a_face_a_box_is_drawn_with_the_mouse(lab_page, photos):
    page, _ = lab_page
    choose_files(page, photos / "wall.jpg")
    wait_for_sentence(page, "No face found in wall.jpg")
    assert page.locator(CARD).count() == 0
    area = page.locator(".stage img").bounding_box()
    page.mouse.move(area["x"] + 0.25 * area["width"], area["y"] + 0.25 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.5 * area["width"], area["y"] + 0.6 * area["height"], steps=4)
    page.mouse.up()
    wait_for_sentence(page, "No face was found in this box.")
    page.wait_for_selector(CARD)
    box = page.locator(".overlay .box.current").bounding_box()
    assert abs(box["x"] - area["x"] - 0.25 * area["width"]) < 3
    assert abs(box["width"] - 0.25 * area["width"]) < 3


def test_a_file_that_is_no_photo_and_one_too_large_for_a_message(lab_page, photos):
    page, _ = lab_page
    choose_files(page, photos / "text.jpg", photos / "large.png")
    wait_for_sentence(page, "text.jpg")
    wait_for_sentence(page, "not a picture")
    assert page.locator(CARD).count() == 0
    page.click("button:has-text('Next photo')")
    wait_for_photo(page, "large.png")
    page.wait_for_selector(CARD)


def opened(context, address: str):
    """A page, and what it logs."""
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    return page, said


@pytest.fixture
def map_page(chromium, tmp_path):
    """A FaceMap page, opened from disk with the network off; it logs and asks for nothing."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 16)).astype(np.float32)
    points[7] = points[3] + 0.01  # the nearest of face 3
    colours = rng.integers(0, 256, (200, 3)).tolist()
    faces = [Image.new("RGB", (64, 64), tuple(colour)) for colour in colours]
    maps = {"pca": layout(points, "pca"), "tsne": rng.random((200, 2))}
    names, details = ([f"{word}{i:03d}" for i in range(200)] for word in ("Star ", "별 "))
    about = dict(details=details, attributes={"hair": ["dark", "light"] * 100})
    path = to_html(tmp_path / "map.html", maps, faces, names, points, **about)
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 800})
    asked = []
    context.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page, said = opened(context, path.as_uri())
    page.wait_for_function("() => window.facemap !== undefined")
    yield page
    assert said == []
    assert asked.count("file") == 1 and set(asked) <= {"file", "data", "blob"}
    context.close()


def at(page, face: int) -> tuple[float, float]:
    """Where a face is on the screen, in pixels."""
    area = page.locator("#map").bounding_box()
    x, y = page.evaluate("(face) => window.facemap.screen(face)", face)
    return area["x"] + x, area["y"] + y


def test_a_hover_names_a_face_and_a_click_lights_up_its_nearest(map_page):
    def pixels_of_frames() -> int:
        shot = Image.open(io.BytesIO(map_page.locator("#map").screenshot())).convert("RGB")
        return (np.asarray(shot) == (245, 158, 11)).all(axis=2).sum()

    face = 199  # the last that is drawn, so that no other covers it
    map_page.mouse.move(*at(map_page, face))
    map_page.wait_for_selector("#tip:not([hidden])")
    assert map_page.inner_text("#tip b") == f"Star {face}"
    assert map_page.inner_text("#tip small") == f"별 {face}"
    map_page.mouse.move(5, 5)
    map_page.wait_for_selector("#tip", state="hidden")
    assert pixels_of_frames() == 0
    map_page.mouse.click(*at(map_page, face))
    map_page.wait_for_selector("#panel h3")
    assert map_page.inner_text("#panel .card b >> nth=0") == f"Star {face}"
    map_page.mouse.move(1190, 790)
    assert pixels_of_frames() > 100


def test_a_search_finds_a_star_and_its_nearest_are_told(map_page):
    map_page.fill("#search", "star 003")
    map_page.press("#search", "Enter")
    names = map_page.locator("#panel .card b").all_inner_texts()
    assert names[:2] == ["Star 003", "Star 007"] and len(names) == 13
    assert float(map_page.locator("#panel .card").nth(1).inner_text().split()[-1]) > 0.99
    map_page.locator("#panel .card").nth(1).click()
    assert map_page.inner_text("#panel .card b >> nth=0") == "Star 007"
    map_page.keyboard.press("Escape")
    assert "Click a face" in map_page.inner_text("#panel")


def test_the_map_moves_zooms_and_changes_its_layout_and_colours(map_page):
    x, y = at(map_page, 0)
    map_page.mouse.move(300, 700)
    map_page.mouse.down()
    map_page.mouse.move(340, 680, steps=4)
    map_page.mouse.up()
    assert at(map_page, 0) == pytest.approx((x + 40, y - 20), abs=1.5)
    apart = np.subtract(at(map_page, 0), at(map_page, 1))
    map_page.mouse.wheel(0, -300)
    map_page.wait_for_timeout(300)
    assert np.abs(np.subtract(at(map_page, 0), at(map_page, 1))).max() > 1.3 * np.abs(apart).max()
    map_page.click("#maps button:has-text('t-SNE')")
    map_page.wait_for_timeout(1000)
    assert np.abs(np.subtract(at(map_page, 0), (x, y))).max() > 5
    map_page.select_option("#colour", "hair")
    assert map_page.locator("#legend span").all_inner_texts() == ["dark", "light"]


def test_the_keyboard_reaches_the_map_and_its_faces(map_page):
    map_page.keyboard.press("Tab")
    assert map_page.evaluate("() => document.activeElement.id") == "map"
    names = [map_page.inner_text("#tip b")]
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        before = at(map_page, int(names[-1][-3:]))
        map_page.keyboard.press(key)
        names.append(map_page.inner_text("#tip b"))
        moved = np.subtract(at(map_page, int(names[-1][-3:])), before)
        main = 0 if key in ("ArrowLeft", "ArrowRight") else 1
        assert abs(moved[main]) >= abs(moved[1 - main]) and moved[main] != 0
        assert (moved[main] > 0) == (key in ("ArrowRight", "ArrowDown"))
    map_page.keyboard.press("Enter")
    assert map_page.inner_text("#panel .card b >> nth=0") == names[-1]
    map_page.keyboard.press("Escape")
    assert "Click a face" in map_page.inner_text("#panel")


def test_colours_are_seen_while_a_face_is_chosen(map_page):
    def pixels(colour: tuple) -> int:
        shot = Image.open(io.BytesIO(map_page.locator("#map").screenshot())).convert("RGB")
        return (np.abs(np.asarray(shot).astype(int) - colour) < 4).all(axis=2).sum()

    dark, faded = np.array([230, 25, 75]), np.array([240, 138, 163])  # under half a veil
    map_page.select_option("#colour", "hair")
    before = pixels(dark)
    map_page.fill("#search", "star 003")
    map_page.press("#search", "Enter")
    map_page.wait_for_timeout(700)
    assert before > 500 and pixels(faded) > 100 and pixels(dark) > 100


def test_on_a_phone_the_panel_lies_below_the_map_and_faces_are_no_closer(chromium, map_page):
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page, said = opened(phone, map_page.url)
    page.wait_for_function("() => window.facemap !== undefined")
    area, panel = (page.locator(part).bounding_box() for part in ("#map", "aside"))
    assert [area["width"], panel["width"], panel["x"]] == [390, 390, 0]
    assert area["height"] > 400 and panel["y"] >= area["y"] + area["height"]
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    page.locator("#foot").scroll_into_view_if_needed()
    assert page.locator("#foot").bounding_box()["y"] < 844

    def overlap(page) -> float:
        """Share of the pairs of nearest faces that lie over each other by more than half."""
        xy = np.array([page.evaluate("(i) => window.facemap.screen(i)", i) for i in range(200)])
        apart = np.abs(xy[:, None] - xy).max(axis=2) + 1e9 * np.eye(200)
        return (apart.min(axis=1) < float(page.input_value("#size")) / 2).mean()

    assert overlap(page) <= overlap(map_page) + 0.02
    assert said == []
    phone.close()


def test_the_page_works_in_a_notebooks_frame_and_opens_with_a_face_chosen(chromium, tmp_path):
    points = np.random.default_rng(1).random((20, 2))
    faces, names = [Image.new("RGB", (32, 32))] * 20, [f"</script> {i}" for i in range(20)]
    path = to_html(tmp_path / "map.html", points, faces, names, points, chosen=5)
    outside = tmp_path / "notebook.html"
    outside.write_text(f"<!DOCTYPE html>{notebook_view(path).data}", encoding="utf-8")
    page, said = opened(chromium, outside.as_uri())
    frame = page.frames[1]
    frame.wait_for_function("() => window.facemap !== undefined")
    assert frame.inner_text("#panel .card b >> nth=0") == "</script> 5"
    assert said == []
    page.close()


def test_an_exercise_says_what_is_wrong_until_it_is_solved(chromium, tmp_path):
    """As a student does it, in the students' version: the gap, a mistake, an error, the answer."""
    release.run(release.arguments().parse_args([str(tmp_path)]))
    path = tmp_path / "01_pretrain.ipynb"
    notebook = nbformat.read(path, as_version=4)
    kept = ("01-03", "exercise-1-2", "answer-1-2", "check-1-2")
    notebook.cells = [cell for cell in notebook.cells if cell.id in kept]
    notebook.cells[0].source = notebook.cells[0].source.split("\nlab = ")[0]
    nbformat.write(notebook, path)
    answer = (
        "def am_softmax(x, W, y, m, s):\n"
        "    cosine = F.normalize(x, dim=1) @ F.normalize(W, dim=1).T\n"
        "    return F.cross_entropy(s * (cosine - m * F.one_hot(y, len(W))), y)"
    )
    with jupyter_lab(tmp_path) as address:
        page = chromium.new_page(viewport={"width": 1180, "height": 900})
        page.goto(address("01_pretrain.ipynb"))
        wait_for_kernel(page)
        run_cell(page, 0)
        for code, told in (
            (None, "○ Exercise 1.2, am_softmax: not solved yet (4 points)."),
            (
                answer.replace("s * (", "("),
                "✗ Exercise 1.2, am_softmax: not right yet. The scale s",
            ),
            (answer.replace("y, len", "z, len"), "NameError: name 'z' is not defined"),
            (answer, "✓ Exercise 1.2, am_softmax: solved (4 points)."),
        ):
            run_cell(page, 2, code)
            assert told in run_cell(page, 3)
        assert page.locator(".jp-Cell summary").first.inner_text() == "Hint"
        page.close()
