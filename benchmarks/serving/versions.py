"""This code's serving against another checkout of it, in turn on the same machine: has anything become slower?

    git worktree add --detach ../before 387ef3a
    python -m benchmarks.serving.versions --checkout ../before

Both run with keys, metrics and request ids, the other one frozen meanwhile; 16 connections for single rows, 4 for
binary batches; requests per second, medians of the rounds, and this code's over the other's. Needs `apt install wrk`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.serving import load, models, ours
from benchmarks.serving.environments import ROOT
from benchmarks.serving.fleet import Contender, Json, in_turn, round_to, summed_up
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Request

_THIS, _OTHER = "this", "other"
#: Model, connections, and the request for a model's id.
Way = tuple[ServedModel, int, Callable[[str], Request]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="the folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = parser.parse_args()
    load.need_wrk()
    print(json.dumps(compared(args.checkout.absolute(), rounds=args.rounds, seconds=args.seconds), indent=1))


def compared(checkout: Path, *, rounds: int, seconds: float) -> Json:
    """Requests per second of both, and their ratio, for each way to ask."""
    ways = _ways()
    found: Json = {}
    with ExitStack() as stack:
        services = {_THIS: ROOT, _OTHER: checkout}
        running = {name: stack.enter_context(ours.serving(checkout=place)) for name, place in services.items()}
        files = {model.name: model.content for model, _, _ in ways.values()}
        ids = {name: dict(zip(files, one.upload([*files.values()]), strict=True)) for name, one in running.items()}
        for way, (model, connections, request) in ways.items():
            contenders = [Contender(name, one.running, request(ids[name][model.name])) for name, one in running.items()]
            measure = partial(Contender.full, seconds=seconds, connections=connections)
            table = summed_up(in_turn(contenders, measure, rounds=rounds), "per_second", "p99_ms")
            rates = {name: row["per_second"]["median"] for name, row in table.items()}
            found[way] = {**table, "ratio": round_to(rates[_THIS] / rates[_OTHER])}
            print(f"{way}: {found[way]['ratio']}", flush=True)
    return found


def _ways() -> Mapping[str, Way]:
    digits, mnist = models.digits(), models.mnist()
    few = load.CONNECTIONS
    return {
        "predict, 1 x 64, JSON": (digits, few, lambda name: ours.predict(name, digits.rows[:1])),
        "infer, 1 x 64, JSON": (digits, few, lambda name: ours.infer(name, digits.rows[:1])),
        "predict, 1 x 784, JSON": (mnist, few, lambda name: ours.predict(name, mnist.rows[:1])),
        "infer, 1 x 784, JSON": (mnist, few, lambda name: ours.infer(name, mnist.rows[:1])),
        "predict, 256 x 784, JSON": (mnist, 4, lambda name: ours.predict(name, mnist.rows)),
        "infer, 256 x 784, binary": (mnist, 4, lambda name: ours.infer_binary(name, mnist.rows)),
    }


if __name__ == "__main__":
    main()
