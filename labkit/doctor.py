"""What this machine has for the course: versions, devices, memory, disk, built-in faces, data."""

import importlib.metadata
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from joblib import cpu_count

from labkit import __version__
from labkit.data import DataDirectory, FaceFolder, PairList
from labkit.devices import best_device
from labkit.synth import head_file
from labkit.utils import UserError, cache_dir

PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "anny", "dlib-bin", "papermill")
GIB = 2**30


def examine(data_dir: str | None = None) -> tuple[dict, str]:
    """Return everything as a dictionary, and as lines for people."""
    cache, head = cache_dir(), head_file()
    found = {
        "labkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": cpu_count(),
        "memory_gib": _memory(),
        "devices": _devices(),
        "device_used": str(best_device()),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "cache": str(cache),
        "cache_free_gib": round(shutil.disk_usage(cache).free / GIB, 1),
        "head_model": str(head) if head.exists() else None,
    }
    lines = [
        f"labkit {found['labkit']}, Python {found['python']}, {found['system']}",
        ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
        f"processor cores: {found['cores']}; memory: {found['memory_gib'] or '?'} GiB",
        f"devices: {', '.join(found['devices'])}; {found['device_used']} will be used",
        f"disk: {found['disk_free_gib']} GiB free here, {found['cache_free_gib']} GiB in {cache}",
        f"built-in head model: {found['head_model'] or 'made on first use, in about a minute'}",
    ]
    if data_dir is not None:
        found["data"], described = _describe_data(DataDirectory(data_dir))
        lines += described
    return found, "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> float | None:
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)


def _devices() -> list[str]:
    devices = ["cpu", *["mps"] * torch.backends.mps.is_available()]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({gpu.name}, {gpu.total_memory / GIB:.0f} GiB)")
    return devices


def _describe_data(data: DataDirectory) -> tuple[dict, list[str]]:
    found, lines = dict(problem=None), []
    for name in ("pretrain", "train", "val", "test"):
        with suppress(UserError):  # which `check` reports
            folder = FaceFolder.scan(data.root / name)
            found[name] = dict(identities=len(folder.identities), images=len(folder))
            lines.append(f"{name}: {len(folder):,} images of {len(folder.identities):,} identities")
    for path in (data.val_pairs, data.test_pairs, data.test_blind):
        with suppress(UserError):
            pairs = PairList.read(path)
            found[path.name] = dict(pairs=len(pairs), labelled=pairs.labels is not None)
            lines.append(f"{path.name}: {len(pairs):,} pairs")
    try:
        data.check()
    except UserError as error:
        found["problem"] = str(error)
    return found, [*lines, found["problem"] or "the data directory is in order"]
