"""A timm backbone with hypernym heads on its stages; without heads it is the flat model."""

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hiercnn.errors import HierarchyError, RecipeError, ShapeError, did_you_mean
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.models._backbone import create_backbone, seeded, stage_index, stages, tapped_forward
from hiercnn.models._heads import heads as head_registry
from hiercnn.models._layers import PENULTIMATE, layer_stage, pooled, read_by_classifier
from hiercnn.models._node_scores import NODE_SCORES
from hiercnn.models._path_sum import folded, has_path_sum, share_rows

CLASSIFIERS = ("linear", "path_sum", *NODE_SCORES)


@dataclass
class Output:
    """Scores of one batch.

    Attributes:
        leaf: Leaf logits [B, C].
        heads: Logits [B, K] of every hypernym head, by its name.
        nodes: Scores of all nodes but the root [B, N − 1], of classifiers that have them.
        features: Features [B, F] of the layers that were asked for, by their name; feature maps are averaged.
    """

    leaf: Tensor
    heads: dict[str, Tensor] = field(default_factory=dict)
    nodes: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """Where a hypernym head sits and what it predicts.

    Attributes:
        stage: Index of the stage it follows, or `early`, `middle`, `late`.
        cut: The partition of the classes it predicts.
        kind: Name of a registered head; `pool` is pool → norm → linear.
        options: Keyword options of that head, such as `conv_blocks`.
        stop_gradient: Whether the head leaves the backbone alone (its gradient ends at the tap).
        feed_forward: Whether the log-probabilities of its groups are fed to the leaf scores through a linear layer that starts at zero
            (after HD-CNN, Yan et al., ICCV 2015); such a head cannot be stripped.
        weight: Weight of its loss: a number, or a schedule of `hiercnn.train` (`Linear`, `Steps`).
        distill: Share of its loss that is learnt from the leaf's own group probabilities instead of the labels, 0..1.
        name: Its name in outputs and tables; default `stage{i}_{K}`.
    """

    stage: int | str
    cut: Cut
    kind: str = "pool"
    options: Mapping[str, object] = field(default_factory=dict)
    stop_gradient: bool = False
    feed_forward: bool = False
    weight: object = 1.0
    distill: float = 0.0
    name: str | None = None


class HierarchicalModel(nn.Module):
    """A classifier with hypernym heads; `build_model` makes one from names.

    Args:
        backbone: Module images → leaf logits [B, C]; a timm model where there are heads.
        classes: Class names in the order of the logits.
        heads: The heads, by name.
        specs: What each head is, by name; stages as indices.
        reader: Makes leaf logits [B, C] of the backbone's scores of all nodes but the root; None if the backbone scores the leaves.

    Shapes:
        images [B, in_chans, H, W] → `Output` with leaf [B, C] and heads {name: [B, K]}.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: Sequence[str],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        specs: Mapping[str, HeadSpec] | None = None,
        reader: nn.Module | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.reader = reader
        self.classes = tuple(classes)
        self.heads = nn.ModuleDict(heads or {})
        self.specs = dict(specs or {})
        groups = {name: len(spec.cut) for name, spec in self.specs.items() if spec.feed_forward}
        fed = {name: nn.utils.skip_init(nn.Linear, count, len(self.classes), bias=False) for name, count in groups.items()}  # no draws
        self.feeds = nn.ModuleDict(fed)
        for feed in fed.values():
            nn.init.zeros_(feed.weight)
        self._dropout = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in self.heads.modules())

    @property
    def cuts(self) -> dict[str, Cut]:
        """The cut each head predicts, by head name."""
        return {name: spec.cut for name, spec in self.specs.items()}

    def forward(self, images: Tensor, layers: Collection[str] = ()) -> Output:
        """Score images [B, in_chans, H, W].

        Args:
            layers: Layers whose features are wanted too (`layer_names`); they are read on the way and change nothing.

        Raises:
            ShapeError: The backbone's logits are not [B, C]. RecipeError: a layer that it does not have.
        """
        if layers:
            return self._with_features(images, layers)
        return self._with_heads(images, *tapped_forward(self.backbone, images, self._head_stages()))

    def _with_features(self, images: Tensor, layers: Collection[str]) -> Output:
        numbers = {layer: layer_stage(layer, self.backbone) for layer in layers if layer != PENULTIMATE}
        with read_by_classifier(self.backbone) if PENULTIMATE in layers else nullcontext() as read:
            scores, maps = tapped_forward(self.backbone, images, self._head_stages().union(numbers.values()))
        output = self._with_heads(images, scores, maps)
        output.features = {layer: pooled(maps[numbers[layer]]) if layer in numbers else read[0].float().flatten(1) for layer in layers}
        return output

    def _with_heads(self, images: Tensor, scores: Tensor, maps: Mapping[int, Tensor]) -> Output:
        with self._own_draws(images):
            heads = {name: head(self._tap(self.specs[name], maps)) for name, head in self.heads.items()}
        output = self._output(scores)
        for name, feed in self.feeds.items():
            output.leaf = output.leaf + feed(heads[name].log_softmax(1))
        output.heads = heads
        return output

    def _head_stages(self) -> set[int]:
        return {spec.stage for spec in self.specs.values()}

    def _output(self, scores: Tensor) -> Output:
        if self.reader is None:
            return Output(self._checked(scores))
        return Output(self._checked(self.reader(scores)), nodes=scores)

    def _tap(self, spec: HeadSpec, features: Mapping[int, Tensor]) -> Tensor:
        return features[spec.stage].detach() if spec.stop_gradient else features[spec.stage]

    def _checked(self, leaf: Tensor) -> Tensor:
        if not isinstance(leaf, Tensor) or leaf.ndim != 2 or leaf.shape[1] != len(self.classes):
            came = list(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ShapeError(f"leaf logits: wanted [B, {len(self.classes)}], one a class, got {came}")
        return leaf

    def _own_draws(self, images: Tensor):
        """Dropout of the heads must not change what the backbone draws: twins without heads would draw otherwise."""
        if not (self._dropout and self.training):
            return nullcontext()
        return torch.random.fork_rng(devices=[images.device] if images.is_cuda else [])

    def with_heads(self, names: Collection[str]) -> "HierarchicalModel":
        """A copy for inference: no heads but these and those that the leaf scores need; a path sum is folded to a linear layer."""
        model = copy.deepcopy(self)
        for name in set(model.heads) - {*names, *model.feeds}:
            del model.heads[name], model.specs[name]
        folded(model.backbone)
        return model

    def strip_heads(self) -> nn.Module:
        """The plain timm classifier: same weights, bit-identical leaf logits, no heads. A path sum is folded to a linear layer, in a copy.

        Raises:
            RecipeError: A head feeds the leaf scores, which need it; or the classifier scores nodes, which only the tree makes leaf scores.
        """
        if self.reader is not None:
            raise RecipeError("the classifier scores the nodes of the tree, and leaf scores need the tree; this model cannot do without it")
        if len(self.feeds):
            raise RecipeError(f"the leaf scores need the heads {', '.join(self.feeds)} (feed_forward); this model cannot do without them")
        return folded(copy.deepcopy(self.backbone)) if has_path_sum(self.backbone) else self.backbone


def build_model(
    backbone: str,
    hierarchy: Hierarchy,
    heads: Sequence[HeadSpec] = (),
    *,
    in_chans: int = 3,
    stem: str = "default",
    classifier: str = "linear",
    options: Mapping[str, object] | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> HierarchicalModel:
    """Build a classifier of the hierarchy's leaves with hypernym heads on its stages.

    The backbone is initialised from `seed` alone and the heads from a generator of their own, so a model with heads and one
    without start from the same backbone weights.

    Args:
        backbone: A timm model name; see `create_backbone` for `in_chans`, `stem`, `options` and `weights`.
        hierarchy: Its classes, in the data set's order, are the leaf logits.
        heads: Hypernym heads; none gives the flat model.
        classifier: `linear`; `path_sum`: a class's row is the sum of the rows of the nodes above it (`PathSum`); `conditional` or `margin`:
            a row for every node, for the losses conditional_nll and margin_nll.
        seed: Seed of all weights.

    Raises:
        RecipeError: Unknown backbone, stage, head kind or option; two heads of one name.
        HierarchyError: A head on a cut with a single group, or on a cut of other classes.
    """
    with seeded(seed):
        trunk = create_backbone(backbone, hierarchy.num_classes, in_chans=in_chans, stem=stem, options=options, weights=weights)
    if classifier not in CLASSIFIERS:
        raise RecipeError(f"unknown classifier '{classifier}'{did_you_mean(classifier, CLASSIFIERS)}")
    if classifier == "path_sum":
        share_rows(trunk, hierarchy)
    if classifier in NODE_SCORES:
        with seeded(seed + 2_000_003):  # after the backbone's own, whose weights stay those of its twin
            trunk.reset_classifier(hierarchy.num_nodes - 1)
    placed = {}
    for spec in heads:
        spec = _place(spec, trunk, backbone, hierarchy)
        if spec.name in placed:
            raise RecipeError(f"two heads are called '{spec.name}'; give one of them a name: of its own")
        placed[spec.name] = spec
    with seeded(seed + 1_000_003):
        modules = {name: _build_head(spec, stages(trunk, backbone)[spec.stage]["num_chs"]) for name, spec in placed.items()}
    reader = NODE_SCORES[classifier](hierarchy) if classifier in NODE_SCORES else None
    return HierarchicalModel(trunk, hierarchy.classes, heads=modules, specs=placed, reader=reader)


def check_forward(model: HierarchicalModel, channels: int, side: int) -> None:
    """Run two black images [2, channels, side, side] through the model; raises RecipeError if it does not take them.

    Images smaller than the stride of the last stage are refused too: padding is all that it would see.
    """
    stride = max((stage["reduction"] for stage in getattr(model.backbone, "feature_info", None) or ()), default=1)
    if side < stride:
        raise RecipeError(f"images of {side} × {side} are smaller than the backbone's stride of {stride}; raise data.image_size")
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, channels, side, side))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        shape = f"{channels} × {side} × {side}"
        raise RecipeError(
            f"the model does not take images of {shape}: {error} (data.image_size, or model.options.img_size, may help)"
        ) from error
    finally:
        model.train(was_training)


def _place(spec: HeadSpec, trunk: nn.Module, backbone: str, hierarchy: Hierarchy) -> HeadSpec:
    """The spec with its stage as an index and a name."""
    stage = stage_index(spec.stage, len(stages(trunk, backbone)), backbone)
    if len(spec.cut) < 2:
        raise HierarchyError(f"a head on the cut '{spec.cut.name}' would have one group and nothing to learn; cut lower")
    if len(spec.cut.groups) != hierarchy.num_classes:
        raise HierarchyError(f"the head's cut has {len(spec.cut.groups)} classes, the hierarchy {hierarchy.num_classes}")
    name = spec.name or f"stage{stage}_{len(spec.cut)}"
    if not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise RecipeError(f"a head cannot be called '{name}'; use letters, digits and _, and no name of a torch ModuleDict's methods")
    return replace(spec, stage=stage, name=name)


def _build_head(spec: HeadSpec, channels: int) -> nn.Module:
    try:
        return head_registry[spec.kind](channels, len(spec.cut), **spec.options)
    except TypeError as error:
        raise RecipeError(f"head '{spec.kind}' does not take these options: {error}") from error
