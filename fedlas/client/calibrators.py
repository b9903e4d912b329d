"""Calibrators: fitted on scores alone; no model leaves the sender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedlas.client.conversions import scores_file, sending
from fedlas.client.orders import HasId, id_of, names_of, query
from fedlas.client.records.files import Calibrator
from fedlas.client.stored import Stored
from fedlas.client.transfers import OnDownload, OnUpload, download, upload

if TYPE_CHECKING:
    from fedlas.client.reports import Report

#: How long the server holds the request; what takes longer is asked for again.
_WAIT_S = 30


class Calibrators(Stored[Calibrator]):
    """`client.calibrators`: maps from a model's scores to calibrated probabilities."""

    _path = "/v1/calibrators"
    _kind = Calibrator

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
        with sending(scores_file, scores, arrays=arrays) as file:
            params = query(
                name=name or file.name,
                method=method,
                class_names=names_of(class_names),
                roles=roles,
                split_shares=split_shares,
                class_priors=class_priors,
                wait=_WAIT_S,
            )
            record = upload(self._transport, Calibrator, self._path, file.path, params=params, on_upload=on_upload)
        return self.wait(record)

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
            f"{self._at(calibrator)}/onnx",
            Path(path or f"{id_of(calibrator)}.onnx"),
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )

    def report(self, calibrator: str | HasId) -> Report:
        """The report: what the test rows say about it."""
        from fedlas.client.reports import report_at  # its sixty classes take longer than all the rest of the client

        return report_at(self._transport, f"{self._at(calibrator)}/report")
