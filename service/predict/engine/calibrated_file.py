"""The profile of a calibrated file, by which it is served without its record.

Files that a job writes have their profile in their metadata. Of files without it, written by the library or before,
inputs and outputs come from the graph and the names of classes and columns, priors and guarantees from properties of
their own; how image files become rows, which class is positive and whether numbers may be missing is known of none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from fedlas.contract.base import JsonObject
from fedlas.contract.profiles import FILE_PROFILE, ModelProfile
from service.predict.engine.profile import MODEL_OUTPUTS, ServingProfile
from service.predict.engine.session import element_type, former_names, refusal, session_options

_LOG = logging.getLogger("fedlas.api")
_NEEDED = f"expected a file calibrated by FedLAS, with the outputs {', '.join(MODEL_OUTPUTS)}"
#: Properties that a file has beside its profile, by the field of the profile that they are.
_FIELDS = ("class_names", "columns", "class_priors", "decisions", "guarantees")
#: Rows of the largest batch that an inspection tries. A file tells none, since how many it was depends on the machine;
#: where rows are of one length their bytes are known, and these bound a batch.
_ASSUMED_ROWS = 256
_MAX_REASON = 200
_WITHOUT_PROFILE = (
    "%s has no profile: no image files are read, no number may be missing, and of two classes the second is taken for "
    "the positive one; a job of this version writes files that say so themselves"
)


class BadFile(ValueError):
    """A file that cannot be served; the message says what was found, and what is needed."""


def file_profile(path: Path) -> JsonObject:
    """The profile in a calibrated file as a record has it; raises BadFile."""
    session = _opened(path)
    outputs = [output.name for output in session.get_outputs()]
    if not set(MODEL_OUTPUTS) <= set(outputs):
        raise BadFile(f"it computes {', '.join(outputs)}; {_NEEDED}")
    properties = session.get_modelmeta().custom_metadata_map
    if "calibrator" not in properties:
        raise BadFile(f"its metadata names no calibrator; {_NEEDED}")
    try:
        profile = _profile(path, session, properties)
        ServingProfile.of(profile)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise BadFile(f"its metadata cannot be read ({reason}); download it again, or calibrate again") from error
    return profile


def _opened(path: Path) -> ort.InferenceSession:
    """A session that is only asked for what the file says: on the CPU, without optimisation."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        message = "ONNX Runtime cannot open it, so it is half-written, damaged or no ONNX file"
        raise BadFile(f"{message} ({(refusal(error) or str(error))[:_MAX_REASON]}); {_NEEDED}") from error


def _profile(path: Path, session: ort.InferenceSession, properties: Mapping[str, str]) -> JsonObject:
    told = {name: json.loads(properties[name]) for name in _FIELDS if name in properties}
    if FILE_PROFILE in properties:
        told |= json.loads(properties[FILE_PROFILE])
    else:
        classes = len(told["class_names"])
        told |= {**_of_graph(session), "num_classes": classes, "task": "binary" if classes == 2 else "multiclass"}
        _LOG.warning(_WITHOUT_PROFILE, path)
    profile = ModelProfile.read(told)
    width = next(output.shape[-1] for output in session.get_outputs() if output.name == "probabilities")
    if isinstance(width, int) and not width == profile.num_classes == len(profile.class_names):
        raise ValueError(f"{len(profile.class_names)} class names for {width} probabilities")
    free = any(isinstance(size, str) for spec in profile.inputs for size in spec.shape[1:])
    stored = profile.stored()
    if isinstance(cost := stored.get("cost"), dict) and not free:
        cost["measured"] = {"rows": _ASSUMED_ROWS, "length": 1}
    return stored


def _of_graph(session: ort.InferenceSession) -> JsonObject:
    """The fields of a profile that a graph tells."""
    outputs = {output.name: output.shape for output in session.get_outputs()}
    features = outputs.get("features", [0])[-1]
    typical = "typicality" in outputs or "typicality" in former_names(session)
    return {
        "inputs": [
            {
                "name": spec.name,
                "dtype": element_type(spec).name,
                "shape": ["N", *(size if isinstance(size, int) else str(size or "free") for size in spec.shape[1:])],
            }
            for spec in session.get_inputs()
        ],
        "output": {"name": "probabilities", "kind": "probabilities"},
        "class_names_given": False,
        "features": {"layer": "features", "dim": features if isinstance(features, int) else 0},
        "trainable": False,
        "typicality": {"score": "norm"} if typical else None,
    }
