"""From an embedder and a pair list to scores, and from scores to a verification report."""

from labkit.evaluate.baselines import reference_systems
from labkit.evaluate.scorefiles import ScoreFile, read_scores, write_scores
from labkit.evaluate.verification import (
    VerificationReport,
    save_report,
    score_embeddings,
    score_pairs,
)
