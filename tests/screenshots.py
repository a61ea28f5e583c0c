"""Take the README's pictures of the look-alike app and the FaceMap page, in a real browser.

    python tests/screenshots.py --run runs/demo --out docs

RUN is what `labkit run` leaves. Notebook 4 runs in a JupyterLab with that run's gallery, the
rendered guest is uploaded, and the app is photographed; then the run's FaceMap page, with a face
chosen. Writes OUT/widget.png and OUT/facemap_page.png.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import nbformat
from browser import browser, choose_files, jupyter_lab, run_all_cells
from PIL import Image

from labkit.notebooks import notebook_folder

CARD = ".facelab .card"


def photograph_widget(chromium, run: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "guest.jpg"
        shutil.copy(run / "lookalike" / "guest.jpg", photo)
        notebook = nbformat.read(notebook_folder() / "04_lookalike.ipynb", as_version=4)
        settings = f"preset, run_dir = 'smoke', {str(run)!r}\ndata_dir = {str(run / 'data')!r}"
        notebook.cells.insert(2, nbformat.v4.new_code_cell(settings))
        nbformat.write(notebook, folder / "04_lookalike.ipynb")
        with jupyter_lab(folder) as address:
            page = chromium.new_page(viewport={"width": 1240, "height": 940})
            page.goto(address("04_lookalike.ipynb"))
            run_all_cells(page)
            page.wait_for_selector("button.widget-upload", timeout=300_000)
            choose_files(page, photo)
            page.wait_for_selector(CARD, timeout=60_000)
            page.evaluate(
                "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
            )
            page.wait_for_timeout(500)
            page.locator(CARD).last.scroll_into_view_if_needed()
            page.evaluate(
                """() => {
                  const app = document.querySelector(".facelab-photo")
                  app.closest(".jp-Cell").scrollIntoView({block: "start"})
                }"""
            )
            page.mouse.move(5, 5)
            page.wait_for_timeout(800)
            page.screenshot(path=out)


def photograph_page(chromium, run: Path, out: Path) -> None:
    page = chromium.new_page(viewport={"width": 1240, "height": 800})
    page.goto((run / "facemap" / "facemap.html").resolve().as_uri())
    page.wait_for_function("() => window.facemap !== undefined")
    middle = page.evaluate(
        """() => {
          const {names, screen, view} = window.facemap
          const far = names.map((_, i) => screen(i))
            .map(([x, y]) => Math.hypot(x - view.wide / 2, y - view.high / 2))
          return far.indexOf(Math.min(...far))
        }"""
    )
    x, y = page.evaluate("(face) => window.facemap.screen(face)", middle)
    area = page.locator("#map").bounding_box()
    page.mouse.click(area["x"] + x, area["y"] + y)
    page.wait_for_selector("#tip:not([hidden])")
    page.mouse.move(area["x"] + x + 1, area["y"] + y)
    page.wait_for_timeout(500)
    page.screenshot(path=out)


def smaller(path: Path) -> None:
    """The picture with 256 colours, a third of the bytes."""
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    run = args.run.resolve()
    args.out.mkdir(exist_ok=True)
    with browser() as chromium:
        photograph_page(chromium, run, args.out / "facemap_page.png")
        smaller(args.out / "facemap_page.png")
        photograph_widget(chromium, run, args.out / "widget.png")
        smaller(args.out / "widget.png")


if __name__ == "__main__":
    main()
