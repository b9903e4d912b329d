"""Lists filter: each condition alone, all together, and page by page; what is none is refused with what there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.helpers.api import Api, Json, MakeApi
from tests.helpers.problems import problem
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

#: Keys and values that would break a path of JSON, or SQL.
AWKWARD = "a\"b.c,}'$ %"


@pytest.fixture(scope="module")
def api(shared_api: Api) -> Api:
    """One API for all who only ask; a test that changes what others find makes its own."""
    return shared_api


@pytest.fixture(scope="module")
def jobs(api: Api) -> list[str]:
    """The jobs that are asked for."""
    return ordered(api)


def ordered(api: Api) -> list[str]:
    """Six jobs, of two models in turn, the oldest first; the last one is to publish, the first two are cancelled."""
    models = [api.post(f"/v1/models?name={name}", content=name.encode()) for name in ("alpha", "beta")]
    dataset = api.post("/v1/datasets?name=rows", content=b"d")
    made = []
    for number in range(6):
        order: Json = {"metadata": {"team": "x" if number < 3 else "y", AWKWARD: f"é{number % 2}"}}
        order |= {"model_id": models[number % 2]["id"], "dataset_id": dataset["id"]}
        made.append(api.post("/v1/jobs", json=order | ({"publish_as": "digits"} if number == 5 else {}))["id"])
    for job_id in made[:2]:
        assert api.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    return made


def found(api: Api, path: str, **conditions: Any) -> list[str]:
    """The ids that a list answers."""
    answer = api.client.get(path, params=conditions)
    assert answer.status_code == 200, answer.text
    return [record["id"] for record in answer.json()["data"]]


def test_each_condition_of_jobs(api: Api, jobs: list[str]) -> None:
    """Status, name of model or publication, and words of metadata filter; newest first, and none where none fits."""
    for conditions, numbers in (
        ({"status": "cancelled"}, [1, 0]),
        ({"status": "queued"}, [5, 4, 3, 2]),
        ({"status": "succeeded"}, []),
        ({"name": "alpha"}, [4, 2, 0]),
        ({"name": "digits"}, [5]),
        ({"name": "gamma"}, []),
        ({"metadata[team]": "x"}, [2, 1, 0]),
        ({"metadata[team]": "X"}, []),
        ({"metadata[Team]": "x"}, []),
        ({f"metadata[{AWKWARD}]": "é1"}, [5, 3, 1]),
        ({"metadata[team]": "y", f"metadata[{AWKWARD}]": "é0"}, [4]),
        ({"metadata[team]": "x", "status": "cancelled", "name": "beta"}, [1]),
    ):
        assert found(api, "/v1/jobs", **conditions) == [jobs[number] for number in numbers], conditions


def test_conditions_go_with_pages(api: Api, jobs: list[str]) -> None:
    """Pages of a filtered list continue after any id, and say whether more follow."""
    page = api.client.get("/v1/jobs", params={"metadata[team]": "x", "limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([jobs[2], jobs[1]], True)
    page = api.client.get("/v1/jobs", params={"metadata[team]": "x", "limit": 2, "after": jobs[1]}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([jobs[0]], False)
    assert found(api, "/v1/jobs", **{"metadata[team]": "y", "after": jobs[2]}) == []


def test_times(api: Api, jobs: list[str]) -> None:
    """After and before leave the moment itself out; any zone, a lost plus and dates are understood."""
    third = api.client.get(f"/v1/jobs/{jobs[2]}").json()["created_at"]
    moment = datetime.fromisoformat(third)
    east = moment.astimezone(UTC) + timedelta(hours=2)
    for text in (third, moment.isoformat(), f"{east:%Y-%m-%dT%H:%M:%S.%f}+02:00", f"{moment:%Y-%m-%d %H:%M:%S.%f}"):
        assert found(api, "/v1/jobs", created_after=text) == jobs[:2:-1], text
        assert found(api, "/v1/jobs", created_before=text) == jobs[1::-1], text
    answer = api.client.get(f"/v1/jobs?created_after={east:%Y-%m-%dT%H:%M:%S.%f}+02:00")
    assert len(answer.json()["data"]) == 3, "the plus that was not escaped"
    day = moment.date()
    assert len(found(api, "/v1/jobs", created_after=day.isoformat())) == 6
    assert found(api, "/v1/jobs", created_before=day.isoformat()) == []
    assert found(api, "/v1/jobs", created_after=third, created_before=third) == []


def test_other_lists(api: Api, jobs: list[str]) -> None:
    """Models, datasets, batches and calibrators filter by what they have."""
    (alpha,) = found(api, "/v1/models", name="alpha", status="inspecting")
    assert api.client.get(f"/v1/models/{alpha}").json()["name"] == "alpha"
    assert len(found(api, "/v1/models", created_after="2020-01-01")) == 2
    (rows,) = found(api, "/v1/datasets", name="rows")
    assert found(api, "/v1/datasets", name="rows", status="ready") == []
    batch = api.post("/v1/batches", json={"model": alpha, "dataset_id": rows})
    assert found(api, "/v1/batches", status="queued", name="alpha") == [batch["id"]]
    assert found(api, "/v1/batches", name="beta") == []
    calibrator = api.post("/v1/calibrators?name=c&wait=0", content=b"s")
    assert found(api, "/v1/calibrators", status="running", name="c") == [calibrator["id"]]
    assert found(api, "/v1/calibrators", created_before="2020-01-01") == []


def test_jobs_are_found_by_what_their_model_is_published_as(make_api: MakeApi) -> None:
    """A published name finds the jobs and batches of every model behind it."""
    api = make_api()
    model = publish(api.registry, "live", scaling(1))
    dataset = api.post("/v1/datasets", content=b"d")
    job = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset["id"]})
    batch = api.post("/v1/batches", json={"model": "live", "dataset_id": dataset["id"]})
    assert found(api, "/v1/jobs", name="live") == [job["id"]]
    assert found(api, "/v1/batches", name="live") == [batch["id"]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            {"state": "queued"},
            "created_after, created_before, limit, metadata[KEY], name, status; did you mean 'status'?",
        ),
        ({"metadata": "x"}, "metadata[KEY]"),
        ({"metadata[]": "x"}, "metadata[KEY]"),
        ({"metadata[a]": ["x", "y"]}, "2 times"),
        ({"status": "done"}, "queued, running, cancelling, succeeded, failed, cancelled"),
        ({"status": ""}, "queued"),
        ({"name": ""}, "name"),
        ({"created_after": "yesterday"}, "2026-01-31T12:00:00Z"),
        ({"created_after": "1700000000"}, "such as"),
        *(({"created_before": one}, "such as") for one in ("2026-13-01", "2026-02-30T00:00:00Z", "")),
        *(({"created_before": one}, "such as") for one in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")),
    ],
)
def test_what_is_no_condition(api: Api, query: Json, words: str) -> None:
    """422 names the field, and what there is."""
    answer = problem(api.client.get("/v1/jobs", params=query), 422)
    assert words in answer["detail"]
    assert answer["errors"][0]["field"] == next(iter(query))


def test_only_jobs_have_metadata(api: Api) -> None:
    """Other lists know no such parameter."""
    answer = problem(api.client.get("/v1/models", params={"metadata[team]": "x"}), 422)
    assert "metadata" not in answer["detail"].partition("there are")[2]


def test_deleted_jobs_are_not_found(make_api: MakeApi) -> None:
    """Nothing of a deleted job is left to find."""
    api = make_api()
    jobs = ordered(api)
    assert api.client.delete(f"/v1/jobs/{jobs[0]}").status_code == 204
    assert found(api, "/v1/jobs", **{"metadata[team]": "x"}) == [jobs[2], jobs[1]]
