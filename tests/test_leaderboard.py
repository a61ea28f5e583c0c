"""Hand-ins for a blind list: what is refused and why, and the leaderboard of the rest."""

import csv
import html.parser
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_faces
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import metrics
from labkit.data import PairList
from labkit.evaluate import VerificationReport, read_scores, write_scores
from labkit.evaluate.handins import Key, check_hand_in, find_hand_ins
from labkit.evaluate.leaderboard import display_names, rank_hand_ins, spreadsheet_text
from labkit.utils import UserError, folder_lock

SCRIPT = Path(__file__).parent.parent / "data_scripts" / "leaderboard.py"
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


def hand_in(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_script(*arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "LABKIT_PROGRESS": "none"}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


def broken_hand_ins(folder: Path, lines: list[str]) -> dict[str, str]:
    """Write a dozen broken hand-ins; file name → what must be said about it."""
    text = "\n".join(lines) + "\n"
    a, b = lines[0].split(",")[1:]
    bad = {
        "one pair short.csv": ("\n".join(lines[1:]), "1 of 780 pairs of the list are missing"),
        "twice.csv": (text + f"0.5,{b},{a}\n", "line 781: this pair is already on line 1"),
        "nan.csv": (text.replace(lines[4], "nan," + lines[4].split(",", 1)[1]), "found 'nan'"),
        "infinite.csv": (text.replace(lines[4], "1e999," + lines[4].split(",", 1)[1]), "'1e999'"),
        "stranger.csv": (text + f"0.5,{a},../../etc/passwd\n", "called '../../etc/passwd'"),
        "labels.csv": (
            "\n".join(line.replace(",", ",1,", 1) for line in lines),
            "lines 1 to 19: expected 3 columns (score, file, file), found 4 (no labels",
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


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, attributes))

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_a_leaderboard_from_good_and_broken_hand_ins(world, key_files, tmp_path):
    key, _, names = key_files
    folder = tmp_path / "hand_ins"
    folder.mkdir()
    scores = scores_of(world, 0.35)
    order = np.random.default_rng(1).permutation(len(scores))
    lines = lines_of(world, scores)
    mixed = [
        lines[i] if i % 2 else ",".join(np.array(lines[i].split(","))[[0, 2, 1]]) for i in order
    ]
    hand_in(folder / "in any order.csv", mixed)
    words = broken_hand_ins(folder, lines)

    done = run_script(key, folder, "--out", tmp_path / "out", "--identities", names, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["counts"] == {"hand-ins": 1 + len(words), "ranked": 1, "rejected": len(words)}
    for name, expected in words.items():
        (shown,) = display_names([name])
        assert any(expected in problem for problem in summary["problems"][shown]), name
    assert "\x1b" not in done.stderr

    (row,) = csv.DictReader((tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8"))
    assert row["name"] == "in any order"
    labels = world[0].labels
    assert float(row["eer"]) == pytest.approx(metrics.eer(np.round(scores, 6), labels), abs=1e-4)
    with open(tmp_path / "out" / "rejected.csv", encoding="utf-8", newline="") as file:
        rejected = list(csv.reader(file))[1:]
    assert len({name for name, _ in rejected}) == len(words)
    assert not any(cell[:1] in ("=", "+", "-", "@") for row in rejected for cell in row)

    page = Tags()
    page.feed((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.seen} <= set(
        "html head meta title style body h1 h2 p b div table thead tbody tr th td br span svg "
        "line circle ul li".split()
    )
    assert not any(key.startswith("on") or key == "src" for _, a in page.seen for key, _ in a)
    assert HOSTILE in "".join(page.text)


def test_the_order_the_intervals_and_the_test_against_the_one_above(world, key_files, tmp_path):
    key_file, _, names = key_files
    key = Key.read(key_file, names)
    noises = {"far behind": 1.5, "good": 0.4, "nearly as good": 0.42}
    files = [
        hand_in(tmp_path / f"{name}.csv", lines_of(world, scores_of(world, noise, seed=len(name))))
        for name, noise in noises.items()
    ]
    copy = tmp_path / "stretched copy.csv"
    good = scores_of(world, 0.4, seed=4)
    hand_in(copy, lines_of(world, np.round(good, 6) * 3 + 1))
    checked = [check_hand_in(path, key) for path in [*files, copy]]
    places = rank_hand_ins(checked, key, samples=200, seed=3)
    assert [place.eer for place in places] == sorted(place.eer for place in places)
    assert places[-1].name == "far behind" and places[-1].versus.significant
    assert [p.rank for p in places if p.name in ("good", "stretched copy")] == [places[0].rank] * 2
    twins = {place.name: place for place in places}
    assert twins["stretched copy"].same_as == "good" and twins["good"].same_as == ""
    assert not twins["stretched copy"].versus.significant

    labels, ids = world[0].labels, world[0]
    people = np.array([world[1][name] for name in ids.files])
    left, right = people[ids.left], people[ids.right]
    scores = [next(h.scores for h in checked if h.name == place.name) for place in places]
    for place, own in zip(places, scores):
        expected = metrics.bootstrap_ci(own, labels, left, right, samples=200, seed=3)
        assert (place.low, place.high) == pytest.approx(expected)
    expected = metrics.paired_difference(*scores[2:], labels, left, right, samples=200, seed=3)
    assert places[3].versus == expected


def test_people_are_known_by_the_mapping_the_folders_or_the_target_pairs(
    world, key_files, tmp_path
):
    key_file, _, names = key_files
    pairs, people = world
    mapped, joined = Key.read(key_file, names), Key.read(key_file)
    assert mapped.people == joined.people == PEOPLE
    assert "listed" in mapped.known_by and "target pairs" in joined.known_by
    for key in (mapped, joined):
        same = (key.left[:, None] == key.left) & (key.right[:, None] == key.right)
        assert np.array_equal(same, (mapped.left[:, None] == mapped.left)
                              & (mapped.right[:, None] == mapped.right))  # fmt: skip
    folders = PairList(
        sorted(f"{people[name]}/{name}" for name in pairs.files), pairs.left, pairs.right, None
    )
    order = sorted(range(len(pairs.files)), key=lambda i: people[pairs.files[i]] + pairs.files[i])
    place = np.argsort(order)
    PairList(folders.files, place[pairs.left], place[pairs.right], pairs.labels).write(
        tmp_path / "open.csv"
    )
    by_folder = Key.read(tmp_path / "open.csv")
    assert "folders" in by_folder.known_by and by_folder.people == PEOPLE
    # One folder for everybody says nothing about who is who.
    PairList([f"all/{n}" for n in pairs.files], pairs.left, pairs.right, pairs.labels).write(
        tmp_path / "one.csv"
    )
    assert "target pairs" in Key.read(tmp_path / "one.csv").known_by


def test_the_blind_test_of_make_pairs_is_ranked_with_its_key_and_names(tmp_path):
    for seed, part in enumerate(("val", "test", "hidden")):
        faces = make_faces(tmp_path / ("hidden" if part == "hidden" else f"data/{part}"), 6, 4,
                           seed=seed)  # fmt: skip
    made = subprocess.run(
        [sys.executable, SCRIPT.with_name("make_pairs.py"), tmp_path / "data", "--blind", faces,
         "--key", tmp_path / "staff"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    blind = PairList.read(tmp_path / "data" / "test_blind.csv", tmp_path / "data" / "test")
    scores = np.random.default_rng(0).random(len(blind))
    write_scores(tmp_path / "mine.csv", scores, blind)
    files = {name: next((tmp_path / "staff").glob(f"*{name}.csv")) for name in ("key", "names")}
    for names, words in ((files["names"], "listed"), (None, "target pairs")):
        key = Key.read(files["key"], names)
        (place,) = rank_hand_ins([check_hand_in(tmp_path / "mine.csv", key)], key, samples=20)
        assert key.people == 6 and words in key.known_by and 0 < place.low < place.eer
    labelled = read_scores(tmp_path / "mine.csv").with_labels(key.pairs)
    report = VerificationReport.from_scores(labelled.scores, labelled.pairs, bootstrap=20)
    assert len(report.identities.names) == 6
    assert (report.eer, report.eer_interval[0]) == (place.eer, place.low)


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


def test_the_key_must_have_labels_of_both_kinds(key_files):
    with pytest.raises(UserError, match="no labels"):
        Key.read(key_files[1])


@pytest.fixture
def script(monkeypatch, capsys):
    """The script in this process: a function from arguments to (exit code, out, err)."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    main, module = importlib.import_module("parts.job").main, importlib.import_module("leaderboard")

    def call(*arguments):
        code = main(module.run, module.arguments(), list(map(str, arguments)))
        return code, *capsys.readouterr()

    yield call
    for name in ("parts.job", "parts.journal", "leaderboard"):
        sys.modules.pop(name, None)


def test_students_can_check_with_the_blind_list(script, world, key_files, tmp_path):
    good = hand_in(tmp_path / "mine.csv", lines_of(world, scores_of(world, 0.3)))
    code, out, _ = script(key_files[1], good, "--check")
    assert code == 0 and "in order: mine.csv, 780 pairs" in out
    bad = hand_in(tmp_path / "bad.csv", lines_of(world, scores_of(world, 0.3))[5:])
    code, _, err = script(key_files[1], good, bad, "--check")
    assert code == 2 and "bad.csv: 5 of 780 pairs" in err and err.count("\n") == 1


def test_mistakes_of_the_staff_are_one_line(script, key_files, tmp_path):
    key, blind, _ = key_files
    junk = hand_in(tmp_path / "junk.csv", ["1,2"])
    for arguments, words in (
        ((key, tmp_path / "nobody", "--out", tmp_path / "o"), "there is no hand-in"),
        ((key, junk, "--out", tmp_path / "o"), "none of the 1 hand-ins can be used"),
        ((key, junk), "give --out"),
        ((blind, junk, "--out", tmp_path / "o"), "no labels"),
        ((key, junk, "--out", tmp_path / "o", "--level", "95"), "--level"),
        ((key, junk, "--out", junk), "junk.csv"),
    ):
        code, _, err = script(*arguments)
        assert code == 2 and words in err and err.count("\n") == 1


def test_a_dry_run_writes_nothing(script, world, key_files, tmp_path):
    good = hand_in(tmp_path / "mine.csv", lines_of(world, scores_of(world, 0.3)))
    code, out, _ = script(key_files[0], good, "--out", tmp_path / "o", "--dry-run")
    assert code == 0 and "1. mine" in out and not (tmp_path / "o").exists()


def test_only_the_first_twenty_problems_are_kept_and_all_are_counted(world, key_files, tmp_path):
    key = Key.read(key_files[0])
    lines = ["x" + line for line in lines_of(world, scores_of(world, 0.3))[:-1]]
    checked = check_hand_in(hand_in(tmp_path / "x.csv", lines), key)
    assert checked.problem_count == 780 and len(checked.problems) == 20
    assert "1 of 780 pairs" in checked.problems[-1] and not checked.good


SMALL = PairList.from_names(["a.jpg", "a.jpg"], ["b.jpg", "c.jpg"], [1, 0])
cells = st.one_of(
    st.sampled_from(["a.jpg", "b.jpg", "c.jpg", "0.5", "-1e3", "nan", "", '"', "=1", "\ufeff"]),
    st.text(max_size=5),
)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(cells, max_size=4).map(",".join), max_size=4).map("\n".join),
        st.permutations(["0.5,a.jpg,b.jpg", "1,c.jpg,a.jpg", ""]).map("\n".join),
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_in_a_hand_in_it_is_read_or_refused_in_plain_words(content):
    key = Key(SMALL, np.array([0, 0]), np.array([0, 1]), 2, "test")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        )
        checked = check_hand_in(path, key)
    if checked.good:
        assert checked.problem_count == 0 and np.isfinite(checked.scores).all()
        rows = {frozenset(row[1:]): row[0] for row in csv.reader(content.splitlines()) if row}
        assert [float(rows[frozenset(SMALL.name_pair(i))]) for i in (0, 1)] == list(checked.scores)
    else:
        assert 0 < len(checked.problems) <= min(20, checked.problem_count)
        assert all(problem.isprintable() for problem in checked.told())


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
    key = Key(SMALL, np.array([0, 0]), np.array([0, 1]), 2, "test")
    assert check_hand_in(tmp_path / "x.csv", key).scores.tolist() == [0.5, 1]


def test_two_runs_at_once_do_not_mix(script, world, key_files, tmp_path):
    good = hand_in(tmp_path / "mine.csv", lines_of(world, scores_of(world, 0.3)))
    with folder_lock(tmp_path / "out"):
        code, _, err = script(key_files[0], good, "--out", tmp_path / "out")
    assert code == 2 and "another run is writing" in err
    assert not list((tmp_path / "out").glob("*.*ml"))


def test_names_are_shown_harmless_and_apart():
    odd = ["a", "a", "a\u202eb", " ", "x" * 99, "\udcff.csv", "e\u0301"]
    shown = display_names(odd)
    assert shown[:4] == ["a", "a (2)", "a?b", "?"] and shown[5] == "?.csv" and shown[6] == "é"
    assert len(shown[4]) == 60 and all(name.isprintable() for name in shown)
    for formula in ("=1", "+1", "-1", "@x", " =1", "＝1"):
        assert spreadsheet_text(formula) == "'" + formula
    assert spreadsheet_text("a=1") == "a=1"


def test_hidden_files_are_no_hand_ins(tmp_path):
    (tmp_path / ".lock").touch()
    with pytest.raises(UserError, match="no hand-ins"):
        find_hand_ins([tmp_path])
    (tmp_path / "a.csv").touch()
    assert find_hand_ins([tmp_path, tmp_path / "a.csv"]) == [tmp_path / "a.csv"]
