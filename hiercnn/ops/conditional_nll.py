"""Negative log-likelihood of a path under softmaxes over siblings: `conditional_nll`. Reads the siblings of the path's nodes alone.

For the k-th node v_k on the path to a label, with rest_k = log Σ_{siblings s ≠ v_k} exp(θ_s) and top_k the largest of these θ_s,

    nll_k = −log p(v_k | v_{k−1}) = softplus(rest_k − θ_{v_k})      which keeps its digits near 0

Loss = Σ_{k ≥ 1} w_k nll_k. Its gradient is own_k = w_k (exp(−nll_k) − 1) at v_k and exp(θ_s − top_k) slope_k at a sibling s, where
slope_k = w_k exp(top_k − θ_{v_k} − nll_k).
"""

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target
from hiercnn.ops._math import softplus
from hiercnn.ops._segments import segment_log_sum_exp, spread
from hiercnn.ops._tree import Nodes


def conditional_nll(scores: Tensor, target: Tensor, nodes: Nodes, paths: Tensor, weight: Tensor) -> Tensor:
    """Σ_k w_k (−log softmax of the k-th node's score among its siblings').

    Args:
        scores: Scores of all nodes but the root [B, N − 1]; half types are summed in float32.
        target: Rows of `paths` [B], int64: classes and, where there are rows for them, inner nodes.
        nodes: The tree.
        paths: Nodes from the root down to each label [T, L], int64, −1 behind the end (`path_table`).
        weight: Weight w_k of each of them [T, L], float32; the root's is not read.

    Returns:
        Loss of each row [B] in nats, float32 (float64 for float64). An only child costs nothing.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: Redmon and Farhadi, "YOLO9000" (CVPR 2017).
    """
    check_floats("scores", scores, ("node but the root", nodes.num_nodes - 1))
    check_target(target, scores)
    check_device("paths", paths, scores)
    check_device("weight", weight, scores)
    if paths.ndim != 2:
        raise ShapeError(f"paths: wanted [T, L] (path_table makes it), got {list(paths.shape)}")
    if paths.shape != weight.shape:
        raise ShapeError(f"weight: wanted {list(paths.shape)} as paths, got {list(weight.shape)}")
    return torch.ops.hiercnn.conditional_nll(scores, target, *nodes[1:4], paths, weight)[0]


@torch.library.custom_op("hiercnn::conditional_nll", mutates_args=(), device_types="cpu")
def _forward(
    scores: Tensor, target: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, paths: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], and what the gradient is made of: on a CPU itself [B, N − 1], for losses of weight 1; on CUDA own, top, slope [B, L, 3]."""
    kind = accumulation_type(scores.dtype)
    row, k, true, places, edges = _siblings(target, inner, children, offsets, paths)
    values = scores.flatten()[places].to(kind)
    values[places == spread(true, edges)] = -torch.inf  # the siblings alone
    top, log_sum, shifted = segment_log_sum_exp(values, edges)
    top, score, weight = top.double(), scores.flatten()[true].double(), weight[target[row], k].double()
    nll = torch.where(weight != 0, softplus(top + log_sum - score), 0.0).masked_fill_(score == torch.inf, torch.nan)  # ∞ − ∞
    loss = torch.zeros(len(scores), dtype=torch.float64).index_add_(0, row, weight * nll)
    gradient = torch.zeros(scores.numel(), dtype=kind)
    gradient[places] = shifted * spread((weight * (top - score - nll).exp()).to(kind), edges)
    gradient[true] = (weight * torch.expm1(-nll)).to(kind)
    return loss.to(kind), gradient.view(scores.shape), gradient.new_zeros(*paths[target].shape, 3)


@torch.library.custom_op("hiercnn::conditional_nll_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    scores: Tensor,
    target: Tensor,
    inner: Tensor,
    children: Tensor,
    offsets: Tensor,
    paths: Tensor,
    gradient: Tensor,
    factors: Tensor,
) -> Tensor:
    """Gradient of the scores [B, N − 1] for that of the losses [B]."""
    return (gradient * grad[:, None]).to(scores.dtype)


def _siblings(
    target: Tensor, inner: Tensor, children: Tensor, offsets: Tensor, paths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where the path's nodes and their siblings are in scores that are laid out as one vector.

    Returns:
        row, k: Of each of S nodes on a path that have siblings [S].
        true: Its place [S].
        places, edges: Places of all children of its parent [E], one segment a node [S + 1].
    """
    path = paths[target]
    number = torch.zeros(len(children) + 1, dtype=torch.int64)
    number[inner] = torch.arange(len(inner))
    parent = number[path[:, :-1].clamp(min=0)]
    count = torch.where(path[:, 1:] >= 0, offsets[parent + 1] - offsets[parent], 0) if len(inner) else path[:, 1:] * 0
    row, above = torch.nonzero(count > 1, as_tuple=True)
    edges = torch.nn.functional.pad(count[row, above].cumsum(0), (1, 0))
    first = offsets[parent[row, above]] - edges[:-1]
    mine = children[spread(first, edges) + torch.arange(int(edges[-1]))]
    places = spread(row * len(children) - 1, edges) + mine
    return row, above + 1, row * len(children) + path[row, above + 1] - 1, places, edges


@_forward.register_kernel("cuda")
def _(scores, target, inner, children, offsets, paths, weight):
    from hiercnn.ops._triton import conditional_nll as triton

    return triton.forward(scores, target, inner, children, offsets, paths, weight)


@_backward.register_kernel("cuda")
def _(grad, scores, target, inner, children, offsets, paths, gradient, factors):
    from hiercnn.ops._triton import conditional_nll as triton

    return triton.backward(grad, scores, target, inner, children, offsets, paths, gradient, factors)


@_forward.register_fake
def _(scores, target, inner, children, offsets, paths, weight):
    kind = accumulation_type(scores.dtype)
    factors = scores.new_empty(len(scores), paths.shape[1], 3, dtype=kind)
    return scores.new_empty(len(scores), dtype=kind), scores.new_empty(scores.shape, dtype=kind), factors


@_backward.register_fake
def _(grad, scores, target, inner, children, offsets, paths, gradient, factors):
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1], *output[1:])


def _differentiate(ctx, grad, *_):
    return torch.ops.hiercnn.conditional_nll_backward(grad, *ctx.saved_tensors), *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_save)
