"""Metrics that alerts, dashboard and scalers ask of Prometheus, and those that processes of the service report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers import ROOT

DEPLOY = ROOT / "deploy"
#: Labels that Prometheus adds itself.
_ADDED = {"job", "instance"}
_SELECTOR = re.compile(r"\b((?:fedlas|process|python)_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and the expression: of alerts, panels, scalers, and of the page on metrics."""
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "fedlas.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for file in sorted((DEPLOY / "keda").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            for trigger in document["spec"].get("triggers", []):
                if trigger["type"] == "prometheus":
                    yield file.name, trigger["metadata"]["query"]
    for block in re.findall(r"```promql\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.strip() and not line.startswith("#"):
                yield "metrics.md", line


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that it must have."""
    for name, matchers in _SELECTOR.findall(expression):
        yield name, set(_MATCHED.findall(matchers))


def grouped(expression: str) -> set[str]:
    """The labels that an expression groups by, of whichever of its metrics."""
    return {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}


def told(text: str) -> dict[str, set[str] | None]:
    """The names that a scrape of this text makes series of, each with its labels; None where there is no sample yet."""
    found: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(text):
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found.update(dict.fromkeys(f"{family.name}{ending}" for ending in endings))
        for sample in family.samples:
            found[sample.name] = (found.get(sample.name) or set()) | set(sample.labels)
    return found


def unknown(texts: list[str]) -> list[str]:
    """The metrics that are asked for and reported by none of these."""
    series: dict[str, set[str] | None] = {"up": set()}
    for text in texts:
        for name, labels in told(text).items():
            series[name] = labels if series.get(name) is None else (series[name] or set()) | (labels or set())
    wrong = []
    for place, expression in expressions():
        names = dict(asked(expression))
        wrong += [f"{place}: {name}" for name in names if name not in series]
        known = [series.get(name) for name in names]
        for name, labels in names.items():
            has = series.get(name)
            wrong += [
                f"{place}: {name} has no {label}" for label in labels if has is not None and label not in has | _ADDED
            ]
        if None not in known:
            together = _ADDED.union(*(labels or set() for labels in known))
            wrong += [f"{place}: nothing has {label}" for label in grouped(expression) - together]
    return wrong
