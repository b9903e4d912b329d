"""Averaging: the log-linear pool of the uploaded model and the refits, with weights of the highest likelihood.

Its members are the uploaded network with a temperature, the same with the pool of calibrators, and the refits with
theirs. Weights are fitted on out-of-fold rows, and members under a tenth of their sum leave. Docs: decision 0035. The
pool is one classifier, an ensemble, whose logits are the sum of what the calibrators of its networks give.

The cost limit: how many uploaded networks an answer of the served one may cost.

It is asked for, or follows from how small the network is: from multiply-adds and bytes, which are counted and not
timed, so that the same job makes the same model on any machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fedlas.calibrators import Calibrator, Identity, LogPool
from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.cost.serving_cost import serving_cost
from fedlas.importers.onnx.train.classifier import GraphClassifier
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.cross_fitting import Trial
from fedlas.race.results import CandidateResult, CrossFitted, Doubles, Finalist, Settings
from fedlas.training.loop import tensor

Formulas = dict[Any, Callable[..., int]]
#: A network is small whose average of three answers a row in less than a millisecond on one thread. ONNX Runtime 1.31,
#: one core of an AMD EPYC, a single row: multilayer perceptron 128-128 0.007 ms (25,000 multiply-adds), convolutional
#: network of Fashion-MNIST 0.04 ms (1.2 million), LSTM 128 over 64 tokens 0.27 ms (8.4 million); not small: resnet18 of
#: 28 x 28 pixels 0.85 ms (34 million), MiniLM over 64 tokens 16 ms (698 million).
SMALL_MULTIPLY_ADDS = 8_500_000
#: The bytes of a row show element-wise work: mobilenet_v3_small of 64 x 64 pixels, which has few
#: multiply-adds, takes 0.29 ms and makes 1.0 MB, a transformer of two layers over 32 tokens 0.29 ms and 1.8 MB.
SMALL_ROW_BYTES = 2_000_000
#: Weights are read once for a single row: 23 MB of a wide perceptron take 0.52 ms, 7.5 MB 0.10 ms.
SMALL_WEIGHT_BYTES = 16_000_000
#: Uploaded networks that an answer of an average may cost where the network is small, and where it is not.
_MAX_FACTOR_OF_SMALL = 3.0
_MAX_FACTOR_OF_LARGE = 1.0
_ROWS = 2


@torch.no_grad()
def count_multiply_adds(function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, int]:
    """Outputs of a network or a part of it on these inputs, and the multiply-adds that it took."""
    with _CountingMode(FlopCounterMode(display=False, custom_mapping=_formulas()).flop_registry) as counter:
        result = function(*inputs)
    return result, counter.operations // 2


class _Counting:
    """Carries out each operation and counts it: as it is where it has a formula, else as those it is made of."""

    # A base beside `TorchDispatchMode`, which wraps this method of its own heirs with the compiler.

    def __init__(self, formulas: Formulas) -> None:
        super().__init__()
        self.operations, self._formulas = 0, formulas

    def __torch_dispatch__(
        self: Any, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            if (formula := self._formulas.get(func.overloadpacket)) is not None:
                self.operations += formula(*args, **kwargs, out_val=result)
        return result


class _CountingMode(_Counting, TorchDispatchMode):
    """Counts the operations of what is computed in its context."""


def _formulas() -> Formulas:
    """Operations of the CPU that the counter of this release does not know, of shapes; a multiply-add counts twice."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    def recurrent(rows: torch.Size, of_input: torch.Size, of_state: torch.Size, *_: object, **__: object) -> int:
        return 2 * math.prod(rows[:2]) * (math.prod(of_input) + math.prod(of_state))

    aten = torch.ops.aten
    return {aten._scaled_dot_product_flash_attention_for_cpu: attention, aten.mkldnn_rnn_layer: recurrent}


def cost_limit(asked: float | Literal["auto"], classifier: GraphClassifier, inputs: Sequence[Array] = ()) -> float:
    """How many uploaded networks an answer may cost: what was asked for, or what the size of the network allows."""
    if asked != "auto":
        return asked
    return _MAX_FACTOR_OF_SMALL if is_small(classifier, inputs) else _MAX_FACTOR_OF_LARGE


def is_small(classifier: GraphClassifier, inputs: Sequence[Array] = ()) -> bool:
    """True where a row costs little enough for an average of three such networks that can be trained."""
    if not classifier.trainable:
        return False
    rows = [array[:_ROWS] for array in inputs or classifier.example_rows(_ROWS)]
    device = next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    training = classifier.training
    try:
        _, counted = count_multiply_adds(classifier.cpu().eval(), *map(tensor, rows))
    finally:
        classifier.to(device).train(training)
    return counted <= SMALL_MULTIPLY_ADDS * len(rows[0]) and _fits(classifier, rows)


def _fits(classifier: GraphClassifier, rows: Sequence[Array]) -> bool:
    lengths = dict(classifier.lengths)
    for spec, array in zip(classifier.inputs, rows, strict=True):
        named = zip(spec.shape[1:], array.shape[1:], strict=True)
        lengths.update({size: n for size, n in named if isinstance(size, str)})
    try:
        cost = serving_cost(classifier.graph(), classifier.inputs, lengths)
    except UnsupportedModel:  # nothing of it can be written, an average least of all
        return False
    return cost.row_bytes <= SMALL_ROW_BYTES and cost.fixed_bytes <= SMALL_WEIGHT_BYTES


class Ensemble(Classifier):
    """`logits` = the sum of the members' weighted log-probabilities; `features` are the first member's.

    Any calibrator may follow. It cannot be trained, and it has a `head` only
    where its members share their body. In a written file `logits` are the first member's, as its features are: what it
    says uncalibrated (`fedlas.export.graph`).

    Attributes:
        members: the networks, two or more, of the same classes, features and inputs; first the uploaded network where
            it is one of them.
    """

    def __init__(
        self, members: Sequence[Classifier], calibrators: Sequence[Calibrator], *, shares_body: bool = False
    ) -> None:
        super().__init__()
        if len(members) < 2 or len(members) != len(calibrators):
            raise ValueError(f"two members or more with a calibrator each, got {len(members)} and {len(calibrators)}")
        self.members = nn.ModuleList(members)
        self.calibrators = tuple(calibrators)
        self.shares_body = shares_body
        self.num_classes, self.feature_dim = members[0].num_classes, members[0].feature_dim
        self.input_names = members[0].input_names

    @property
    def networks(self) -> list[Classifier]:
        return [member for member in self.members if isinstance(member, Classifier)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`; no gradient passes."""
        with torch.no_grad():
            first, *others = self.networks
            logits, features = first(*inputs)
            further = [(one.head(features), features) if self.shares_body else one(*inputs) for one in others]
        return self._pooled([(logits, features), *further]), features

    def head(self, features: Tensor) -> Tensor:
        """The logits (N, K) of members that share their body.

        Raises:
            TypeError: the members have bodies of their own.
        """
        if not self.shares_body:
            raise TypeError("an ensemble of whole networks has no head")
        with torch.no_grad():
            return self._pooled([(member.head(features), features) for member in self.networks])

    def _pooled(self, outputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        rows = [(scores.double().cpu().numpy(), seen.double().cpu().numpy()) for scores, seen in outputs]
        logits = np.sum([c(*row) for c, row in zip(self.calibrators, rows, strict=True)], axis=0)
        return torch.from_numpy(logits).float().to(outputs[0][0].device)

    def head_parameters(self) -> list[nn.Parameter]:
        return []


def worth_a_refit(
    post_hoc: Doubles, own: Sequence[CrossFitted], trials: Sequence[Trial], selector: CalibratorSelector, *, mixed: bool
) -> list[Trial]:
    """The trials whose refits would be served: those in the average, or the best alone; none if neither is better.

    Args:
        post_hoc: logits (N, K) of the calibrated upload, out of fold; so are all that it is compared with.
        trials: the lowest NLL first.
        mixed: whether an average may be served.
    """
    best = [trial for trial in trials[:1] if selector.nll(trial.calibrated.held_out) < selector.nll(post_hoc)]
    if not mixed or not trials:
        return best
    weights, held_out = selector.log_mixed(
        [*(one.held_out for one in own), *(one.calibrated.held_out for one in trials)]
    )
    if selector.nll(held_out) >= selector.nll(best[0].calibrated.held_out if best else post_hoc):
        return best
    return [trial for trial, weight in zip(trials, weights[len(own) :], strict=True) if weight]


def average(
    uploaded: Finalist,
    own: Sequence[CrossFitted],
    refits: Sequence[Finalist],
    selector: CalibratorSelector,
) -> Finalist | None:
    """The pool as one network, scored like every candidate; None where it comes down to one network."""
    began = time.perf_counter()
    weights, held_out = selector.log_mixed([*(one.held_out for one in own), *(one.held_out for one in refits)])
    mine, theirs = weights[: len(own)], weights[len(own) :]
    chosen: list[tuple[Finalist, LogPool]] = []
    if mine.any():
        kept = [one.calibrator for one, weight in zip(own, mine, strict=True) if weight > 0]
        chosen.append((uploaded, LogPool(kept, mine[mine > 0])))
    chosen += [
        (one, LogPool([one.calibrator], [weight])) for one, weight in zip(refits, theirs, strict=True) if weight > 0
    ]
    if len(chosen) < 2:
        return None
    networks = [one.classifier for one, _ in chosen]
    shares_body = all(one.result.scope == "head" for one in refits)
    scopes = [one.result.scope for one, _ in chosen]
    whole = scopes.count("all") + any(scope != "all" for scope in scopes)  # the upload's body serves every head, too
    network = Ensemble(networks, [pool for _, pool in chosen], shares_body=shares_body).to("cpu").eval()
    settings: Settings = {
        "members": [one.result.name for one, _ in chosen],
        "weights": [round(float(pool.weights.sum()), 4) for _, pool in chosen],
    }
    scope, seconds = "head" if shares_body else "all", time.perf_counter() - began
    result = CandidateResult(f"average of {len(chosen)} networks", "average", settings, scope, "finished", "", seconds)
    result = selector.scored(result, CrossFitted(Identity(), held_out))
    return Finalist(network, Identity(), result, held_out, chosen[0][0].features, whole)
