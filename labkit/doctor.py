"""What this machine has for the course: versions, devices, memory, disk, built-in faces, data."""

import importlib.metadata
import platform
import shutil
from contextlib import suppress

import psutil
import torch
from joblib import cpu_count

from labkit import __version__
from labkit.data import DataDirectory
from labkit.devices import best_device
from labkit.synth import head_file
from labkit.utils import UserError, cache_dir

PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "anny", "dlib-bin", "papermill")
GIB = 2**30
PICTURES = 4000  # of each face folder, that are decoded to see whether they can be read


def examine(data_dir: str | None = None) -> tuple[dict, str]:
    """Return everything as a dictionary, and as lines for people."""
    cache, head = cache_dir(), head_file()
    versions = {package.name: package.version for package in importlib.metadata.distributions()}
    here, there = (round(shutil.disk_usage(path).free / GIB, 1) for path in (".", cache))
    found = {
        "labkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: versions.get(name, "not installed") for name in PACKAGES},
        "cores": cpu_count(),  # by affinity and by the limits of a container
        "busy_percent": round(psutil.cpu_percent(interval=0.5)),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "devices": _devices(),
        "device_used": str(best_device()),
        "disk_free_gib": here,
        "cache": str(cache),
        "cache_free_gib": there,
        "head_model": str(head) if head.exists() else None,
    }
    lines = [
        f"labkit {__version__}, Python {found['python']}, {found['system']}",
        ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
        f"processor cores that this process may use: {found['cores']} (the machine is "
        f"{found['busy_percent']} % busy); memory: {found['memory_gib']} GiB",
        f"devices: {', '.join(found['devices'])}; {found['device_used']} will be used",
        f"disk: {here} GiB free here, {there} GiB in {cache}",
        f"built-in head model: {found['head_model'] or 'made on first use, in about a minute'}",
    ]
    if data_dir is not None:
        data, about = DataDirectory(data_dir), dict(problem=None, notes=[])
        for name in ("pretrain", "train", "val", "test"):
            with suppress(UserError):  # which `check` reports
                faces = data.scan(name)
                about[name] = dict(identities=len(faces.identities), images=len(faces))
                about["notes"] += [faces.note] * bool(faces.note)
                lines.append(f"{name}: {len(faces):,} images of {len(faces.identities):,} people")
        try:
            data.check(pictures=PICTURES)
        except UserError as error:
            about["problem"] = str(error)
        lines += [*about["notes"], about["problem"] or "the data directory is in order"]
        found["data"] = about
    return found, "\n".join(lines)


def _devices() -> list[str]:
    devices = ["cpu", *["mps"] * torch.backends.mps.is_available()]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({gpu.name}, {gpu.total_memory / GIB:.0f} GiB)")
    return devices
