"""Who waits for one model: while one batch runs, what waits gathers into the next; nobody waits for more.

Of a request with ten thousand rows only what small ones leave of a batch is taken, so that a single row waits for the
batches that are under way and no longer. A batch is no larger than what takes about `BATCH_SECONDS` on this machine.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from service.inference.batching import Batch, Slice, Waiting
from service.inference.session import OpenModel

#: About how long a batch may take: who comes while one runs, and another is next, waits for these two.
BATCH_SECONDS = 0.025


class Line:
    """The requests that wait for one model."""

    def __init__(self, model: OpenModel, *, max_batch_rows: int) -> None:
        self.model = model
        self.rows = 0
        self.listed = False  # whether the engine knows that something waits here
        self._max_rows = max_batch_rows
        # One queue for each shape of row: what differs in length cannot be one batch.
        self._queues: OrderedDict[tuple[object, ...], deque[Waiting]] = OrderedDict()

    def add(self, request: Waiting) -> None:
        """Let it wait."""
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = deque()
        queue.append(request)
        self.rows += request.rows

    @property
    def capacity(self) -> int:
        """Rows of the next batch at most."""
        per_row = self.model.per_row
        return max(1, min(self._max_rows, int(BATCH_SECONDS / per_row) if per_row > 0 else self._max_rows))

    @property
    def full(self) -> bool:
        """Whether the next batch would be no larger if it waited."""
        return self.rows >= self.capacity

    def next_cost(self) -> float:
        """About how many seconds the next batch takes."""
        return self.model.cost(min(self.rows, self.capacity))

    def take(self) -> Batch | None:
        """The next batch; None if nobody waits (any more)."""
        while self._queues:
            key, queue = self._queues.popitem(last=False)
            slices = self._slices(queue)
            if queue:
                self._queues[key] = queue  # to the back: other shapes have their turn
            if slices:
                return Batch(self.model, slices)
        return None

    def _slices(self, queue: deque[Waiting]) -> list[Slice]:
        """What is no larger than an equal share of the room comes along whole, and the rest is for larger ones in turn.

        Were the rest divided, too, all who send large requests would be answered at the end of the last of them.
        """
        whole, large, spare = self._sorted_out(queue)
        chosen = [(request, request.left) for request in whole]
        waiting = []
        for request in large:
            count = min(spare, request.left)
            spare -= count
            if count > 0:
                chosen.append((request, count))
            else:
                waiting.append(request)
        queue.extendleft(reversed(waiting))  # they are next
        slices, at = [], 0
        for request, count in chosen:
            slices.append(Slice(request, request.taken, request.taken + count, at))
            at += count
            request.taken += count
            self.rows -= count
            if request.left:
                queue.append(request)
        return slices

    def _sorted_out(self, queue: deque[Waiting]) -> tuple[list[Waiting], list[Waiting], int]:
        """Take requests from the queue: those that come along whole, larger ones, and the rows there are for these."""
        room = self.capacity
        share = max(1, room // len(queue))
        whole, large = [], []
        spare = 0
        for _ in range(len(queue)):
            if room == 0:
                break
            request = queue.popleft()
            if request.future.done():  # the client has gone, or its time is up
                self.rows -= request.left
                continue
            part = min(share, request.left)
            room -= part
            if part == request.left:
                whole.append(request)
            else:
                large.append(request)
                spare += part
        return whole, large, spare + room
