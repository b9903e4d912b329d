"""From files to a job, as a browser without scripts goes, and the fit of a model and a dataset by their records."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fedlas.contract.profiles import TensorSpec
from fedlas.contract.records import DatasetRecord, ModelRecord
from service.registry.errors import InvalidRequest
from service.web.forms import request_of
from service.web.new_job import misfits
from tests.helpers.api import Api
from tests.helpers.uploads import Uploads, digits, digits_npz, weights_outside

BROWSER = {"Accept": "text/html"}
Files = dict[str, tuple[str, bytes]]


def send(api: Api, files: Files, **fields: str) -> tuple[int, str, dict[str, str]]:
    """Send the form of the first page: the answer's status, its text, and what its address names."""
    given: Files = {"model": ("", b""), "dataset": ("", b""), **files}
    answer = api.client.post(
        "/new", files=given, data={name.replace("__", "."): text for name, text in fields.items()},
        headers=BROWSER, follow_redirects=False,
    )  # fmt: skip
    where = urlsplit(answer.headers.get("location", ""))
    return answer.status_code, unescape(answer.text), {name: one for name, [one] in parse_qs(where.query).items()}


def text_of(api: Api, path: str) -> str:
    """A page's text."""
    answer = api.client.get(path, headers=BROWSER)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


@pytest.fixture
def both(api: Api, uploads: Uploads) -> dict[str, str]:
    """Ids of a model, whose weights are a file of their own, and a dataset that a form has sent, both inspected."""
    graph = weights_outside(uploads["digits.onnx"])
    files = {"model": ("digits.onnx", graph["m.onnx"]), "data": ("m.onnx.data", graph["m.onnx.data"])}
    files["dataset"] = ("digits.npz", uploads["digits.npz"])
    status, _, ids = send(api, files, dataset__name="Handwriting", model__class_names="")
    assert status == 303
    for record_id in ids.values():
        api.work(record_id)
    return ids


def test_from_two_files_to_an_order(api: Api, both: dict[str, str]) -> None:
    """One form makes both records; their page says what was found, and its form creates a job as it was filled in."""
    page = text_of(api, f"/new?model={both['model']}&dataset={both['dataset']}")
    for sentence in ("logits of 10 classes", "64 numbers before the last layer", "1,797 rows in 10 classes"):
        assert sentence in page
    assert "Handwriting" in page
    assert 'value="digits"' in page  # the name to publish under
    order = {"model_id": both["model"], "dataset_id": both["dataset"], "publish_as": "digits", "budget.minutes": "2,5"}
    order |= {"seed": "", "metadata": "team = vision\nurl = a=b"}
    answer = api.client.post("/new/job", data=order, headers=BROWSER, follow_redirects=False)
    assert answer.status_code == 303
    job = api.client.get(f"/v1{answer.headers['location']}").json()
    assert (job["budget"]["minutes"], job["seed"], job["publish_as"]) == (2.5, 0, "digits")
    assert job["metadata"] == {"team": "vision", "url": "a=b"}


def test_a_refused_order_comes_back_as_it_was_entered(api: Api, both: dict[str, str]) -> None:
    """A refusal has the reason at its field, and creates no job."""
    order = {"model_id": both["model"], "dataset_id": both["dataset"], "budget.minutes": "soon", "seed": "7"}
    answer = api.client.post("/new/job", data=order, headers=BROWSER)
    assert answer.status_code == 422
    for kept in ('value="soon"', 'value="7"', 'id="budget.minutes-error"', "No job was created."):
        assert kept in answer.text
    assert api.client.post("/new/job", data={**order, "budget.minutes": "5", ".": "x"}).status_code == 422
    assert api.client.get("/v1/jobs").json()["data"] == []


def test_only_what_was_refused_is_unfolded(api: Api, both: dict[str, str], uploads: Uploads) -> None:
    """A folded part opens where one of its own fields was refused, and stays folded for every other refusal."""
    order = {"model_id": both["model"], "dataset_id": both["dataset"]}
    for refused, is_open in (
        ({"publish_as": "no name"}, False),
        ({"seed": "x"}, True),
        ({"class_priors": "0 = x"}, True),
    ):
        page = api.client.post("/new/job", data={**order, **refused}, headers=BROWSER).text
        [field] = refused
        assert f'id="{field}-error"' in page
        assert ("<details open>\n<summary>Advanced settings" in page) is is_open
    files: Files = {"model": ("m.onnx", uploads["digits.onnx"]), "dataset": ("d.npz", b"")}
    _, page, _ = send(api, files, model__task="regression", dataset__name="Mine")
    assert "<details open>\n<summary>More about the model" in page
    assert "<details>\n<summary>More about the rows" in page


def test_a_job_waits_for_inspection(api: Api, uploads: Uploads) -> None:
    """The button is there from the start, disabled, and says what it waits for until both are inspected."""
    files: Files = {"model": ("m.onnx", uploads["digits.onnx"]), "dataset": ("d.npz", uploads["digits.npz"])}
    _, _, ids = send(api, files)
    address = f"/new?model={ids['model']}&dataset={ids['dataset']}"
    button = '<button aria-describedby="job-hint" disabled>Calibrate</button>'
    waits = ["the inspection of the model and the inspection of the dataset", "the inspection of the dataset"]
    for record_id, words in zip(ids.values(), waits, strict=True):
        page = text_of(api, address)
        assert (button in page, f"Waiting for {words}." in page) == (True, True)
        assert f'<a href="{address}">Load the page again</a>' in page
        api.work(record_id)
    page = text_of(api, address)
    assert (button in page, "Waiting for" in page) == (False, False)
    assert "Waiting for a dataset." in text_of(api, f"/new?model={ids['model']}")


def test_an_order_says_how_often_its_test_rows_have_judged(api: Api, both: dict[str, str]) -> None:
    """The count stands there from the second job on: each costs some of what the rows can show."""
    address = f"/new?model={both['model']}&dataset={both['dataset']}"
    assert "before: the more they judge" not in text_of(api, address)
    with api.registry.write() as unit:
        unit.ledger.enter(unit.datasets.get(both["dataset"]).sha256, "job_1")
    assert "have judged 1 calibration before" in text_of(api, address)


def test_a_form_that_is_sent_twice_orders_once(api: Api, both: dict[str, str]) -> None:
    """A double click is one job; the same form with another seed is another order."""
    order = {"model_id": both["model"], "dataset_id": both["dataset"], "form_key": "one", "seed": "1"}
    sent = [
        api.client.post("/new/job", data={**order, **more}, headers=BROWSER, follow_redirects=False)
        for more in ({}, {}, {"seed": "2"})
    ]
    places = [answer.headers["location"] for answer in sent]
    assert places[0] == places[1] != places[2]


def test_files_that_are_sent_twice_are_one_record(api: Api, uploads: Uploads) -> None:
    """A second send is one record also where the first has used the upload up."""
    upload = api.post("/v1/uploads", json={"bytes": len(uploads["digits.npz"])})["id"]
    api.client.patch(f"/v1/uploads/{upload}", content=uploads["digits.npz"], headers={"Upload-Offset": "0"})
    first, second = (send(api, {}, dataset__upload_id=upload, form_key="one")[2] for _ in range(2))
    assert first == second
    assert len(api.client.get("/v1/datasets").json()["data"]) == 1


@pytest.mark.parametrize("name", ["budget", "a.b.c", "..", ".".join("a" * 20_000)])
def test_fields_that_no_form_has_are_refused(name: str) -> None:
    """Unknown fields are refused whatever their names are made of, before others and after them."""
    fields = [("budget.minutes", "5"), (name, "x")]
    for given in (fields, fields[::-1]):
        with pytest.raises(InvalidRequest, match="no form here has a field"):
            request_of(given)


def test_a_check_is_a_dry_run_with_the_orders_settings(api: Api, both: dict[str, str]) -> None:
    """The address names it, the page says what it has found, and the form shows what was checked."""
    order = {"model_id": both["model"], "dataset_id": both["dataset"], "budget.minutes": "3", "publish_as": "other"}
    answer = api.client.post("/new/check", data=order, headers=BROWSER, follow_redirects=False)
    assert answer.status_code == 303
    where = answer.headers["location"]
    assert "Checking" in text_of(api, where)
    check = parse_qs(urlsplit(where).query)["check"][0]
    api.work(check)
    page = text_of(api, where)
    assert "this job would run" in page
    assert 'value="3"' in page
    assert 'value="other"' in page
    assert "this job would run" not in text_of(api, f"/new?model={both['model']}&check={check}")


def test_one_refused_file_does_not_cost_the_other(api: Api, uploads: Uploads) -> None:
    """The model is there, and the dataset's form says what is wrong, with what was entered."""
    files = {"model": ("digits.onnx", uploads["digits.onnx"]), "dataset": ("rows.csv", b"")}
    status, page, _ = send(api, files, dataset__name="Handwriting")
    assert status == 422
    assert "The dataset was not taken." in page
    assert "The file is empty" in page
    assert 'value="Handwriting"' in page
    [model] = api.client.get("/v1/models").json()["data"]
    assert f'name="model.id" value="{model["id"]}"' in page
    status, _, ids = send(api, {"dataset": ("d.npz", uploads["digits.npz"])}, model__id=model["id"])
    assert (status, ids["model"]) == (303, model["id"])


def test_options_are_checked_as_those_of_the_api(api: Api, uploads: Uploads) -> None:
    """A refusal about a field stands at the field."""
    files = {"model": ("digits.onnx", uploads["digits.onnx"])}
    status, page, _ = send(api, files, model__task="regression", model__name="Mine")
    assert status == 422
    assert 'id="model.task-error"' in page
    assert 'value="Mine"' in page
    assert api.client.get("/v1/models").json()["data"] == []


def test_a_rejected_file_says_why(api: Api, uploads: Uploads) -> None:
    """A rejected file has its code, what that means, and a form for another one that keeps the other file."""
    files = {"model": ("m.onnx", b"no model at all"), "dataset": ("digits.npz", uploads["digits.npz"])}
    _, _, ids = send(api, files)
    for record_id in ids.values():
        api.work(record_id)
    page = text_of(api, f"/new?model={ids['model']}&dataset={ids['dataset']}")
    assert "<code>not_onnx</code>" in page
    assert "The file is no ONNX file." in page
    assert f'name="dataset.id" value="{ids["dataset"]}"' in page
    assert "Waiting for another model." in page


def test_what_does_not_belong_together_is_told_before_an_order(api: Api, uploads: Uploads) -> None:
    """Shapes that differ, with what to do."""
    rows = digits()[0].reshape(-1, 1, 8, 8)
    files = {"model": ("digits.onnx", uploads["digits.onnx"]), "dataset": ("images.npz", digits_npz(x=rows))}
    _, _, ids = send(api, files)
    for record_id in ids.values():
        api.work(record_id)
    page = text_of(api, f"/new?model={ids['model']}&dataset={ids['dataset']}")
    assert "The model takes rows of 64, the dataset has rows of 1 × 8 × 8." in page
    assert "reshape each of them to 64" in page


def test_a_part_waits_for_its_record(api: Api, both: dict[str, str]) -> None:
    """A part alone has no frame, and one that is settled does not ask again."""
    for part in ("model", "dataset", "job"):
        answer = api.client.get(f"/new/{part}?model={both['model']}&dataset={both['dataset']}", headers=BROWSER)
        assert answer.status_code == 200
        assert f'id="{part}"' in answer.text
        assert "<html" not in answer.text
        assert "hx-get" not in answer.text


def test_that_nobody_has_said_what_was_seen_is_told_once(api: Api) -> None:
    """Rows without splits, in words of the page and not in those of the API."""
    _, _, ids = send(api, {"dataset": ("d.npz", digits_npz(split=None))})
    api.work(ids["dataset"])
    page = text_of(api, f"/datasets/{ids['dataset']}")
    assert page.count("Say first which of these rows the model was trained on") == 1
    assert "seen_by_model" not in page
    assert text_of(api, f"/new?dataset={ids['dataset']}").count("Was the model trained on any of these rows?") == 1


def test_a_deleted_model_does_not_cost_the_dataset(api: Api, both: dict[str, str]) -> None:
    """The page says that it is gone, and its form for another one keeps the rows."""
    api.client.delete(f"/v1/models/{both['model']}")
    page = text_of(api, f"/new?model={both['model']}&dataset={both['dataset']}")
    assert "This model does not exist or was deleted." in page
    assert f'name="dataset.id" value="{both["dataset"]}"' in page
    assert "1,797 rows" in page


def test_nothing_that_is_sent_is_passed_over(api: Api, both: dict[str, str]) -> None:
    """An empty form says what is missing; a new word on rows that are here makes another record of their file."""
    fields = {"model__upload_id": "", "dataset__upload_id": ""}
    status, page, _ = send(api, {}, **fields)
    assert (status, page.count("Choose a file, or one that is here.")) == (422, 2)
    status, _, ids = send(api, {}, **fields, dataset__id=both["dataset"], dataset__seen_by_model="no")
    assert (status, ids.keys(), ids["dataset"] == both["dataset"]) == (303, {"dataset"}, False)
    api.work(ids["dataset"])
    first, second = (api.client.get(f"/v1/datasets/{one}").json() for one in (both["dataset"], ids["dataset"]))
    assert (second["status"], second["seen_by_model"]) == ("ready", "no")
    kept = ("name", "sha256", "bytes", "roles", "splits")
    assert [second[name] for name in kept] == [first[name] for name in kept]
    assert send(api, {}, **fields, dataset__id=both["dataset"])[2] == {"dataset": both["dataset"]}


def test_a_form_is_taken_with_all_of_its_fields(api: Api, both: dict[str, str], uploads: Uploads) -> None:
    """A browser sends every field of the first page, empty or not, and those that appear once records are there."""
    names = re.findall(r'<(?:input|select|textarea)[^>]* name="([^"]+)"', text_of(api, "/"))
    assert {"model.id", "dataset.id", "model", "data", "dataset"} <= set(names)
    files: Files = {"model": ("m.onnx", uploads["digits.onnx"]), "data": ("", b""), "dataset": ("d.npz", digits_npz())}
    status, page, ids = send(api, files, **{name.replace(".", "__"): "" for name in names if name not in files})
    assert (status, ids.keys()) == (303, {"model", "dataset"}), page


def test_names_of_others_are_text(api: Api, uploads: Uploads) -> None:
    """A file's name, a class and a column that are written as HTML run nowhere."""
    hostile = "<script>alert(1)</script>"
    classes = [f"{hostile}{number}" for number in range(10)]
    rows, targets, splits = digits()
    content = digits_npz(x=rows, label=[classes[target] for target in targets], split=splits)
    files = {"model": (hostile, uploads["digits.onnx"]), "dataset": ("d.npz", content)}
    _, _, ids = send(api, files, dataset__name=hostile)
    for record_id in ids.values():
        api.work(record_id)
    both = f"/new?model={ids['model']}&dataset={ids['dataset']}"
    for path in (both, f"/datasets/{ids['dataset']}", "/datasets", "/"):
        answer = api.client.get(path, headers=BROWSER)
        assert answer.status_code == 200
        assert hostile not in answer.text
    assert hostile in text_of(api, f"/datasets/{ids['dataset']}")


FILE = {"name": "f", "bytes": 1, "sha256": "0" * 64, "status": "ready", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}


def tensors(**shapes: list[int | str]) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype="float32", shape=["N", *shape]) for name, shape in shapes.items()]


def model(classes: list[str], **inputs: list[int | str]) -> ModelRecord:
    kind: dict[str, Any] = {"id": "mdl_1", "version": 1, "origin": "uploaded", "format": "onnx", "calibrated": False}
    found = {"class_names": classes, "num_classes": len(classes), "inputs": tensors(**(inputs or {"x": [4]}))}
    return ModelRecord(**FILE, **kind, **found)


def dataset(classes: list[str], **inputs: list[int | str]) -> DatasetRecord:
    found = {"class_names": classes, "num_classes": len(classes), "inputs": tensors(**(inputs or {"x": [4]}))}
    return DatasetRecord(**FILE, id="ds_1", format="npz", purpose=None, labelled=True, **found)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("sent", "rows"),
    [
        (model(["cat", "dog"]), dataset(["dog"])),
        (model(numbers(2)), dataset(["cat", "dog"])),
        (model(numbers(3)), dataset(["0", "2"])),
        (model(["cat", "dog"]), dataset(["0", "1"])),
        (model(["²", "³"]), dataset(["0", "1"])),
        (model(numbers(2), image=["H", "W"]), dataset(numbers(2), x=[8, 8])),
        (model(numbers(2), ids=[4], mask=[4]), dataset(numbers(2), mask=[4], ids=[4], more=[1])),
    ],
)
def test_what_fits_is_not_talked_about(sent: ModelRecord, rows: DatasetRecord) -> None:
    """Fewer classes, numbers for names, free dimensions, and inputs that a model does not take."""
    assert misfits(sent, rows) == []


@pytest.mark.parametrize(
    ("sent", "rows", "said"),
    [
        (model(["cat", "dog"]), dataset(["cat", "cow"]), "does not know the class 'cow'"),
        (model(numbers(3)), dataset(["cat", "dog"]), "2 named classes and the model 3 unnamed ones"),
        (model(numbers(2)), dataset(["1", "2"]), "Labels seem to begin at one: subtract 1."),
        (model(numbers(2), x=[1, 8, 8]), dataset(numbers(2), x=[8, 8, 1]), "transpose each of them to 1 × 8 × 8"),
        (model(numbers(2), x=[64]), dataset(numbers(2), x=[8, 8]), "reshape each of them to 64"),
        (model(numbers(2), ids=[4], mask=[4]), dataset(numbers(2), ids=[4]), "the dataset has no 'mask'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_remedy(sent: ModelRecord, rows: DatasetRecord, said: str) -> None:
    """One sentence on what differs and what to do."""
    [sentence] = misfits(sent, rows)
    assert said in sentence


def test_many_classes_take_no_time() -> None:
    """A hundred thousand names on either side, none of which the other knows."""
    left, right = ([f"{side}{number}" for number in range(100_000)] for side in "ab")
    assert "and 99,992 more" in misfits(model(left), dataset(right))[0]
