"""What `hiercnn push` writes: timm builds the same classifier from it, and a recipe begins with it."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file
from torchvision.transforms import v2
from train.tiny import BRANCHES, tiny

import hiercnn
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.models import create_backbone
from hiercnn.recipe import Run, push_run

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    recipe = tiny(BRANCHES, "data.mean=[0.4, 0.5, 0.6]", "data.std=[0.2, 0.2, 0.3]")
    return hiercnn.fit(recipe, run_dir=tmp_path_factory.mktemp("push") / "run")


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    assert push_run(run, folder=folder) == f"local-dir:{folder}"
    return folder


def loaded(folder: Path, **options) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()


def assert_same_logits(model, other) -> None:
    with torch.no_grad():
        assert torch.equal(model(IMAGES), other(IMAGES))


def test_timm_builds_the_same_classifier(run, pushed):
    assert_same_logits(loaded(pushed), run.model.strip_heads())
    assert sorted(path.name for path in pushed.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_best_weights(run, tmp_path):
    push_run(run, folder=tmp_path, weights="best")
    assert_same_logits(loaded(tmp_path), run.load_model("best").strip_heads())
    card = (tmp_path / "README.md").read_text()
    epoch = run.end["best_epoch"]
    accuracy = run.metrics[epoch - 1]["val"]["accuracy"]  # the last weights were tested, not these
    assert f"best, after epoch {epoch} of 2" in card
    assert f"**Accuracy on val:**\n  - 3 groups: {100 * accuracy['3 groups']:.1f} %" in card
    assert f"  - leaf: {100 * accuracy['leaf']:.1f} %" in card


def test_the_configuration_is_the_run_s(run, pushed):
    config = json.loads((pushed / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("tiny_net", 36)
    assert tuple(config["label_names"]) == run.hierarchy.classes
    images = config["pretrained_cfg"]
    assert (images["input_size"], images["mean"], images["std"]) == ([3, 16, 16], [0.4, 0.5, 0.6], [0.2, 0.2, 0.3])


def test_timm_s_transform_treats_images_as_the_run_did(pushed):
    model = loaded(pushed)
    image = v2.functional.to_pil_image(torch.randint(0, 256, (3, 40, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    ours = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(16), v2.PILToTensor()])(image)
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image)
    torch.testing.assert_close(theirs, (ours / 255 - mean) / std)


def test_nothing_of_timm_s_own_weights_is_claimed(tmp_path):
    run = hiercnn.fit(tiny("epochs=1", "model.backbone=test_resnet", "data.image_size=32"), run_dir=tmp_path / "run")
    push_run(run, folder=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert not {"url", "hf_hub_id", "tag", "license", "origin_url", "test_input_size"} & set(config)
    assert (config["input_size"], config["crop_pct"]) == ([3, 32, 32], 1.0)
    assert "hiercnn." not in (tmp_path / "out" / "README.md").read_text()  # timm alone rebuilds it
    assert_same_logits(loaded(tmp_path / "out"), run.model.strip_heads())


def test_the_model_card(run, pushed):
    card = (pushed / "README.md").read_text()
    for line in (
        "license: unknown",
        "# Model card for flat",
        "- **Data:** synthetic (180 train, 36 val, 108 test images)",
        "- **Tree:** synthetic: 3 groups, 9 groups, 36 classes",
        "- **Heads:** 3 groups after stage 0, 9 groups after stage 1, stripped here",
        "- **Accuracy on test:**",
        f"  - leaf: {100 * run.end['test']['accuracy']['leaf']:.1f} %",
        "- **Weights:** last, after epoch 2 of 2, seed 0",
        "import train.tiny  # has tiny_net, which is not timm's own",
    ):
        assert line in card.splitlines(), line


def test_the_card_s_lines_load_it(run, pushed):
    lines = (pushed / "README.md").read_text().split("```")[1].removeprefix("python\n")
    names: dict = {}
    exec(lines, names)
    assert_same_logits(names["model"], run.model.strip_heads())


def test_a_path_sum_is_folded(tmp_path):
    run = hiercnn.fit(tiny("epochs=1", "model.classifier=path_sum"), run_dir=tmp_path / "run")
    push_run(run, folder=tmp_path / "out")
    assert_same_logits(loaded(tmp_path / "out"), run.model.strip_heads())


@pytest.mark.long
def test_options_and_channels_are_kept(tmp_path):
    images = torch.randint(0, 256, (24, 1, 20, 20), dtype=torch.uint8)
    recipe = {"epochs": 1, "model": {"backbone": "resnet10t", "options": {"stem_width": 16}}, "logging": {"display": "quiet"}}
    recipe |= {"data": {"batch_size": 4, "image_size": 32}, "train": {"device": "cpu"}}
    dataset = [(image, number % 2) for number, image in enumerate(images)]
    run = hiercnn.fit(recipe, train=dataset, classes=["a", "b"], run_dir=tmp_path / "run")
    push_run(run, folder=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_args"]["stem_width"], config["pretrained_cfg"]["input_size"]) == (16, [1, 32, 32])
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "out")(IMAGES[:, :1]), run.model.strip_heads()(IMAGES[:, :1]))


# ---- and back


def test_a_recipe_begins_with_it(run, pushed, tmp_path):
    recipe = tiny(f"model.weights=local-dir:{pushed}", "epochs=1")
    assert (recipe.data.mean, recipe.data.std) == ([0.4, 0.5, 0.6], [0.2, 0.2, 0.3])
    begun = create_backbone("tiny_net", 5, weights=f"local-dir:{pushed}").state_dict()
    assert begun["fc.weight"].shape == (5, 48)
    for key, value in run.model.backbone.state_dict().items():
        assert key.startswith("fc.") or torch.equal(begun[key], value), key
    tuned = hiercnn.fit(recipe, run_dir=tmp_path / "tuned")
    assert tuned.recipe == recipe
    assert tuned.model.backbone.fc.out_features == 36


def test_a_repository_of_the_hub(run, pushed, monkeypatch):
    """timm's own download, from a folder."""
    asked = []

    def download(repository, filename, revision=None, **_):
        asked.append((repository, revision))
        if not (pushed / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(pushed / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda repo_id, filename, **options: download(repo_id, filename, **options))
    begun = create_backbone("tiny_net", 36, weights="hf-hub:me/tiny@v2").state_dict()
    assert torch.equal(begun["stages.0.0.conv.weight"], run.model.backbone.state_dict()["stages.0.0.conv.weight"])
    assert set(asked) == {("me/tiny", "v2")}


def folders(pushed: Path, base: Path) -> dict[str, tuple[Path, str]]:
    """Folders that hold no weights of tiny_net, and what is said of them."""
    config, made = json.loads((pushed / "config.json").read_text()), {}

    def folder(name: str, config_text: str, weights: bytes | None = None) -> Path:
        (base / name).mkdir()
        (base / name / "config.json").write_text(config_text)
        if weights is not None:
            (base / name / "model.safetensors").write_bytes(weights)
        return base / name

    tensors = (pushed / "model.safetensors").read_bytes()
    made["nothing"] = base / "nothing", "no config.json of a timm model: Config file not found"
    made["no JSON"] = folder("no JSON", "{"), "no config.json of a timm model: Expecting"
    made["a list"] = folder("a list", "[]"), "no config.json of a timm model"
    made["no architecture"] = folder("no architecture", "{}"), "no config.json of a timm model: 'architecture'"
    other = json.dumps(config | {"architecture": "resnet18"})
    made["another"] = folder("another", other, tensors), "holds a 'resnet18', model.backbone is 'tiny_net'; set model.backbone: resnet18"
    made["no weights"] = folder("no weights", json.dumps(config)), "holds no weights of 'tiny_net' .* No suitable checkpoints"
    made["damaged"] = folder("damaged", json.dumps(config), b"no header"), "holds no weights of 'tiny_net'"
    made["misfit"] = folder("misfit", json.dumps(config), tensors), r"holds no weights of 'tiny_net' .*(?s:.)*Missing key"
    state = load_file(pushed / "model.safetensors")
    state.pop("stages.0.0.conv.weight")
    torch.save(state, made["misfit"][0] / "pytorch_model.bin")
    (made["misfit"][0] / "model.safetensors").unlink()
    return made


def test_what_is_no_repository(pushed, tmp_path):
    for folder, message in folders(pushed, tmp_path).values():
        with pytest.raises(RecipeError, match=message):
            create_backbone("tiny_net", 3, weights=f"local-dir:{folder}")


# ---- the hub


class Hub:
    """Takes the place of the hub: notes what is asked of it, and keeps what is uploaded."""

    def __init__(self, monkeypatch, keep: Path, refuse: Exception | None = None):
        self.asked, self.keep, self.refuse = [], keep, refuse
        for name in ("create_repo", "file_exists", "upload_folder"):
            monkeypatch.setattr(huggingface_hub.HfApi, name, self._stand_in(name))

    def _stand_in(self, name):
        def call(api, *arguments, **options):
            if self.refuse is not None:
                raise self.refuse
            return getattr(self, name)(*arguments, **options)

        return call

    def create_repo(self, name, *, private, exist_ok):
        self.asked.append(("create", name, private))
        return SimpleNamespace(repo_id=name)

    def file_exists(self, **_):
        return False

    def upload_folder(self, *, repo_id, folder_path, **_):
        self.asked.append(("upload", repo_id))
        for path in Path(folder_path).iterdir():
            (self.keep / path.name).write_bytes(path.read_bytes())


def test_pushing_to_the_hub_sends_the_same_files(run, pushed, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, tmp_path)
    assert push_run(run, to="me/tiny", private=True) == "hf-hub:me/tiny"
    assert hub.asked == [("create", "me/tiny", True), ("upload", "me/tiny")]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (pushed / name).read_bytes()
    assert 'timm.create_model("hf-hub:me/tiny", pretrained=True)' in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("error", [huggingface_hub.errors.LocalTokenNotFoundError("no token"), ConnectionError("no network")])
def test_the_hub_refuses(run, tmp_path, monkeypatch, error):
    Hub(monkeypatch, tmp_path, refuse=error)
    with pytest.raises(RecipeError, match=f"cannot push to me/tiny: {error}; `hf auth login` or HF_TOKEN gives a token"):
        push_run(run, to="me/tiny")


# ---- what is refused


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({}, "pushed to one place"),
        ({"folder": "x", "to": "me/tiny"}, "pushed to one place"),
        ({"to": "tiny"}, "--to: wanted USER/NAME, got 'tiny'"),
        ({"folder": "x", "weights": "step-00000001"}, "weights: wanted last, best or average, got 'step-00000001'"),
    ],
)
def test_wrong_arguments(run, place, message):
    with pytest.raises(RecipeError, match=message):
        push_run(run, **place)


def test_a_folder_that_is_not_empty(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RecipeError, match="is not an empty folder; choose another"):
        push_run(run, folder=tmp_path)
    with pytest.raises(RecipeError, match="is not an empty folder"):
        push_run(run, folder=tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_run_that_is_not_finished(tmp_path):
    with pytest.raises(CheckpointError, match="no finished run in .*nothing; train it to its end first"):
        push_run(Run(tmp_path / "nothing"), folder=tmp_path / "out")


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.backbone=resnet18", "model.stem=small"], "a small stem is no architecture of timm's"),
        (["model.classifier=margin", "loss={name: margin_nll}"], "leaf scores need the tree"),
        (["model.heads=[{stage: 0, cut: 3, feed_forward: true}]"], "the leaf scores need the heads stage0_3"),
    ],
)
def test_models_that_timm_cannot_rebuild(overrides, message, tmp_path):
    run = hiercnn.fit(tiny("epochs=1", *overrides), run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match=message):
        push_run(run, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_an_object(tmp_path):
    model = create_backbone("tiny_net", 36)
    run = hiercnn.fit(tiny("epochs=1"), model=model, run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="was an object, which timm cannot build by name"):
        push_run(run, folder=tmp_path / "out")
