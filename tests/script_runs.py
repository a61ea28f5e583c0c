"""Running the scripts of `data_scripts/` in tests, and the photos and archives they run on."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        corner, sides = rng.integers(-size // 4, size, 2), rng.integers(size // 8, size // 2, 2)
        colour = np.clip(colours[k % 3] * rng.uniform(0.3, 1.2), 0, 255).astype(int)
        shape = draw.ellipse if k % 2 else draw.rectangle
        shape([*corner.tolist(), *(corner + sides).tolist()], fill=tuple(colour.tolist()))
    return image


def make_photos(root: Path, identities: int, images: int, *, first=0, size=96) -> Path:
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


def complaint(module, capsys, *arguments) -> str:
    """The one line on standard error of a script that must refuse."""
    code, out, err = script(module, capsys, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1, (code, out, err)
    return err


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def left_out(log: Path) -> dict[str, str]:
    """File → reason of a log."""
    return {row["file"]: row["reason"] for row in table(log)}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def untrained(path: Path) -> Path:
    """Weights of a small network that has learned nothing."""
    import torch

    from labkit.checkpoint import save_weights
    from labkit.models import InputSpec, build_model

    torch.manual_seed(0)
    about = dict(model_name="ResNet18", embedding_size=16, input_spec=InputSpec(32))
    save_weights(path, build_model("ResNet18", 16), **about)
    return path


def command(script: str, *flags: str | Path) -> list[str]:
    """The command line that runs a script with this Python."""
    return [sys.executable, str(SCRIPTS / f"{script}.py"), *(str(flag) for flag in flags)]


def run_script(script: str, *flags: str | Path, env=ENVIRONMENT) -> subprocess.CompletedProcess:
    """Run a script to its end; its output as text."""
    return subprocess.run(command(script, *flags), env=env, capture_output=True, text=True)


def kill_when(ready: Callable[[], bool], script: str, *flags: str | Path) -> None:
    """Start a script and kill it, as `kill -9` does, as soon as `ready`."""
    run = subprocess.Popen(
        command(script, *flags), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not ready() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    _, error = run.communicate()
    assert run.returncode == -9, f"it ended before it could be killed: {error.decode()}"


def run_killed(name: str, target: str, after: int, *arguments, setup: str = "") -> None:
    """Run a script in a process that is killed after the `after`-th call of `target`."""
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


def tree(root: Path) -> dict[str, bytes]:
    """The bytes of every file below `root` that is not hidden, as unfinished files are."""
    names = {path: path.relative_to(root) for path in sorted(root.rglob("*"))}
    shown = {p: n for p, n in names.items() if not any(part[0] == "." for part in n.parts)}
    return {str(name): path.read_bytes() for path, name in shown.items() if path.is_file()}


@contextmanager
def tiny_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size at `path`; skips the test where none can be made."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone, on Linux")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def make_larger(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)


def picture(seed: int = 0, kind: str = "JPEG", size: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(buffer, kind)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], **settings) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **settings) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def accepted(*files: str, rejected: tuple[str, ...] = ()) -> bytes:
    rows = [f"{file},Y" for file in files] + [f"{file},N" for file in rejected]
    return "\n".join(["File,Accept", *rows]).encode()
