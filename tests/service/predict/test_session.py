"""An open model: bound inputs and outputs, as on CUDA, answer as plain runs do; and a GPU left idle is named."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedlas.extras import cuda_remedy, has_gpu
from service.predict.engine import session
from service.predict.engine.session import OpenModel, prepare
from service.registry.errors import InvalidRequest, RegistryError, Unavailable
from tests.helpers.served import hungry, lookup, scaling

OUTPUTS = ("logits", "probabilities", "confidence", "features")
#: Messages of ONNX Runtime's bfc_arena.cc and cuda_call.cc, behind those of its Python binding.
LACKS = (
    "Error when bind input: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 8",
    "Error in execution: Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDA failure "
    "2: out of memory ; GPU=0 ; hostname=h ; file=cuda_allocator.cc ; line=47 ; expr=cudaMalloc((void**)&p, size); ",
    "Error in execution: CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=h ; file=f ; expr=e; ",
)
FAILS = "Error in execution: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=e; "


def opened(folder: Path, content: bytes, *, binds: bool) -> OpenModel:
    """A model of this file, whose runs are bound or not."""
    file = folder / "model.onnx"
    file.write_bytes(content)
    model = OpenModel(file)
    assert not model.binds, "sessions run on the CPU here"
    model.binds = binds
    return model


def test_bound_runs_answer_bit_for_bit_as_plain_ones(tmp_path: Path) -> None:
    """All outputs in the order in which they are asked for, of rows that lie apart in memory too; each is its own."""
    plain, bound = (opened(tmp_path, scaling(1.7, columns=5), binds=binds) for binds in (False, True))
    rows = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
    for x in (rows[:, :5].copy(), rows[::3, ::2], rows.T[::2, :5][:0]):
        for names in (OUTPUTS, OUTPUTS[::-1], ("confidence",)):
            expected, found = plain.run({"x": x}, names), bound.run({"x": x}, names)
            assert list(found) == list(names)
            for name in names:
                assert found[name].dtype == expected[name].dtype
                assert found[name].shape == expected[name].shape
                assert found[name].tobytes() == expected[name].tobytes()
    first = bound.run({"x": rows[:, :5]}, OUTPUTS)
    kept = {name: array.copy() for name, array in first.items()}
    bound.run({"x": rows[:, 5:]}, OUTPUTS)
    assert all(np.array_equal(first[name], kept[name]) for name in OUTPUTS), "a later run changes no answer"


def test_bound_runs_refuse_as_plain_ones_do(tmp_path: Path) -> None:
    """A token beyond the vocabulary, and rows that need more memory than there is: one class, code and sentence."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    for content, x in ((lookup(table), np.array([[1], [99]])), (hungry(), np.array([[1e13, 0]], dtype=np.float32))):
        errors: list[RegistryError] = []
        for binds in (False, True):
            with pytest.raises((InvalidRequest, Unavailable)) as caught:
                opened(tmp_path, content, binds=binds).run({"x": x}, OUTPUTS)
            errors.append(caught.value)
        plain, bound = errors
        assert (type(bound), bound.code, bound.field, bound.message) == (
            type(plain), plain.code, plain.field, plain.message,
        )  # fmt: skip


def test_what_cuda_lacks_is_memory_and_what_breaks_is_no_mistake_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's words for a lack are `out_of_memory`; its other failures blame no row. Played: there is no GPU here."""
    model = opened(tmp_path, scaling(1), binds=True)

    def fail(message: str) -> None:
        raise RuntimeError(message)

    def with_message(message: str) -> None:
        monkeypatch.setattr(model, "_session", SimpleNamespace(io_binding=partial(fail, message)))
        model.run({"x": np.zeros((1, 2), dtype=np.float32)}, OUTPUTS)

    for message in LACKS:
        with pytest.raises(Unavailable) as caught:
            with_message(message)
        assert caught.value.code == "out_of_memory"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        with_message(FAILS)


def test_a_gpu_that_is_left_idle_is_one_warning_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With an NVIDIA device and the provider for CPUs the log says why, and what to install; else nothing."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(session, "has_gpu", partial(has_gpu, tmp_path))
    prepare()
    assert caplog.messages == []
    (tmp_path / "nvidia0").touch()
    prepare()
    sentence = "predictions run on CPUExecutionProvider, although this machine has a GPU"
    assert caplog.messages == [f"{sentence}: {cuda_remedy()}"]


def test_a_model_that_falls_back_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that could not be opened on the process's provider runs on another one, which the log names."""
    usual = session.providers()
    monkeypatch.setattr(session, "providers", lambda: ("CUDAExecutionProvider", *usual))
    with warnings.catch_warnings(action="ignore"):  # ONNX Runtime's own, where this build knows no CUDA
        opened(tmp_path, scaling(1), binds=False)
    sentence = "model.onnx was opened on CPUExecutionProvider, since it could not be on CUDAExecutionProvider"
    assert caplog.messages == [sentence]
