"""Verification sets of insightface (`lfw.bin`, …): pickles, read without running them.

A `.bin` holds the bytes of 2n image files and n truth values: images 2i and 2i + 1 are a pair.
"""

import io
import pickle
import re
from pathlib import Path

import numpy as np

from labkit.utils import UserError, read_file, reason


def read_bin(path: str | Path) -> tuple[list[bytes], np.ndarray]:
    """Return the image files (2n) and the labels, int8 (n,), of a verification set.

    Raises UserError for a file that is something else, and for one that would import or call
    anything but plain NumPy arrays of numbers; nothing in the file runs.
    """
    try:
        content = load_plain(read_file(path), path)
        images, same = (getattr(part, "values", part) for part in content)
        images = [getattr(image, "values", image) for image in images]
        images = [image.tobytes() if isinstance(image, np.ndarray) else image for image in images]
        labels = np.array([bool(value) for value in same], np.int8)
        if not all(isinstance(image, (bytes, bytearray)) for image in images):
            raise ValueError("images that are no bytes")
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is no verification set, or damaged") from None
    if not len(labels) or len(images) != 2 * len(labels):
        told = f"{path} holds {len(images):,} images and {len(labels):,} labels"
        raise UserError(f"{told}: expected two images for each label")
    return images, labels


def load_plain(data: bytes, path: str | Path) -> object:
    """Return what a pickle holds: bytes, lists, numbers, and arrays as objects with `values`.

    Raises UserError, which calls it `path`, for one that would import or call, and ValueError for
    a damaged one.
    """
    try:
        return _Reader(io.BytesIO(data), path).load()
    except UserError:
        raise
    except Exception as error:  # there is no end to what a damaged pickle raises
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from None


class _Reader(pickle.Unpickler):
    """Makes bytes, lists, numbers and plain arrays, and nothing else."""

    def __init__(self, file: io.BytesIO, path: str | Path):
        super().__init__(file, encoding="bytes")  # what Python 2 called str
        self._path = path

    def find_class(self, module: str, name: str):
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        told = f"{self._path} would call {module}.{name} when it is read"
        raise UserError(f"{told}: refused, a face set needs bytes and numbers alone")

    def persistent_load(self, pid):
        raise UserError(f"{self._path} points to objects outside of it: refused")


class _Type:
    """In the place of a NumPy dtype: plain numbers alone."""

    def __init__(self, code, *flags):
        self.code, self.order = code.decode() if isinstance(code, bytes) else code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]

    def numbers(self, data: bytes) -> np.ndarray:
        if not re.fullmatch(r"[biuf]\d", self.code):
            raise ValueError(f"an array of {self.code}")
        return np.frombuffer(data, np.dtype(self.code).newbyteorder(self.order.strip("|") or "="))


class _Array:
    """In the place of a NumPy array, of one dimension."""

    def __init__(self, kind=None, shape=None, code=None):  # empty, as NumPy begins one
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, _, dtype, _, data = state
        self.values = dtype.numbers(data)

    @classmethod
    def of_buffer(cls, data: bytes, dtype: _Type, shape: tuple, order: str) -> "_Array":
        array = cls()
        array.values = dtype.numbers(data)
        return array


def _scalar(dtype: _Type, data: bytes) -> object:
    return dtype.numbers(data)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise ValueError("another encoding than NumPy's")
    return text.encode("latin1")


_PLAIN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _Array.of_buffer,
    ("numpy", "ndarray"): None,  # only named
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
