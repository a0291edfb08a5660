"""Backbones with heads: placement, shapes, stripping, seeds and bad input."""

import copy

import pytest
import timm
import torch

from hiercnn.errors import HierarchyError, RecipeError, ShapeError
from hiercnn.hierarchy import from_nested
from hiercnn.models import HeadSpec, HierarchicalModel, PoolHead, build_model, create_backbone, heads, stage_index, stages, tapped_forward

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": ["fox", "owl"]}, "thing": ["car", "cup"]})
TWO = TREE.cut(depth=1)
FOUR = TREE.cut(depth=2)

BACKBONES = {  # name: image side
    "resnet_small": 32,
    "vgg_small_bn": 32,
    "alexnet_bn": 32,
    "resnet18": 64,
    "convnext_atto": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_lite0": 64,
    "vgg11_bn": 32,
    "densenet121": 64,
}


@pytest.mark.long
@pytest.mark.parametrize(("name", "side"), BACKBONES.items())
def test_heads_on_three_stages_train_and_strip(name, side):
    specs = [HeadSpec("early", TWO), HeadSpec("middle", FOUR), HeadSpec("late", TREE.leaf_cut(), name="deep")]
    model = build_model(name, TREE, specs)
    images = torch.randn(2, 3, side, side)
    output = model(images)
    assert output.leaf.shape == (2, 6)
    assert sorted(logits.shape[1] for logits in output.heads.values()) == [2, 4, 6]
    sum(logits.square().mean() for logits in (output.leaf, *output.heads.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for head in model.heads.values() for p in head.fc.parameters())
    model.eval()
    with torch.no_grad():
        stripped = model.strip_heads()
        assert torch.equal(stripped(images), model(images).leaf)
    assert not any("heads" in key for key in stripped.state_dict())


def test_stripped_weights_load_into_a_plain_timm_model():
    model = build_model("resnet_small", TREE, [HeadSpec("early", TWO)]).eval()
    plain = timm.create_model("resnet_small", num_classes=6).eval()
    plain.load_state_dict(model.strip_heads().state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), model(images).leaf)


class OnlyFeatureInfo(torch.nn.Sequential):
    """A classifier that states its stages and has no forward_intermediates, as older timm models."""

    feature_info = ({"num_chs": 4, "reduction": 2, "module": "0"}, {"num_chs": 8, "reduction": 4, "module": "1"})

    def __init__(self):
        pool, fc = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(8, 6)
        super().__init__(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 8, 3, 2, 1), pool, torch.nn.Flatten(), fc)


def test_hooks_serve_backbones_without_forward_intermediates():
    backbone = OnlyFeatureInfo()
    specs = {"a": HeadSpec(0, TWO), "b": HeadSpec(1, FOUR)}
    model = HierarchicalModel(backbone, TREE.classes, heads={"a": PoolHead(4, 2), "b": PoolHead(8, 4)}, specs=specs)
    images = torch.randn(2, 3, 16, 16)
    output = model(images)
    assert torch.equal(output.leaf, backbone(images))
    assert torch.equal(output.heads["a"], model.heads["a"](backbone[0](images)))
    assert torch.equal(output.heads["b"], model.heads["b"](backbone[1](backbone[0](images))))
    again = copy.deepcopy(model)(images)  # as averaged weights are kept
    assert all(torch.equal(output.heads[name], again.heads[name]) for name in specs)
    assert not any(module._forward_hooks for module in model.modules())


class Shaped(torch.nn.Module):
    """Calls a function."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize(
    "give",
    [
        lambda x: (x, x.new_zeros(1)),  # the map is the first of several
        lambda x: list(x.split((1, 3), dim=1)),  # parts of the map's channels
        lambda x: x.permute(0, 2, 3, 1),  # channels last
    ],
)
def test_hooks_take_a_stage_s_output_in_other_forms(give):
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), Shaped(give), Shaped(lambda x: x[0].new_zeros(2, 6)))
    backbone.feature_info = [{"num_chs": 4, "reduction": 1, "module": "1"}]
    images = torch.randn(2, 3, 8, 9)
    assert torch.equal(tapped_forward(backbone, images, [0])[1][0], backbone[0](images))


class DropHead(PoolHead):
    """A head that draws random numbers."""

    def __init__(self, channels, groups):
        super().__init__(channels, groups)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, features):
        return super().forward(self.drop(features))


def test_dropout_of_a_head_does_not_change_what_the_backbone_draws():
    heads.register("test_drop")(DropHead)
    flat = build_model("resnet_small", TREE, options={"drop_rate": 0.5}).train()
    branched = build_model("resnet_small", TREE, [HeadSpec("early", TWO, kind="test_drop")], options={"drop_rate": 0.5}).train()
    images = torch.randn(4, 3, 16, 16)
    drawn = []
    for model in (flat, branched):
        torch.manual_seed(0)
        drawn.append([model(images).leaf for _ in range(2)])
    assert torch.equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("name", ["keys", "a.b", "with space"])
def test_head_names_that_torch_cannot_hold(name):
    with pytest.raises(RecipeError, match=f"a head cannot be called '{name}'"):
        build_model("resnet_small", TREE, [HeadSpec("early", TWO, name=name)])


@pytest.mark.parametrize("name", ["resnet18", "resnet_small", "densenet121"])
def test_features_handed_to_heads_have_the_stage_s_channels_and_stride(name):
    backbone = create_backbone(name, 2)
    infos = stages(backbone)
    seen = {}
    model = build_model(name, TREE, [HeadSpec(i, TWO, name=f"h{i}") for i in range(len(infos))])
    for key, head in model.heads.items():
        head.register_forward_pre_hook(lambda module, inputs, key=key: seen.update({key: inputs[0].shape}))
    model(torch.randn(2, 3, 64, 64))
    assert [seen[f"h{i}"][1:3] for i in range(len(infos))] == [torch.Size([f["num_chs"], 64 // f["reduction"]]) for f in infos]


def test_backbone_starts_from_the_seed_alone_whatever_the_heads():
    flat = build_model("resnet_small", TREE, seed=3)
    branched = build_model("resnet_small", TREE, [HeadSpec("early", TWO, options={"conv_blocks": 2})], seed=3)
    other = build_model("resnet_small", TREE, seed=4)
    pairs = list(zip(flat.backbone.parameters(), branched.backbone.parameters(), other.backbone.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_model("resnet_small", TREE, [HeadSpec("early", TWO)], seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_stop_gradient_keeps_the_head_s_gradient_out_of_the_backbone():
    for stop in (False, True):
        model = build_model("resnet_small", TREE, [HeadSpec("early", TWO, stop_gradient=stop)])
        model(torch.randn(2, 3, 32, 32)).heads["stage1_2"].square().sum().backward()
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
        assert reached is not stop


def test_conv_blocks_come_before_pooling():
    head = PoolHead(8, 3, conv_blocks=2)
    assert [type(m).__name__ for m in head.blocks[0]] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert len(head.blocks) == 2
    assert head(torch.randn(4, 8, 5, 5)).shape == (4, 3)


def test_pool_head_is_pool_norm_linear():
    head = PoolHead(8, 3)
    features = torch.randn(2, 8, 4, 4)
    pooled = features.double().mean((2, 3))
    normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, unbiased=False, keepdim=True) + head.norm.eps).sqrt()
    expected = normed @ head.fc.weight.double().T + head.fc.bias.double()
    torch.testing.assert_close(head(features).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "expected"), [(5, (2, 3, 4)), (4, (1, 2, 3)), (3, (1, 2, 2)), (12, (4, 8, 11)), (1, (0, 0, 0))])
def test_places_are_thirds_of_the_way(count, expected):
    assert tuple(stage_index(place, count) for place in ("early", "middle", "late")) == expected


def test_small_stem_keeps_four_times_the_resolution():
    backbone = create_backbone("resnet18", 6, stem="small")
    features = backbone.forward_features(torch.randn(1, 3, 32, 32))
    assert features.shape[-1] == 4
    assert [s["reduction"] for s in stages(backbone)] == [1, 1, 2, 4, 8]
    assert backbone.feature_info[1]["reduction"] == 1


def test_one_channel_images():
    assert build_model("resnet_small", TREE, in_chans=1)(torch.randn(2, 1, 28, 28)).leaf.shape == (2, 6)


def test_a_registered_head_can_be_named():
    class Linear(torch.nn.Linear):
        def __init__(self, channels, groups, *, scale: float = 1.0):
            super().__init__(channels, groups)
            self.scale = scale

        def forward(self, features):
            return super().forward(features.mean((2, 3))) * self.scale

    heads.register("test_linear")(Linear)
    model = build_model("resnet_small", TREE, [HeadSpec("late", TWO, kind="test_linear", options={"scale": 0.0})])
    assert model(torch.randn(2, 3, 32, 32)).heads["stage3_2"].abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet8", TREE), RecipeError, "unknown backbone 'resnet8'; did you mean 'resnet"),
        (("resnet18", TREE, [HeadSpec(7, TWO)]), RecipeError, r"stage 7 does not exist; resnet18 has stages 0\.\.4"),
        (("resnet18", TREE, [HeadSpec("erly", TWO)]), RecipeError, "unknown stage 'erly'; did you mean 'early'"),
        (("resnet18", TREE, [HeadSpec(1, TREE.cut(groups=1))]), HierarchyError, "would have one group"),
        (("resnet18", TREE, [HeadSpec(1, TWO), HeadSpec(1, TWO)]), RecipeError, "two heads are called 'stage1_2'"),
        (("resnet18", TREE, [HeadSpec(1, TWO, kind="pol")]), RecipeError, "unknown head 'pol'; did you mean 'pool'"),
        (("resnet18", TREE, [HeadSpec(1, TWO, options={"blocks": 1})]), RecipeError, "head 'pool' does not take"),
        (("resnet18", TREE, [HeadSpec(1, from_nested({"a": ["b", "c"], "d": None}).leaf_cut())]), HierarchyError, "has 3 classes"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        build_model(*arguments)


def test_bad_backbone_options_and_stem_are_named():
    with pytest.raises(RecipeError, match="timm cannot build 'resnet18'"):
        create_backbone("resnet18", 2, options={"no_such_option": 1})
    with pytest.raises(RecipeError, match="stem 'small' is for timm's plain-stem ResNets"):
        create_backbone("vgg_small_bn", 2, stem="small")


def test_head_refuses_features_of_another_shape():
    with pytest.raises(ShapeError, match=r"features: wanted \[B, 8, H, W\], got \[2, 4, 5, 5\]"):
        PoolHead(8, 3)(torch.randn(2, 4, 5, 5))
