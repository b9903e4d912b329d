"""What is made of a race's finishers together: one file that averages them, or one network that learned their average.

It decides what is worth trying and what the time and the cost allow; how it is done stands in `combining`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from fedlas.classifier import Classifier
from fedlas.race.candidate_training import default_epochs, train_config
from fedlas.race.ensemble_selection import (
    MOST_MEMBERS,
    STUDENT_EPOCHS,
    Lesson,
    Unfinished,
    ensemble,
    greedy_members,
    student,
)
from fedlas.race.results import Finalist, Floats
from fedlas.race.selection import Judge
from fedlas.race.successive_halving import Finisher, Heats
from fedlas.training.fit import EpochResult, pick_device

#: A student that could see its rows less often than this is not begun.
_FEWEST_EPOCHS = 4
_UNFINISHED = "one network that learns what an average of networks says was begun and given up:"


def uploaded(classifier: Classifier, judge: Judge, logits: Floats, features: Floats) -> Finalist:
    """The uploaded network with its best post-hoc calibrator: the bar for everything that is trained."""
    began = time.perf_counter()
    calibrated = judge.calibrate(logits, features)
    result = judge.post_hoc(calibrated, seconds=time.perf_counter() - began)
    return Finalist(classifier, calibrated.calibrator, result, calibrated.held_out, features)


class Averaging:
    """Averages finishers: as one file where that is cheap enough, else as the teacher of one network."""

    def __init__(self, heats: Heats, judge: Judge, max_cost_factor: float) -> None:
        self.heats, self.judge, self.max_cost_factor = heats, judge, max_cost_factor

    def run(self, post_hoc: Finalist, base_logits: Floats, refined: Sequence[Finisher]) -> list[Finalist]:
        """What averaging brings, scored like every candidate."""
        if self.heats.trainer is None:
            return []
        found = []
        own = {finisher.place: finisher for finisher in [*self.heats.finishers, *refined]}
        heads = [finisher for finisher in own.values() if finisher.candidate.scope == "head"]
        averaged_heads = self._as_one_file(heads, post_hoc, shares_body=True)
        if averaged_heads is not None:
            found.append(averaged_heads)
        if self.max_cost_factor >= 2:
            whole = self._as_one_file(refined, post_hoc, shares_body=False)
        else:
            whole = self._taught(post_hoc.classifier, base_logits)
        if whole is not None:
            found.append(whole)
        for number, one in enumerate(found, start=1):
            self.heats.telling.ended(f"average {number}", one.result)
        return found

    def _as_one_file(self, finishers: Sequence[Finisher], post_hoc: Finalist, *, shares_body: bool) -> Finalist | None:
        most = MOST_MEMBERS if shares_body else min(MOST_MEMBERS, int(self.max_cost_factor))
        members = greedy_members([post_hoc, *(f.finalist for f in finishers)], self.judge, most=most)
        while len(members) >= 2:
            made = ensemble(members, self.judge, self.heats.calibration[0], shares_body=shares_body)
            if made.cost_factor <= self.max_cost_factor:
                return made
            self.heats.notes.append(
                f"an {made.result.name} would have cost {made.cost_factor:.2f} uploaded networks per row, more than "
                f"max_cost_factor allows ({self.max_cost_factor:g})"
            )
            members = members[:-1]  # the last to be added brought least
        return None

    def _taught(self, classifier: Classifier, base_logits: Floats) -> Finalist | None:
        """One network that learned what the best networks say together, where the time is left.

        They teach with no more than a temperature: a richer calibrator would pass on the labels it was fitted on.
        """
        trainer = self.heats.trainer
        if trainer is None:
            return None
        networks = self.heats.best(len(self.heats.finishers), scope="all")
        plain = replace(self.judge, names=("temperature",), reads_features=False)
        base = uploaded(classifier, plain, base_logits, trainer.calibration_features)
        members = greedy_members([base, *(_calibrated_by(plain, f) for f in networks)], plain, most=MOST_MEMBERS)
        if not networks or len(members) < 2:
            return None
        epochs = self.heats.record.decided(
            "epochs of the student", lambda: self._affordable_epochs(networks[0], len(members))
        )
        if epochs < _FEWEST_EPOCHS:
            self.heats.notes.append(
                f"an average of {len(members)} networks was not taught to one network: the budget left too little time"
            )
            return None
        teacher = ensemble(members, plain, self.heats.calibration[0], shares_body=False)
        config = train_config(
            replace(networks[0].candidate, epochs=epochs, learning_rate=_rate(members)), self.heats.seed
        )
        lesson = Lesson(
            config,
            trainer.inputs,
            self.heats.calibration[0],
            pick_device(self.heats.device),
            self._tell,
            trainer.weights,
            self.heats.record,
        )
        try:
            return student(classifier, teacher, self.judge, lesson)
        except Unfinished as why:
            self.heats.notes.append(f"{_UNFINISHED} {why}")
            return None

    def _affordable_epochs(self, best: Finisher, num_members: int) -> int:
        """Epochs that the time left allows: a step of the student and an answer of every member for each row."""
        assert self.heats.trainer is not None
        clock, rows = self.heats.clock, len(self.heats.trainer.targets)
        epoch = self.heats.epoch_seconds(best.candidate) + num_members * clock.prediction_seconds(rows)
        wanted = STUDENT_EPOCHS * default_epochs(rows, best.candidate.batch_size)
        return min(wanted, int((clock.left() - clock.prediction_seconds(len(self.judge.targets))) / epoch))

    def _tell(self, epoch: EpochResult) -> None:
        self.heats.report_last("student of an average", epoch)
        self.heats.clock.check(epoch)


def _calibrated_by(judge: Judge, finisher: Finisher) -> Finalist:
    calibrated = judge.calibrate(finisher.logits)
    return replace(finisher.finalist, calibrator=calibrated.calibrator, held_out=calibrated.held_out)


def _rate(members: Sequence[Finalist]) -> float:
    """The highest learning rate that did one of the members no harm: a student has much to unlearn."""
    rates = [one.result.hyperparameters.get("learning_rate") for one in members if one.result.status == "finished"]
    known = [rate for rate in rates if rate is not None]
    return float(max(known)) if known else 0.05
