"""Decision rules against plain loops over explicit tables, their properties, their reasons, and what they refuse."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference import oracles
from inference.oracles import TREE, cases, logits_for

from hiercnn.errors import DataError, HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import Cut, Hierarchy, builtin, from_nested
from hiercnn.inference import CRM, Argmax, Climbing, HiE, Rule, Threshold, TopDown, calibrate, rules
from hiercnn.inference._rule import BLOCK, percent

LEAVES = from_nested({"a": None, "b": None, "c": None})
SHARES = {"cat": 0.41, "dog": 0.39, "wolf": 0.13, "car": 0.07}
shares = st.floats(0, 1)
halves = st.floats(0.5, 1, exclude_max=True)


def every_rule(tree: Hierarchy, seed: int = 0) -> dict[str, Rule]:
    """Every registered rule, with each of its ways to decide; `auto` as a calibration on random logits has it."""
    rng = np.random.default_rng(seed)
    logits, labels = torch.from_numpy(rng.normal(size=(50, tree.num_classes))), torch.from_numpy(rng.integers(0, tree.num_nodes, 50))
    calibration = calibrate(tree, logits, labels, target=0.5, temperature_share=0)
    options = {"auto": [{"calibration": calibration}], "hie": [{"cut": "leaf"}], "climbing": [{}, {"threshold": None}]}
    options["crm"] = [{}, {"distance": "path"}, {"distance": "path", "nodes": "all"}]
    return {f"{name} {more}": rules[name](tree, **more) for name in rules for more in options.get(name, [{}])}


def heads_for(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"head": logits.roll(1, -1)}


# ---- against loops


@given(cases())
def test_marginals_are_sums_over_classes_nested_and_one_at_the_root(case):
    tree, logits = case
    marginals = Argmax(tree).marginals(logits)
    q = marginals.everywhere().numpy()
    np.testing.assert_allclose(q, oracles.marginals(tree, logits), atol=1e-13)
    np.testing.assert_array_equal(marginals.of(torch.arange(tree.num_nodes).expand(len(logits), -1)), q)
    assert (q[:, 0] == 1).all()
    assert (q[:, 1:] <= q[:, tree.parents[1:]]).all()
    same = [(v, p) for v, p in enumerate(tree.parents) if p >= 0 and len(tree.children(p)) == 1]
    assert all((q[:, v] == q[:, p]).all() for v, p in same)


@pytest.mark.long
@given(cases(), shares, halves)
def test_rules_answer_as_loops_do(case, theta, t):
    tree, logits = case
    q = oracles.marginals(tree, logits)
    loops = {
        Argmax(tree): lambda row, q: oracles.argmax(tree, row),
        Threshold(tree, threshold=t): lambda row, q: oracles.threshold(tree, q, t),
        Climbing(tree, threshold=theta): lambda row, q: oracles.climbing(tree, row, q, theta),
        TopDown(tree, threshold=theta): lambda row, q: oracles.top_down(tree, q, theta),
        TopDown(tree): lambda row, q: oracles.top_down(tree, q, 0),
    }
    for rule, loop in loops.items():
        nodes, probability = rule(logits)
        assert nodes.dtype == torch.int64
        assert nodes.tolist() == [loop(row, one) for row, one in zip(logits, q, strict=True)], rule
        np.testing.assert_allclose(probability, q[np.arange(len(q)), nodes], atol=1e-13)


@pytest.mark.long
@given(case=cases())
@pytest.mark.parametrize(("distance", "nodes"), [("lca", "leaves"), ("path", "leaves"), ("path", "all")])
def test_crm_has_the_least_expected_distance(case, distance, nodes):
    tree, logits = case
    rule, wanted = CRM(tree, distance=distance, nodes=nodes), oracles.expected_distances(tree, logits, distance)
    found = rule(logits).nodes
    among = tree.leaf_nodes if nodes == "leaves" else np.arange(tree.num_nodes)
    assert set(found.tolist()) <= set(among.tolist())
    np.testing.assert_allclose(wanted[np.arange(len(found)), found], wanted[:, among].min(1), atol=1e-9)
    for i, node in enumerate(found.tolist()):
        assert rule.expected(rule.marginals(logits[i : i + 1]), node) == pytest.approx(wanted[i, node], abs=1e-9)


@given(cases())
def test_by_lca_height_no_inner_node_is_better_than_every_class(case):
    tree, logits = case
    wanted = oracles.expected_distances(tree, logits, "lca")
    np.testing.assert_allclose(wanted.min(1), wanted[:, tree.leaf_nodes].min(1), atol=1e-12)


@given(cases(), st.integers(0, 99), st.floats(0.2, 5))
def test_hie_multiplies_the_head_s_probability_in(case, seed, temperature):
    tree, logits = case
    cut = tree.cut(depth=1)
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(logits), len(cut))))
    nodes, probability = HiE(tree, cut={"depth": 1}, temperature=2.0, head_temperature=temperature)(logits, {"coarse": scores})
    product = (logits / 2).softmax(1) * (scores / temperature).softmax(1)[:, torch.tensor(cut.groups)]
    product /= product.sum(1, keepdim=True)
    assert nodes.tolist() == tree.leaf_nodes[product.argmax(1).numpy()].tolist()
    torch.testing.assert_close(probability, product.amax(1), rtol=1e-9, atol=1e-12)


# ---- properties


@pytest.mark.long
@given(cases(), st.floats(0.1, 10))
def test_properties_of_the_rules(case, temperature):
    tree, logits = case
    best = Argmax(tree)(logits).nodes
    assert torch.equal(Climbing(tree, threshold=0)(logits).nodes, best)
    assert torch.equal(HiE(tree, cut={"depth": 1})(logits, {"h": torch.zeros(len(logits), len(tree.cut(depth=1)))}).nodes, best)
    assert not Climbing(tree, threshold=None)(logits).nodes.any()
    assert torch.equal(Argmax(tree, temperature=temperature)(logits).nodes, best)
    assert torch.equal(Threshold(tree)(logits).nodes, CRM(tree, distance="path", nodes="all")(logits).nodes)


@given(cases(), halves)
def test_climbing_answers_at_or_above_what_threshold_answers(case, t):
    tree, logits = case
    for low, high in zip(Threshold(tree, threshold=t)(logits).nodes, Climbing(tree, threshold=t)(logits).nodes, strict=True):
        assert int(high) in tree.ancestors(int(low))


@pytest.mark.long
@given(cases(), shares, shares)
def test_answers_go_up_as_the_threshold_grows(case, one, other):
    tree, logits = case
    for make in (Climbing, TopDown):
        low, high = (make(tree, threshold=t)(logits).nodes.tolist() for t in sorted([one, other]))
        assert all(above in tree.ancestors(below) for below, above in zip(low, high, strict=True))


@given(st.integers(0, 99))
def test_in_a_tree_of_one_level_least_risk_is_the_most_probable_class(seed):
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for rule in (CRM(LEAVES), CRM(LEAVES, distance="path"), TopDown(LEAVES)):
        assert torch.equal(rule(logits).nodes, Argmax(LEAVES)(logits).nodes)


@settings(max_examples=30)  # each calibrates
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_changes_no_answer(case, random):
    tree, logits = case
    order = random.sample(range(tree.num_classes), tree.num_classes)
    other = tree.with_classes([tree.classes[c] for c in order])
    theirs = every_rule(other)
    for name, rule in every_rule(tree).items():
        if not name.startswith(("auto", "hie")):
            moved = theirs[name](logits[:, order])
            assert [tree.names[v] for v in rule(logits).nodes] == [other.names[v] for v in moved.nodes], name


# ---- blocks, types, sizes


@pytest.mark.parametrize("size", [1, 40, 1000])
def test_blocks_change_nothing_and_inputs_are_left_alone(monkeypatch, size):
    tree = builtin("cifar100")
    logits = torch.randn(70, 100, generator=torch.Generator().manual_seed(0))
    kept, whole = logits.clone(), {name: rule(logits, heads_for(logits)) for name, rule in every_rule(tree).items()}
    monkeypatch.setitem(BLOCK, "cpu", size)
    for name, rule in every_rule(tree).items():
        for one, other in zip(rule(logits, heads_for(logits)), whole[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(kind):
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).to(kind)
    for name, rule in every_rule(TREE).items():
        decision, exact = rule(logits, heads_for(logits)), rule(logits.double(), heads_for(logits.double()))
        assert decision.probability.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
        assert torch.equal(decision.nodes, exact.nodes), name
        torch.testing.assert_close(decision.probability.double(), exact.probability, rtol=1e-5, atol=1e-6)


def test_no_images_and_trees_of_one_class():
    for tree in (TREE, from_nested({"a": {"b": ["c"]}}), Hierarchy(["alone"], [-1])):
        for name, rule in every_rule(tree).items():
            for count in (0, 3):
                logits = torch.ones(count, tree.num_classes)
                decision = rule(logits, heads_for(logits))
                assert (decision.nodes.shape, decision.probability.shape) == ((count,), (count,)), name
                assert tree.num_classes > 1 or (decision.probability == 1).all(), name


def test_no_gradient_is_kept():
    logits = torch.randn(3, 4, requires_grad=True)
    assert not Climbing(TREE)(logits).probability.requires_grad


@pytest.mark.gpu
def test_cuda_answers_as_the_cpu_does():
    tree = builtin("imagenet1k")
    logits = 4 * torch.randn(500, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name, rule in every_rule(tree).items():
        cpu, cuda = rule(logits, heads_for(logits)), rule.cuda()(logits.cuda(), heads_for(logits.cuda()))
        assert torch.equal(cpu.nodes, cuda.nodes.cpu()), name
        torch.testing.assert_close(cpu.probability, cuda.probability.cpu())
        assert rule.reason(logits[0].cuda(), heads_for(logits[0].cuda()))


# ---- reasons


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Argmax(TREE), "cat has 41 %, and no class has more"),
        (Climbing(TREE, threshold=0.797), "cat has 41 %, below 79.7 %; pet has 80 %"),
        (Climbing(TREE, threshold=0.85), "cat has 41 %, below 85 %; animal has 93 %"),
        (Climbing(TREE, threshold=0.405), "cat has 41 %, at least 40.5 %, and no class has more"),
        (Climbing(TREE, threshold=None), "every answer is root, since no threshold is set"),
        (Threshold(TREE), "pet has 80 %, over 50 %; the most probable node below it, cat, has 41 %"),
        (Threshold(TREE, threshold=0.975), "root has 100 %, over 97.5 %; the most probable node below it, animal, has 93 %"),
        (TopDown(TREE), "to the most probable child at every step: animal 93 %, pet 80 %, cat 41 %"),
        (TopDown(TREE, threshold=0.5), "to the most probable child at every step: animal 93 %, pet 80 %; cat has 41 %, below 50 %"),
        (TopDown(TREE, threshold=0.99), "even the most probable node below root, animal, has 93 %, below 99 %"),
        (CRM(TREE), "cat is off by 1.06 levels on average, the least of all classes, and the most probable class with 41 %"),
        (
            CRM(TREE, distance="path", nodes="all"),
            "pet is off by 1.53 edges on average, the least of all nodes; the most probable class, cat with 41 %, is off by 1.71",
        ),
        (HiE(TREE, cut={"depth": 1}), "cat has 39 %, and no class has more, once its group's probability by the head is multiplied in"),
    ],
)
def test_reasons(rule, reason):
    assert rule.reason(logits_for(TREE, SHARES), {"head": torch.tensor([-0.5, 0.0])}) == reason


@settings(max_examples=30)  # each calibrates
@given(cases())
def test_a_reason_names_the_answer(case):
    tree, logits = case
    for rule in every_rule(tree).values():
        node = int(rule(logits[:1], heads_for(logits[:1])).nodes)
        assert tree.titles[node] in rule.reason(logits[0], heads_for(logits[0]))


@pytest.mark.parametrize(
    ("share", "limit", "text"),
    [
        (0.41, None, "41 %"),
        (0.7996, 0.8, "79.96 %"),
        (0.7996, 0.9, "80 %"),
        (0.8, 0.8, "80 %"),
        (0.975, 0.975, "97.5 %"),
        (0.9996, None, "99.96 %"),
        (1.0, None, "100 %"),
        (0.0, 0.5, "0 %"),
        (0.0003, None, "0.03 %"),
    ],
)
def test_percentages_are_on_their_side_of_the_limit(share, limit, text):
    assert percent(share, limit) == text


@given(shares, shares)
def test_percentages_are_never_on_the_wrong_side(share, limit):
    shown = float(percent(share, limit).removesuffix(" %"))
    assert (shown - 100 * limit) * (share - limit) >= -1e-9


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rules["climbin"](TREE),
            "unknown decision rule 'climbin'; did you mean 'climbing'?; there are argmax, auto, climbing, crm",
        ),
        (lambda: Threshold(TREE, threshold=0.49), "Threshold: threshold: Input should be greater than or equal to 0.5 (got 0.49)"),
        (lambda: Threshold(TREE, threshold=1), "Threshold: threshold: Input should be less than 1 (got 1)"),
        (lambda: Threshold(TREE, treshold=0.6), "Threshold: treshold: Unexpected keyword argument"),
        (lambda: Climbing(TREE, threshold=1.1), "Climbing: threshold: Input should be less than or equal to 1"),
        (lambda: TopDown(TREE, threshold=float("nan")), "TopDown: threshold: Input should be a finite number"),
        (lambda: Argmax(TREE, temperature=0), "Argmax: temperature: Input should be greater than 0 (got 0)"),
        (lambda: Argmax("cifar10"), "Argmax: 1: Input should be an instance of Hierarchy"),
        (lambda: CRM(TREE, distance="wup"), "CRM: distance: Input should be 'lca' or 'path'"),
        (lambda: CRM(TREE, nodes="all"), "CRM: with distance: lca a class is never worse than a node above it; use nodes: leaves"),
        (lambda: HiE(TREE), "HiE: cut: Missing required keyword only argument"),
        (
            lambda: HiE(TREE, cut={"depth": 1})(torch.zeros(1, 4)),
            "HiE: wanted the logits of one head, or head= to say which; there are: none",
        ),
        (
            lambda: HiE(TREE, cut={"depth": 1}, head="early")(torch.zeros(1, 4), {"late": torch.zeros(1, 2)}),
            "HiE: there is no head 'early'; there are: late",
        ),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("logits", "heads", "message"),
    [
        (torch.zeros(2, 5), {}, "logits: wanted [B, 4], one number a class, got [2, 5]"),
        (torch.zeros(4), {}, "logits: wanted [B, 4], one number a class, got [4]"),
        (torch.zeros(2, 4, dtype=torch.int64), {}, "logits: wanted float32, float64, float16 or bfloat16, got int64"),
        (torch.zeros(2, 4, device="meta"), {}, "rule is on cpu, the scores on meta; move the module or the tensor with .to()"),
        (torch.zeros(2, 4), {"head": torch.zeros(2, 3)}, "head: wanted [B, 2], one number a group, got [2, 3]"),
        (torch.zeros(2, 4), {"head": torch.zeros(1, 2)}, "head: wanted 2 rows, as many as leaf logits, got 1"),
    ],
)
def test_wrong_sizes(logits, heads, message):
    rule = HiE(TREE, cut={"depth": 1}) if heads else Climbing(TREE)
    with pytest.raises(ShapeError, match=re.escape(message)):
        rule(logits, heads)


def test_a_cut_that_does_not_exist():
    with pytest.raises(HierarchyError, match="groups=9: the tree has 4 classes"):
        HiE(TREE, cut=9)


@pytest.mark.parametrize("bad", [[float("nan"), 0, 0, 0], [0, float("inf"), 0, 0], [-float("inf")] * 4])
def test_logits_without_probabilities(bad):
    logits = torch.zeros(3, 4)
    logits[1] = torch.tensor(bad)
    for rule in every_rule(TREE).values():
        with pytest.raises(DataError, match="logits: no probabilities follow from row 1: it holds NaN"):
            rule(logits, heads_for(logits))


def test_a_class_may_be_impossible():
    logits = torch.tensor([[-float("inf"), 1.0, 0.0, 0.0]])
    assert all(rule(logits, heads_for(torch.zeros(1, 4))).probability.isfinite().all() for rule in every_rule(TREE).values())


# ---- the registry


def test_hie_takes_a_cut_whose_groups_are_no_nodes():
    cut = TREE.random_like(TREE.cut(depth=1), seed=0)
    assert isinstance(cut, Cut)
    logits = torch.randn(3, 4)
    assert torch.equal(HiE(TREE, cut=cut)(logits, {"h": torch.zeros(3, 2)}).nodes, Argmax(TREE)(logits).nodes)


def test_a_rule_of_one_s_own():
    class Second(Argmax):
        """The second most probable class."""

        def choose(self, marginals):
            return self.leaf_nodes[marginals.logits.topk(2).indices[:, 1]]

    nodes, probability = Second(TREE)(logits_for(TREE, SHARES)[None])
    assert TREE.names[int(nodes)] == "dog"
    assert float(probability) == pytest.approx(0.39)
