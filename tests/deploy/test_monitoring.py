"""Alerts, dashboard and scalers: Prometheus' own checks accept them, and they ask for metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from service.registry.settings import WorkerSettings
from tests.helpers import Json
from tests.helpers.monitoring import DEPLOY, ROOT, expressions
from tests.helpers.programs import PROMTOOL


@pytest.mark.parametrize(
    "arguments",
    [
        "check rules alerts.yml",
        "test rules alerts_test.yml",
        "check config --syntax-only prometheus.yml",  # the key is there only in the container
    ],
)
def test_promtool_accepts_the_files(arguments: str) -> None:
    """Rules and configuration are valid, and every alert fires when it should and not before, by its unit tests."""
    done = subprocess.run(
        [PROMTOOL.needed(), *arguments.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    """Each has a severity, a summary, a heading of its own in the operator's page, and a case in which it fires."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    page = (ROOT / "docs" / "operations" / "alerts.md").read_text()
    headings = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    for name, rule in rules.items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/operations/alerts.md#{name.lower()}"
    assert {name.lower() for name in rules} <= headings
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text()
    assert [name for name in rules if name not in tested] == []


def test_the_scrape_configuration_is_that_of_compose() -> None:
    """Prometheus looks for the services of the Compose file, at the ports that they listen on."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {name: found["port"] for job in scraped for found in job["dns_sd_configs"] for name in found["names"]}
    workers = [name for name, service in compose.items() if "worker.app" in service.get("command", [])]
    assert targets == {"api": 8000, **dict.fromkeys(workers, 9808)}
    for name in workers:
        variables = compose[name]["environment"]
        port, host = variables["FEDLAS_WORKER_METRICS_PORT"], variables["FEDLAS_WORKER_METRICS_HOST"]
        assert WorkerSettings(worker_metrics_port=port, worker_metrics_host=host).worker_metrics_port == targets[name]
    assert {job["job_name"] for job in scraped} == {"fedlas-api", "fedlas-worker"}


def test_the_dashboard_is_one() -> None:
    """Every panel has a title, a place of its own, a unit and a sentence; nothing is asked of an unnamed source."""
    dashboard: Json = json.loads((DEPLOY / "grafana" / "fedlas.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    squares = [
        (x, y)
        for panel in dashboard["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_scalers_count_what_is_held() -> None:
    """A scaler that counted only what waits would end workers as soon as they have begun."""
    for file in (DEPLOY / "keda").glob("*.yaml"):
        scaled, *_ = yaml.safe_load_all(file.read_text())
        assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
        (trigger,) = scaled["spec"]["triggers"]
        assert trigger["type"] in ("prometheus", "postgresql")
        query = trigger["metadata"]["query"]
        assert "claimed" in query
        assert "due" in query or "not_before" in query


def test_the_expressions_are_found() -> None:
    """Alerts, panels, scalers and documents: what is compared with the processes is not nothing."""
    assert len(list(expressions())) > 50
