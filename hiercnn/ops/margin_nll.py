"""Soft-max-margin over all nodes: `margin_nll`.

    loss = −θ_y + log Σ_v exp(θ_v + τ [v is not an ancestor of y or y itself])      over all nodes but the root
         = softplus(rest − θ_y),  rest = log Σ_{v ≠ y} exp(θ_v + τ […])             which keeps its digits near 0

Its gradient is own = exp(−loss) − 1 at y and, with top the largest of the shifted scores, exp(θ_v + τ […] − top) slope elsewhere, where
slope = exp(top − θ_y − loss).
"""

import torch
from torch import Tensor

from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target


def margin_nll(scores: Tensor, target: Tensor, paths: Tensor, margin: float = 5.0) -> Tensor:
    """−θ_y + log Σ_v exp(θ_v + margin [v is wrong]), where right are y and the nodes above it.

    Args:
        scores: Scores of all nodes but the root [B, N − 1]; half types are summed in float32.
        target: Rows of `paths` [B], int64: classes and, where there are rows for them, inner nodes; not the root.
        paths: Nodes from the root down to each label [T, L], int64, −1 behind the end (`path_table`).
        margin: τ.

    Returns:
        Loss of each row [B] in nats, float32 (float64 for float64); 0 for the root, which is never wrong.

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: Valmadre, "Hierarchical classification at multiple operating points" (NeurIPS 2022), soft-max-margin.
    """
    check_floats("scores", scores, ("node but the root", None))
    check_target(target, scores)
    check_device("paths", paths, scores)
    return torch.ops.hiercnn.margin_nll(scores, target, paths, margin)[0]


@torch.library.custom_op("hiercnn::margin_nll", mutates_args=(), device_types="cpu")
def _forward(scores: Tensor, target: Tensor, paths: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Loss [B], and own, top and slope [B, 3], of which the gradient is made."""
    kind = accumulation_type(scores.dtype)
    shifted, label, known = _shifted(scores.to(kind), paths[target], margin)
    score = scores.to(kind).gather(1, label)[:, 0].double()
    shifted.scatter_(1, label, -torch.inf)
    top = shifted.amax(1, keepdim=True)
    top = torch.where(top == -torch.inf, 0, top)
    rest = top[:, 0].double() + (shifted - top).exp_().sum(1).double().log()
    loss = torch.where(known, torch.nn.functional.softplus(rest - score), 0.0)
    slope = torch.where(known, (top[:, 0].double() - score - loss).exp(), 0.0)
    return loss.to(kind), torch.stack([torch.expm1(-loss), top[:, 0].double(), slope], 1).to(kind)


@torch.library.custom_op("hiercnn::margin_nll_backward", mutates_args=(), device_types="cpu")
def _backward(grad: Tensor, scores: Tensor, target: Tensor, paths: Tensor, margin: float, factors: Tensor) -> Tensor:
    """Gradient of the scores [B, N − 1] for that of the losses [B]."""
    own, top, slope = (factor[:, None] for factor in factors.unbind(1))
    shifted, label, _ = _shifted(scores.to(factors.dtype), paths[target], margin)
    found = shifted.sub_(top).exp_().mul_(slope * grad[:, None])
    return found.scatter_(1, label, own * grad[:, None]).to(scores.dtype)


def _shifted(scores: Tensor, path: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores + τ [wrong], the column of each row's label [B, 1], and whether it is a node below the root [B]."""
    label = (path.amax(1, keepdim=True) - 1).clamp(min=0)  # the path's last node has the largest number
    right = torch.where(path[:, 1:] > 0, path[:, 1:] - 1, label)
    shifted = scores + margin
    return shifted.scatter_(1, right, scores.gather(1, right)), label, path.amax(1) > 0


@_forward.register_kernel("cuda")
def _(scores, target, paths, margin):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.forward(scores, target, paths, margin)


@_backward.register_kernel("cuda")
def _(grad, scores, target, paths, margin, factors):
    from hiercnn.ops._triton import margin_nll as triton

    return triton.backward(grad, scores, target, paths, margin, factors)


@_forward.register_fake
def _(scores, target, paths, margin):
    kind = accumulation_type(scores.dtype)
    return scores.new_empty(len(scores), dtype=kind), scores.new_empty(len(scores), 3, dtype=kind)


@_backward.register_fake
def _(grad, scores, target, paths, margin, factors):
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    scores, target, paths, ctx.margin = inputs
    ctx.save_for_backward(scores, target, paths, output[1])


def _differentiate(ctx, grad, _):
    scores, target, paths, factors = ctx.saved_tensors
    return torch.ops.hiercnn.margin_nll_backward(grad, scores, target, paths, ctx.margin, factors), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
