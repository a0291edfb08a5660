"""Any timm backbone with hypernym heads that branch from its stages and fall away at inference."""

from hiercnn.models._backbone import PLACES, create_backbone, seeded, stage_index, stages, tapped_forward
from hiercnn.models._heads import PoolHead, heads
from hiercnn.models._model import HeadSpec, HierarchicalModel, Output, build_model, check_forward
from hiercnn.models._node_scores import NODE_SCORES

__all__ = [
    "NODE_SCORES",
    "PLACES",
    "HeadSpec",
    "HierarchicalModel",
    "Output",
    "PoolHead",
    "build_model",
    "check_forward",
    "create_backbone",
    "heads",
    "seeded",
    "stage_index",
    "stages",
    "tapped_forward",
]
