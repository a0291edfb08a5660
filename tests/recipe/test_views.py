"""What reports read of runs beside numbers: images as they were, responses of layers, dynamics that were measured before."""

import os

import numpy as np
import pytest
import yaml
from train.tiny import tiny

import hiercnn
from hiercnn.data import make_loader
from hiercnn.dynamics import look, read_moment, write_moment
from hiercnn.errors import CheckpointError, DataError
from hiercnn.recipe import Run, build_data, build_source, class_responses, dynamics_of_run, kept_dynamics, source_images


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny("checkpoints.keep=log", "epochs=1"), run_dir=tmp_path_factory.mktemp("views") / "run")


def test_images_are_those_of_the_predictions(run):
    images = source_images(run)
    for split in ("val", "test"):
        with np.load(run.predictions / f"{split}.npz") as arrays:
            assert [images[split].ids[i] for i in arrays["indices"]] == arrays["ids"].tolist()
            np.testing.assert_array_equal(images[split].labels[arrays["indices"]], arrays["labels"])


def test_images_have_the_size_of_their_source(tmp_path):
    run = hiercnn.fit(tiny("epochs=1", "data.image_size=20"), run_dir=tmp_path)
    assert source_images(run)["test"].fetch(0).shape == (3, 16, 16)


def test_responses_are_means_of_features(run):
    found = class_responses(run, images=10**6)
    data = build_data(run.recipe, build_source(run.recipe), run.hierarchy)
    seen = look(run.model, make_loader(data.train, run.recipe.data, train=False, channels=3))
    assert list(found) == list(seen.features)
    for layer, values in seen.features.items():
        wanted = np.stack([values[seen.labels == leaf].mean(0) for leaf in range(36)])
        np.testing.assert_allclose(found[layer], wanted, atol=1e-5)


@pytest.mark.long
def test_what_dynamics_has_measured_is_taken_if_it_is_of_these_weights(tmp_path):
    run = hiercnn.fit(tiny("checkpoints.keep=log", "epochs=1"), run_dir=tmp_path / "run")
    assert kept_dynamics(run) is None
    measured = dynamics_of_run(run, images=72, random=2, probes=False)
    story = kept_dynamics(run).story
    assert story.steps == measured.story.steps
    assert repr(story.rows) == repr(measured.story.rows)  # NaN is not equal to itself
    means = run.path / "dynamics" / "means.npz"
    with np.load(means) as arrays:
        np.testing.assert_array_equal(class_responses(run, images=5)["stage1"], arrays["stage1"][-1])
    with np.load(means) as arrays:
        np.savez(means, **{name: arrays[name] + 1 for name in arrays.files})
    marked = class_responses(run)["stage1"]
    os.utime(means, (0, 0))  # older than the weights
    assert not np.allclose(class_responses(run)["stage1"], marked)
    means.write_bytes(b"half")
    assert class_responses(run)["stage1"].shape == marked.shape


def test_dynamics_that_were_measured_live(tmp_path):
    run = hiercnn.fit(tiny("epochs=2", "dynamics={random: 0}"), run_dir=tmp_path)
    found = kept_dynamics(run)
    assert found.live
    assert found.story.split == "val"


def test_moments_of_another_run_are_refused(tmp_path):
    run = hiercnn.fit(tiny("epochs=2", "dynamics={random: 0}"), run_dir=tmp_path)
    first = sorted((run.path / "dynamics" / "live").glob("step-*.npz"))[0]
    moment = read_moment(first)
    write_moment(first, moment._replace(means={"elsewhere": moment.means["stage0"]}))
    with pytest.raises(CheckpointError, match="is not of this run .* delete it and call hiercnn dynamics again"):
        kept_dynamics(run)


def test_what_is_not_there(run, tmp_path):
    bare = hiercnn.fit(tiny("epochs=1"), run_dir=tmp_path / "bare")
    for file in bare.checkpoints.iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="has kept no weights"):
        class_responses(bare)
    raw = yaml.safe_load(bare.recipe_file.read_text())
    common = {key: value for key, value in raw["data"].items() if not key.startswith("render")}
    bare.recipe_file.write_text(yaml.safe_dump(raw | {"data": common | {"name": "folder", "root": "nowhere"}}))
    with pytest.raises(DataError):
        source_images(bare)
