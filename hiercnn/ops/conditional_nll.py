"""Negative log-likelihood of a path under softmaxes over siblings: `conditional_nll`. Reads the siblings of the path's nodes alone.

For the k-th node v_k on the path to a label, with rest_k = log Σ_{siblings s ≠ v_k} exp(θ_s) and top_k the largest of these θ_s,

    nll_k = −log p(v_k | v_{k−1}) = softplus(rest_k − θ_{v_k})      which keeps its digits near 0

Loss = Σ_{k ≥ 1} w_k nll_k. Its gradient is own_k = w_k (exp(−nll_k) − 1) at v_k and exp(θ_s − top_k) slope_k at a sibling s, where
slope_k = w_k exp(top_k − θ_{v_k} − nll_k).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target, known_rows
from hiercnn.ops._mixed import Mixed
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
    kind, target = accumulation_type(scores.dtype), known_rows(target, len(paths)).numpy()
    steps = _steps(*(x.numpy() for x in (inner, children, offsets)), paths.numpy()[target])
    flat = scores.to(kind).numpy().reshape(-1)
    values, score = flat[steps.places], flat[steps.true].astype(np.float64)
    weight = weight.numpy()[target][steps.rows, steps.levels].astype(np.float64)
    values[steps.mine] = -np.inf  # the siblings alone
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # inf − inf is no number, and so is the loss; log 0 is −inf
        top = np.maximum.reduceat(values, steps.starts) if len(values) else values
        shifted = np.exp(values - np.where(top == -np.inf, 0, top).astype(values.dtype)[steps.segments])
        total = np.add.reduceat(shifted, steps.starts) if len(values) else values
        gap = top.astype(np.float64) - score
        nll = np.where(weight != 0, np.logaddexp(gap + np.log(total, dtype=np.float64), 0), 0)
        nll[score == np.inf] = np.nan
        gradient = np.zeros(flat.shape, dtype=flat.dtype)
        gradient[steps.places] = shifted * (weight * np.exp(gap - nll)).astype(flat.dtype)[steps.segments]
        gradient[steps.true] = weight * np.expm1(-nll)
    losses = torch.from_numpy(np.bincount(steps.rows, weight * nll, len(scores)))
    return losses.to(kind), torch.from_numpy(gradient).view(scores.shape), scores.new_zeros(len(scores), paths.shape[1], 3, dtype=kind)


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


class _Steps(NamedTuple):
    """The S nodes on the paths of a batch that have siblings, and the E scores of all children of their parents, a segment a node.

    Attributes:
        rows, levels: Row of the batch and place on its path [S].
        true: Place of the node's score among scores that are laid out as one vector [S].
        places: Places of its parent's children [E].
        starts: Where its segment begins [S].
        mine: Where in its segment it is itself [S].
        segments: Which segment each place belongs to [E].
    """

    rows: np.ndarray
    levels: np.ndarray
    true: np.ndarray
    places: np.ndarray
    starts: np.ndarray
    mine: np.ndarray
    segments: np.ndarray


def _steps(inner: np.ndarray, children: np.ndarray, offsets: np.ndarray, path: np.ndarray) -> _Steps:
    """From the paths of a batch [B, L]. By numpy: on as few numbers torch's calls cost more than the work."""
    fan_out = np.diff(offsets) if len(inner) else inner
    first, many, rank = np.zeros((3, len(children) + 1), dtype=np.int64)  # of each node: its parent's first child, how many, which it is
    first[children] = np.repeat(offsets[:-1], fan_out)
    many[children] = np.repeat(fan_out, fan_out)
    rank[children] = np.arange(len(children))
    rows, levels = np.nonzero((many[path] > 1) & (path > 0))
    node = path[rows, levels]
    count, origin = many[node], rows * len(children) - 1
    starts = count.cumsum() - count
    segments = np.repeat(np.arange(len(node)), count)
    places = children[(first[node] - starts)[segments] + np.arange(len(segments))] + origin[segments]
    return _Steps(rows, levels, origin + node, places, starts, starts + rank[node] - first[node], segments)


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
    ctx.set_materialize_grads(False)  # else torch makes zeros [B, N] for what only the gradient needs
    ctx.save_for_backward(*inputs[:-1], *output[1:])


def _differentiate(ctx, grad, *_):
    if grad is None:  # nothing depends on the loss
        return (None,) * 7
    return torch.ops.hiercnn.conditional_nll_backward(grad, *ctx.saved_tensors), *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_save)
