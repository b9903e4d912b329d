"""Calibrators: fitted on scores alone; no model leaves the sender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from fedlas.client.downloads import OnDownload, download
from fedlas.client.events import until_final
from fedlas.client.orders import RecordFilter
from fedlas.client.queries import HasId, id_of, names_of, path_part, query
from fedlas.client.records.files import Calibrator
from fedlas.client.records.page import Page
from fedlas.client.sending import sending_scores
from fedlas.client.transport import Pages, Transport
from fedlas.client.uploads import OnUpload, upload

if TYPE_CHECKING:
    from fedlas.client.reports import Report

_PATH = "/v1/calibrators"
#: How long the server holds the request; what takes longer is asked for again.
_WAIT_S = 30


class Calibrators:
    """`client.calibrators`: maps from a model's scores to calibrated probabilities."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        scores: str | PathLike[str] | None = None,
        *,
        logits: Any = None,
        probabilities: Any = None,
        labels: Any = None,
        name: str | None = None,
        method: str | None = None,
        class_names: Sequence[str] | None = None,
        roles: Mapping[str, Any] | None = None,
        split_shares: Mapping[str, float] | None = None,
        class_priors: Mapping[str, float] | None = None,
        on_upload: OnUpload | None = None,
        **columns: Any,
    ) -> Calibrator:
        """Fit a calibrator and wait for it.

        Args:
            scores: an npz or csv file; or else arrays are given, which needs NumPy.
            logits: (N, K); or `probabilities`.
            labels: (N,) class indices or names.
            method: `auto`, or a calibrator by name.
            columns: arrays of length N with another role, such as `split` or `group`.

        Raises:
            InvalidRequest: the scores cannot be used.
            JobFailed: the fit failed.
        """
        arrays = {"logits": logits, "probabilities": probabilities, "labels": labels, **columns}
        with sending_scores(scores, arrays) as file:
            params = query(
                name=name or file.name,
                method=method,
                class_names=names_of(class_names),
                roles=roles,
                split_shares=split_shares,
                class_priors=class_priors,
                wait=_WAIT_S,
            )
            record = upload(self._transport, Calibrator, _PATH, file.path, params=params, on_upload=on_upload)
        return self.wait(record)

    def get(self, calibrator: str | HasId) -> Calibrator:
        """The record of a calibrator."""
        return self._transport.read(Calibrator, "GET", f"{_PATH}/{path_part(calibrator)}")

    def wait(self, calibrator: str | HasId, *, timeout: float | None = None) -> Calibrator:
        """The record once it is fitted; raises JobFailed, WaitTimeout."""
        return until_final(self._transport, Calibrator, f"{_PATH}/{path_part(calibrator)}", timeout=timeout)

    def list(
        self,
        *,
        limit: int | None = None,
        **which: Unpack[RecordFilter],
    ) -> Pages[Calibrator]:
        """All calibrators, newest first, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[Calibrator], _PATH, query(**which), limit=limit, cursor=lambda item: item.id)

    def delete(self, calibrator: str | HasId) -> None:
        """Delete a calibrator with its scores, its file and its report."""
        self._transport.request("DELETE", f"{_PATH}/{path_part(calibrator)}")

    def download(
        self,
        calibrator: str | HasId,
        path: str | PathLike[str] | None = None,
        *,
        class_priors: Literal["input"] | None = None,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write its ONNX file (scores in, `probabilities` and `confidence` out) to `path`; the digest is checked.

        Args:
            class_priors: `input`: with one more input, the class priors (K,) of its answers.
        """
        return download(
            self._transport,
            f"{_PATH}/{path_part(calibrator)}/onnx",
            Path(path or f"{id_of(calibrator)}.onnx"),
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )

    def report(self, calibrator: str | HasId) -> Report:
        """The report: what the test rows say about it."""
        from fedlas.client.reports import report_at  # its sixty classes take longer than all the rest of the client

        return report_at(self._transport, f"{_PATH}/{path_part(calibrator)}/report")
