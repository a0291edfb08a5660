"""Sum of node values along the path to each leaf: `path_sum`.

P_c = P_parent + θ_c, from the root (0) down; the result is P at the leaves. The gradient of θ_v is the sum over the leaves below v.
"""

import torch
from torch import Tensor

from hiercnn.ops._check import accumulation_type, check_device, check_floats
from hiercnn.ops._tree import Nodes, families, from_leaves, to_columns


def path_sum(values: Tensor, nodes: Nodes) -> Tensor:
    """Σ_{v on path(j), v ≠ root} θ_v for every leaf j.

    Args:
        values: Values of all nodes but the root [B, N − 1]; half types are summed in float32.
        nodes: The tree.

    Returns:
        [B, C] in the order of the classes, float32 (float64 for float64).

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: as scores, Wu et al. (ECCV 2020); as expected distances over marginals, our form of Karthik et al. (ICLR 2021).
    """
    check_floats("values", values, ("node but the root", nodes.num_nodes - 1))
    check_device("nodes", nodes.leaf_nodes, values)
    return torch.ops.hiercnn.path_sum(values, *nodes)


@torch.library.custom_op("hiercnn::path_sum", mutates_args=(), device_types="cpu")
def _forward(values: Tensor, leaf_nodes: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Sums [B, C]."""
    values = values.t().to(accumulation_type(values.dtype)).contiguous()
    sums = torch.cat([values.index_select(0, children - 1), values.new_zeros(1, values.shape[1])])
    for family in reversed(families(inner, children, offsets, counts)):
        sums[family.children] += family.spread_from(sums)
    return to_columns(sums, leaf_nodes, children)


@torch.library.custom_op("hiercnn::path_sum_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, leaf_nodes: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Gradient of the values [B, N − 1] for that of the sums [B, C]."""
    below = from_leaves(grad, leaf_nodes, children)
    for family in families(inner, children, offsets, counts):
        below.index_copy_(0, family.parents, family.sums(below[family.children]))
    return to_columns(below, torch.arange(1, len(below)), children)


@_forward.register_kernel("cuda")
def _(values, leaf_nodes, inner, children, offsets, counts):
    from hiercnn.ops._triton import path_sum as triton

    return triton.forward(values, leaf_nodes, inner, children, offsets, counts)


@_backward.register_kernel("cuda")
def _(grad, leaf_nodes, inner, children, offsets, counts):
    from hiercnn.ops._triton import path_sum as triton

    return triton.backward(grad, leaf_nodes, inner, children, offsets, counts)


@_forward.register_fake
def _(values, leaf_nodes, inner, children, offsets, counts):
    return values.new_empty(len(values), len(leaf_nodes), dtype=accumulation_type(values.dtype))


@_backward.register_fake
def _(grad, leaf_nodes, inner, children, offsets, counts):
    return grad.new_empty(len(grad), len(children))


def _save(ctx, inputs, output) -> None:
    values, *tree, ctx.counts = inputs
    ctx.kind = values.dtype
    ctx.save_for_backward(*tree)


def _differentiate(ctx, grad):
    return torch.ops.hiercnn.path_sum_backward(grad, *ctx.saved_tensors, ctx.counts).to(ctx.kind), *[None] * 5


_forward.register_autograd(_differentiate, setup_context=_save)
