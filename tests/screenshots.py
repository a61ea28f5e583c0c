"""Take the README's pictures of the look-alike app and the FaceMap page, in a real browser.

    python tests/screenshots.py --run runs/demo --out docs

RUN is what `labkit run` leaves. Notebook 4 runs in a JupyterLab with that run's gallery, the
rendered guest is uploaded, and the app is photographed; then the run's FaceMap page, with a face
chosen. Writes OUT/widget.png and OUT/facemap_page.png.
"""

import argparse
import tempfile
from pathlib import Path

from browser import browser, choose_files, lookalike_page
from PIL import Image

HIDE_FILES = "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
TO_TOP = "(photo) => photo.closest('.jp-Cell').scrollIntoView({block: 'start'})"
MIDDLE = """() => {
  const {names, screen, view} = window.facemap
  const far = names.map((_, i) => screen(i))
    .map(([x, y]) => Math.hypot(x - view.wide / 2, y - view.high / 2))
  return screen(far.indexOf(Math.min(...far)))
}"""


def photograph_widget(chromium, run: Path, out: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        lookalike_page(chromium, Path(folder), run, run / "data", 940) as page,
    ):
        choose_files(page, run / "lookalike" / "guest.jpg")
        page.wait_for_selector(".facelab .card", timeout=60_000)
        page.evaluate(HIDE_FILES)
        page.wait_for_timeout(500)
        page.locator(".facelab-photo").evaluate(TO_TOP)
        page.mouse.move(5, 5)
        page.wait_for_timeout(800)
        page.screenshot(path=out)


def photograph_page(chromium, run: Path, out: Path) -> None:
    page = chromium.new_page(viewport={"width": 1240, "height": 800})
    page.goto((run / "facemap" / "facemap.html").resolve().as_uri())
    page.wait_for_function("() => window.facemap !== undefined")
    x, y = page.evaluate(MIDDLE)
    area = page.locator("#map").bounding_box()
    page.mouse.click(area["x"] + x, area["y"] + y)
    page.mouse.move(area["x"] + x + 1, area["y"] + y)
    page.wait_for_selector("#tip:not([hidden])")
    page.wait_for_timeout(500)
    page.screenshot(path=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    with browser() as chromium:
        photograph_page(chromium, args.run.resolve(), args.out / "facemap_page.png")
        photograph_widget(chromium, args.run.resolve(), args.out / "widget.png")
    for path in (args.out / "facemap_page.png", args.out / "widget.png"):
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # a third


if __name__ == "__main__":
    main()
