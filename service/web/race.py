"""The race of a job, as its events tell it: who trains, how far, and what the rows that each has not seen say of it.

It is followed event by event, so that whoever looks on reads each event once. Its drawings are out-of-fold NLL over
time, and the losses of each candidate in a panel of its own: losses of different methods mean different things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count as count_from
from math import inf
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from fedlas.contract.events import CandidateEnded, EpochEnded, FoldScored, TrainingBegun
from fedlas.report.drawing import Scale, line, mark, opening, paint, text
from fedlas.report.number_words import letter
from service.registry import tables
from service.web.job_words import SCOPES
from service.web.rendering import count

#: Measures of the drawings, in pixels.
_WIDTH = 640
_HEIGHT = 300
_LEFT = 56
_ACROSS = 568
_TOP = 40
_UP = 206
_PANEL_WIDTH = 220
_PANEL_HEIGHT = 132
#: Letters that are nearer to each other cannot be read.
_LETTER = 11
#: Candidates that have a line in the diagram of NLL, and a panel.
_MAX_LINES = 24
_MAX_PANELS = 12
#: Points of all lines of all panels together; each has two at least.
_MAX_POINTS = 400
#: Units of time, each up to 120 of it.
_UNITS = (("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86_400))


@dataclass
class Training:
    """One training of a candidate: without a fold of the calibration rows, or on all rows (`fold` is None).

    Attributes:
        losses: by epoch, in the candidate's own loss.
        nll: of the fold's rows; None before its end, and where there is none.
    """

    fold: int | None
    folds: int | None
    epochs: int
    losses: dict[int, float] = field(default_factory=dict)
    nll: float | None = None

    @property
    def rows(self) -> str:
        """The rows that it has.

        >>> Training(2, 3, epochs=10).rows, Training(None, None, epochs=10).rows
        ('without fold 2 of 3', 'on all rows')
        """
        return "on all rows" if self.fold is None else f"without fold {self.fold} of {self.folds}"

    @property
    def epoch(self) -> int:
        return max(self.losses, default=0)


@dataclass
class Contender:
    """A candidate with its trainings; what was never trained has none, and no `number`."""

    name: str
    method: str = ""
    scope: str = ""
    number: int | None = None
    folds: int | None = None
    trainings: dict[int | None, Training] = field(default_factory=dict)
    ended: CandidateEnded | None = None

    @property
    def scores(self) -> list[float]:
        return [one.nll for one in self.trainings.values() if one.nll is not None]

    @property
    def final_nll(self) -> float | None:
        """The cross-fitted NLL of its end, as events and report have it; None before."""
        return None if self.ended is None else (self.ended.calibration or {}).get("nll")

    @property
    def nll(self) -> float | None:
        """The figure of its end; before, the mean over its folds so far."""
        if self.final_nll is not None:
            return self.final_nll
        return fmean(self.scores) if self.scores else None

    @property
    def folds_over(self) -> float:
        """How many folds have scored it; infinite where all have."""
        finished = self.ended is not None and self.ended.status == "finished"
        return inf if finished or len(self.scores) == self.folds else len(self.scores)

    @property
    def behind(self) -> str:
        """The folds behind its NLL; empty where all rows are."""
        if self.nll is None or self.folds is None or (self.final_nll is not None and self.folds_over == inf):
            return ""
        return f"{'mean of ' if self.final_nll is None else ''}{len(self.scores)} of {self.folds} folds"

    @property
    def trains(self) -> str:
        return SCOPES.get(self.scope, "–")


@dataclass
class Race:
    """All candidates, and the course of their NLL.

    Attributes:
        expected: how many candidates there are in line; 0 before the first trains.
        course: by candidate, its NLL so far at so many seconds after the race began.
        at: the training that is underway, or was the last: the candidate's name and the fold.
    """

    contenders: dict[str, Contender] = field(default_factory=dict)
    expected: int = 0
    begun_at: datetime | None = None
    at: tuple[str, int | None] | None = None
    course: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def follow(self, events: Iterable[tables.Event]) -> Race:
        """Take in the next events, oldest first; those of other types are passed over."""
        for event in events:
            match event.type:
                case "training":
                    self._begin(TrainingBegun.read(event.data), event.at)
                case "epoch":
                    epoch = EpochEnded.read(event.data)
                    self._training(epoch.candidate, epoch.fold, epoch.folds, epoch.epochs).losses[epoch.epoch] = (
                        epoch.loss
                    )
                    self.at = (epoch.candidate, epoch.fold)
                case "score":
                    score = FoldScored.read(event.data)
                    self._training(score.candidate, score.fold, score.folds, 0).nll = score.nll
                    self._note(self.contenders[score.candidate], event.at)
                case "candidate":
                    self._end(CandidateEnded.read(event.data), event.at)
        return self

    @property
    def ranking(self) -> list[Contender]:
        """The best first: who is scored on more folds before others, since folds differ; then the lowest NLL."""
        trained = [one.folds_over for one in self.contenders.values() if one.scope != "none"]
        most = max(trained, default=inf)  # the upload, which has no folds, is compared with those that have the most
        line = self.contenders.values()
        return sorted(line, key=lambda one: (one.nll is None, -min(one.folds_over, most), one.nll or 0.0))

    @property
    def letters(self) -> dict[str, str]:
        """The letter of each candidate, as the report has it: A is the upload, those that train follow in line.

        What was skipped has no number: it takes the places that are left. An average comes last.
        """
        taken = {one.number for one in self.contenders.values()}
        left = (place for place in count_from(1) if place not in taken)
        return {
            name: letter(0 if one.scope == "none" else one.number or next(left))
            for name, one in self.contenders.items()
        }

    def underway(self, one: Contender) -> Training | None:
        """The training of this candidate that is underway; one on all rows follows its end."""
        if self.at is None or self.at[0] != one.name:
            return None
        training = one.trainings[self.at[1]]
        return training if training.nll is None and training.epoch < training.epochs else None

    def _begin(self, begun: TrainingBegun, at: datetime) -> None:
        one = self._named(begun.candidate)
        one.method, one.scope, one.number = begun.method, begun.scope, begun.number
        one.folds = begun.folds or one.folds
        one.trainings.setdefault(begun.fold, Training(begun.fold, begun.folds, begun.epochs))
        self.expected = max(self.expected, begun.candidates)
        self.begun_at = self.begun_at or at
        self.at = (begun.candidate, begun.fold)

    def _end(self, ended: CandidateEnded, at: datetime) -> None:
        one = self._named(ended.name)
        one.method, one.scope, one.ended = ended.method, ended.scope, ended
        self._note(one, at)

    def _note(self, one: Contender, at: datetime) -> None:
        if one.nll is not None:
            self.begun_at = self.begun_at or at
            self.course.setdefault(one.name, []).append(((at - self.begun_at).total_seconds(), one.nll))

    def _named(self, name: str) -> Contender:
        return self.contenders.setdefault(name, Contender(name))

    def _training(self, name: str, fold: int | None, folds: int | None, epochs: int) -> Training:
        """One that was announced, or should have been."""
        return self._named(name).trainings.setdefault(fold, Training(fold, folds, epochs))


def nll_chart(race: Race) -> Markup:
    """NLL so far of each candidate over the time of the race; the leader's line is bold, and it is named."""
    best = [one.name for one in race.ranking if one.nll is not None][:_MAX_LINES]
    names = [name for name in reversed(best) if name in race.course]  # the leader last: it is drawn on top
    letters = race.letters
    leader = race.contenders[best[0]] if best else None
    said = "No fold is scored yet." if leader is None else f"{letters[leader.name]} leads with {leader.nll:.4f}."
    seconds = max((x for name in names for x, _ in race.course[name]), default=60.0) or 1.0
    unit, length = next((one for one in _UNITS if seconds < 120 * one[1]), _UNITS[-1])
    scaled = {name: [(x / length, y) for x, y in _until(race.course[name], seconds)] for name in names}
    across, up = Scale(0, seconds / length, _LEFT, _ACROSS), _heights(scaled.values())
    parts = [
        opening(_WIDTH, _HEIGHT, "NLL out of fold", said),
        text(_LEFT, 22, "NLL: the lower, the better", colour="soft"),
        *_grid(across, up, f"{unit} since training began"),
    ]
    places: list[tuple[float, float]] = []
    for name in names:
        placed = [(across(x), up(y)) for x, y in scaled[name]]
        x, y = _free(places, placed[-1])
        hint, leads = f"{name}: {scaled[name][-1][1]:.4f}", name == best[0]
        colours = paint(stroke="calibrated" if leads else "band-edge")
        parts += [
            f'<g {colours} stroke-width="{3 if leads else 1.5}">{_polyline(placed)}</g>',
            mark(*placed[-1], 5 if leads else 3.5, "calibrated", hollow=not leads, hint=hint),
            text(x + 7, y + 4, letters[name], size=11, bold=leads, colour="ink" if leads else "soft"),
        ]
    return Markup("\n".join([*parts, "</svg>"]))  # the drawing has escaped all texts


def _until(course: Sequence[tuple[float, float]], seconds: float) -> Sequence[tuple[float, float]]:
    """A course; that of a single figure, such as the upload's, holds for all the time."""
    return course if len(course) > 1 else [*course, (seconds, course[0][1])]


def _free(places: list[tuple[float, float]], at: tuple[float, float]) -> tuple[float, float]:
    """A place for a letter at the end of a line, below the letters that are there."""
    x, y = at
    while any(abs(x - other) < _LETTER and abs(y - above) < _LETTER for other, above in places):
        y += _LETTER
    places.append((x, y))
    return x, y


def _heights(courses: Iterable[Sequence[tuple[float, float]]]) -> Scale:
    """The scale of NLL; what has diverged may be off by far, and is drawn at the edge."""
    values = sorted(y for course in courses for _, y in course) or [0.0, 1.0]
    high = min(values[-1], values[0] + 4 * (values[len(values) // 2] - values[0]) + 0.05)
    room = 0.08 * (high - values[0]) or 0.01
    return Scale(values[0] - room, high + room, _TOP + _UP, -_UP)


class Panel(NamedTuple):
    """A candidate with its losses, drawn and as figures: of each training some of its epochs, evenly spread."""

    letter: str
    one: Contender
    drawing: Markup
    lines: Sequence[tuple[Training, Sequence[tuple[int, float]]]]


def loss_panels(race: Race) -> list[Panel]:
    """A small drawing for the one that trains and each of the best, in their order: a line for each training."""
    trained = [one for one in race.ranking if one.trainings]
    trained.sort(key=lambda one: race.underway(one) is None)  # stable: the best follow
    shown = sorted(trained[:_MAX_PANELS], key=lambda one: one.number or 0)
    most = max(2, _MAX_POINTS // (sum(len(one.trainings) for one in shown) or 1))
    letters = race.letters
    return [
        _panel(
            letters[one.name],
            one,
            race,
            {fold: thinned(training.losses, most) for fold, training in one.trainings.items()},
        )
        for one in shown
    ]


def thinned(losses: Mapping[int, float], most: int) -> list[tuple[int, float]]:
    """At most so many epochs of a training, spread evenly, the first and the last among them.

    >>> thinned({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6}, 2)
    [(1, 0.9), (4, 0.6)]
    """
    points = sorted(losses.items())
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _grid(across: Scale, up: Scale, name: str) -> list[str]:
    parts = []
    for y in up.steps():
        parts.append(line(_LEFT, up(y), _LEFT + _ACROSS, up(y), "grid"))
        parts.append(text(_LEFT - 7, up(y) + 4, f"{y:.3g}", size=11, colour="soft", anchor="end"))
    for x in across.steps():
        parts.append(line(across(x), _TOP, across(x), _TOP + _UP, "grid"))
        parts.append(text(across(x), _TOP + _UP + 16, f"{x:g}", size=11, colour="soft", anchor="middle"))
    parts.append(text(_LEFT + _ACROSS / 2, _TOP + _UP + 36, name, anchor="middle"))
    return parts


def _panel(named: str, one: Contender, race: Race, lines: Mapping[int | None, list[tuple[int, float]]]) -> Panel:
    values = [loss for points in lines.values() for _, loss in points] or [0.0, 1.0]
    epochs = max(training.epochs for training in one.trainings.values())
    across = Scale(min(1, epochs), max(epochs, 2), 8, _PANEL_WIDTH - 16)
    up = Scale(min(values), max(values), _PANEL_HEIGHT - 22, -(_PANEL_HEIGHT - 34))
    bottom = _PANEL_HEIGHT - 18
    now = race.underway(one)
    over = [fold for fold in lines if one.trainings[fold] is not now]
    parts = [
        opening(_PANEL_WIDTH, _PANEL_HEIGHT, f"Loss of {named}", f"In {count(len(lines), 'training')}."),
        line(8, bottom, _PANEL_WIDTH - 8, bottom, "band-edge"),
        text(8, _PANEL_HEIGHT - 4, "1", size=11, colour="soft"),
        text(_PANEL_WIDTH - 8, _PANEL_HEIGHT - 4, f"{epochs} epochs", size=11, colour="soft", anchor="end"),
        f'<g {paint(stroke="soft")} stroke-width="1.2">',
        *(_polyline(_placed(lines[fold], across, up), dashed=fold is None) for fold in over),
        "</g>",
    ]
    if now is not None and lines[now.fold]:
        placed = _placed(lines[now.fold], across, up)
        parts.append(f'<g {paint(stroke="calibrated")} stroke-width="2.5">{_polyline(placed)}</g>')
        parts.append(mark(*placed[-1], 4, "calibrated"))
    figures = [(one.trainings[fold], points) for fold, points in lines.items()]
    return Panel(named, one, Markup("\n".join([*parts, "</svg>"])), figures)


def _placed(points: Sequence[tuple[int, float]], across: Scale, up: Scale) -> list[tuple[float, float]]:
    return [(across(epoch), up(loss)) for epoch, loss in points]


def _polyline(points: Iterable[tuple[float, float]], *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 3"' if dashed else ""
    return f'<polyline points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in points)}"{dashes}/>'
