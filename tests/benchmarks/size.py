"""Lines and files of Python in each part, and the modules that training loads (`make size`)."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PARTS = {
    "labkit": ("labkit", ("synth", "exercises")),
    "labkit/synth": ("labkit/synth", ()),
    "labkit/exercises": ("labkit/exercises", ()),
    "data_scripts": ("data_scripts", ()),
    "tests": ("tests", ("benchmarks",)),
}

for name, (folder, without) in PARTS.items():
    files = {*(ROOT / folder).rglob("*.py")}
    files -= {path for part in without for path in (ROOT / folder / part).rglob("*.py")}
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    rest = f" (without {', '.join(without)})" if without else ""
    print(f"{lines:7,} lines in {len(files):3} files: {name}{rest}")

from labkit.config import TrainConfig  # noqa: E402
from labkit.train import fit  # noqa: E402

with tempfile.TemporaryDirectory() as scratch:
    for person in range(4):  # two steps of two people
        (folder := Path(scratch) / "faces" / str(person)).mkdir(parents=True)
        pixels = np.random.default_rng(person).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "0.png")
    paths = dict(train_dir=f"{scratch}/faces", run_dir=f"{scratch}/run", device="cpu")
    fit(TrainConfig(**paths, image_size=32, embedding_size=8, batch_size=2, max_epoch=1))
loaded = {name for name in sys.modules if name.split(".")[0] == "labkit"}
print(f"{len(loaded):7} modules of labkit are loaded by two training steps")
for name in ("matplotlib", "labkit.synth"):
    print(f"        {name} is {'' if name in sys.modules else 'not '}among the loaded modules")
