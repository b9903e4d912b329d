"""Keywords of the client: a misspelt one is a sentence that names the nearest, before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from fedlas.client import AsyncClient, Client, InvalidInput
from fedlas.client.options import job_body


def refuses_all(request: httpx.Request) -> httpx.Response:
    """Nothing may be sent."""
    raise AssertionError(f"{request.method} {request.url} was sent")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client whose requests fail the test."""
    with Client("http://test", http=httpx.Client(transport=httpx.MockTransport(refuses_all))) as opened:
        yield opened


def methods() -> list[str]:
    """All public methods of the client and of its resources, by their paths."""
    client = Client("http://test")
    owners = {f"{name}.": part for name, part in vars(client).items() if not name.startswith("_")}
    owners |= {"": client, "jobs.deliveries.": client.jobs.deliveries}
    found = [f"{owner}{name}" for owner, one in owners.items() for name, _ in inspect.getmembers(one, inspect.ismethod)]
    return [path for path in found if not path.rpartition(".")[2].startswith("_") and path != "with_raw_response"]


def found(client: Client, path: str) -> Callable[..., Any]:
    """The method of this path."""
    one: Any = client
    for name in path.split("."):
        one = getattr(one, name)
    return one  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", methods())
def test_a_misspelt_keyword_is_a_sentence(client: Client, path: str) -> None:
    """Every method has a TypeError of one line with the keyword in it, and sends no request."""
    method = found(client, path)
    parameters = inspect.signature(method).parameters.values()
    needed = ["x" for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    with pytest.raises(TypeError, match="'mispelt'") as caught:
        method(*needed, mispelt=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "given", "sentence"),
    [
        ("calibrate", {"publish_ass": "m"}, r"calibrate\(\) has no option 'publish_ass'; did you mean 'publish_as'\?"),
        ("calibrate", {"wiat": False}, "did you mean 'wait'"),
        ("calibrate", {"seen_by_modle": "no"}, "did you mean 'seen_by_model'"),
        ("calibrate", {"model_options": {"clas_names": ["a"]}}, "no option 'clas_names'; did you mean 'class_names'"),
        ("calibrate", {"dataset_options": {"rolls": {}}}, "no option 'rolls'; did you mean 'roles'"),
        ("predict", {"topk": 3}, "did you mean 'top_k'"),
        ("predict", {"timeout": 3}, r"predict\(\) has no option 'timeout'; there are abstain_below, class_priors"),
        ("jobs.plan", {"mehtod": "auto"}, "did you mean 'method'"),
        ("batches.create", {"eror": "fail"}, "did you mean 'errors'"),
    ],
)
def test_the_nearest_keyword_is_named(client: Client, path: str, given: dict[str, Any], sentence: str) -> None:
    """Options in objects are looked at too; where none is near, all are listed."""
    with pytest.raises(TypeError, match=sentence):
        found(client, path)("a.onnx", "b.npz", **given)


def test_the_share_of_a_promise_is_named_with_its_place(client: Client) -> None:
    """`max_error` is a part of `promise`, and its refusal says how to write it."""
    with pytest.raises(TypeError, match=r"no option 'max_error'; say promise=\{'max_error': 0\.1\}"):
        client.calibrators.create("scores.csv", max_error=0.1)  # type: ignore[call-arg]


def test_code_that_awaits_is_told_as_well() -> None:
    """`AsyncClient.predict` looks at its options first."""

    async def misspelt() -> None:
        async with AsyncClient("http://test") as client:
            await client.predict("m", [[1.0]], covrage=0.9)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="did you mean 'coverage'"):
        anyio.run(misspelt)


@pytest.mark.parametrize("budget", [2, "2", "2m", "120s", timedelta(minutes=2), {"minutes": 2}])
def test_a_budget_has_many_forms(budget: Any) -> None:
    """Minutes, a time, a `timedelta`, or the object of the contract are one body."""
    assert job_body({"budget": budget}) == {"budget": {"minutes": 2.0}}


@pytest.mark.parametrize("budget", ["soon", "", 0, -1, float("nan"), True, "2d", timedelta(0)])
def test_what_is_no_budget_is_said_before_anything_is_sent(client: Client, budget: Any) -> None:
    """The error has the field, and what it may be."""
    with pytest.raises(InvalidInput, match=r"^budget is .*; expected minutes above 0, or a time such as") as caught:
        client.calibrate("a.onnx", "b.npz", budget=budget)
    assert (caught.value.code, caught.value.field) == ("bad_budget", "budget")


def test_options_of_files_do_not_go_with_stored_records(client: Client) -> None:
    """A stored model has its class names already, and a stored dataset what the model has seen."""
    with pytest.raises(InvalidInput, match="mdl_1 is stored with its own class_names"):
        client.calibrate("mdl_1", "ds_1", class_names=["a", "b"])
    with pytest.raises(InvalidInput, match="ds_1 is stored with its own seen_by_model"):
        client.calibrate("mdl_1", "ds_1", seen_by_model="no")


def test_no_public_method_has_more_than_eight_parameters(client: Client) -> None:
    """Whoever reads a signature sees all of it."""
    for path in methods():
        parameters = inspect.signature(found(client, path)).parameters
        assert len(parameters) <= 7, path  # `self` is the eighth
