"""The results of a run, in lines of Markdown with the goals beside them; it measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Json = dict[str, Any]


def lines(results: Json) -> list[str]:
    """The tables of the figures that are there, in the order of the run."""
    return [
        line for name, figure in results.items() if name in _TABLES for line in (f"### {name}", *_TABLES[name](figure))
    ]


def _settings(figure: Json) -> Iterator[str]:
    yield from _head("model", "server", "setting", "requests/s", "")
    for model, servers in figure["per_second"].items():
        for server, rates in servers.items():
            for name, rate in rates.items():
                chosen = "goes on" if name in figure["fastest"][model][server][:2] else ""
                yield _row(model, server, name, _spread(rate) if isinstance(rate, dict) else rate, chosen)


def _rates(figure: Json) -> Iterator[str]:
    best = figure["servers"][figure["best_peer"]]["per_second"]["median"]
    yield from _head("server", "requests/s", f"against {figure['best_peer']}", "p50 ms", "p99 ms")
    for name, row in figure["servers"].items():
        rate, p50, p99 = (row[key] for key in ("per_second", "p50_ms", "p99_ms"))
        yield _row(name, _spread(rate), f"{rate['median'] / best:.2f}", p50["median"], p99["median"])
    yield from _judged({f"{name} / best peer": ratio for name, ratio in figure["ratio"].items()}, figure["goal"])


def _tails(figure: Json) -> Iterator[str]:
    yield from _head("rate", "requests/s", "server", "p50 ms", "p99 ms", "slowest ms", "sent late, p99 ms")
    for key, rate in figure["rates"].items():
        for name, row in rate["servers"].items():
            medians = [row[column]["median"] for column in ("p50_ms", "p99_ms", "slowest_ms", "late_p99_ms")]
            yield _row(key, rate["per_second"], name, *medians)
    for key, rate in figure["rates"].items():
        ratios = {f"p99 of {name} / the lowest of the peers, {key}": ratio for name, ratio in rate["ratio"].items()}
        yield from _judged(ratios, 1.0, most=True)


def _binary(figure: Json) -> Iterator[str]:
    yield from _head("connections", "rows/s", "against ONNX Runtime alone")
    for name, rate in figure["rows_per_second"].items():
        yield _row(name, rate, figure["ratio"].get(name, 1))
    yield from _judged({"4 connections": figure["ratio"]["4"]}, figure["goal"])


def _overhead(figure: Json) -> Iterator[str]:
    yield from _head("model", "request", "requests/s", "overhead")
    models = [name for name in figure if isinstance(figure[name], dict)]
    for model in models:
        for name, row in figure[model]["requests"].items():
            yield _row(model, name, _spread(row["per_second"]), figure[model]["overhead"].get(name, "plain"))
        for name, times in figure[model]["graph_us"].items():
            cost = f"{times['served']} µs for {times['uploaded']}"
            yield _row(model, f"ONNX Runtime alone, served graph for uploaded, {name}", "", cost)
    for model in models:
        overheads = {f"{model}: {name}": overhead for name, overhead in figure[model]["overhead"].items()}
        yield from _judged(overheads, figure["goal"], most=True)


def _levels(figure: Json) -> Iterator[str]:
    yield from _head("connections", "server", "requests/s", "p50 ms", "p99 ms", "errors", "CPU µs a request")
    for level, found in figure["levels"].items():
        for name, row in found["servers"].items():
            cells = ("per_second", "p50_ms", "p99_ms", "errors")
            yield _row(level, name, *(row[cell] for cell in cells), round(1e6 * row["cpu_s_per_request"], 1))


_TABLES: Mapping[str, Callable[[Json], Iterator[str]]] = {
    "peers": _settings,
    "single": _rates,
    "p99": _tails,
    "binary": _binary,
    "floats": _rates,
    "overhead": _overhead,
    "sweep": _levels,
}


def _judged(ratios: Mapping[str, float], goal: float, *, most: bool = False) -> Iterator[str]:
    """Each ratio beside its goal: at least, or `most`."""
    yield ""
    for name, ratio in ratios.items():
        met = ratio <= goal if most else ratio >= goal
        yield f"{name}: {ratio} (goal {'≤' if most else '≥'} {goal}) {'met' if met else 'MISSED'}"


def _head(*cells: str) -> Iterator[str]:
    yield from ("", _row(*cells), "|" + "---|" * len(cells))


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _spread(rate: Json) -> str:
    return f"{rate['median']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})"
