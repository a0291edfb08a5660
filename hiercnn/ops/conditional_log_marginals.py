"""Log-probabilities of all nodes from scores of siblings: `conditional_log_marginals`.

    log p(c | parent) = θ_c − log Σ_{siblings s} exp(θ_s);  log q_c = log q_parent + log p(c | parent), from the root down

With g the gradient of log q and S_v its sum over v and all below it, from the leaves up, that of θ_c is
S_c − p(c | parent) (S_parent − g_parent).
"""

import torch
from torch import Tensor

from hiercnn.ops._check import accumulation_type, check_device, check_floats
from hiercnn.ops._tree import Families, Nodes, families, to_columns


def conditional_log_marginals(scores: Tensor, nodes: Nodes) -> Tensor:
    """Log-probability of every node, the product of the softmaxes over siblings along its path.

    Args:
        scores: Scores of all nodes but the root [B, N − 1]; half types are summed in float32.
        nodes: The tree.

    Returns:
        [B, N] in nats, float32 (float64 for float64); 0 at the root.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: Redmon and Farhadi, "YOLO9000" (CVPR 2017).
    """
    check_floats("scores", scores, ("node but the root", nodes.num_nodes - 1))
    check_device("nodes", nodes.leaf_nodes, scores)
    return torch.ops.hiercnn.conditional_log_marginals(scores, *nodes[1:])


@torch.library.custom_op("hiercnn::conditional_log_marginals", mutates_args=(), device_types="cpu")
def _forward(scores: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Log-probabilities [B, N]."""
    scores = scores.t().to(accumulation_type(scores.dtype)).contiguous()
    values = torch.cat([scores.index_select(0, children - 1), scores.new_zeros(1, scores.shape[1])])
    for family in reversed(families(inner, children, offsets, counts)):
        mine = values[family.children]
        mine.copy_(_log_softmax(mine, family).add_(family.spread_from(values)))
    return to_columns(values, torch.arange(len(values)), children)


@torch.library.custom_op("hiercnn::conditional_log_marginals_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, scores: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, counts: list[int]) -> Tensor:
    """Gradient of the scores [B, N − 1] for that of the log-probabilities [B, N]."""
    below = grad.t().contiguous().index_select(0, torch.cat([children, children.new_zeros(1)]))
    found = scores.t().to(grad.dtype).contiguous().index_select(0, children - 1)
    for family in families(inner, children, offsets, counts):
        mine = found[family.children]
        strictly = family.sums(below[family.children])
        mine.copy_(below[family.children] - _log_softmax(mine, family).exp_().mul_(family.spread(strictly)))
        below.index_add_(0, family.parents, strictly)
    return to_columns(found, torch.arange(1, len(below)), children).to(scores.dtype)


def _log_softmax(scores: Tensor, family: Families) -> Tensor:
    """Log-probability of each child given its parent [children, B]."""
    top, log_sum = family.log_sum_exp(scores)
    return (scores - family.spread(top)).sub_(family.spread(log_sum))


@_forward.register_kernel("cuda")
def _(scores, inner, children, offsets, counts):
    from hiercnn.ops._triton import conditional_log_marginals as triton

    return triton.forward(scores, inner, children, offsets, counts)


@_backward.register_kernel("cuda")
def _(grad, scores, inner, children, offsets, counts):
    from hiercnn.ops._triton import conditional_log_marginals as triton

    return triton.backward(grad, scores, inner, children, offsets, counts)


@_forward.register_fake
def _(scores, inner, children, offsets, counts):
    return scores.new_empty(len(scores), len(children) + 1, dtype=accumulation_type(scores.dtype))


@_backward.register_fake
def _(grad, scores, inner, children, offsets, counts):
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.counts = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    return torch.ops.hiercnn.conditional_log_marginals_backward(grad, *ctx.saved_tensors, ctx.counts), *[None] * 4


_forward.register_autograd(_differentiate, setup_context=_save)
