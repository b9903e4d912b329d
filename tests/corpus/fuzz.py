"""A fuzzer for every upload route: good uploads, changed at random, through the worker's inspection steps.

    python -m tests.corpus.fuzz --seconds 300 [--seed 0] [--kind onnx] [--keep FOLDER]

Every file is a function of its kind and its number. A file that makes the child die, ends in `internal_error`, or takes
over 30 s or 1 GB is kept and printed with that number; the exit code tells whether there was one.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import AttributeProto
from PIL import Image

from tests.corpus.case import BadFile
from tests.corpus.running import GIGABYTE, run_together
from tests.helpers import uploads as made

_BATCH = 60
_NUMBERS = (0, 1, -1, 2, 7, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff\x0f", b"\n", b",", b'"', b"\x00" * 8, b"\xff" * 8)
Random = np.random.Generator


def _table() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({
        "a": rng.normal(size=80), "b": rng.integers(0, 9, 80), "c": pa.array([[1, 2], [3]] * 40),
        "label": pa.array(["cat", "dog"] * 40).dictionary_encode(), "split": (["train"] * 5 + ["test"] * 3) * 10,
    })  # fmt: skip


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(_table(), buffer)
    return buffer.getvalue()


def _csv() -> bytes:
    rows = [f"{i / 7:.3f},{i % 5},{'cat' if i % 2 else 'dog'},{'train' if i % 3 else 'test'}" for i in range(120)]
    return "\n".join(["a,b,label,split", *rows]).encode()


def _folder() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(24):
            picture = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(picture, "PNG" if i % 2 else "JPEG")
            archive.writestr(f"{'cat' if i % 3 else 'dog'}/{i}.{'png' if i % 2 else 'jpg'}", picture.getvalue())
    return buffer.getvalue()


#: kind → (how good files of it are made, the route, its options)
SOURCES: Mapping[str, tuple[tuple[Callable[[], bytes], ...], str, Mapping[str, str]]] = {
    "onnx": ((made.image_model, made.text_model, made.binary_model), "models", {}),
    "npz": ((made.digits_npz,), "datasets", {}),
    "csv": ((_csv,), "datasets", {}),
    "parquet": ((_parquet,), "datasets", {"padding": '{"c": 0}'}),
    "imagefolder": ((_folder,), "datasets", {}),
}


@cache
def good(kind: str) -> tuple[bytes, ...]:
    """The good files of a kind."""
    return tuple(make() for make in SOURCES[kind][0])


def mutant(kind: str, number: int) -> bytes:
    """The file with this number: one to four changes of a good one."""
    rng = np.random.default_rng([sorted(SOURCES).index(kind), number])
    content = good(kind)[int(rng.integers(len(good(kind))))]
    if kind == "onnx" and rng.random() < 0.6:
        content = _graph_changed(content, rng)
    if kind == "npz" and rng.random() < 0.5:
        content = _member_changed(content, rng)
    if kind != "onnx" or rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            content = _bytes_changed(content, rng)
    return content


def _bytes_changed(content: bytes, rng: Random) -> bytes:
    size = max(1, len(content))
    # Headers stand at the beginning or at the end, and that is where readers decide.
    place = int(rng.choice([rng.integers(size), rng.integers(min(size, 256)), size - 1 - rng.integers(min(size, 256))]))
    length = int(2 ** rng.uniform(0, 10))
    kind = rng.integers(6)
    if kind == 0:
        return content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + content[place + length :]
    if kind == 2:
        return content[:place] + content[place : place + length] * int(rng.integers(2, 20)) + content[place + length :]
    if kind == 3:
        token = _BYTES[int(rng.integers(len(_BYTES)))]
        return content[:place] + token + content[place + len(token) * int(rng.integers(2)) :]
    if kind == 4:
        number = int(rng.choice(np.array(_NUMBERS, np.int64))).to_bytes(8, "little", signed=True)
        return content[:place] + number + content[place + 8 :]
    return content[:place] if rng.random() < 0.3 else content[:place] + rng.bytes(min(length, 64)) + content[place:]


def _member_changed(content: bytes, rng: Random) -> bytes:
    """Change the inside of one member of a zip, whose checksums stay right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = old.namelist()[int(rng.integers(len(old.namelist())))]
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, _bytes_changed(member, rng) if name == chosen else member)
    return buffer.getvalue()


def _graph_changed(content: bytes, rng: Random) -> bytes:
    """Change what a graph says, in ways that still parse."""
    model = onnx.load_from_string(content)
    nodes, tensors = model.graph.node, model.graph.initializer
    for _ in range(int(rng.integers(1, 4))):
        node = nodes[int(rng.integers(len(nodes)))]
        kind = rng.integers(7)
        if kind == 0 and node.attribute:
            _attribute_changed(node.attribute[int(rng.integers(len(node.attribute)))], rng)
        elif kind == 1 and tensors:
            tensor = tensors[int(rng.integers(len(tensors)))]
            if tensor.dims:
                tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(np.array(_NUMBERS, np.int64)))
        elif kind == 2:
            node.op_type = str(rng.choice(sorted({schema.name for schema in onnx.defs.get_all_schemas()})))
        elif kind == 3 and node.input:
            names = [*(t.name for t in tensors), *(n for other in nodes for n in [*other.input, *other.output]), ""]
            node.input[int(rng.integers(len(node.input)))] = names[int(rng.integers(len(names)))]
        elif kind == 4:
            nodes.insert(int(rng.integers(len(nodes))), node)
        elif kind == 5:
            _integers_changed(model, rng)
        else:
            shape = model.graph.input[0].type.tensor_type.shape
            shape.dim[int(rng.integers(len(shape.dim)))].dim_value = int(rng.choice(np.array(_NUMBERS, np.int64)))
    return bytes(model.SerializeToString())


def _integers_changed(model: onnx.ModelProto, rng: Random) -> None:
    """Change a shape, an axis or an index that the graph holds as a tensor."""
    tensors = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute)]
    if whole := [t for t in tensors if t.data_type == onnx.TensorProto.INT64 and t.raw_data]:
        tensor = whole[int(rng.integers(len(whole)))]
        values = np.frombuffer(tensor.raw_data, np.int64).copy()
        values[int(rng.integers(len(values)))] = rng.choice(np.array(_NUMBERS, np.int64))
        tensor.raw_data = values.tobytes()


def _attribute_changed(attribute: AttributeProto, rng: Random) -> None:
    number = int(rng.choice(np.array(_NUMBERS, np.int64)))
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = number
    elif attribute.type == AttributeProto.INT:
        attribute.i = number
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = float(rng.choice([np.nan, np.inf, -1.0, 1e30]))
    else:
        attribute.type = int(rng.integers(1, 12))


def batch(kind: str, start: int, folder: Path) -> tuple[int, list[tuple[int, str]]]:
    """Try the numbers from `start` on; returns the next number and what went wrong."""
    _, route, options = SOURCES[kind]
    cases = []
    for number in range(start, start + _BATCH):
        content = mutant(kind, number)

        def write(place: Path, content: bytes = content) -> Path:
            path = place / f"upload.{kind}"
            path.write_bytes(content)
            return path

        cases.append(BadFile(f"{kind} {number}", write, frozenset(), route, options))  # type: ignore[arg-type]
    answers = run_together(cases, folder)
    found = []
    for number, answer in enumerate(answers, start):
        if answer.code == "internal_error" or answer.code.startswith("died"):
            found.append((number, f"{answer.code} {answer.message[-1000:]}"))
        elif answer.seconds > 30 or answer.peak > GIGABYTE:
            found.append((number, f"{answer.code} after {answer.seconds:.0f} s, {answer.peak / 1e6:.0f} MB"))
    return start + len(answers), found


def main() -> int:
    """Fuzz all kinds in turn until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="number of the first file of each kind")
    parser.add_argument("--kind", choices=sorted(SOURCES), action="append")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    following = dict.fromkeys(options.kind or sorted(SOURCES), options.seed)
    until, bad = time.monotonic() + options.seconds, 0
    while time.monotonic() < until:
        for kind in following:
            with tempfile.TemporaryDirectory() as folder:
                following[kind], found = batch(kind, following[kind], Path(folder) / "all")
            for number, what in found:
                bad += 1
                (options.keep / f"{kind}-{number}").write_bytes(mutant(kind, number))
                print(f"{kind} {number}: {what}", flush=True)
    print(f"tried up to {following}, {bad} went wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
