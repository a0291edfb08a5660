"""The typed, closed form of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from hiercnn.data import DataSettings
from hiercnn.hierarchy import CutChoice
from hiercnn.settings import Settings
from hiercnn.train import RunSettings, Weight

GIVEN = ("builtin", "file", "nested", "wordnet", "folders")  # where a tree that is given comes from


class ClusterSettings(Settings):
    """A tree clustered from what a finished run knows; `cluster_run` says more of the options.

    Attributes:
        run: Run folder. In a comparison, one that is called as another of its recipes means that recipe's run of the same seed.
        source: features, weights, logits or confusion.
        linkage, metric, stage, split, weights: How; by default as `hiercnn cluster` does it.
        groups: Numbers of groups that become levels of the tree; null keeps every merge.
    """

    run: str = Field(min_length=1)
    source: Literal["features", "weights", "logits", "confusion"] = "features"
    linkage: Literal["average", "complete", "ward", "single"] = "average"
    metric: Literal["cosine", "correlation", "euclidean", "unit"] | None = None
    stage: int | str | None = None
    split: Literal["train", "val"] | None = None
    weights: str = "last"
    groups: list[int] | None = None


class HierarchySettings(Settings):
    """The class tree and the cuts that are reported.

    Attributes:
        builtin, file, nested, wordnet, folders: Where the tree comes from; at most one. A shipped name, a JSON/YAML/CSV file, the tree
            itself, a list of wnids or lemmas, or a folder of nested class folders.
        cluster: A tree made from a finished run. Alone it is the tree; beside a given tree, heads and losses are made of the clustered
            one, and accuracy and mistakes are reported on the given one.
        columns: Columns of a CSV file, coarse → fine.
        parent_rule: `longest` or `shortest`, for classes with several parents (`longest` by default for wordnet).
        prune: Whether classes without data are left out of the tree rather than refused.
        collapse: Whether inner nodes with a single child are removed.
        cuts: The cuts whose accuracy is reported, coarse first; default: every depth, at most three.
    """

    builtin: str | None = None
    file: str | None = None
    nested: dict[str, Any] | None = None
    wordnet: list[str] | None = None
    folders: str | None = None
    columns: list[str] | None = None
    parent_rule: Literal["longest", "shortest"] | None = None
    prune: bool = False
    collapse: bool = False
    cuts: list[CutChoice] | None = None
    cluster: ClusterSettings | None = None

    @model_validator(mode="after")
    def _one_source(self):
        given = [key for key in GIVEN if getattr(self, key) is not None]
        if len(given) > 1 or not (given or self.cluster):
            raise ValueError(f"give exactly one of {', '.join(GIVEN)} (got {', '.join(given) or 'none'}), or cluster")
        return self

    @property
    def given(self) -> bool:
        """Whether there is a tree that is not clustered."""
        return any(getattr(self, key) is not None for key in GIVEN)


class HeadSettings(Settings):
    """One hypernym head.

    Attributes:
        stage: Index of the backbone's stage, or early, middle, late.
        cut: Number of groups, {depth: d}, {groups: k}, or `leaf` (deep supervision).
        random: Predict a random partition with the cut's group sizes instead: true draws it from the run's seed, a number from that.
        weight: Weight of its loss: a number, {linear: {start, end, epochs}} or {steps: {epoch: value}}.
        type: A registered head; its own options (pool: `conv_blocks`) stand beside these.
        stop_gradient: Whether it leaves the backbone alone.
        feed_forward: Whether its log-probabilities are fed to the leaf scores; it cannot be stripped then.
        distill: Share of its loss that is learnt from the leaf's own group probabilities instead of the labels.
        name: Default: stage<i>_<groups>.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: int | str
    cut: CutChoice
    random: bool | Annotated[int, Field(ge=0)] = False
    weight: Weight = 1.0
    type: str = "pool"
    stop_gradient: bool = False
    feed_forward: bool = False
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    name: Annotated[str, Field(pattern=r"^\w+$")] | None = None


class ModelSettings(Settings):
    """The network.

    Attributes:
        backbone: Any timm model, ours included.
        stem: `small` for timm's ResNets on images of 32–64 px.
        classifier: `linear`; `path_sum`: the row of a class is the sum of the rows of the nodes on its path; `conditional`, `margin`: a row
            for every node, which the losses conditional_nll and margin_nll need.
        options: Further arguments of timm.create_model.
        weights: What the backbone begins with: `timm` (its pretrained weights, downloaded), a file of tensors, a run folder,
            `package:NAME` (an installed Python package), `local-dir:DIR` or `hf-hub:USER/NAME` (what `hiercnn push` or timm wrote). null
            begins from scratch. With weights, data.mean and data.std are theirs unless given.
        heads: Hypernym heads; none is the flat model.
    """

    backbone: str
    stem: Literal["default", "small"] = "default"
    classifier: Literal["linear", "path_sum", "conditional", "margin"] = "linear"
    options: dict[str, Any] = {}
    weights: Annotated[str, Field(min_length=1)] | None = None
    heads: list[HeadSettings] = []


class LossSettings(Settings):
    """The loss of the leaf logits.

    Attributes:
        name: A registered loss of the leaf logits; its own options stand beside these.
        weight: Its weight, constant or scheduled; must not end at zero.
        logit_adjustment: τ for long tails (Menon et al., ICLR 2021): while training, τ times the log of each class's share of the images
            drawn is added to its leaf logit; 0 adds nothing.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "cross_entropy"
    weight: Weight = 1.0
    logit_adjustment: Annotated[float, Field(ge=0)] = 0.0


class DynamicsSettings(Settings):
    """What is measured of what is learnt when and where: while the network is trained, at step 0 and after each evaluated epoch, what class
    statistics and logits give in closed form; by `hiercnn dynamics RUN`, from kept weights, the rest.

    Attributes:
        layers: `auto`: every stage of the backbone and `penultimate`, what its classifier reads; or a list of stage0, …, penultimate.
        cuts: Cuts between root and leaves; default: those that are reported.
        random: Random partitions of the same group sizes beside each cut.
    """

    layers: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = "auto"
    cuts: Annotated[list[CutChoice], Field(min_length=1)] | None = None
    random: Annotated[int, Field(ge=0)] = 20


class DecisionSettings(Settings):
    """How `hiercnn predict` and `hiercnn export` decide, unless told otherwise.

    Attributes:
        name: A registered decision rule; its own options stand beside it. `auto` has target and confidence.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "auto"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SearchRange(Settings):
    """Numbers from `low` to `high`, drawn evenly, or evenly on a log scale."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("should have low < high, and low > 0 with log: true")
        return self


Choices = Annotated[list[float | int | str | bool | None], Field(min_length=1)]
SearchValues = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[SearchRange, Tag("range")],
    Discriminator(lambda value: "choices" if isinstance(value, list) else "range"),
]


class SearchSettings(Settings):
    """Equal tuning, done by `hiercnn compare` before it compares; `hiercnn train` uses the recipe's own values.

    Attributes:
        trials: Runs of each recipe; the first has the recipe's own values, the others draw theirs.
        space: {dotted key: [choices] or {low, high, log}}, such as {optim.lr: {low: 0.02, high: 0.3, log: true}}.
        seed: Seed of the draws.
    """

    trials: Annotated[int, Field(ge=1)]
    space: Annotated[dict[str, SearchValues], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Recipe(RunSettings):
    """A run, completely described: `RunSettings` plus data, hierarchy, model, loss, the rule that decides, dynamics to measure, modules to
    import, and what compare may tune."""

    data: DataSettings
    hierarchy: HierarchySettings | None = None
    model: ModelSettings
    loss: LossSettings = LossSettings()
    decision: DecisionSettings = DecisionSettings()
    dynamics: DynamicsSettings | None = None
    imports: list[str] = []
    search: SearchSettings | None = None

    def plain(self) -> dict[str, Any]:
        """As plain values, complete, ready for YAML."""
        return self.model_dump(mode="json")
