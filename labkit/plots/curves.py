"""Curves: what a margin does, how training went, how well a system verifies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator
from scipy.special import ndtri

from labkit import metrics
from labkit.checkpoint import read_metrics
from labkit.plots.style import BLACK, GREY, IMPOSTER, TARGET, LabFigure, new_figure, styled, text
from labkit.utils import UserError, in_live_notebook

DET_TICKS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40)  # percent
FALSE_ACCEPTS = "false accepts (% of imposter pairs)"
_live_curves: set[Path] = set()


@styled
def margin_figure(margins: Sequence[float] = (0.0, 0.1, 0.3), scale: float = 30.0) -> LabFigure:
    """Show what the margin of AM-Softmax does, in three panels.

    The target logit scale * (cos(angle) - margin); the probability of the own class when the
    nearest other class is at 60 degrees; and for two classes in the plane, where on the circle
    an embedding has to lie before the loss takes it for its own class.
    Source: Wang et al., "Additive margin softmax for face verification" (2018), equation 6.
    """
    figure = new_figure(12.0, 4.0)
    left, middle, right = figure.subplots(1, 3)
    angle = np.linspace(0, 120, 481)
    other = np.cos(np.radians(60.0))
    for margin in margins:
        logit = scale * (np.cos(np.radians(angle)) - margin)
        left.plot(angle, logit, label=f"margin {margin:g}")
        middle.plot(angle, 1 / (1 + np.exp(scale * other - logit)))
    left.set(ylabel="target logit", title="A margin lowers the target logit")
    left.legend(loc="lower left")
    middle.axvline(60, color=GREY, linewidth=1, linestyle=":")
    middle.text(63, 0.97, "beyond: another\nclass is nearer", fontsize=9, va="top")
    middle.set(ylabel="probability of own class", title="The same face counts for less")
    for axes in (left, middle):
        axes.set(xlabel="angle to own class (degrees)", xticks=range(0, 121, 30))
    _margin_circle(right, margins)
    return figure


def _margin_circle(axes, margins: Sequence[float]) -> None:
    """Draw arcs where cos(own) - margin >= cos(other), one ring for each margin."""
    turn = np.linspace(-np.pi / 2, 3 * np.pi / 2, 2881)
    rings = np.linspace(1, 0.6, len(margins))
    a, b = np.radians(150), np.radians(30)
    for own, other, tint, name in ((a, b, TARGET, "class A"), (b, a, IMPOSTER, "class B")):
        for radius, margin in zip(rings, margins):
            inside = np.cos(turn - own) - margin >= np.cos(turn - other)
            x, y = np.where(inside, radius * np.stack([np.cos(turn), np.sin(turn)]), np.nan)
            axes.plot(x, y, color=tint, linestyle="-", linewidth=13, solid_capstyle="butt")
        axes.text(1.2 * np.cos(own), 0.8, name, color=tint, fontweight="bold", ha="center")
    for radius, margin in zip(rings, margins):
        label = {"ha": "center", "va": "center", "color": "white", "fontsize": 9}
        axes.text(-0.71 * radius, -0.71 * radius, f"{margin:g}", **label)
    axes.set(title="It opens a gap between two classes", xlim=(-1.4, 1.4), aspect="equal")
    axes.set_axis_off()


def read_training_log(source: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a run's metrics.csv as float64 arrays, NaN where a cell is empty.

    `source` is the file or its run folder. Raises UserError when it is missing or has no rows.
    """
    path = Path(source)
    path = path / "metrics.csv" if path.is_dir() else path
    rows = read_metrics(path)
    if not rows or "epoch" not in rows[0]:
        raise UserError(f"{path} holds no epochs: train for at least one")
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


@styled
def training_curves(source) -> LabFigure:
    """Show loss, accuracy, learning rate and validation EER by epoch, of one run or several.

    `source` is a metrics.csv, a run folder, a list of those, or a dict from names to them.
    """
    if not isinstance(source, Mapping):
        paths = [Path(p) for p in ([source] if isinstance(source, (str, Path)) else source)]
        names = [path.parent.name if path.suffix == ".csv" else path.name for path in paths]
        source = dict(zip(names if len(set(names)) == len(names) else paths, paths))
    runs = {text(name): read_training_log(path) for name, path in source.items()}
    figure = new_figure(10.0, 6.0)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    titles = {
        "train_loss": "Training loss",
        "train_accuracy": "Training accuracy (%)",
        "lr": "Learning rate",
        "val_eer": "Validation EER (%), lower is better",
    }
    for axes, (column, title) in zip(panels, titles.items()):
        for name, log in runs.items():
            there = np.isfinite(log[column])
            epochs, values = log["epoch"][there], log[column][there]
            marker = {"marker": "o", "markersize": 4} if len(values) <= 30 else {}
            best = f": best {values.min():.2f} %" if column == "val_eer" and len(values) else ""
            axes.plot(epochs, values, label=text(name, 30) + best, **marker)
        axes.set_title(title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend()
    panels[3].legend()
    for axes in panels[2:]:
        axes.set_xlabel("epoch")
    return figure


def show_curves(run_dir: Path, rows: list[dict]) -> None:
    """Draw the curves of a run below the running cell, in the place of those drawn before.

    Made for `fit(config, after_epoch=show_curves)`. Where no person watches (a script, papermill)
    it does nothing.
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
    kinds = (
        (scores[~target], IMPOSTER, "imposter pairs (two people)"),
        (scores[target], TARGET, "target pairs (same person)"),
    )
    for own, tint, name in kinds:
        share = 100.0 * np.histogram(own, edges)[0] / len(own)
        axes.stairs(share, edges, fill=True, color=tint, alpha=0.35)
        axes.stairs(share, edges, color=tint, linewidth=1.8, label=f"{name}: {len(own):,}")
    if threshold is not None:
        frr = 100.0 * np.mean(scores[target] < threshold)
        far = 100.0 * np.mean(scores[~target] >= threshold)
        rates = f"{far:.2f} % of imposters accepted, {frr:.2f} % of targets rejected"
        label = f"threshold {threshold:.3f}: {rates}"
        axes.axvline(threshold, color=BLACK, linestyle="--", linewidth=1.5, label=label)
    axes.set(xlabel="similarity", ylabel="share of pairs (%)", title=title)
    figure.legend(loc="outside lower center")
    return figure


@styled
def det_curve(systems: Mapping[str, tuple], title: str = "DET curve") -> LabFigure:
    """Show the detection error trade-off: both error rates on normal-deviate axes.

    `systems` maps names to (scores, labels). Two normal distributions give a straight line; the
    dots are the equal error rates. Source: Martin et al. (1997).
    """
    figure = new_figure(6.2, 6.3 + 0.23 * len(systems))
    axes = figure.add_subplot()
    smallest = 0.01
    for name, (scores, labels) in systems.items():
        far, frr, _ = metrics.det(scores, labels)
        eer = metrics.eer(scores, labels) / 100
        inside = (far > 0) & (frr > 0) & (far < 1) & (frr < 1)
        label = f"{text(name, 32)}: EER {100 * eer:.2f} %"
        (line,) = axes.plot(ndtri(far[inside]), ndtri(frr[inside]), label=label)
        if 0 < eer < 1:
            dot = {"color": line.get_color(), "markeredgecolor": "white", "markersize": 9}
            axes.plot(ndtri(eer), ndtri(eer), "o", **dot)
        smallest = np.min([smallest, *far[inside][:1], *frr[inside][-1:]])
    smallest = max(0.8 * smallest, 8e-6)
    limits = ndtri(smallest), ndtri(0.6)
    ticks = [tick for tick in DET_TICKS if smallest <= tick / 100]
    places, names = ndtri(np.array(ticks) / 100), [f"{tick:g}" for tick in ticks]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title=title)
    axes.set(xlabel=FALSE_ACCEPTS, ylabel="false rejects (% of targets)")
    figure.legend(loc="outside lower center")
    return figure


@styled
def roc_curve(systems: Mapping[str, tuple], title: str = "ROC curve") -> LabFigure:
    """Show true accepts against false accepts, false accepts on a logarithmic axis.

    `systems` maps names to (scores, labels). The grey line is guessing.
    """
    figure = new_figure(7.2, 5.2 + 0.23 * len(systems))
    axes = figure.add_subplot()
    smallest = 0.1
    for name, (scores, labels) in systems.items():
        far, tar, _ = metrics.roc(scores, labels)
        smallest = min(smallest, float(far[far > 0].min()))
        label = f"{text(name, 32)}: AUC {metrics.auc(scores, labels):.4f}"
        # At rate 0 the curve runs along the left edge of a logarithmic axis.
        axes.plot(100 * np.maximum(far, 1e-12), 100 * tar, label=label)
    smallest = 100 * max(smallest, 1e-6)
    guess = np.geomspace(smallest, 100, 200)
    axes.plot(guess, guess, color=GREY, linewidth=1, linestyle=":", label="guessing")
    axes.set(xscale="log", xlim=(smallest, 100), ylim=(0, 101.5), title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if smallest > 0.01 else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel=FALSE_ACCEPTS, ylabel="true accepts (% of targets)")
    figure.legend(loc="outside lower center")
    return figure


@styled
def identity_eer(report, most: int = 25) -> LabFigure:
    """Show who is hard: EER by identity of a `VerificationReport`, the hardest by name.

    Left, the identities with the highest EER; right, how the EERs of all of them spread.
    """
    errors = report.identities
    known = errors.eer[~np.isnan(errors.eer)]
    if not len(known):
        raise UserError("no identity has both target and imposter pairs")
    hard = errors.hardest(most)
    figure = new_figure(10.0, max(3.2, 0.26 * len(hard) + 1.2))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    names = [text(errors.names[k], 24) for k in hard]
    left.barh(range(len(hard)), errors.eer[hard], height=0.6, tick_label=names)
    left.set(ylim=(len(hard) - 0.5, -0.5), xlabel="EER of this person's pairs (%)")
    left.set_title("Hardest people" if len(hard) < len(known) else "People by EER")
    bins = int(np.clip(2 * np.sqrt(len(known)), 6, 30))
    right.hist(known, bins, range=(0, max(known.max(), 1.0)), alpha=0.45)
    right.set(xlabel="EER of a person's pairs (%)", ylabel="people")
    right.set_title(f"All {len(known):,} people")
    right.yaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        mean = axes.axvline(report.eer, color=BLACK, linestyle="--", linewidth=1.2)
    figure.legend([mean], [f"EER of the whole list: {report.eer:.2f} %"], loc="outside lower right")
    return figure
