"""Files that are no classifiers are refused with a code and a sentence, and nothing of them is ever run."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers import check_parity, load_onnx
from fedlas.importers.onnx.parse.checks import survey
from fedlas.importers.onnx.parse.parsing import _allowed, read_model
from tests.helpers.networks import Composed, Inputs, export, mlp, table
from tests.helpers.refusals import refusal


def refused(path: Path, **options: Any) -> UnsupportedModel:
    with pytest.raises(UnsupportedModel) as caught:
        load_onnx(path, **options)
    return caught.value


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return export(mlp().eval(), table(2), tmp_path / "good.onnx")


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


PARQUET, CSV = b"PAR1" + bytes(100) + b"PAR1", b"score,label\n0.5,1\n0.1,0\n"
ROWS = {"npz": saved(lambda b: np.savez(b, a=np.ones(2))), "csv": CSV, "parquet": PARQUET}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_in_place_of_a_model(kind: str, tmp_path: Path) -> None:
    """Rows or scores that come as a model are called rows, with the place where scores alone go."""
    path = tmp_path / "model.onnx"
    path.write_bytes(ROWS[kind])
    error = refused(path)
    assert error.code == "not_onnx"
    assert kind in error.message
    assert "exchanged?" in error.message
    assert "POST /v1/calibrators (fedlas calibrators create)" in error.message


def test_shortened_weights_are_corrupt(good: Path) -> None:
    """A tensor with fewer bytes than its shape says is named."""
    model = onnx.load(good)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "corrupt"
    assert model.graph.initializer[0].name in error.message


@pytest.fixture
def pair(good: Path) -> dict[str, bytes]:
    """A graph and the file of its weights, by name; both lie in the folder of `good`."""
    onnx.save(onnx.load(good), good, save_as_external_data=True, location="good.onnx.data", size_threshold=0)
    return {name: good.with_name(name).read_bytes() for name in ("good.onnx", "good.onnx.data")}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("folder", ["", "exported/"])
def test_a_graph_and_its_weights(folder: str, pair: dict[str, bytes], tmp_path: Path) -> None:
    """A zip of the two, and a graph beside its weights, are the network of one file: proven against ONNX Runtime."""
    path = zipped(tmp_path / "zip", {folder + name: content for name, content in reversed(pair.items())})
    assert check_parity(path, load_onnx(path, allow_beside=False)) < 1e-6
    assert check_parity(path, load_onnx(tmp_path / "good.onnx")) < 1e-6


def test_a_strangers_file_reads_nothing_beside_it(pair: dict[str, bytes], good: Path) -> None:
    """Weights that were not sent are named with the way to one file, though a file of that name is there."""
    with refusal(UnsupportedModel, "external_data") as caught:
        load_onnx(good, allow_beside=False)
    assert "'good.onnx.data', which did not come with it" in caught.value.message
    assert 'onnx.save(onnx.load("m.onnx"), "one.onnx")' in caught.value.message
    good.with_name("good.onnx.data").unlink()
    assert refused(good).message == caught.value.message


def outside(pair: dict[str, bytes], **stated: str) -> dict[str, bytes]:
    """The two with something else stated of one tensor."""
    model = onnx.load_from_string(pair["good.onnx"])
    entries = model.graph.initializer[0].external_data
    values = {entry.key: entry.value for entry in entries} | stated
    del entries[:]
    for key, value in values.items():
        entries.add(key=key, value=value)
    return {**pair, "good.onnx": model.SerializeToString()}


PAIRS: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "cut off": (lambda p: {**p, "good.onnx.data": p["good.onnx.data"][:-1]}, "the file was cut off, or is"),
    "longer": (lambda p: {**p, "good.onnx.data": p["good.onnx.data"] + bytes(70_000)}, "it is another model's"),
    "other name": (lambda p: {"m.onnx": p["good.onnx"], "w.bin": p["good.onnx.data"]}, "what came with it is 'w.bin'"),
    "exchanged": (lambda p: {"a.onnx": p["good.onnx.data"], "b": p["good.onnx"]}, "'b', which came as"),
    "folder": (lambda p: outside(p, location="x/good.onnx.data"), "one file of that very name"),
    "parent": (lambda p: outside(p, location="../good.onnx.data"), "one file of that very name"),
    "absolute": (lambda p: outside(p, location="/etc/passwd"), "one file of that very name"),
    "before it": (lambda p: outside(p, offset="-4"), "from byte -4 of"),
    "negative": (lambda p: outside(p, length="-4"), "takes -4 bytes from"),
    "behind it": (lambda p: outside(p, offset="99999999"), "from byte 99999999 of"),
    "no number": (lambda p: outside(p, offset="x"), "from byte x of"),
    "shared": (lambda p: outside(p, offset="0", length=str(len(p["good.onnx.data"]))), "states more bytes of"),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_weights_that_are_not_this_graphs(case: str, pair: dict[str, bytes], tmp_path: Path) -> None:
    """Each way in which the two do not belong together has its sentence, and no other file is read."""
    make, words = PAIRS[case]
    error = refused(zipped(tmp_path / "zip", make(pair)))
    assert (error.code, words in error.message) == ("external_data", True), error.message


def test_external_data_in_a_constant_node(good: Path) -> None:
    """External data hides in Constant nodes too, and in paths that lead elsewhere."""
    model = onnx.load(good)
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    good.write_bytes(model.SerializeToString())
    assert refused(good).code == "external_data"


@pytest.mark.parametrize(("opset", "ir_version"), [(27, 10), (6, 10), (18, 14)])
def test_versions_that_cannot_be_served(opset: int, ir_version: int, good: Path) -> None:
    """Opsets and IR versions that ONNX Runtime does not open are refused with the ones that it does."""
    model = onnx.load(good)
    model.opset_import[0].version, model.ir_version = opset, ir_version
    good.write_bytes(model.SerializeToString())
    assert refused(good).code == "unsupported_opset"


def test_quantised_graphs(good: Path) -> None:
    """A quantised graph has no weights that could be trained."""
    model = onnx.load(good)
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"]))
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "quantized"
    assert "DequantizeLinear" in error.message


@pytest.mark.parametrize("nested", ["If", "Loop"])
def test_unknown_operators_are_all_named(nested: str, good: Path) -> None:
    """Operators are listed with their domains, also those with nested graphs; a loop with how to do without one."""
    model = onnx.load(good)
    output = model.graph.output[0].name
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)])
    branches = {"body": inner} if nested == "Loop" else {"then_branch": inner, "else_branch": inner}
    model.graph.node.append(helper.make_node(nested, [output], ["b"], **branches))
    model.graph.node.append(helper.make_node("Strange", ["b"], ["c"], domain="my.own"))
    model.graph.output[0].name = "c"
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "unsupported_operator"
    assert nested in error.message
    assert "my.own.Strange" in error.message
    assert ("unroll=True" in error.message) == (nested == "Loop")


def test_a_graph_that_reads_what_nothing_computes(good: Path) -> None:
    """A missing tensor is named."""
    model = onnx.load(good)
    model.graph.node[0].input[0] = "nowhere"
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "corrupt"
    assert "nowhere" in error.message


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(10, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.cell(x, state)
        return self.out(y[:, -1]), state


NO_CLASSIFIERS: dict[str, tuple[Callable[[], nn.Module], Inputs, str]] = {
    "sequence output": (
        lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3)),
        (torch.ones(2, 7, dtype=torch.long),),
        "no_classifier_output",
    ),
    "embedding": (lambda: nn.Sequential(nn.Linear(10, 8), nn.ReLU()), table(2), "no_classifier_output"),
    "softmax over one": (lambda: Composed(mlp(1), lambda y: y.softmax(1)), table(2), "no_classifier_output"),
    "recurrent states": (Recurrent, (torch.ones(1, 5, 10), torch.zeros(1, 1, 8)), "no_classifier_output"),
    "independent sigmoids": (lambda: Composed(mlp(4), torch.sigmoid), table(2), "multilabel_unsupported"),
    "one raw column": (lambda: mlp(1), table(2), "ambiguous_output"),
    "rows that mix": (lambda: Composed(mlp(), lambda y: y - y.mean(0, keepdim=True)), table(2), "fixed_batch"),
}


@pytest.mark.parametrize("kind", NO_CLASSIFIERS)
def test_networks_that_are_no_classifiers(kind: str, tmp_path: Path) -> None:
    """A network that is no classifier of independent rows over exclusive classes is refused with its own code."""
    make, example, code = NO_CLASSIFIERS[kind]
    error = refused(export(make().eval(), example, tmp_path / "m.onnx", dynamic=False))
    assert error.code == code
    assert len(error.message) > 60


@pytest.mark.parametrize("seed", range(40))
def test_damaged_graphs_are_refused_in_words(seed: int, good: Path) -> None:
    """Whatever is damaged in a file, it opens or is refused with a code; no other exception comes out."""
    rng = np.random.default_rng(seed)
    model = onnx.load(good)
    node = model.graph.node[rng.integers(len(model.graph.node))]
    if seed % 4 == 0:
        del node.input[-1]
    elif seed % 4 == 1:
        node.op_type = rng.choice(["Gather", "Reshape", "BatchNormalization", "Slice", "Dropout", "Identity"])
    elif seed % 4 == 2:
        node.input[0] = rng.choice([tensor.name for tensor in model.graph.initializer])
    content = bytearray(model.SerializeToString())
    if seed % 4 == 3:
        for place in rng.integers(len(content), size=5):
            content[place] = rng.integers(256)
    good.write_bytes(content)
    with contextlib.suppress(UnsupportedModel):
        assert load_onnx(good).num_classes


def with_constant(good: Path, value: np.ndarray) -> Path:
    """The good model with a constant added to its input."""
    model = onnx.load(good)
    first = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["moved" if name == first else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(value, "constant"))
    model.graph.node.insert(0, helper.make_node("Add", [first, "low"], ["moved"]))
    model.graph.node.insert(0, helper.make_node("Clip", ["tiny", "constant"], ["low"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.25, np.float32), "tiny"))
    good.write_bytes(model.SerializeToString())
    return good


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_single_number_need_not_be_finite(value: float, good: Path) -> None:
    """Open bounds and missing-value marks are legitimate; only weights must be finite."""
    assert read_model(with_constant(good, np.array(value, np.float32))).graph.initializer


def test_infinities_of_a_mask_are_no_weights(good: Path) -> None:
    """An attention mask of minus infinity is accepted where the same in a weight is not."""
    model = onnx.load(good)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    model.graph.initializer.append(numpy_helper.from_array(np.triu(np.full((4, 4), -np.inf, np.float32), 1), "mask"))
    model.graph.node.append(helper.make_node("Add", ["mask", "mask"], ["unused"]))
    good.write_bytes(model.SerializeToString())
    assert read_model(good).graph.initializer[-1].name == "mask"
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = -np.inf
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "non_finite_weights"
    assert weight.name in error.message


@pytest.mark.parametrize("seed", range(3))
def test_counting_on_the_bytes_agrees_with_the_parser(seed: int, good: Path) -> None:
    """The count on the bytes takes apart all that the parser does, but for groups, which ONNX does not use."""
    content = good.read_bytes()
    survey(content)
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(content), size=300):
        changed = bytearray(content)
        changed[place] = rng.integers(256)
        try:
            survey(bytes(changed))
        except DecodeError as error:
            if "group" not in str(error):
                with pytest.raises(DecodeError):
                    onnx.ModelProto.FromString(bytes(changed))


def test_functions_are_counted_as_written_out(good: Path) -> None:
    """A function used twice counts twice, one that is used within the limit opens, and a circle is refused."""
    model = onnx.load(good)
    scores = model.graph.output[0].name
    opsets = [helper.make_opsetid("", model.opset_import[0].version), helper.make_opsetid("own", 1)]
    relu = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "Soft", ["a"], ["b"], [relu], opsets[:1]))
    model.opset_import.append(opsets[1])
    model.graph.node.append(helper.make_node("Soft", [scores], ["unused"], domain="own"))
    good.write_bytes(model.SerializeToString())
    assert load_onnx(good).num_classes
    model.functions[0].node[0].CopyFrom(helper.make_node("Soft", ["a"], ["b"], domain="own"))
    good.write_bytes(model.SerializeToString())
    assert refused(good).code == "cyclic_graph"


def test_the_list_of_operators() -> None:
    """Operators that run code of others are on no list; those of all exporters are."""
    assert not {"com.microsoft.PythonOp", "org.pytorch.aten.ATen", "ai.onnx.training.Adam"} & _allowed()
    assert {"Conv", "Gemm", "ai.onnx.ml.LinearClassifier", "com.microsoft.Gelu"} <= _allowed()


def test_which_limit_a_graph_is_over(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are counted to the end and reported; a count of parts or of values ends at its limit, which is named."""
    model = onnx.load(good)
    count = len(model.graph.node) + 20_000
    model.graph.node.extend(helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(20_000))
    good.write_bytes(model.SerializeToString())
    error = refused(good)
    assert error.code == "too_many_nodes"
    assert f"{count:,} nodes; at most 20,000" in error.message
    monkeypatch.setattr("fedlas.importers.onnx.parse.checks._MAX_PARTS", 1000)
    assert "more than 1,000 parts" in refused(good).message


def test_values_that_are_not_packed_are_counted(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of a list that are fields of their own, as an attribute's are; nothing after too many of them is read."""
    model = onnx.load(good)
    model.graph.node[0].attribute.append(helper.make_attribute("list", list(range(5000))))
    content = model.SerializeToString()
    monkeypatch.setattr("fedlas.importers.onnx.parse.checks._MAX_FIELDS", 4000)
    with refusal(UnsupportedModel, "too_many_nodes", "more than 4,000 values in lists"):
        survey(content)
    with pytest.raises(UnsupportedModel, match="more than 4,000 values in lists"):
        survey(b"\x08\x0a" * 5000 + b"\x0b")  # a number over and over, then what no reader takes
