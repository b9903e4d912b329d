"""Runs stored models: sessions kept open up to a limit of bytes, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from service.inference.runtime import REFUSALS, open_session, refusal
from service.registry.artifacts import ArtifactStore
from service.registry.errors import InvalidRequest

#: Outputs of every file that is served; see the HTTP contract.
STANDARD_OUTPUTS = ("logits", "probabilities", "confidence", "features")


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: ort.InferenceSession | None = None
    size: int = 0


class Engine:
    """Thread-safe; a file is named by its digest and never changes, so an open session is never stale."""

    def __init__(self, artifacts: ArtifactStore, *, cache_bytes: int, threads: int = 1) -> None:
        self._artifacts = artifacts
        self._cache_bytes = cache_bytes
        self._threads = threads
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def run(
        self,
        digest: str,
        inputs: Mapping[str, np.ndarray],
        *,
        outputs: tuple[str, ...] = ("logits", "probabilities", "confidence"),
    ) -> dict[str, np.ndarray]:
        """Run the model over rows; raises NotFound if the file is missing, InvalidRequest if it cannot compute them."""
        session = self._session(digest)
        try:
            results = session.run(list(outputs), dict(inputs))
        except REFUSALS as error:  # for example a token that is not in the vocabulary, inputs that differ in length
            message = f"the model cannot compute these rows: {refusal(error)}"
            raise InvalidRequest("inputs_refused", message, field="inputs") from error
        return dict(zip(outputs, results, strict=True))

    def _session(self, digest: str) -> ort.InferenceSession:
        with self._lock:
            slot = self._slots.setdefault(digest, _Slot())
            self._slots.move_to_end(digest)
        with slot.lock:  # several requests for a new model open it once
            if slot.session is None:
                path = self._artifacts.path(digest)
                slot.session = open_session(str(path), threads=self._threads)
                slot.size = path.stat().st_size
                self._evict()
            return slot.session

    def _evict(self) -> None:
        with self._lock:
            while len(self._slots) > 1 and sum(slot.size for slot in self._slots.values()) > self._cache_bytes:
                self._slots.popitem(last=False)
