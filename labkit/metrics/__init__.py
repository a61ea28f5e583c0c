"""Numbers from scores and labels: error rates, and how sure they are. NumPy alone."""

from labkit.metrics.intervals import (
    PairedDifference,
    bootstrap,
    bootstrap_ci,
    paired_difference,
    zero_error_bound,
)
from labkit.metrics.rates import (
    auc,
    check_scores,
    det,
    eer,
    eer_threshold,
    min_dcf,
    pair_similarities,
    rank_k,
    reference_eer,
    roc,
    tar_at_far,
    threshold_at_far,
    threshold_at_frr,
)

__all__ = [
    "PairedDifference",
    "auc",
    "bootstrap",
    "bootstrap_ci",
    "check_scores",
    "det",
    "eer",
    "eer_threshold",
    "min_dcf",
    "pair_similarities",
    "paired_difference",
    "rank_k",
    "reference_eer",
    "roc",
    "tar_at_far",
    "threshold_at_far",
    "threshold_at_frr",
    "zero_error_bound",
]
