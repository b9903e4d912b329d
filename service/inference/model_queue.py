"""Who waits for one model: while one batch runs, what waits gathers into the next; nobody waits for more.

Of a request with ten thousand rows only what small ones leave of a batch is taken, so that a single row waits for the
batches that are under way and no longer. A batch is no larger than what takes about `BATCH_SECONDS` on this machine.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from service.inference.batching import InferenceBatch, QueuedRequest, Slice
from service.inference.session import OpenModel
from service.registry.errors import InvalidRequest

#: About how long a batch may take: who comes while one runs, and another is next, waits for these two.
BATCH_SECONDS = 0.025


class ModelQueue:
    """The requests that wait for one model."""

    def __init__(self, model: OpenModel, *, max_batch_rows: int, digest: str = "", most_bytes: int = 2**62) -> None:
        self.model = model
        self.digest = digest
        self.rows = 0
        self.spent = 0.0  # seconds of its batches: of several models the one that has had least is next
        self.heavy = 0  # batches under way that take long
        self.listed = False  # whether the engine knows that something waits here
        self._max_rows = max_batch_rows
        self._most_bytes = most_bytes
        self._most_short_rows = self._most_rows(1) if model.limits.length == 1 else 0  # the usual case, kept at hand
        # One queue for each shape of row: what differs in length cannot be one batch.
        self._queues: OrderedDict[tuple[object, ...], deque[QueuedRequest]] = OrderedDict()

    def add(self, request: QueuedRequest) -> None:
        """Let it wait."""
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = deque()
        queue.append(request)
        self.rows += request.rows

    def check(self, request: QueuedRequest) -> None:
        """Raises InvalidRequest `inputs_too_long` for rows much longer than any that inspection has tried."""
        if self._most_rows(request.length) < 1:
            longest = self.model.limits.longest()
            message = f"the rows are {request.length} long; this model was tried on rows that allow {longest} at most"
            raise InvalidRequest("inputs_too_long", message, field="inputs")

    @property
    def capacity(self) -> int:
        """Rows of the next batch at most."""
        length = self._next_length()
        if length == 1:
            seconds, most = self.model.per_row, self._most_short_rows or self._most_rows(1)
        else:
            seconds, most = self.model.per_row * self.model.limits.weight(length), self._most_rows(length)
        return max(1, min(most, int(BATCH_SECONDS / seconds) if seconds > 0 else most))

    def _most_rows(self, length: int) -> int:
        return min(self._max_rows, self.model.limits.most_rows(length, most_bytes=self._most_bytes))

    def _next_length(self) -> int:
        """How long the rows are whose turn is next."""
        for queue in self._queues.values():
            return queue[0].length
        return 1

    @property
    def full(self) -> bool:
        """Whether the next batch would be no larger if it waited."""
        return self.rows >= self.capacity

    def next_cost(self) -> float:
        """About how many seconds the next batch takes."""
        return self.model.cost(min(self.rows, self.capacity), self._next_length())

    def quick(self, seconds: float) -> bool:
        """Whether the next batch surely takes no more than these seconds."""
        return self.model.quick(min(self.rows, self.capacity), self._next_length(), seconds)

    def take(self) -> InferenceBatch | None:
        """The next batch; None if nobody waits (any more)."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            slices = self._slices(queue)
            del self._queues[key]
            if queue:
                self._queues[key] = queue  # to the back: other shapes have their turn
            if slices:
                return InferenceBatch(self.model, slices)
        return None

    def _slices(self, queue: deque[QueuedRequest]) -> list[Slice]:
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

    def _sorted_out(self, queue: deque[QueuedRequest]) -> tuple[list[QueuedRequest], list[QueuedRequest], int]:
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
