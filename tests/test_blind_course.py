"""A blind test over a course: people from a secret, a public part, one file a day, the history."""

import datetime
import stat

import numpy as np
import pytest
from script_runs import table

from labkit import metrics
from labkit.data import FaceFolder, PairList
from labkit.synth import make_dataset
from labkit.utils import UserError

import leaderboard  # isort: skip
import make_blind  # isort: skip
from parts import season  # isort: skip
from parts.submissions import Key  # isort: skip


def run(script, *flags) -> dict:
    return script.run(script.arguments().parse_args([str(flag) for flag in flags]))


def test_the_people_come_from_the_secret_and_nothing_names_them(tmp_path):
    flags = ("--identities", "4", "--images", "3", "--size", "48")
    data, staff = tmp_path / "data", tmp_path / "staff"
    (data / "test").mkdir(parents=True)
    summary = run(make_blind, data, "--staff", staff, *flags)
    blind = PairList.read(data / "test_blind.csv", data / "test")
    key = PairList.read(summary["key"])
    assert blind.labels is None and blind.files == key.files and len(blind) > 10
    people = FaceFolder.scan(staff / "faces").identities
    text = (data / "test_blind.csv").read_text() + " ".join(p.name for p in data.rglob("*"))
    assert len(people) == 4 and not any(name in text for name in people)
    assert stat.S_IMODE((staff / "secret.txt").stat().st_mode) == 0o600
    secret = int((staff / "secret.txt").read_text(), 16)
    assert secret > 2**64
    again = make_dataset(tmp_path / "again", "kstar", identities=4, images=3, size=48, seed=secret)
    assert FaceFolder.scan(again).identities == people
    before = {path: path.read_bytes() for path in data.rglob("*.*")}
    run(make_blind, data, "--staff", staff, *flags)
    assert {path: path.read_bytes() for path in data.rglob("*.*")} == before
    with pytest.raises(UserError, match="test_blind.csv is there already"):
        run(make_blind, data, "--staff", tmp_path / "other", *flags)


@pytest.fixture
def course(tmp_path):
    """A key of 12 people, and a way to bring a file and see the board on a day."""
    names = [f"p{k}/{i}.jpg" for k in range(12) for i in range(4)]
    left, right = np.triu_indices(len(names), 1)
    labels = left // 4 == right // 4
    key = PairList.from_names([names[i] for i in left], [names[i] for i in right], labels)
    key.write(tmp_path / "key.csv")
    (tmp_path / "in").mkdir()

    def bring(student: str, noise: float) -> np.ndarray:
        scores = key.labels + noise * np.random.default_rng(len(student)).normal(size=len(key))
        rows = "".join(f"{s:.6f},{','.join(key.name_pair(i))}\n" for i, s in enumerate(scores))
        (tmp_path / "in" / f"{student}.csv").write_text(rows)
        return scores.round(6)

    def board(day: int, *flags: str) -> dict[str, str]:
        class Today(datetime.date):
            @classmethod
            def today(cls):
                return cls(2026, 3, day)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leaderboard.datetime, "date", Today)
            out = ("--out", tmp_path / "out", "--public", "0.5", "--samples", "20", *flags)
            run(leaderboard, tmp_path / "key.csv", tmp_path / "in", *out)
        return {row["name"]: row["eer"] for row in table(tmp_path / "out" / "leaderboard.csv")}

    return tmp_path, Key.read(tmp_path / "key.csv"), bring, board


def test_the_page_shows_half_the_people_and_the_others_at_the_end(course):
    folder, key, bring, board = course
    scores = bring("kim", 0.7)
    public = season.public_pairs(key, b"x" * 64, 0.5)
    assert len({*key.left[public], *key.right[public]}) == 6 and 0 < public.sum() < 0.4 * len(
        public
    )
    shown, final = board(1)["kim"], board(2, "--final")["kim"]
    assert shown != final
    [row] = table(folder / "out" / "history.csv")
    assert (row["eer_public"], row["eer_private"]) == (shown, final)
    whole = metrics.eer(scores, key.pairs.labels)
    assert min(float(shown), float(final)) < whole < max(float(shown), float(final))
    assert "final" in (folder / "out" / "leaderboard.html").read_text()


def test_one_file_a_day_counts_and_earlier_ones_are_kept(course):
    folder, _, bring, board = course
    bring("kim", 0.9)
    bring("lee", 0.5)
    first = board(1)
    bring("kim", 0.1)
    assert board(1) == first  # the second of one day is refused; the first stays
    assert "one file a day" in (folder / "out" / "rejected.csv").read_text()
    assert float(board(2)["kim"]) < float(first["kim"])
    (folder / "in" / "lee.csv").unlink()
    assert board(3)["lee"] == first["lee"]  # from the history
    rows = table(folder / "out" / "history.csv")
    assert [(r["student"], r["date"][-2:]) for r in rows] == [
        ("kim", "01"),
        ("lee", "01"),
        ("kim", "02"),
    ]
    with pytest.raises(UserError, match="--final shows the private part: give --public"):
        run(leaderboard, folder / "key.csv", folder / "in", "--out", folder / "x", "--final")
