"""The match of a file's tensors with a network's state dictionary, by the file's header alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers.safetensors import StoredTensor
from fedlas.notice import Notice, adjustment

#: What wrappers put before every name: DataParallel, torch.compile, Lightning and plain habit.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
#: Counters that inference does not read; older files do not have them.
_OPTIONAL = "num_batches_tracked"
_SHOWN = 10

Stored = Mapping[str, StoredTensor]


@dataclass
class StateDictMatch:
    """The file's tensors under the network's names, and what does not fit."""

    tensors: dict[str, StoredTensor]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    auxiliary: list[str] = field(default_factory=list)
    prefix: str = ""

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.different)

    def adjustments(self) -> list[Notice]:
        """What was done to make it fit."""
        found = []
        if self.prefix:
            message = f"The names of all weights began with {self.prefix!r}, which was taken off."
            found.append(adjustment("prefix_removed", message, prefix=self.prefix))
        if self.auxiliary:
            message = f"{len(self.auxiliary)} weights of auxiliary outputs, which only training uses, were left out."
            found.append(adjustment("auxiliary_left_out", message, weights=self.auxiliary[:_SHOWN]))
        kinds = {place.dtype for place in self.tensors.values() if place.dtype.is_floating_point} - {torch.float32}
        if kinds:
            shown = sorted(str(kind).removeprefix("torch.") for kind in kinds)
            message = f"The weights are {' and '.join(shown)}; they are computed in float32."
            found.append(adjustment("float32", message, stored_as=shown))
        return found

    def require(self, name: str) -> None:
        """Raises UnsupportedModel `weights_mismatch` with everything that does not fit."""
        if not self.problems:
            return
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of a wrong shape": self.different}
        parts = [f"{kind} ({len(found)}): {_listed(found)}" for kind, found in kinds.items() if found]
        raise UnsupportedModel("weights_mismatch", f"the weights are not those of {name}: {'; '.join(parts)}")


def match(network: nn.Module, stored: Stored) -> StateDictMatch:
    """The best reading of the file's names: as they are, or without what a wrapper put before all of them."""
    found = [_compare(network, stored, prefix) for prefix in ("", *prefixes(stored))]
    return min(found, key=lambda item: item.problems)


def prefixes(stored: Stored) -> list[str]:
    """What wrappers put before all names, the shortest first."""
    found = [""]
    while (
        longer := next((found[-1] + w for w in _WRAPPERS if all(n.startswith(found[-1] + w) for n in stored)), "")
    ) != "":
        found.append(longer)
    return found[1:]


def look_up(stored: Stored, name: str) -> StoredTensor | None:
    """The file's tensor for the network's `name`, under whichever prefix it is."""
    return next((stored[prefix + name] for prefix in ("", *prefixes(stored)) if prefix + name in stored), None)


def _compare(network: nn.Module, stored: Stored, prefix: str) -> StateDictMatch:
    wanted: dict[str, Tensor] = network.state_dict()
    result = StateDictMatch({}, prefix=prefix)
    for full, place in stored.items():
        name = full.removeprefix(prefix)
        if name in wanted:
            result.tensors[name] = place
        elif name.lower().startswith("aux"):
            result.auxiliary.append(name)
        else:
            result.unexpected.append(name)
    result.missing = [name for name in wanted if name not in result.tensors and not name.endswith(_OPTIONAL)]
    for name, place in result.tensors.items():
        needed = wanted[name]
        if place.shape != tuple(needed.shape):
            result.different.append(f"{name} is {place.shape}, needed {tuple(needed.shape)}")
        elif place.dtype.is_floating_point != needed.dtype.is_floating_point:
            result.different.append(f"{name} is {place.dtype}, needed {needed.dtype}")
    return result


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:120] for name in names[:_SHOWN]) + more
