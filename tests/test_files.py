import errno
import os
import subprocess
import sys

import pytest

from labkit.utils import UserError, atomic_path, cache_dir, sha256, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_line_and_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(UserError, match="no space left on device; free some space"):
        with atomic_path(path):
            raise error
    assert path.read_text() == "old"


def test_a_kill_in_mid_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    script = f"""
import os, signal
from labkit.utils import atomic_path
with atomic_path({str(path)!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        write_json(tmp_path / "file" / "x.json", {})


def test_written_files_can_be_read_by_others_as_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_the_cache_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KSTAR_FACELAB_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here" and cache_dir().is_dir()


def test_sha256_of_a_known_text(tmp_path):
    write_text(tmp_path / "abc", "abc")  # the example of FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_no_utf_8_keep_their_bytes(tmp_path):
    write_text(tmp_path / "names.txt", "caf\udce9.jpg\n")
    assert (tmp_path / "names.txt").read_bytes() == b"caf\xe9.jpg\n"


def test_a_home_that_cannot_be_written_names_the_variable_that_moves_the_cache(
    tmp_path, monkeypatch
):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.delenv("KSTAR_FACELAB_CACHE", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    with pytest.raises(UserError, match="cannot make the folder .* set KSTAR_FACELAB_CACHE to"):
        cache_dir()
