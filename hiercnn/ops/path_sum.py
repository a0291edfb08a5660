"""Sum of node values along the path to each leaf: `path_sum`.

P_c = P_parent + θ_c, from the root (0) down; the result is P at the leaves. The gradient of θ_v is the sum over the leaves below v.
"""

import torch
from torch import Tensor

from hiercnn.ops._check import accumulation_type, check_device, check_floats
from hiercnn.ops._tree import Nodes, families


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
    values = values.t().to(accumulation_type(values.dtype))
    sums = values.new_zeros(len(children) + 1, values.shape[1])  # [N, B]
    for family in reversed(list(families(inner, children, offsets, counts))):
        sums[family.children] = values[family.children - 1] + family.spread(sums[family.parents])
    return sums[leaf_nodes].t().contiguous()


@torch.library.custom_op("hiercnn::path_sum_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, leaf_nodes: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Gradient of the values [B, N − 1] for that of the sums [B, C]."""
    below = grad.new_empty(len(children) + 1, len(grad))
    below[leaf_nodes] = grad.t()
    for family in families(inner, children, offsets, counts):
        below[family.parents] = family.sums(below[family.children])
    return below[1:].t().clone(memory_format=torch.contiguous_format)


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
