"""From an embedder and a pair list to scores, and from scores to a verification report."""

from labkit.evaluate.baselines import reference_systems
from labkit.evaluate.scorefiles import ScoreFile, read_scores, write_scores
from labkit.evaluate.scoring import embed_files, score_embeddings, score_pairs
from labkit.evaluate.verification import IdentityErrors, VerificationReport, identities_of

__all__ = [
    "IdentityErrors",
    "ScoreFile",
    "VerificationReport",
    "embed_files",
    "identities_of",
    "read_scores",
    "reference_systems",
    "save_report",
    "score_embeddings",
    "score_pairs",
    "write_scores",
]


def save_report(reports, folder, root=None, title="Face verification report", others=()):
    """Write one report about one system or several; see `labkit.evaluate.report.save_report`."""
    from labkit.evaluate.report import save_report  # matplotlib is slow to import

    return save_report(reports, folder, root, title, others)
