"""A PyTorch module as an ONNX file: in inference, rows free, weights inside, proven against the module.

The signature of `forward` says which inputs it takes, and whether by name; the module is exported with nameless
inputs, its scores (N, K), and the features that are tapped.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlas.conversion import ModelFile
from fedlas.conversion.columns import named_inputs
from fedlas.conversion.proof import FEATURES, LOGITS, prove, tapped_tensor
from fedlas.errors import ConversionError

#: The opset that PyTorch's exporters write without converting.
_OPSET = 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Rows of the export and of the proof: different, so that a fixed batch cannot pass; one row is traced as always one.
_EXPORTED_ROWS = 2
_PROVEN_ROWS = 5


def arguments(module: nn.Module, given: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The inputs in `forward`'s order, and whether they go by their names; raises ConversionError for unknown names.

    Inputs without names (`x0`, `x1`, …) go by place, and so does a single one, which gets the module's name for it.
    """
    parameters = inspect.signature(module.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [name for name, parameter in parameters.items() if name in given and parameter.kind in named]
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if known and set(needed) <= set(known):
        return {name: given[name] for name in known}, True
    if len(given) == 1:
        return dict(zip([next(iter(needed), "x")], given.values(), strict=True)), False
    if list(given) == list(named_inputs([0] * len(given))):
        return dict(given), False
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(given), True
    raise ConversionError(
        "inputs_mismatch",
        f"forward takes {', '.join(parameters)}, but the rows have {', '.join(given)}: name them as forward does",
    )


class TappedModule(nn.Module):
    """Calls a module, by `names` or by place, and finds scores and the tapped features; raises ConversionError."""

    def __init__(self, module: nn.Module, names: Sequence[str] | None, features: str | None) -> None:
        super().__init__()
        self.module = module
        self.names = None if names is None else list(names)
        self.features = features
        parts = dict(module.named_modules())
        if features == "" or (features is not None and features not in parts):
            near = ", ".join([part for part in parts if part][-12:])
            raise ConversionError(
                "unknown_features", f"the module has no submodule '{features}'; its last ones are {near}"
            )
        self._layer = None if features is None else parts[features]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        calls: list[tuple[Any, Any]] = []
        tap = None if self._layer is None else self._layer.register_forward_hook(lambda _, i, o: calls.append((i, o)))
        try:
            named = None if self.names is None else dict(zip(self.names, inputs, strict=True))
            answered = self.module(*inputs) if named is None else self.module(**named)
        finally:
            if tap is not None:
                tap.remove()
        logits = _scores(answered)
        if self._layer is None:
            return (logits,)
        if not calls:
            raise ConversionError("features_not_reached", f"the submodule '{self.features}' takes no part in forward")
        given, made = calls[-1]
        features = given[0] if made is answered or made is logits else made
        if not isinstance(features, Tensor):
            raise ConversionError("bad_features", f"the submodule '{self.features}' gives no tensor")
        return logits, features.flatten(1)


def _scores(answered: Any) -> Tensor:
    if isinstance(answered, Mapping) and "logits" in answered:
        answered = answered["logits"]
    elif hasattr(answered, "logits"):
        answered = answered.logits
    elif isinstance(answered, tuple | list) and answered:
        answered = answered[0]  # as FedLAS classifiers return (logits, features)
    if not isinstance(answered, Tensor):
        raise ConversionError(
            "no_scores",
            f"forward returns a {type(answered).__name__}; a tensor (N, K) of logits or probabilities, a "
            "tuple that begins with it, or something with `logits` is needed",
        )
    if answered.ndim == 1:
        return answered.unsqueeze(1)
    if answered.ndim != 2:
        raise ConversionError(
            "no_scores",
            f"forward returns {tuple(answered.shape)}; one row of class scores (N, K) for each row is needed "
            "(segmentation and language generation are not calibrated here)",
        )
    return answered


def write_module(
    module: nn.Module, folder: Path, *, example: Any, class_names: list[str] | None, features: str | None
) -> ModelFile:
    """Write `model.onnx`; raises ConversionError as `fedlas.conversion.model_file` does."""
    notes: list[str] = []
    network = _plain(module, notes)
    _require_numbers(network)
    given, by_name = _example(network, example)
    names = list(given)
    with in_inference(network):
        tapped = TappedModule(network, names if by_name else None, features)
        inputs, answers = _answers(tapped, list(given.values()), notes)
        path = _written(tapped, names, inputs, folder, notes)
        tensor = None if features is None else tapped_tensor(path)
        prove(path, dict(zip(names, (value.numpy() for value in inputs), strict=True)), answers)
    options = {} if tensor is None else {"features": tensor}
    if answers.shape[1] == 1:
        options["task"] = "binary"
    if class_names is not None and len(class_names) != max(2, answers.shape[1]):
        raise ConversionError(
            "class_names_mismatch", f"{len(class_names)} class names for {answers.shape[1]} outputs of the module"
        )
    notes.insert(0, f"{type(module).__name__} was written as ONNX in inference, with free rows and its weights inside.")
    return ModelFile(path, class_names, options, notes)


def _plain(module: nn.Module, notes: list[str]) -> nn.Module:
    """The network on the CPU in float32, out of the wrappers of distributed training and compilation."""
    network = getattr(module, "_orig_mod", module)
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        network = network.module
    tensors = [*network.parameters(), *network.buffers()]
    kinds = {value.dtype for value in tensors if value.is_floating_point()}
    devices = {value.device.type for value in tensors}
    if "meta" in devices:
        raise ConversionError("no_weights", "the module lies on the device 'meta' and has no weights: load them first")
    if devices <= {"cpu"} and kinds <= {torch.float32}:
        return network
    try:
        network = copy.deepcopy(network).to("cpu", torch.float32)
    except (RuntimeError, TypeError) as error:
        raise ConversionError(
            "not_copied", f"the module cannot be copied to the CPU ({error}): call .cpu().float() first"
        ) from error
    others = sorted({str(kind).removeprefix("torch.") for kind in kinds - {torch.float32}} | (devices - {"cpu"}))
    notes.append(f"A copy on the CPU in float32 was written (the module is {', '.join(others)}).")
    return network


def _require_numbers(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        wrong = int((~torch.isfinite(value)).sum()) if isinstance(value, Tensor) and value.is_floating_point() else 0
        if wrong:
            what = "NaN" if torch.isnan(value).any() else "an infinite number"
            raise ConversionError(
                "non_finite_weights",
                f"the model holds {what}: {wrong} of {value.numel()} numbers in '{name}'; a training that diverged "
                "leaves such weights, take an earlier checkpoint",
            )


def _example(module: nn.Module, example: Any) -> tuple[dict[str, Tensor], bool]:
    """Some rows of each input in the order of `forward`, and whether the module is called by their names."""
    if example is None:
        raise ConversionError("example_needed", "a module is exported with a batch of its inputs: give `example`")
    if hasattr(example, "to_numpy"):
        example = example.to_numpy(dtype=np.float32)
    if not isinstance(example, Mapping):
        example = named_inputs(list(example) if isinstance(example, tuple | list) else [example])
    given, by_name = arguments(module, {str(name): value for name, value in example.items()})
    tensors = {name: torch.as_tensor(value).detach().cpu() for name, value in given.items()}
    rows = {len(value) if value.ndim else 0 for value in tensors.values()}
    if len(rows) != 1 or 0 in rows:
        shapes = ", ".join(f"'{name}' {tuple(value.shape)}" for name, value in tensors.items())
        raise ConversionError("bad_example", f"every input of the example needs rows, as many as the others: {shapes}")
    many = {name: _as_many(value, _PROVEN_ROWS) for name, value in tensors.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in many.items()}, by_name


def _as_many(value: Tensor, rows: int) -> Tensor:
    return value[torch.arange(rows) % len(value)].contiguous()


@contextmanager
def in_inference(network: nn.Module) -> Iterator[None]:
    """Every part in inference, and afterwards in the mode that it was in."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _answers(
    tapped: TappedModule, inputs: list[Tensor], notes: list[str]
) -> tuple[list[Tensor], np.ndarray[Any, np.dtype[Any]]]:
    """The inputs as the module takes them, and its scores of them (N, K)."""
    failures: list[Exception] = []
    whole = any(not value.is_floating_point() for value in inputs)
    for attempt in (inputs, [value.float() for value in inputs]) if whole else (inputs,):
        try:
            with torch.no_grad():
                logits = tapped(*attempt)[0]
        except ConversionError:
            raise
        except Exception as error:  # whatever the module raises
            failures.append(error)
            continue
        if attempt is not inputs:
            notes.append("Whole numbers of the example were given as float32, since the module takes no others.")
        if not torch.isfinite(logits).all():
            raise ConversionError("non_finite_answers", "the model answers the example with NaN or infinite scores")
        return attempt, logits.numpy()
    shapes = ", ".join(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in inputs)
    raise ConversionError(
        "bad_example",
        f"the module does not take the example ({shapes}): {type(failures[0]).__name__}: {_first(failures[0])}",
    ) from failures[0]


def _written(
    tapped: TappedModule, names: Sequence[str], inputs: Sequence[Tensor], folder: Path, notes: list[str]
) -> Path:
    """The file by PyTorch's exporter of today, or by its older one where that cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    path, failures = folder / "model.onnx", []
    rows = tuple(_as_many(value, _EXPORTED_ROWS) for value in inputs)
    outputs = [LOGITS, *([FEATURES] if tapped.features else [])]
    for title, export in (("torch.export", _by_dynamo), ("TorchScript", _by_torchscript)):
        try:
            with quiet_exporter():
                export(tapped, rows, path, list(names), outputs)
        except OSError as error:
            raise ConversionError("cannot_write", f"{path} cannot be written: {error.strerror}") from error
        except Exception as error:  # the exporters raise whatever they run into
            failures.append(f"{title}: {type(error).__name__}: {_first(error)}")
            continue
        if failures:
            notes.append("PyTorch's older exporter (TorchScript) wrote it, since torch.export could not.")
        return path
    raise ConversionError(
        "not_exportable",
        f"PyTorch cannot write the module as ONNX ({'; '.join(failures)}); see torch.export about what forward may do, "
        "or calibrate its scores (`fedlas.LabelledScores`, `POST /v1/calibrators`)",
    )


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep what PyTorch's exporter prints, logs and warns of from people who cannot mend it."""
    levels = {name: logging.getLogger(name).level for name in ("onnxscript", "torch.onnx")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _by_dynamo(
    tapped: TappedModule, rows: tuple[Tensor, ...], path: Path, names: list[str], outputs: list[str]
) -> None:
    program = torch.onnx.export(
        *(tapped, rows),
        opset_version=_OPSET,
        input_names=names,
        output_names=outputs,
        dynamo=True,
        dynamic_shapes=(tuple({0: torch.export.Dim("N")} for _ in rows),),  # one argument, `*inputs`
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


def _by_torchscript(
    tapped: TappedModule, rows: tuple[Tensor, ...], path: Path, names: list[str], outputs: list[str]
) -> None:
    # A branch that depends on values is frozen by tracing, and the proof's rows may all have taken it.
    warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:  # nothing lies at `path` unless it is whole
        draft = Path(folder, "model.onnx")
        torch.onnx.export(
            *(tapped, rows, draft),
            opset_version=_OPSET,
            input_names=names,
            output_names=outputs,
            dynamo=False,
            dynamic_axes={name: {0: "N"} for name in [*names, *outputs]},
        )
        path.write_bytes(draft.read_bytes())


def _first(error: BaseException) -> str:
    """The first line of its message, without the colours of PyTorch's exporter."""
    lines = (line.strip() for line in _COLOURS.sub("", str(error)).splitlines())
    return next((line for line in lines if line), "no message")[:200]
