"""Which device a run uses, in which precision, with how many processes."""

import ctypes
import os
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from labkit.utils import UserError

DEVICE_VARIABLE = "LABKIT_DEVICE"
# To ask whether there is a GPU must not start one: processes forked from a notebook could not
# use it any more.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def best_device(name: str | None = None) -> torch.device:
    """Return the named device, or the best one there is: CUDA, Apple's MPS, CPU.

    LABKIT_DEVICE names one for a whole session. Raises UserError when it is not there.
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
    """Return the 16-bit type to compute in, in Accelerate's words: bf16, fp16 or no.

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
    """Return the order of pixels and channels in which convolutions are fast on a device."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def make_accelerator(device_name: str | None, *, mixed: bool) -> Accelerator:
    """Return Accelerate's handle for this run: one process, or one of those torchrun started.

    Raises UserError when there is no GPU for each process on this machine.
    """
    device = best_device(device_name)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and neighbours > 1:
        if device.index is not None:
            raise UserError(f"{neighbours} processes cannot share {device}: leave --gpu out")
        if neighbours > (found := torch.cuda.device_count()):
            raise UserError(f"{neighbours} processes need as many GPUs, found {found}: start fewer")
    # All batches have one size, so cuDNN may look for the fastest way once.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Accelerate keeps the device of the first run of a process; a notebook may change it.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    precision = mixed_precision(device) if mixed else "no"
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


@contextmanager
def memory_told(
    device: torch.device | str, how: str = "set a smaller batch_size, or images_at_once"
) -> Iterator[None]:
    """Say in one line, as UserError, that a device's memory is full, and how to need less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # A notebook keeps an error, and with its frames the tensors that have filled the memory.
        traceback.clear_frames(error.__traceback__)
        more = "another GPU may have more free (nvidia-smi shows it)"
        raise UserError(f"the memory of {device} is full: {how}; {more}") from None


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Return the states of PyTorch's generators: the CPU's and the device's own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Set the generators; the state of another kind of device is passed over."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1])


@contextmanager
def side_by_side(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give `count` threads that work apart, which share the threads of PyTorch's operations.

    Threads that divide an operation wait for each other after it, and long beside others' work.
    """
    threads = torch.get_num_threads()
    each = (max(threads // count, 1),)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=each) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # PyTorch asks in new threads what was set last in any


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep memory that it has freed, when it computes on a CPU with glibc.

    A layer's output takes tens of megabytes. glibc gives blocks of that size back to the system
    when they are freed, and the system clears every page of the next one: a seventh of a training
    step. MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ in the environment win.
    """
    tuned = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"} & os.environ.keys()
    if device.type == "cpu" and os.name == "posix" and not tuned:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: None)
        mallopt(-1, -1)  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        mallopt(-4, 0)
