"""What is read of predictions, against loops over single images."""

import numpy as np
import pytest
import torch
from report.conftest import three_levels

from hiercnn.metrics import level_accuracy
from hiercnn.recipe import Run
from hiercnn.report._evaluations import FAR, kept_evaluations


@pytest.fixture(scope="module")
def kept(run):
    return kept_evaluations(run, run.hierarchy)


def test_evaluations_in_order_of_time(kept):
    assert [(one.split, one.epoch) for one in kept.evaluations] == [*(("val", epoch) for epoch in range(1, 7)), ("test", 6)]
    assert kept.problems == []


def test_accuracy_is_that_of_the_run(run, kept):
    for one, event in zip(kept.evaluations, run.metrics, strict=False):
        assert (one.labels == one.predicted).mean() == pytest.approx(event["val"]["accuracy"]["leaf"])
        assert (one.place < 5).mean() == pytest.approx(event["val"]["top5"])


def test_paths_are_sums_below_their_nodes(run, kept):
    one, tree = kept.evaluations[-1], run.hierarchy
    with np.load(run.predictions / "test.npz") as arrays:
        probabilities = torch.tensor(arrays["logits"]).float().softmax(1).numpy()
    for i in range(0, len(one.labels), 7):
        for side, leaf in enumerate((one.labels[i], one.predicted[i])):
            wanted = [probabilities[i, tree.leaves(node)].sum() for node in tree.ancestors(tree.leaf_nodes[leaf])[1:]]
            np.testing.assert_allclose(one.paths[side][i, : len(wanted)], wanted, atol=1e-5)
            assert np.isnan(one.paths[side][i, len(wanted) :]).all()
        assert one.confidence[i] == pytest.approx(probabilities[i].max(), abs=1e-5)
        order = np.argsort(-probabilities[i], kind="stable").tolist().index(one.labels[i])
        assert one.place[i] == (order if order < 5 else FAR)


def test_names_of_images_come_from_the_last_evaluation(kept):
    assert kept.evaluations[0].ids == kept.evaluations[5].ids
    assert kept.evaluations[0].ids[:2] == ["val/000000.png", "val/000001.png"]


def test_images_are_in_the_order_of_the_data_and_groups_are_left_out(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1, images=False)
    file = run.predictions / "test.npz"
    with np.load(file) as arrays:
        columns = {name: arrays[name][::-1].copy() for name in arrays.files}
    columns["labels"][0] = run.hierarchy.num_classes  # the last image is labelled with a group
    np.savez(file, **columns)
    one = kept_evaluations(run, run.hierarchy).evaluations[-1]
    assert one.ids[0] == "test/000000.png"
    assert len(one.labels) == len(columns["labels"]) - 1


def test_classes_counted_as_groups(run):
    cut = run.hierarchy.cut(depth=1)
    tree = run.hierarchy.above(cut)
    folded, whole = (kept_evaluations(run, *arguments).evaluations[-1] for arguments in ((tree, cut), (run.hierarchy,)))
    assert (folded.labels == cut.groups[whole.labels]).all()
    assert (folded.predicted == cut.groups[whole.predicted]).all()
    with np.load(run.predictions / "test.npz") as arrays:
        scores, labels = torch.tensor(arrays["logits"]).float(), torch.tensor(arrays["labels"])
    wanted = level_accuracy(scores, labels, run.hierarchy, [cut])["accuracy"][cut.name]
    assert (folded.labels == folded.predicted).mean() == pytest.approx(wanted)
    assert folded.similarity is None


@pytest.mark.parametrize("content", [b"", b"PK no zip", None], ids=["empty", "damaged", "other classes"])
def test_files_that_cannot_be_read_are_named(bench, tmp_path, content):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=2, images=False)
    file = run.predictions / "val-epoch-0001.npz"
    if content is None:
        with np.load(file) as arrays:
            columns = dict(arrays)
        np.savez(file, **columns | {"top_classes": columns["top_classes"] + 100})
    else:
        file.write_bytes(content)
    found = kept_evaluations(Run(run.path), run.hierarchy)
    assert [(one.split, one.epoch) for one in found.evaluations] == [("val", 2), ("test", 2)]
    assert "val-epoch-0001.npz cannot be read" in found.problems[0]


def damaged(name: str, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    changes = {
        "not finite": {"logits": np.full_like(columns["logits"], np.nan)},
        "other classes": {"logits": columns["logits"][:, :3]},
        "short": {"labels": columns["labels"][:3]},
        "no labels": {"labels": np.full_like(columns["labels"], -1)},
    }
    return columns | changes[name]


@pytest.mark.parametrize("name", ["not finite", "other classes", "short", "no labels"])
def test_a_last_evaluation_that_cannot_be_shown_is_named(bench, tmp_path, name):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1, images=False)
    with np.load(run.predictions / "test.npz") as arrays:
        columns = dict(arrays)
    np.savez(run.predictions / "test.npz", **damaged(name, columns))
    found = kept_evaluations(Run(run.path), run.hierarchy)
    assert [one.split for one in found.evaluations] == ["val"]
    assert "test.npz cannot be read" in found.problems[0]
