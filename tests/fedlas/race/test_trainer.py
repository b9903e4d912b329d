"""Training of a candidate: heads share their body."""

from __future__ import annotations

import numpy as np
import torch

from fedlas.progress import JobProgress
from fedlas.race.context import ProgressReporter, RaceContext, SplitOutputs
from fedlas.race.record import Record
from fedlas.race.schedule import TimeBudget
from fedlas.race.selection import CalibratorSelector
from fedlas.race.trainer import Trainer, copy_head
from fedlas.training.fit import head_logits, predict_logits
from tests.helpers.races import HEAD, training_rows
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier


def test_heads_share_the_memory_of_their_body() -> None:
    """A head's network has the uploaded body's very memory, a head of its own, and leaves the uploaded head alone."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outputs, record = SplitOutputs(classifier, calibration[0], split="calibration"), Record()
    budget, selector = TimeBudget(60.0, record), CalibratorSelector(calibration[1], ["temperature"], False)
    reporter = ProgressReporter(JobProgress(), record)
    rows = training_rows(train, calibration)
    trainer = Trainer(RaceContext(classifier, rows, calibration, outputs, selector, budget, record, reporter), rows)
    done = trainer.train(trainer.rated(trainer.sized(HEAD, "head")), lambda _: None)
    assert isinstance(done.network, SmallClassifier)
    for name, value in done.network.named_parameters():
        mine = classifier.get_parameter(name)
        assert (value.data_ptr() == mine.data_ptr()) == name.startswith("hidden")
        assert torch.equal(mine, before[name])
    assert not torch.equal(done.network.out.weight, classifier.out.weight)
    assert done.logits is not None
    np.testing.assert_allclose(done.logits, predict_logits(done.network, calibration[0])[0], atol=1e-5)
    np.testing.assert_array_equal(done.logits, head_logits(done.network, outputs.features))


def test_a_copied_head_is_the_same_head() -> None:
    """Right after the copy both networks give the same logits."""
    _, (inputs, _), _ = noisy_digits()
    classifier = overconfident_classifier()
    before, after = (predict_logits(one, inputs)[0] for one in (classifier, copy_head(classifier)))
    np.testing.assert_array_equal(before, after)
