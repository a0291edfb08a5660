"""Checkpoints: weights as safetensors, the state of training as tensors and plain values."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hiercnn.errors import CheckpointError, shorten
from hiercnn.files import atomic_file
from hiercnn.hierarchy import Hierarchy


def save_weights(path: Path, model: nn.Module, hierarchy: Hierarchy, **facts: object) -> None:
    """Write a model's weights with the class names and the tree's digest; the file appears whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    facts = facts | {"classes": list(hierarchy.classes), "hierarchy": hierarchy.digest}
    with atomic_file(path) as scratch:
        scratch.write_bytes(save(tensors, metadata={"hiercnn": json.dumps(facts)}))  # save_file would hide the file from other users


def load_weights(path: Path | str, model: nn.Module, hierarchy: Hierarchy) -> dict[str, object]:
    """Load weights into a model after comparing class names, their order and the tree. Return the facts stored beside them.

    Raises:
        CheckpointError: No such file, damaged, of other classes, of another order, of another tree, or of another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("hiercnn", "{}"))
            check_classes(path, facts, hierarchy)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}") from None
    load_state(path, model, tensors)
    return facts


def check_classes(path: Path | str, facts: Mapping[str, object], hierarchy: Hierarchy) -> None:
    """Raise CheckpointError unless class names, order and tree are those the checkpoint was made with."""
    theirs, ours = facts.get("classes", []) if isinstance(facts, Mapping) else None, list(hierarchy.classes)
    if not isinstance(theirs, list) or not all(isinstance(name, str) for name in theirs) or len(set(theirs)) < len(theirs):
        raise CheckpointError(f"{path} is damaged: it does not say of which classes it is")
    if set(theirs) != set(ours):
        extra, missing = sorted(set(theirs).difference(ours)), sorted(set(ours).difference(theirs))
        parts = [f"it has {shorten(extra)}" if extra else "", f"it lacks {shorten(missing)}" if missing else ""]
        raise CheckpointError(f"{path} is of other classes: {'; '.join(filter(None, parts))}")
    if theirs != ours:
        first = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        raise CheckpointError(
            f"{path} numbers the classes in another order: class {first} is '{theirs[first]}' there and '{ours[first]}' here"
        )
    if facts.get("hierarchy") != hierarchy.digest:
        raise CheckpointError(f"{path} was made with another hierarchy of the same classes; use the run's hierarchy.json")


def load_state(path: Path | str, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict; raises CheckpointError that names the first tensors that do not fit."""
    own = model.state_dict()
    if not isinstance(tensors, Mapping) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()):
        raise CheckpointError(f"{path} is damaged: its weights are not tensors by name")
    wrong = sorted(set(own).symmetric_difference(tensors)) or [n for n, t in tensors.items() if t.shape != own[n].shape]
    if wrong:
        raise CheckpointError(f"{path} is of another model: {shorten(wrong)} do not fit")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # of a kind that cannot be copied, such as sparse ones
        raise CheckpointError(f"{path} is of another model: {str(error)[:200]}") from None


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Write the state that `--resume` needs; loadable with weights_only=True."""
    with atomic_file(path) as scratch, open(scratch, "wb") as file:  # of a name torch would not tell why it cannot be written
        torch.save(dict(state), file)


def load_training_state(path: Path, hierarchy: Hierarchy) -> dict:
    """Read the state written by `save_state`. Raises CheckpointError if it is missing, damaged or of another hierarchy."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"nothing to resume: {path} does not exist") from None
    except Exception as error:  # torch and zipfile raise a dozen kinds, pickle.UnpicklingError for what would run code
        advice = "last.safetensors beside it holds the last weights; begin again in another folder"
        raise CheckpointError(f"cannot read {path}, it is damaged ({str(error)[:120]}); {advice}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"cannot read {path}, it holds no state of a training; begin again in another folder")
    check_classes(path, state, hierarchy)
    return state
