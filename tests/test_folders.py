import os
import sys
import time

import numpy as np
import pytest
from conftest import make_faces

from labkit.data import DataDirectory, FaceFolder, make_pairs
from labkit.utils import UserError


def names(folder):
    return [folder.name(i) for i in range(len(folder))]


def test_images_at_any_depth_upper_case_and_hangul_are_found_and_others_passed_over(tmp_path):
    wanted = ["b/x.jpg", "b/deep/er/y.PNG", "a/한글.jpeg"]
    for name in [*wanted, "b/.hidden.jpg", "b/notes.txt", ".cache/z.jpg", "at_the_root.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "nobody").mkdir()
    (tmp_path / "a/folder.jpg").mkdir()
    folder = FaceFolder.scan(tmp_path)
    assert folder.identities == ["a", "b"]
    assert names(folder) == ["a/한글.jpeg", "b/deep/er/y.PNG", "b/x.jpg"]
    assert folder.labels.tolist() == [0, 1, 1]
    assert list(folder.indices_of(1)) == [1, 2]
    assert folder.path(0) == tmp_path / "a/한글.jpeg"
    assert len(FaceFolder.scan(tmp_path, extensions="txt, .PNG")) == 2


def test_a_cached_listing_is_read_back_and_noticed_when_stale(faces, tmp_path):
    cache = tmp_path / "scan.npz"
    first = FaceFolder.scan(faces, cache=cache)
    written = cache.stat().st_mtime_ns
    again = FaceFolder.scan(faces, cache=cache)
    assert cache.stat().st_mtime_ns == written
    assert names(again) == names(first) and np.array_equal(again.labels, first.labels)
    assert again.identities == first.identities and again.digest() == first.digest()

    time.sleep(0.01)
    os.remove(first.path(0))
    assert len(FaceFolder.scan(faces, cache=cache)) == len(first) - 1
    make_faces(faces, 1, 1, seed=9)
    later = FaceFolder.scan(faces, cache=cache)
    assert len(later) == len(first) and later.digest() != first.digest()
    assert len(FaceFolder.scan(faces, cache=cache, extensions="png,jpg")) == len(first)


def test_a_damaged_or_foreign_cache_is_made_anew(faces, tmp_path):
    cache = tmp_path / "scan.npz"
    count = len(FaceFolder.scan(faces, cache=cache))
    whole = cache.read_bytes()
    np.savez(tmp_path / "other.npz", key=np.arange(3))
    foreign = (tmp_path / "other.npz").read_bytes()
    for content in (b"", b"not a listing", whole[:200], whole[:-30], foreign):
        cache.write_bytes(content)
        assert len(FaceFolder.scan(faces, cache=cache)) == count
        assert cache.read_bytes()[:100] == whole[:100]


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_no_utf_8_are_kept_by_the_cache_too(tmp_path):
    path = tmp_path / "faces" / "caf\udce9" / "한.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for _ in range(2):
        folder = FaceFolder.scan(tmp_path / "faces", cache=tmp_path / "scan.npz")
        assert folder.path(0) == path and folder.identities == ["caf\udce9"]


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_folder_without_faces_is_one_clear_line(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    message = {"missing": "does not exist", "empty": "holds no images", "file": "cannot read"}[kind]
    with pytest.raises(UserError, match=message):
        FaceFolder.scan(tmp_path / kind)


def test_a_union_names_every_image_below_the_common_parent(tmp_path):
    one, other, again = (
        FaceFolder.scan(make_faces(tmp_path / name, 3, 2, seed=seed))
        for name, seed in (("train", 0), ("val", 1), ("test", 0))
    )
    both = FaceFolder.union([one, other])
    assert len(both.identities) == 6 and len(both) == 12
    for i in range(len(both)):
        assert both.path(i).is_file()
        assert both.identities[both.labels[i]] == both.path(i).parent.name
    with pytest.raises(UserError, match="id0000 is in two folders"):
        FaceFolder.union([one, again])


def test_a_data_directory_in_order_passes(data_directory):
    sizes = {name: len(folder) for name, folder in DataDirectory(data_directory).check().items()}
    assert sizes == dict(pretrain=72, train=60, val=48, test=48)


def test_everything_wrong_with_a_data_directory_is_told_at_once(tmp_path):
    for name, seed in (("train", 1), ("val", 1), ("test", 2)):
        make_faces(tmp_path / name, 3, 2, seed=seed)
    (tmp_path / "test" / "ghost").mkdir()
    make_pairs(FaceFolder.scan(tmp_path / "val")).write(tmp_path / "val_pairs.csv")
    (tmp_path / "test_pairs.csv").write_text("1,id2000/000.jpg,id2000/nothere.jpg\n2,a/b.jpg,c/d\n")
    with pytest.raises(UserError) as caught:
        DataDirectory(tmp_path).check()
    message = str(caught.value)
    for part in (
        "pretrain does not exist",
        "test: no image in ghost",
        "id1000, id1001, id1002 in both train/ and val/",
        "id2000/nothere.jpg is not in",
        "line 2: the label must be 1 or 0, found '2'",
    ):
        assert part in message
    with pytest.raises(UserError, match="nowhere does not exist"):
        DataDirectory(tmp_path / "nowhere").check()
