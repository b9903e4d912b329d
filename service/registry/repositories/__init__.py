"""The repositories: all SQL of the registry, one class per kind of record, over the session of a unit of work."""

from service.registry.repositories.records import WakeUp
from service.registry.repositories.work import Claim

__all__ = ["Claim", "WakeUp"]
