"""What a finished run knows of its classes, clustered to a tree."""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.clustering import (
    ClassDistances,
    ClassStatistics,
    Dendrogram,
    Linkage,
    Metric,
    cluster,
    confusion_similarity,
    group_titles,
    logit_similarity,
    similarity_distances,
    vector_distances,
)
from hiercnn.data import ImageSet, make_loader
from hiercnn.dynamics import confusion_matrix
from hiercnn.errors import CheckpointError, DataError, RecipeError, shorten
from hiercnn.hierarchy import Hierarchy
from hiercnn.models import PENULTIMATE, HierarchicalModel, classifier_of, stage_index, stages
from hiercnn.recipe._build import PYTHON, build_data, build_source
from hiercnn.recipe._fit import Run
from hiercnn.recipe._load import data_settings
from hiercnn.recipe._schema import ClusterSettings
from hiercnn.train import pick_device

Source = Literal["features", "weights", "logits", "confusion"]
OF_VECTORS = ("features", "weights")
SPLITS = {"features": "train", "logits": "val", "confusion": "val"}  # where nothing else is asked for


class Clustered(NamedTuple):
    """Classes of a run: their distances, the dendrogram, their names in its order, and facts that go with the tree."""

    distances: ClassDistances
    dendrogram: Dendrogram
    classes: tuple[str, ...]
    facts: dict[str, object]

    def hierarchy(self, groups: list[int] | None) -> Hierarchy:
        """The tree of some numbers of groups, or of all merges.

        Groups are titled by their lowest common hypernym, where WordNet is installed and knows all their classes, and by their most
        typical classes.
        """
        titles = group_titles(self.distances, self.classes)
        return self.dendrogram.ordered(self.distances).hierarchy(self.classes, groups, titles=titles, meta=self.facts)


def cluster_run(
    run: Run,
    source: Source = "features",
    *,
    linkage: Linkage = "average",
    metric: Metric | None = None,
    stage: int | str | None = None,
    split: str | None = None,
    weights: str = "last",
    device: str = "auto",
) -> Clustered:
    """Cluster the classes of a run by what its network makes of them.

    Args:
        run: A run with weights.
        source: `features`: means of the classes' features; `weights`: rows of the classifier; `logits`: correlation of the classes' logits
            over images; `confusion`: how often classes are taken for each other.
        linkage: `average`, `complete`, `ward` or `single`.
        metric: Of vectors (features, weights): `cosine` unless given.
        stage: Of features: those after a stage of the backbone, averaged over the map; None takes what the classifier reads.
        split: Images, not augmented: `train` (features unless given) or `val` (logits and confusion), never test.
        weights: `last`, `best` or `step-…`.
        device: Where the images are looked at, and where large trees are made.

    Raises:
        RecipeError: Options that do not fit the source. CheckpointError: no such run or weights. DataError: classes without images, or
        without a distance. HierarchyError: ward of distances that are not euclidean.
    """
    _check(source, metric, stage, split)
    model = run.load_model(weights).to(place := pick_device(device))
    names = run.hierarchy.classes
    if source == "weights":
        vectors = _classifier_rows(model, len(names))
    else:
        images = _images(run, split or SPLITS[source])
        loader = make_loader(images, data_settings(run.recipe, run.channels), train=False, channels=run.channels, device=place)
        if source == "features":
            vectors = _class_means(model, loader, names, stage)
        else:
            logits, labels = _logits(model, loader)
            if source == "logits":
                similarity = logit_similarity(logits)
            else:
                similarity = confusion_similarity(confusion_matrix(logits.argmax(1), labels, len(names)))
    if source in OF_VECTORS:
        distances = vector_distances(vectors, metric or "cosine", list(names))
    else:
        distances = similarity_distances(similarity, list(names))
    facts = {"source": f"clustering of {source}, {linkage} linkage", "run": str(run.path), "digest": run.digest, "cost": training_cost(run)}
    return Clustered(distances, cluster(distances, linkage), names, facts)


def training_cost(run: Run) -> dict[str, float]:
    """Training seconds and images of a run so far, those of the run that its own tree was clustered from included."""
    last, charged = run.end or (run.metrics or [{}])[-1], charged_cost(run)
    own = {"seconds": last.get("seconds", {}).get("train", 0.0), "images": last.get("images", 0)}
    return {key: own[key] + charged[key] for key in own}


def charged_cost(run: Run) -> dict[str, float]:
    """Training seconds and images of the run that its tree was clustered from; 0 for other trees."""
    cost = (run.clustered or run.hierarchy).meta.get("cost")
    return {"seconds": 0.0, "images": 0} if not isinstance(cost, dict) else {key: cost[key] for key in ("seconds", "images")}


def clustered_tree(settings: ClusterSettings) -> Hierarchy:
    """The tree that a recipe asks for, made once in a process as long as the run stays as it is.

    Raises:
        CheckpointError: No finished run there; and whatever `cluster_run` raises.
    """
    run = Run(settings.run)
    if not run.finished:
        raise CheckpointError(f"no finished run in {settings.run}; train it first, or name a recipe of the same comparison")
    made = (run.path / "metrics.jsonl").stat().st_mtime_ns
    return _clustered_tree(settings.model_dump_json(), made)


@lru_cache(maxsize=8)
def _clustered_tree(text: str, made: int) -> Hierarchy:
    options = ClusterSettings.model_validate_json(text).model_dump()
    run, groups = Run(options.pop("run")), options.pop("groups")
    return cluster_run(run, **options).hierarchy(groups)


def _check(source: str, metric: str | None, stage: int | str | None, split: str | None) -> None:
    if source not in ("features", "weights", "logits", "confusion"):
        raise RecipeError(f"source: wanted features, weights, logits or confusion, got {source!r}")
    if metric is not None and source not in OF_VECTORS:
        raise RecipeError(f"metric is for features and weights; {source} are similarities already")
    if stage is not None and source != "features":
        raise RecipeError(f"stage is for features, not for {source}")
    if split not in (None, "train", "val") or (split is not None and source == "weights"):
        raise RecipeError("split: wanted train or val, never test, and nothing for weights")


def _images(run: Run, split: str) -> ImageSet:
    """Images of the run's split that are labelled with a class."""
    recipe = run.recipe
    if recipe.data.name == PYTHON:
        raise RecipeError(f"the images of {run.path} were objects; cluster its weights, or use hiercnn.clustering on your own features")
    data = build_data(recipe, build_source(recipe), run.hierarchy)
    if data.hierarchy.classes != run.hierarchy.classes:
        raise CheckpointError(f"the data have other classes now than {run.path} was trained on")
    images = getattr(data, split)
    return images.subset(np.flatnonzero(images.labels < data.hierarchy.num_classes))


@torch.no_grad()
def _class_means(model: HierarchicalModel, loader, names: tuple[str, ...], stage: int | str | None) -> Tensor:
    layer = PENULTIMATE if stage is None else f"stage{stage_index(stage, len(stages(model.backbone)))}"
    statistics = None
    for batch in loader.epoch():
        features = model(batch.images, [layer]).features[layer]
        if statistics is None:
            statistics = ClassStatistics(len(names), features.shape[1], diagonal=True, device=features.device)
        statistics.update(features, batch.labels)
    missing = range(len(names)) if statistics is None else torch.nonzero(statistics.counts == 0)[:, 0].tolist()
    if missing:
        raise DataError(f"classes without an image: {shorten(names[number] for number in missing)}; take the other split, or the weights")
    return statistics.means


def _classifier_rows(model: HierarchicalModel, classes: int) -> Tensor:
    weight = getattr(classifier_of(model), "weight", None)
    if not isinstance(weight, Tensor) or weight.shape[0] != classes:
        raise RecipeError("this network's classifier has no row for each class; cluster features, logits or confusion")
    return weight.detach().flatten(1)


@torch.no_grad()
def _logits(model: HierarchicalModel, loader) -> tuple[Tensor, Tensor]:
    found = [(model(batch.images).leaf.float(), batch.labels) for batch in loader.epoch()]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
