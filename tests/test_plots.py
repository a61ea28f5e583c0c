"""Figures: what they show, that any fair input can be drawn, that they leave no trace."""

import io
from types import SimpleNamespace

import IPython
import IPython.display
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.stats import norm

from labkit import metrics, plots
from labkit.data import FaceFolder, PairList
from labkit.evaluate import VerificationReport
from labkit.utils import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # without a Korean font


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for k, name in enumerate(["star one", "김지수", "$x_2$ & co"]):
        (root / name).mkdir()
        for i in range(3):
            size = (30 + 10 * i, 40)
            Image.new("RGB", size, (80 * k, 60 * i, 120)).save(root / name / f"{i}.jpg")
    return FaceFolder.scan(root)


def scores_and_labels(n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return rng.normal(size=n) + 2 * labels, labels


def drawn(figure) -> np.ndarray:
    """The pixels of a figure, whose titles and labels all lie within it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    figure.draw_without_rendering()
    for axes in (axes for axes in figure.axes if axes.axison):
        names = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()[:1]]
        for name in (name for name in names if name.get_text()):
            box, edges = name.get_window_extent(), figure.bbox
            assert box.x0 >= 0 and box.y0 >= 0, name
            assert box.x1 <= edges.x1 + 1 and box.y1 <= edges.y1 + 1, name
    return np.asarray(Image.open(buffer).convert("RGB"))


def words(figure) -> str:
    return " | ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_a_face_sheet_names_the_people_and_leaves_no_trace_in_matplotlib(faces):
    before = dict(matplotlib.rcParams)
    figure = plots.face_sheet(faces, identities=10, images=2)
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == []
    assert "star one" in words(figure) and "$x_2$ & co" in words(figure)
    np.testing.assert_array_equal(drawn(figure), drawn(plots.face_sheet(faces, 10, 2)))
    with Image.open(io.BytesIO(figure._repr_png_())) as image:  # as a notebook shows it
        assert image.format == "PNG" and 200 < image.width < 1400


@pytest.mark.filterwarnings("error")
def test_thumbnails_from_every_kind_of_picture(tmp_path):
    array = np.zeros((20, 10, 3), np.uint8)
    array[..., 0] = 200
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    kinds = [
        array,
        np.asarray(Image.fromarray(array)),  # read-only
        array.transpose(2, 0, 1),
        torch.from_numpy(array).permute(2, 0, 1),
        torch.from_numpy(array).permute(2, 0, 1).float() / 255,
        Image.fromarray(array),
        path,
        path.read_bytes(),
    ]
    for picture in kinds:
        tile = plots.thumbnail(picture, 16)
        assert tile.shape == (16, 16, 3) and tile.dtype == np.uint8
        assert tuple(tile[8, 8]) == (200, 0, 0) and tuple(tile[8, 0]) == (255, 255, 255)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for name in ("broken.jpg", "missing.jpg"):  # grey squares
        assert (plots.thumbnail(tmp_path / name, 8) == 200).all()


def test_image_grids(faces):
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 24, 24), dtype=np.uint8)
    assert drawn(plots.image_grid(batch, 3)).std() > 10
    titles = ["a", "b$", 3, "한글 é\n", "abcdefghijklmnopqrstu"]
    figure = plots.image_grid(torch.from_numpy(batch), 3, titles)
    assert "b$ | " in words(figure) and "abcdefgh…opqrstu" in words(figure)
    assert "\n" not in words(figure)
    drawn(figure)
    with pytest.raises(UserError, match="no pictures"):
        plots.image_grid([])


def test_pair_sheets_show_scores_names_and_kinds(faces):
    pairs = PairList.from_names(
        ["star one/0.jpg", "star one/0.jpg"], ["star one/1.jpg", "$x_2$ & co/0.jpg"], [1, 0]
    )
    figure = plots.pair_sheet(pairs, np.array([0.125, 0.75]), [1, 0], faces.root, "Pairs")
    for expected in ("0.125", "0.750", "same person", "two people", "$x_2$ & co/0.jpg", "Pairs"):
        assert expected in words(figure)
    drawn(figure)
    blind = PairList(pairs.files, pairs.left, pairs.right, None)
    assert "not labelled" in words(plots.pair_sheet(blind, np.zeros(2), [0], faces.root))


def test_a_lookalike_sheet_shows_the_face_and_says_what_the_likeness_means():
    face, gallery = Image.new("RGB", (64, 64), (200, 150, 120)), SimpleNamespace(note="Rendered")
    gallery.thumbnail = lambda identity, image: face
    stars = [SimpleNamespace(identity=i, name=f"S{i}", similarity=0.7, image=None) for i in (4, 2)]
    shown = words(plots.lookalike_sheet(face, stars, gallery, "S4: closer; a stranger finds one"))
    for part in (
        "Your photo",
        "1. S4",
        "2. S2",
        "similarity 0.700",
        "Rendered",
        "a stranger finds",
    ):
        assert part in shown
    drawn(plots.lookalike_sheet(face, stars, gallery))


def test_the_margin_figure_draws_the_loss_it_explains():
    figure = plots.margin_figure(margins=(0.0, 0.2), scale=15.0)
    logits, probability = figure.axes
    line = logits.lines[1]
    at_60 = int(np.argmin(np.abs(line.get_xdata() - 60)))
    assert line.get_ydata()[at_60] == pytest.approx(15 * (0.5 - 0.2))
    # With the other class at the same angle, the logits 15 * 0.3 and 15 * 0.5 remain.
    expected = np.exp(15 * 0.3) / (np.exp(15 * 0.3) + np.exp(15 * 0.5))
    assert probability.lines[1].get_ydata()[at_60] == pytest.approx(expected)
    drawn(figure)


def write_log(folder, *rows):
    folder.mkdir(parents=True)
    head = "epoch,step,lr,train_loss,train_accuracy,val_eer,images_per_second,seconds"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def test_training_curves_skip_epochs_without_validation(tmp_path):
    rows = "1,10,0.1,2.5,10,,99,1", "2,20,0.1,2,20,30.5,99,1", "3,30,0.05,1,,,9,1"
    figure = plots.training_curves(write_log(tmp_path / "run", *rows))
    loss, accuracy, _, eer = (axes.lines[0].get_xydata().tolist() for axes in figure.axes)
    assert loss == [[1, 2.5], [2, 2], [3, 1]]
    assert accuracy == [[1, 10], [2, 20]] and eer == [[2, 30.5]]
    assert "30.50 %" in words(figure)
    drawn(figure)


def test_the_first_epoch_has_a_whole_number(tmp_path):
    figure = plots.training_curves(write_log(tmp_path / "run", "1,10,0.1,2.5,10,30.5,99,1"))
    low, high = figure.axes[3].get_xlim()
    assert [tick for tick in figure.axes[3].get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("systems", [1, 5, 9])
def test_no_title_and_no_name_is_cut_at_the_edge(systems, faces):
    scores, labels = scores_and_labels()
    det = plots.det_curve({f"system {i}": (scores, labels) for i in range(systems)})
    grid = plots.image_grid(
        [np.zeros((8, 8, 3), np.uint8)] * 3, 3, ["한" * 12, "w" * 16, "ㄱ b" * 9]
    )
    star = SimpleNamespace(identity=0, name="S", similarity=0.7, image=None)
    gallery = SimpleNamespace(
        note="rendered " * 9, thumbnail=lambda i, image: Image.new("RGB", (9, 9))
    )
    sheet = plots.lookalike_sheet(
        Image.new("RGB", (9, 9)), [star], gallery, "a stranger finds " * 9
    )
    for figure in (det, grid, sheet):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.get_tightbbox(canvas.get_renderer())
        assert min(whole.x0, whole.y0) >= 0
        assert whole.x1 <= figure.get_figwidth() and whole.y1 <= figure.get_figheight()


def test_training_curves_of_several_runs_have_different_names(tmp_path):
    a, b = (write_log(tmp_path / n / "run", "1,10,0.1,2.5,10,,99,1") for n in "ab")
    for source in ([a, b], {"first": a, "second": b}):
        legend = plots.training_curves(source).axes[3].get_legend()
        labels = [t.get_text() for t in legend.get_texts()]
        assert len(set(labels)) == 2
    assert labels == ["first", "second"]
    with pytest.raises(UserError, match="metrics.csv: no such file"):
        plots.training_curves(tmp_path)
    with pytest.raises(UserError, match="no epochs"):
        plots.training_curves(write_log(tmp_path / "run"))


def test_curves_are_drawn_anew_in_a_live_notebook_and_nowhere_else(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda _, **how: shown.append(how["update"]))
    run = write_log(tmp_path / "run", "1,10,0.1,2.5,10,,99,1")
    plots.show_curves(run, [{}])
    assert shown == []
    shell = SimpleNamespace(kernel=1, user_ns={})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setenv("JPY_SESSION_NAME", "lab.ipynb")
    plots.show_curves(run, [{}, {}])  # a run that goes on in a new kernel
    plots.show_curves(run, [{}, {}, {}])
    plots.show_curves(run, [{}])  # the cell is run again
    assert shown == [False, True, False]


def test_score_histograms_add_up_and_name_the_rates():
    scores, labels = scores_and_labels()
    figure = plots.score_histogram(scores, labels, threshold=1.0)
    sums = [patch.get_data().values.sum() for patch in figure.axes[0].patches]
    assert sums == pytest.approx([100, 100])
    far, frr = 100 * np.mean(scores[labels == 0] >= 1), 100 * np.mean(scores[labels == 1] < 1)
    assert f"{far:.2f} % of imposters accepted, {frr:.2f} % of targets" in words(figure)


def test_det_and_roc_pass_through_the_points_of_the_curve():
    scores, labels = scores_and_labels()
    figure = plots.det_curve({"one": (scores, labels), "$two$": scores_and_labels(100, 1)})
    far, frr, _ = metrics.det(scores, labels)
    points = norm.ppf(np.stack([far, frr], axis=1)[(far > 0) & (frr > 0)])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), points)
    assert f"one: EER {metrics.eer(scores, labels):.2f} %" in words(figure)
    drawn(figure)
    figure = plots.roc_curve({"one": (scores, labels)})
    _, tar, _ = metrics.roc(scores, labels)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 100 * tar)
    drawn(figure)


@pytest.mark.parametrize("scores", [(0.1, 0.9), (0.9, 0.1), (0.5, 0.5)])
def test_curves_of_extreme_lists_can_be_drawn(scores):
    drawn(plots.det_curve({"system": (scores, [0, 1])}))
    drawn(plots.roc_curve({"system": (scores, [0, 1])}))
    drawn(plots.score_histogram(scores, [0, 1], 0.5))


def test_who_is_hard_is_shown_hardest_first():
    left, right = np.triu_indices(90, 1)
    labels = (left // 3 == right // 3).astype(np.int8)
    pairs = PairList([f"p{i // 3:02d}/{i}" for i in range(90)], left, right, labels)
    scores = np.random.default_rng(0).normal(size=len(left)) + labels
    report = VerificationReport(scores, pairs, bootstrap=0)
    figure = plots.identity_eer(report)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [*report.identity_eer][:25] and len(report.identity_eer) == 30
    assert "All 30 people" in words(figure)
