"""Soft-max-margin over all nodes: `margin_nll`.

    loss = −θ_y + log Σ_v exp(θ_v + τ [v is not an ancestor of y or y itself])      over all nodes but the root
         = softplus(rest − θ_y),  rest = log Σ_{v ≠ y} exp(θ_v + τ […])             which keeps its digits near 0

Its gradient is own = exp(−loss) − 1 at y and, with top the largest of the shifted scores, exp(θ_v + τ […] − top) slope elsewhere, where
slope = exp(top − θ_y − loss).
"""

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target, known_rows
from hiercnn.ops._math import softplus
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
    """Loss [B], and what the gradient is made of: own, top and slope [B, 3], and on a CPU exp(θ − top) of all but the label [B, N − 1]."""
    kind, target = accumulation_type(scores.dtype), known_rows(target, len(paths))
    path = paths[target]
    node = path.amax(1, keepdim=True)  # the path's last has the largest number
    label, known = (node - 1).clamp_(min=0), node[:, 0] > 0  # the root has no column: any will do
    right = torch.where(path > 0, path - 1, label)
    others = scores.to(kind, copy=True, memory_format=torch.contiguous_format)
    score = others.gather(1, label)[:, 0].double()
    others.scatter_(1, right, others.gather(1, right) - margin)  # few are right: θ − τ there is, but for a constant, θ + τ elsewhere
    others.scatter_(1, label, -torch.inf)
    top = others.amax(1, keepdim=True)
    top.masked_fill_(top == -torch.inf, 0)  # nothing but the label
    total = others.sub_(top).exp_().sum(1).double()
    top = top[:, 0].double() + margin
    gap = top - score
    loss = torch.where(known, softplus(gap + total.log()), 0.0).masked_fill_(score == torch.inf, torch.nan)  # ∞ − ∞
    slope = torch.where(known & (total != 0), (gap - loss).exp(), 0.0)
    return loss.to(kind), others, torch.stack([torch.expm1(-loss), top, slope], 1).to(kind)


@torch.library.custom_op("hiercnn::margin_nll_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, scores: Tensor, target: Tensor, paths: Tensor, margin: float, others: Tensor, factors: Tensor) -> Tensor:
    """Gradient of the scores [B, N − 1] for that of the losses [B]."""
    own, _, slope = (factors * grad[:, None]).split(1, dim=1)
    label = (paths[target].amax(1, keepdim=True) - 1).clamp_(min=0)
    return (others * slope).scatter_(1, label, own).to(scores.dtype)


@_forward.register_kernel("cuda")
def _(scores, target, paths, margin):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.forward(scores, target, paths, margin)


@_backward.register_kernel("cuda")
def _(grad, scores, target, paths, margin, others, factors):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.backward(grad, scores, target, paths, margin, others, factors)


@_forward.register_fake
def _(scores, target, paths, margin):
    kind = accumulation_type(scores.dtype)
    sizes = [[len(scores)], scores.shape, [len(scores), 3]]
    return tuple(scores.new_empty(size, dtype=kind) for size in sizes)


@_backward.register_fake
def _(grad, scores, target, paths, margin, others, factors):
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    scores, target, paths, ctx.margin = inputs
    ctx.save_for_backward(scores, target, paths, *output[1:])


def _differentiate(ctx, grad, *_):
    scores, target, paths, others, factors = ctx.saved_tensors
    return torch.ops.hiercnn.margin_nll_backward(grad, scores, target, paths, ctx.margin, others, factors), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
