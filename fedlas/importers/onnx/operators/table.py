"""The table of ONNX operators: one operator is one function on tensors.

A function's positional parameters are the operator's inputs, its keyword-only parameters are the operator's attributes,
both by the names of the ONNX specification. Two keyword names are filled in by the importer where a function asks for
them: `opset` (semantics changed over time) and `num_outputs` (the node's number of outputs).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel

F = TypeVar("F", bound=Callable[..., Any])

STANDARD_DOMAINS = ("", "ai.onnx")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Operator:
    """A function and how to call it.

    Attributes:
        function: computes the operator's output, or a tuple of its outputs.
        host: positions of inputs that the function reads as numbers (shapes, axes, indices), on whatever device.
        keywords: the attributes that it understands.
        fixed: keyword arguments that tell several operators of one function apart.
        gradient: whether a loss can be differentiated through it; never through ArgMax, Round or a comparison.
        several: the function answers with a tuple, however many outputs the node has.
    """

    function: Callable[..., Any]
    host: tuple[int, ...] = ()
    keywords: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    gradient: bool = True
    several: bool = False


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, host: tuple[int, ...] = (), gradient: bool = True) -> Callable[[F], F]:
    """Enter the decorated function into the table under `names`."""

    def enter(function: F) -> F:
        enter_all(dict.fromkeys(names, function), host=host, gradient=gradient)
        return function

    return enter


def enter_all(
    functions: Mapping[str, Callable[..., Any]], *, host: tuple[int, ...] = (), gradient: bool = True
) -> None:
    """Enter several operators whose attributes are the functions' own keywords."""
    for name, function in functions.items():
        several = _returns_tuple(function)
        OPERATORS[name] = Operator(function, host, keyword_names(function), gradient=gradient, several=several)


def enter_kinds(
    function: Callable[..., Any], kinds: Iterable[str], *, host: tuple[int, ...] = (), gradient: bool = True
) -> None:
    """Enter one function for several operators; which one is meant it learns by its keyword `kind`."""
    known = keyword_names(function) - {"kind"}
    OPERATORS.update({kind: Operator(function, host, known, {"kind": kind}, gradient) for kind in kinds})


def has_gradient(name: str) -> bool:
    """Whether a loss can be differentiated through the operator `name`; False too for those not in the table."""
    return name in OPERATORS and OPERATORS[name].gradient


def node_has_gradient(node: NodeProto) -> bool:
    """As `has_gradient`, but a Cast has one only where it casts to floats."""
    casts = operator_name(node) == "Cast" and attributes(node).get("to") not in _FLOATS
    return has_gradient(operator_name(node)) and not casts


def keyword_names(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's keyword-only parameters; none for functions of PyTorch, which ONNX's never match."""
    if not inspect.isfunction(function) or not function.__module__.startswith("fedlas."):
        return frozenset()
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _returns_tuple(function: Callable[..., Any]) -> bool:
    return inspect.isfunction(function) and str(function.__annotations__.get("return", "")).startswith("tuple")


def operator_name(node: NodeProto) -> str:
    """`Conv` for a standard operator, `com.microsoft.Gelu` for any other domain."""
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, which lists of operators are written as."""
    return frozenset(text.split())


def attributes(node: NodeProto) -> dict[str, Any]:
    """The node's attributes as plain Python values (tensors as `(values, dtype name)`)."""
    return {attribute.name: _plain(attribute) for attribute in node.attribute}


def _plain(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return tuple(item.decode() for item in value)
    if attribute.type == AttributeProto.TENSOR:
        array = numpy_helper.to_array(value)
        return array.ravel().tolist(), array.dtype.name
    return tuple(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def keywords(node: NodeProto, opset: int) -> dict[str, Any]:
    """The keyword arguments with which the table's function computes `node`.

    Raises:
        UnsupportedModel: `unsupported_operator` where the node has an attribute that the function does not know.
    """
    entry = OPERATORS[operator_name(node)]
    known = entry.keywords
    given = attributes(node)
    unknown = sorted(given.keys() - known)
    if unknown:
        raise UnsupportedModel(
            "unsupported_operator", f"operator {operator_name(node)} is used with {unknown}, which is not supported"
        )
    extra = {"opset": opset, "num_outputs": len(node.output)}
    return {**given, **entry.fixed} | {
        name: value for name, value in extra.items() if name in known and name not in given
    }
