"""The figures that notebooks and reports show; every function returns a new one to `savefig`."""

import functools
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from scipy.special import ndtri

from labkit import metrics
from labkit.checkpoint import read_metrics
from labkit.data import FaceFolder, PairList, decode_image
from labkit.utils import UserError, in_live_notebook, printable

# Okabe and Ito's palette, told apart with any kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
TARGET, IMPOSTER, BLACK, GREY = PALETTE[0], PALETTE[4], PALETTE[6], "#8A8A8A"
HANGUL_FONTS = ("Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo")
STYLE = Path(__file__).with_name("facelab.mplstyle")
TILE = 128  # pixels


class LabFigure(Figure):
    """A matplotlib figure that a notebook shows by itself, once, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> LabFigure:
    """Return an empty white figure, in inches, laid out so that nothing overlaps."""
    figure = LabFigure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def styled(draw):
    """Draw under the kit's style and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with matplotlib.rc_context({"font.family": fonts()}, STYLE):
            figure = draw(*args, **kwargs)
            for _ in range(2):  # ticks are made in this style; the layout settles
                figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return inside


@functools.cache
def fonts() -> list[str]:
    """Return matplotlib's own font and the first installed one that has Hangul, if any."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *[name for name in HANGUL_FONTS if name in installed][:1]]


def text(value: object, length: int = 100) -> str:
    """Return a name on one line, shortened in the middle; its Hangul is composed."""
    shown = printable(unicodedata.normalize("NFC", str(value)), 1000)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in shown)
    length = max(length - wide, length // 2)  # which take the room of two
    tail = (length - 1) // 2
    return shown if len(shown) <= length else f"{shown[: length - 1 - tail]}…{shown[-tail:]}"


def as_picture(source, min_size: int | None = None) -> Image.Image:
    """Return an RGB PIL image from one, from an array or tensor, the bytes of a file or a path.

    Arrays are uint8, or floats in [0, 1], of shape (h, w, 3), (3, h, w) or (h, w). `min_size` and
    the UserError for a file are those of `decode_pixels`.
    """
    if isinstance(source, (str, os.PathLike, bytes)):
        return decode_image(source, min_size=min_size)
    if not isinstance(source, Image.Image):
        pixels = np.asarray(source)
        if pixels.dtype.kind == "f":
            pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
        source = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels)
    return source.convert("RGB")


def thumbnail(source, size: int = TILE) -> np.ndarray:
    """Return a picture as a white-padded square, uint8 (size, size, 3); grey if it is damaged."""
    try:
        picture = as_picture(source, min_size=size)
    except UserError:
        return np.full((size, size, 3), 200, np.uint8)
    return np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.LANCZOS, color="white"))


def panels(count: int, columns: int, width: float, height: float) -> tuple[LabFigure, list]:
    """Return a figure and `count` axes in rows, each panel so many inches wide and high."""
    if not count:
        raise UserError("there are no pictures to show")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(columns * width, rows * height)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def show_picture(axes, picture) -> None:
    """Show a picture without ticks, grid and frame."""
    axes.imshow(as_picture(picture))
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def face_sheet(folder: FaceFolder, identities: int = 6, images: int = 8, seed: int = 0):
    """Show some photos of some identities, each a row that begins with its name, by `seed`."""
    rng = np.random.default_rng(seed)
    count = min(identities, len(folder.identities))
    chosen = np.sort(rng.choice(len(folder.identities), count, replace=False))
    files = [np.sort(rng.permutation(folder.indices_of(int(k)))[:images]) for k in chosen]
    columns, pictures, titles = max(map(len, files)), [], []
    for k, own in zip(chosen, files):
        pictures += [folder.source(int(i)) for i in own]
        pictures += [np.full((1, 1, 3), 255, np.uint8)] * (columns - len(own))
        titles += [folder.identities[k], *[""] * (columns - 1)]
    return image_grid(pictures, columns, titles)


@styled
def image_grid(images, columns: int = 8, titles: Sequence[object] | None = None) -> LabFigure:
    """Show pictures that `thumbnail` takes in rows, each with its title below if it has one."""
    images = list(images)
    figure, axes = panels(len(images), columns, 1.25, 1.25 if titles is None else 1.5)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for i, image in enumerate(images):
        show_picture(axes[i], thumbnail(image))
        axes[i].set_xlabel("" if titles is None else text(titles[i], 16), fontsize=9)
    return figure


@styled
def matrix(values: np.ndarray, title: str = "") -> LabFigure:
    """Show a matrix (n, n) of cosines as colours, from -1 to 1."""
    figure = new_figure(5.0, 4.2)
    axes = figure.subplots()
    picture = axes.imshow(np.asarray(values), vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(picture, label="cosine")
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    return figure


@styled
def pair_sheet(
    pairs: PairList, scores: np.ndarray, indices: Sequence[int], root: str | Path, title: str = ""
) -> LabFigure:
    """Show the pairs of these indices side by side, with score, kind and file names in `root`."""
    figure, panel = panels(len(indices), 3, 3.3, 2.2)
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=13)
    find = pairs.find(root)
    for axes, i in zip(panel, indices):
        names = pairs.name_pair(int(i))
        left, right = (thumbnail(find(name)) for name in names)
        show_picture(axes, np.hstack([left, np.full((TILE, 4, 3), 255, np.uint8), right]))
        below = [text(name, 22) for name in names]
        axes.set_xticks((TILE / 2, 4 + 1.5 * TILE), below, fontsize=8, color="#444444")
        kind, tint = "not labelled", GREY
        if pairs.labels is not None:
            kind, tint = ("same person", TARGET) if pairs.labels[i] else ("two people", IMPOSTER)
        axes.set_title(f"{scores[i]:.3f}")
        axes.set_title(kind, loc="right", fontsize=10, color=tint)
    return figure


@styled
def lookalike_sheet(face: Image.Image, matches, gallery, sentence: str = "") -> LabFigure:
    """Show the cropped face, then its five nearest stars with picture, name and similarity.

    `matches` is what `gallery.search` gives for one embedding. `sentence` says what it means.
    """
    matches = list(matches)[:5]
    figure, (first, *others) = panels(len(matches) + 1, 6, 2.3, 3.3)
    show_picture(first, face)
    first.set_title("Your photo", fontsize=11, loc="center")
    for rank, (axes, match) in enumerate(zip(others, matches), 1):
        show_picture(axes, gallery.thumbnail(match.identity, image=match.image))
        axes.set_title(f"{rank}. {text(match.name, 20)}", fontsize=11, loc="center")
        axes.set_xlabel(f"similarity {match.similarity:.3f}", fontsize=9)
    figure.suptitle("Your look-alikes among the stars", fontsize=13)
    notes = [line for s in (sentence, gallery.note) for line in wrap(s, 32 * (len(matches) + 1))]
    figure.supxlabel("\n".join(notes), fontsize=9, color="#6b7280")
    return figure


DET_TICKS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40)  # percent
_live_curves: set[Path] = set()


@styled
def margin_figure(margins: Sequence[float] = (0.0, 0.1, 0.3), scale: float = 30.0) -> LabFigure:
    """Show what the margin of AM-Softmax does to the logit and probability of the own class.

    The target logit is scale * (cos(angle) - margin); the nearest other class is at 60 degrees.
    Source: Wang et al., "Additive margin softmax for face verification" (2018), equation 6.
    """
    figure = new_figure(10.0, 4.0)
    left, right = figure.subplots(1, 2)
    angle = np.linspace(0, 120, 481)
    for margin in margins:
        logit = scale * (np.cos(np.radians(angle)) - margin)
        left.plot(angle, logit, label=f"margin {margin:g}")
        right.plot(angle, 1 / (1 + np.exp(scale * np.cos(np.radians(60)) - logit)))
    left.set(ylabel="target logit", title="A margin lowers the target logit")
    left.legend(loc="lower left")
    right.axvline(60, color=GREY, linewidth=1, linestyle=":")
    right.text(63, 0.9, "beyond: another\nclass is nearer", fontsize=9)
    right.set(ylabel="probability of own class", title="The same face counts for less")
    for axes in (left, right):
        axes.set(xlabel="angle to own class (degrees)", xticks=range(0, 121, 30))
    return figure


@styled
def training_curves(source) -> LabFigure:
    """Show loss, accuracy, learning rate and validation EER by epoch, of one run or several.

    `source` is a run folder, a list of them, or a dict from names to them. Raises UserError when
    a run has no metrics.csv or no epochs yet.
    """
    if not isinstance(source, Mapping):
        folders = [source] if isinstance(source, (str, Path)) else source
        source = {str(folder): folder for folder in folders}
    figure = new_figure(10.0, 6.0)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    titles = {
        "train_loss": "Training loss",
        "train_accuracy": "Training accuracy (%)",
        "lr": "Learning rate",
        "val_eer": "Validation EER (%), lower is better",
    }
    for name, folder in source.items():
        path = Path(folder) / "metrics.csv"
        rows = read_metrics(path)
        if not rows:
            raise UserError(f"{path} holds no epochs: train for at least one")
        for axes, (column, title) in zip(panels, titles.items()):
            there = [row for row in rows if row[column] is not None]
            epochs, values = ([row[key] for row in there] for key in ("epoch", column))
            best = f": best {min(values):.2f} %" if column == "val_eer" and values else ""
            axes.plot(epochs, values, label=text(name, 30) + best, marker=".")
            axes.set_title(title)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[3].legend()
    figure.supxlabel("epoch")
    return figure


def show_curves(run_dir: Path, rows: list[dict]) -> None:
    """Draw the curves of a run below the running cell, in the place of those drawn before.

    For `fit(config, after_epoch=show_curves)`; where no person watches it does nothing.
    """
    if not in_live_notebook():
        return
    from IPython.display import display

    again = len(rows) > 1 and run_dir in _live_curves
    display(training_curves(run_dir), display_id=str(run_dir), update=again)
    _live_curves.add(run_dir)


@styled
def score_histogram(
    scores, labels, threshold: float | None = None, title: str = "How alike pairs score"
) -> LabFigure:
    """Show how target and imposter scores spread, with the threshold and the two error rates."""
    scores, target = metrics.check_scores(scores, labels)
    figure = new_figure(9.0, 4.4)
    axes = figure.add_subplot()
    bins = int(np.clip(2 * np.sqrt(min(target.sum(), (~target).sum())), 12, 80))
    edges = np.histogram_bin_edges(scores, bins)
    for own, tint, name in (
        (scores[~target], IMPOSTER, "imposter pairs (two people)"),
        (scores[target], TARGET, "target pairs (same person)"),
    ):
        share = 100.0 * np.histogram(own, edges)[0] / len(own)
        axes.stairs(share, edges, fill=True, color=tint, alpha=0.5, label=f"{name}: {len(own):,}")
    if threshold is not None:
        frr = 100.0 * np.mean(scores[target] < threshold)
        far = 100.0 * np.mean(scores[~target] >= threshold)
        label = f"threshold {threshold:.3f}: {far:.2f} % of imposters accepted, "
        label += f"{frr:.2f} % of targets rejected"
        axes.axvline(threshold, color=BLACK, linestyle="--", label=label)
    axes.set(xlabel="similarity", ylabel="share of pairs (%)", title=title)
    figure.legend(loc="outside lower center")
    return figure


@styled
def det_curve(systems: Mapping[str, tuple], title: str = "DET curve") -> LabFigure:
    """Show the detection error trade-off: both error rates on normal-deviate axes.

    `systems` maps names to (scores, labels). Two normal distributions give a straight line; the
    dots are the equal error rates. Source: Martin et al. (1997).
    """
    figure = new_figure(6.2, 6.5 + 0.24 * len(systems))
    axes = figure.add_subplot()
    smallest = 0.01
    for name, (scores, labels) in systems.items():
        far, frr, _ = metrics.det(scores, labels)
        eer = metrics.eer(scores, labels) / 100
        inside = (far > 0) & (frr > 0) & (far < 1) & (frr < 1)
        label = f"{text(name, 32)}: EER {100 * eer:.2f} %"
        (line,) = axes.plot(ndtri(far[inside]), ndtri(frr[inside]), label=label)
        axes.plot(ndtri(eer), ndtri(eer), "o", color=line.get_color(), markersize=8)
        smallest = np.min([smallest, *far[inside][:1], *frr[inside][-1:]])
    limits = ndtri(max(0.8 * smallest, 8e-6)), ndtri(0.6)
    ticks = [tick for tick in DET_TICKS if limits[0] <= ndtri(tick / 100)]
    places, names = ndtri(np.array(ticks) / 100), [f"{tick:g}" for tick in ticks]
    axes.set(xticks=places, xticklabels=names, yticks=places, yticklabels=names)
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title=title)
    axes.set(xlabel="false accepts (% of imposter pairs)", ylabel="false rejects (% of targets)")
    figure.legend(loc="outside lower center")
    return figure


@styled
def roc_curve(systems: Mapping[str, tuple], title: str = "ROC curve") -> LabFigure:
    """Show true accepts against false accepts, false accepts on a logarithmic axis.

    `systems` maps names to (scores, labels). The grey line is guessing.
    """
    figure = new_figure(7.2, 5.2 + 0.23 * len(systems))
    axes = figure.add_subplot()
    smallest = 10.0
    for name, (scores, labels) in systems.items():
        far, tar, _ = metrics.roc(scores, labels)
        smallest = np.clip(100 * far[far > 0].min(), 1e-4, smallest)
        label = f"{text(name, 32)}: AUC {metrics.auc(scores, labels):.4f}"
        # At rate 0 the curve runs along the left edge of a logarithmic axis.
        axes.plot(100 * np.maximum(far, 1e-12), 100 * tar, label=label)
    guess = np.geomspace(smallest, 100, 200)
    axes.plot(guess, guess, color=GREY, linewidth=1, linestyle=":", label="guessing")
    axes.set(xscale="log", xlim=(smallest, 100), ylim=(0, 101.5), title=title)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel="false accepts (% of imposter pairs)", ylabel="true accepts (% of targets)")
    figure.legend(loc="outside lower center")
    return figure


@styled
def identity_eer(report) -> LabFigure:
    """Show who is hard: the 25 highest EERs by identity of a `VerificationReport`, and all EERs."""
    known = [*report.identity_eer.values()]
    hard = [text(name, 24) for name in report.identity_eer][:25]
    figure = new_figure(10.0, max(3.2, 0.26 * len(hard) + 1.2))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    left.barh(range(len(hard)), known[:25], height=0.6, tick_label=hard)
    left.set(ylim=(len(hard) - 0.5, -0.5), title="Hardest people")
    right.hist(known, "sqrt", range=(0, max(known[0], 1.0)), alpha=0.45)
    right.set(ylabel="people", title=f"All {len(known):,} people")
    right.yaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.set_xlabel("EER of a person's pairs (%)")
        mean = axes.axvline(report.eer, color=BLACK, linestyle="--", linewidth=1.2)
    figure.legend([mean], [f"EER of the whole list: {report.eer:.2f} %"], loc="outside lower right")
    return figure
