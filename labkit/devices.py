"""Which device a run uses, in which precision, with how many processes, and its memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from labkit.utils import UserError

DEVICE_VARIABLE = "LABKIT_DEVICE"
# To ask whether there is a GPU must not start one: processes forked from a notebook could not
# use it any more.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# Parameters of glibc's mallopt, from malloc.h, and their usual values.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_USUAL = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_blocks_that_keep_memory = 0


def best_device(name: str | None = None) -> torch.device:
    """The named device, or the best one there is: CUDA, Apple's MPS, CPU.

    The environment variable LABKIT_DEVICE names one for a whole session.

    Raises UserError when the named device is not there.
    """
    name = name or os.environ.get(DEVICE_VARIABLE)
    if not name:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device '{name}': use cpu, cuda, cuda:0 or mps") from None
    there = dict(cpu=True, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if not there.get(device.type, False):
        raise UserError(f"this machine has no device '{name}': use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no GPU {device.index}: found {torch.cuda.device_count()}")
    return device


def mixed_precision(device: torch.device) -> str:
    """The 16-bit type to compute in, in Accelerate's words: bf16 where the hardware has it.

    A GPU without bf16 gets fp16, with loss scaling; a processor without it full precision.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "no"


def _cpu_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def memory_format(device: torch.device) -> torch.memory_format:
    """The order of pixels and channels in which convolutions are fast on a device."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def make_accelerator(device_name: str | None, *, mixed: bool) -> Accelerator:
    """Accelerate's handle for this run: one process, or one of those that torchrun started.

    Raises UserError when there are fewer GPUs than processes on this machine, or one GPU is named
    for several processes.
    """
    device = best_device(device_name)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and neighbours > 1:
        if device.index is not None:
            raise UserError(
                f"{neighbours} processes cannot share {device}: leave --gpu and --device out, and "
                "each takes a GPU of its own (CUDA_VISIBLE_DEVICES says which)"
            )
        if neighbours > torch.cuda.device_count():
            raise UserError(
                f"{neighbours} processes need as many GPUs, found {torch.cuda.device_count()}: "
                "start fewer, or use --device cpu"
            )
    # All batches have one size, so cuDNN may look for the fastest way once.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Accelerate keeps the device of the first run of a process; a notebook may change it.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=mixed_precision(device) if mixed else "no",
        kwargs_handlers=[DistributedDataParallelKwargs()],
    )


def random_state(device: torch.device) -> list[torch.Tensor]:
    """The states of PyTorch's generators for work on a device: the CPU's and the device's own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Bring the generators back; one that was saved on another kind of device is left as it is."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1])


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Inside the block, memory that was freed stays with the process, when it works on a CPU.

    A layer's output takes tens of megabytes. The C library (glibc) gives blocks of that size back
    to the system when they are freed, and the system clears every page of the next one: a seventh
    of a training step. At the end of the outermost block what is free goes back. Nothing is
    changed with another C library, or where the environment sets the same (MALLOC_MMAP_MAX_ or
    MALLOC_TRIM_THRESHOLD_).
    """
    global _blocks_that_keep_memory
    c_library = _tunable_c_library() if device.type == "cpu" else None
    if c_library is None:
        yield
        return
    if _blocks_that_keep_memory == 0:
        c_library.mallopt(_TRIM_THRESHOLD, -1)
        c_library.mallopt(_MMAP_MAX, 0)
    _blocks_that_keep_memory += 1
    try:
        yield
    finally:
        _blocks_that_keep_memory -= 1
        if _blocks_that_keep_memory == 0:
            for parameter, value in _USUAL.items():
                c_library.mallopt(parameter, value)
            c_library.malloc_trim(0)


def _tunable_c_library() -> ctypes.CDLL | None:
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_MAX_" in os.environ:
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):  # Windows
        return None
