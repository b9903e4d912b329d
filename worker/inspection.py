"""Inspection, inside the sandbox: an upload is opened for the first time, profiled, and copied into our own form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Emit = Callable[[Json], None]

_CHECKED_ROWS = 3


def inspect_dataset(spec: Json, folder: Path, emit: Emit) -> Json:
    """Read the dataset, fix its splits, and write the prepared copy that jobs read."""
    from fedlas.data import read_dataset

    options = spec["options"]
    dataset = read_dataset(
        spec["file"],
        format=options["format"],
        roles=options["roles"],
        seen_by_model=options["seen_by_model"],
        split_seed=options["split_seed"],
        missing=options["missing"],
    )
    dataset.save(folder / "prepared.npz")
    return {"profile": {**dataset.profile(), "format": dataset.format}, "prepared": "prepared.npz"}


def inspect_model(spec: Json, folder: Path, emit: Emit) -> Json:
    """Import the graph, prove that it computes what the upload computes, and write the copy that is served."""
    from fedlas.calibrators import Identity
    from fedlas.errors import UnsupportedModel
    from fedlas.export import export_onnx
    from fedlas.importers import check_parity, load_onnx

    options = spec["options"]
    classifier = load_onnx(spec["file"], output=options["output"], features=options["features"], task=options["task"])
    given = options["class_names"]
    if given is not None and len(given) != classifier.num_classes:
        raise UnsupportedModel(
            "class_names_mismatch",
            f"class_names has {len(given)} names ({', '.join(given[:20])}), "
            f"but output {classifier.output_name!r} has {classifier.num_classes} classes",
        )
    names = given or [str(index) for index in range(classifier.num_classes)]
    served = folder / "served.onnx"
    check_parity(spec["file"], classifier)
    rows = classifier.example_rows(_CHECKED_ROWS)
    export_onnx(classifier, served, calibrator=Identity(), class_names=names, verify_with=rows)
    return {"profile": model_profile(classifier, names, options), "served": served.name}


def model_profile(classifier: Any, class_names: list[str], options: Json) -> Json:
    """What the record of a model shows, ready for JSON."""
    return {
        "inputs": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in classifier.inputs],
        "output": {"name": classifier.output_name, "kind": classifier.output_kind},
        "task": classifier.task,
        "num_classes": classifier.num_classes,
        "class_names": class_names,
        "class_names_given": options["class_names"] is not None,
        "positive_class": options["positive_class"],
        "features": {"layer": classifier.feature_layer, "dim": classifier.feature_dim},
        "trainable": classifier.trainable,
    }
