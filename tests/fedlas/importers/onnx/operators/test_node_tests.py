"""The operator table against the ONNX project's own backend tests: every case whose operators it claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import NodeProto
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import outputs_of, run, run_node
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import torch_dtype
from tests.helpers.node_suite import COUNTING, SKIPPED, Case, claimed, out_of_scope


def failure(case: Case) -> str | None:
    """The fault of our outputs: shapes, types and values count."""
    graph = case.graph()
    try:
        ours = outputs_of(graph, case.tensors(graph))
        for value, reference in zip(ours, map(np.asarray, case.outputs), strict=True):
            assert tuple(value.shape) == reference.shape
            assert value.dtype == torch_dtype(onnx.helper.np_dtype_to_tensor_dtype(reference.dtype))
            low = reference.dtype.name == "bfloat16"  # the backend's own runner allows two units in its last place
            expected, found = (reference.astype(np.float32), value.float()) if low else (reference, value)
            rtol = max(case.rtol, 2**-6) if low else case.rtol
            np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=case.atol)
    except (UnsupportedModel, AssertionError) as error:
        return f"{case.name}: {' '.join(str(error).split())[:300]}"
    return None


def cases() -> list[Case]:
    return [case for case in claimed() if out_of_scope(case) is None and case.name not in SKIPPED]


def single_nodes() -> list[Case]:
    """The cases of one operator, less those that are written out in several or are constants only."""
    kinds = [(case, [n.op_type for n in case.model.graph.node]) for case in cases()]
    return [case for case, found in kinds if len(found) == 1 and found != ["Constant"]]


def test_claimed_operators_pass_the_backend_tests() -> None:
    """Every case of the ONNX project whose operators are claimed agrees, but for the few that a reason is given for."""
    failures = [found for case in cases() if (found := failure(case))]
    print(f"{len(cases()) - len(failures)} of {len(claimed())} cases agree")
    assert not failures, "\n".join(failures)
    assert len(cases()) > 1150


def test_reasons_to_skip_still_apply() -> None:
    """Every case that a reason is given for exists and really disagrees."""
    by_name = {case.name: case for case in claimed()}
    assert [name for name in SKIPPED if failure(by_name[name]) is None] == []


def test_shapes_are_known_without_computing() -> None:
    """On inputs that have a shape but no values, every operator yields the shapes that it yields on real ones."""
    wrong = []
    for case in single_nodes():
        graph = case.graph()
        given = case.tensors(graph)
        numbers = {name for node in graph.nodes for name in numbers_read(node)}
        arrays = dict(zip(graph.input_names, case.inputs, strict=True))
        graph.constants.update({name: np.array(arrays[name]) for name in given.keys() & numbers})
        given = {name: value for name, value in given.items() if name not in numbers}
        try:
            shapes = {n: tuple(v.shape) for _, results in run(graph, to_meta(given)) for n, v in results.items()}
        except UnsupportedModel as error:
            if not case.operators & COUNTING:
                wrong.append(f"{case.name}: {str(error)[:200]}")
        else:
            expected = [np.shape(value) for value in case.outputs]
            if [shapes.get(name) for name in graph.outputs] != expected:
                wrong.append(f"{case.name}: {[shapes.get(name) for name in graph.outputs]} instead of {expected}")
    assert not wrong, "\n".join(wrong)


def numbers_read(node: NodeProto) -> set[str]:
    host = OPERATORS[operator_name(node)].host
    return {name for position, name in enumerate(node.input) if name and position in host}


def to_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to("meta") for name, value in tensors.items()}


#: Operators with a gradient that no case shows, and why; `test_operators` has cases of its own for them.
WITHOUT_EXAMPLE: dict[str, str] = {
    "Mish": "the only case runs from -10,000 to 10,000, where differences vanish",
    "Trilu": "all cases are whole numbers",
    **dict.fromkeys(("Cast", "CastLike"), "the cases lose the precision that differences need, or hold NaN"),
    "SimplifiedLayerNormalization": "the suite has no case",
    **dict.fromkeys((name for name in OPERATORS if name.startswith("com.microsoft.")), "not of the ONNX project"),
}


def test_gradients_agree_with_finite_differences() -> None:
    """For every operator with a gradient by the table, one that is not zero equals finite differences in a case."""
    proven: set[str] = set()
    for case in single_nodes():
        (name,) = case.operators
        if OPERATORS[name].gradient and name not in proven:
            proven |= {name} if gradient_agrees(case) else set()
    assert {name for name, entry in OPERATORS.items() if entry.gradient} - proven == WITHOUT_EXAMPLE.keys()


def test_operators_without_gradient_have_none() -> None:
    """Where the table says that no loss can be differentiated through an operator, its gradient is missing or zero."""
    wrong = set()
    for case in single_nodes():
        (name,) = case.operators
        if not (name in OPERATORS and OPERATORS[name].gradient) and (function := in_double(case)) is not None:
            try:
                grads = gradients(function)
            except NotImplementedError:  # PyTorch's own word that there is none
                continue
            if any(bool((grad != 0).any()) for grad in grads):
                wrong.add(name)
    assert not wrong


@dataclass(frozen=True)
class Differentiable:
    """The float outputs of a case as a function of its float inputs, in double precision."""

    of: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]


def in_double(case: Case) -> Differentiable | None:
    """None where no input that is read as an array is a float."""
    graph = case.graph()
    (node,) = graph.nodes
    given, numbers = case.tensors(graph), numbers_read(node)
    wide = {n: v.double() if v.is_floating_point() else v for n, v in given.items()}
    names = [n for n, v in wide.items() if v.is_floating_point() and n not in numbers and v.numel()]
    if not names:
        return None

    def of(*values: Tensor) -> tuple[Tensor, ...]:
        found = run_node(node, wide | dict(zip(names, values, strict=True)), graph.opset)
        return tuple(v for n, v in found.items() if n in graph.outputs and v.is_floating_point())

    return Differentiable(of, tuple(wide[name].clone().requires_grad_() for name in names))


def gradients(function: Differentiable) -> list[Tensor]:
    """The gradients of a weighted sum of the outputs, as far as they depend on the inputs."""
    torch.manual_seed(0)
    live = [value for value in function.of(*function.inputs) if value.requires_grad]
    if not live:
        return []
    some = torch.stack([(value * torch.rand_like(value)).sum() for value in live]).sum()
    return [grad for grad in torch.autograd.grad(some, function.inputs, allow_unused=True) if grad is not None]


def gradient_agrees(case: Case) -> bool:
    function = in_double(case)
    if function is None or sum(value.numel() for value in function.inputs) > 5000:
        return False
    if any(value.dtype is not torch.float64 for value in function.of(*function.inputs)):
        return False  # cast to a precision in which small differences vanish
    moving = any(bool((grad != 0).any()) for grad in gradients(function))
    return moving and torch.autograd.gradcheck(function.of, function.inputs, fast_mode=True, raise_exception=False)
