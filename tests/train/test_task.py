"""What is minimised: the leaf loss and the heads', against plain loops."""

import numpy as np
import pytest
import torch
from torch import nn
from train.tiny import tiny

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import from_nested
from hiercnn.losses import CrossEntropy, LevelNLL, SoftLabels
from hiercnn.models import HeadSpec, Output
from hiercnn.ops import Mixed
from hiercnn.recipe import build_data, build_hierarchy, build_recipe_model, build_source, build_task
from hiercnn.recipe._build import class_shares
from hiercnn.train import FlatTask, HierarchicalTask, Linear, Steps

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": {"big": ["wolf"]}}, "car": None}, ["car", "wolf", "cat", "dog"])
TWO, THREE = TREE.cut(depth=1), TREE.cut(depth=2)
ALL = torch.arange(TREE.num_nodes)  # every class and every group
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}  # heads are summed in float32


def output(specs: dict[str, HeadSpec], count: int = TREE.num_nodes, scale: float = 2.0, seed: int = 0) -> Output:
    """Random scores of the leaf and of every head, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [TREE.num_classes, *(len(spec.cut) for spec in specs.values())]
    leaf, *heads = [(scale * torch.randn(count, size, generator=generator)).requires_grad_() for size in sizes]
    return Output(leaf, dict(zip(specs, heads, strict=True)))


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def head_loop(spec: HeadSpec, logits: torch.Tensor, leaf: torch.Tensor, labels: torch.Tensor) -> tuple[float, np.ndarray]:
    """Value and gradient of one head's loss, one image after the other, in float64."""
    logits, leaf = (tensor.detach().double().numpy() for tensor in (logits, leaf))
    wanted = [spec.cut.label_groups[label] for label in labels.tolist()]
    fine, value, gradient = sum(group >= 0 for group in wanted), 0.0, np.zeros_like(logits)
    for i, group in enumerate(wanted):
        guess, target = softmax(logits[i]), np.zeros(len(spec.cut))
        if group >= 0:
            target[group] += (1 - spec.distill) / fine
        for c, probability in enumerate(softmax(leaf[i])):
            target[spec.cut.groups[c]] += spec.distill * probability / len(wanted)
        value -= (target * np.log(guess)).sum()
        gradient[i] = guess * target.sum() - target
    return value, gradient


def check_heads(specs: dict[str, HeadSpec], out: Output, labels: torch.Tensor) -> None:
    task = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs)
    terms = task(out, labels, 0)[1]
    for name, spec in specs.items():
        value, gradient = head_loop(spec, out.heads[name], out.leaf, labels)
        (found,) = torch.autograd.grad(terms[f"head/{name}"], out.heads[name])
        assert terms[f"head/{name}"].item() == pytest.approx(value, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(found.double().numpy(), gradient, **TOLERANCE)


# --- Heads ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_heads_are_the_loop(distill, seed):
    cuts = {"two": TWO, "three": THREE, "leaf": TREE.leaf_cut(), "random": TREE.random_like(THREE, 1)}
    specs = {name: HeadSpec(0, cut, distill=distill) for name, cut in cuts.items()}
    labels = ALL[torch.randperm(len(ALL), generator=torch.Generator().manual_seed(seed))]
    check_heads(specs, output(specs, seed=seed), labels)
    check_heads(specs, output(specs, count=4, seed=seed), torch.arange(4))


@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_extreme_scores(distill):
    spec = {"two": HeadSpec(0, TWO, distill=distill)}
    leaf = torch.tensor([[200.0, -200, -200, -200], [-200, 200, 200, -200]], requires_grad=True)
    head = torch.tensor([[200.0, -200], [-200, 200]], requires_grad=True)
    task = HierarchicalTask(CrossEntropy(TREE), heads=spec)
    for labels in (torch.tensor([0, 2]), torch.tensor([2, 0])):
        term = task(Output(leaf, {"two": head}), labels, 0)[1]["head/two"]
        (gradient,) = torch.autograd.grad(term, head)
        groups = TWO.groups[labels]
        wanted = (1 - distill) * np.mean([400.0 * (groups[0] != 0), 400.0 * (groups[1] != 1)])
        targets = np.array([[0, 0], [0, 0.0]])
        targets[[0, 1], groups] += (1 - distill) / 2
        targets[[0, 1], [TWO.groups[0], TWO.groups[1]]] += distill / 2
        guess = np.array([[1.0, 0], [0, 1]])
        wanted += distill * np.mean([400.0 * (TWO.groups[0] != 0), 400.0 * (TWO.groups[1] != 1)])
        assert term.item() == pytest.approx(wanted, rel=1e-6)
        np.testing.assert_allclose(gradient.numpy(), guess / 2 - targets, atol=1e-6)


def test_coarse_labels_are_left_out_of_a_head_that_is_not_distilled():
    specs = {"three": HeadSpec(0, THREE), "taught": HeadSpec(0, THREE, distill=0.5)}
    task, out, animal = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs), output(specs, 2), TREE.label("animal")
    terms = task(out, torch.tensor([TREE.label("cat"), animal]), 0)[1]
    plain, taught = (torch.autograd.grad(terms[f"head/{name}"], out.heads[name])[0] for name in ("three", "taught"))
    assert (plain.abs().sum(1) > 0).tolist() == [True, False]
    assert (taught.abs().sum(1) > 0).tolist() == [True, True]
    assert terms["head/three"].item() == pytest.approx(
        nn.functional.cross_entropy(out.heads["three"][:1], torch.tensor([THREE.groups[TREE.label("cat")]])).item()
    )


def test_a_head_learns_both_labels_of_a_mixed_image_by_their_shares():
    """A loop over pairs, in float64; a label that is coarser than the head's cut counts nothing."""
    specs = {"two": HeadSpec(0, TWO), "three": HeadSpec(0, THREE)}
    out, share = output(specs), torch.linspace(0, 1, TREE.num_nodes)
    labels = Mixed(ALL, ALL.flip(0), share)
    terms = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs)(out, labels, 0)[1]
    for name, spec in specs.items():
        losses, counted = 0.0, 0.0
        for i, row in enumerate(out.heads[name].detach().double().numpy()):
            for label, part in ((labels.first[i], share[i].item()), (labels.second[i], 1 - share[i].item())):
                group = spec.cut.label_groups[label]
                losses -= part * np.log(softmax(row)[group]) if group >= 0 else 0
                counted += part * (group >= 0)
        assert terms[f"head/{name}"].item() == pytest.approx(losses / counted, rel=1e-6)


def test_pairs_of_equal_labels_are_those_labels():
    specs = {"three": HeadSpec(0, THREE, distill=0.3)}
    task, out = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs), output(specs)
    plain, paired = (task(out, labels, 0)[1] for labels in (ALL, Mixed(ALL, ALL, torch.rand(len(ALL)))))
    assert {name: term.item() for name, term in paired.items()} == pytest.approx({name: term.item() for name, term in plain.items()})


def test_adjusted_logits_teach_the_leaf_and_leave_heads_and_output_alone():
    specs, adjustment = {"two": HeadSpec(0, TWO)}, torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    out, labels = output(specs, 4), torch.arange(4)
    before = out.leaf.detach().clone()
    plain, adjusted = (HierarchicalTask(CrossEntropy(TREE), heads=specs, adjustment=a)(out, labels, 0)[1] for a in (None, adjustment))
    wanted = nn.functional.cross_entropy(out.leaf + adjustment, labels)
    assert adjusted["cross_entropy"].item() == pytest.approx(wanted.item())
    assert adjusted["head/two"].item() == plain["head/two"].item()
    assert torch.equal(out.leaf, before)


def test_a_batch_without_fine_labels_costs_a_head_nothing():
    specs = {"three": HeadSpec(0, THREE)}
    out = output(specs, 3)
    term = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs)(out, torch.full((3,), TREE.label("animal")), 0)[1]
    (gradient,) = torch.autograd.grad(term["head/three"], out.heads["three"])
    assert term["head/three"].item() == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("distill", [0.3, 1.0])
def test_the_leaf_does_not_learn_from_a_distilled_head(distill):
    specs = {"two": HeadSpec(0, TWO, distill=distill), "leaf": HeadSpec(0, TREE.leaf_cut(), distill=distill)}
    task, out = HierarchicalTask(CrossEntropy(TREE, inner_labels=True), heads=specs), output(specs)
    total, terms = task(out, ALL, 0)
    own = torch.autograd.grad(terms["cross_entropy"], out.leaf, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(total, out.leaf, retain_graph=True)[0], own)
    for name in specs:
        assert torch.autograd.grad(terms[f"head/{name}"], out.leaf, allow_unused=True, retain_graph=True) == (None,)


def test_a_wholly_distilled_head_does_not_see_labels():
    specs = {"two": HeadSpec(0, TWO, distill=1.0)}
    task, out = HierarchicalTask(CrossEntropy(TREE), heads=specs), output(specs, 4)
    one, other = (task(out, torch.tensor(labels), 0)[1]["head/two"].item() for labels in ([0, 1, 2, 3], [3, 3, 0, 0]))
    assert one == other


def test_what_a_distilled_head_wants_are_the_sums_of_the_leaf():
    """With the very log-sums as its scores, the gradient of a distilled head is zero."""
    specs = {"two": HeadSpec(0, TWO, distill=1.0)}
    leaf = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    sums = torch.stack([leaf.softmax(1)[:, torch.tensor(TWO.groups == k)].sum(1) for k in range(2)], dim=1)
    head = sums.log().requires_grad_()
    term = HierarchicalTask(CrossEntropy(TREE), heads=specs)(Output(leaf, {"two": head}), torch.zeros(5, dtype=torch.int64), 0)[1]
    assert torch.autograd.grad(term["head/two"], head)[0].abs().max() < 1e-7


@pytest.mark.parametrize("distill", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_scores_are_summed_in_float32(distill, dtype):
    specs = {"two": HeadSpec(0, TWO, distill=distill)}
    full = output(specs, 4)
    half = Output(full.leaf.detach().to(dtype), {"two": full.heads["two"].detach().to(dtype)})
    again = Output(half.leaf.float(), {"two": half.heads["two"].float()})
    task = HierarchicalTask(CrossEntropy(TREE), heads=specs)
    found, wanted = (task(out, torch.arange(4), 0) for out in (half, again))
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], wanted[0])
    assert all(torch.equal(found[1][name], wanted[1][name]) for name in wanted[1])


# --- Sums and weights -----------------------------------------------------------------------------------------------------------------

LOSSES = {
    "cross_entropy": CrossEntropy(TREE, inner_labels=True),
    "level_nll": LevelNLL(TREE, levels=[{"cut": 2, "weight": 0.5}], inner_labels=True),
    "soft_labels": SoftLabels(TREE, inner_labels=True),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("epoch", [0, 2, 9])
def test_the_total_is_the_weighted_sum_of_the_terms(name, epoch):
    falling = Linear(linear={"start": 1.0, "end": 0.2, "epochs": 4})
    specs = {
        "two": HeadSpec(0, TWO, weight=0.25),
        "three": HeadSpec(0, THREE, weight=falling, distill=0.5),
        "off": HeadSpec(0, THREE, weight=0.0),
    }
    out, weight, loss = output(specs), Steps(steps={0: 0.1, 5: 2.0}), LOSSES[name]
    task = HierarchicalTask(loss, weight, heads=specs)
    weights = {"leaf": 0.1 if epoch < 5 else 2.0, "head/two": 0.25, "head/three": {0: 1.0, 2: 0.6, 9: 0.2}[epoch], "head/off": 0.0}
    assert task.weights(epoch) == pytest.approx(weights)
    total, terms = task(out, ALL, epoch)
    leaf = loss(out.leaf, ALL)
    assert list(terms) == [*leaf, "head/two", "head/three", "head/off"]
    assert all(torch.equal(terms[key], value) for key, value in leaf.items())
    wanted = weights["leaf"] * sum(leaf.values()) + sum(weights[key] * terms[key] for key in terms if key.startswith("head/"))
    torch.testing.assert_close(total, wanted, **TOLERANCE)
    flat_total, flat_terms = FlatTask(loss, weight)(Output(out.leaf), ALL, epoch)
    torch.testing.assert_close(flat_total, weights["leaf"] * sum(leaf.values()), **TOLERANCE)
    assert list(flat_terms) == list(leaf)


def test_terms_are_unweighted():
    specs = {"two": HeadSpec(0, TWO, weight=0.5)}
    out = output(specs, 4)
    terms = [HierarchicalTask(CrossEntropy(TREE), weight, heads=specs)(out, torch.arange(4), 0)[1] for weight in (1.0, 3.0)]
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in ("cross_entropy", "head/two"))


def test_groups_are_not_saved():
    task = HierarchicalTask(CrossEntropy(TREE), heads={"two": HeadSpec(0, TWO)})
    assert not task.state_dict()
    assert task.get_buffer("groups_two").tolist() == TWO.label_groups.tolist()


# --- From a recipe --------------------------------------------------------------------------------------------------------------------


def test_heads_of_a_recipe_reach_the_task():
    heads = "model.heads=[{stage: 0, cut: 3, weight: 0.5, distill: 0.25}, {stage: 1, cut: 9, feed_forward: true, random: true}]"
    recipe = tiny(heads, "data.coarse_labels={cut: 9, fine: 2}")
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    task = build_task(recipe, data, build_recipe_model(recipe, data.hierarchy, data.channels))
    assert {name: (spec.distill, spec.feed_forward) for name, spec in task.specs.items()} == {
        "stage0_3": (0.25, False),
        "stage1_9": (0.0, True),
    }
    assert task.weights(0) == {"leaf": 1.0, "head/stage0_3": 0.5, "head/stage1_9": 1.0}
    tree = data.hierarchy
    assert task.get_buffer("groups_stage1_9").tolist() == tree.random_like(tree.cut(groups=9), 0).label_groups.tolist()
    assert task.loss.inner_labels
    assert task(output_of(task, data), torch.tensor([0, tree.num_classes]), 0)[0].isfinite()


def output_of(task: HierarchicalTask, data) -> Output:
    return Output(torch.zeros(2, data.hierarchy.num_classes), {name: torch.zeros(2, len(spec.cut)) for name, spec in task.specs.items()})


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("distill: 1.5", r"model\.heads\[0\]\.distill: should be less than or equal to 1 \(got 1\.5\)"),
        ("distill: -0.1", r"model\.heads\[0\]\.distill: should be greater than or equal to 0"),
        ("feed_forwrd: true", r"model\.heads\[0\]\.feed_forwrd: unknown key; did you mean 'feed_forward'"),
        ("feed_forward: 3", r"model\.heads\[0\]\.feed_forward: "),
    ],
)
def test_recipes_name_what_is_wrong(head, message):
    with pytest.raises(RecipeError, match=message):
        tiny(f"model.heads=[{{stage: 0, cut: 3, {head}}}]")


def test_shares_of_classes_count_groups_evenly_for_their_classes():
    recipe = tiny("data.coarse_labels={cut: 3, fine: 2}", "data.imbalance=4", "loss.logit_adjustment=1.5")
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    tree, wanted = data.hierarchy, np.zeros(36)
    for label in data.train.labels:
        leaves = tree.leaves(tree.label_nodes[label])
        for leaf in leaves:
            wanted[leaf] += 1 / len(leaves)
    np.testing.assert_allclose(class_shares(data), wanted / wanted.sum())
    task = build_task(recipe, data, build_recipe_model(recipe, tree, 3))
    torch.testing.assert_close(task.adjustment, torch.tensor(1.5 * np.log(wanted / wanted.sum())).float())


@pytest.mark.parametrize(("balance", "ratio"), [(0.0, 4.0), (0.5, 2.0), (1.0, 1.0)])
def test_shares_are_those_of_the_images_that_are_drawn(balance, ratio):
    recipe = tiny("data.imbalance=4", "data.render_train=17")
    data = build_data(recipe, build_source(recipe), build_hierarchy(recipe.hierarchy))
    shares = class_shares(data, balance)
    assert shares[0] / shares[-1] == pytest.approx(ratio)
    assert shares.sum() == pytest.approx(1)
