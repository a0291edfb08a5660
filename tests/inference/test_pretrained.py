"""timm's ImageNet classifiers with WordNet's tree: the classifier's own answers, and what cannot be answered."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from hiercnn.errors import RecipeError
from hiercnn.hierarchy import builtin, from_nested
from hiercnn.inference import calibrate, pretrained_predictor

NAME = "test_resnet"  # timm's smallest; 160 px
PHOTOS = [np.random.default_rng(number).integers(0, 256, (180, 200, 3), dtype=np.uint8) for number in range(4)]
FOUR = from_nested({"animal": ["cat", "dog"], "vehicle": ["car", "truck"]})


def weights_for(folder, classes: int) -> tuple[torch.nn.Module, str]:
    """A model of random weights, and a file that holds them."""
    torch.manual_seed(0)
    network = timm.create_model(NAME, num_classes=classes).eval()
    network.get_classifier().weight.data.mul_(40)  # so that it is sure of something
    save_file(network.state_dict(), folder / "weights.safetensors")
    return network, str(folder / "weights.safetensors")


def test_the_classifier_answers_in_wordnet_s_tree(tmp_path):
    network, weights = weights_for(tmp_path, 1000)
    predictor, tree = pretrained_predictor(NAME, "argmax", weights=weights), builtin("imagenet1k")
    stated = {key: getattr(timm.get_pretrained_cfg(NAME), key) for key in ("interpolation", "mean", "std")}
    transform = timm.data.create_transform((3, 160, 160), crop_pct=1.0, **stated)
    with torch.inference_mode():
        best = network(torch.stack([transform(Image.fromarray(photo)) for photo in PHOTOS])).argmax(1).tolist()
    found = predictor(PHOTOS)
    assert [each.name for each in found] == [tree.classes[number] for number in best]
    assert all(each.path[0][0] in ("physical entity", "abstract entity") for each in found)


def test_rules_climb_wordnet(tmp_path):
    predictor = pretrained_predictor(NAME, options={"threshold": 1}, weights=weights_for(tmp_path, 1000)[1])
    assert {each.level for each in predictor(PHOTOS)} == {"depth 0"}


def test_other_trees_and_sides_may_be_given(tmp_path):
    predictor = pretrained_predictor(NAME, "argmax", weights=weights_for(tmp_path, 4)[1], hierarchy=FOUR, image_size=64)
    assert predictor.score(torch.zeros(1, 3, 64, 64)).leaf.shape == (1, 4)
    assert {each.title for each in predictor(PHOTOS)} <= {"cat", "dog", "car", "truck"}


def test_auto_needs_a_calibration(tmp_path):
    weights = weights_for(tmp_path, 4)[1]
    with pytest.raises(RecipeError, match="auto promises what it was calibrated for"):
        pretrained_predictor(NAME, "auto", weights=weights, hierarchy=FOUR)
    logits = torch.eye(4).repeat(50, 1) * 9
    calibration = calibrate(FOUR, logits, torch.arange(4).repeat(50), target=0.5)
    assert pretrained_predictor(NAME, "auto", {"calibration": calibration}, weights=weights, hierarchy=FOUR)(PHOTOS)


@pytest.mark.parametrize(
    ("classes", "rule", "message"),
    [
        (4, "argmax", "has 4 classes, the tree 1000"),
        (1000, "hie", "hie reads hypernym heads, and 'test_resnet' has none"),
        (1000, "climbng", "unknown decision rule 'climbng'; did you mean 'climbing'"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, classes, rule, message):
    with pytest.raises(RecipeError, match=message):
        pretrained_predictor(NAME, rule, weights=weights_for(tmp_path, classes)[1])
