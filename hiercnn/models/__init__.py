"""Any timm backbone with hypernym heads that branch from its stages and fall away at inference."""

from hiercnn.models._backbone import PLACES, create_backbone, seeded, stage_index, stages, tapped_forward
from hiercnn.models._catalogue import BackboneInfo, Stage, backbone_names, describe_backbone
from hiercnn.models._checkpointing import checkpoint_gradients
from hiercnn.models._early import EarlyExit, Truncated
from hiercnn.models._freeze import check_frozen_stage, freeze, parameters_up_to
from hiercnn.models._heads import PoolHead, heads
from hiercnn.models._layers import PENULTIMATE, classifier_of, exact_scores, layer_names, layer_stage
from hiercnn.models._model import HeadSpec, HierarchicalModel, Output, build_model, check_forward
from hiercnn.models._node_scores import NODE_SCORES
from hiercnn.models._weights import pretrained_backbone, pretrained_config

__all__ = [
    "NODE_SCORES",
    "PENULTIMATE",
    "PLACES",
    "BackboneInfo",
    "EarlyExit",
    "HeadSpec",
    "HierarchicalModel",
    "Output",
    "PoolHead",
    "Stage",
    "Truncated",
    "backbone_names",
    "build_model",
    "check_forward",
    "check_frozen_stage",
    "checkpoint_gradients",
    "classifier_of",
    "create_backbone",
    "describe_backbone",
    "exact_scores",
    "freeze",
    "heads",
    "layer_names",
    "layer_stage",
    "parameters_up_to",
    "pretrained_backbone",
    "pretrained_config",
    "seeded",
    "stage_index",
    "stages",
    "tapped_forward",
]
