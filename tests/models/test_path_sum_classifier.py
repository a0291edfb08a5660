"""Path sums: a class's row is the sum of the rows on its path; a plain linear layer from outside, and again once folded."""

import copy

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_trees import trees
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn
from train.tiny import tiny

from hiercnn import Run, fit
from hiercnn.errors import RecipeError
from hiercnn.hierarchy import Hierarchy, from_nested
from hiercnn.models import HeadSpec, HierarchicalModel, build_model
from hiercnn.models._path_sum import PathSum, has_path_sum, share_rows

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])
SHARED = ("model.classifier=path_sum", "name=shared")


def dense(tree: Hierarchy) -> torch.Tensor:
    """P [C, N − 1] float64: 1 where a node lies on the path to a class; the root is left out."""
    paths = np.zeros((tree.num_classes, tree.num_nodes))
    for label, node in enumerate(tree.leaf_nodes):
        while node >= 0:
            paths[label, node] = 1
            node = tree.parents[node]
    return torch.from_numpy(paths[:, 1:])


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model with other rows for all nodes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".original"):
                parameter += torch.randn(parameter.shape, generator=generator)
    return model


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


# --- The sum --------------------------------------------------------------------------------------------------------------------------

TREES = trees().filter(lambda tree: tree.num_nodes > 1)


@given(TREES, st.sampled_from([(), (3,), (2, 3)]), st.integers(0, 99))
def test_it_is_the_dense_matrix(tree, shape, seed):
    rng = np.random.default_rng(seed)
    nodes = torch.from_numpy(rng.normal(size=(tree.num_nodes - 1, *shape))).requires_grad_()
    upstream = torch.from_numpy(rng.normal(size=(tree.num_classes, *shape)))
    classes = PathSum(tree)(nodes)
    (gradient,) = torch.autograd.grad(classes, nodes, upstream)
    torch.testing.assert_close(classes, torch.tensordot(dense(tree), nodes, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.tensordot(dense(tree).T, upstream, 1), rtol=1e-12, atol=1e-12)


@given(TREES)
def test_it_starts_from_the_rows_of_the_classes_and_zeros(tree):
    path_sum, classes = PathSum(tree), torch.randn(tree.num_classes, 2, generator=torch.Generator().manual_seed(0))
    nodes = path_sum.right_inverse(classes)
    assert nodes.shape == (tree.num_nodes - 1, 2)
    assert torch.equal(path_sum(nodes), classes)
    assert torch.equal(nodes[tree.leaf_nodes - 1], classes)
    assert nodes.count_nonzero() == classes.count_nonzero()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_types_stay_and_inputs_are_not_written_to(dtype):
    nodes = torch.ones(TREE.num_nodes - 1, dtype=dtype)
    assert PathSum(TREE)(nodes).dtype == dtype
    assert PathSum(TREE)(nodes).tolist() == [1, 4, 3, 3]  # car; animal, wild, big, wolf; animal, pet, cat
    assert nodes.eq(1).all()


def test_buffers_are_not_saved():
    assert not PathSum(TREE).state_dict()


# --- In a network ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("heads", [[], [HeadSpec("early", TREE.cut(depth=1))]], ids=["flat", "heads"])
def test_it_starts_with_the_logits_of_its_flat_twin(heads, mode):
    flat, shared = (build_model("resnet_small", TREE, heads, classifier=kind, seed=3) for kind in ("linear", "path_sum"))
    found, wanted = (getattr(model, mode)()(images()) for model in (shared, flat))
    assert torch.equal(found.leaf, wanted.leaf)
    assert wanted.leaf.abs().max() > 0
    assert all(torch.equal(found.heads[name], wanted.heads[name]) for name in wanted.heads)


def test_a_row_for_every_node_but_the_root():
    flat, shared = (build_model("resnet_small", TREE, classifier=kind) for kind in ("linear", "path_sum"))
    features = flat.backbone.fc.in_features
    more = (TREE.num_nodes - 1 - TREE.num_classes) * (features + 1)
    assert sum(p.numel() for p in shared.parameters()) - sum(p.numel() for p in flat.parameters()) == more
    shapes = {tuple(p.shape) for name, p in shared.named_parameters() if "fc" in name}
    assert shapes == {(TREE.num_nodes - 1, features), (TREE.num_nodes - 1,)}


def test_a_row_learns_from_all_classes_below_it():
    """∂/∂θ of a node is the sum of what the flat twin's rows of these classes get."""
    flat, shared = (build_model("resnet_small", TREE, classifier=kind).double() for kind in ("linear", "path_sum"))
    upstream = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for model in (flat, shared):
        (model(images().double()).leaf * upstream).sum().backward()
    rows = shared.backbone.fc.parametrizations
    for name in ("weight", "bias"):
        wanted = torch.tensordot(dense(TREE).T, getattr(flat.backbone.fc, name).grad, 1)
        torch.testing.assert_close(rows[name].original.grad, wanted, rtol=1e-6, atol=1e-9)
        assert rows[name].original.grad.abs().sum() > 0
    torch.testing.assert_close(shared.backbone.stages[0][0].conv.weight.grad, flat.backbone.stages[0][0].conv.weight.grad)


def test_a_layer_without_bias_is_shared_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 4, bias=False)

        def get_classifier(self):
            return self.fc

    net = Net()
    weight = net.fc.weight.detach().clone()
    share_rows(net, TREE)
    assert torch.equal(net.fc.weight, weight)
    assert list(net.fc.parametrizations) == ["weight"]


# --- Folding --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [[], [HeadSpec("early", TREE.cut(depth=1))]], ids=["flat", "heads"])
def test_folding_gives_a_plain_linear_layer_with_the_same_logits(heads):
    model = perturbed(build_model("resnet_small", TREE, heads, classifier="path_sum")).eval()
    with torch.no_grad():
        leaf = model(images()).leaf
        folded = model.strip_heads()
        assert torch.equal(folded(images()), leaf)
    assert type(folded.fc) is nn.Linear
    assert not has_path_sum(folded)
    plain = timm.create_model("resnet_small", num_classes=4).eval()
    plain.load_state_dict(folded.state_dict())
    assert torch.equal(plain(images()), leaf)


def test_folding_leaves_the_model_as_it_was():
    model = perturbed(build_model("resnet_small", TREE, classifier="path_sum")).eval()
    before, leaf = copy.deepcopy(model.state_dict()), model(images()).leaf
    model.strip_heads()
    assert has_path_sum(model.backbone)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert torch.equal(model(images()).leaf, leaf)
    model.strip_heads()


def test_folded_rows_are_the_sums():
    model = perturbed(build_model("resnet_small", TREE, classifier="path_sum"))
    rows, folded = model.backbone.fc.parametrizations, model.strip_heads().fc
    for name in ("weight", "bias"):
        wanted = torch.tensordot(dense(TREE), rows[name].original.detach().double(), 1)
        torch.testing.assert_close(getattr(folded, name).detach().double(), wanted, rtol=1e-6, atol=1e-6)
        assert isinstance(getattr(folded, name), nn.Parameter)


def test_without_a_path_sum_nothing_is_copied():
    model = build_model("resnet_small", TREE)
    assert model.strip_heads() is model.backbone
    assert not has_path_sum(model.backbone)


# --- In a run -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["", "train.ema=0.9"], ids=["plain", "ema"])
def run(request, tmp_path_factory) -> Run:
    """A finished run with path sums; tests only read it."""
    return fit(tiny(*SHARED, *filter(None, [request.param])), run_dir=tmp_path_factory.mktemp("shared"))


def test_the_weights_come_back(run):
    model, stored = run.model, np.load(run.predictions / "val.npz")
    file = load_file(run.checkpoints / "last.safetensors")
    rows = file["backbone.fc.parametrizations.weight.original"]
    tree = run.hierarchy
    assert rows.shape[0] == tree.num_nodes - 1 > tree.num_classes
    inner = np.setdiff1d(np.arange(1, tree.num_nodes), tree.leaf_nodes) - 1
    assert rows[inner].abs().amax(1).min() > 0  # every inner node has learnt
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in file.items())
    logits = torch.from_numpy(stored["logits"]).float()
    assert (logits.argmax(1).numpy() == stored["labels"]).mean() == pytest.approx(run.end["val"]["accuracy"]["leaf"])


def test_what_comes_back_gives_the_stored_logits(run):
    from hiercnn.data import make_loader
    from hiercnn.recipe import build_data, build_hierarchy, build_source

    data = build_data(run.recipe, build_source(run.recipe), build_hierarchy(run.recipe.hierarchy))
    batch = next(make_loader(data.test, run.recipe.data, train=False, channels=3).epoch())
    stored = np.load(run.predictions / "test.npz")["logits"]
    model = run.model
    with torch.no_grad():
        logits, folded = model(batch.images).leaf, model.strip_heads()(batch.images)
    np.testing.assert_allclose(logits.numpy(), stored, rtol=2e-3, atol=2e-3)  # stored in float16
    assert torch.equal(folded, logits)


def test_averaged_rows_are_rows_of_the_averaged_classifier():
    """As `train.ema` keeps them: the sum is linear, so it does not matter what is averaged."""
    model = build_model("tiny_net", TREE, classifier="path_sum")
    start = {name: getattr(model.backbone.fc, name).detach().clone() for name in ("weight", "bias")}
    ema = ModelEmaV3(model, decay=0.75)
    perturbed(model)
    ema.update(model)
    for name, before in start.items():
        now, averaged = (getattr(m.backbone.fc, name).detach() for m in (model, ema.module))
        assert not torch.allclose(now, before)
        torch.testing.assert_close(averaged, 0.75 * before + 0.25 * now)


# --- Errors ---------------------------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    def get_classifier(self):
        return nn.Conv2d(4, 4, 1)


def test_a_classifier_that_is_not_one_linear_layer():
    with pytest.raises(RecipeError, match="path_sum needs a backbone whose classifier is one linear layer, not Conv2d"):
        share_rows(Conv(), TREE)


def test_unknown_classifiers_are_refused():
    with pytest.raises(RecipeError, match="pathsum"):
        build_model("tiny_net", TREE, classifier="pathsum")


def test_recipes_name_what_is_wrong():
    with pytest.raises(
        RecipeError, match=r"model\.classifier: should be 'linear', 'path_sum', 'conditional' or 'margin' \(got 'pathsum'\)"
    ):
        tiny("model.classifier=pathsum")


def test_own_modules_are_taken_as_they_are():
    model = HierarchicalModel(nn.Linear(3, 4), TREE.classes)
    assert type(model.strip_heads()) is nn.Linear
