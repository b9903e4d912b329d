"""Files that are no ONNX: archives, other libraries' formats, and pickles with a canary that would create a file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from tests.corpus.case import BadFile

UNSAFE = frozenset({"unsafe_format"})
#: Nothing at all is refused at the door.
NOT_ONNX = frozenset({"not_onnx", "truncated", "unsafe_format", "empty_upload"})


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "canary")

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def written(name: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    """A maker of the file `name` with that content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content(folder))
        return path

    return make


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    """The bytes that `save` writes into a file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(buffer)
    return buffer.getvalue()


def pickled(protocol: int) -> Callable[[Path], bytes]:
    """A pickle with a canary."""
    return lambda folder: pickle.dumps({"weights": [1.0, 2.0], "more": Canary(folder)}, protocol=protocol)


def joblib_with(compress: Any) -> Callable[[Path], bytes]:
    """A joblib file with a canary and an array."""
    return lambda folder: saved(lambda file: joblib.dump([np.ones(4), Canary(folder)], file, compress=compress))


def zipped(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def exported() -> dict[str, bytes]:
    """The members of a good `.pt2` archive with a dynamic batch."""
    shapes = ({0: torch.export.Dim("n")},)
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(3, 2),), dynamic_shapes=shapes)
    with zipfile.ZipFile(io.BytesIO(saved(lambda file: torch.export.save(program, file)))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def torch_pickle(folder: Path, *, zip_file: bool = True) -> bytes:
    """`torch.save` of a canary."""
    return saved(lambda file: torch.save([Canary(folder)], file, _use_new_zipfile_serialization=zip_file))


def pt2_sample_inputs(folder: Path) -> bytes:
    """A `.pt2` whose sample inputs are a pickle."""
    return zipped({**exported(), "archive/data/sample_inputs/model.pt": torch_pickle(folder)})


def pt2_weights(folder: Path) -> bytes:
    """A `.pt2` whose JSON asks for a weight to be unpickled."""
    members = exported()
    name = "archive/data/weights/model_weights_config.json"
    config = json.loads(members[name])
    config["config"]["weight"]["use_pickle"] = True
    return zipped({**members, name: json.dumps(config).encode(), "archive/data/weights/weight_0": torch_pickle(folder)})


def pt2_expression(folder: Path) -> bytes:
    """A `.pt2` whose JSON holds an expression in Python where a size is expected."""
    members = exported()
    name = "archive/models/model.json"
    run = f"__import__('pathlib').Path({str(folder / 'canary')!r}).touch()"
    program = members[name].decode()
    begin = program.index('"expr_str": "') + len('"expr_str": "')
    return zipped({**members, name: program.replace(program[begin : program.index('"', begin)], run).encode()})


def script_archive(folder: Path) -> bytes:
    """An archive of TorchScript: a zip of code and a pickle."""
    return zipped({
        "model/data.pkl": pickle.dumps(Canary(folder), protocol=2),
        "model/code/__torch__.py": b"class Net(Module):\n  pass\n",
        "model/version": b"3\n",
    })  # fmt: skip


@cache
def deflated_gigabyte() -> bytes:
    """A `.pth` of 1 MB that unpacks to 1 GB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as member,
    ):
        for _ in range(64):
            member.write(bytes(16 * 1024**2))
    return buffer.getvalue()


def tar(folder: Path) -> bytes:
    """A tar archive with a pickle, as the oldest torch.save and TorchServe wrote."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = pickle.dumps(Canary(folder))
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


_PICKLED: dict[str, Callable[[Path], bytes]] = {
    **{f"pickle protocol {protocol}.pkl": pickled(protocol) for protocol in range(6)},
    "pickle named.onnx": pickled(4),
    "torch.save.pth": torch_pickle,
    "legacy torch.save.pt": lambda folder: torch_pickle(folder, zip_file=False),
    "TorchScript.pt": script_archive,
    "pickled sample inputs.pt2": pt2_sample_inputs,
    "pickled weights.pt2": pt2_weights,
    "expression.pt2": pt2_expression,
    "deflated.pth": lambda folder: deflated_gigabyte(),
    "plain.joblib": joblib_with(0),
    "zlib.joblib": joblib_with(3),
    "gzip.joblib": joblib_with(("gzip", 3)),
    "bz2.joblib": joblib_with(("bz2", 3)),
    "xz.joblib": joblib_with(("xz", 3)),
    "lzma.joblib": joblib_with(("lzma", 3)),
    "gzip.pkl.gz": lambda folder: gzip.compress(pickled(4)(folder)),
    "bz2.pkl.bz2": lambda folder: bz2.compress(pickled(4)(folder)),
    "xz.pkl.xz": lambda folder: lzma.compress(pickled(4)(folder)),
    "zlib.pkl.z": lambda folder: zlib.compress(pickled(4)(folder)),
    "empty archive.zip": lambda folder: zipped({}),
    "zip of an ONNX file.zip": lambda folder: zipped({"model.onnx": b"\x08\x08"}, compression=zipfile.ZIP_DEFLATED),
}
_OTHERS: dict[str, Callable[[Path], bytes]] = {
    "old archive.tar": tar,
    "nothing.onnx": lambda folder: b"",
    "one byte.onnx": lambda folder: b"\x08",
    "text.onnx": lambda folder: b"this is a model, believe me\n" * 50,
    "json.onnx": lambda folder: json.dumps({"irVersion": 8, "graph": {"node": []}}).encode(),
    "page.onnx": lambda folder: b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "zeros.onnx": lambda folder: bytes(10_000),
    "ones.onnx": lambda folder: b"\xff" * 10_000,
    "program.onnx": lambda folder: b"\x7fELF\x02\x01\x01" + bytes(500),
    "keras.keras": lambda folder: zipped({"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}),
    "keras.h5": lambda folder: b"\x89HDF\r\n\x1a\n" + bytes(2048),
    "lite.tflite": lambda folder: struct.pack("<I", 28) + b"TFL3" + bytes(200),
    "core.mlmodel": lambda folder: b"\x08\x04\x12\x10\x0a\x06\x0a\x01x\x1a\x01y\x52\x06\x0a\x04test" + bytes(40),
    "array.npy": lambda folder: saved(lambda file: np.save(file, np.ones(100))),
    "table.csv": lambda folder: b"a,b,label\n1,2,0\n3,4,1\n",
    "script.py": lambda folder: b"import os\nos.system('touch canary')\n",
}
#: Weights whose length begins as ONNX, a pickle or a zlib stream do, or in a zip as of a Hugging Face folder.
_WEIGHTS: dict[str, Callable[[Path], bytes]] = {
    **{
        f"{length.hex()}.safetensors": lambda folder, length=length: (
            length + bytes(6) + b"{".ljust(int.from_bytes(length, "little")) + bytes(8)
        )
        for length in (b"\x08\x01", b"\x80\x02", b"x\x01")
    },
    "folder.zip": lambda folder: zipped({"config.json": b"{}", "bert/model.safetensors": b"x"}),
    "graph beside weights.zip": lambda folder: zipped({"m.onnx": b"\x08\x08", "model.safetensors": b"x"}),
}
CASES = [
    *(
        BadFile(name, written(name, content), frozenset({"needs_graph"}), "models")
        for name, content in _WEIGHTS.items()
    ),
    *(BadFile(name, written(name, content), UNSAFE, "models") for name, content in _PICKLED.items()),
    *(BadFile(name, written(name, content), NOT_ONNX, "models") for name, content in _OTHERS.items()),
]
