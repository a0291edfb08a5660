"""Negative log-likelihood of a path under softmaxes over siblings: `conditional_nll`. Reads the siblings of the path's nodes alone.

For the k-th node v_k on the path to a label, with rest_k = log Σ_{siblings s ≠ v_k} exp(θ_s) and top_k the largest of these θ_s,

    nll_k = −log p(v_k | v_{k−1}) = softplus(rest_k − θ_{v_k})      which keeps its digits near 0

Loss = Σ_{k ≥ 1} w_k nll_k. Its gradient is own_k = w_k (exp(−nll_k) − 1) at v_k and exp(θ_s − top_k) slope_k at a sibling s, where
slope_k = w_k exp(top_k − θ_{v_k} − nll_k).
"""

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target, known_rows
from hiercnn.ops._math import softplus
from hiercnn.ops._mixed import Mixed
from hiercnn.ops._segments import segment_log_sum_exp, spread
from hiercnn.ops._tree import Nodes


def conditional_nll(scores: Tensor, target: Tensor | Mixed, nodes: Nodes, paths: Tensor, weight: Tensor) -> Tensor:
    """Σ_k w_k (−log softmax of the k-th node's score among its siblings').

    Args:
        scores: Scores of all nodes but the root [B, N − 1]; half types are summed in float32.
        target: Rows of `paths` [B], int64: classes and, where there are rows for them, inner nodes; or `Mixed` pairs of them.
        nodes: The tree.
        paths: Nodes from the root down to each label [T, L], int64, −1 behind the end (`path_table`).
        weight: Weight w_k of each of them [T, L], float32; the root's is not read.

    Returns:
        Loss of each row [B] in nats, float32 (float64 for float64). An only child costs nothing.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: Redmon and Farhadi, "YOLO9000" (CVPR 2017).
    """
    if isinstance(target, Mixed):
        return target.mix(*(conditional_nll(scores, labels, nodes, paths, weight) for labels in target[:2]))
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
    kind, target = accumulation_type(scores.dtype), known_rows(target, len(paths))
    step, true, places, edges = _siblings(*(x.numpy() for x in (inner, children, offsets, paths[target])))
    flat = scores.to(kind).reshape(-1)
    values = flat[places]
    values[places == spread(true, edges)] = -torch.inf  # the siblings alone
    top, log_sum, shifted = segment_log_sum_exp(values, edges)
    top, score, weight = top.double(), flat[true].double(), weight[target].double().flatten()[step]
    nll = torch.where(weight != 0, softplus(top + log_sum - score), 0.0).masked_fill_(score == torch.inf, torch.nan)  # ∞ − ∞
    losses = torch.zeros(paths[target].shape, dtype=torch.float64)
    losses.view(-1)[step] = weight * nll
    gradient = torch.zeros(scores.shape, dtype=kind)
    gradient.view(-1)[places] = shifted.mul_(spread((weight * (top - score - nll).exp()).to(kind), edges))
    gradient.view(-1)[true] = (weight * torch.expm1(-nll)).to(kind)
    return losses.sum(1).to(kind), gradient, gradient.new_zeros(*losses.shape, 3)


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


def _siblings(inner: np.ndarray, children: np.ndarray, offsets: np.ndarray, path: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the path's nodes and their siblings are in scores that are laid out as one vector.

    Returns:
        step: Of each of S nodes on a path that have siblings, its place among the B × L steps of all paths [S].
        true: The place of its score [S].
        places, edges: Places of the scores of all children of its parent [E], one segment a node [S + 1].
    """
    number = np.zeros(len(children) + 1, dtype=np.int64)
    number[inner] = np.arange(len(inner))
    parent = number[np.roll(path, 1, axis=1)]
    count = np.where(path > 0, offsets[parent + 1] - offsets[parent], 0) if len(inner) else np.zeros_like(path)
    step = np.flatnonzero(count > 1)
    count, first = count.reshape(-1)[step], step // path.shape[1] * len(children) - 1
    edges = np.append(0, count.cumsum())
    mine = np.repeat(offsets[parent.reshape(-1)[step]] - edges[:-1], count) + np.arange(edges[-1])
    places = np.repeat(first, count) + children[mine]
    return tuple(torch.from_numpy(x) for x in (step, first + path.reshape(-1)[step], places, edges))


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
