"""KSTAR FaceLab: train a face embedding, measure it, find look-alikes, draw a FaceMap."""

import os

__version__ = "0.1.0"

# PyTorch's threads spin for milliseconds while they wait for each other. Where other work needs the
# cores a training step then takes many times as long, so they spin for microseconds and sleep.
# OpenMP reads this once, when PyTorch is loaded; worker processes inherit it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's, in PyTorch's wheels for Linux
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's, as on macOS
