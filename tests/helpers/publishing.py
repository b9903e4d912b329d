"""Small files that were made by hand, put into a registry as a worker leaves what it has inspected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service.registry import tables
from service.registry.registry import Registry
from service.registry.tables import new_id, now
from tests.helpers.staging import stage_bytes

#: The profile of the files of `tests.helpers.served` that take rows (x, y).
PROFILE: dict[str, Any] = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
    "task": "multiclass",
    "num_classes": 2,
    "class_names": ["a", "b"],
    "features": {"layer": "logits", "dim": 2},
}


def publish(registry: Registry, name: str, content: bytes, *, named: bool = True, **profile: Any) -> str:
    """Make a ready model of a served copy, the next version of this name where it is `named`; returns its id."""
    with stage_bytes(registry.artifacts, content) as staged:
        staged.seal()
        with registry.write() as unit:
            digest = staged.keep()
            row = tables.Model(
                id=new_id("mdl"), name=name, version=1, status="ready", origin="uploaded", bytes=1, sha256=digest,
                options={}, profile={**PROFILE, **profile}, served_sha256=digest, calibrated=False, created_at=now(),
            )  # fmt: skip
            unit.models.add(row)
            if named:
                unit.names.publish(name, row)
            return row.id


def judged(registry: Registry, model_id: str, report: Mapping[str, Any]) -> str:
    """A job that has left the model as it is, with this report; returns its id."""
    with stage_bytes(registry.artifacts, json.dumps(report).encode()) as staged:
        staged.seal()
        with registry.write() as unit:
            row = tables.Job(
                id=new_id("job"), status="succeeded", model_id=model_id, dataset_id=new_id("ds"), created_at=now(),
                progress={}, request={}, calibrated_model_id=model_id, report_sha256=staged.keep(),
                verdict="unchanged", significant=False,
            )  # fmt: skip
            unit.jobs.open(row)
            return row.id
