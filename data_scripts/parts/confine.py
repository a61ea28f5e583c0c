"""What a process of a student's code may do: no network, no files to change, little memory."""

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Of Linux's sched.h, mount.h and prctl.h.
USER, MOUNTS, PIDS, NETWORK, IPC = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000
PRIVATE, RECURSIVE, BIND, RECURSIVE_AT, MOUNT_SETATTR = 1 << 18, 1 << 14, 1 << 12, 0x8000, 442
END_WITH_PARENT, SUBREAPER = 1, 36
MAX_FILE = 50_000_000  # bytes
MAX_THREADS = 64


def leave_system(hidden: Sequence[str]) -> bool:
    """Take network, writable files and other processes away from this process's children.

    Home, the temporary folder, /run and the `hidden` folders are empty for them. Returns False,
    and takes nothing away, where the system does not let its users do this.
    """
    if sys.platform != "linux":
        return False
    _call("prctl", SUBREAPER, 1, 0, 0, 0)
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", USER | MOUNTS | PIDS | NETWORK | IPC)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _call("mount", None, b"/", None, ctypes.c_ulong(PRIVATE | RECURSIVE), None)
        read_only = (ctypes.c_uint64 * 4)(1)
        _call("syscall", MOUNT_SETATTR, -100, b"/", RECURSIVE_AT, read_only, ctypes.c_size_t(32))
        _hide(hidden)
    except OSError:
        return False
    return True


def _hide(hidden: Sequence[str]) -> None:
    private = {Path.home().resolve(), Path(tempfile.gettempdir()).resolve(), Path("/run")}
    private -= {Path("/")}
    paths = [p for p in (sys.prefix, sys.base_prefix, *sys.path) if os.path.isdir(p)]
    packages = {Path(full(p)) for p in paths for full in (os.path.abspath, os.path.realpath)}
    packages = [p for p in sorted(packages) if not private.isdisjoint(p.parents)]
    kept = [(p, os.open(p, os.O_PATH)) for p in packages]
    for folder in sorted(filter(Path.is_dir, private)):
        _empty(folder)
    for folder, descriptor in kept:
        folder.mkdir(parents=True, exist_ok=True)
        source = os.fsencode(f"/proc/self/fd/{descriptor}")
        _call("mount", source, os.fsencode(folder), None, ctypes.c_ulong(BIND | RECURSIVE), None)
        os.close(descriptor)
    for folder in filter(os.path.isdir, hidden):
        _empty(folder)


def _empty(folder) -> None:
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), b"size=64m")


def bound(folder: str, limits: dict, mapped: int) -> None:
    """Bound this process's time, memory and files; work in `folder`, with nothing to print to.

    mapped: bytes of address space that it has already.
    """
    import resource

    os.setsid()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if sys.platform == "linux":
        _call("prctl", END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        with suppress(OSError):
            _call("unshare", USER)  # no rights over what `leave_system` has made
            resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS, MAX_THREADS))
    seconds = 2 * int(limits["seconds"]) + 10  # of all cores; the guard watches the clock
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, mapped + int(limits["memory"] * 2**30)),
        (resource.RLIMIT_FSIZE, MAX_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)


def _call(name: str, *arguments) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
