"""Typed documents: the JSON that passes between processes and stays in rows and files, one module per document.

Each is validated once where it arrives: the worker validates what a sandboxed process found before it is published,
and a stored document is validated again when its row is read as one.
"""

from service.registry.documents.batch_manifest import BatchManifest, PartResult, ResultPart
from service.registry.documents.dataset_profile import (
    DatasetProfile,
    DatasetRoles,
    Purpose,
    SeenByModel,
    SplitCounts,
    SplitShares,
)
from service.registry.documents.events import (
    CandidateEnded,
    EpochEnded,
    FoldScored,
    Progress,
    Publication,
    Stage,
    StageChanged,
    TrainingBegun,
)
from service.registry.documents.model_profile import (
    ClassPriors,
    DecisionThresholds,
    FeatureSpec,
    FittedOn,
    Guarantees,
    GuaranteesSummary,
    ImagePreprocessing,
    ModelProfile,
    OutputSpec,
    PriorsInput,
    ServingCost,
    Task,
)
from service.registry.documents.notice import Notice
from service.registry.documents.plan import Plan
from service.registry.documents.reading import Reading
from service.registry.documents.report import GateVerdict, Report, Verdict
from service.registry.json_models import Document, JsonObject, TensorSpec

__all__ = [
    "BatchManifest",
    "CandidateEnded",
    "ClassPriors",
    "DatasetProfile",
    "DatasetRoles",
    "DecisionThresholds",
    "Document",
    "EpochEnded",
    "FeatureSpec",
    "FittedOn",
    "FoldScored",
    "GateVerdict",
    "Guarantees",
    "GuaranteesSummary",
    "ImagePreprocessing",
    "JsonObject",
    "ModelProfile",
    "Notice",
    "OutputSpec",
    "PartResult",
    "Plan",
    "PriorsInput",
    "Progress",
    "Publication",
    "Purpose",
    "Reading",
    "Report",
    "ResultPart",
    "SeenByModel",
    "ServingCost",
    "SplitCounts",
    "SplitShares",
    "Stage",
    "StageChanged",
    "Task",
    "TensorSpec",
    "TrainingBegun",
    "Verdict",
]
