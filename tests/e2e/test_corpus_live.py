"""The corpus of bad files through HTTP: each is answered, and the worker that saw them all does the next good job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.corpus import images, models, tables
from tests.corpus.case import BadFile
from tests.helpers.service import Json, Service, descendants_of, is_alive, serving, until
from tests.helpers.uploads import Uploads

KINDS: Mapping[str, Sequence[BadFile]] = {
    "models": models.CASES, "tables": tables.CASES, "images": images.CASES,
}  # fmt: skip
_AT_ONCE = 12


def sent(service: Service, case: BadFile, folder: Path) -> Json:
    """Upload the file and return its record, or the problem for which it was refused at the door."""
    folder.mkdir(parents=True)
    with case.make(folder).open("rb") as file:
        answer = service.client.post(f"/v1/{case.route}", content=file, params=dict(case.options))
    assert answer.status_code in (201, 422), (case.name, answer.text)
    return dict(answer.json())


def complaint(service: Service, case: BadFile, record: Json) -> str | None:
    """The fault of the answer to this file, if it has one."""
    if "id" not in record:
        return None if record["code"] in case.codes else f"{case.name}: refused at the door, {record}"
    until(lambda: found(service, case, record)["status"] != "inspecting", seconds=280, what=f"{case.name} is inspected")
    settled = found(service, case, record)
    code = "ready" if settled["status"] == "ready" else settled["error"]["code"]
    message = (settled["error"] or {}).get("message", "")
    if code not in case.codes or "Traceback" in message or str(service.data_dir) in message:
        return f"{case.name}: {code} {message}"
    return None


def found(service: Service, case: BadFile, record: Json) -> Json:
    """The record now, or as soon as it is settled."""
    return service.get(f"/v1/{case.route}/{record['id']}", wait=30)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kind",
    [
        # Inspecting a model loads PyTorch, a few seconds for each of them.
        pytest.param(kind, marks=pytest.mark.exhaustive if kind == "models" else pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_the_worker_survives_the_corpus(kind: str, tmp_path: Path, uploads: Uploads) -> None:
    """Every bad file is answered with its code, by a worker that is the same one at the end and still calibrates."""
    with serving(tmp_path / "data") as service:
        worker = service.pid("worker")
        wrong, cases = [], KINDS[kind]
        for start in range(0, len(cases), _AT_ONCE):
            part = cases[start : start + _AT_ONCE]
            records = [sent(service, case, tmp_path / "made" / str(start + i)) for i, case in enumerate(part)]
            wrong += [complaint(service, case, record) for case, record in zip(part, records, strict=True)]
        assert [line for line in wrong if line] == [], service.log
        assert service.pid("worker") == worker
        assert is_alive(worker)
        assert "Traceback" not in service.log
        model = service.inspected("models", uploads["digits.onnx"])
        dataset = service.inspected("datasets", uploads["digits.npz"])
        assert service.calibrated(model, dataset)["verdict"]
        # The last job has succeeded a moment before its folder goes.
        until(lambda: not service.left_over_files(), what="the files of the work are gone")
        until(lambda: not _children(worker), what="no child is left")
    assert list(tmp_path.rglob("canary")) == []


def _children(worker: int) -> list[int]:
    return [
        pid
        for pid in descendants_of(worker)
        if is_alive(pid) and b"worker.inside.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
