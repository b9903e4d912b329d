"""Parameters in paths, queries, headers and JSON of any route: names that exist, once, and text that can be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.api import Api, Json
from tests.helpers.documented import SNAPSHOTS, document, parameters_of
from tests.helpers.problems import fields, problem

OPERATIONS = [
    (method.upper(), path, operation)
    for beginning in SNAPSHOTS
    for path, methods in document(beginning)["paths"].items()
    for method, operation in methods.items()
]
#: The serving application has a test of its own.
V1 = [(method, path) for method, path, _ in OPERATIONS if path.startswith("/v1/") and not path.endswith("/predict")]
V1 += [("HEAD", path) for method, path in V1 if method == "GET"]
#: Texts that some parser has stumbled over at some time.
ODD = ["\ud800", "\udfff\ud800", "\0", "a\0b", "mdl_\0", "\ufeff", "\uffff", "%00", "%ff", "..", "a/../b", "🐈" * 50]
ODD += ["x" * 5000, "1e309", "NaN", "-0", "0x1", str(2**63), str(-(2**63) - 1), "9" * 5000, "true", "null"]
ODD += ["[" * 5000, '{"a":' * 999]


@pytest.fixture(scope="module")
def api(shared_api: Api) -> Api:
    """One API for all of these, with little in it."""
    return shared_api


@pytest.fixture(scope="module")
def ids(api: Api) -> list[str]:
    """A model and a dataset that exist."""
    return [api.post(f"/v1/{kind}", content=b"x")["id"] for kind in ("models", "datasets")]


def filled(path: str, value: str = "mdl_x") -> str:
    """The path with this value in every place."""
    for name in ("job_id", "model_id", "dataset_id", "batch_id", "calibrator_id", "upload_id", "delivery_id"):
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{name}", value).replace("{model}", value).replace("{version}", value)


@pytest.mark.parametrize(("method", "path"), V1)
def test_unknown_parameters_are_refused(api: Api, method: str, path: str) -> None:
    """Whatever the method, a name that the route does not have is 422 and named, and nothing is done."""
    answer = api.client.request(method, filled(path), params={"no_such_name": "1"})
    assert answer.status_code == 422, (method, path, answer.text)
    if method != "HEAD":
        assert "'no_such_name'" in problem(answer, 422, "invalid_request")["detail"]
        assert fields(answer) == {"no_such_name"}


def test_a_misspelt_dry_run_trains_nothing(api: Api) -> None:
    """The answer tells what was found, what there is, and which of it is nearest; no job comes into being."""
    answer = api.client.post("/v1/jobs?dryrun=true", json=api.order())
    assert (
        problem(answer, 422)["detail"]
        == "there is no query parameter 'dryrun'; there are dry_run; did you mean 'dry_run'?"
    )
    assert api.client.get("/v1/jobs").json()["data"] == []
    assert "name, status; did you mean 'limit'?" in problem(api.client.get("/v1/jobs?limits=2"), 422)["detail"]
    options = problem(api.client.post("/v1/models?class_name=a,b", content=b"x"), 422)["detail"]
    assert "did you mean 'class_names'?" in options
    assert len(problem(api.client.get("/v1/jobs?" + "a" * 60_000 + "=1"), 422)["detail"]) < 300


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&limit=1", "limit=1&after=&limit=1"])
def test_a_parameter_is_given_once(api: Api, query: str) -> None:
    """Two values of one parameter are refused, equal ones too."""
    assert fields(api.client.get(f"/v1/models?{query}")) == {"limit"}
    assert fields(api.client.post("/v1/models?name=a&name=b", content=b"x")) == {"name"}


def test_every_declared_parameter_is_taken(api: Api) -> None:
    """A parameter that the OpenAPI document declares is never called unknown."""
    for method, path, operation in OPERATIONS:
        for item in (one for one in parameters_of(path, operation) if one["in"] == "query"):
            name = f"{item['name']}[a]" if item.get("style") == "deepObject" else item["name"]
            answer = api.client.request(method, filled(path), params={name: "1"})
            assert "there is no query parameter" not in answer.text, (method, path, name)


def test_the_open_protocol_ignores_them(api: Api) -> None:
    """Under /v2 unknown parameters are ignored, and by the probes too."""
    for path in ("/v2", "/v2/models", "/v2/models/stats", "/v2/health/live", "/healthz", "/metrics"):
        assert api.client.get(path, params={"no_such_name": "1"}).status_code == 200
    assert api.client.post("/v2/repository/index?x=1", json={}).status_code == 200


@pytest.mark.parametrize("query", ["limit=%ff", "after=%ed%a0%80", "name=%00", "a%00b=1"])
def test_what_is_no_text_is_refused(api: Api, query: str) -> None:
    """Half surrogates, NUL and bytes that are not UTF-8 are no query: 422, before anybody looks for such a record."""
    problem(api.client.get(f"/v1/models?{query}"), 422, "invalid_request")
    problem(api.client.post(f"/v1/models?{query}", content=b"x"), 422, "invalid_request")


def test_nothing_is_called_so(api: Api) -> None:
    """NUL and names longer than any are 404 in a path, and short answers."""
    for name in ("%00", "mdl_%00", "x" * 60_000):
        for path in (f"/v1/models/{name}", f"/v1/names/{name}", f"/v1/jobs/{name}/events", f"/v2/models/{name}"):
            answer = api.client.get(path)
            assert (answer.status_code, len(answer.text) < 600) == (404, True), answer.text[:600]
    for name in ("mdl_%00", "a%00"):
        problem(api.client.post(f"/v1/models/{name}/predict"), 404, "unknown_model")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [operation for operation in OPERATIONS if operation[1] != "/readyz"],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_odd_text_is_never_our_fault(
    api: Api, ids: list[str], data: st.DataObject, method: str, path: str, operation: Json
) -> None:
    """Whatever stands in a parameter, a header or a JSON body, the answer is below 500, and is JSON where it is one."""
    odd = st.sampled_from(ODD) | st.text(st.characters(), max_size=20)
    declared = parameters_of(path, operation)
    query = {item["name"]: data.draw(odd) for item in declared if item["in"] == "query" and data.draw(st.booleans())}
    headers = {
        item["name"]: data.draw(odd).encode("utf-8", "surrogatepass")
        for item in declared
        if item["in"] == "header" and data.draw(st.booleans())
    }
    content = None
    if "requestBody" in operation:
        content = json.dumps(data.draw(bodies(operation, odd, ids))).encode()
        headers["Content-Type"] = b"application/json"
    place = filled(path, quoted(data.draw(odd | st.sampled_from(["mdl_x"] if method == "DELETE" else ids))))
    if "wait" in query:  # what can be a number would be waited for
        query["wait"] = data.draw(st.sampled_from(["NaN", "1e309", "-0", "0x1", "-1", "61", "0"]))
    elif path == "/v1/calibrators":
        query["wait"] = "0"
    texts = "&".join(f"{name}={quoted(value)}" for name, value in query.items())
    headers = {name: value for name, value in headers.items() if not set(value) & set(b"\r\n")}
    answer = api.client.request(method, f"{place}?{texts}", headers=headers, content=content, follow_redirects=False)
    not_ready = answer.status_code == 503 and path.startswith("/v2/")  # as that protocol says it
    assert answer.status_code < 500 or not_ready, (answer.status_code, answer.text)
    if answer.content and answer.headers.get("content-type", "").endswith("json"):
        answer.json()


def quoted(text: str) -> str:
    """Percent-encoded, half surrogates too."""
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


def bodies(operation: Json, odd: st.SearchStrategy[str], ids: list[str]) -> st.SearchStrategy[Any]:
    """Objects with the names that the schema has, and odd values or right ones."""
    known: list[str] = []
    for content in operation["requestBody"]["content"].values():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        for beginning in SNAPSHOTS:
            known += document(beginning)["components"]["schemas"].get(name, {}).get("properties", {})
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | odd | st.sampled_from(ids),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd, inner, max_size=3),
        max_leaves=6,
    )
    return st.dictionaries(st.sampled_from(known) | odd if known else odd, values, max_size=8) | values


@pytest.mark.parametrize("value", ["1" + "0" * 400, "9" * 5000, "1e400", "NaN", "-Infinity", "[" * 5000, '"\\ud800"'])
def test_json_within_parameters(api: Api, value: str) -> None:
    """JSON within a parameter may hold numbers beyond any float, or be as deep as it likes: refused, and briefly."""
    text = json.dumps({"label": 0}).replace("0", value)
    for name in ("roles", "padding", "split_shares", "preprocessing"):
        kind = "models" if name == "preprocessing" else "datasets"
        answer = api.client.post(f"/v1/{kind}", params={name: text}, content=b"x")
        assert fields(answer) == {name}, answer.text[:300]
        assert len(answer.content) < 1000
