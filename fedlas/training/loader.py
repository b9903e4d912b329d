"""Rows on their way to the network: gathered batch by batch, from memory or from disk; it trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlas.data.memmap import RowReader


def tensor(array: Any) -> Tensor:
    """A tensor that shares memory where it may: torch warns about memory that cannot be written."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class Feed:
    """The rows of one array per model input.

    Arrays that are mapped from disk are read from their files one batch ahead, while the network computes: a dataset
    larger than memory is fed without being held.

    Raises:
        ValueError: there is no array or no row, or the arrays have different lengths.
    """

    def __init__(self, arrays: Sequence[NDArray[Any] | Tensor], device: torch.device) -> None:
        self._tensors = [tensor(array) for array in arrays]
        self._device = device
        self._readers = [RowReader(array) if isinstance(array, np.memmap) else None for array in arrays]
        if not self._tensors or len(self._tensors[0]) == 0:
            raise ValueError("inputs must hold at least one array and one row")
        lengths = [len(array) for array in self._tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs must have the same number of rows each, got {lengths}")

    def __len__(self) -> int:
        return len(self._tensors[0])

    @property
    def on_disk(self) -> bool:
        """Whether any of the arrays is mapped."""
        return any(self._readers)

    @property
    def floating(self) -> bool:
        """Whether all inputs are floating-point numbers."""
        return all(array.is_floating_point() for array in self._tensors)

    def batches(self, chosen: Iterable[Tensor | slice]) -> Iterator[tuple[Tensor | slice, list[Tensor]]]:
        """For each choice of rows: the choice, and those rows of every input on the device."""
        if not self.on_disk:
            for rows in chosen:
                yield rows, [array[rows].to(self._device, non_blocking=True) for array in self._tensors]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as reader:
            ahead: tuple[Tensor | slice, Future[list[Tensor]]] | None = None
            for rows in chosen:
                coming = (rows, reader.submit(self._gather, rows))
                if ahead is not None:
                    yield self._arrived(*ahead)
                ahead = coming
            if ahead is not None:
                yield self._arrived(*ahead)

    def _arrived(self, rows: Tensor | slice, batch: Future[list[Tensor]]) -> tuple[Tensor | slice, list[Tensor]]:
        return rows, [array.to(self._device, non_blocking=True) for array in batch.result()]

    def _gather(self, rows: Tensor | slice) -> list[Tensor]:
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        return [
            array[rows] if reader is None else torch.from_numpy(reader[chosen])
            for array, reader in zip(self._tensors, self._readers, strict=True)
        ]
