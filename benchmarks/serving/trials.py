"""How much is measured, and which settings stand for the peers: all are tried, the two fastest go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.serving import models, peers
from benchmarks.serving.fleet import Contender, Json, in_turn, spread
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Failed
from benchmarks.serving.peers import CANDIDATES, Setting

_GO_ON = 2


@dataclass(frozen=True)
class Plan:
    """The measurement: rounds of so many seconds for each server, and settings by model and peer, the fastest first."""

    rounds: int
    seconds: float
    settings: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def best(self, model: ServedModel, peer: str) -> list[Setting]:
        """The peer's two fastest settings, since luck decides between two; unmeasured, its first two candidates."""
        known = {setting.name: setting for setting in CANDIDATES[peer]}
        names = [name for name in self.settings.get(model.name, {}).get(peer, ()) if name in known] or list(known)
        return [known[name] for name in names[:_GO_ON]]


def tried(plan: Plan) -> Json:
    """Requests per second of every setting of every peer on both models, in turn; settings that fail are out."""
    found: Json = {}
    fastest: dict[str, dict[str, list[str]]] = {}
    for model in (models.digits(), models.mnist()):
        found[model.name], fastest[model.name] = {}, {}
        for peer in CANDIDATES:
            rates = _raced(peer, model, plan)
            numbers = {name: rate["median"] for name, rate in rates.items() if isinstance(rate, dict)}
            if not numbers:
                raise Failed(f"no setting of {peer} works: {rates}")
            found[model.name][peer] = rates
            fastest[model.name][peer] = sorted(numbers, key=numbers.__getitem__, reverse=True)
            print(f"  {model.name}: {peer} with {fastest[model.name][peer][0]}", flush=True)
    return {"per_second": found, "fastest": fastest}


def _raced(peer: str, model: ServedModel, plan: Plan) -> dict[str, Json | str]:
    """By the setting's name: the spread of its rounds, or why it is out."""
    row, out = model.rows[:1], dict[str, str]()

    def answered(contender: Contender) -> Json:
        try:
            contender.full(1)
            return contender.full(plan.seconds)
        except Failed as error:
            out[contender.name] = str(error)
            return {}

    with ExitStack() as stack:
        contenders = []
        for setting in CANDIDATES[peer]:
            try:
                server = stack.enter_context(peers.serving(setting, model))
            except Failed as error:
                out[setting.name] = str(error)
                continue
            contender = Contender(setting.name, server.running, server.request(row))
            contenders.append(contender.checked(model.probabilities(row)))
            server.running.freeze()
        runs = in_turn(contenders, answered, rounds=plan.rounds, warm_up_s=0)
    rates: dict[str, Json | str] = {name: spread(its, "per_second") for name, its in runs.items() if name not in out}
    return rates | {name: f"out: {reason[-300:]}" for name, reason in out.items()}
