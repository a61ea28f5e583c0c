from pathlib import Path

import numpy as np
import pytest
from conftest import make_faces

from labkit.data import FaceFolder, PairList, make_pairs
from labkit.utils import UserError

CASES = Path(__file__).parent / "cases" / "lists"


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
    of_file, how = pairs.people
    assert pairs.files == [*"abcdexy"] and of_file == [*"aacccxy"] and how == "the target pairs"


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


def test_lists_with_spaces_tabs_or_semicolons_are_those_with_commas(tmp_path):
    rows = [line.split() for line in (CASES / "veri_test.txt").read_text().splitlines()]
    expected = [(int(label), left, right) for label, left, right in rows]
    semicolons, aligned = tmp_path / "semicolons.csv", tmp_path / "aligned.txt"
    semicolons.write_text("\ufeff" + "".join(f"{';'.join(row)}\r\n" for row in rows), "utf-8")
    aligned.write_text("\n" + "".join(f"{'  '.join(row)} \r\n" for row in rows))
    for path in (CASES / "veri_test.txt", CASES / "tabs.tsv", semicolons, aligned):
        pairs = PairList.read(path)
        found = [(int(pairs.labels[i]), *pairs.name_pair(i)) for i in range(len(pairs))]
        assert found == expected and pairs.folds is None
    blind = tmp_path / "blind.txt"
    blind.write_text("a/1.jpg b/2.jpg\na/1.jpg a/2.jpg\n")
    assert PairList.read(blind).labels is None and len(PairList.read(blind)) == 2


def test_lfws_list_is_read_with_its_folds(tmp_path):
    pairs = PairList.read(CASES / "pairs.txt")
    assert len(pairs) == 12 and pairs.labels.tolist() == [1] * 6 + [0] * 6
    assert pairs.name_pair(1) == ("Ada_Example/Ada_Example_0001.jpg",
                                  "Ada_Example/Ada_Example_0003.jpg")  # fmt: skip
    assert pairs.name_pair(11) == ("Ada_Example/Ada_Example_0003.jpg",
                                   "Fay_Primer/Fay_Primer_0004.jpg")  # fmt: skip
    assert pairs.folds.tolist() == [0] * 12
    for spacer, header in (("\t", "3\t1"), (" ", "3 1")):
        lines = [header]
        for k in range(3):
            lines += [spacer.join((f"P{k}", "1", "2")), spacer.join((f"P{k}", "1", f"Q{k}", "1"))]
        path = tmp_path / "folds.txt"
        path.write_text("\n".join(lines))
        pairs = PairList.read(path)
        assert pairs.folds.tolist() == [0, 0, 1, 1, 2, 2]
        assert pairs.labels.tolist() == [1, 0] * 3
    path.write_text("\n".join(["3", *lines[1:]]))  # View 1 counts pairs alone
    assert PairList.read(path).folds.tolist() == [0] * 6


def test_lfws_list_finds_pictures_of_other_types_and_names_what_is_wrong(tmp_path):
    path, folder = tmp_path / "pairs.txt", tmp_path / "faces"
    path.write_text("1\t1\nAda\t1\t2\nAda\t1\tBo\t1\n")
    for name in ("Ada/Ada_0001.png", "Ada/Ada_0002.jpg", "Bo/Bo_0001.jpeg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert PairList.read(path, folder).name_pair(1) == ("Ada/Ada_0001.png", "Bo/Bo_0001.jpeg")
    for text, message in (
        ("1\t2\nAda\t1\t2\nAda\t1\tBo\t1\n", "2 pairs, by its first line 4"),
        ("1\t1\nAda\t1\t2\nAda\tx\tBo\t1\n", "line 3: expected `name 1 2`"),
        ("1\t1\nAda\t1\t2\n../x\t1\tBo\t1\n", "line 3: .*not a path inside"),
        ("1\t1\nAda\t1\t2\nAda\t1\tBo\t7\n", "line 3: Bo/Bo_0007.jpg is not in"),
        ("10\t300\n", "holds no pairs"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            PairList.read(path, folder)


def test_a_separator_that_is_not_known_is_one_line_that_says_so(tmp_path):
    path = tmp_path / "pairs.txt"
    for line in ("1|a/1.jpg|a/2.jpg", "1 my face.jpg her face.jpg", "a.jpg"):
        path.write_text(f"{line}\n" * 30)
        with pytest.raises(UserError, match="separate them by commas") as caught:
            PairList.read(path)
        assert str(caught.value).count("\n") == 0 and "line 1" not in str(caught.value)


def test_names_are_those_of_the_folders_listing(tmp_path, faces):
    path = tmp_path / "pairs.csv"
    path.write_text("1,./id0000/000.jpg,id0000//001.jpg\n0,id0000/./000.jpg,id0001/001.jpg\n")
    pairs = PairList.read(path, faces)
    assert pairs.files == ["id0000/000.jpg", "id0000/001.jpg", "id0001/001.jpg"]
    for same in ("0,id0001/./001.jpg,./id0000/000.jpg", "1,./a/1.jpg,a//1.jpg", "1,.,./"):
        path.write_text(f"0,id0000/000.jpg,id0001/001.jpg\n{same}\n")
        with pytest.raises(UserError, match="already on line 1|with itself|not a path inside"):
            PairList.read(path)


@pytest.mark.parametrize(
    ("pattern", "told_by"),
    [
        ("{who}/{k}.jpg", "folders"),
        ("faces/{who}/{k}.jpg", "folders"),
        ("faces/part{k}/{who}/1.jpg", "folders"),
        ("{k}/{who}.jpg", "names"),
        ("all/{who}_{k:04d}.jpg", "names"),
        ("{who}-{k}.jpg", "names"),
        ("all/{code:05d}.jpg", "target pairs"),
        ("{code:05d}.jpg", "target pairs"),
    ],
)
def test_people_are_known_by_the_part_of_the_name_that_agrees_with_the_labels(pattern, told_by):
    people, rows = ["ann", "bob", "cyd"], []
    for a in range(9):
        for b in range(a):
            two = [pattern.format(who=people[i % 3], k=i // 3, code=i * 7 % 10) for i in (a, b)]
            rows.append((*two, a % 3 == b % 3))
    pairs = PairList.from_names(*zip(*rows))
    of_file, how = pairs.people
    assert told_by in how and len(set(of_file)) == 3 and not len(pairs.contradictions(of_file))


def test_labels_that_no_part_of_the_names_and_no_target_pairs_explain_are_refused():
    pairs = PairList.from_names(
        ["a/1.jpg", "a/2.jpg", "a/1.jpg"], ["a/2.jpg", "b/3.jpg", "b/3.jpg"], [1, 1, 0]
    )
    with pytest.raises(UserError, match="who is who.* 1 labels, first that of a/2.jpg and b/3.jpg"):
        pairs.people  # noqa: B018
