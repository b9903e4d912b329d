"""Rows in several requests: none has more than the service takes, and they come back as one, in their order."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import numpy as np
import pandas as pd
import pytest

from fedlas.client import APIConnectionError, APIError, AsyncClient, Client, InvalidInput, InvalidRequestError
from fedlas.client.inputs import MAX_ROWS, parts_of

COUNT = 2 * MAX_ROWS + 5


class Echo:
    """A server that answers each row with itself, whatever form it came in, and notes the requests."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.deadlines: list[str | None] = []
        self.refuses = lambda request: False
        self.model: Callable[[int], str] = lambda request: "mdl_1"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.headers["content-type"] == "application/x-npy":
            rows = np.load(io.BytesIO(request.content))[:, 0].tolist()
        else:
            sent = json.loads(request.content)["inputs"]
            rows = sent["x"] if isinstance(sent, dict) else [row["x"] if isinstance(row, dict) else row for row in sent]
        self.sizes.append(len(rows))
        self.deadlines.append(request.headers.get("x-request-timeout"))
        if self.refuses(len(self.sizes)):
            problem = {"code": "inputs_mismatch", "detail": "row 7 is no number"}
            return httpx.Response(422, json=problem, headers={"content-type": "application/problem+json"})
        model = {"id": self.model(len(self.sizes)), "name": "m", "version": 1, "calibrated": True}
        same = {"confidence": 1.0, "uncalibrated_confidence": 1.0, "abstain": False}
        answers = [same | {"label": str(row), "index": int(row)} for row in rows]
        return httpx.Response(200, json={"model": model, "predictions": answers})


@pytest.fixture
def echo() -> Echo:
    """The server."""
    return Echo()


@pytest.fixture
def client(echo: Echo) -> Iterator[Client]:
    """A client of it."""
    with Client("http://test", http=httpx.Client(transport=httpx.MockTransport(echo))) as opened:
        yield opened


@pytest.mark.parametrize("form", [list, np.array, lambda rows: pd.DataFrame({"x": rows}), lambda rows: {"x": rows}])
def test_many_rows_go_out_in_parts(client: Client, echo: Echo, form: Callable[[Any], Any]) -> None:
    """Lists, arrays, frames and mappings of more than 10,000 rows are three requests and one answer, in order."""
    rows = np.arange(COUNT)
    given = form(rows[:, None]) if form is np.array else form(rows.tolist())
    found = client.predict("m", given)
    assert echo.sizes == [MAX_ROWS, MAX_ROWS, 5]
    assert found.indices.tolist() == rows.tolist()
    assert found.model.id == "mdl_1"


def test_as_many_as_a_request_takes_go_out_in_one(client: Client, echo: Echo) -> None:
    """The limit itself is no reason for a second request."""
    assert len(client.predict("m", np.zeros((MAX_ROWS, 1)))) == MAX_ROWS
    assert echo.sizes == [MAX_ROWS]


def test_the_asynchronous_client_sends_parts_too(echo: Echo) -> None:
    """Awaited, the same three requests are one answer."""

    async def indices() -> list[int]:
        http = httpx.AsyncClient(transport=httpx.MockTransport(echo))
        async with AsyncClient("http://test", http=http) as client:
            return list((await client.predict("m", np.arange(COUNT)[:, None])).indices)

    assert anyio.run(indices) == list(range(COUNT))
    assert echo.sizes == [MAX_ROWS, MAX_ROWS, 5]


def test_an_error_names_its_rows(client: Client, echo: Echo) -> None:
    """A refusal, and rows that cannot be sent, say which part it was; of a single request there is none to name."""
    echo.refuses = lambda request: request == 2
    with pytest.raises(InvalidRequestError, match=r"^rows 10000 to 19999: row 7 is no number$") as caught:
        client.predict("m", np.zeros((COUNT, 1)))
    assert (caught.value.code, caught.value.message) == ("inputs_mismatch", str(caught.value))
    echo.refuses = lambda request: False
    with pytest.raises(InvalidInput, match=r"^rows 20000 to 20004: inputs hold infinity"):
        client.predict("m", [*range(2 * MAX_ROWS), float("inf"), 1, 2, 3, 4])
    with pytest.raises(InvalidInput, match=r"^inputs hold infinity"):
        client.predict("m", [float("inf")])


def test_answers_of_two_models_are_no_answer(client: Client, echo: Echo) -> None:
    """A version that takes over between two requests is told rather than mixed in."""
    echo.model = lambda request: f"mdl_{request}"
    with pytest.raises(APIError, match="mdl_1 and mdl_2 answered; ask again"):
        client.predict("m", np.zeros((COUNT, 1)))


def test_a_deadline_is_for_all_parts(client: Client, echo: Echo) -> None:
    """Each request gives what is left of it; where nothing is left the rest is not sent."""
    client.predict("m", np.zeros((COUNT, 1)), deadline=60)
    assert [float(given or 0) <= 60 for given in echo.deadlines] == [True] * 3
    part = next(parts_of([1], 0.0))
    with pytest.raises(APIConnectionError, match="the deadline passed"):
        part.request({})
