"""The queue of one model: requests wait here, and while one batch runs the next one gathers.

A small request goes into the next batch whole; a large one fills what small ones leave of it, so that a single row
waits for the batches that are under way and no longer. A batch is no larger than what takes about `BATCH_SECONDS` on
this machine, and computes at most `_MOST_PROBABILITIES` numbers of each standard output.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from service.inference.batching import InferenceBatch, QueuedRequest, Slice
from service.inference.session import OpenModel
from service.registry.errors import InvalidRequest

#: About how long a batch may take: a row that arrives while one runs, and another is next, waits for these two.
BATCH_SECONDS = 0.025
#: Rows times classes of a batch: 4 MiB of float32, and of 8,000 classes 131 rows.
_MOST_PROBABILITIES = 1 << 20


class ModelQueue:
    """The requests that wait for one model.

    Attributes:
        digest: of the model's file.
        rows: how many rows wait.
        spent: seconds of its batches; of several models the one that has had least is next.
        long_batches: batches under way that take long.
        listed: whether the scheduler has it among the queues with waiting rows.
    """

    def __init__(self, model: OpenModel, *, max_batch_rows: int, digest: str = "", most_bytes: int = 2**62) -> None:
        self.model = model
        self.digest = digest
        self.rows = 0
        self.spent = 0.0
        self.long_batches = 0
        self.listed = False
        self._max_rows = max(1, min(max_batch_rows, _MOST_PROBABILITIES // max(1, model.classes)))
        self._most_bytes = most_bytes
        self._most_short_rows = self._most_rows(1) if model.limits.length == 1 else 0  # the usual case, kept at hand
        # One queue for each shape of row: rows of different lengths cannot be one batch.
        self._queues: OrderedDict[tuple[object, ...], deque[QueuedRequest]] = OrderedDict()

    def add(self, request: QueuedRequest) -> None:
        """Queue a request."""
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
        """The length of the rows whose turn is next."""
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
        """The next batch; None where no request is open."""
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
        """Requests no larger than an equal share of the batch are taken whole; larger ones fill the rest in turn.

        Were the rest divided equally, every large request would be answered at the end of the last of them.
        """
        chosen, large, spare = self._sorted_out(queue)
        passed_over = []
        for request in large:
            count = min(spare, request.left)
            spare -= count
            if count > 0:
                chosen.append((request, count))
            else:
                passed_over.append(request)
        queue.extendleft(reversed(passed_over))  # they are next
        slices, at = [], 0
        for request, count in chosen:
            slices.append(Slice(request, request.taken, count, at, count == request.rows))
            at += count
            request.taken += count
            if request.taken < request.rows:
                queue.append(request)
        self.rows -= at
        return slices

    def _sorted_out(
        self, queue: deque[QueuedRequest]
    ) -> tuple[list[tuple[QueuedRequest, int]], list[QueuedRequest], int]:
        """Take from the queue the requests that fit whole, with their rows; larger ones; and what is free for these."""
        room = self.capacity
        share = max(1, room // len(queue))
        whole, large = [], []
        spare = 0
        for _ in range(len(queue)):
            if room == 0:
                break
            request = queue.popleft()
            if request.future.done():  # its client has gone, or its deadline has passed
                self.rows -= request.left
                continue
            left = request.left
            part = min(share, left)
            room -= part
            if part == left:
                whole.append((request, left))
            else:
                large.append(request)
                spare += part
        return whole, large, spare + room
