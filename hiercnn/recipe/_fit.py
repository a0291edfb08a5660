"""`hiercnn.fit`: a recipe, or your own objects, to a finished run."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from hiercnn.data import Data, data_sets, from_datasets
from hiercnn.dynamics import LiveDynamics
from hiercnn.errors import CheckpointError, RecipeError, shorten
from hiercnn.hierarchy import Hierarchy, from_nested, read_hierarchy, save_hierarchy, to_nested
from hiercnn.models import NODE_SCORES, HierarchicalModel, check_forward
from hiercnn.recipe._build import (
    PYTHON,
    build_data,
    build_hierarchy,
    build_recipe_model,
    build_source,
    build_task,
    dynamics_cuts,
    dynamics_layers,
    report_cuts,
    taught_hierarchy,
)
from hiercnn.recipe._load import data_settings, load_recipe, to_yaml
from hiercnn.recipe._schema import Recipe
from hiercnn.recipe._yaml import find_recipe, read_recipe_file
from hiercnn.train import QuietDisplay, RunFolder, Trainer, World, load_weights, make_display, pick_device, together


class Run(RunFolder):
    """A run folder, and the model in it.

    Args:
        path: The folder.
        model: The module that was trained, where it was an object and no recipe can build it.
        trust_imports: Whether the modules that the recipe imports may be imported.

    Attributes:
        recipe: The resolved recipe.
        metrics: One dict an evaluated epoch. end: The closing event, test included.
        model: The trained model with its last weights, in eval mode on the CPU.
    """

    def __init__(self, path: Path | str, model: nn.Module | None = None, *, trust_imports: bool = False):
        super().__init__(path)
        self.own_model = model
        self.trust_imports = trust_imports

    @property
    def recipe(self) -> Recipe:
        try:
            raw = yaml.safe_load(self.recipe_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise CheckpointError(f"no run in {self.path}: cannot read recipe.yaml ({error})") from None
        if not isinstance(raw, dict):
            raise CheckpointError(f"no run in {self.path}: recipe.yaml is empty or damaged")
        return load_recipe(raw, check=False, trust_imports=self.trust_imports)

    @property
    def start(self) -> dict:
        """The opening event: sizes of the splits, channels, mean, std and more."""
        start = next((event for event in self.events if event["event"] == "start"), None)
        if start is None:
            raise CheckpointError(f"the run in {self.path} has not begun; delete that folder")
        return self._whole(start)

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return self.start["channels"]

    @property
    def digest(self) -> str:
        """What tells this run from any other: a hash of its metrics, times included."""
        return hashlib.sha256(self.metrics_file.read_bytes()).hexdigest()[:16]

    @property
    def clustered_file(self) -> Path:
        """The clustered tree that heads and losses are made of, if there is one."""
        return self.path / "clustered.json"

    @property
    def clustered(self) -> Hierarchy | None:
        """That tree."""
        return read_hierarchy(self.clustered_file) if self.exists() and self.clustered_file.exists() else None

    @property
    def model(self) -> nn.Module:
        return self.load_model("last")

    def load_model(self, weights: str = "last") -> nn.Module:
        """Build the model and load `last`, `best` or `step-…` weights into it.

        Raises:
            CheckpointError: No such weights, or they do not fit.
        """
        recipe = self.recipe
        if self.own_model is None and recipe.model.backbone == PYTHON:
            raise CheckpointError(f"the model of {self.path} was an object; pass it: Run(path, model=...)")
        taught = self.clustered or self.hierarchy
        model = _as_hierarchical(self.own_model, self.hierarchy) or build_recipe_model(recipe, taught, self.channels, pretrained=False)
        if Path(weights).name != weights:
            raise CheckpointError(f"weights: wanted last, best or step-…, got '{weights}'")
        load_weights(self.checkpoints / f"{weights}.safetensors", model, self.hierarchy)
        return model.cpu().eval()


def fit(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    run_dir: Path | str | None = None,
    resume: bool = False,
    train=None,
    val=None,
    test=None,
    classes: Sequence[str] | None = None,
    hierarchy: Hierarchy | Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    display: QuietDisplay | None = None,
    trust_imports: bool = False,
    profile: bool = False,
) -> Run:
    """Train what a recipe describes, or your own objects in the place of its parts.

    Args:
        recipe: A file, a shipped name, a mapping (its data and model may be left out if you pass objects), or a Recipe.
        overrides: `key.sub=value` texts.
        run_dir: The run folder; default `runs/<name>`.
        resume: Go on from the folder's last checkpoint; a finished run is returned as it is.
        train, val, test: Your map-style datasets of (image, class index); without `val` one is carved from train.
        classes: Class names in label order; default `train.classes`.
        hierarchy: Your tree, in any class order, or the nested mapping of one.
        model: Your module [B, channels, H, W] → logits [B, C], or a `HierarchicalModel`, whose heads bring their own weights.
        display: Who shows the progress.
        trust_imports: Whether the recipe's `imports:` may be imported.
        profile: Whether to look at some of the first steps with torch.profiler: a table, and a trace in the run folder.

    Raises:
        HierCNNError: Anything that is yours to mend; the message says how.
    """
    if not isinstance(recipe, str | Path | Mapping | Recipe):
        raise RecipeError(f"recipe should be a file, a shipped name, a mapping or a Recipe, not {type(recipe).__name__}")
    if isinstance(hierarchy, Mapping):
        hierarchy = from_nested(hierarchy)
    if train is None and (val is not None or test is not None or classes is not None):
        raise RecipeError("val=, test= and classes= go with train=")
    recipe = load_recipe(_with_objects(recipe, train, val, hierarchy, model), overrides, trust_imports=trust_imports, check=False)
    run = Run(run_dir or Path("runs") / recipe.name, model, trust_imports=trust_imports)
    with together(recipe.train.device) as world:
        recipe = world.from_main(lambda: load_recipe(recipe, trust_imports=trust_imports, stand_in=run.clustered))
        if world.from_main(lambda: run.finished and _already_there(run, recipe, resume)):  # it may lie where nobody can write
            _check_own_classes(run, train, classes)
            return run
        with ExitStack() as held:
            world.from_main(lambda: held.enter_context(run.lock()))
            if world.from_main(lambda: _already_there(run, recipe, resume)):  # by another process, since the look above
                return run
            display = display or make_display(recipe.logging.display if world.main else "quiet")
            if recipe.imports:
                display.note(f"imported at this recipe's wish: {', '.join(recipe.imports)}")
            if world.size == 1:
                pick_device(recipe.train.device)  # refused before images are read
            display.note(f"reading the data: {recipe.data.name}")
            source = from_datasets(train, val, test, classes=classes) if train is not None else _first_by_main(world, recipe)
            data = build_data(recipe, source, world.from_main(lambda: _tree(recipe, hierarchy, run)))
            trainer = build_trainer(recipe, data, run, model, display, profile=profile, world=world)
            if world.main and not run.exists():
                run.clustered_file.unlink(missing_ok=True)
                if recipe.hierarchy is not None and recipe.hierarchy.cluster is not None:
                    save_hierarchy(taught_hierarchy(recipe, data.hierarchy), run.clustered_file)
            trainer.fit(resume=resume)
    return run


def _already_there(run: Run, recipe: Recipe, resume: bool) -> bool:
    """Whether the run is finished. Raises an error if one is there that this call may not go on with."""
    run.check_recipe_is_there()
    if run.exists():
        _check_resumable(run, recipe, resume)
    return run.finished


def _first_by_main(world: World, recipe: Recipe):
    """The source of the data, which every process makes for itself, the first one before the others: it may have to unpack or fetch."""
    if not world.main:
        world.every(None)
    source = build_source(recipe)
    if world.main:
        world.every(None)
    return source


def build_trainer(
    recipe: Recipe,
    data: Data,
    run: Run,
    model: nn.Module | None = None,
    display: QuietDisplay | None = None,
    *,
    profile: bool = False,
    world: World | None = None,
) -> Trainer:
    """Everything of a run but the training; writes nothing."""
    world = world or World()
    begun = world.from_main(run.exists)  # the others need not see the folder
    taught = world.from_main(lambda: run.clustered or taught_hierarchy(recipe, data.hierarchy))  # a run keeps the tree that it began with
    network = _as_hierarchical(model, data.hierarchy) or build_recipe_model(recipe, taught, data.channels, pretrained=not begun)
    _check_heads(recipe, network)
    side = recipe.data.image_size if data.train.images is None else data.train.images.shape[-1]
    if side is not None and model is None:
        check_forward(network, data.channels, side)
    task = build_task(recipe, data, network, taught)
    fitting = getattr(task.loss, "classifier", None)
    if fitting is not None and not isinstance(network.reader, NODE_SCORES[fitting]):
        raise RecipeError(f"{recipe.loss.name} trains scores of all nodes; pass hiercnn.build_model(…, classifier='{fitting}')")
    live = None
    if recipe.dynamics is not None:
        cuts, layers = dynamics_cuts(recipe, data.hierarchy), dynamics_layers(recipe, network.backbone)
        live = LiveDynamics(data.hierarchy, cuts, layers, random=recipe.dynamics.random, folder=run.path / "dynamics" / "live")
    return Trainer(
        model=network,
        task=task,
        data=data,
        cuts=report_cuts(recipe, data.hierarchy),
        settings=recipe,
        data_settings=data_settings(recipe, data.channels),
        run=run,
        recipe_text=to_yaml(recipe),
        display=display,
        live=live,
        profile=profile,
        world=world,
    )


def _tree(recipe: Recipe, own: Hierarchy | None, run: Run) -> Hierarchy | None:
    """The tree that was passed, with its titles and sources, or the one that the recipe names, or has named when the run began."""
    if own is None:
        alone = recipe.hierarchy is not None and not recipe.hierarchy.given
        return (run.clustered if alone else None) or build_hierarchy(recipe.hierarchy)
    return own.collapse() if recipe.hierarchy.collapse else own


def _with_objects(recipe, train, val, hierarchy: Hierarchy | None, model: nn.Module | None):
    """The recipe with objects named in the place of the parts they replace."""
    if train is None and hierarchy is None and model is None:
        return recipe
    if not isinstance(recipe, Mapping):
        recipe = recipe.plain() if isinstance(recipe, Recipe) else read_recipe_file(find_recipe(recipe))
    raw = dict(recipe)
    if train is not None:
        own = data_sets.options(raw["data"]["name"]) if raw.get("data", {}).get("name") in data_sets else {}
        raw["data"] = {key: value for key, value in raw.get("data", {}).items() if key not in own} | {"name": PYTHON}
        raw["data"] |= {} if val is None else {"val": "given"}
    if hierarchy is not None:
        kept = {key: value for key, value in (raw.get("hierarchy") or {}).items() if key in ("cuts", "prune", "collapse", "cluster")}
        raw["hierarchy"] = kept | {"nested": to_nested(hierarchy)}
    if model is not None:
        if raw.get("model", {}).get("classifier", "linear") != "linear":
            raise RecipeError("model.classifier is not for a model that was passed; build it with hiercnn.build_model(…, classifier=…)")
        raw["model"] = {"backbone": PYTHON, "heads": raw.get("model", {}).get("heads", [])}
    return raw


def _as_hierarchical(model: nn.Module | None, hierarchy: Hierarchy) -> HierarchicalModel | None:
    """Anybody's module as a model without heads; one of ours as it is."""
    if model is None or isinstance(model, HierarchicalModel):
        return model
    return HierarchicalModel(model, hierarchy.classes)


def _check_heads(recipe: Recipe, network: HierarchicalModel) -> None:
    if recipe.model.heads and len(recipe.model.heads) != len(network.specs):
        raise RecipeError(
            f"the recipe has {len(recipe.model.heads)} heads, the module that was passed {len(network.specs)};"
            " build it with hiercnn.build_model, or drop model.heads from the recipe"
        )


def _check_own_classes(run: Run, train, classes: Sequence[str] | None) -> None:
    ours = tuple(map(str, classes if classes is not None else getattr(train, "classes", ())))
    if train is not None and ours != run.hierarchy.classes:
        raise CheckpointError(
            f"the finished run in {run.path} numbers other classes, or in another order: {shorten(run.hierarchy.classes)}"
        )


def _check_resumable(run: Run, recipe: Recipe, resume: bool) -> None:
    changed = differing_keys(run.recipe, recipe)
    if run.clustered is not None and recipe.hierarchy is not None and recipe.hierarchy.cluster is not None:
        _check_source(run, Run(recipe.hierarchy.cluster.run))
        changed = [key for key in changed if key != "hierarchy.cluster.run"]  # the tree is here, wherever that run has gone
    if changed and (resume or run.finished):
        raise RecipeError(f"{run.path} was made with another recipe; these differ: {shorten(changed)}. Choose another folder")
    if not resume:
        state = "a finished run" if run.finished else f"a run that has done {len(run.metrics)} of {run.recipe.epochs} epochs"
        raise CheckpointError(f"{run.path} already holds {state}; add --resume to go on with it, or choose another folder with --run-dir")


def _check_source(run: Run, source: Run) -> None:
    """Raise CheckpointError if another run stands now where the one was that the tree was clustered from."""
    if source.finished and source.digest != run.clustered.meta.get("digest"):
        raise CheckpointError(
            f"{run.path} has a tree of another run than the one that is in {source.path} now; delete {run.path} to make it of this one"
        )


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted paths at which two recipes differ; how progress is shown does not count."""
    return sorted(_differences(one.plain() | {"logging": None}, other.plain() | {"logging": None}))


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif one != other:
        yield path
