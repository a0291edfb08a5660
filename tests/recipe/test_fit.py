"""`hiercnn.fit` from Python: recipes, own datasets, trees and modules."""

import pytest
import torch
from torch import nn

import hiercnn
from hiercnn.errors import CheckpointError, DataError, HierCNNError, RecipeError
from hiercnn.hierarchy import Hierarchy, from_nested
from hiercnn.models import HeadSpec, build_model

TREE = from_nested({"animal": {"cat": None, "dog": None}, "thing": {"car": None, "cup": None}})
CLASSES = ["cup", "dog", "car", "cat"]
QUICK = {
    "epochs": 2,
    "data": {"batch_size": 16, "val": 4, "image_size": 16},
    "train": {"precision": "float32", "device": "cpu"},
    "optim": {"lr": 0.05},
    "logging": {"display": "quiet"},
}


class Blobs(torch.utils.data.Dataset):
    """uint8 images of one grey level a class, so that a label mix-up shows as chance accuracy."""

    classes = CLASSES

    def __init__(self, count=16, seed=0):
        self.targets = [i % 4 for i in range(4 * count)]
        noise = torch.Generator().manual_seed(seed)
        levels = torch.tensor([20, 90, 160, 230])[torch.tensor(self.targets)]
        self.images = (levels[:, None, None, None] + torch.randint(-9, 10, (4 * count, 3, 16, 16), generator=noise)).to(torch.uint8)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 4))


def test_own_dataset_tree_and_module(tmp_path):
    recipe = QUICK | {"epochs": 12, "optim": {"lr": 0.2}}
    run = hiercnn.fit(recipe, train=Blobs(), test=Blobs(seed=1), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    assert len(run.metrics) == 12
    assert run.hierarchy.classes == tuple(CLASSES)
    assert run.end["test"]["accuracy"]["leaf"] > 0.9
    assert set(run.end["test"]["accuracy"]) == {"2 groups", "leaf"}
    assert run.model(torch.zeros(2, 3, 16, 16)).leaf.shape == (2, 4)


def test_own_module_with_heads(tmp_path):
    tree = TREE.with_classes(CLASSES)
    model = build_model("alexnet_bn", tree, [HeadSpec("early", tree.cut(depth=1))])
    run = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=model, run_dir=tmp_path / "run")
    assert set(run.metrics[-1]["val"]["heads"]) == {"stage1_2"}
    assert run.metrics[-1]["weights"] == {"leaf": 1.0, "head/stage1_2": 1.0}


def test_a_module_built_for_another_class_order_is_refused(tmp_path):
    model = build_model("alexnet_bn", TREE, [HeadSpec("early", TREE.cut(depth=1))])
    with pytest.raises(DataError, match="model and data number the classes differently, first at 'cat' and 'cup'"):
        hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=model, run_dir=tmp_path / "run")


def test_a_module_with_another_number_of_outputs_is_refused(tmp_path):
    wrong = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    with pytest.raises(HierCNNError, match="leaf logits: wanted .*4.*got .*7"):
        hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=wrong, run_dir=tmp_path / "run")


def test_a_classifier_is_not_asked_for_beside_a_module(tmp_path):
    recipe = QUICK | {"model": {"classifier": "path_sum"}}
    with pytest.raises(RecipeError, match=r"model\.classifier is not for a model that was passed; build it with hiercnn\.build_model"):
        hiercnn.fit(recipe, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")


def test_a_recipe_by_name_with_own_data_keeps_the_rest(tmp_path):
    run = hiercnn.fit(
        "quickstart/flat",
        overrides=[
            "epochs=1",
            "data.image_size=16",
            "data.batch_size=16",
            "data.val=4",
            "data.coarse_labels=null",
            "hierarchy.cuts=null",
            "logging.display=quiet",
        ],
        train=Blobs(),
        hierarchy=TREE,
        run_dir=tmp_path / "run",
    )
    plain = run.recipe.plain()
    assert plain["data"]["name"] == "python"
    assert plain["model"]["backbone"] == "vgg_small_bn"
    assert plain["hierarchy"]["nested"] == {"root": {"animal": {"cat": None, "dog": None}, "thing": {"car": None, "cup": None}}}


def test_run_is_read_back_from_its_folder(tmp_path):
    made = hiercnn.fit(QUICK | {"model": {"backbone": "alexnet_bn"}}, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    run = hiercnn.Run(tmp_path / "run")
    assert run.finished
    assert run.metrics == made.metrics
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(run.model(images).leaf, made.model(images).leaf)
        assert run.load_model("best")(images).leaf.shape == (3, 4)


def test_a_run_of_a_module_needs_the_module_to_be_read_back(tmp_path):
    hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match="was an object; pass it"):
        _ = hiercnn.Run(tmp_path / "run").model


def test_a_finished_run_is_returned_on_resume_and_refused_without(tmp_path):
    first = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match="already holds a finished run"):
        hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    again = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run", resume=True)
    assert again.events == first.events


def test_without_a_tree_the_classes_hang_from_one_root(tmp_path):
    run = hiercnn.fit(QUICK, train=Blobs(), model=net(), run_dir=tmp_path / "run")
    assert set(run.end["val"]["accuracy"]) == {"leaf"}


def test_multi_label_data_are_refused(tmp_path):
    data = Blobs()
    data.targets = [[0, 1] for _ in data.targets]
    with pytest.raises(DataError, match="multi-label data are not supported"):
        hiercnn.fit(QUICK, train=data, hierarchy=TREE, model=net(), run_dir=tmp_path / "run")


def test_val_without_train_is_refused():
    with pytest.raises(RecipeError, match="go with train="):
        hiercnn.fit("quickstart/flat", val=Blobs())


def test_a_run_with_python_data_cannot_be_started_from_its_recipe(tmp_path):
    hiercnn.fit(QUICK | {"model": {"backbone": "alexnet_bn"}}, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    with pytest.raises(DataError, match="data came from Python"):
        hiercnn.fit(tmp_path / "run" / "recipe.yaml", run_dir=tmp_path / "other")


def test_a_run_of_a_module_is_read_back_with_the_module(tmp_path):
    made = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    images = torch.randn(2, 3, 16, 16)
    expected = made.model(images).leaf
    assert torch.equal(hiercnn.Run(tmp_path / "run", model=net()).model(images).leaf, expected)


def test_opening_a_run_does_not_import_what_its_recipe_names(tmp_path):
    run = hiercnn.fit(QUICK | {"model": {"backbone": "alexnet_bn"}}, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    text = run.recipe_file.read_text().replace("imports: []", "imports: [no_such_module]")
    run.recipe_file.write_text(text)
    with pytest.raises(RecipeError, match="imports code: no_such_module"):
        _ = hiercnn.Run(tmp_path / "run").recipe


def test_a_val_that_is_passed_is_never_trained_on(tmp_path):
    run = hiercnn.fit(QUICK, train=Blobs(), val=Blobs(5, seed=3), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    assert run.events[0]["sizes"] == {"train": 64, "val": 20}


def test_heads_of_a_recipe_are_not_dropped_in_silence(tmp_path):
    recipe = QUICK | {"model": {"backbone": "alexnet_bn", "heads": [{"stage": "early", "cut": 2}]}}
    with pytest.raises(RecipeError, match="the recipe has 1 heads, the module that was passed 0"):
        hiercnn.fit(recipe, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tree_that_is_passed_keeps_its_titles_and_sources(tmp_path):
    tree = Hierarchy(TREE.names, TREE.parents, TREE.classes, titles=[name.upper() for name in TREE.names], meta={"source": "here"})
    run = hiercnn.fit(QUICK, train=Blobs(), hierarchy=tree, model=net(), run_dir=tmp_path / "run")
    assert run.hierarchy.meta == {"source": "here"}
    assert run.hierarchy.titles[0] == "ROOT"


def test_weights_of_head_specs_are_used(tmp_path):
    tree = TREE.with_classes(CLASSES)
    model = build_model("alexnet_bn", tree, [HeadSpec("early", tree.cut(depth=1), weight=0.25)])
    run = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=model, run_dir=tmp_path / "run")
    assert run.metrics[-1]["weights"] == {"leaf": 1.0, "head/stage1_2": 0.25}


@pytest.mark.parametrize("name", ["leaf", "loss", "cross_entropy"])
def test_a_head_of_any_name_leaves_the_leaf_loss_alone(tmp_path, name):
    heads = [{"stage": "early", "cut": 2, "name": name, "weight": 0}]
    recipe = QUICK | {"model": {"backbone": "alexnet_bn", "heads": heads}}
    run = hiercnn.fit(recipe, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    last = run.metrics[-1]
    assert last["weights"] == {"leaf": 1.0, f"head/{name}": 0.0}
    assert last["train"]["loss"] == pytest.approx(last["train"]["cross_entropy"])


def test_a_finished_run_is_not_taken_for_one_of_another_class_order(tmp_path):
    hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match="numbers other classes, or in another order: 'cup', 'dog', 'car', 'cat'"):
        hiercnn.fit(QUICK, train=Blobs(), classes=CLASSES[::-1], hierarchy=TREE, model=net(), run_dir=tmp_path / "run", resume=True)


def test_a_tree_may_be_a_nested_mapping(tmp_path):
    nested = {"animal": ["cat", "dog"], "thing": ["car", "cup"]}
    assert hiercnn.fit(QUICK, train=Blobs(), hierarchy=nested, model=net(), run_dir=tmp_path / "run").hierarchy.height == 2


def test_a_recipe_of_another_kind_is_refused():
    with pytest.raises(RecipeError, match="recipe should be a file, a shipped name, a mapping or a Recipe, not NoneType"):
        hiercnn.fit(None)


def test_a_backbone_that_does_not_take_the_images_is_named_before_anything_is_written(tmp_path):
    recipe = QUICK | {"model": {"backbone": "vit_tiny_patch16_224"}}
    with pytest.raises(RecipeError, match="the model does not take images of 3 × 16 × 16: .*model.options.img_size"):
        hiercnn.fit(recipe, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_smaller_than_the_stride_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="images of 16 × 16 are smaller than the backbone's stride of 32; raise data.image_size"):
        hiercnn.fit(QUICK | {"model": {"backbone": "resnet18"}}, train=Blobs(), hierarchy=TREE, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_finishes_meanwhile_is_not_tested_again(tmp_path, monkeypatch):
    first = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run")
    events, looks = first.events, iter([False])  # the first look comes before the other process has finished
    finished = hiercnn.Run.finished.fget
    monkeypatch.setattr(hiercnn.Run, "finished", property(lambda run: next(looks, None) is None and finished(run)))
    again = hiercnn.fit(QUICK, train=Blobs(), hierarchy=TREE, model=net(), run_dir=tmp_path / "run", resume=True)
    assert again.events == events
    assert "resumed" not in (tmp_path / "run" / "environment.json").read_text()


def test_a_recipe_that_is_no_text_is_told(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(CheckpointError, match="no run in .*cannot read recipe.yaml"):
        _ = hiercnn.Run(tmp_path).recipe
