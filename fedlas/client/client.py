"""The client: one server, and everything that it does."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack, cast

import httpx

from fedlas.client import problems
from fedlas.client.configuration import load_configuration
from fedlas.client.errors import InvalidInput
from fedlas.client.inputs import example_of, is_path, parts_of, predict_path
from fedlas.client.jobs import Job, Jobs, OnEvent
from fedlas.client.keys import Keys
from fedlas.client.options import (
    AnswerOptions,
    CalibrateOptions,
    DatasetOptions,
    HasId,
    JobOptions,
    ModelOptions,
    check_options,
    given,
    job_body,
    stored_id,
)
from fedlas.client.predictions import Predictions
from fedlas.client.stored import Batches, Calibrators, Datasets, Models, Names
from fedlas.client.transfers import OnUpload
from fedlas.client.transport import KEPT, OnWarning, RawResponse, Transport
from fedlas.contract.protocol import ServerMetadata
from fedlas.contract.records import DatasetRecord, ModelRecord

P = ParamSpec("P")
T = TypeVar("T")


class Client:
    """A FedLAS server: models and datasets out, calibrated predictions and typed reports back.

    >>> from fedlas.client import Client
    >>> client = Client("http://127.0.0.1:8000")
    >>> client.url
    'http://127.0.0.1:8000'

    Args:
        url: of the server; else `FEDLAS_URL`, the profile's, or `http://127.0.0.1:8000`.
        key: else `FEDLAS_API_KEY`, or the profile's.
        profile: a section of `~/.config/fedlas/config.toml`.
        timeout: seconds for each try of a request; what takes longer by nature has its own.
        max_retries: how often a request is sent again after a lost connection, 408, 429, 5xx, and 409 where it passes;
            within 120 seconds of the call's beginning (`fedlas.client.problems.MAX_CALL_S`), as `Retry-After` says.
        http: an httpx client to send with, for proxies and certificates; it is closed with this one.
        on_warning: called with the sentence that says what keeps a record waiting; without it that is
            logged (`fedlas.client`).

    Raises:
        ConfigurationError: the URL, the key or the profile cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 3,
        http: httpx.Client | None = None,
        on_warning: OnWarning | None = None,
    ) -> None:
        configuration = load_configuration(url, key, profile=profile)
        self.url = configuration.url
        self._transport = Transport(
            configuration, timeout=timeout, max_retries=max_retries, http=http, on_warning=on_warning
        )
        self.models = Models(self._transport)
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport)
        self.names = Names(self._transport)
        self.calibrators = Calibrators(self._transport)
        self.batches = Batches(self._transport)
        self.keys = Keys(self._transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def server(self) -> ServerMetadata:
        """The server's name and version."""
        return self._transport.read(ServerMetadata, "GET", "/v2")

    def calibrate(
        self,
        model: str | PathLike[str] | ModelRecord | Any,
        data: str | PathLike[str] | DatasetRecord | Any,
        *,
        wait: bool = True,
        wait_timeout: float | None = None,
        on_event: OnEvent | None = None,
        on_upload: OnUpload | None = None,
        **options: Unpack[CalibrateOptions],
    ) -> Job:
        """Upload a model and a dataset, calibrate, and return the job.

        Args:
            model: a path, a `torch.nn.Module`, an estimator of scikit-learn; or a stored model or its id.
            data: a path, arrays, a frame, a `Dataset` or `DataLoader`; or a stored dataset or its id.
            wait: until the job has ended.
            wait_timeout: seconds to wait; the job goes on when they are up.
            on_event: called with each event.
            on_upload: called with bytes sent and bytes in all, of the model's file and then of the dataset's.
            options: `method`, `budget`, `publish_as`, …, and of what is sent `seen_by_model`, `class_names`, `example`,
                `model_options`, `dataset_options` (`fedlas.client.options.CalibrateOptions`).

        Raises:
            JobFailed: `code`, `message` and `user_error` say why.
            ClientError: FileError, InvalidRequestError, WaitTimeout, or else ConversionError.
        """
        check_options(self.calibrate, CalibrateOptions, options)
        known = JobOptions.__optional_keys__
        for_job = cast("JobOptions", {name: value for name, value in options.items() if name in known})
        job_body(for_job)  # what is wrong with it is raised before anything is sent
        model_id, dataset_id, notes = self._stored(model, data, options, on_upload)
        job = self.jobs.create(model_id, dataset_id, **for_job)
        job.notes.extend(notes)
        return job.wait(on_event=on_event, wait_timeout=wait_timeout) if wait else job

    def _stored(
        self, model: Any, data: Any, options: CalibrateOptions, on_upload: OnUpload | None
    ) -> tuple[str, str, list[str]]:
        """The ids of model and dataset, which are sent where they are not stored, and notes on what was sent."""
        of_model: dict[str, Any] = {**(options.get("model_options") or {})}
        of_data: dict[str, Any] = {**(options.get("dataset_options") or {})}
        of_model |= given({"class_names": options.get("class_names")})
        of_data |= given({"seen_by_model": options.get("seen_by_model")})
        check_options(self.models.upload, ModelOptions, of_model)
        check_options(self.datasets.upload, DatasetOptions, of_data)
        model_id, dataset_id = stored_id(model, "mdl"), stored_id(data, "ds")
        for stored, unsent in ((model_id, of_model), (dataset_id, of_data)):
            if stored and unsent:
                raise InvalidInput("already_stored", f"{stored} is stored with its own {next(iter(unsent))}")
        example, notes, class_names = options.get("example"), list[str](), None
        if model_id is None:
            if example is None and dataset_id is None and not is_path(model):
                example = example_of(data, of_data.get("roles"))
            sent, file = self.models.send(model, example=example, on_upload=on_upload, **cast("ModelOptions", of_model))
            model_id, class_names, notes = sent.id, file.class_names, [*notes, *file.notes]
        if dataset_id is None:
            rows, file = self.datasets.send(
                data, class_names=class_names, on_upload=on_upload, **cast("DatasetOptions", of_data)
            )
            dataset_id, notes = rows.id, [*notes, *file.notes]
        return model_id, dataset_id, notes

    def predict(
        self, model: str | HasId, inputs: Any, *, deadline: float | None = None, **options: Unpack[AnswerOptions]
    ) -> Predictions:
        """Calibrated predictions for rows; more than 10,000 go out in several requests, and come back as one.

        Args:
            model: a published name, an id, or a record.
            inputs: an array of rows, which is sent in binary; lists; a data frame, by the names of its columns; a
                mapping of arrays for several inputs; or image files, as paths or bytes.
            deadline: seconds after which the answer is of no use.
            options: `top_k`, `abstain_below`, `max_error`, `coverage`, `decision`, `class_priors`
                (`fedlas.client.options.AnswerOptions`); and `probabilities`, which is True unless False is given: of
                very many classes and rows the answer would be too large (`answer_too_large`).

        Raises:
            InvalidRequestError: the rows do not fit the model, or a promise cannot be kept; `code` says which.
            ClientError: NotFoundError, ConflictError, InvalidInput; of several requests it names the rows.
        """
        check_options(self.predict, AnswerOptions, options)
        answers: list[Predictions] = []
        for part in parts_of(inputs, deadline):
            with part.named():
                response = self._transport.request("POST", predict_path(model), **part.request(options))
                with self._transport.readable(response):
                    answers.append(problems.made(response, Predictions.of))
        return Predictions.joined(answers)

    def with_raw_response(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> RawResponse[T]:
        """Result of a call, with the status and the headers of the last answer that it received.

        `client.with_raw_response(client.models.get, "digits").headers["etag"]`
        """
        received: list[httpx.Response] = []
        token = KEPT.set(received)
        try:
            value = call(*args, **kwargs)
        finally:
            KEPT.reset(token)
        if not received:
            raise InvalidInput("no_request", "the call has sent no request; lists send theirs when they are read")
        return RawResponse(value, received[-1])
