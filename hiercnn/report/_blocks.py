"""What the linked views show of one run: tree, confusions, responses and the images behind them, as plain values."""

from dataclasses import dataclass

import numpy as np
import torch

from hiercnn.clustering import cluster, similarity_distances
from hiercnn.dynamics import confusion_matrix, hypernym_scores
from hiercnn.errors import HierarchyError, HierCNNError
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics import lca_profile, node_counts
from hiercnn.recipe import Run, class_responses
from hiercnn.report._evaluations import Evaluation, kept_evaluations
from hiercnn.report._pack import packed, share

MOST = 2000  # classes that are shown one by one
FOLDED = 1000  # groups, at most, that more are folded into
EVALUATIONS = 40  # of val, at most: the first, the last, and evenly spaced ones between
RESPONSES = 3_000_000  # numbers of all response maps together
SPREAD = 3.0  # standard deviations at which the colours of responses end


@dataclass(frozen=True, eq=False)
class View:
    """A run as the linked views show it.

    Attributes:
        run: The run.
        tree: Its classes are the rows: the run's tree, or that above `fold`.
        cuts: Cuts of it between root and leaves, coarse first.
        fold: The cut that more than 2,000 classes are folded into.
        evaluations: In order of time.
        responses: {layer: mean response [C, F]}.
        notes: What is not shown, and why.
    """

    run: Run
    tree: Hierarchy
    cuts: list[Cut]
    fold: Cut | None
    evaluations: list[Evaluation]
    responses: dict[str, np.ndarray]
    notes: list[str]

    @property
    def last(self) -> Evaluation | None:
        """The last evaluation: of test, if it was read."""
        return self.evaluations[-1] if self.evaluations else None


def view(run: Run, *, images: int) -> View:
    """Read what the views need; responses are measured on so many images of train, 0 for none."""
    fold, notes = folded(run.hierarchy)
    if fold is None and run.hierarchy.num_classes > MOST:
        return View(run, run.hierarchy, [], None, [], {}, notes)
    tree = run.hierarchy if fold is None else run.hierarchy.above(fold)
    cuts = _cuts(run, tree, fold)
    found, problems = kept_evaluations(run, tree, fold)
    problems += _missing(run, any_found=bool(found))
    kept = _thinned(found)
    if len(kept) < len(found):
        problems.append(f"{len(kept)} of {len(found)} kept evaluations are shown")
    responses = {}
    if fold is None and images and found:
        try:
            responses = class_responses(run, images=images)
        except HierCNNError as error:
            problems.append(f"No response map: {error}.")
    return View(run, tree, cuts, fold, kept, responses, notes + problems)


def folded(tree: Hierarchy) -> tuple[Cut | None, list[str]]:
    """The cut that a tree of more than 2,000 classes is folded into, and a sentence that says so."""
    if tree.num_classes <= MOST:
        return None, []
    try:
        cut = tree.cut(groups=FOLDED)
    except HierarchyError:
        text = f"{tree.num_classes:,} classes are too many for a row each, and the tree has no groups to fold them into; cluster them first"
        return None, [text]
    return cut, [f"{tree.num_classes:,} classes are too many for a row each: they are counted as {len(cut):,} groups of the tree."]


def _cuts(run: Run, tree: Hierarchy, fold: Cut | None) -> list[Cut]:
    """The cuts that are reported and lie above the rows."""
    cuts = [cut for cut in run.cuts if cut.nodes is not None and cut.name != "leaf" and 1 < len(cut) < tree.num_classes]
    if fold is not None:
        cuts = [tree.cut_at([tree.node(name) for name in cut.names]) for cut in cuts if all(name in tree for name in cut.names)]
    return list({cut.name: cut for cut in cuts}.values())


def _missing(run: Run, *, any_found: bool) -> list[str]:
    """Why predictions are not there, and what to do."""
    if not run.finished:
        return [] if any_found else ["No predictions yet: the run has not come to an evaluation that keeps them."]
    again = f"train it again: hiercnn train {run.path / 'recipe.yaml'} --run-dir …"
    if not run.recipe.eval.predictions:
        return [] if any_found else [f"No predictions: the run was trained with eval.predictions=false; {again} eval.predictions=true."]
    files = [run.predictions / f"{split}.npz" for split in ("val", "test") if split in run.end]
    gone = " and ".join(file.name for file in files if not file.exists())
    return [f"No predictions of {gone}, which the run has written: put the files back into {run.predictions}, or {again}."] if gone else []


def _thinned(found: list[Evaluation]) -> list[Evaluation]:
    val = [number for number, one in enumerate(found) if one.split == "val"]
    if len(val) <= EVALUATIONS:
        return found
    kept = {val[round(i * (len(val) - 1) / (EVALUATIONS - 1))] for i in range(EVALUATIONS)}
    return [one for number, one in enumerate(found) if one.split != "val" or number in kept]


# ---- orders, tables and responses


def confusion_of(one: Evaluation, tree: Hierarchy) -> np.ndarray:
    """Images by actual and predicted class [C, C]."""
    return confusion_matrix(torch.from_numpy(one.predicted), torch.from_numpy(one.labels), tree.num_classes)


def logit_order(similarity: np.ndarray) -> np.ndarray:
    """Classes in the order of a clustering by logit correlation [C]. Source: Bilal et al. (2018)."""
    distances = similarity_distances(np.clip(similarity, 0, 1))
    return cluster(distances, "average").ordered(distances).leaf_order()


def locality(confusion: np.ndarray, cuts: list[Cut]) -> list[dict[str, float | str]]:
    """Of each cut: accuracy, share of errors inside its groups, what evenly drawn errors give, and the ratio of both."""
    rows = []
    for cut in cuts:
        scores = hypernym_scores(confusion, cut.groups)
        rows.append({"cut": cut.name, "accuracy": scores.greedy, "inside": scores.residual, "chance": scores.null, "ratio": scores.lift})
    return rows


def standardised(responses: np.ndarray) -> np.ndarray:
    """Responses [C, F] as standard deviations over the classes, channel by channel; channels that are the same for all are 0."""
    spread = responses.std(0)
    return (responses - responses.mean(0)) / np.where(spread > 0, spread, 1)


def shown_responses(responses: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standardised maps, without the channels that differ least between classes where all would be too many numbers."""
    total = sum(values.size for values in responses.values())
    maps = {}
    for layer, values in responses.items():
        values = standardised(values)
        most = max(16, int(values.shape[1] * RESPONSES / total))
        if values.shape[1] > most:
            telling = np.abs(values).max(0)
            values = values[:, np.sort(np.argsort(-telling, kind="stable")[:most])]
        maps[layer] = values
    return maps


# ---- as plain values


def plain(shown: View, sets: dict[str, str]) -> dict[str, object]:
    """What page.js reads of a run; `sets` says which set of images each split is."""
    tree = shown.tree
    similarity = next((one.similarity for one in reversed(shown.evaluations) if one.similarity is not None), None)
    orders = {"tree": packed(tree.leaf_order, "uint16")}
    if similarity is not None and tree.num_classes > 2:
        orders["logits"] = packed(logit_order(similarity), "uint16")
    return {
        "name": shown.run.path.name,
        "tree": _tree(tree),
        "cuts": [{"name": cut.name, "groups": packed(cut.groups, "uint16"), "nodes": packed(cut.nodes, "int32")} for cut in shown.cuts],
        "orders": orders,
        "evaluations": [_evaluation(one, tree, shown.cuts, sets) for one in shown.evaluations],
        "layers": [_layer(name, values, shown) for name, values in shown_responses(shown.responses).items()],
        "notes": shown.notes,
    }


def _tree(tree: Hierarchy) -> dict[str, object]:
    columns = {"parents": tree.parents, "depths": tree.depths, "starts": tree.starts, "stops": tree.stops, "leaves": tree.leaf_nodes}
    return {"names": list(tree.titles), "height": tree.height, **{name: packed(column, "int32") for name, column in columns.items()}}


def _evaluation(one: Evaluation, tree: Hierarchy, cuts: list[Cut], sets: dict[str, str]) -> dict[str, object]:
    confusion = confusion_of(one, tree)
    counts = node_counts(confusion, tree)
    return {
        "split": one.split,
        "epoch": one.epoch,
        "set": sets.get(one.split),
        "labels": packed(one.labels, "uint16"),
        "predicted": packed(one.predicted, "uint16"),
        "place": packed(one.place, "uint8"),
        "confidence": share(one.confidence),
        "paths": None if one.paths is None else [share(each) for each in one.paths],
        "counts": [packed(each, "int32") for each in counts],
        "locality": locality(confusion, cuts),
        "profile": lca_profile(confusion, tree).tolist(),
    }


def _layer(name: str, values: np.ndarray, shown: View) -> dict[str, object]:
    steps = np.round((values.clip(-SPREAD, SPREAD) + SPREAD) / (2 * SPREAD) * 255)
    return {"name": name, "channels": shown.responses[name].shape[1], "values": packed(steps.T, "uint8")}  # [F, C]
