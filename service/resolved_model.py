"""What a name or id means: the record of the registry as requests need it, with its profile read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service.inference.profile import ServingProfile

_MOST_PROFILES = 10_000


@dataclass(frozen=True, slots=True)
class Meaning:
    """The ready model that a name or id means, as it is recorded.

    Attributes:
        called: the published name or id that was asked for; version: the one behind it.
        digest: of its served copy.
        served: the record `model` of an answer, as JSON.
        priors: those of the name, by class; None where it has none of its own.
    """

    called: str
    version: str
    model_id: str
    digest: str
    served: bytes
    profile: Mapping[str, Any]
    priors: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedModel:
    """The same with the profile that requests are read and answered by."""

    called: str
    version: str
    model_id: str
    digest: str
    profile: ServingProfile
    served: bytes


class Profiles:
    """Profiles that were read: a hundred thousand names take milliseconds, and a ready model's never changes."""

    def __init__(self) -> None:
        self._profiles: dict[tuple[str, object], ServingProfile] = {}

    def resolved(self, meaning: Meaning) -> ResolvedModel:
        """The meaning with its profile."""
        priors = meaning.priors
        key = (meaning.model_id, None if priors is None else tuple(priors.items()))
        profile = self._profiles.get(key)
        if profile is None:
            if len(self._profiles) >= _MOST_PROFILES:
                self._profiles.clear()
            plain = ServingProfile.of(meaning.profile)
            profile = self._profiles[key] = plain if priors is None else replace(plain, shift=plain.shift_to(priors))
        return ResolvedModel(meaning.called, meaning.version, meaning.model_id, meaning.digest, profile, meaning.served)
