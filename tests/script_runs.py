"""Running the scripts of `data_scripts/` in tests: as a person does, and into trouble."""

import io
import os
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
from PIL import Image

SCRIPTS = Path(__file__).parent.parent / "data_scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "LABKIT_PROGRESS": "none"}


def command(script: str, *flags: str | Path) -> list[str]:
    """The command line that runs a script with this Python."""
    return [sys.executable, str(SCRIPTS / f"{script}.py"), *(str(flag) for flag in flags)]


def run_script(script: str, *flags: str | Path, **more) -> subprocess.CompletedProcess:
    """Run a script to its end; its output as text."""
    return subprocess.run(
        command(script, *flags), env=ENVIRONMENT, capture_output=True, text=True, **more
    )


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


def contents(out: Path, *, but: str) -> dict[str, bytes]:
    """The bytes of every file below `out`, those whose names begin with `but` excepted.

    These are not opened: while a script is at work, its unfinished files come and go.
    """
    names = {path: str(path.relative_to(out)) for path in out.rglob("*")}
    wanted = {path: name for path, name in names.items() if not name.startswith(but)}
    return {name: path.read_bytes() for path, name in wanted.items() if path.is_file()}


@contextmanager
def tiny_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of `size` (say "300k") at `path`; skips the test where none can be made."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root alone, on Linux")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def make_larger(path: Path, size: str) -> None:
    """Free some space on a tiny disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


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
