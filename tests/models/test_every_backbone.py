"""Every backbone of timm takes heads on its early, middle and late stages: all on the meta device, one of each family in earnest.

The tables are those of timm 1.0.31.
"""

import pytest
import timm
import torch

from hiercnn.hierarchy import from_nested
from hiercnn.losses import CrossEntropy
from hiercnn.models import PLACES, HeadSpec, build_model, describe_backbone
from hiercnn.train import HierarchicalTask

TREE = from_nested({"animal": {"pet": ["cat", "dog"], "wild": ["fox", "owl"]}, "thing": ["car", "cup"]})
HEADS = [HeadSpec(place, TREE.cut(depth=depth), name=place) for place, depth in zip(PLACES, (1, 1, 2), strict=True)]
GROUPS = {"early": 2, "middle": 2, "late": 4}

# the model of fewest parameters of every family (a module of timm.models), and the smallest images it takes
SMALLEST = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
SIDES = {  # of images, 32 for the others
    "byoanet": 256,
    "csatv2": 64,
    "deepseek_vit": 112,
    "efficientformer": 224,
    "inception_resnet_v2": 80,
    "inception_v3": 80,
    "inception_v4": 80,
}
QUICK = ("convnext", "densenet", "efficientnet", "mobilenetv3", "regnet", "resnet", "swin_transformer", "vision_transformer")  # not slow

ENCODER = "is an encoder without a classifier"
ON_META = "Tensor.item() cannot be called on meta tensors"  # the model works on real images, see SMALLEST
PROBLEMS = {
    "deepseek_vit_412m_enc": ENCODER,
    "gemma4_vit_167m_enc": ENCODER,
    "gemma4_vit_570m_enc": ENCODER,
    "mobilenetv5_300m_enc": ENCODER,
    "qwen3_vit_88m_enc": ENCODER,
    "qwen3_vit_306m_enc": ENCODER,
    "qwen3_vit_416m_enc": ENCODER,
    "gemma4_vit_167m": ON_META,
    "gemma4_vit_570m": ON_META,
}


def families() -> list[str]:
    """timm's own modules of models, without those that others have registered."""
    return [module for module in timm.list_modules() if hasattr(timm.models, module)]


@pytest.mark.slow  # another timm has other families
def test_every_family_has_its_smallest_model():
    assert set(SMALLEST) == set(families())
    assert all(name in timm.list_models(module=family) for family, name in SMALLEST.items())
    assert set(PROBLEMS) < set(timm.list_models())


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
def test_every_model_builds_with_heads_on_the_meta_device(family):
    found = {name: problem for name in timm.list_models(module=family) if (problem := problem_on_meta(name))}
    assert found.keys() == PROBLEMS.keys() & set(timm.list_models(module=family)), found
    assert all(PROBLEMS[name] in problem for name, problem in found.items()), found


def problem_on_meta(name: str) -> str | None:
    """What is wrong with a model at its own image size, if anything."""
    try:
        with torch.device("meta"), torch.no_grad():
            model = build_model(name, TREE, HEADS).eval()
            output = model(torch.zeros(2, *model.backbone.pretrained_cfg["input_size"]))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    shapes = {"leaf": output.leaf.shape} | {name: logits.shape for name, logits in output.heads.items()}
    wanted = {"leaf": (2, 6)} | {name: (2, groups) for name, groups in GROUPS.items()}
    return None if shapes == wanted else str(shapes)


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in SMALLEST])
def test_a_model_of_every_family_trains_with_heads(family):
    side = SIDES.get(family, 32)
    model = build_model(SMALLEST[family], TREE, HEADS, options=describe_backbone(SMALLEST[family], side).options)
    images, labels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 5])
    assert_heads_leave_the_leaf_alone(model, images)
    assert_early_head_reaches_the_backbone(model, images)

    loss, terms = HierarchicalTask(CrossEntropy(TREE), heads=model.specs)(model(images), labels, epoch=0)
    assert loss.isfinite()
    assert terms.keys() == {"cross_entropy", "head/early", "head/middle", "head/late"}
    loss.backward()
    before = {name: p.detach().clone() for name, p in model.heads.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert [name for name, p in model.heads.named_parameters() if torch.equal(p, before[name])] == []
    assert all(p.isfinite().all() for p in model.parameters())


def assert_heads_leave_the_leaf_alone(model, images) -> None:
    """The leaf logits are the backbone's own, bit for bit, in training and in evaluation."""
    for training in (True, False):
        model.train(training)
        logits = []
        for leaf in (lambda: model(images).leaf, lambda: model.backbone(images)):
            torch.manual_seed(0)  # the same dropout
            with torch.no_grad():
                logits.append(leaf())
        assert torch.equal(*logits)
    model.train()


def assert_early_head_reaches_the_backbone(model, images) -> None:
    """The early head alone trains the stages before it, and only those."""
    early = model(images).heads["early"].square().sum()
    grads = torch.autograd.grad(early, list(model.backbone.parameters()), allow_unused=True)
    reached = [grad for grad in grads if grad is not None]
    assert any(grad.abs().sum() > 0 for grad in reached)
    assert len(reached) < len(grads)
