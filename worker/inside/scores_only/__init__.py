"""Calibrators from scores alone, inside the sandbox: no model is sent, and none is needed."""

from worker.inside.scores_only.fitting import fit_scores

__all__ = ["fit_scores"]
