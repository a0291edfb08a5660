"""A finished run's classifier as timm stores models: in a folder, or in a repository of the Hugging Face hub."""

import re
from pathlib import Path

from torch import nn

from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.models import HierarchicalModel
from hiercnn.recipe._build import PYTHON
from hiercnn.recipe._fit import Run
from hiercnn.recipe._schema import Recipe

OF_ARCHITECTURE = ("architecture", "first_conv", "classifier", "fixed_input_size", "min_input_size")  # true of it whatever it has learnt
OTHERWISE = "`hiercnn export --format torch` can store it"


def push_run(run: Run, *, folder: Path | str | None = None, to: str | None = None, private: bool = False, weights: str = "last") -> str:
    """Store the classifier, its heads stripped, with its configuration and a model card, by timm's own functions.

    Args:
        folder: A new or empty folder for config.json, model.safetensors and README.md.
        to: A repository `USER/NAME` of the Hugging Face hub, made if it is not there; a model card that it has already stays.
        private: Whether a new repository is private.
        weights: `last`, `best` or `average`.

    Returns:
        The name by which `timm.create_model(name, pretrained=True)` loads it.

    Raises:
        CheckpointError: The run is not finished, or has no such weights.
        RecipeError: Not one place; a classifier that needs the tree or its heads, or that timm cannot rebuild; the hub refuses.
    """
    if (folder is None) == (to is None):
        raise RecipeError("a run is pushed to one place: a folder (--folder DIR) or the Hugging Face hub (--to USER/NAME)")
    if to is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", to):
        raise RecipeError(f"--to: wanted USER/NAME, got '{to}'")
    if folder is not None:
        check_free(Path(folder), "--folder")
    name = f"local-dir:{folder}" if to is None else f"hf-hub:{to}"
    check_finished(run, weights)
    check_rebuildable(run, OTHERWISE)
    model = run.load_model(weights)
    plain = plain_classifier(run, model, OTHERWISE)
    card = _card(run, model, weights, name)
    if to is None:
        write_for_timm(run, plain, Path(folder), card)
    else:
        _upload(to, private, plain, _arguments(run), card)
    return name


def check_free(folder: Path, option: str) -> None:
    """Raise RecipeError, naming the option that gave it, unless a folder is new or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RecipeError(f"{option}: {folder} is not an empty folder; choose another, or empty it")


def check_finished(run: Run, weights: str) -> None:
    """Raise CheckpointError unless the run is finished and has these weights, RecipeError unless they are those of its end."""
    if weights not in ("last", "best", "average"):
        raise RecipeError(f"weights: wanted last, best or average, got '{weights}'")
    if not run.finished:
        raise CheckpointError(f"no finished run in {run.path}; train it to its end first (--resume goes on with it)")
    if weights == "average" and not (run.checkpoints / "average.safetensors").exists():
        raise CheckpointError(f"{run.path} has no averaged weights; train it with checkpoints.average, or take last or best")


def check_rebuildable(run: Run, otherwise: str) -> None:
    """Raise RecipeError, saying what to do otherwise, if timm cannot build the run's architecture by name."""
    if run.recipe.model.backbone == PYTHON:
        raise RecipeError(f"the model of {run.path} was an object, which timm cannot build by name; {otherwise}")
    if run.recipe.model.stem != "default":
        raise RecipeError(f"a small stem is no architecture of timm's, which could not rebuild the model; {otherwise}")


def plain_classifier(run: Run, trained: HierarchicalModel, otherwise: str) -> nn.Module:
    """The timm classifier alone, with what the run knows about its images in the place of timm's."""
    try:
        model = trained.strip_heads()
    except RecipeError as error:
        raise RecipeError(f"{error}; {otherwise}") from None
    images = {
        "input_size": _input_size(run, model.pretrained_cfg["input_size"]),
        "mean": run.start["mean"],
        "std": run.start["std"],
        "interpolation": run.recipe.data.interpolation or "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    model.pretrained_cfg = {key: model.pretrained_cfg[key] for key in OF_ARCHITECTURE if key in model.pretrained_cfg} | images
    return model


def _input_size(run: Run, default: list[int]) -> list[int]:
    side = run.recipe.data.image_size
    return run.start.get("input_size") or (default if side is None else [run.channels, side, side])


def _arguments(run: Run) -> dict[str, object]:
    """What timm needs besides the model: its options and the names of its classes, in the order of the logits."""
    options = {"in_chans": run.channels, **run.recipe.model.options}
    return {"model_config": {"label_names": list(run.hierarchy.classes)}, "model_args": options, "safe_serialization": True}


def write_for_timm(run: Run, model: nn.Module, folder: Path, card: dict[str, object] | None = None) -> None:
    """Write config.json and model.safetensors, and a model card if one is given. Raises RecipeError if that fails."""
    from timm.models._hub import generate_readme, save_for_hf

    try:
        save_for_hf(model, str(folder), **_arguments(run))
        if card is not None:
            (folder / "README.md").write_text(generate_readme(card, run.recipe.name), encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"--folder: cannot write to {folder}: {error.strerror or error}; choose another") from error


def _upload(to: str, private: bool, model: nn.Module, arguments: dict[str, object], card: dict[str, object]) -> None:
    from huggingface_hub.errors import HTTPError
    from timm.models import push_to_hf_hub

    try:
        push_to_hf_hub(model, to, private=private, model_card=card, **arguments)
    except (OSError, ValueError, HTTPError) as error:
        advice = "`hf auth login` or HF_TOKEN gives a token that may write; --folder needs no network"
        raise RecipeError(f"cannot push to {to}: {str(error).strip() or type(error).__name__}; {advice}") from error


# ---- the model card


def _card(run: Run, model: HierarchicalModel, weights: str, name: str) -> dict[str, object]:
    """What timm's `generate_readme` reads."""
    recipe, start, epoch = run.recipe, run.start, epoch_of(run, weights)
    split, measured = measured_on(run, weights)
    images = ", ".join(f"{count:,} {part}" for part, count in start["sizes"].items())
    levels = ", ".join([*(cut.name for cut in run.cuts if cut.name != "leaf"), f"{run.hierarchy.num_classes} classes"])
    heads = ", ".join(f"{len(spec.cut)} groups after stage {spec.stage}" for spec in model.specs.values())
    return {
        "description": f"`{recipe.model.backbone}`, trained by hiercnn; logits of {run.hierarchy.num_classes} classes (config.json).",
        "details": {
            "Data": f"{recipe.data.name} ({images} images)",
            "Tree": f"{tree_name(recipe)}: {levels}",
            "Heads": f"{heads}, stripped here" if heads else "none",
            f"Accuracy on {split}": {level: f"{100 * value:.1f} %" for level, value in measured["accuracy"].items()},
            "Weights": f"{weights}, after epoch {epoch} of {run.end['epochs']}, seed {recipe.seed}",
        },
        "usage": _usage(recipe, name),
        "tags": ["image-classification", "timm", "hiercnn"],
        "license": "unknown",  # whose data and weights these are, only the user knows
    }


def epoch_of(run: Run, weights: str) -> int:
    """The epoch after which these weights were kept; that of the last ones for averaged ones."""
    return run.end["best_epoch" if weights == "best" else "epochs"]


def measured_on(run: Run, weights: str) -> tuple[str, dict[str, object]]:
    """The split and what was measured of these very weights on it: on test where they were tested, else on val."""
    if "test" in run.end and run.recipe.eval.test_weights == weights:
        return "test", run.end["test"]
    if weights == "average":
        return "val", run.end["average_val"]
    return "val", next(event for event in run.metrics if event["epoch"] == epoch_of(run, weights))["val"]


def tree_name(recipe: Recipe) -> str:
    """Where the recipe's tree comes from, in a word or two."""
    settings = recipe.hierarchy
    if settings is None:
        return "none"
    for key in ("builtin", "file", "folders"):
        if getattr(settings, key) is not None:
            return Path(getattr(settings, key)).name
    return "WordNet" if settings.wordnet is not None else "the recipe's own" if settings.nested is not None else "clustered from a run"


def _usage(recipe: Recipe, name: str) -> str:
    """The lines that load it; an architecture that is not timm's own is registered by the module that has it."""
    lines = ["import timm", *registration(recipe), f'model = timm.create_model("{name}", pretrained=True).eval()']
    return "\n".join(["```python", *lines, "```"])


def registration(recipe: Recipe) -> list[str]:
    """The line that registers the recipe's architecture with timm, if it is not timm's own."""
    import timm

    module = timm.model_entrypoint(timm.models.split_model_name_tag(recipe.model.backbone)[0]).__module__
    return [] if module.startswith("timm.") else [f"import {module}  # has {recipe.model.backbone}, which is not timm's own"]
