"""Soft-max-margin over all nodes: `margin_nll`.

    loss = −θ_y + log Σ_v exp(θ_v + τ [v is not an ancestor of y or y itself])      over all nodes but the root
         = softplus(rest − θ_y),  rest = log Σ_{v ≠ y} exp(θ_v + τ […])             which keeps its digits near 0

Its gradient is own = exp(−loss) − 1 at y and, with top the largest of the shifted scores, exp(θ_v + τ […] − top) slope elsewhere, where
slope = exp(top − θ_y − loss).
"""

import numpy as np
import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target, known_rows
from hiercnn.ops._mixed import Mixed


def margin_nll(scores: Tensor, target: Tensor | Mixed, paths: Tensor, margin: float = 5.0) -> Tensor:
    """−θ_y + log Σ_v exp(θ_v + margin [v is wrong]), where right are y and the nodes above it.

    Args:
        scores: Scores of all nodes but the root [B, N − 1]; half types are summed in float32.
        target: Rows of `paths` [B], int64: classes and, where there are rows for them, inner nodes; not the root; or `Mixed` pairs of them.
        paths: Nodes from the root down to each label [T, L], int64, −1 behind the end (`path_table`).
        margin: τ.

    Returns:
        Loss of each row [B] in nats, float32 (float64 for float64); 0 for the root, which is never wrong.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022), soft-max-margin.
    """
    if isinstance(target, Mixed):
        return target.mix(*(margin_nll(scores, labels, paths, margin) for labels in target[:2]))
    check_floats("scores", scores, ("node but the root", None))
    check_target(target, scores)
    check_device("paths", paths, scores)
    if paths.ndim != 2:
        raise ShapeError(f"paths: wanted [T, L] (path_table makes it), got {list(paths.shape)}")
    if scores.shape[1] == 0:  # the root is the only class
        return scores.to(accumulation_type(scores.dtype)).sum(1)
    return torch.ops.hiercnn.margin_nll(scores, target, paths, margin)[0]


@torch.library.custom_op("hiercnn::margin_nll", mutates_args=(), device_types="cpu")
def _forward(scores: Tensor, target: Tensor, paths: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], and what the gradient is made of: own, top, slope [B, 3]; on a CPU the slope alone, and the gradient ÷ slope [B, N − 1].

    Where the others' exponentials sum to 1, as on a CPU, own is −slope.
    """
    kind, target = accumulation_type(scores.dtype), known_rows(target, len(paths))
    path = paths.numpy()[target.numpy()]
    node = path.max(1)  # the path's last has the largest number
    known = node > 0  # the root has no column: any will do
    origin = np.arange(len(scores)) * scores.shape[1]
    mine = origin + np.maximum(node - 1, 0)
    right = np.where(path > 0, origin[:, None] + path - 1, mine[:, None])
    others = scores.to(kind, copy=True, memory_format=torch.contiguous_format)
    flat = others.numpy().reshape(-1)
    score = flat[mine].astype(np.float64)
    flat[right] -= margin  # few are right: θ − τ there is, but for a constant, θ + τ elsewhere
    flat[mine] = -np.inf
    largest = origin + others.numpy().argmax(1)
    top = flat[largest].astype(np.float64)
    shares = torch.softmax(others, 1, out=others)  # takes less time than torch's exp
    alone = top == -np.inf  # nothing but the label
    if alone.any():
        shares[torch.from_numpy(alone)] = 0
    share = flat[largest].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # inf − inf is no number, and so is the loss
        gap = np.where(alone, -np.inf, top + margin - np.log(share) - score)  # the largest has the share 1 ÷ Σ exp(θ − top)
        loss = np.where(known, np.logaddexp(gap, 0), 0)
        loss[score == np.inf] = np.nan
        slope = np.where(known, np.exp(gap - loss), 0)
    flat[mine] = -1
    factors = np.zeros((len(scores), 3), dtype=flat.dtype)
    factors[:, 2] = slope
    return torch.from_numpy(loss).to(kind), shares, torch.from_numpy(factors)


@torch.library.custom_op("hiercnn::margin_nll_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, scores: Tensor, target: Tensor, paths: Tensor, margin: float, gradient: Tensor, factors: Tensor) -> Tensor:
    """Gradient of the scores [B, N − 1] for that of the losses [B]."""
    return (gradient * (factors[:, 2] * grad)[:, None]).to(scores.dtype)


@_forward.register_kernel("cuda")
def _(scores, target, paths, margin):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.forward(scores, target, paths, margin)


@_backward.register_kernel("cuda")
def _(grad, scores, target, paths, margin, gradient, factors):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.backward(grad, scores, target, paths, margin, gradient, factors)


@_forward.register_fake
def _(scores, target, paths, margin):
    kind = accumulation_type(scores.dtype)
    sizes = [[len(scores)], scores.shape, [len(scores), 3]]
    return tuple(scores.new_empty(size, dtype=kind) for size in sizes)


@_backward.register_fake
def _(grad, scores, target, paths, margin, gradient, factors):
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)  # else torch makes zeros [B, N] for what only the gradient needs
    scores, target, paths, ctx.margin = inputs
    ctx.save_for_backward(scores, target, paths, *output[1:])


def _differentiate(ctx, grad, *_):
    if grad is None:  # nothing depends on the loss
        return (None,) * 4
    scores, target, paths, gradient, factors = ctx.saved_tensors
    return torch.ops.hiercnn.margin_nll_backward(grad, scores, target, paths, ctx.margin, gradient, factors), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
