"""The race of a job, built from its events, and its drawings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

from service.registry.tables import Event
from service.web.race import Race, loss_panels, nll_chart
from tests.helpers.race_events import Told, ended, trained

BEGIN = datetime(2026, 11, 27, 5, 0, tzinfo=UTC)
LINE = "{http://www.w3.org/2000/svg}polyline"


def events(*told: Iterable[Told]) -> list[Event]:
    """One event a second."""
    flat = [one for part in told for one in part]
    return [
        Event(job_id="job_1", number=i, type=type_, at=BEGIN + timedelta(seconds=i), data=data)
        for i, (type_, data) in enumerate(flat, 1)
    ]


def test_candidates_are_ranked_by_what_rows_they_have_not_seen_say() -> None:
    """Finished candidates come first, then those with more folds; by the figure of their end, before by their mean."""
    race = Race().follow(
        events(
            trained("a", 1, losses=[3.0, 2.0], nll=0.5),
            trained("a", 1, losses=[3.0], fold=2, nll=0.3),
            trained("b", 2, losses=[9.0], nll=0.35),
            trained("c", 3, losses=[1.0]),
        )
    )
    assert [(one.name, one.nll) for one in race.ranking] == [("a", 0.4), ("b", 0.35), ("c", None)]
    assert [one.behind for one in race.ranking] == ["mean of 2 of 3 folds", "mean of 1 of 3 folds", ""]
    told = [ended("b", nll=0.38), ended("c", "skipped", reason="no time is left"), ended("average", nll=0.3)]
    race.follow(events(told))
    assert [(one.name, one.nll) for one in race.ranking] == [("average", 0.3), ("b", 0.38), ("a", 0.4), ("c", None)]
    assert [one.behind for one in race.ranking] == ["", "", "mean of 2 of 3 folds", ""]
    assert [panel.one.name for panel in loss_panels(race)] == ["a", "b", "c"]


def test_letters_are_those_of_the_report() -> None:
    """The upload is A, those that train follow by their number, what was skipped fills the gaps, an average is last."""
    kind, upload = ended("uploaded + pool", nll=0.5)
    race = Race().follow(
        events([(kind, {**upload, "scope": "none"})], trained("second", 2, losses=[1.0], candidates=3))
    )
    assert race.letters == {"uploaded + pool": "A", "second": "C"}
    race.follow(events(trained("third", 3, losses=[1.0]), [ended("first", "skipped"), ended("average", nll=0.3)]))
    assert race.letters == {"uploaded + pool": "A", "first": "B", "second": "C", "third": "D", "average": "E"}
    drawing = ET.fromstring(nll_chart(race))
    assert [one.name for one in race.ranking][:2] == ["average", "uploaded + pool"]
    written = [one.text for one in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert written[-2:] == ["A", "E"], "the leader is drawn last"


def test_it_is_the_same_event_by_event() -> None:
    """Whoever has followed from the start sees what one sees who comes at the end."""
    all_events = events(
        trained("a", 1, losses=[3.0, 2.0], nll=0.5), [("progress", {"fraction": 0.5})], [ended("a", nll=0.5)]
    )
    followed = Race()
    for event in all_events:
        followed.follow([event])
    assert followed == Race().follow(all_events)


def test_what_trains_is_known() -> None:
    """The training whose epochs are not over; a score ends it, and one on all rows follows the candidate's end."""
    race = Race().follow(events(trained("a", 1, losses=[3.0, 2.0])))
    one = race.contenders["a"]
    training = race.underway(one)
    assert training is not None
    assert (training.rows, training.epoch, training.epochs) == ("without fold 1 of 3", 2, 10)
    race.follow(events([("score", {"candidate": "a", "number": 1, "fold": 1, "folds": 3, "nll": 0.5})]))
    assert race.underway(one) is None
    race.follow(events([ended("a", nll=0.5)], trained("a", 1, losses=[2.0], fold=None)))
    training = race.underway(one)
    assert training is not None
    assert training.rows == "on all rows"


def test_drawings_hold_every_candidate_and_stay_small() -> None:
    """A line for each candidate and each training, one before anything happens; long trainings are thinned."""
    told = [
        trained(f"<b>{i}", i, losses=[1 / e for e in range(1, 51)], fold=f, nll=0.1 * i)
        for i in range(1, 31)
        for f in (1, 2, 3)
    ]
    race = Race().follow(events(*told))
    chart, panels = nll_chart(race), loss_panels(race)
    assert len(list(ET.fromstring(chart).iter(LINE))) == 24
    assert [len(list(ET.fromstring(panel.drawing).iter(LINE))) for panel in panels] == [3] * 12
    assert sum(map(len, [chart, *(panel.drawing for panel in panels)])) < 40_000
    assert "No fold is scored yet." in nll_chart(Race())
    assert [points[-1] for _, points in panels[0].lines] == [(50, 0.02)] * 3
