"""KSTAR FaceLab: train a face embedding, measure it, find look-alikes, draw a FaceMap."""

import os

__version__ = "0.1.0"
# Threads of PyTorch spin while they wait for each other: beside other work on the machine that
# costs several times more than it gains. Both are read when PyTorch is loaded, so import labkit
# before it; a setting of your own wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's OpenMP, of PyTorch on Linux
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's, on macOS; milliseconds
