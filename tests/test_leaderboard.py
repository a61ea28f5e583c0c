"""Submissions for a blind list: what is refused and why, and the leaderboard of the rest."""

import html
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runs import make_photos, script, summary, table, write

import leaderboard  # isort: skip
import make_pairs  # isort: skip
from parts.ranking import display_names, rank  # isort: skip
from parts.submissions import Key, check_submission  # isort: skip

from labkit import metrics
from labkit.data import PairList
from labkit.evaluate import VerificationReport, read_scores, write_scores
from labkit.utils import UserError, folder_lock

PEOPLE, PHOTOS = 10, 4
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def world():
    """All pairs of ten people under anonymous names, and who is behind each name."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(PEOPLE), PHOTOS)
    names = np.array([f"{k:05d}.jpg" for k in rng.permutation(len(who))])
    left, right = np.triu_indices(len(who), 1)
    labels = (who[left] == who[right]).astype(int)
    pairs = PairList.from_names(list(names[left]), list(names[right]), labels)
    return pairs, {name: f"id{k:02d}" for name, k in zip(names.tolist(), who)}


@pytest.fixture
def key_files(world, tmp_path):
    """The key, the blind list, and the staff's list of anonymous and original names."""
    pairs, people = world
    pairs.write(tmp_path / "key.csv")
    PairList(pairs.files, pairs.left, pairs.right, None).write(tmp_path / "blind.csv")
    rows = [f"{name},{person}/{i}.jpg\n" for i, (name, person) in enumerate(people.items())]
    (tmp_path / "names.csv").write_text("anonymous,original\n" + "".join(rows))
    return tmp_path / "key.csv", tmp_path / "blind.csv", tmp_path / "names.csv"


def scores_of(world, noise: float, seed: int = 0) -> np.ndarray:
    pairs, _ = world
    return pairs.labels + noise * np.random.default_rng(seed).normal(size=len(pairs))


def lines_of(world, scores) -> list[str]:
    return [f"{s:.6f},{','.join(world[0].name_pair(i))}" for i, s in enumerate(scores)]


def broken_submissions(folder: Path, lines: list[str]) -> dict[str, str]:
    """Write a dozen broken submissions; file name → what must be said about it."""
    text = "\n".join(lines) + "\n"
    a, b = lines[0].split(",")[1:]
    bad = {
        "one pair short.csv": ("\n".join(lines[1:]), "1 of 780 pairs of the list are missing"),
        "twice.csv": (text + f"0.5,{b},{a}\n", "line 781: this pair is already on line 1"),
        "nan.csv": (text.replace(lines[4], "nan," + lines[4].split(",", 1)[1]), "found 'nan'"),
        "infinite.csv": (text.replace(lines[4], "1e999," + lines[4].split(",", 1)[1]), "'1e999'"),
        "stranger.csv": (text + f"0.5,{a},../../etc/passwd\n", "called '../../etc/passwd'"),
        "labels.csv": (
            text.replace(f",{a}", f",1,{a}"),
            "expected 3 columns (score, file, file), found 4 (no labels",
        ),
        "semicolons.csv": (text.replace(",", ";"), "separated by commas"),
        "header.csv": ("score,file1,file2\n" + text, "called 'file1' (is this a header?"),
        "empty.csv": ("", "it is empty"),
        "utf16.csv": (text.encode("utf-16"), "UTF-16"),
        "junk.csv": (os.urandom(99) + b"\0" + os.urandom(99), "not"),
        "sheet.csv": (b"PK\x03\x04" + os.urandom(99), "spreadsheet"),
        "latin.csv": (text.encode() + b"0.5,caf\xe9.jpg,x\n", "line 781 cannot be read"),
        "huge.csv": (text * 40, "too large"),
        "quote.csv": (text + '0.5,"' + a + "\n" * 200, "not CSV"),
        "=cmd|' C'!A0.csv": ("=1+1," + a + "," + b + "\n", "found '=1+1'"),
        f"{HOSTILE}.csv": (f"{HOSTILE},{a},{b}\n", f"found '{HOSTILE}'"),
        "ring\x1b[31m.csv": (f"0.5,\x1b]0;x\x07,{b}\n", r"called '\x1b]0;x\x07'"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    os.symlink(folder / "one pair short.csv", folder / "link.csv")
    os.mkfifo(folder / "pipe.csv")
    (folder / "folder.csv").mkdir()
    words = {name: words for name, (_, words) in bad.items()}
    return words | {"link.csv": "a link", "pipe.csv": "ordinary file", "folder.csv": "folder"}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_a_leaderboard_from_good_and_broken_submissions(world, key_files, tmp_path, capsys):
    key, _, names = key_files
    folder = tmp_path / "submissions"
    folder.mkdir()
    scores = scores_of(world, 0.35)
    lines = lines_of(world, scores)
    mixed = [line.split(",") for line in np.random.default_rng(1).permutation(lines)]
    mixed = [",".join(row if i % 2 else [row[0], *row[:0:-1]]) for i, row in enumerate(mixed)]
    write(folder / "in any order.csv", *mixed)
    (folder / ".lock").touch()  # a hidden file is no submission
    words = broken_submissions(folder, lines)

    flags = ["--out", tmp_path / "out", "--identities", names]
    code, out, err = script(leaderboard, capsys, key, folder, *flags, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["counts"] == {"submissions": 1 + len(words), "ranked": 1, "rejected": len(words)}
    for name, expected in words.items():
        assert any(expected in problem for problem in told["problems"][name]), name
    assert "\x1b" not in out + err

    (row,) = table(tmp_path / "out" / "leaderboard.csv")
    assert row["name"] == "in any order"
    labels = world[0].labels
    assert float(row["eer"]) == pytest.approx(metrics.eer(np.round(scores, 6), labels), abs=1e-4)
    rejected = table(tmp_path / "out" / "rejected.csv")
    assert len({row["file"] for row in rejected}) == len(words)
    assert not any(cell[:1] in "=+-@" for row in rejected for cell in row.values())

    page = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert "<img" not in page and html.escape(HOSTILE) in page


def test_the_order_the_intervals_and_the_test_against_the_one_above(world, key_files, tmp_path):
    key_file, _, names = key_files
    key = Key.read(key_file, names)
    noises = {"far behind": 1.5, "good": 0.4, "nearly as good": 0.42}
    scores = {name: scores_of(world, n, seed=len(name)) for name, n in noises.items()}
    scores["stretched copy"] = np.round(scores["good"], 6) * 3 + 1
    checked = [
        check_submission(write(tmp_path / f"{name}.csv", *lines_of(world, some)), key)
        for name, some in scores.items()
    ]
    places = rank(checked, key, samples=200, seed=3)
    assert [place.eer for place in places] == sorted(place.eer for place in places)
    assert places[-1].name == "far behind" and places[-1].versus.significant
    twins = {place.name: place for place in places}
    good, copy = twins["good"], twins["stretched copy"]
    assert good.rank == copy.rank == 1 and not copy.versus.significant
    assert copy.same_as == "good" and good.same_as == ""

    pairs = world[0]
    people = np.array([world[1][name] for name in pairs.files])
    about, more = (pairs.labels, people[pairs.left], people[pairs.right]), dict(samples=200, seed=3)
    scores = [next(s.scores for s in checked if s.path.stem == place.name) for place in places]
    for place, own in zip(places, scores):
        expected = metrics.bootstrap_ci(own, *about, **more)
        assert (place.low, place.high) == pytest.approx(expected)
    assert places[3].versus == metrics.paired_difference(*scores[2:], *about, **more)


def test_people_are_known_by_mapping_folders_or_target_pairs(world, key_files, tmp_path):
    key_file, _, names = key_files
    pairs, people = world
    mapped, joined = Key.read(key_file, names), Key.read(key_file)
    assert mapped.people == joined.people == PEOPLE
    assert "listed" in mapped.known_by and "target pairs" in joined.known_by
    sides = zip(mapped.left, mapped.right, joined.left, joined.right)
    assert len(set(sides)) == len(set(zip(mapped.left, mapped.right)))
    # One folder for everybody says nothing about who is who.
    for folder_of, words in ((people.get, "folders"), (lambda name: "all", "target pairs")):
        files = [f"{folder_of(name)}/{name}" for name in pairs.files]
        sides = ([files[i] for i in side] for side in (pairs.left, pairs.right))
        PairList.from_names(*sides, pairs.labels).write(tmp_path / "open.csv")
        key = Key.read(tmp_path / "open.csv")
        assert words in key.known_by and key.people == PEOPLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "lacks 1 of the 40 images"),
        (lambda rows: [*rows, "x"], "line 42: expected two columns"),
        (lambda rows: [*rows, rows[1].split(",")[0] + ",z/1.jpg"], "line 42: .* another original"),
        (lambda rows: [rows[0], rows[1].split(",")[0] + ",z/1.jpg", *rows[2:]], "contradicts 3 la"),
    ],
)
def test_a_mapping_that_does_not_fit_is_told(key_files, change, words):
    key, _, names = key_files
    names.write_text("\n".join(change(names.read_text().splitlines())))
    with pytest.raises(UserError, match=words):
        Key.read(key, names)


SMALL = PairList.from_names(["a.jpg", "a.jpg"], ["b.jpg", "c.jpg"], [1, 0])
SMALL_KEY = Key(SMALL, np.array([0, 0]), np.array([0, 1]), 2, "test")
cells = ["a.jpg", "b.jpg", "c.jpg", "0.5", "-1e3", "nan", "", '"', "=1", "\ufeff", "\0", "\r\x1b"]


@given(st.lists(st.lists(st.sampled_from(cells), max_size=4).map(",".join), max_size=4))
@settings(max_examples=300, deadline=None)
def test_whatever_is_in_a_submission_it_is_read_or_refused_in_plain_words(lines):
    with tempfile.TemporaryDirectory() as folder:
        checked = check_submission(write(Path(folder) / "x.csv", *lines), SMALL_KEY)
    if checked.scores is not None:
        assert not checked.problems and np.isfinite(checked.scores).all()
    else:
        assert 0 < len(checked.problems) <= 22
        assert all(problem.isprintable() for problem in checked.problems)


@pytest.mark.parametrize(
    "content",
    [
        "0.5,a.jpg,b.jpg\r\n1,a.jpg,c.jpg\r\n",
        "\ufeff0.5,a.jpg,b.jpg\n1,a.jpg,c.jpg",
        '"0.5","a.jpg","b.jpg"\n\n1, c.jpg , a.jpg\n\n',
        "+5e-1,b.jpg,a.jpg\n1.,a.jpg,c.jpg\n",
    ],
)
def test_what_spreadsheets_and_other_systems_write_is_taken(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content.encode())
    assert check_submission(tmp_path / "x.csv", SMALL_KEY).scores.tolist() == [0.5, 1]


def test_many_problems_are_cut_and_pairs_that_are_missing_are_told(world, key_files, tmp_path):
    key = Key.read(key_files[0])
    lines = ["x" + line for line in lines_of(world, scores_of(world, 0.3))[:-1]]
    problems = check_submission(write(tmp_path / "x.csv", *lines), key).problems
    assert problems[20] == "and 759 more" and "1 of 780 pairs" in problems[21]


def test_names_are_shown_harmless_and_apart():
    odd = ["a", "a", "a\u202eb", " ", "x" * 99, "\udcff.csv", "e\u0301"]
    shown = display_names(odd)
    assert shown[:4] == ["a", "a (2)", "a?b", "?"] and shown[5] == "?.csv" and shown[6] == "é"
    assert len(shown[4]) == 60 and all(name.isprintable() for name in shown)


def test_the_blind_test_of_make_pairs_is_ranked_with_its_key_and_names(tmp_path, capsys):
    for k, part in enumerate(("data/val", "data/test", "hidden")):
        make_photos(tmp_path / part, 6, 4, first=10 * k, size=48)
    hidden = ("--blind", tmp_path / "hidden", "--key", tmp_path / "staff")
    summary(make_pairs, capsys, tmp_path / "data", *hidden)
    blind = PairList.read(tmp_path / "data" / "test_blind.csv", tmp_path / "data" / "test")
    write_scores(tmp_path / "mine.csv", np.random.default_rng(0).random(len(blind)), blind)
    staff = tmp_path / "staff"
    for names, words in ((staff / "test_blind_names.csv", "listed"), (None, "target pairs")):
        key = Key.read(staff / "test_blind_key.csv", names)
        (place,) = rank([check_submission(tmp_path / "mine.csv", key)], key, samples=20)
        assert key.people == 6 and words in key.known_by and 0 <= place.low < place.eer
    labelled = read_scores(tmp_path / "mine.csv").with_labels(key.pairs)
    report = VerificationReport(labelled.scores, labelled.pairs, bootstrap=20)
    assert (report.eer, *report.eer_interval) == (place.eer, place.low, place.high)


def test_students_can_check_and_mistakes_are_one_line(world, key_files, tmp_path, capsys):
    key, blind, _ = key_files
    lines = lines_of(world, scores_of(world, 0.3))
    good, bad = write(tmp_path / "mine.csv", *lines), write(tmp_path / "bad.csv", *lines[5:])
    code, told, _ = script(leaderboard, capsys, blind, good, "--check")
    assert code == 0 and "in order: mine.csv, 780 pairs" in told
    out = ("--out", tmp_path / "o")
    code, told, _ = script(leaderboard, capsys, key, good, *out, "--dry-run")
    assert code == 0 and "1. mine" in told and not (tmp_path / "o").exists()
    junk = write(tmp_path / "junk.csv", *["1,2"])
    for arguments, words in (
        ((blind, bad, "--check"), "bad.csv: 5 of 780 pairs"),
        ((key, tmp_path / "nobody", *out), "cannot read"),
        ((key, junk, *out), "none of the 1 submissions can be used"),
        ((key, junk), "give --out"),
        ((blind, junk, *out), "no labels"),
        ((key, junk, *out, "--level", "95"), "--level"),
        ((key, junk, "--out", junk), "junk.csv"),
    ):
        code, _, err = script(leaderboard, capsys, *arguments)
        assert code == 2 and words in err and err.count("\n") == 1
    with folder_lock(tmp_path / "o"):
        _, _, err = script(leaderboard, capsys, key, good, *out)
    assert "another run is writing" in err


def test_distances_handed_in_for_similarities_are_told(world, key_files, tmp_path, capsys):
    key, blind, names = key_files
    scores = scores_of(world, 0.3)
    right, wrong = tmp_path / "similarities.csv", tmp_path / "distances.csv"
    for path, written in ((right, scores), (wrong, 1 - scores)):
        path.write_text("\n".join(lines_of(world, written)))
    words = "larger score must mean more alike"
    code, out, _ = script(leaderboard, capsys, key, right, wrong, "--check")
    told = {line.split(",")[0]: words in line for line in out.splitlines() if "in order:" in line}
    assert code == 0
    assert told == {"in order: similarities.csv": False, "in order: distances.csv": True}
    code, out, _ = script(leaderboard, capsys, blind, wrong, "--check")
    assert code == 0 and words in out  # no labels to know it by: everybody is reminded
    flags = ["--out", tmp_path / "out", "--identities", names, "--samples", 20]
    code, out, _ = script(leaderboard, capsys, key, right, wrong, *flags)
    page = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert code == 0 and out.count(words) == page.count(words) == 1


def test_names_in_a_submission_may_be_written_in_another_way(world, key_files, tmp_path):
    lines = [line.replace(",", ",./") for line in lines_of(world, scores_of(world, 0.3))]
    (tmp_path / "dots.csv").write_text("\n".join(lines))
    assert not check_submission(tmp_path / "dots.csv", Key.of_blind(key_files[1])).problems
