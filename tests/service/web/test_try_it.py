"""A model is tried on a page: rows are what somebody means, answers are the API's, and costs are the report's."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from fedlas.contract.report import Report
from fedlas.guarantees import Guarantees
from fedlas.metrics.statistics import wilson
from service.predict.engine.profile import ServingProfile
from service.predict.formats.signature import parse_inputs
from service.registry.errors import InvalidRequest
from service.web.abstention import Costs, cheapest, tradeoff
from service.web.snippets import example_inputs, example_text
from service.web.try_it import inputs_of
from tests.helpers import reports
from tests.helpers.api import Api, MakeApi
from tests.helpers.drawn_rows import drawn_rows
from tests.helpers.publishing import judged, publish
from tests.helpers.served import scaling

HOSTILE = '<script>alert("1")</script>\'&'
PAGE = {"Accept": "text/html"}


def guarantees(num_rows: int = 400) -> Any:
    """The promises that rows of two classes allow."""
    return Guarantees.fit(*drawn_rows(num_rows, 2), class_names=["a", "b"]).as_dict()


def tried(api: Api, ref: str, status: int = 200, *, headers: dict[str, str] | None = None, **fields: Any) -> str:
    """The page, or with htmx the part of it, that answers the form."""
    answer = api.client.post(f"/models/{ref}/try", data=fields, headers={**PAGE, **(headers or {})})
    assert answer.status_code == status, answer.text
    return answer.text


def words(text: str) -> str:
    """The text that a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_answers_are_those_of_the_api(api: Api) -> None:
    """Label and both confidences of each row, by name or id, as a page or as the part that a script asks for."""
    model = publish(api.registry, "letters", scaling(1))
    told = api.post("/v1/models/letters/predict", json={"inputs": [[2.0, 0.0], [0.0, 0.5]], "top_k": 2})["predictions"]
    for ref in ("letters", model):
        text = tried(api, ref, rows="2,0\n0,0.5")
        for one in told:
            assert f"Row {told.index(one) + 1} {one['label']}" in words(text)
            assert f"Confidence {100 * one['confidence']:.1f} % Uncalibrated" in words(text)
    part = tried(api, "letters", rows="2,0", headers={"HX-Request": "true"})
    assert "<html" not in part
    assert "Confidence 88.1 %" in words(part)
    assert "not calibrated" in part
    assert words(tried(api, "letters", rows="1,0\n" * 50)).count("73.1 %") == 2 * 50
    assert "51 rows were entered" in tried(api, "letters", 413, rows="1,0\n" * 51)
    assert "letters were entered" in tried(api, "letters", 413, rows="1," * 300_000)


def test_what_is_refused_is_said_at_the_form_and_nothing_is_lost(api: Api) -> None:
    """The sentence of the API, or of what could not be read, stands above what was entered."""
    publish(api.registry, "letters", scaling(1))
    for rows, told in (("1,2,3", "rows of shape [3]"), ("1,x", "'x' is no number"), ("", "nothing was entered")):
        text = tried(api, "letters", 422, rows=rows, abstain_below="0.6", error_cost="7")
        assert told.lower() in words(text).lower()
        assert f">\n{rows}</textarea>" in text
        assert 'value="0.6"' in text
    for fields in ({"max_error": "x"}, {"coverage": "nan"}, {"abstain_below": "-1"}, {"error_cost": "much"}):
        text = tried(api, "letters", 422, rows="1,2", **fields)
        assert "expected a number" in text
        assert ">\n1,2</textarea>" in text
    tried(api, "letters", rows="1,2", error_cost="0,5")
    assert "Nothing can be promised for this model: promises are made" in tried(
        api, "letters", 422, rows="1,2", max_error="0.1"
    )
    assert "bytes are read here" in tried(api, "letters", 413, rows="x" * (api.settings.max_predict_json_bytes + 1))


def test_models_that_cannot_answer(api: Api) -> None:
    """An unknown one is 404, one that is still inspected 409; both are pages."""
    waiting = api.post("/v1/models?name=waiting", content=b"x")["id"]
    for ref, status in (("letters", 404), (waiting, 409), ("x" * 10_000, 404), ("%3Cscript%3E", 404)):
        answer = api.client.get(f"/models/{ref}/try", headers=PAGE)
        assert answer.status_code == status
        assert "<h1>" in answer.text


def test_columns_have_fields_by_name(api: Api) -> None:
    """Few columns have a field each, under names that are text whatever they hold; they make one row."""
    publish(api.registry, "letters", scaling(1), columns=[HOSTILE, "b"], class_names=[HOSTILE, "x" * 9_000])
    form = api.client.get("/models/letters/try", headers=PAGE).text
    assert str(escape(HOSTILE)) in form
    for text in (form, tried(api, "letters", cell=["2", "0"]), tried(api, "letters", 422, cell=[HOSTILE, "0"])):
        assert "<script>alert" not in text
    assert "Confidence 88.1 %" in words(tried(api, "letters", cell=["2", "0"]))
    many = [f"column-{number}" for number in range(31)]
    inputs = [{"name": "x", "dtype": "float32", "shape": ["N", 31]}]
    publish(api.registry, "wide", scaling(1, columns=31), columns=many, inputs=inputs)
    form = api.client.get("/models/wide/try", headers=PAGE).text
    assert 'name="cell"' not in form
    assert ",".join(many) in form


def test_a_trial_begins_with_a_row_of_the_dataset(make_api: MakeApi) -> None:
    """The first test row of the model's dataset, by the names of its columns, for whoever may read datasets."""
    administrator = {"Authorization": "Bearer an-administrators-key-0123456789"}
    api = make_api(api_keys=frozenset({"an-administrators-key-0123456789"}))
    rows = "b,label,x,split\n" + "".join(
        f"{i},{'ab'[i % 2]},{i / 3},{'test' if i > 39 else 'calibration'}\n" for i in range(80)
    )
    dataset = api.post("/v1/datasets?name=rows.csv", content=rows.encode(), headers=administrator)["id"]
    api.work(dataset)
    models = {
        "named": publish(api.registry, "named", scaling(1), columns=["x", "b"]),
        "plain": publish(api.registry, "plain", scaling(1)),
        "other": publish(api.registry, "other", scaling(1), columns=["x", "y"]),
    }
    for model in models.values():
        judged(api.registry, model, reports.content())
    with api.registry.write() as unit:
        for model in models.values():
            unit.jobs.behind(unit.models.get(model)).dataset_id = dataset  # type: ignore[union-attr]

    def form(name: str, headers: dict[str, str] = administrator) -> str:
        return api.client.get(f"/models/{name}/try", headers={**PAGE, **headers}).text

    assert "Filled in: row 41 of rows.csv , whose label is a ." in words(form("named"))
    assert re.findall(r'name="cell"[^>]*value="([^"]*)"', form("named")) == ["13.33333", "40"]
    assert ">\n40,13.33333\n</textarea>" in form("plain")
    assert re.findall(r'name="cell"[^>]*value="([^"]*)"', form("other")) == ["0", "0"]
    asked = {"name": "narrow", "scopes": ["predict"]}
    narrow = api.post("/v1/keys", json=asked, headers=administrator)["key"]
    seen = form("named", {"Authorization": f"Bearer {narrow}"})
    assert ("Filled in" in seen, "13.33" in seen, 'name="cell"' in seen) == (False, False, True)


def test_why_it_abstains(api: Api) -> None:
    """The threshold is the one that was chosen or, where that is higher, the one that the promise needs."""
    kept = guarantees()
    model = publish(api.registry, "letters", scaling(1), guarantees=kept)
    judged(api.registry, model, reports.content())
    form = words(api.client.get("/models/letters/try", headers=PAGE).text)
    assert "at most 20 % wrong" in form
    assert "at most 1 % wrong" not in form
    threshold = Guarantees.from_dict(kept).threshold_for(0.2)
    low = words(tried(api, "letters", rows="0.1,0", max_error="0.2", abstain_below="0.1", coverage="0.9"))
    assert f"It abstains: 52.5 % is below the {100 * threshold:.1f} % that the promise needs" in low
    assert "Prediction set: a b" in low
    high = words(tried(api, "letters", rows="0.1,0", max_error="0.2", abstain_below="0.99"))
    assert "It abstains: 52.5 % is below the 99.0 % that was asked for" in high
    assert "It answers: 88.1 % is not below the 60.0 %" in words(tried(api, "letters", rows="2,0", abstain_below="0.6"))


def excerpt() -> Report:
    return Report.read(reports.content())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 0.95])
def test_a_threshold_is_what_the_test_rows_show(threshold: float) -> None:
    """Coverage and error rate are counted again on the rows, to the nearest point of the curve; so is the cost."""
    _, _, probs, targets = reports.example()
    found = tradeoff(excerpt(), threshold, Costs(5, 2))
    answered = probs.max(axis=1) >= threshold
    wrong = (probs.argmax(axis=1) != targets) & answered
    assert found.coverage.value == pytest.approx(answered.mean(), abs=1 / 200)
    assert found.error_rate is not None
    assert found.error_rate.value == pytest.approx(wrong.sum() / answered.sum(), abs=0.01)
    assert found.cost.value == pytest.approx(1000 * (5 * wrong.mean() + 2 * (1 - answered.mean())), abs=35)
    low, high = (float(one) for one in wilson(answered.mean(), len(targets), 0.95))
    assert (found.coverage.low, found.coverage.high) == pytest.approx((low, high), abs=1 / 150)
    assert found.cost.low is not None
    assert found.cost.high is not None
    assert found.cost.low < (found.cost.value or 0) < found.cost.high


def test_costs_hold_the_true_ones() -> None:
    """The interval of the cost covers the true cost in at least 93 of 100 samples, where nothing and much is rare."""
    rng, report = np.random.default_rng(0), excerpt()
    for wrong, abstained in ((0.02, 0.3), (0.1, 0.01), (0.001, 0.5)):
        drawn = rng.multinomial(500, [wrong, abstained, 1 - wrong - abstained], size=400) / 500
        true, held = 1000 * (10 * wrong + abstained), 0
        for w, a, _ in drawn:
            found = [w / (1 - a)]
            points = {"coverage": [1 - a], "thresholds": [0.5], "error_rate": found, "low": found, "high": found}
            curves = report.risk_coverage.changed(calibrated=report.risk_coverage.calibrated.changed(**points))
            sample = report.changed(num_test_rows=500, risk_coverage=curves)
            cost = tradeoff(sample, 0.5, Costs(10, 1)).cost
            assert cost.low is not None
            assert cost.high is not None
            held += cost.low <= true <= cost.high
        assert held >= 0.93 * len(drawn)


def test_nothing_is_answered_above_every_confidence() -> None:
    """Every row costs an abstention then, and no share of the answers is wrong: there are none."""
    found = tradeoff(excerpt(), 1.0, Costs(5, 2))
    assert (found.coverage.value, found.error_rate, found.cost.value) == (0.0, None, 2000.0)


def test_the_cheapest_threshold() -> None:
    """No threshold of the curve costs less; where errors cost nothing everything is answered."""
    costs = Costs(10, 1)
    report = excerpt()
    best, thresholds = cheapest(report, costs), report.risk_coverage.calibrated.thresholds
    assert best.cost.value == min(tradeoff(report, one, costs).cost.value or 0 for one in [*thresholds, 1.0])
    assert cheapest(report, Costs(0, 1)).coverage.value == 1.0
    assert cheapest(report, Costs(1, 0)).cost.value == 0.0


def test_a_slider_that_moves_asks_for_what_it_costs(api: Api) -> None:
    """The part says what the report says, without the page around it; without a job it says that nothing is known."""
    model = publish(api.registry, "letters", scaling(1))
    asked = "/models/letters/try?abstain_below=0.8&error_cost=5&abstention_cost=2"
    headers = {**PAGE, "HX-Request": "true"}
    assert "no job has judged it" in words(api.client.get(asked, headers=headers).text)
    judged(api.registry, model, reports.content())
    part = api.client.get(asked, headers=headers).text
    assert "<html" not in part
    found = tradeoff(excerpt(), 0.8, Costs(5, 2))
    assert found.error_rate is not None
    share, wrong = 100 * (found.coverage.value or 0), 100 * (found.error_rate.value or 0)
    assert f"From a confidence of 80.0 % up, {share:.1f} % of the rows are answered" in words(part)
    assert f"and {wrong:.1f} % of the answers are wrong" in words(part)
    assert f"Cost of 1,000 rows {found.cost.value:,.0f}" in words(part)
    assert "Confidence from Answered Of these wrong" in words(part)
    assert api.client.get("/models/letters/try?error_cost=&abstain_below=", headers=headers).status_code == 200
    assert api.client.get("/models/letters/try?error_cost=x", headers=headers).status_code == 422
    assert api.client.get("/models/letters/try?abstain_below=5", headers=headers).status_code == 422


def profile(*inputs: tuple[str, str, list[Any]], columns: list[str] | None = None) -> ServingProfile:
    specs = [{"name": name, "dtype": dtype, "shape": ["N", *row]} for name, dtype, row in inputs]
    return ServingProfile.of({"inputs": specs, "class_names": ["a", "b"], "columns": columns})


TABLE = profile(("x", "float32", [2]), columns=["age", "x, y"])
PLAIN = profile(("x", "float32", [2]))
IMAGE = profile(("x", "float32", [1, 2, 2]))
TEXT = profile(("input_ids", "int64", ["T"]), ("attention_mask", "int64", ["T"]))


@pytest.mark.parametrize(
    ("text", "takes", "inputs"),
    [
        ("1, 2.5", PLAIN, [[1, 2.5]]),
        ("1,2\n\n3,4\n", PLAIN, [[1, 2], [3, 4]]),
        ("[1, 2]", PLAIN, [[1, 2]]),
        ("[[1, 2], [3, 4]]", PLAIN, [[1, 2], [3, 4]]),
        ('{"inputs": [[1, 2]]}', PLAIN, [[1, 2]]),
        ('{"x": [1, 2]}', PLAIN, {"x": [[1, 2]]}),
        ('age,"x, y"\n1,2\n3,', TABLE, [{"age": 1, "x, y": 2}, {"age": 3, "x, y": None}]),
        ('"x, y",age\n1,2', TABLE, [{"x, y": 1, "age": 2}]),
        ("1,2", TABLE, [[1, 2]]),
        ('{"age": 1, "x, y": 2}', TABLE, [{"age": 1, "x, y": 2}]),
        ("1,2,3,4", IMAGE, [[[[1, 2], [3, 4]]]]),
        ("[[[1, 2], [3, 4]]]", IMAGE, [[[[1, 2], [3, 4]]]]),
        (
            '{"input_ids": [1, 2], "attention_mask": [[1, 1]]}',
            TEXT,
            {"input_ids": [[1, 2]], "attention_mask": [[1, 1]]},
        ),
    ],
)
def test_what_is_meant(text: str, takes: ServingProfile, inputs: Any) -> None:
    """One row or several, as CSV with or without a heading, as JSON, or as a request's whole body."""
    assert inputs_of(text, takes) == inputs


@pytest.mark.parametrize(
    ("text", "takes", "told"),
    [
        (" \n", PLAIN, "nothing was entered"),
        ("1,x", PLAIN, "line 1, value 2: 'x' is no number"),
        ("[1, 2", PLAIN, "begins like JSON and is none"),
        ("[" * 100_000, PLAIN, "nested too deeply"),
        ('"1,2', PLAIN, "neither JSON nor CSV"),
        ('age,"x, y"\n1', TABLE, "line 2 has 1 values, and the heading names 2 columns"),
        ("1,2", TEXT, "several inputs (input_ids, attention_mask)"),
        (f"1,{'y' * 10_000}", PLAIN, "…' is no number"),
    ],
)
def test_what_cannot_be_meant(text: str, takes: ServingProfile, told: str) -> None:
    """The sentence says what was found and where, however long that is."""
    with pytest.raises(InvalidRequest) as refused:
        inputs_of(text, takes)
    assert told in refused.value.message
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("takes", [TABLE, PLAIN, IMAGE, TEXT])
def test_examples_fit_their_model(takes: ServingProfile) -> None:
    """The example, pasted as it is written, is one row that the model takes."""
    assert inputs_of(example_text(takes), takes) == example_inputs(takes) or takes is TABLE
    for given in (inputs_of(example_text(takes), takes), example_inputs(takes)):
        assert {name: array.shape for name, array in parse_inputs(given, takes, max_rows=1).items()} == {
            spec.name: np.zeros([1, *(size if isinstance(size, int) else 4 for size in spec.row)]).shape
            for spec in takes.inputs
        }


def test_an_example_of_a_million_numbers_is_not_written_out() -> None:
    """A page with it would be as long."""
    assert example_text(profile(("x", "float32", [3, 600, 600]))) == ""
