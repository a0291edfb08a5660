"""What is told of a backbone is what its features are."""

import pytest
import torch

from hiercnn.errors import RecipeError
from hiercnn.models import backbone_names, create_backbone, describe_backbone, tapped_forward


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "side"), [("resnet_small", None), ("resnet18", 64), ("vit_tiny_patch16_224", 48), ("crossvit_tiny_240", 64)]
)
def test_described_maps_are_those_of_a_real_image(name, side):
    info = describe_backbone(name, side)
    backbone = create_backbone(name, 1000, options=info.options).eval()
    maps = tapped_forward(backbone, torch.zeros(1, 3, *info.size), range(len(info.stages)))[1]
    assert [(1, stage.channels, *stage.size) for stage in info.stages] == [tuple(maps[i].shape) for i in range(len(maps))]
    assert info.parameters == sum(p.numel() for p in backbone.parameters())
    assert info.problem is None


def test_places_are_marked_at_their_stages():
    assert [stage.places for stage in describe_backbone("alexnet_bn").stages] == [(), ("early",), ("middle", "late")]


@pytest.mark.long
def test_nothing_is_allocated_and_no_number_drawn():
    state = torch.get_rng_state()
    info = describe_backbone("vit_giant_patch14_clip_224")  # 4 GiB of weights
    assert info.parameters > 1e9
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.long
def test_a_size_that_the_model_does_not_take_is_told():
    info = describe_backbone("halonet_h1", 48)
    assert info.problem == "no feature maps at 48 × 48: AssertionError"
    assert [stage.size for stage in info.stages] == [None] * 5


def test_a_whole_name_is_that_model_and_a_word_a_part_of_names():
    assert backbone_names("resnet50") == ["resnet50"]
    assert backbone_names("resnet50.a1_in1k") == ["resnet50.a1_in1k"]
    assert backbone_names("net_small") == [name for name in backbone_names() if "net_small" in name]
    assert backbone_names("resnet[13]?") == ["resnet18", "resnet34"]


def test_unknown_names_are_refused():
    with pytest.raises(RecipeError, match="no backbone's name matches 'resnet19'; did you mean 'resnet1"):
        backbone_names("resnet19")
    with pytest.raises(RecipeError, match="unknown backbone 'resnet19'; did you mean 'resnet1"):
        describe_backbone("resnet19")


def test_encoders_are_refused():
    with torch.device("meta"), pytest.raises(RecipeError, match="'mobilenetv5_300m_enc' is an encoder without a classifier; choose"):
        create_backbone("mobilenetv5_300m_enc", 2)
