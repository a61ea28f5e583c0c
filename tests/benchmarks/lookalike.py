"""From the bytes of a photo to the cards of five stars: milliseconds of each step, and memory.

    python tests/benchmarks/lookalike.py --threads 2

The app answers as it does in the notebook, piece by piece of the upload, with ThinResNet34 at
224 pixels (untrained weights take as long as trained ones) and a gallery of 1,229 stars. The
photo is NASA's portrait of Eileen Collins (from scikit-image) alone, as a phone's 12-megapixel
picture, in a group, and upside down so that no face is found. `CPU` is processor time over all
threads, which other programs on the machine change little.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from labkit.checkpoint import save_weights
from labkit.crop import crop_face, find_faces, read_photo
from labkit.data.images import jpeg_bytes
from labkit.embed import Embedder
from labkit.gallery import Gallery, packed
from labkit.likeness import Calibration
from labkit.models import InputSpec, build_model
from labkit.utils import l2_normalize
from labkit.widgets import LookalikeApp

STARS, PHOTOS_EACH, REPEATS = 1229, 20, 5


def photos() -> dict[str, bytes]:
    portrait = Image.fromarray(skimage.data.astronaut())
    grain = np.random.default_rng(0).normal(128, 12, (3024, 4032, 3)).clip(0, 255)
    phone = Image.fromarray(grain.astype(np.uint8))
    phone.paste(portrait.resize((2400, 2400), Image.Resampling.BICUBIC), (800, 600))
    group = Image.new("RGB", (4032, 3024), (90, 110, 130))
    for i in range(6):
        group.paste(portrait.resize((1200, 1200)), (60 + 1300 * (i % 3), 200 + 1400 * (i // 3)))
    wall = phone.transpose(Image.Transpose.ROTATE_180)
    return {
        "512 x 512": jpeg_bytes(portrait),
        "phone, 12 megapixels": jpeg_bytes(phone),
        "group of six, 12 MP": jpeg_bytes(group),
        "no face, 12 MP": jpeg_bytes(wall),
    }


def make_gallery(embedder: Embedder) -> Gallery:
    rng = np.random.default_rng(0)
    count = STARS * PHOTOS_EACH
    embeddings = l2_normalize(rng.standard_normal((count, embedder.embedding_size)))
    portrait = jpeg_bytes(skimage.data.astronaut()[:192, :192])
    gallery = Gallery(
        embeddings,
        np.repeat(np.arange(STARS), PHOTOS_EACH),
        l2_normalize(embeddings.reshape(STARS, PHOTOS_EACH, -1).mean(axis=1)),
        np.arange(STARS) * PHOTOS_EACH,
        *packed([portrait] * STARS),
        *packed([b""] * count),
        identities=[f"star{i}" for i in range(STARS)],
        files=[f"star{i}/{j}.jpg" for i in range(STARS) for j in range(PHOTOS_EACH)],
        details=[{}] * STARS,
        synthetic=False,
        weights_name="untrained",
        weights_path=embedder.weights_path,
        weights_sha256=embedder.weights_sha256,
        skipped=[],
    )
    gallery.calibration = Calibration(rng.normal(0, 0.1, (1000, 400)).tolist())
    return gallery


def upload(app: LookalikeApp, name: str, data: bytes) -> None:
    view, size = app.view, 2 * 1024**2
    view._handle_custom_msg({"kind": "begin", "value": [name]}, [])
    for start in range(0, len(data), size):
        view._handle_custom_msg({"kind": "piece", "value": 0}, [data[start : start + size]])
    view._handle_custom_msg({"kind": "end"}, [])


def median_ms(job, times: int = REPEATS) -> float:
    took = []
    for _ in range(times):
        start = time.perf_counter()
        job()
        took.append(time.perf_counter() - start)
    return 1000 * float(np.median(took))


def step_times(embedder: Embedder, data: bytes) -> tuple[list, list[float]]:
    """The faces, and milliseconds to read the photo, to find them and to embed the first."""
    photo = read_photo(data)
    faces = find_faces(photo)
    took = [median_ms(lambda: read_photo(data)), median_ms(lambda: find_faces(photo)), np.nan]
    if faces:
        took[2] = median_ms(lambda: embedder([crop_face(photo, faces[0])]))
    return faces, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(args.threads):
        weights = Path(folder) / "net.safetensors"
        about = dict(model_name="ThinResNet34", embedding_size=512, input_spec=InputSpec(224))
        save_weights(weights, build_model("ThinResNet34", 512), **about)
        embedder = Embedder(weights, device="cpu")
        app = LookalikeApp(make_gallery(embedder), embedder)
        upload(app, "first.jpg", photos()["512 x 512"])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        titles = "".join(f"{title:>9}" for title in ("read", "detect", "embed", "all", "CPU"))
        print(f"{'ms':22}{'size':>8}{titles}")
        for name, data in photos().items():
            faces, steps = step_times(embedder, data)
            busy = time.process_time()
            steps.append(median_ms(lambda n=name, d=data: upload(app, n, d)))
            steps.append(1000 * (time.process_time() - busy) / REPEATS)
            numbers = "".join(f"{step:9.0f}" for step in steps)
            print(f"{name:22}{len(data) / 1e6:6.1f}MB{numbers}   {len(faces)} face(s)")
        app.show_photo(photos()["512 x 512"])
        print(f"Why? (50 pictures embedded) {median_ms(app.why, 3):.0f} ms")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - memory
        print(f"memory: {memory:.0f} MB at rest, at most {grown:.0f} MB more while answering")


if __name__ == "__main__":
    main()
