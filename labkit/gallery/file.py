"""The gallery file: one .safetensors whose arrays are read from disk as they are needed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labkit.utils import UserError, atomic_path, reason

KIND = "kstar-facelab gallery 1"
TENSORS = {
    "embeddings": np.float32,
    "labels": np.int64,
    "means": np.float32,
    "best": np.int64,
    "portraits": np.uint8,
    "portrait_ends": np.int64,
    "small": np.uint8,
    "small_ends": np.int64,
    "names": np.uint8,
}
COMPACT_TENSORS = {"codes": np.int8, "scales": np.float32, "error": np.float64}


def packed(blobs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Many blobs as one uint8 array, and where each ends, int64."""
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    return np.frombuffer(b"".join(blobs), dtype=np.uint8), ends


def unpacked(blob: np.ndarray, ends: np.ndarray, i: int) -> bytes:
    """Blob number i of `packed`; UserError when there is none."""
    if not 0 <= i < len(ends):
        raise UserError(f"the gallery has no picture number {i}; it has {len(ends)}")
    return blob[int(ends[i - 1]) if i else 0 : int(ends[i])].tobytes()


def write_gallery(path: str | Path, arrays: dict[str, np.ndarray], info: dict) -> Path:
    """Write arrays and info, whole or not at all; the path of the weights becomes relative."""
    from safetensors.numpy import save_file

    path = Path(path)
    weights = _relative(Path(info["weights_path"]), path.absolute().parent)
    text = json.dumps({**info, "weights_path": weights})
    arrays = {**arrays, "names": np.frombuffer(text.encode(), dtype=np.uint8)}
    tensors = {
        name: np.ascontiguousarray(arrays[name], dtype=kind)
        for name, kind in {**TENSORS, **COMPACT_TENSORS}.items()
        if name in arrays
    }
    metadata = {"kind": KIND} | {name: info[name] for name in ("weights_name", "weights_sha256")}
    with atomic_path(path) as beside:
        save_file(tensors, beside, metadata=metadata)
    return path


def read_gallery(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays as memory maps, and info; UserError when the file is missing or no gallery."""
    path = Path(path)
    try:
        arrays = _mapped(path)
        info = json.loads(arrays.pop("names").tobytes())
        weights = path.absolute().parent / info["weights_path"]
        info["weights_path"] = os.path.normpath(weights)
        _check_arrays(arrays, info)
    except FileNotFoundError:
        raise UserError(
            f"the gallery {path} does not exist; make it with `labkit gallery`"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read the gallery {path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(
            f"{path} is not a gallery file or is damaged; make it again with `labkit gallery`"
        ) from None
    return arrays, info


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return str(path)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors gallery as read-only memory maps."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < 1 << 24:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    if header["__metadata__"]["kind"] != KIND:
        raise ValueError("another kind of file")
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    arrays = {}
    for name, kind in {**TENSORS, **COMPACT_TENSORS}.items():
        if name in COMPACT_TENSORS and name not in header:
            continue
        start, end = header[name]["data_offsets"]
        arrays[name] = data[start:end].view(kind).reshape(header[name]["shape"])
    return arrays


def _check_arrays(arrays: dict[str, np.ndarray], info: dict) -> None:
    images, stars = len(info["files"]), len(info["identities"])
    lengths = {
        "embeddings": images,
        "labels": images,
        "small_ends": images,
        **({"codes": images, "scales": images} if "codes" in arrays else {}),
        "means": stars,
        "best": stars,
        "portrait_ends": stars,
    }
    if any(len(arrays[name]) != length for name, length in lengths.items()):
        raise ValueError("sizes do not fit")
