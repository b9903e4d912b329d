"""The first stage of the calibration benchmark: base models as ONNX files, with the dataset that a job gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks.data.common import Array, Split
from benchmarks.settings import SETTINGS

Floats = NDArray[np.float64]
_EPSILON = float(np.finfo(np.float32).eps)  # scikit-learn's own floor where it takes the logarithm of float32 answers


def make_base(name: str, seed: int, folder: Path) -> None:
    """Leave in `folder` what the other stages read.

    `model.onnx`; `dataset.npz` as it is uploaded (the model's inputs, `label`, `split`, `class_names`); `hidden.npz`
    (`targets`) and `hidden_inputs.npz`; `logits.npz` of the uploaded model (`calibration`, `targets`, `hidden`), which
    are logarithms where it answers probabilities, and what it answers itself (`uploaded`).
    """
    setting = SETTINGS[name]
    split = setting.split(seed)
    content = setting.base.onnx(split, seed=seed, name=name)
    names = [entry.name for entry in session(content).get_inputs()]
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {
        "dataset": _dataset(split, names),
        "hidden_inputs": dict(zip(names, split.hidden[0], strict=True)),
        "hidden": {"targets": split.hidden[1]},
        "logits": {
            "calibration": uploaded_logits(content, split.calibration[0]),
            "targets": split.calibration[1],
            "hidden": uploaded_logits(content, split.hidden[0]),
            "uploaded": uploaded_probabilities(content, split.hidden[0]),
        },
    }
    for file, arrays in files.items():
        np.savez_compressed(folder / f"{file}.npz", **arrays)
    (folder / "model.onnx").write_bytes(content)  # last: where it is, the stage has ended


def _dataset(split: Split, names: list[str]) -> dict[str, Array]:
    parts = {"train": split.train, "calibration": split.calibration, "test": split.test}
    arrays: dict[str, Array] = {name: np.concatenate([x[i] for x, _ in parts.values()]) for i, name in enumerate(names)}
    arrays["label"] = np.concatenate([targets for _, targets in parts.values()])
    arrays["split"] = np.repeat(list(parts), [len(targets) for _, targets in parts.values()])
    arrays["class_names"] = np.array(split.class_names)
    return arrays


def uploaded_logits(content: bytes, inputs: list[Array]) -> Floats:
    """(N, K) in double precision: the file's output `logits`, or the logarithm of `probabilities`."""
    kind, scores = _answers(content, inputs)
    return scores if kind == "logits" else np.log(np.clip(scores, _EPSILON, None))


def uploaded_probabilities(content: bytes, inputs: list[Array]) -> Floats:
    """(N, K) in double precision, as the file answers them, or softmax of its logits."""
    kind, scores = _answers(content, inputs)
    probs = softmax(scores, axis=1) if kind == "logits" else scores / scores.sum(axis=1, keepdims=True)
    return np.asarray(probs, np.float64)


def _answers(content: bytes, inputs: list[Array]) -> tuple[str, Floats]:
    opened = session(content)
    kind = "logits" if "logits" in {entry.name for entry in opened.get_outputs()} else "probabilities"
    named = dict(zip([entry.name for entry in opened.get_inputs()], inputs, strict=True))
    return kind, np.asarray(opened.run([kind], named)[0], np.float64)


def session(model: bytes | Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime alone, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
