"""The client: one server, and everything that it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

import httpx

from fedlas.client._async.batches import AsyncBatches
from fedlas.client._async.calibrators import AsyncCalibrators
from fedlas.client._async.datasets import AsyncDatasets
from fedlas.client._async.jobs import AsyncJob, AsyncJobs, OnEvent
from fedlas.client._async.models import AsyncModels
from fedlas.client._async.names import AsyncNames
from fedlas.client._async.transport import AsyncTransport
from fedlas.client._async.uploads import OnUpload
from fedlas.client.configuration import load_configuration
from fedlas.client.conversions import example_of, is_path
from fedlas.client.errors import InvalidInput
from fedlas.client.inputs import body_of
from fedlas.client.orders import AnswerOptions, DatasetOptions, JobOptions, ModelOptions
from fedlas.client.predictions import Predictions
from fedlas.client.queries import HasId, path_part, stored_id
from fedlas.client.raw_response import KEPT, RawResponse
from fedlas.client.records.files import Dataset, Model
from fedlas.client.records.server import Server
from fedlas.client.retrying import Retries
from fedlas.client.waiting import OnWarning, async_in_thread

#: The server says itself when the time is up, and that takes a moment.
_ON_THE_WAY_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient:
    """A FedLAS server: models and datasets out, calibrated predictions and typed reports back.

    >>> from fedlas.client import AsyncClient
    >>> client = AsyncClient("http://127.0.0.1:8000")
    >>> client.url
    'http://127.0.0.1:8000'

    Args:
        url: of the server; else `FEDLAS_URL`, the profile's, or `http://127.0.0.1:8000`.
        key: else `FEDLAS_API_KEY`, or the profile's.
        profile: a section of `~/.config/fedlas/config.toml`.
        timeout: seconds for each try of a request; what takes longer by nature has its own.
        max_retries: how often a request is sent again after a lost connection, 408, 429, 5xx, and 409 where it passes.
        http: an httpx client to send with, for proxies and certificates; it is closed with this one.
        on_warning: told, in a sentence, what keeps a record from going on that is waited for; without it that is
            logged (`fedlas.client`).

    Raises:
        ConfigurationProblem: the URL, the key or the profile cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 8,
        http: httpx.AsyncClient | None = None,
        on_warning: OnWarning | None = None,
    ) -> None:
        configuration = load_configuration(url, key, profile=profile)
        self.url = configuration.url
        self._transport = AsyncTransport(
            configuration, timeout=timeout, max_retries=max_retries, http=http, on_warning=on_warning
        )
        self.models = AsyncModels(self._transport)
        self.datasets = AsyncDatasets(self._transport)
        self.jobs = AsyncJobs(self._transport)
        self.names = AsyncNames(self._transport)
        self.calibrators = AsyncCalibrators(self._transport)
        self.batches = AsyncBatches(self._transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def server(self) -> Server:
        """The server's name and version."""
        return await self._transport.read(Server, "GET", "/v2")

    async def calibrate(
        self,
        model: str | PathLike[str] | Model | Any,
        data: str | PathLike[str] | Dataset | Any,
        *,
        example: Any = None,
        model_options: ModelOptions | None = None,
        dataset_options: DatasetOptions | None = None,
        wait: bool = True,
        timeout: float | None = None,
        on_event: OnEvent | None = None,
        on_upload: OnUpload | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJob:
        """Upload a model and a dataset, calibrate, and return the job.

        Args:
            model: a path, a `torch.nn.Module`, an estimator of scikit-learn; or a stored model or its id.
            data: a path, arrays, a frame, a `Dataset` or `DataLoader`; or a stored dataset or its id.
            example: a batch of inputs, with which a module is exported; by default the first rows of `data`, which has
                some where it is neither a file nor stored.
            model_options: keywords of `client.models.upload`, such as `class_names`.
            dataset_options: keywords of `client.datasets.upload`, such as `seen_by_model`.
            wait: until the job has ended.
            timeout: seconds to wait; the job goes on when they are up.
            on_event: told of what happens.
            on_upload: told of bytes sent and bytes in all, of the model's file and then of the dataset's.
            options: of the job: `method`, `budget`, `publish_as`, … (`fedlas.client.orders.JobOptions`).

        Raises:
            JobFailed: `code`, `message` and `user_error` say why.
            ClientError: FileProblem, InvalidRequest, WaitTimeout, or fedlas.conversion's ConversionError.
        """
        model_id, dataset_id = stored_id(model, "mdl"), stored_id(data, "ds")
        notes: list[str] = []
        class_names: Sequence[str] | None = None
        if model_id is None:
            if example is None and dataset_id is None and not is_path(model):
                example = await async_in_thread(example_of, data, (dataset_options or {}).get("roles"))
            sent_model, file = await self.models.send(
                model, example=example, on_upload=on_upload, **(model_options or {})
            )
            model_id, class_names, notes = sent_model.id, file.class_names, [*notes, *file.notes]
        if dataset_id is None:
            sent_data, file = await self.datasets.send(
                data, class_names=class_names, on_upload=on_upload, **(dataset_options or {})
            )
            dataset_id, notes = sent_data.id, [*notes, *file.notes]
        job = await self.jobs.create(model_id, dataset_id, **options)
        job.notes.extend(notes)
        return await job.wait(on_event=on_event, timeout=timeout) if wait else job

    async def predict(
        self, model: str | HasId, inputs: Any, *, timeout: float | None = None, **options: Unpack[AnswerOptions]
    ) -> Predictions:
        """Calibrated predictions for some rows.

        Args:
            model: a published name, an id, or a record.
            inputs: an array of rows, which is sent in binary; lists; a data frame, by the names of its columns; a
                mapping of arrays for several inputs; or image files, as paths or bytes.
            timeout: seconds after which the answer is of no use.
            options: `top_k`, `abstain_below`, `max_error`, `coverage`, `decision`, `class_priors`
                (`fedlas.client.orders.AnswerOptions`); and `probabilities`, which is True unless False is given: of
                very many classes and rows the answer would be too large (`answer_too_large`).

        Raises:
            InvalidRequest: the rows do not fit the model, or a promise cannot be kept; `code` says which.
            ClientError: NotFound, Conflict, InvalidInput.
        """
        body = body_of(inputs, {"probabilities": True, **options})
        headers = {"Content-Type": body.content_type}
        if timeout is not None:
            headers["X-Request-Timeout"] = f"{timeout:g}"
        response = await self._transport.request(
            "POST",
            f"/v1/models/{path_part(model)}/predict",
            params=body.params or None,
            content=body.content,
            headers=headers,
            timeout=None if timeout is None else timeout + _ON_THE_WAY_S,
            retries=Retries.WHERE_IT_HELPS if timeout is None else Retries.NOT_FOR_SILENCE,
        )
        return await self._transport.made(response, Predictions.of)

    async def with_raw_response(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> RawResponse[T]:
        """What a call returns, with the status and the headers of the last answer that it received.

        `client.with_raw_response(client.models.get, "digits").headers["etag"]`
        """
        received: list[httpx.Response] = []
        token = KEPT.set(received)
        try:
            value = await call(*args, **kwargs)
        finally:
            KEPT.reset(token)
        if not received:
            raise InvalidInput("no_request", "the call has sent no request; lists send theirs when they are read")
        return RawResponse(value, received[-1])
