"""Scores of a pair list, and what they say: the numbers, who and what is hard, a report page."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labkit import metrics
from labkit.data import PairList
from labkit.embed import check_embeddings
from labkit.utils import (
    UserError,
    atomic_path,
    l2_normalize,
    render_page,
    write_bytes,
    write_json,
    write_text,
)

FARS = (0.1, 0.01, 0.001)


def direction_hint(eer: float) -> str:
    """Return what an EER (percent) above 50 % says of the scores; nothing for others."""
    says = "worse than guessing: a larger score must mean more alike (for distances, a minus sign)"
    return f"An EER above 50 % is {says}." if eer > 50 else ""


def score_pairs(embedder, pairs: PairList, root: str | Path, *, flip: bool = False) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1]; UserError for a file of no use.

    `embedder` is an `Embedder` or anything with its `files` method and call, `root` the test
    folder. With `flip`, the embeddings of a picture and of its horizontal flip are averaged.
    """
    found = sources(pairs, root)
    embeddings = embedder.files(found)
    if flip:
        embeddings = l2_normalize(embeddings + embedder.files(found, mirror=True))
    return score_embeddings(embeddings, pairs)


def sources(pairs: PairList, root: str | Path | None) -> list:
    """Return where the image files of a pair list are; UserError counts those not in `root`."""
    found = [*map(pairs.find(root), pairs.files)]
    if missing := [name for name, source in zip(pairs.files, found) if source is None]:
        told = f"{len(missing):,} of {len(found):,} images of the pair list are not in {root}"
        raise UserError(f"{told}, first {missing[0]}")
    return found


def score_embeddings(embeddings: np.ndarray, pairs: PairList) -> np.ndarray:
    """Return the cosine of each pair, float32 (n,) in [-1, 1].

    `embeddings` (files, d) are those of `pairs.files`, of any floating type and length. Raises
    UserError for a wrong number of embeddings and for one that is zero or not finite.
    """
    shape, files = np.shape(embeddings), len(pairs.files)
    if len(shape) != 2 or shape[0] != files:
        raise UserError(f"expected embeddings of {files} files, got an array of shape {shape}")
    check_embeddings(embeddings, pairs.files)
    return metrics.pair_similarities(l2_normalize(embeddings), pairs.left, pairs.right)


def identity_eer(scores: np.ndarray, pairs: PairList) -> dict[str, float]:
    """Return the EER of each identity's own pairs in percent, the highest first.

    An identity that lacks target or imposter pairs is left out.
    """
    names, index = np.unique(pairs.people[0], return_inverse=True)
    left, right, found = index[pairs.left], index[pairs.right], {}
    for k, name in enumerate(names.tolist()):
        own = (left == k) | (right == k)
        if 0 < pairs.labels[own].sum() < own.sum():
            found[name] = metrics.eer(scores[own], pairs.labels[own])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class VerificationReport:
    """What one system reaches on one labelled pair list.

    eer, voxceleb_eer and identity_eer are in percent; auc, min_dcf and tar_at_far (by false-accept
    rate) are fractions. eer_interval is by resampling identities, the one to quote;
    eer_pair_interval by resampling pairs; both None with `bootstrap` 0, the draws per interval.
    hardest_targets and hardest_imposters are indices of pairs, hardest first.
    """

    def __init__(self, scores, pairs: PairList, name="system", bootstrap=1000, level=0.95, seed=0):
        if pairs.labels is None:
            raise UserError("this pair list is blind: a report needs labels")
        labels = pairs.labels
        scores, target = metrics.check_scores(scores, labels)
        self.name, self.scores, self.pairs = name, scores, pairs
        self.bootstrap, self.level, self.seed = bootstrap, level, seed
        self.eer = metrics.eer(scores, labels)
        self.hint = direction_hint(self.eer)
        self.threshold = metrics.eer_threshold(scores, labels)
        self.voxceleb_eer = metrics.voxceleb_eer(scores, labels)
        self.auc = metrics.auc(scores, labels)
        self.min_dcf = metrics.min_dcf(scores, labels)
        self.tar_at_far = dict(zip(FARS, metrics.tar_at_far(scores, labels, FARS).tolist()))
        self.threshold_at_far = {f: metrics.threshold_at_far(scores, labels, f) for f in FARS}
        self.targets, self.imposters = int(target.sum()), int((~target).sum())
        self.people, self.identity_eer = len({*pairs.people[0]}), identity_eer(scores, pairs)
        rising = np.argsort(scores, kind="stable")
        self.hardest_targets = rising[target[rising]][:12]
        self.hardest_imposters = rising[~target[rising]][:-13:-1]
        self.eer_interval = self.eer_pair_interval = None
        if bootstrap:
            drawn = dict(samples=bootstrap, level=level, seed=seed)
            self.eer_interval = metrics.bootstrap_ci(scores, labels, *pairs.identities(), **drawn)
            self.eer_pair_interval = metrics.bootstrap_ci(scores, labels, **drawn)

    def to_dict(self) -> dict:
        """Return the numbers, ready for JSON."""
        return {
            "name": self.name,
            "eer": self.eer,
            "eer_interval": self.eer_interval,
            "eer_interval_by_pairs": self.eer_pair_interval,
            "interval_level": self.level,
            "bootstrap_draws": self.bootstrap,
            "reference_eer": self.voxceleb_eer,
            "threshold": self.threshold,
            "auc": self.auc,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "threshold_at_far": {f"{far:g}": t for far, t in self.threshold_at_far.items()},
            "min_dcf": self.min_dcf,
            "target_pairs": self.targets,
            "imposter_pairs": self.imposters,
            "images": len(self.pairs.files),
            "identities": self.people,
            "hint": self.hint,
            "hardest_identities": dict(list(self.identity_eer.items())[:10]),
        }

    def interval_text(self, by_pairs: bool = False) -> str:
        """Return `3.10 to 4.90`, the interval of the EER in percent; a dash without a bootstrap."""
        interval = self.eer_pair_interval if by_pairs else self.eer_interval
        return "{:.2f} to {:.2f}".format(*interval) if interval else "–"

    def summary(self) -> str:
        """Return a few lines for people."""
        rates = ", ".join(f"{tar:.1%} at {far:.1%}" for far, tar in self.tar_at_far.items())
        interval = f"({self.level:.0%} interval {self.interval_text()})"
        pairs = f"{self.targets:,} target and {self.imposters:,} imposter pairs"
        images = f"{len(self.pairs.files):,} images of {self.people:,} identities"
        others = f"AUC {self.auc:.4f}, minimum DCF {self.min_dcf:.3f}"
        lines = [
            f"{self.name}: EER {self.eer:.2f} % {interval} at threshold {self.threshold:.3f}",
            f"{pairs}, {images}, known by {self.pairs.people[1]}",
            f"true accepts at a false-accept rate: {rates}",
            f"{others}, VoxCeleb trainer's EER {self.voxceleb_eer:.2f} %",
        ]
        return "\n  ".join([*lines, self.hint][: len(lines) + bool(self.hint)])


def save_report(
    reports: Sequence[VerificationReport],
    folder: str | Path,
    root: str | Path | None = None,
    others: Sequence[VerificationReport] = (),
) -> dict[str, Path]:
    """Write one report about one system or several into a folder, and return the paths by name.

    Files: `summary.json` (`{"systems": [...], "comparisons": [...]}`), `report.html`, the figures
    as PNG and together as `report.pdf`. With `root`, the test folder, the hardest pairs are shown.
    Systems measured on the same pairs are compared with the first one. `others` are in the numbers
    and the curves, without figures of their own. Raises UserError when two have one name.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # slow to import

    systems = [*reports, *others]
    names = [system.name for system in systems]
    if not reports or len(set(names)) < len(names):
        raise UserError(f"give reports with different names, got: {', '.join(names) or 'none'}")
    files = {"summary": "summary.json", "pdf": "report.pdf", "html": "report.html"}
    paths = {name: Path(folder, file) for name, file in files.items()}
    comparisons = _compare(systems)
    summary = {
        "systems": [system.to_dict() for system in systems],
        "comparisons": [{"name_a": names[0], "name_b": b, **vars(d)} for b, d in comparisons],
    }
    write_json(paths["summary"], summary)
    shown = []
    with atomic_path(paths["pdf"]) as temporary, PdfPages(temporary) as pdf:
        for kind, system, figure in _figures(reports, systems, root):
            number = f"-{names.index(system) + 1}" if system and len(reports) > 1 else ""
            png, name = figure._repr_png_(), f"{kind}{number}"
            pdf.savefig(figure)
            paths[name] = Path(folder, f"{name}.png")
            write_bytes(paths[name], png)
            heading = system if len(systems) > 1 else ""
            shown.append({"kind": kind, "system": heading, "png": base64.b64encode(png).decode()})
    sentences = [difference.summary(names[0], name) for name, difference in comparisons]
    template = Path(__file__).with_name("report.html")
    page = render_page(template, systems=systems, comparisons=sentences, figures=shown)
    write_text(paths["html"], page)
    return paths


def _compare(systems: Sequence) -> list[tuple[str, metrics.PairedDifference]]:
    """The name of each system on the pairs of the first, and the difference of their EERs."""
    first, found = systems[0], []
    for other in systems[1:] if first.bootstrap else ():
        parts = ("files", "left", "right", "labels")
        if all(np.array_equal(*(getattr(s.pairs, part) for s in (first, other))) for part in parts):
            difference = metrics.paired_difference(
                first.scores, other.scores, first.pairs.labels, *first.pairs.identities(),
                level=first.level, samples=first.bootstrap, seed=first.seed,
            )  # fmt: skip
            found.append((other.name, difference))
    return found


def _figures(reports: Sequence, systems: Sequence, root: str | Path | None):
    """Yield (kind, name of the system or "" for all, figure), in the order of the page."""
    from labkit import plots

    curves = {system.name: (system.scores, system.pairs.labels) for system in systems}
    yield "det", "", plots.det_curve(curves)
    yield "roc", "", plots.roc_curve(curves)
    for report in reports:
        name, pairs, scores = report.name, report.pairs, report.scores
        yield "scores", name, plots.score_histogram(scores, pairs.labels, report.threshold)
        if report.identity_eer:
            yield "identities", name, plots.identity_eer(report)
        if root is not None or pairs.sources:
            for kind in ("hardest_targets", "hardest_imposters"):
                yield kind, name, plots.pair_sheet(pairs, scores, getattr(report, kind), root)
