"""The small nets answer to timm's whole interface, and have the stages, sizes and skips that they say they have."""

import operator
from collections import Counter

import pytest
import timm
import torch
from timm.layers import ConvNormAct
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

import hiercnn.models._plain as plain
from hiercnn.errors import ShapeError

# name: millions of parameters with 100 classes (from, to), channels of the stages, their reductions, skips
NETS = {
    "alexnet_bn": ((2.4, 2.6), [64, 192, 256], [2, 4, 8], 0),
    "alexnet": ((2.4, 2.6), [64, 192, 256], [2, 4, 8], 0),
    "vgg_small_bn": ((1.1, 1.3), [32, 64, 128, 256], [1, 2, 4, 8], 0),
    "vgg_small": ((1.1, 1.3), [32, 64, 128, 256], [1, 2, 4, 8], 0),
    "resnet_small": ((1.2, 1.3), [32, 64, 128, 256], [1, 2, 4, 8], 4),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches this small only get slower with more threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=NETS)
def name(request):
    return request.param


def create(name, **kwargs):
    """A net with seeded weights, in evaluation mode."""
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 100, **kwargs}).eval()


def images(size=32, batch=2, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


# ---- creation ----


def test_timm_lists_it_and_creates_it_silently(name, caplog):
    assert timm.list_models(name) == [name]
    assert name not in timm.list_models(pretrained=True)
    assert name in plain.__all__
    net = create(name)
    assert not caplog.records
    assert net.pretrained_cfg is net.default_cfg
    assert net.pretrained_cfg["architecture"] == name
    assert isinstance(net.get_submodule(net.pretrained_cfg["first_conv"]), nn.Conv2d)
    assert net.get_submodule(net.pretrained_cfg["classifier"]) is net.get_classifier()


def test_there_are_no_pretrained_weights(name):
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True)


def test_parameters_are_in_their_band(name):
    low, high = NETS[name][0]
    assert low <= count(create(name)) / 1e6 <= high


@pytest.mark.parametrize("size", [32, 33, 64, 96])
def test_logits_shape(name, size):
    assert create(name)(images(size)).shape == (2, 100)


def test_one_input_channel_and_an_odd_size(name):
    net = create(name, in_chans=1)
    assert net.in_chans == 1
    assert net(images(33, channels=1)).shape == (2, 100)


# ---- skips ----


def additions(net):
    """How many nodes of the traced graph add or join two tensors."""
    calls = Counter(node.target for node in torch.fx.symbolic_trace(net).graph.nodes)
    return sum(calls[target] for target in (operator.add, operator.iadd, torch.add, torch.cat, "add", "add_"))


def test_additions_in_the_graph_are_the_stated_skips(name):
    assert additions(create(name)) == NETS[name][3]


@pytest.mark.parametrize("name", [name for name, facts in NETS.items() if not facts[3]])
def test_a_net_without_skips_is_a_chain_of_convolutions_and_pools(name):
    conv = ConvNormAct if name.endswith("_bn") else plain.ConvAct
    for stage in create(name).stages:
        assert isinstance(stage, nn.Sequential)
        assert {type(layer) for layer in stage} <= {conv, nn.MaxPool2d}


@pytest.mark.parametrize("name", ["alexnet", "vgg_small"])
def test_without_batch_norm_only_the_norms_are_gone(name):
    kept = {key: value.shape for key, value in create(f"{name}_bn").state_dict().items() if ".bn." not in key}
    own = {key: value.shape for key, value in create(name).state_dict().items() if not key.endswith(".conv.bias")}
    assert own == kept


# ---- features ----


@pytest.mark.parametrize("size", [32, 64])
def test_feature_info_agrees_with_the_intermediates(name, size):
    net = create(name)
    _, channels, reductions, _ = NETS[name]
    intermediates = net.forward_intermediates(images(size), intermediates_only=True)
    shapes = [(2, c, size // r, size // r) for c, r in zip(channels, reductions, strict=True)]
    assert [tuple(x.shape) for x in intermediates] == shapes
    assert [info["num_chs"] for info in net.feature_info] == channels
    assert [info["reduction"] for info in net.feature_info] == reductions
    assert [net.get_submodule(info["module"]) for info in net.feature_info] == list(net.stages)
    assert net.num_features == channels[-1]


def test_stages_after_the_first_begin_by_halving(name):
    net, x = create(name), images()
    outputs = net.forward_intermediates(x, intermediates_only=True)
    for before, stage in zip(outputs, list(net.stages)[1:], strict=False):
        assert stage[0](before).shape[-1] == before.shape[-1] // 2


@pytest.mark.parametrize("training", [False, True])
def test_forward_is_head_of_intermediates_bit_for_bit(name, training):
    net, x = create(name).train(training), images(batch=4)
    last, intermediates = net.forward_intermediates(x)
    assert torch.equal(net(x), net.forward_head(last))
    assert torch.equal(last, intermediates[-1])
    assert torch.equal(last, net.forward_features(x))


def test_indices_select_stages_and_stop_early_skips_the_rest(name):
    net, x = create(name), images()
    every = net.forward_intermediates(x, intermediates_only=True)
    last, first_two = net.forward_intermediates(x, indices=[0, 1], stop_early=True)
    assert len(first_two) == 2
    assert all(torch.equal(a, b) for a, b in zip(first_two, every, strict=False))
    assert torch.equal(last, every[1])
    (only,) = net.forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(only, every[-1])


def test_other_output_formats_are_refused(name):
    with pytest.raises(ShapeError, match="output_fmt is 'NLC'.*'NCHW' only"):
        create(name).forward_intermediates(images(), output_fmt="NLC")


@pytest.mark.parametrize("feature_cls", ["list", "getter"])
@pytest.mark.parametrize("indices", [None, (0, 2)])
def test_features_only(name, feature_cls, indices):
    chosen = {} if indices is None else {"out_indices": indices}
    features = create(name, features_only=True, feature_cls=feature_cls, **chosen)
    expected = create(name).forward_intermediates(images(), indices=indices, intermediates_only=True)
    outputs = features(images())
    assert features.feature_info.channels() == [x.shape[1] for x in expected]
    assert features.feature_info.reduction() == [32 // x.shape[2] for x in expected]
    assert len(outputs) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_pruning_keeps_the_stages_up_to_the_last_one_taken(name):
    net, x = create(name), images()
    expected = net.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([1]) == [1]
    assert len(net.stages) == len(net.feature_info) == 2
    assert net.num_features == expected.shape[1]
    assert torch.equal(net(x), expected)


def test_pruning_nothing_can_keep_the_head(name):
    net, x = create(name), images()
    before = net(x)
    net.prune_intermediate_layers(1, prune_head=False)
    assert torch.equal(net(x), before)


# ---- head ----


def test_pre_logits_are_the_pooled_features(name):
    net = create(name)
    features = net.forward_features(images())
    pooled = net.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(net.fc(pooled), net.forward_head(features))


def test_reset_classifier(name):
    net = create(name)
    assert net.get_classifier() is net.fc
    net.reset_classifier(7)
    assert net.num_classes == 7
    assert net(images()).shape == (2, 7)
    net.reset_classifier(7, "catavgmax")
    assert net.num_features * 2 == net.head_hidden_size == net.fc.in_features
    assert net(images()).shape == (2, 7)
    net.reset_classifier(0)
    assert net(images()).shape == (2, net.head_hidden_size)
    net.reset_classifier(0, "")
    assert torch.equal(net(images()), net.forward_features(images()))
    assert not any(module.training for module in net.modules())


def test_reset_classifier_keeps_dtype(name):
    net = create(name).double()
    net.reset_classifier(5)
    assert net.fc.weight.dtype == torch.float64


def test_global_pool_and_no_classes_at_creation(name):
    net = create(name, num_classes=0, global_pool="")
    assert net(images()).shape == (2, NETS[name][1][-1], 4, 4)


def test_drop_rate_acts_in_training_only(name):
    net = create(name, drop_rate=0.5)
    features = net.forward_features(images())
    assert torch.equal(net.forward_head(features, pre_logits=True), net.global_pool(features))
    net.reset_classifier(10)  # keeps the dropout
    dropped = net.train().forward_head(torch.ones_like(features), pre_logits=True)
    assert dropped.unique().tolist() == [0.0, 2.0]


# ---- training ----


def test_one_step_lowers_the_loss(name):
    net, x, target = create(name).train(), images(batch=16), torch.arange(16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loss = nn.functional.cross_entropy(net(x), target)
    loss.backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert nn.functional.cross_entropy(net(x), target) < loss.detach() - 0.03


def test_checkpointing_changes_no_gradient(name):
    def gradients(checkpointing):
        net = create(name).train()
        net.set_grad_checkpointing(checkpointing)
        net(images(batch=4)).square().sum().backward()
        return [parameter.grad for parameter in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_covers_every_parameter_in_forward_order(name, coarse):
    net = create(name)
    groups = group_parameters(net, net.group_matcher(coarse), reverse=True)
    names = [parameter for parameter, _ in net.named_parameters()]
    assert sorted(groups) == sorted(names)
    assert [groups[parameter] for parameter in names] == sorted(groups.values())
    head = max(groups.values())
    assert {parameter for parameter in names if groups[parameter] == head} == {"fc.weight", "fc.bias"}
    stem = {parameter for parameter in names if groups[parameter] == 0}
    assert stem == {f"stages.0.0.{key}" for key, _ in net.stages[0][0].named_parameters()}


def test_layer_decay_takes_every_parameter_once(name):
    net = create(name)
    groups = param_groups_layer_decay(net, weight_decay=0.1, layer_decay=0.5)
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == count(net)
    assert max(group["lr_scale"] for group in groups) == 1.0
    assert min(group["lr_scale"] for group in groups) < 0.5
