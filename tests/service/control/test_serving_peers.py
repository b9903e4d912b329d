"""Messages between control and the processes that answer predictions, over real processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.registry.tables import new_id
from tests.helpers.collector import Collector
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling
from tests.helpers.walled import WalledApi, walled

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector of traces."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[WalledApi]:
    """Two serving processes; tests publish names of their own."""
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    traced |= {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "walled"}
    with walled(tmp_path_factory.mktemp("walled") / "data", api_processes=2, environment=traced) as running:
        yield running


def asked(api: WalledApi, name: str) -> httpx.Response:
    """A prediction over a connection of its own, which the processes answer in turn."""
    return httpx.post(f"{api.client.base_url}/v1/models/{name}/predict", json={"inputs": [[1.0, 0.0]]}, timeout=60)


def answering(api: WalledApi, name: str) -> str:
    """The id of the model that answers."""
    answer = asked(api, name)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["id"])


def scraped(api: WalledApi) -> dict[tuple[str, str, str], float]:
    """Name, model or process, and outcome of all samples."""
    return {
        (sample.name, sample.labels.get("model", sample.labels.get("pid", "")), sample.labels.get("outcome", "")): (
            sample.value
        )
        for family in parse_text(api.client.get("/metrics").text)
        for sample in family.samples
    }


def test_a_change_holds_for_every_process_once_its_call_has_returned(api: WalledApi) -> None:
    """Switches, `/v2`'s readiness, deletion and unloading, as in one process: the next request of any sees them."""
    models = [publish(api.registry, "digits", scaling(factor)) for factor in (1, 2)]
    for version in (1, 2, 1):
        assert api.client.patch("/v1/names/digits", json={"default_version": version}).status_code == 200
        assert {answering(api, "digits") for _ in range(4)} == {models[version - 1]}
    assert api.client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    open_now = scraped(api)[("fedlas_sessions_open", "", "")]
    assert api.client.post("/v2/repository/models/digits/unload").status_code == 200
    assert {asked(api, "digits").status_code for _ in range(4)} == {409}
    until(lambda: scraped(api)[("fedlas_sessions_open", "", "")] <= open_now - 2, what="both have closed it")
    assert api.client.post("/v2/repository/models/digits/load").status_code == 200
    assert {answering(api, "digits") for _ in range(4)} == {models[0]}
    assert api.client.get("/v2/models/digits/config").json()["instance_group"][0]["kind"] in ("KIND_CPU", "KIND_GPU")
    assert scraped(api)[("fedlas_predict_processes", "", "")] == 2


def test_a_deleted_model_leaves_no_file_to_read(api: WalledApi) -> None:
    """A deleted model answers nobody, and its served copy is gone."""
    model = publish(api.registry, "gone", scaling(3))
    assert {answering(api, model) for _ in range(4)} == {model}
    copy = api.settings.data_dir / "run" / "served" / "models" / model
    assert copy.exists()
    assert api.client.delete("/v1/names/gone").status_code == 204
    assert api.client.delete(f"/v1/models/{model}").status_code == 204
    assert {asked(api, model).status_code for _ in range(4)} == {404}
    assert not copy.exists()


@pytest.mark.slow
def test_counts_are_exact_and_never_fall(api: WalledApi) -> None:
    """A scrape and the statistics count what was answered before them, of processes that have ended as well."""
    publish(api.registry, "counted", scaling(1))
    sums, asked_for = [0.0], 0
    for victim in (None, "serving-1", "control", "serving-2"):
        for _ in range(6):
            answering(api, "counted")
            asked_for += 1
        sums.append(scraped(api)[("fedlas_requests_total", "counted", "ok")])
        stats = api.client.get("/v2/models/counted/stats").json()["model_stats"][0]
        assert sums[-1] == stats["inference_stats"]["success"]["count"] == asked_for
        if victim is not None:
            api.follows(victim, api.kill(victim, signal.SIGKILL))
            api.until_ready()
    sums.append(scraped(api)[("fedlas_requests_total", "counted", "ok")])
    assert all(before <= after for before, after in pairwise(sums)), sums
    assert sums[-1] == asked_for
    shown = {who for name, who, _ in scraped(api) if name == "process_resident_memory_bytes"}
    assert shown == {str(api.pid(name)) for name in ("acceptor", "control", "serving-1", "serving-2")}


def test_readiness_is_that_of_serving(api: WalledApi) -> None:
    """Without a process that answers predictions nothing is ready, and the checks name it."""
    pids = {name: api.pid(name) for name in ("serving-1", "serving-2")}
    for name in pids:
        api.kill(name, signal.SIGSTOP)
    publish(api.registry, "waited", scaling(1))
    for name, pid in pids.items():
        api.kill(name, signal.SIGKILL)
        api.follows(name, pid)
    until(lambda: api.client.get("/readyz").json()["checks"]["serving"] == "ok", what="serving is well")
    assert api.client.get("/v2/models/waited/ready").status_code == 200
    assert answering(api, "waited")


def test_a_page_is_answered_as_any_client(api: WalledApi) -> None:
    """The form of "try it" shows what a serving process answers, which counts it."""
    publish(api.registry, "tried", scaling(1))
    ours = {"origin": str(api.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    page = api.client.post("/models/tried/try", data={"rows": "2,0"}, headers=ours)
    assert page.status_code == 200, page.text
    assert "88.1" in page.text
    assert scraped(api)[("fedlas_requests_total", "tried", "ok")] == 1


def test_one_path_is_the_same_for_every_process(api: WalledApi) -> None:
    """However it is written a prediction is answered, and what is no `POST` is refused, over any connection."""
    publish(api.registry, "written", scaling(1))
    body = {"inputs": [[1.0, 0.0]]}
    base = str(api.client.base_url).rstrip("/")
    with httpx.Client(base_url=base, timeout=60) as kept:
        for path in ("/v1/models/written/predict", "/v1/models/wri%74ten/%70redict"):
            assert kept.post(path, json=body).status_code == 200
            for method, status in (("GET", 405), ("DELETE", 405), ("OPTIONS", 204)):
                for answer in (kept.request(method, path), httpx.request(method, base + path, timeout=60)):
                    assert (answer.status_code, answer.headers["allow"]) == (status, "POST")
        assert kept.get("/v1/models").status_code == 200


@pytest.mark.slow
def test_without_control_predictions_go_on(api: WalledApi) -> None:
    """While control stands still what lies in the folder answers; of an unknown id nothing can be said."""
    lonely = publish(api.registry, "lonely", scaling(1))
    nobody = new_id("mdl")
    assert answering(api, "lonely") == lonely
    api.kill("control", signal.SIGSTOP)
    try:
        assert {answering(api, "lonely") for _ in range(4)} == {lonely}
        refused = asked(api, nobody)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"]
    finally:
        with suppress(ProcessLookupError):  # what has stood still for five seconds is ended and followed
            api.kill("control", signal.SIGCONT)
    until(lambda: asked(api, nobody).status_code == 404, what="it is known that there is none")


def test_spans_reach_the_collector(api: WalledApi, collector: Collector) -> None:
    """Control sends on what serving processes trace, sampled and named as OpenTelemetry's variables say."""
    publish(api.registry, "traced", scaling(1))
    answering(api, "traced")
    assert not collector.received
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    answer = api.client.post("/v1/models/traced/predict", json={"inputs": [[1.0, 0.0]]}, headers=headers)
    assert answer.status_code == 200, answer.text
    until(lambda: {"predict", "batch"} <= collector.spans().keys(), what="the spans have come")
    assert {span.trace_id.hex() for span in collector.spans().values()} == {TRACE}
    resource = collector.received[0].resource_spans[0].resource.attributes
    assert ("service.name", "walled") in {(item.key, item.value.string_value) for item in resource}


@pytest.mark.parametrize("name", ["nobody", "x" * 4000, "%E2%82%AC%22" * 300])
def test_what_no_model_is_called_is_unknown(api: WalledApi, name: str) -> None:
    """However long or odd: the question is asked and answered, as in one process."""
    answer = asked(api, name)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
