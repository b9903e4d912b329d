"""The operators that ONNX Runtime may run without a counterpart in the operator table."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, defs

from fedlas.importers.onnx.operators import OPERATORS, operator_name, words
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS

#: Operators of ONNX Runtime's own that compute on numbers only; skl2onnx writes distances to neighbours so.
RUNTIME_OPERATORS = frozenset({"com.microsoft.CDist"})
#: Chance has no place in a classifier, and no upload decodes files of other formats.
_REFUSED = words("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli ImageDecoder")


def refused(nodes: Sequence[NodeProto]) -> list[str]:
    """The operators among these that are not run: control flow, chance, and what no specification describes."""
    return sorted({operator_name(node) for node in nodes if not _is_allowed(node)})


def _is_allowed(node: NodeProto) -> bool:
    name = operator_name(node)
    if any(item.HasField("g") or item.graphs for item in node.attribute) or name in _REFUSED:
        return False
    if name in OPERATORS or name in RUNTIME_OPERATORS:
        return True
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    return domain in ("", "ai.onnx.ml") and bool(defs.has(node.op_type, domain))
