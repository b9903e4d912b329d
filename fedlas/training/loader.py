"""The loader: rows gathered batch by batch on their way to the network, from memory or from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlas.data.arrays import RowReader
from fedlas.data.dataset import Array


def tensor(array: Any) -> Tensor:
    """A tensor that shares memory where it may: torch warns about memory that cannot be written."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device: a copy to an accelerator runs beside its kernels only from pinned memory."""
    if device.type != "cuda" or batch.is_cuda:
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


class Loader:
    """The rows of one array per model input, and of the targets where they are given; all of them, or some.

    Arrays that are mapped from disk are read from their files one batch ahead, while the network computes: a dataset
    larger than memory is fed without being held. Batches for an accelerator leave from pinned memory.

    Args:
        rows: indices (M,) of the only rows that count; row i is then `rows[i]` of the arrays.

    Raises:
        ValueError: there is no array or no row, or the arrays have different lengths.
    """

    def __init__(
        self,
        inputs: Sequence[Array | Tensor],
        device: torch.device,
        *,
        targets: NDArray[np.int64] | Tensor | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._rows = None if rows is None else torch.from_numpy(np.asarray(rows, np.int64))
        arrays = [*inputs, *(() if targets is None else (targets,))]
        self._tensors = [tensor(array) for array in arrays]
        if targets is not None:
            self._tensors[-1] = self._tensors[-1].long()
        self._num_inputs, self._device = len(inputs), device
        self._readers = [RowReader(array) if isinstance(array, np.memmap) else None for array in arrays]
        if not inputs or len(inputs[0]) == 0 or (rows is not None and len(rows) == 0):
            raise ValueError("inputs must hold at least one array and one row")
        if len({len(array) for array in inputs}) > 1:
            raise ValueError(f"inputs must have the same number of rows each, got {[len(array) for array in inputs]}")
        if targets is not None and len(targets) != len(inputs[0]):
            raise ValueError(f"inputs must have {len(targets)} rows each, as targets has, got {len(inputs[0])}")

    def __len__(self) -> int:
        return len(self._tensors[0]) if self._rows is None else len(self._rows)

    @property
    def on_disk(self) -> bool:
        """Whether any of the arrays is mapped."""
        return any(self._readers)

    def batches(self, chosen: Iterable[Tensor | slice]) -> Iterator[list[Tensor]]:
        """For each choice of rows those rows of every input and of the targets, on the device."""
        if not self.on_disk:
            for rows in chosen:
                mine = self._in_arrays(rows)
                yield [to_device(array[mine], self._device) for array in self._tensors]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            ahead: Future[list[Tensor]] | None = None
            for rows in chosen:
                coming = reader.submit(self._gather, rows)
                if ahead is not None:
                    yield self._arrived(ahead)
                ahead = coming
            if ahead is not None:
                yield self._arrived(ahead)

    def _arrived(self, batch: Future[list[Tensor]]) -> list[Tensor]:
        return [to_device(array, self._device) for array in batch.result()]

    def _in_arrays(self, rows: Tensor | slice) -> Tensor | slice:
        return rows if self._rows is None else self._rows[rows]

    def _gather(self, rows: Tensor | slice) -> list[Tensor]:
        rows = self._in_arrays(rows)
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        return [
            array[rows] if reader is None else torch.from_numpy(reader[chosen])
            for array, reader in zip(self._tensors, self._readers, strict=True)
        ]
