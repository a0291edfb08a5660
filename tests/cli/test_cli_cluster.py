"""`hiercnn cluster`: a tree from a run, and its errors."""

import pytest
import torch
from train.tiny import tiny

import hiercnn
from hiercnn.clustering import partition_agreement
from hiercnn.errors import CheckpointError, DataError, HierarchyError, RecipeError
from hiercnn.hierarchy import from_nested, read_hierarchy
from hiercnn.recipe import Run, cluster_run

SOURCES = ("features", "weights", "logits", "confusion")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hiercnn.fit(tiny("epochs=4"), run_dir=tmp_path_factory.mktemp("cluster") / "run")


@pytest.mark.parametrize("source", SOURCES)
def test_a_tree_is_written_and_drawn(command, run, tmp_path, source):
    out, picture = tmp_path / "tree.json", tmp_path / "tree.html"
    code, printed, err = command("cluster", run.path, "--source", source, "--groups", "3,9", "--out", out, "--draw", picture)
    assert (code, err) == (0, "")
    tree = read_hierarchy(out)
    assert tree.classes == run.hierarchy.classes
    assert [len(tree.cut(depth=depth)) for depth in (1, 2)] == [3, 9]
    for text in ("9 groups", "tree correlation", "ARI", f"tree written to {out}", f"dendrogram drawn in {picture}"):
        assert text in printed
    page = picture.read_text(encoding="utf-8")
    assert all(name in page for name in tree.classes)


def test_a_clustered_tree_trains_heads(command, run, tmp_path):
    out = tmp_path / "tree.json"
    assert command("cluster", run.path, "--groups", "3,9", "--out", out)[0] == 0
    recipe = tiny("epochs=1", f"hierarchy={{file: {out}}}", "model.heads=[{stage: early, cut: {depth: 1}}]")
    trained = hiercnn.fit(recipe, run_dir=tmp_path / "again")
    assert trained.hierarchy.titles[1] != trained.hierarchy.names[1]


def test_without_groups_every_merge_is_a_node(command, run, tmp_path):
    out = tmp_path / "tree.json"
    assert command("cluster", run.path, "--source", "weights", "--linkage", "ward", "--metric", "unit", "--out", out)[0] == 0
    assert read_hierarchy(out).num_nodes == 2 * 36 - 1


def test_features_are_what_the_classifier_reads(run):
    found = cluster_run(run, "features")
    assert len(found.distances) == 36
    model, images = run.model, torch.randn(4, 3, 16, 16)
    features = model(images, ["penultimate"]).features["penultimate"]
    torch.testing.assert_close(model.backbone.get_classifier()(features), model(images).leaf)


def test_features_of_a_stage(run):
    early, late = (cluster_run(run, stage=stage).distances.condensed() for stage in (0, "late"))
    assert abs(early - late).max() > 1e-3


def test_the_same_run_gives_the_same_tree(run):
    one, other = (cluster_run(run).dendrogram.merges for _ in range(2))
    assert (one == other).all()


def test_a_network_that_knows_the_tree_gives_it_back(run, monkeypatch):
    tree, model = run.hierarchy, run.model
    offsets = torch.randn(tree.num_nodes, model.backbone.get_classifier().weight.shape[1], generator=torch.Generator().manual_seed(0))
    rows = torch.stack([offsets[tree.ancestors(int(node)).tolist()].sum(0) for node in tree.leaf_nodes])
    model.backbone.get_classifier().weight.data.copy_(rows)
    monkeypatch.setattr(Run, "load_model", lambda self, weights: model)
    found = cluster_run(run, "weights")
    for groups in (3, 9):
        assert partition_agreement(found.dendrogram.groups(groups), tree.cut(groups=groups).groups).ari > 0.8


# --- Errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("gradients", {}, RecipeError, "source: wanted features, weights, logits or confusion, got 'gradients'"),
        ("logits", {"metric": "cosine"}, RecipeError, "metric is for features and weights; logits are similarities already"),
        ("weights", {"stage": 1}, RecipeError, "stage is for features, not for weights"),
        ("features", {"split": "test"}, RecipeError, "split: wanted train or val, never test"),
        ("weights", {"split": "val"}, RecipeError, "split: wanted train or val, never test, and nothing for weights"),
        ("features", {"linkage": "ward"}, HierarchyError, "ward linkage needs euclidean distances"),
        ("features", {"linkage": "median"}, HierarchyError, "linkage: wanted one of average, complete, ward, single, got 'median'"),
        ("features", {"stage": 9}, RecipeError, "stage 9 does not exist"),
        ("features", {"weights": "first"}, CheckpointError, "first"),
    ],
)
def test_bad_options(run, source, options, error, message):
    with pytest.raises(error, match=message):
        cluster_run(run, source, **options)


def test_no_such_run(command, tmp_path):
    code, _, err = command("cluster", tmp_path / "none")
    assert (code, err) == (2, f"hiercnn: no run in {tmp_path / 'none'}; train one first, such as: hiercnn train cifar100/flat\n")


@pytest.mark.parametrize(
    ("groups", "message"), [("a,b", "--groups: wanted numbers of groups"), ("1", "groups: wanted numbers from 2 to 35")]
)
def test_bad_groups(command, run, groups, message):
    code, _, err = command("cluster", run.path, "--source", "weights", "--groups", groups)
    assert code == 2
    assert message in err


def test_other_endings_are_no_pictures(command, run, tmp_path):
    code, _, err = command("cluster", run.path, "--source", "weights", "--draw", tmp_path / "tree.pdf")
    assert code == 2
    assert "pictures end in .html, .svg, .png" in err


def test_images_that_were_objects(tmp_path):
    images = [(torch.rand(3, 16, 16), label) for label in range(4) for _ in range(6)]
    tree = from_nested({"a": ["w", "x"], "b": ["y", "z"]}, list("wxyz"))
    recipe = {key: value for key, value in tiny("epochs=1").plain().items() if key not in ("data", "hierarchy")}
    recipe |= {"data": {"val": 1, "batch_size": 8}}
    run = hiercnn.fit(recipe, train=images, classes=list("wxyz"), hierarchy=tree, run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="the images of .* were objects; cluster its weights"):
        cluster_run(Run(run.path))
    assert len(cluster_run(Run(run.path), "weights").classes) == 4


def test_classes_without_images(run, monkeypatch):
    from hiercnn.recipe import _cluster

    whole = _cluster._images
    monkeypatch.setattr(_cluster, "_images", lambda run, split: (images := whole(run, split)).subset((images.labels != 5).nonzero()[0]))
    with pytest.raises(DataError, match=f"classes without an image: '{run.hierarchy.classes[5]}'; take the other split, or the weights"):
        cluster_run(run)


def test_groups_are_printed_as_they_stand_in_the_tree(command, run, tmp_path):
    out = tmp_path / "tree.json"
    code, printed, _ = command("cluster", run.path, "--source", "weights", "--groups", "4,9", "--out", out)
    tree = read_hierarchy(out)
    rows = printed.split("9 groups", 1)[1].split("Agreement")[0]
    for node in tree.cut(depth=2).nodes:
        if not tree.is_leaf(node):
            number, first = tree.names[node].split()[1], tree.classes[tree.leaves(node)[0]]
            assert any(line.split()[:1] == [number] and first in line for line in rows.splitlines())
    assert code == 0


def test_endings_are_looked_at_before_the_work(command, run, tmp_path):
    for options, said in [
        (("--out", tmp_path / "tree.yaml"), "a tree is written as .json"),
        (("--draw", tmp_path / "t.pdf"), "pictures end in"),
    ]:
        code, printed, err = command("cluster", run.path, *options)
        assert code != 0
        assert said in err
        assert not printed
    assert command("cluster", run.path, "--stage", "²")[0] != 0
