"""A timm backbone with hypernym heads on its stages; without heads it is the flat model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from hiercnn.errors import HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.models._backbone import Taps, create_backbone, seeded, stage_index, stages
from hiercnn.models._heads import heads as head_registry


@dataclass
class Output:
    """Scores of one batch.

    Attributes:
        leaf: Leaf logits [B, C].
        heads: Logits [B, K] of every hypernym head, by its name.
    """

    leaf: Tensor
    heads: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """Where a hypernym head sits and what it predicts.

    Attributes:
        stage: Index of the stage it follows, or `early`, `middle`, `late`.
        cut: The partition of the classes it predicts.
        kind: Name of a registered head; `pool` is pool → norm → linear.
        options: Keyword options of that head, such as `conv_blocks`.
        stop_gradient: Whether the head leaves the backbone alone (its gradient ends at the tap).
        name: Its name in outputs and tables; default `stage{i}_{K}`.
    """

    stage: int | str
    cut: Cut
    kind: str = "pool"
    options: Mapping[str, object] = field(default_factory=dict)
    stop_gradient: bool = False
    name: str | None = None


class HierarchicalModel(nn.Module):
    """A classifier with hypernym heads; `build_model` makes one from names.

    Args:
        backbone: Module images → leaf logits [B, C]; a timm model where there are heads.
        classes: Class names in the order of the logits.
        heads, stages, cuts: The heads, the stage each taps and the cut each predicts, by head name.
        stop_gradient: Names of the heads that leave the backbone alone.

    Shapes:
        images [B, in_chans, H, W] → `Output` with leaf [B, C] and heads {name: [B, K]}.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: Sequence[str],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        stages: Mapping[str, int] | None = None,
        cuts: Mapping[str, Cut] | None = None,
        stop_gradient: Sequence[str] = (),
    ):
        super().__init__()
        self.backbone = backbone
        self.classes, self.cuts = tuple(classes), dict(cuts or {})
        self.heads = nn.ModuleDict(heads or {})
        self.stages = dict(stages or {})
        self.stop_gradient = frozenset(stop_gradient)
        self.taps = Taps(backbone, list(self.stages.values())) if self.heads else None

    def forward(self, images: Tensor) -> Output:
        leaf, features = (self.backbone(images), {}) if self.taps is None else self.taps(self.backbone, images)
        if leaf.ndim != 2 or leaf.shape[1] != len(self.classes):
            raise ShapeError(f"leaf logits: wanted [B, {len(self.classes)}], one a class, got {list(leaf.shape)}")
        return Output(leaf, {name: head(self._tapped(name, features)) for name, head in self.heads.items()})

    def _tapped(self, name: str, features: Mapping[int, Tensor]) -> Tensor:
        tapped = features[self.stages[name]]
        return tapped.detach() if name in self.stop_gradient else tapped

    def strip_heads(self) -> nn.Module:
        """The plain timm classifier: same weights, bit-identical leaf logits, no heads."""
        return self.backbone


def build_model(
    backbone: str,
    hierarchy: Hierarchy,
    heads: Sequence[HeadSpec] = (),
    *,
    in_chans: int = 3,
    stem: str = "default",
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> HierarchicalModel:
    """Build a classifier of the hierarchy's leaves with hypernym heads on its stages.

    The backbone is initialised from `seed` alone and the heads from a generator of their own, so a model with heads and one
    without start from the same backbone weights.

    Args:
        backbone: A timm model name; see `create_backbone` for `in_chans`, `stem` and `options`.
        hierarchy: Its classes, in the data set's order, are the leaf logits.
        heads: Hypernym heads; none gives the flat model.
        seed: Seed of all weights.

    Raises:
        RecipeError: Unknown backbone, stage, head kind or option; two heads of one name.
        HierarchyError: A head on a cut with a single group, or on a cut of other classes.
    """
    with seeded(seed):
        trunk = create_backbone(backbone, hierarchy.num_classes, in_chans=in_chans, stem=stem, options=options)
    placed = {}
    for spec in heads:
        name, stage = _place(spec, trunk, backbone, hierarchy)
        if name in placed:
            raise RecipeError(f"two heads are called '{name}'; give one of them a name: of its own")
        placed[name] = (spec, stage)
    with seeded(seed + 1_000_003):
        modules = {name: _build_head(spec, stages(trunk, backbone)[stage]["num_chs"]) for name, (spec, stage) in placed.items()}
    return HierarchicalModel(
        trunk,
        hierarchy.classes,
        heads=modules,
        stages={name: stage for name, (_, stage) in placed.items()},
        cuts={name: spec.cut for name, (spec, _) in placed.items()},
        stop_gradient=[name for name, (spec, _) in placed.items() if spec.stop_gradient],
    )


def _place(spec: HeadSpec, trunk: nn.Module, backbone: str, hierarchy: Hierarchy) -> tuple[str, int]:
    stage = stage_index(spec.stage, len(stages(trunk, backbone)), backbone)
    if len(spec.cut) < 2:
        raise HierarchyError(f"a head on the cut '{spec.cut.name}' would have one group and nothing to learn; cut lower")
    if len(spec.cut.groups) != hierarchy.num_classes:
        raise HierarchyError(f"the head's cut has {len(spec.cut.groups)} classes, the hierarchy {hierarchy.num_classes}")
    return spec.name or f"stage{stage}_{len(spec.cut)}", stage


def _build_head(spec: HeadSpec, channels: int) -> nn.Module:
    try:
        return head_registry[spec.kind](channels, len(spec.cut), **spec.options)
    except TypeError as error:
        raise RecipeError(f"head '{spec.kind}' does not take these options: {error}") from error
