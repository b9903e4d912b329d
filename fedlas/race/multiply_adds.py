"""Multiply-adds: how many a network takes for its inputs, counted while it computes, by PyTorch's formulas.

PyTorch's own counter would load its compiler, a second of computing, which no counting needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Formulas = dict[Any, Callable[..., int]]


@torch.no_grad()
def count_multiply_adds(function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, int]:
    """What a network or a part of it says on these inputs, and the multiply-adds that it took."""
    with _CountingMode(FlopCounterMode(display=False, custom_mapping=_formulas()).flop_registry) as counter:
        result = function(*inputs)
    return result, counter.operations // 2


class _Counting:
    """Carries out each operation and counts it: as it is where it has a formula, else as those it is made of.

    A base beside `TorchDispatchMode`, which wraps this method of its own heirs with the compiler.
    """

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
