"""What the tests of the data scripts share: photos made on the spot, scripts run and killed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "data_scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{ROOT}", "LABKIT_PROGRESS": "none"}


def photo(identity: int, number: int, size: int = 96) -> Image.Image:
    """A picture like no other of its identity or another's, in its identity's colours."""
    rng = np.random.default_rng([identity, 77])
    colours = rng.integers(40, 216, (3, 3))
    rng = np.random.default_rng([identity, number])
    image = Image.new("RGB", (size, size), tuple(colours[0]))
    draw = ImageDraw.Draw(image)
    for k in range(14):
        x, y = rng.integers(-size // 4, size, 2)
        w, h = rng.integers(size // 8, size // 2, 2)
        shade = float(rng.uniform(0.3, 1.2))
        colour = tuple(int(c) for c in np.clip(colours[k % 3] * shade, 0, 255))
        shape = draw.ellipse if k % 2 else draw.rectangle
        shape((int(x), int(y), int(x + w), int(y + h)), fill=colour)
    return image


def make_photos(
    root: Path, identities: int, images: int, *, first: int = 0, size: int = 96
) -> Path:
    """A face folder of such pictures: person000/000.png and so on."""
    for i in range(first, first + identities):
        folder = root / f"person{i:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for j in range(images):
            photo(i, j, size).save(folder / f"{j:03d}.jpg", quality=92)
    return root


def script(module, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a script's `main`, in this process."""
    from parts.job import main

    capsys.readouterr()
    flags = module.arguments()
    flags.prog = f"{module.__name__}.py"
    code = main(module.run, flags, [str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def summary(module, capsys, *arguments) -> dict:
    """The summary of a script that must succeed."""
    code, out, err = script(module, capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def tree(root: Path, *, hidden: bool = False) -> dict[str, str]:
    """Every file below `root` by its relative path, with a digest of what it holds."""
    return {
        str(path.relative_to(root)): blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (hidden or not str(path.relative_to(root)).startswith("."))
    }


def run_killed(name: str, target: str, after: int, *arguments, setup: str = "") -> None:
    """Run a script in a process that is killed at the `after`-th call of `target` (module.name).

    The call before the kill has done its work; nothing is cleaned up.
    """
    module, _, function = target.rpartition(".")
    code = f"""
import importlib, os, signal, sys
{setup}
module = importlib.import_module({module!r})
real, calls = getattr(module, {function!r}), []
def counted(*args, **more):
    calls.append(1)
    result = real(*args, **more)
    if len(calls) >= {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(module, {function!r}, counted)
script = importlib.import_module({name!r})
from parts.job import main
sys.exit(main(script.run, script.arguments(), {[str(a) for a in arguments]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@contextmanager
def small_disk(folder: Path, megabytes: float):
    """A disk of that size at `folder`; skips the test where it cannot be had."""
    folder.mkdir(parents=True)
    options = f"size={int(megabytes * 1024)}k"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
