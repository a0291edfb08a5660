"""Log-probabilities of all nodes from leaf scores: `node_log_marginals`.

    V_v = log Σ_{leaves j below v} exp(z_j), from the leaves up;  log q_v = V_v − V_root

With g the gradient of log q, that of V is G_root = g_root − Σ_v g_v and, from the root down, G_c = g_c + G_parent exp(V_c − V_parent);
that of z_j is G at its leaf.
"""

import torch
from torch import Tensor

from hiercnn.ops._check import accumulation_type, check_device, check_floats
from hiercnn.ops._tree import Families, Nodes, families, from_leaves, to_columns


def node_log_marginals(logits: Tensor, nodes: Nodes) -> Tensor:
    """Log-probability log q_v of every node: that of the sum of the leaves below it.

    Args:
        logits: Leaf scores [B, C] in the order of the classes; half types are summed in float32.
        nodes: The tree. For one cut, the tree of its groups: `Nodes.from_parents([−1, 0 … 0, group of each class + 1], …)`.

    Returns:
        [B, N] in nats, float32 (float64 for float64); 0 at the root.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.
    """
    check_floats("logits", logits, ("class", len(nodes.leaf_nodes)))
    check_device("nodes", nodes.leaf_nodes, logits)
    return torch.ops.hiercnn.node_log_marginals(logits, *nodes)


@torch.library.custom_op("hiercnn::node_log_marginals", mutates_args=(), device_types="cpu")
def _forward(logits: Tensor, leaf_nodes: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Log-probabilities [B, N]."""
    top, log_sum = _log_sums(logits, leaf_nodes, children, families(inner, children, offsets, counts))
    found = (top - top[-1]).add_(log_sum.sub_(log_sum[-1:].clone()))
    return to_columns(found, torch.arange(len(found)), children)


@torch.library.custom_op("hiercnn::node_log_marginals_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, logits: Tensor, leaf_nodes: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]
) -> Tensor:
    """Gradient of the logits [B, C] for that of the log-probabilities [B, N]."""
    every = families(inner, children, offsets, counts)
    top, log_sum = _log_sums(logits, leaf_nodes, children, every)
    grad = grad.t().contiguous()
    below = torch.cat([grad.index_select(0, children), grad[:1] - grad.sum(0)])
    for family in reversed(every):
        mine = family.children
        share = (top[mine] - family.spread_from(top)).add_(log_sum[mine] - family.spread_from(log_sum))
        share = share.exp_().masked_fill_(top[mine] == -torch.inf, 0)  # p(child | parent)
        below[mine] += share.mul_(family.spread_from(below))
    return to_columns(below, leaf_nodes, children).to(logits.dtype)


def _log_sums(logits: Tensor, leaf_nodes: Tensor, children: Tensor, every: list[Families]) -> tuple[Tensor, Tensor]:
    """V as the largest score below each node and the rest, tables [N, B] of `Families`."""
    top = from_leaves(logits.to(accumulation_type(logits.dtype)), leaf_nodes, children)
    log_sum = torch.zeros_like(top)
    for family in every:
        high, rest = family.log_sum_exp(top[family.children], log_sum[family.children])
        top.index_copy_(0, family.parents, high)
        log_sum.index_copy_(0, family.parents, rest)
    return top, log_sum


@_forward.register_kernel("cuda")
def _(logits, leaf_nodes, inner, children, offsets, counts):
    from hiercnn.ops._triton import node_log_marginals as triton

    return triton.forward(logits, leaf_nodes, inner, children, offsets, counts)


@_backward.register_kernel("cuda")
def _(grad, logits, leaf_nodes, inner, children, offsets, counts):
    from hiercnn.ops._triton import node_log_marginals as triton

    return triton.backward(grad, logits, leaf_nodes, inner, children, offsets, counts)


@_forward.register_fake
def _(logits, leaf_nodes, inner, children, offsets, counts):
    return logits.new_empty(len(logits), len(children) + 1, dtype=accumulation_type(logits.dtype))


@_backward.register_fake
def _(grad, logits, leaf_nodes, inner, children, offsets, counts):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.counts = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    return torch.ops.hiercnn.node_log_marginals_backward(grad, *ctx.saved_tensors, ctx.counts), *[None] * 5


_forward.register_autograd(_differentiate, setup_context=_save)
