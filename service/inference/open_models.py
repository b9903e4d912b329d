"""Open models: a session over each stored file in use, up to a limit of bytes, with the queue of its requests."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from service.inference.model_queue import ModelQueue
from service.inference.quarantine import Quarantine
from service.inference.run_limits import RunLimits
from service.inference.session import OpenModel
from service.ipc.run_marks import RunMark, RunMarks
from service.registry.errors import RegistryError, Unavailable

_LOG = logging.getLogger(__name__)


class Files(Protocol):
    """Where the files of models lie."""

    def held(self, digest: str) -> AbstractContextManager[Path]:
        """The path of a file, which stays there within the block; raises NotFound, Unavailable."""


class Queues(Protocol):
    """Makes the queue of a model that was opened."""

    def __call__(self, model: OpenModel, *, digest: str) -> ModelQueue:
        """An empty one."""


class OpenModels:
    """The queues of open models by the digests of their files; on the event loop.

    Args:
        cache_bytes: total size of the files kept open; the least recently used is closed first.
        threads: of ONNX Runtime, within one batch.
        quarantine: files that are not opened for a while.
        marks: of what is opened and run.
    """

    def __init__(
        self,
        files: Files,
        new_queue: Queues,
        *,
        cache_bytes: int,
        threads: int,
        quarantine: Quarantine,
        marks: RunMarks,
    ) -> None:
        self._files = files
        self._new_queue = new_queue
        self._cache_bytes = cache_bytes
        self._threads = threads
        self._quarantine = quarantine
        self._marks = marks
        self._queues: OrderedDict[str, ModelQueue] = OrderedDict()
        self._opening: dict[str, asyncio.Task[ModelQueue]] = {}
        self._opening_bytes = 0
        # Separate threads: opening a large file must not delay batches.
        self._openers = ThreadPoolExecutor(2, thread_name_prefix="opening")

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def bytes(self) -> int:
        """The size of their files; readable in any thread, like `queues`."""
        return sum(queue.model.size for queue in self.queues())

    def queues(self) -> list[ModelQueue]:
        """Those of all open models."""
        return list(self._queues.values())

    def opened(self, digest: str) -> ModelQueue | None:
        """The queue of an open model, which becomes the most recently used; None for one that is not open."""
        queue = self._queues.get(digest)
        if queue is not None:
            self._queues.move_to_end(digest)
        return queue

    async def open(self, digest: str, limits: RunLimits) -> ModelQueue:
        """Open and warm up the file, once for all callers; raises NotFound or Unavailable where that fails."""
        queue = self.opened(digest)
        if queue is not None:
            return queue
        opening = self._opening.get(digest)
        if opening is None:
            opening = self._opening[digest] = asyncio.ensure_future(self._open(digest, limits))
            opening.add_done_callback(lambda task: (self._opening.pop(digest), task.cancelled() or task.exception()))
        return await asyncio.shield(opening)  # a caller that is cancelled must not cancel it for the others

    def close(self, digest: str) -> None:
        """Close one; requests that wait for it are still answered."""
        self._queues.pop(digest, None)

    def shut_down(self) -> None:
        """Open no more."""
        self._openers.shutdown(wait=False, cancel_futures=True)

    async def _open(self, digest: str, limits: RunLimits) -> ModelQueue:
        loop = asyncio.get_running_loop()
        self._quarantine.check(digest)
        holding = self._files.held(digest)
        path = await loop.run_in_executor(self._openers, holding.__enter__)
        size = 0
        try:
            size = (await loop.run_in_executor(self._openers, path.stat)).st_size
            self._opening_bytes += size
            # Before it is opened: memory must not rise above the limit even for a moment.
            self._make_room()
            mark = self._marks.of(digest)
            model = await loop.run_in_executor(self._openers, _warm, path, self._threads, limits, mark)
        except RegistryError:
            raise
        except Exception as error:
            _LOG.exception("the stored file %s cannot be opened", digest)
            raise Unavailable("model_cannot_be_opened", "the model's stored file cannot be opened now") from error
        finally:
            self._opening_bytes -= size
            await loop.run_in_executor(self._openers, holding.__exit__, None, None, None)
        queue = self._queues[digest] = self._new_queue(model, digest=digest)
        return queue

    def _make_room(self) -> None:
        while self._queues and self.bytes + self._opening_bytes > self._cache_bytes:
            self._queues.popitem(last=False)


def _warm(path: Path, threads: int, limits: RunLimits, mark: RunMark) -> OpenModel:
    model = OpenModel(path, threads=threads, limits=limits, mark=mark)
    model.warm_up()
    return model
