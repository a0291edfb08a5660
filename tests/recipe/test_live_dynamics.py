"""Dynamics measured while a run is trained: the numbers of kept weights, what a run keeps of them, and what they leave alone."""

import signal

import numpy as np
import pytest
from train.tiny import BRANCHES, Spy, assert_same_run, tiny

import hiercnn
from hiercnn.dynamics import LAST, LEAF, LOGITS, TREE, figures, findings, look, measure, read_moments
from hiercnn.errors import CheckpointError, DataError, Interrupted, RecipeError
from hiercnn.recipe import Run, build_data, build_source, build_trainer, dynamics_of_run, load_recipe

LIVE = "dynamics={random: 3}"
NOT_LIVE = {"nearest_mean", "nc4", "p", "probe"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(BRANCHES, LIVE, "checkpoints.keep=log"), run_dir=tmp_path_factory.mktemp("live") / "run")


def live(run: Run):
    return read_moments(run.path / "dynamics" / "live")


def test_a_moment_at_the_start_and_after_each_epoch(run):
    assert [moment.step for moment in live(run)] == [0, 5, 10]


@pytest.mark.parametrize("step", [0, 5, 10])
def test_live_is_afterwards_on_the_same_weights(run, step, tmp_path):
    recipe, tree = run.recipe, run.hierarchy
    trainer = build_trainer(recipe, build_data(recipe, build_source(recipe), tree), Run(tmp_path))  # for the images that it evaluates
    model = run.load_model(f"step-{step:08d}")
    train, test = (look(model, loader) for loader in (trainer.subset_loader, trainer.val_loader))
    cuts = [cut for cut in run.cuts if cut.name != LEAF]
    rows = measure(train, test, tree, cuts, weight=model.backbone.fc.weight, random=3, probes=False)
    wanted = {row[:3]: row[3:] for row in rows if row.statistic not in NOT_LIVE}
    (moment,) = (moment for moment in live(run) if moment.step == step)
    found = {row[:3]: row[3:] for row in moment.rows}
    assert found.keys() == wanted.keys()
    assert {statistic for _, _, statistic in found} >= {"greedy", "sum_rule", "lift", "nc1", "nc3", "block_strength", "pearson", "ari"}
    for key, values in found.items():
        np.testing.assert_allclose(values, wanted[key], rtol=1e-4, atol=1e-6, err_msg=str(key))
    for layer, means in train.class_means(tree.num_classes).items():
        np.testing.assert_allclose(moment.means[layer], means, rtol=1e-4, atol=1e-6)


def test_training_does_not_notice(run, tmp_path):
    without = hiercnn.fit(tiny(BRANCHES, "checkpoints.keep=log"), run_dir=tmp_path)
    assert_same_run(run, without)


def test_the_tables_are_there_at_the_end(tmp_path):
    run = hiercnn.fit(tiny(LIVE), run_dir=tmp_path)
    assert {file.name for file in (tmp_path / "dynamics").iterdir()} == {"live", "dynamics.csv", "times.csv", "means.npz"}
    written = (tmp_path / "dynamics" / "dynamics.csv").read_text()
    found = dynamics_of_run(run)
    assert found.live
    assert found.story.steps == [0, 5, 10]
    assert (tmp_path / "dynamics" / "dynamics.csv").read_text() == written


@pytest.mark.long
def test_kept_weights_tell_more(run):
    assert not dynamics_of_run(run, images=72, random=3, probes=False).live


@pytest.mark.long
def test_pictures_and_claims_of_what_was_measured_live(tmp_path):
    story = dynamics_of_run(hiercnn.fit(tiny(LIVE), run_dir=tmp_path)).story
    drawn = figures(story)
    assert {"accuracy", "lift", "times", "separability", "blocks", "trees", "collapse", "path", "dendrogram-step-10"} <= set(drawn)
    assert {found.claim for found in findings(story)} == {"A1", "A2", "B1", "B2", "B3"}


def test_chosen_layers_and_cuts(tmp_path):
    run = hiercnn.fit(tiny("dynamics={layers: [penultimate, stage0], cuts: [9], random: 0}", "epochs=1"), run_dir=tmp_path)
    found = dynamics_of_run(run).story
    assert found.layers == ["stage0", LAST]
    assert {row.cut for *_, row in found.rows} == {LEAF, TREE, "9 groups"}
    assert {row.layer for *_, row in found.rows} == {LOGITS, LAST, "stage0"}


def stop_in_the_second_epoch(epoch: int, batch: int) -> None:
    if (epoch, batch) == (2, 2):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.long
def test_a_run_that_goes_on_has_the_same_moments(tmp_path):
    whole = hiercnn.fit(tiny(LIVE), run_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        hiercnn.fit(tiny(LIVE), run_dir=tmp_path / "stopped", display=Spy(stop_in_the_second_epoch))
    stopped = hiercnn.fit(tiny(LIVE), run_dir=tmp_path / "stopped", resume=True)
    assert (whole.path / "dynamics/dynamics.csv").read_text() == (stopped.path / "dynamics/dynamics.csv").read_text()


def test_a_folder_that_is_begun_anew_forgets_other_moments(tmp_path):
    old = tmp_path / "dynamics" / "live" / "step-00000003.npz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of another run")
    assert [moment.step for moment in live(hiercnn.fit(tiny(LIVE, "epochs=1"), run_dir=tmp_path))] == [0, 5]
    assert not old.exists()


def test_features_that_are_not_finite_do_not_end_the_training(tmp_path, monkeypatch):
    from hiercnn.dynamics import LiveDynamics

    seen = LiveDynamics.see_train

    def spoilt(self, batch, output):
        if any((self.folder / f"step-{step:08d}.npz").exists() for step in (5,)):
            output.features["stage0"][0] = float("nan")
        seen(self, batch, output)

    monkeypatch.setattr(LiveDynamics, "see_train", spoilt)
    run = hiercnn.fit(tiny(LIVE, "logging.display=plain"), run_dir=tmp_path)
    assert run.finished
    assert [moment.step for moment in live(run)] == [0, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["stage7"]}, "unknown layer 'stage7'.*this backbone has stage0, stage1, penultimate"),
        ({"layers": []}, "dynamics.layers"),
        ({"cuts": [{"depth": 0}]}, "has one group, and there is nothing to tell apart; cut lower"),
        ({"cuts": ["leaf"]}, "no cut between root and leaves"),
        ({"layer": "stage0"}, "dynamics.layer: .*layers"),
        ({"random": -1}, "dynamics.random"),
    ],
)
def test_bad_settings_are_told_with_the_recipe(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny().plain() | {"dynamics": changes})


def test_an_evaluated_subset_without_some_class(tmp_path):
    with pytest.raises(DataError, match=r"the 20 of train that are evaluated have none of .*raise eval.train_subset, or drop dynamics"):
        hiercnn.fit(tiny(LIVE, "eval.train_subset=20"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_live_moment_tells_nothing(run, tmp_path):
    other = hiercnn.fit(tiny("epochs=1"), run_dir=tmp_path)
    (tmp_path / "dynamics" / "live").mkdir(parents=True)
    (tmp_path / "dynamics" / "live" / "step-00000000.npz").write_bytes((run.path / "dynamics/live/step-00000000.npz").read_bytes())
    with pytest.raises(CheckpointError, match="two are needed"):
        dynamics_of_run(other)
