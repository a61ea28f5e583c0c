import numpy as np
import pytest
from conftest import make_faces

from labkit.data import FaceFolder, PairList, make_pairs
from labkit.utils import UserError


def test_pairs_survive_writing_and_reading(faces, tmp_path):
    for labelled in (True, False):
        made = make_pairs(FaceFolder.scan(faces), seed=3, labelled=labelled)
        made.write(tmp_path / "pairs.csv")
        read = PairList.read(tmp_path / "pairs.csv", faces)
        for part in ("files", "left", "right", "labels"):
            assert np.array_equal(getattr(read, part), getattr(made, part))
    assert made.labels is None
    assert (tmp_path / "pairs.csv").read_text().splitlines()[0].count(",") == 1


@pytest.mark.parametrize(("identities", "images"), [(12, 6), (2, 2), (40, 2), (3, 30)])
def test_made_pairs_are_true_balanced_and_without_duplicates(tmp_path, identities, images):
    folder = FaceFolder.scan(make_faces(tmp_path, identities, images, size=8))
    made = make_pairs(folder, per_image=4, seed=1)
    seen = {frozenset(made.name_pair(i)) for i in range(len(made))}
    assert len(seen) == len(made) and all(len(pair) == 2 for pair in seen)
    left, right = made.identities()
    assert np.array_equal(left == right, made.labels == 1)
    targets = int(made.labels.sum())
    assert 0 < len(made) - targets <= targets


def test_made_pairs_repeat_by_seed(faces):
    listed = [make_pairs(FaceFolder.scan(faces), seed=seed).right.tolist() for seed in (1, 1, 2)]
    assert listed[0] == listed[1] != listed[2]


def test_files_that_target_pairs_join_are_one_person():
    pairs = PairList.from_names("acdbx", "bdexy", [1, 1, 1, 0, 0])  # a-b, c-d, d-e; not b-x, x-y
    first = [pairs.files[i] for i in pairs.joined_files()]
    assert dict(zip(pairs.files, first)) == dict(a="a", b="a", c="c", d="c", e="c", x="x", y="y")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,a/1.jpg", "expected three columns"),
        ("1,a/1.jpg,a/2.jpg,a/3.jpg", "expected three columns"),
        ("yes,a/1.jpg,a/2.jpg", "the label must be 1 or 0, found 'yes'"),
        ("1,a/1.jpg,a/1.jpg", "is compared with itself"),
        ("1,../secret.jpg,a/2.jpg", "not a path inside"),
        ("1,/etc/passwd,a/2.jpg", "not a path inside"),
        ("1,a\\1.jpg,a/2.jpg", "not a path inside"),
        ("1,b/2.jpg,a/1.jpg", "with the other label on line 1"),
        ("0,b/2.jpg,a/1.jpg", "already on line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(tmp_path, line, message):
    path = tmp_path / "pairs.csv"
    path.write_text(f"0,a/1.jpg,b/2.jpg\n{line}\n")
    with pytest.raises(UserError, match=rf"pairs\.csv has 1 bad line: line 2: .*{message}"):
        PairList.read(path)


def test_all_bad_lines_are_counted_and_the_first_twenty_shown(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("1,a/1.jpg,a/2.jpg\n" + "x,y\n" * 30)
    with pytest.raises(UserError, match="has 30 bad lines") as caught:
        PairList.read(path)
    assert str(caught.value).count("line ") == 20 and "and 10 more" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00bad", None])
def test_an_empty_binary_or_missing_list_is_one_clear_line(tmp_path, content):
    path = tmp_path / "pairs.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"pairs\.csv"):
        PairList.read(path)


def test_one_identity_or_single_images_cannot_make_pairs(tmp_path):
    for name, identities, images in (("one", 1, 5), ("single", 5, 1)):
        folder = FaceFolder.scan(make_faces(tmp_path / name, identities, images))
        with pytest.raises(UserError, match="pairs need two"):
            make_pairs(folder)
