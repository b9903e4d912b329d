"""`python -m benchmarks.weight`: what is the heaviest request of allowed size, for every route and format?

Starts `fedlas serve` of this checkout (or of another, `--checkout`) on loopback in a temporary folder with its memory
limited, sends it a few models, searches every family of requests, and repeats the worst of each on a fresh API.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.api_process import allow_many_files
from benchmarks.weight.cost import STANDSTILL_S, Cost
from benchmarks.weight.families import FAMILIES, Family
from benchmarks.weight.pulse import Pulse
from benchmarks.weight.report import Finding, shortened, table, write
from benchmarks.weight.requests import Attack, Shot, request
from benchmarks.weight.search import Budget, Measure, Search, Trial
from benchmarks.weight.service import serving
from benchmarks.weight.space import Point, smallest
from benchmarks.weight.trial import Range
from benchmarks.weight.world import World

_ROOT = Path(__file__).parents[2]
#: Seconds of a whole run once all models are inspected, of which a part goes to repeating the worst.
_WHOLE_S, _SHORT_S = 840.0, 80.0
_REPEATED = 0.3
#: Trials that show how long the machine itself stands still.
_HARMLESS = 30
#: How long an answer is waited for: in the search, in a short one, and where the worst are repeated.
_SEARCHED_S, _SHORTLY_S, _REPEATED_S = 20.0, 8.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    options = _parser().parse_args(arguments)
    names = [name for name in FAMILIES if not options.family or any(part in name for part in options.family)]
    if not names:
        print(f"no such family; there are {', '.join(FAMILIES)}")
        return 1
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: exit(143))  # so that everything that was started is ended
    checkout = options.checkout.resolve()
    with (
        tempfile.TemporaryDirectory(prefix="fedlas-weight-") as folder,
        serving(checkout, Path(folder), options.memory_gib << 30) as service,
        Pulse(service.port) as pulse,
    ):
        world = World.made(service)
        print("models:", ", ".join(f"{model}: {verdict}" for model, verdict in world.verdicts.items()), flush=True)
        service.freeze_worker()
        place = Range(service, world, pulse, patience=_SHORTLY_S if options.short else _SEARCHED_S)
        place.fresh()
        for connections in (1, 64):
            harmless = Attack([Shot(request("GET", "/healthz"), connections)])
            quiet = sorted(place.measure(harmless).standstill for _ in range(_HARMLESS))
            print(f"{connections} harmless: standstill {median(quiet):.2f} s, at most {quiet[-1]:.2f} s", flush=True)
        findings = _run(place, [FAMILIES[name] for name in names], options)
    print(f"\n{table(findings)}\n")
    for found in findings:
        print(f"{found.family}: {', '.join(found.cost.misses) or 'within the goals'}\n  {found.request}")
    if options.json:
        write(options.json, findings, checkout=str(checkout), seed=options.seed, models=dict(world.verdicts))
    return 0


def _run(place: Range, families: Sequence[Family], options: argparse.Namespace) -> list[Finding]:
    """Search all families within the time there is, then repeat the worst; returns these, the worst first."""
    whole = options.seconds or (_SHORT_S if options.short else _WHOLE_S)
    searched_until = time.monotonic() + (1 - _REPEATED) * whole
    end = searched_until + _REPEATED * whole
    found: list[tuple[Family, Trial, int]] = []
    for number, family in enumerate(families):
        if time.monotonic() > searched_until:
            print("no time left for", ", ".join(family.name for family in families[number:]), flush=True)
            break
        share = (searched_until - time.monotonic()) / (len(families) - number)
        arms = 6 if options.short else 12
        budget = Budget(max(1.0, share), trials=options.trials, arms=arms, enough=options.enough)
        search = Search(family.space, _measure(place, family), budget, random.Random(f"{options.seed} {family.name}"))
        trials = search.run()
        if trials:
            found.append((family, trials[0], len(trials)))
            _tell(family, trials)
    found.sort(key=lambda item: -item[1].cost.score)
    findings: list[Finding] = []
    place.patience = _SEARCHED_S if options.short else _REPEATED_S
    for family, trial, count in found[: options.worst]:
        if findings and time.monotonic() > end:
            break
        findings.append(_confirmed(place, family, trial, count))
    return sorted(findings, key=lambda finding: -finding.cost.score)


def _measure(place: Range, family: Family) -> Measure:
    def measured(point: Point) -> Cost:
        attack = family.attack(place.world, point)
        cost = place.measure(attack)
        if cost.end or cost.standstill <= STANDSTILL_S:
            return cost
        return min(cost, place.measure(attack), key=lambda each: each.score)  # others use the machine, too

    return measured


def _confirmed(place: Range, family: Family, trial: Trial, trials: int) -> Finding:
    """Twice, each on a fresh API: what others do on the machine seldom strikes twice.

    Its smallest sibling comes first, so that what is loaded once is not called kept.
    """
    attack, sibling = family.attack(place.world, trial.point), smallest(family.space, trial.point)
    costs: list[Cost] = []
    for _ in range(2):
        place.fresh()
        if sibling != trial.point:
            place.measure(family.attack(place.world, sibling))
        costs.append(place.measure(attack, careful=True))
        if not costs[-1].misses or costs[-1].end:
            break
    least = min(costs, key=lambda cost: cost.score)
    return Finding(family.name, trial.point, shortened(str(attack)), least, trials)


def _tell(family: Family, trials: Sequence[Trial]) -> None:
    cost = trials[0].cost
    misses = ", ".join(cost.misses) or f"within the goals (status {cost.status})"
    print(f"{family.name}: {len(trials)} trials, worst {cost.score:.2f}: {trials[0].point}: {misses}", flush=True)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.weight", description=__doc__)
    made.add_argument("--checkout", type=Path, default=_ROOT, help="start the service of this tree")
    made.add_argument("--family", nargs="+", help="only families whose name holds one of these")
    made.add_argument("--short", action="store_true", help="two minutes instead of fifteen")
    made.add_argument("--seconds", type=float, help="of the whole run, instead of either; set-up comes before")
    made.add_argument("--trials", type=int, default=400, help="of one family, at most")
    made.add_argument(
        "--enough", type=float, default=20.0, help="a score that ends a family's search; 1 is a goal reached"
    )
    made.add_argument("--worst", type=int, default=10, help="how many are repeated and reported")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--memory-gib", type=int, default=4, help="limit of private memory of each process (RLIMIT_DATA)")
    made.add_argument("--json", type=Path, help="also write what was found here")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
