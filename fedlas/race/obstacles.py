"""Obstacles: why nothing can be trained, or no head alone, said before anything is."""

from __future__ import annotations

from fedlas.classifier import Classifier
from fedlas.race.candidate_training import Trainer
from fedlas.race.context import RaceContext
from fedlas.race.scoring import FEW_ROWS

#: BatchNorm has no variance of a single row.
_FEWEST_TO_LEARN_FROM = 2


def training_obstacle(context: RaceContext) -> str:
    """Why nothing at all can be trained, or an empty text."""
    if context.training is None or len(context.training) == 0:
        return "there are no rows to train on"
    if not any(parameter.requires_grad for parameter in context.classifier.parameters()):
        return "the model has no weights that can be trained"
    if len(context.calibration[1]) < FEW_ROWS:
        return (
            f"{len(context.calibration[1])} calibration rows are too few to teach a network and to tell what it has "
            f"learned: at least {FEW_ROWS} are needed"
        )
    if not context.selector.has_groups_to_leave_out:
        return "all calibration rows are of one group, so that none can be left out while the others teach"
    if len(context.training) - max(map(len, context.folds())) < _FEWEST_TO_LEARN_FROM:
        return "where a fold of the calibration rows is left out too few rows are left to learn from"
    if context.budget.prediction_seconds(len(context.training)) > context.budget.remaining():
        return "one pass over the training rows does not fit the budget"
    return ""


def head_obstacle(classifier: Classifier, trainer: Trainer) -> str:
    """Why no head can be trained alone, or an empty text."""
    if not classifier.head_parameters():
        return "the network has no head of its own to train"
    if not trainer.keeps_features:
        return "the features of so many rows do not fit into memory, so that no head was trained alone"
    return ""
