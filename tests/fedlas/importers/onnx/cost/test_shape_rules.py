"""Every operator that may be run has a rule for the sizes that it reads, and the rules hold for ONNX's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import defs, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.cost.serving_cost import Interpretation
from fedlas.importers.onnx.cost.shape_rules import AbstractTensor
from fedlas.importers.onnx.operators import OPERATORS
from fedlas.importers.onnx.operators.table import READ, RUNTIME_OPERATORS, read_at, refused
from tests.helpers.node_suite import SKIPPED, Case, claimed, out_of_scope

#: Operator sets below are not opened.
_OLDEST = 7
#: All cases agree; of so many one is tried, which takes seconds.
_EVERY = 8
#: Operators with a graph inside: nodes with one are refused.
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


def _name(schema: Any) -> str:
    return schema.name if not schema.domain else f"{schema.domain}.{schema.name}"


def _runnable() -> dict[str, list[Any]]:
    """The versions of every standard operator that an opaque graph may have."""
    found: dict[str, list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        node = helper.make_node(schema.name, [], [], domain=schema.domain)
        if schema.domain in ("", "ai.onnx.ml") and not refused([node]):
            found.setdefault(_name(schema), []).append(schema)
    return found


def test_every_operator_has_a_rule() -> None:
    """An operator that is added to the table, or that a newer ONNX brings, must say what it reads at each input."""
    assert not OPERATORS.keys() - READ.keys()
    assert not RUNTIME_OPERATORS - READ.keys()
    assert not _runnable().keys() - READ.keys() - _CONTROL_FLOW


def test_every_input_of_an_operator_has_a_letter() -> None:
    """A rule has one letter for each input that any version of the operator has, and `*` where it has any number."""
    for name, schemas in _runnable().items():
        letters = READ.get(name, "*")
        newer = [schema for schema in schemas if schema.since_version >= _OLDEST] or schemas[-1:]
        variadic = any("Variadic" in str(item.option) for schema in newer for item in schema.inputs)
        assert variadic == letters.endswith("*") or name in _CONTROL_FLOW, name
        assert variadic or max(len(schema.inputs) for schema in newer) == len(letters) or name == "Tile", name


def _assert_holds(known: AbstractTensor, value: Any) -> None:
    if known.shape is not None:
        assert len(known.shape) == value.ndim
        assert all(a >= b for a, b in zip(known.shape, value.shape, strict=True))
        assert not known.fixed or known.shape == value.shape
    assert known.count is None or known.count >= value.size


@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "constants"])
def test_the_rules_hold_for_the_projects_own_cases(constant: bool) -> None:
    """Sizes of each expected output lie within their bounds, for any inputs and for known ones."""
    checked = 0
    for case in claimed()[constant::_EVERY]:
        if out_of_scope(case) is None and case.name not in SKIPPED:
            checked += _checked(case, constant)
    assert checked > 100


def _checked(case: Case, constant: bool) -> int:
    graph = case.graph()
    given = {info.name: np.asarray(value) for info, value in zip(graph.inputs, case.inputs, strict=True)}
    if constant:
        graph.constants.update(given)
        graph.inputs = []
    else:  # what is a size to the operator stays known: how unknown ones are treated is tried elsewhere
        read = [(name, read_at(node, i)) for node in graph.nodes for i, name in enumerate(node.input)]
        sizes = {name for name, letter in read if letter == "s"}
        graph.constants.update({name: value for name, value in given.items() if name in sizes})
        graph.inputs = [info for info in graph.inputs if info.name not in sizes]
    try:
        walk = Interpretation(graph, {name: value.shape for name, value in given.items()}, constants={})
    except UnsupportedModel:  # an operator written out in others computes its sizes from what is a size to it
        return 0
    for name, value in zip(graph.outputs, case.outputs, strict=True):
        _assert_holds(walk.tensors[name], np.asarray(value))
    return 1
