"""Weights are loaded only where they belong, and never by running code."""

import json
import pickle
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from train import tiny  # noqa: F401  registers tiny_net

from hiercnn.errors import CheckpointError
from hiercnn.hierarchy import builtin, from_classes, from_nested
from hiercnn.models import HeadSpec, build_model
from hiercnn.train import load_weights, save_weights
from hiercnn.train._checkpoint import load_training_state, save_state


def nested(a="a", b="b", c="c", d="d"):
    return from_nested({"left": [a, b], "right": [c, d]})


def model(tree, *heads):
    return build_model("tiny_net", tree, heads)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.safetensors"
    save_weights(path, model(nested()), nested(), epoch=3)
    return path


def test_weights_come_back_with_their_facts(saved):
    other = build_model("tiny_net", nested(), seed=9)
    facts = load_weights(saved, other, nested())
    assert facts == {"epoch": 3, "classes": ["a", "b", "c", "d"], "hierarchy": nested().digest}
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model(nested()).state_dict().items())


def test_other_classes(saved):
    tree = nested(c="x")
    with pytest.raises(CheckpointError, match="is of other classes: it has 'c'; it lacks 'x'"):
        load_weights(saved, model(tree), tree)


def test_other_order_names_the_first(saved):
    tree = nested().with_classes(("a", "c", "b", "d"))
    with pytest.raises(CheckpointError, match="another order: class 1 is 'b' there and 'c' here"):
        load_weights(saved, model(tree), tree)


def test_other_tree(saved):
    tree = from_classes(("a", "b", "c", "d"))
    with pytest.raises(CheckpointError, match="another hierarchy of the same classes; use the run's hierarchy"):
        load_weights(saved, model(tree), tree)


def test_other_model(saved):
    with pytest.raises(CheckpointError, match=r"is of another model: 'heads\..* do not fit"):
        load_weights(saved, model(nested(), HeadSpec(0, nested().cut(depth=1))), nested())


def test_other_sizes(saved):
    with pytest.raises(CheckpointError, match=r"another model: 'backbone\.stages\.0\.0\.conv\.weight' do not fit"):
        load_weights(saved, build_model("tiny_net", nested(), in_chans=1), nested())


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read weights .*none"):
        load_weights(tmp_path / "none.safetensors", model(nested()), nested())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_cut_off_file(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_weights(saved, model(nested()), nested())


def test_file_of_another_program(saved):
    save_file({"weight": torch.zeros(2)}, saved)
    with pytest.raises(CheckpointError, match="is of other classes: it lacks 'a', 'b', 'c', 'd'"):
        load_weights(saved, model(nested()), nested())


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch"])
def test_pickles_are_refused_unread(tmp_path, write):
    weights, state = tmp_path / "last.safetensors", tmp_path / "state.pt"
    for path in (weights, state):
        with open(path, "wb") as file:
            write({"weight": Trap(tmp_path / "sprung")}, file)
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_weights(weights, model(nested()), nested())
    with pytest.raises(CheckpointError, match="cannot read"):
        load_training_state(state, nested())
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_cut_off_state(tmp_path, share):
    state = tmp_path / "state.pt"
    save_state(state, {"classes": list("abcd"), "hierarchy": nested().digest, "rng": torch.get_rng_state()})
    content = state.read_bytes()
    state.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot read"):
        load_training_state(state, nested())


def test_no_state(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume: .* does not exist"):
        load_training_state(tmp_path / "state.pt", nested())


def test_state_of_another_order(tmp_path):
    tree = builtin("synthetic")
    save_state(tmp_path / "state.pt", {"classes": list(reversed(tree.classes)), "hierarchy": tree.digest})
    with pytest.raises(CheckpointError, match="numbers the classes in another order: class 0"):
        load_training_state(tmp_path / "state.pt", tree)


def test_metadata_is_json(saved):
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        assert json.loads(file.metadata()["hiercnn"])["classes"] == ["a", "b", "c", "d"]
