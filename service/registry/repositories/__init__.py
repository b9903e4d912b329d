"""The repositories: all SQL of the registry, one class per kind of record, over the session of a unit of work."""

from service.registry.repositories.pieces import NewPiece
from service.registry.repositories.records import Ended, Permit
from service.registry.repositories.work import Claim, Due

__all__ = ["Claim", "Due", "Ended", "NewPiece", "Permit"]
