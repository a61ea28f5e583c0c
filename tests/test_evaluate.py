"""Scoring, score files and verification reports."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from labkit import metrics
from labkit.data import PairList
from labkit.evaluate import (
    VerificationReport,
    read_scores,
    save_report,
    score_embeddings,
    score_pairs,
    write_scores,
)
from labkit.utils import UserError

CASES = Path(__file__).parent / "cases" / "names"
NAMES = [f"star{k}/{i}.png" for k in range(8) for i in range(5)]


class ColourEmbedder:
    """Stands in for a network: embeds a picture by the colours of its left and right halves."""

    batch_size = 7

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        halves = [np.split(np.asarray(image, np.float32) - 100, 2, axis=1) for image in images]
        rows = np.array([np.concatenate([h.mean((0, 1)) for h in pair]) for pair in halves])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def files(self, paths, *, desc="embedding", mirror=False):
        self.seen += [str(path) for path in paths]
        images = [Image.open(path) for path in paths]
        return self([ImageOps.mirror(image) for image in images] if mirror else images)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eight identities of five pictures, each a colour with noise."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 200, (8, 2, 3))
    for name in NAMES:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        halves = colours[int(name[4])] + rng.normal(size=(2, 3)) * 30
        pixels = np.repeat(halves[None], 8, axis=0).repeat(4, axis=1)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return root


def all_pairs(labelled=True) -> PairList:
    left, right = np.triu_indices(len(NAMES), 1)
    same = [NAMES[a][:5] == NAMES[b][:5] for a, b in zip(left, right)]
    return PairList.from_names(
        [NAMES[a] for a in left], [NAMES[b] for b in right], same if labelled else None
    )


@pytest.fixture(scope="module")
def scored(faces):
    pairs = all_pairs()
    return score_pairs(ColourEmbedder(), pairs, faces), pairs


def test_each_image_is_embedded_once_and_scores_are_cosines(faces, scored):
    embedder = ColourEmbedder()
    scores, pairs = scored
    np.testing.assert_array_equal(score_pairs(embedder, pairs, faces), scores)
    assert sorted(embedder.seen) == sorted(str(faces / name) for name in NAMES)
    for i in range(0, len(pairs), 97):
        a, b = embedder([Image.open(faces / name) for name in pairs.name_pair(i)])
        assert scores[i] == pytest.approx(float(a @ b), abs=1e-6)
    assert scores.dtype == np.float32 and np.abs(scores).max() <= 1


def test_flip_averages_the_embeddings_of_a_picture_and_its_mirror_image(faces):
    embedder = ColourEmbedder()
    pairs = PairList.from_names(NAMES[:20], NAMES[20:])
    scores = score_pairs(embedder, pairs, faces, flip=True)
    for i in range(len(pairs)):
        both = []
        for name in pairs.name_pair(i):
            pixels = np.asarray(Image.open(faces / name))
            both.append(embedder([pixels, pixels[:, ::-1]]).sum(0))
        cosine = both[0] @ both[1] / np.linalg.norm(both[0]) / np.linalg.norm(both[1])
        assert scores[i] == pytest.approx(cosine, abs=1e-6)


def test_missing_images_are_named_before_anything_is_embedded(faces):
    pairs = PairList.from_names([NAMES[0], NAMES[1]], ["star9/0.png", NAMES[2]])
    with pytest.raises(UserError, match=r"1 of 4 images .* first star9/0.png"):
        score_pairs(None, pairs, faces)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_embeddings_need_not_be_of_length_one(dtype):
    rows = np.array([[3, 4], [0, 2], [-6, -8]], dtype)
    listed = PairList.from_names(["a", "a"], ["b", "c"])
    np.testing.assert_allclose(score_embeddings(rows, listed), [0.8, -1], atol=1e-6)


def test_unusable_embeddings_are_named():
    pairs = PairList.from_names(["a/1", "a/2"], ["b/1", "b/2"])
    good = np.ones((4, 3))
    with pytest.raises(UserError, match="embeddings of 4 files"):
        score_embeddings(good[:3], pairs)
    good[2] = np.nan
    with pytest.raises(UserError, match="embedding of b/1"):
        score_embeddings(good, pairs)


@pytest.mark.parametrize("labels", [[0, 1], None])
def test_a_score_file_comes_back_exactly_as_it_was_written(tmp_path, labels):
    pairs = PairList.from_names(['a, "b"/1.jpg', "c/1.jpg"], ["김/가.jpg", "c/2.jpg"], labels)
    scores = np.array([1e-30, 1 / 3], np.float32)
    write_scores(tmp_path / "scores.csv", scores, pairs)
    back = read_scores(tmp_path / "scores.csv")
    np.testing.assert_array_equal(back.scores.astype(np.float32), scores)
    assert [back.pairs.name_pair(i) for i in (0, 1)] == [pairs.name_pair(i) for i in (0, 1)]
    np.testing.assert_array_equal(back.pairs.labels, pairs.labels)
    line = "0.333333343,1,c/1.jpg,c/2.jpg" if labels else "0.333333343,c/1.jpg,c/2.jpg"
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[1] == line


@pytest.mark.parametrize("scores", [[0, 0], [np.nan]])
def test_wrong_scores_are_not_written(tmp_path, scores):
    pairs = PairList.from_names(["a/1"], ["b/1"])
    with pytest.raises(UserError, match="s.csv needs a finite score for each of the 1 pairs"):
        write_scores(tmp_path / "s.csv", scores, pairs)
    assert not list(tmp_path.iterdir())


def test_all_bad_lines_of_a_score_file_are_reported_at_once(tmp_path):
    path = tmp_path / "scores.csv"
    lines = [
        ("0.5,1,a/1.jpg,a/2.jpg", None),
        ("0.5,a/1.jpg,b/2.jpg", "expected 4 columns .* found 3"),
        ("high,1,a/1.jpg,a/3.jpg", "score must be a finite number, found 'high'"),
        ("inf,1,a/1.jpg,a/3.jpg", "found 'inf'"),
        ("1e999,1,a/1.jpg,a/3.jpg", "found '1e999'"),
        ("1_0,1,a/1.jpg,a/3.jpg", "found '1_0'"),
        ("0.5,2,a/1.jpg,a/3.jpg", "label must be 1 or 0, found '2'"),
        ("0.5,1,../1.jpg,a/3.jpg", "not a path inside"),
        ("0.5,1,a/1.jpg,a/1.jpg", "compared with itself"),
        ("0.9,1,a/2.jpg,a/1.jpg", "this pair is already on line 1"),
        ("0.9,0,a/1.jpg,a/2.jpg", "this pair is with the other label on line 1"),
    ]
    path.write_text("\n".join(line for line, _ in lines) + "\n\n")
    with pytest.raises(UserError) as error:
        read_scores(path)
    message = str(error.value)
    assert f"{path} has 10 bad lines" in message and "\n" not in message
    for number, (_, problem) in enumerate(lines, 1):
        found = re.search(rf"line {number}: ([^;]*)", message)
        assert (found is None) == (problem is None)
        if problem:
            assert re.search(problem, found[1])


def test_an_empty_file_holds_no_scores(tmp_path):
    (tmp_path / "scores.csv").write_text("\n")
    with pytest.raises(UserError, match="scores.csv holds no scores"):
        read_scores(tmp_path / "scores.csv")


def test_labels_are_attached_whatever_the_order_of_lines_and_names(tmp_path, scored):
    scores, pairs = scored
    order = np.random.default_rng(0).permutation(len(pairs))
    rows = []
    for i in order:
        names = pairs.name_pair(i)[:: (-1) ** int(i)]
        rows.append(f"{scores[i]:.9g},{','.join(names)}\n")
    (tmp_path / "s.csv").write_text("".join(rows))
    blind = read_scores(tmp_path / "s.csv")
    assert blind.pairs.labels is None
    labelled = blind.with_labels(pairs)
    np.testing.assert_array_equal(labelled.scores.astype(np.float32), scores)
    assert labelled.pairs is pairs


def test_labels_do_not_fit_other_pairs(tmp_path, scored):
    scores, pairs = scored
    write_scores(tmp_path / "s.csv", scores, pairs)
    part = PairList(pairs.files, pairs.left[3:], pairs.right[3:], pairs.labels[3:])
    for listed, words in (
        (part, "s.csv does not fit .* 3 pairs are in one .* first that of star0/0.png and star0/1"),
        (PairList(pairs.files, pairs.left, pairs.right, 1 - pairs.labels), "other labels than"),
        (all_pairs(labelled=False), "is blind itself"),
    ):
        with pytest.raises(UserError, match=words):
            read_scores(tmp_path / "s.csv").with_labels(listed)


@pytest.fixture(scope="module")
def report(scored):
    return VerificationReport(*scored, name="colours", bootstrap=60)


def test_a_report_holds_the_metrics_of_its_list(report, scored):
    scores, pairs = scored
    labels = pairs.labels
    assert report.eer == metrics.eer(scores, labels) > 0
    assert report.voxceleb_eer == metrics.voxceleb_eer(scores, labels)
    assert report.tar_at_far[0.01] == metrics.tar_at_far(scores, labels, [0.01])[0]
    assert report.min_dcf == metrics.min_dcf(scores, labels)
    assert (report.targets, report.imposters) == (8 * 10, 780 - 80)
    expected = metrics.bootstrap_ci(scores, labels, *pairs.identities(), samples=60)
    assert report.eer_interval == pytest.approx(expected)
    assert f"{report.eer:.2f} %" in report.summary() and "colours" in report.summary()


def test_the_hardest_pairs_are_the_lowest_targets_and_the_highest_imposters(report, scored):
    scores, pairs = scored
    target = pairs.labels == 1
    assert list(scores[report.hardest_targets]) == sorted(scores[target])[:12]
    assert list(scores[report.hardest_imposters]) == sorted(scores[~target])[:-13:-1]
    assert target[report.hardest_targets].all() and not target[report.hardest_imposters].any()


def test_errors_by_identity_are_those_of_the_pairs_with_that_person(report, scored):
    scores, pairs = scored
    left, right = pairs.identities()
    for name, eer in report.identity_eer.items():
        own = (left == name) | (right == name)
        assert eer == metrics.eer(scores[own], pairs.labels[own])
    assert [*report.identity_eer.values()] == sorted(report.identity_eer.values(), reverse=True)


def test_an_identity_without_target_pairs_has_no_eer_and_a_blind_list_no_report():
    pairs = PairList.from_names(["a/1", "a/1"], ["a/2", "b/1"], [1, 0])
    report = VerificationReport([0.9, 0.1], pairs, bootstrap=0)
    assert report.identity_eer == {"a": 0} and report.people == 2
    with pytest.raises(UserError, match="blind"):
        VerificationReport([0.9, 0.1], PairList.from_names(["a/1"] * 2, ["a/2", "b/1"]))


def test_a_saved_report_stands_alone(tmp_path, report, faces):
    paths = save_report([report], tmp_path / "report", root=faces)
    figures = {"det", "roc", "scores", "identities", "hardest_targets", "hardest_imposters"}
    assert set(paths) == figures | {"summary", "pdf", "html"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        path.name for path in paths.values()
    }
    for name in figures:
        with Image.open(paths[name]) as image:
            image.verify()
    assert paths["pdf"].read_bytes().startswith(b"%PDF")
    page = paths["html"].read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(figures)
    assert not re.search(r"(src|href)=[\"'](?!data:)|@import|url\(", page)
    assert f"{report.eer:.2f}" in page and "<title>Face verification report" in page
    summary = json.loads(paths["summary"].read_text())
    assert summary["systems"][0]["eer"] == report.eer
    assert summary["systems"][0]["reference_eer"] == report.voxceleb_eer
    assert summary["comparisons"] == []


def test_several_systems_share_one_report_and_are_compared(tmp_path, report, scored):
    scores, pairs = scored
    noise = np.random.default_rng(0).normal(size=len(scores)) * 0.5
    worse = VerificationReport(scores + noise, pairs, name="<i>noisy</i> & $slow$", bootstrap=60)
    paths = save_report([worse, report], tmp_path)
    assert paths["scores-2"].exists()
    page = paths["html"].read_text(encoding="utf-8")
    assert "<i>noisy" not in page and "&lt;i&gt;noisy&lt;/i&gt; &amp; $slow$" in page
    assert "colours is better than" in page
    (comparison,) = json.loads(paths["summary"].read_text())["comparisons"]
    assert comparison["name_a"] == worse.name and comparison["name_b"] == "colours"
    assert comparison["difference"] == pytest.approx(report.eer - worse.eer)
    assert comparison["low"] <= comparison["difference"] <= comparison["high"] < 0
    for reports in ([], [report, report]):
        with pytest.raises(UserError, match="different names"):
            save_report(reports, tmp_path)


def test_the_figures_do_not_depend_on_how_names_are_written(tmp_path):
    """Each name is `p3/17.jpg`; the rest is written around it, or the folder names no person."""
    plain = (CASES / "plain.csv").read_text()
    lists = [CASES / "plain.csv", CASES / "names.csv"]
    for name, pattern in dict(doubled=r"\1//\2", below=r"test/\1/\2", flat=r"all/\1_\2").items():
        lists.append(tmp_path / f"{name}.csv")
        lists[-1].write_text(re.sub(r"(p\d+)/(\d+\.jpg)", pattern, plain))
    told = []
    for path in lists:
        scored = read_scores(path)
        report = VerificationReport(scored.scores, scored.pairs, bootstrap=200)
        other = np.random.default_rng(0).normal(scored.scores, 0.07)
        difference = metrics.paired_difference(
            scored.scores, other, scored.pairs.labels, *scored.pairs.identities()
        )
        told.append((report.to_dict()["eer_interval"], report.people, difference))
    assert told[0][1] == 8 and told[0][0][0] < told[0][0][1]
    assert all(same == told[0] for same in told)
    # The p-value by hand: people are drawn, and a pair comes as often as both of its people.
    who = np.array([[int(p) for p in re.findall(r"p(\d+)/", row)] for row in plain.splitlines()])
    rng, gains = np.random.default_rng(1), []
    for _ in range(1000):
        times = np.bincount(rng.integers(8, size=8), minlength=8)[who]
        drawn = np.repeat(
            np.arange(len(who)), np.where(who[:, 0] == who[:, 1], times[:, 0], times.prod(axis=1))
        )
        labels = scored.pairs.labels[drawn]
        before, after = (metrics.eer(s[drawn], labels) for s in (scored.scores, other))
        gains.append(after - before)
    tail = min(np.mean(np.array(gains) <= 0), np.mean(np.array(gains) >= 0))
    assert told[0][2].p_value == pytest.approx(2 * tail, abs=0.1)  # by one identity it is 0.002


def test_distances_handed_in_for_similarities_are_told(tmp_path, scored):
    scores, pairs = scored
    wrong = VerificationReport(-scores, pairs, name="distances", bootstrap=0)
    right = VerificationReport(scores, pairs, name="similarities", bootstrap=0)
    assert wrong.eer > 50 > right.eer and right.hint == ""
    assert "larger score must mean more alike" in wrong.summary()
    assert "more alike" not in right.summary() and wrong.to_dict()["hint"] == wrong.hint
    for reports, count in (([right, wrong], 1), ([right], 0)):
        page = save_report(reports, tmp_path)["html"].read_text(encoding="utf-8")
        assert page.count("larger score must mean more alike") == count
