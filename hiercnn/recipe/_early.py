"""Early answers: a run's network that ends at a hypernym head, always or where the head is sure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.inference import BOMB, Predictor, Rule, calibrate, calibrate_exit, rules
from hiercnn.models import EarlyExit, HierarchicalModel, Truncated
from hiercnn.recipe._build import rule_options
from hiercnn.recipe._fit import Run
from hiercnn.recipe._predict import assembled, run_scores

NEVER = 2.0  # a probability that no head reaches


class Early(NamedTuple):
    """A head at which a network can end.

    Attributes:
        head: Its name. cut: what it predicts.
        cost: Multiplications and additions up to there ÷ those of the whole network without heads.
    """

    head: str
    cut: Cut
    cost: float


class EarlyAnswer(NamedTuple):
    """A network that ends at a head, and how it answers.

    Attributes:
        early: The head.
        network: Images [B, channels, H, W] → scores of its groups [B, K].
        rule: In the tree that ends at these groups.
        cuts: The run's that are coarser, as cuts of this tree.
    """

    early: Early
    network: nn.Module
    rule: Rule
    cuts: list[Cut]


def early_predictor(
    run: Run,
    level: str | None = None,
    *,
    budget: float | None = None,
    loss: float | None = None,
    rule: str = "argmax",
    options: Mapping[str, Any] | None = None,
    weights: str = "last",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = BOMB,
) -> Predictor:
    """A run's network that answers for groups before it has come to its end; the rule decides in the tree that ends at these groups.

    Args:
        run: A run whose network has heads on groups.
        level: What to answer: name or number of groups of a cut, or a head's name; default: whatever the budget reaches.
        budget: Largest share of the whole network's cost. Of the heads that are left the latest answers; without a budget the earliest.
        loss: Let only images leave of which the head is sure, so that at most this share becomes wrong by it; the others go to the end.
        rule, options: The decision rule; `auto` is calibrated on val with this head.
        weights, device, batch_size, workers, max_pixels: As `predictor_of_run` has them.

    Raises:
        RecipeError: No such head; a rule that needs heads; a backbone that cannot be left. CheckpointError, DataError: As there.
    """
    found = early_answer(run, run.load_model(weights), level, budget=budget, loss=loss, rule=rule, options=options)
    loading = {"device": device, "batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
    return assembled(run, found.network, found.rule, found.cuts, leaf_level=found.early.cut.name, **loading)


def early_answer(
    run: Run,
    model: HierarchicalModel,
    level: str | None = None,
    *,
    budget: float | None = None,
    loss: float | None = None,
    rule: str = "argmax",
    options: Mapping[str, Any] | None = None,
) -> EarlyAnswer:
    """What an early predictor is made of; arguments and errors are those of `early_predictor`, `model` is the run's."""
    early = _chosen(early_heads(run, model), level, budget)
    network, scores = Truncated(model, early.head), None
    if loss is not None or rule == "auto":
        leaf, labels, heads = run_scores(run, model)
        scores = heads[early.head], leaf, labels
    if loss is not None:
        threshold = calibrate_exit(*scores, early.cut, loss=loss).threshold
        network = EarlyExit(model, early.head, NEVER if threshold is None else threshold, input_size=input_size(run))
    tree = run.hierarchy.above(early.cut)
    decided = _rule(tree, rule, rule_options(rule, options or {}), network, scores)
    return EarlyAnswer(early, network, decided, _cuts_above(run.cuts, early.cut, tree))


def early_heads(run: Run, model: HierarchicalModel) -> list[Early]:
    """The heads of a run's network that predict nodes of its tree, earliest first, with what it costs to come so far."""
    whole = _operations(model.backbone, run)
    found = [
        Early(name, spec.cut, _operations(Truncated(model, name), run) / whole)
        for name, spec in model.specs.items()
        if spec.cut.nodes is not None
    ]
    return sorted(found, key=lambda early: early.cost)


def _chosen(heads: list[Early], level: str | None, budget: float | None) -> Early:
    """The head that answers."""
    there = ", ".join(f"{early.head} ({early.cut.name}, {early.cost:.0%} of the cost)" for early in heads) or "none"
    if level is None and budget is None:
        raise RecipeError(f"an early answer needs a level or a budget; the heads on groups are: {there}")
    named = [early for early in heads if level is None or str(level) in (early.head, early.cut.name, str(len(early.cut)))]
    if not named:
        raise RecipeError(f"no head answers for '{level}'; the heads on groups are: {there}")
    within = [early for early in named if budget is None or early.cost <= budget]
    if not within:
        raise RecipeError(f"no head answers{'' if level is None else f' for {level!r}'} at {budget:.0%} of the cost; they are: {there}")
    return within[0] if budget is None else within[-1]


def _rule(tree: Hierarchy, name: str, options: Mapping[str, Any], network: nn.Module, scores: tuple[Tensor, Tensor, Tensor] | None) -> Rule:
    """The decision rule in the tree that ends at the head's groups; `auto` calibrated on what the network answers on val."""
    if name == "hie":
        raise RecipeError("hie weighs classes by a head; an early answer is the head's own, so choose another rule")
    if name != "auto":
        return rules[name](tree, **options)
    head, leaf, labels = scores
    wanted = torch.tensor(network.cut.label_groups)[labels]
    answers = head.log_softmax(1)
    if isinstance(network, EarlyExit):
        sums = torch.zeros_like(head).index_add_(1, torch.tensor(network.cut.groups), leaf.softmax(1)).log()
        answers = torch.where((answers.amax(1).exp() >= network.threshold)[:, None], answers, sums)
    return rules["auto"](tree, calibration=calibrate(tree, answers[wanted >= 0], wanted[wanted >= 0], **options))


def _cuts_above(cuts: Sequence[Cut], own: Cut, tree: Hierarchy) -> list[Cut]:
    """Cuts that are coarser than a head's, as cuts of the tree that ends there."""
    coarser = [cut for cut in cuts if cut.nodes is not None and len(cut) < len(own) and all(name in tree for name in cut.names)]
    return [replace(cut, nodes=np.array([tree.node(name) for name in cut.names])) for cut in coarser]


def _operations(network: nn.Module, run: Run) -> int:
    """Floating-point operations of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(torch.zeros(1, *input_size(run)))
    return counter.get_total_flops()


def input_size(run: Run) -> tuple[int, int, int]:
    """Channels, height and width of the images that the run's network takes."""
    side = run.recipe.data.image_size or (run.start.get("input_size") or [0])[-1]
    if not side:
        raise RecipeError(f"{run.path} was trained on images of several sizes; set data.image_size in its recipe")
    return (run.channels, side, side)
