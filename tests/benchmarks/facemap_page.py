"""How smoothly the FaceMap page moves: frames a second while it is panned and zoomed.

    python tests/benchmarks/facemap_page.py --faces 5000

A real headless Chromium drags and turns the wheel while the page counts its own frames; without
a graphics card, so a person's browser does better. `still` is the same page left alone, which
shows what the machine can do at most (60 a second is the screen's rate).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from browser import browser  # noqa: E402

from labkit.facemap import layout, to_html  # noqa: E402

COUNT = """
() => {
  window.frames_seen = []
  const step = (now) => { window.frames_seen.push(now); requestAnimationFrame(step) }
  requestAnimationFrame(step)
}
"""


def still(page, seconds: float) -> None:
    page.wait_for_timeout(1000 * seconds)


def dragged(page, seconds: float) -> None:
    page.mouse.move(500, 500)
    page.mouse.down()
    for i in range(int(seconds * 60)):
        page.mouse.move(500 + 150 * np.sin(i / 15), 500 + 100 * np.cos(i / 15))
    page.mouse.up()


def wheeled(page, seconds: float) -> None:
    page.mouse.move(500, 400)
    for i in range(int(seconds * 30)):
        page.mouse.wheel(0, -40 if i % 60 < 30 else 40)
        page.wait_for_timeout(16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    points = rng.standard_normal((args.faces, 64), dtype=np.float32)
    colours = rng.integers(0, 256, (args.faces, 4, 4, 3)).astype(np.uint8)
    faces = [np.asarray(Image.fromarray(colour).resize((96, 96))) for colour in colours]
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        path = to_html(
            Path(folder) / "map.html",
            layout(points, "pca"),
            faces,
            [f"face {i}" for i in range(args.faces)],
            points,
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.goto(path.as_uri())
        page.wait_for_function("() => window.facemap !== undefined")
        page.wait_for_timeout(3000)
        print(f"{args.faces:,} faces, page of {path.stat().st_size / 1e6:.0f} MB")
        page.evaluate(COUNT)
        for job in (still, dragged, wheeled):
            page.evaluate("() => { window.frames_seen.length = 0 }")
            job(page, args.seconds)
            gaps = np.diff(page.evaluate("() => window.frames_seen"))
            print(
                f"{job.__name__:8} {1000 / gaps.mean():5.1f} frames a second, "
                f"slowest of a hundred {np.percentile(gaps, 99):4.0f} ms"
            )


if __name__ == "__main__":
    main()
