"""A dry run of one case through the HTTP API of a running service, and what its records say."""

from __future__ import annotations

import json
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import httpx

from benchmarks.mistakes.dry_run import Json, Said
from benchmarks.mistakes.pair import Pair

_WAIT_S = 60


class Api:
    """The service at `url`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, timeout=3 * _WAIT_S, headers=headers)
        self._uploaded: dict[str, Json] = {}

    def __call__(self, pair: Pair, method: str) -> Said:
        """Uploads both files, orders a dry run and waits for it."""
        with tempfile.TemporaryDirectory(prefix="fedlas-mistakes-") as name:
            model_file, dataset_file = pair.write(Path(name))
            names = {} if pair.model_names is None else {"class_names": json.dumps(list(pair.model_names))}
            model = self._upload("/v1/models", model_file, {**names, **pair.model_options})
            dataset = self._upload("/v1/datasets", dataset_file, dict(pair.dataset_options))
        for record in (model, dataset):
            if record.get("error"):
                return Said(error=record["error"])
        began = time.perf_counter()
        order = {"model_id": model["id"], "dataset_id": dataset["id"], "method": method, **pair.job_options}
        answer = self._client.post("/v1/jobs", params={"dry_run": "true"}, json=order)
        if answer.is_error:
            return Said(error=_problem(answer))
        job = self._finished(f"/v1/jobs/{answer.json()['id']}", ("succeeded", "failed", "cancelled"))
        plan: Json = job.get("plan") or {}
        parts = (model, dataset, plan or job)
        return Said(
            error=job.get("error"),
            warnings=plan.get("warnings") or job.get("warnings") or [],
            adjustments=[notice for part in parts for notice in part.get("adjustments") or ()],
            fails_with=plan.get("fails_with"),
            accuracy=plan["uploaded"]["accuracy"] if plan else None,
            seconds=time.perf_counter() - began,
        )

    def _upload(self, path: str, file: Path, options: Json) -> Json:
        """The record of a file, which is uploaded once with the same options."""
        params = {key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
        content = file.read_bytes()
        key = sha256(f"{path} {sorted(params.items())}".encode() + content).hexdigest()
        if key not in self._uploaded:
            answer = self._client.post(path, params=params, content=content)
            self._uploaded[key] = (
                {"error": _problem(answer)}
                if answer.is_error
                else self._finished(f"{path}/{answer.json()['id']}", ("ready", "rejected"))
            )
        return self._uploaded[key]

    def _finished(self, path: str, ends: tuple[str, ...]) -> Json:
        while True:
            record: Json = self._client.get(path, params={"wait": _WAIT_S}).raise_for_status().json()
            if record["status"] in ends:
                return record


def _problem(answer: httpx.Response) -> Json:
    body = answer.json()
    return {"code": body.get("code", str(answer.status_code)), "message": json.dumps(body)}
