"""Curves: what a margin does, how training went, how well a system verifies."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from matplotlib.ticker import LogLocator
from scipy.special import ndtri

from labkit import metrics
from labkit.plots.style import (
    BLACK,
    GREY,
    IMPOSTER,
    PALETTE,
    TARGET,
    LabFigure,
    colour,
    line,
    new_figure,
    styled,
    text,
)
from labkit.utils import UserError

MOST_POINTS = 4000
DET_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99)


@styled
def margin_figure(margins: Sequence[float] = (0.0, 0.1, 0.3), scale: float = 30.0) -> LabFigure:
    """What the margin of AM-Softmax does, in three panels.

    The target logit scale * (cos(angle) - margin); the probability of the own class when the
    nearest other class is at 60 degrees; and for two classes in the plane, where on the circle
    an embedding has to lie before the loss takes it for its own class.
    Source: Wang et al., "Additive margin softmax for face verification" (2018), equation 6.
    """
    margins = list(dict.fromkeys(margins))
    figure = new_figure(12.0, 4.0)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    angle = np.linspace(0, 120, 481)
    cosine = np.cos(np.radians(angle))
    other = np.cos(np.radians(60.0))
    for i, margin in enumerate(margins):
        logit = scale * (cosine - margin)
        style = {"color": colour(i), "linestyle": line(i), "label": f"margin {margin:g}"}
        left.plot(angle, logit, **style)
        middle.plot(angle, 1 / (1 + np.exp(np.clip(scale * other - logit, -60, 60))), **style)
    left.set(xlabel="angle to own class (degrees)", ylabel="target logit")
    left.set_title("A margin lowers the target logit")
    left.legend(loc="lower left")
    middle.axvline(60, color=GREY, linewidth=1, linestyle=":")
    middle.text(63, 0.97, "beyond: another\nclass is nearer", color="#555555", fontsize=9, va="top")
    middle.set(xlabel="angle to own class (degrees)", ylabel="probability of own class")
    middle.set_ylim(-0.02, 1.02)
    middle.set_title("The same face counts for less")
    for axes in (left, middle):
        axes.set_xticks(range(0, 121, 30))
    _margin_circle(right, margins)
    return figure


def _margin_circle(axes, margins: Sequence[float]) -> None:
    """Arcs where cos(own) - margin >= cos(other), one ring for each margin."""
    own, other = np.radians(150.0), np.radians(30.0)
    turn = np.linspace(-np.pi / 2, 3 * np.pi / 2, 2881)
    step = min(0.2, 0.7 / max(len(margins), 1))
    for i, margin in enumerate(margins):
        radius = 1.0 - step * i
        for weight, rival, tint in ((own, other, TARGET), (other, own, IMPOSTER)):
            outside = np.cos(turn - weight) - margin < np.cos(turn - rival)
            x, y = radius * np.cos(turn), radius * np.sin(turn)
            x[outside] = np.nan
            axes.plot(x, y, color=tint, linewidth=13, solid_capstyle="butt")
        for side in (-1, 1):
            axes.text(
                side * radius * np.cos(np.pi / 4), -radius * np.sin(np.pi / 4), f"{margin:g}",
                ha="center", va="center", fontsize=8.5, fontweight="bold",
                color="white" if side < 0 else BLACK,
            )  # fmt: skip
    inner = 1.0 - step * (len(margins) - 1) - 0.12
    for weight, tint, name in ((own, TARGET, "class A"), (other, IMPOSTER, "class B")):
        tip = inner * np.cos(weight), inner * np.sin(weight)
        axes.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": tint, "linewidth": 2}
        )
        axes.text(1.14 * np.cos(weight), 1.14 * np.sin(weight), name, color=tint, fontsize=10,
                  fontweight="bold", ha="center", va="bottom",
                  rotation=np.degrees(weight) - 90)  # fmt: skip
    axes.set_title("It opens a gap between two classes")
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.12, 1.25), aspect="equal")
    axes.set_axis_off()


def read_training_log(source: str | Path) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.csv as float64 arrays, NaN where a cell is empty.

    `source` is the file or its run folder. Raises UserError when it is missing or has no rows.
    """
    path = Path(source)
    path = path / "metrics.csv" if path.is_dir() else path
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        raise UserError(f"there is no training log {path}: train first") from None
    if not rows or "epoch" not in rows[0]:
        raise UserError(f"{path} holds no epochs: train for at least one")
    return {name: np.array([_number(row[name]) for row in rows]) for name in rows[0] if name}


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell else np.nan
    except ValueError:
        return np.nan


@styled
def training_curves(source) -> LabFigure:
    """Loss, accuracy, learning rate and validation EER by epoch, of one run or several.

    `source` is a metrics.csv, a run folder, a list of those, or a dict from names to them.
    """
    if isinstance(source, Mapping):
        runs = {str(name): read_training_log(path) for name, path in source.items()}
    else:
        paths = [source] if isinstance(source, (str, Path)) else list(source)
        paths = [Path(getattr(path, "path", path)) for path in paths]
        folders = [path if path.suffix != ".csv" else path.parent for path in paths]
        runs = {
            f"{folder.name}{' (2)' * (folder.name in [f.name for f in folders[:i]])}": (
                read_training_log(path)
            )
            for i, (path, folder) in enumerate(zip(paths, folders))
        }
    figure = new_figure(10.0, 6.0)
    grid = figure.subplots(2, 2, sharex=True)
    panels = (
        ("train_loss", "Training loss", "loss"),
        ("train_accuracy", "Training accuracy", "%"),
        ("lr", "Learning rate", "learning rate"),
        ("val_eer", "Validation EER (lower is better)", "%"),
    )
    for axes, (column, title, unit) in zip(grid.ravel(), panels):
        for i, (name, log) in enumerate(runs.items()):
            values = log.get(column, np.full(len(log["epoch"]), np.nan))
            there = np.isfinite(values)
            epochs, values = log["epoch"][there], values[there]
            if not len(values):
                continue
            marker = "o" if len(values) <= 30 else None
            axes.plot(
                epochs, values, color=colour(i), linestyle=line(i), marker=marker, markersize=4,
                label=text(name, 30),
            )  # fmt: skip
            if column == "val_eer":
                best = int(np.argmin(values))
                axes.plot(epochs[best], values[best], "o", markersize=11, mfc="none",
                          mec=colour(i), mew=1.5)  # fmt: skip
                axes.annotate(
                    f"{values[best]:.2f} %", (epochs[best], values[best]), (0, -12),
                    textcoords="offset points", ha="right" if best else "left", va="top",
                    fontsize=10, color=colour(i), fontweight="bold",
                )  # fmt: skip
        if not axes.lines:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center",
                      color=GREY)  # fmt: skip
        elif column == "val_eer":
            axes.margins(y=0.25)
        if column == "train_loss" and len(runs) > 1:
            axes.legend()
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


@styled
def score_histogram(
    scores, labels, threshold: float | None = None, title: str = "How alike pairs score"
) -> LabFigure:
    """Distributions of target and imposter scores, with the threshold and the two error rates."""
    scores, target = metrics.check_scores(scores, labels)
    figure = new_figure(9.0, 4.2)
    axes = figure.add_subplot()
    bins = int(np.clip(2 * np.sqrt(min(target.sum(), (~target).sum())), 12, 80))
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    for chosen, tint, name in (
        (~target, IMPOSTER, "imposter pairs (two people)"),
        (target, TARGET, "target pairs (same person)"),
    ):
        share = 100.0 * np.histogram(scores[chosen], edges)[0] / np.count_nonzero(chosen)
        axes.stairs(share, edges, fill=True, color=tint, alpha=0.35)
        label = f"{name}: {np.count_nonzero(chosen):,}"
        axes.stairs(share, edges, color=tint, linewidth=1.8, label=label)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    if threshold is not None:
        far = 100.0 * np.mean(scores[~target] >= threshold)
        frr = 100.0 * np.mean(scores[target] < threshold)
        axes.axvline(
            threshold,
            color=BLACK,
            linestyle="--",
            linewidth=1.5,
            label=f"threshold {threshold:.3f}",
        )
        top = axes.get_ylim()[1]
        for words, side, tint in (
            (f"{frr:.2f} % of targets\nrejected", "right", TARGET),
            (f"{far:.2f} % of imposters\naccepted", "left", "#9A6A00"),
        ):
            axes.annotate(
                words, (threshold, top), (-7 if side == "right" else 7, 0),
                textcoords="offset points", ha=side, va="top", fontsize=10, color=tint,
            )  # fmt: skip
    axes.set(xlabel="similarity", ylabel="share of pairs (%)")
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _thinned(far: np.ndarray, frr: np.ndarray, deviate: bool) -> tuple[np.ndarray, np.ndarray]:
    """At most about `MOST_POINTS` points of a curve, chosen evenly along what is drawn."""
    if len(far) <= MOST_POINTS:
        return far, frr
    tiny = 1e-9
    if deviate:
        x, y = ndtri(np.clip(far, tiny, 1 - tiny)), ndtri(np.clip(frr, tiny, 1 - tiny))
    else:
        x, y = np.log10(np.maximum(far, tiny)), 3 * frr
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    at = np.searchsorted(along, np.linspace(0, along[-1], MOST_POINTS))
    at = np.unique(np.minimum(at, len(far) - 1))
    return far[at], frr[at]


@styled
def det_curve(systems: Mapping[str, tuple], title: str = "DET curve") -> LabFigure:
    """Detection error trade-off of each system, both error rates on normal-deviate axes.

    `systems` maps names to (scores, labels). Two normal distributions give a straight line; the
    dots are the equal error rates. Source: Martin et al. (1997).
    """
    _some_systems(systems)
    rows = len(systems) if len(systems) < 4 else -(-len(systems) // 2)
    figure = new_figure(6.2, 6.2 + 0.27 * rows)
    axes = figure.add_subplot()
    smallest, largest = 0.01, 0.5
    for i, (name, (scores, labels)) in enumerate(systems.items()):
        far, frr, _ = metrics.det(scores, labels)
        eer = metrics.eer(scores, labels) / 100
        inside = (far > 0) & (frr > 0) & (far < 1) & (frr < 1)
        fa, fr = _thinned(far[inside], frr[inside], deviate=True)
        style = {"color": colour(i), "linestyle": line(i // len(PALETTE))}
        label = f"{text(name, 32)}: EER {100 * eer:.2f} %"
        axes.plot(ndtri(fa), ndtri(fr), drawstyle="default", label=label, **style)
        if 0 < eer < 1:
            axes.plot(ndtri(eer), ndtri(eer), "o", color=colour(i), mec="white", markersize=9)
        if len(fa):
            smallest = min(smallest, float(fa.min()), float(fr.min()))
        largest = max(largest, min(1.6 * eer, 0.99))
    smallest = max(smallest, 1e-5)
    limits = NormalDist().inv_cdf(smallest * 0.8), NormalDist().inv_cdf(largest)
    ticks = [t for t in DET_TICKS if 0.8 * smallest <= t / 100 <= largest]
    if len(ticks) > 9:
        ticks = [t for t in ticks if t not in (0.05, 0.2, 0.5, 2)]
    places = [NormalDist().inv_cdf(t / 100) for t in ticks]
    axes.set_xticks(places, [f"{t:g}" for t in ticks])
    axes.set_yticks(places, [f"{t:g}" for t in ticks])
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="false accepts (% of imposter pairs)", ylabel="false rejects (% of targets)")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=1 if len(systems) < 4 else 2)
    return figure


@styled
def roc_curve(systems: Mapping[str, tuple], title: str = "ROC curve") -> LabFigure:
    """True accepts against false accepts of each system, false accepts on a logarithmic axis.

    `systems` maps names to (scores, labels). The grey line is guessing.
    """
    _some_systems(systems)
    rows = -(-(len(systems) + 1) // 2)
    figure = new_figure(7.2, 5.2 + 0.25 * rows)
    axes = figure.add_subplot()
    smallest = 0.1
    for i, (name, (scores, labels)) in enumerate(systems.items()):
        far, tar, _ = metrics.roc(scores, labels)
        smallest = min(smallest, float(far[far > 0].min()))
        area = metrics.auc(scores, labels)
        # At rate 0 the curve runs along the left edge of a logarithmic axis.
        fa, fr = _thinned(np.maximum(far, 1e-12), 1.0 - tar, deviate=False)
        axes.plot(
            100 * fa, 100 * (1 - fr), color=colour(i), linestyle=line(i // len(PALETTE)),
            label=f"{text(name, 32)}: AUC {area:.4f}",
        )  # fmt: skip
    smallest = max(smallest, 1e-6)
    guess = np.geomspace(smallest, 1, 200)
    axes.plot(100 * guess, 100 * guess, color=GREY, linewidth=1, linestyle=":", label="guessing")
    axes.set_xscale("log")
    axes.set(xlim=(100 * smallest, 100), ylim=(0, 101.5))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if smallest > 1e-4 else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel="false accepts (% of imposter pairs)", ylabel="true accepts (% of targets)")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _some_systems(systems: Mapping[str, tuple]) -> None:
    if not systems:
        raise UserError("no system to plot: give {name: (scores, labels)}")


@styled
def identity_eer(report, most: int = 25) -> LabFigure:
    """Who is hard: EER by identity of a `VerificationReport`, the hardest by name.

    Left, the identities with the highest EER; right, how the EERs of all of them spread.
    """
    errors = report.identities
    known = errors.eer[~np.isnan(errors.eer)]
    if not len(known):
        raise UserError("no identity has both target and imposter pairs")
    hard = errors.hardest(most)
    figure = new_figure(10.0, max(3.2, 0.26 * len(hard) + 1.2))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    places = np.arange(len(hard))
    left.hlines(places, 0, errors.eer[hard], color="#BBBBBB", linewidth=2)
    left.plot(errors.eer[hard], places, "o", color=colour(0), markersize=7, clip_on=False, zorder=3)
    left.axvline(report.eer, color=BLACK, linestyle="--", linewidth=1.2)
    names = [text(errors.names[k], 24) for k in hard]
    left.set_yticks(places, names, fontsize=9, parse_math=False)
    left.set_ylim(len(hard) - 0.5, -0.5)
    left.set_xlim(0, max(float(errors.eer[hard].max()), report.eer) * 1.08 + 0.1)
    left.grid(axis="y", visible=False)
    left.set_xlabel("EER of this person's pairs (%)")
    shown = "Hardest people" if len(hard) < len(known) else "People by EER"
    left.set_title(shown)
    top = max(float(known.max()), 1.0)
    bins = int(np.clip(2 * np.sqrt(len(known)), 6, 30))
    right.hist(known, np.linspace(0, top, bins + 1), color=colour(0), alpha=0.45)
    right.axvline(
        report.eer, color=BLACK, linestyle="--", linewidth=1.2,
        label=f"EER of the whole list: {report.eer:.2f} %",
    )  # fmt: skip
    right.set(xlabel="EER of a person's pairs (%)", ylabel="people")
    right.set_title(f"All {len(known):,} people")
    right.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right")
    return figure
