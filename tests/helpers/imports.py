"""The modules that a child has imported, as Python's `-X importtime` writes them to the child's log."""

from __future__ import annotations

#: The environment in which a child writes it.
PROFILED = {"PYTHONPROFILEIMPORTTIME": "1"}
#: PyTorch's compiler, and what is loaded with it: more than a second of computing, and of no use to a child.
COMPILER = frozenset({"torch._dynamo", "torch._inductor", "sympy", "pandas", "sklearn", "networkx"})


def imported(log: str) -> set[str]:
    """The names of all modules in a log."""
    return {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}
