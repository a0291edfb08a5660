"""Negative log-likelihood of the nodes on the path to a label, read from one leaf head: `ring_nll`.

The nodes v_0 (root), v_1, … on the path to a label y hold nested ranges of leaf ranks. So leaf j lies in exactly one ring
r(j) = index of the deepest of them that holds j, and with the log-sum-exp of every ring

    in_k  = log Σ_{r ≥ k} Σ_{j in ring r} exp(z_j)        all leaves below v_k
    out_k = log Σ_{r < k} Σ_{j in ring r} exp(z_j)        all others
    −log q_k = softplus(out_k − in_k)                      which keeps its digits near 0, where in_0 − in_k has none

Loss = Σ_{k ≥ 1} w_k (−log q_k) + Σ_j s_{r(j)} (in_0 − z_j), and its gradient, with top_r the largest score of ring r,

    g_j = exp(z_j − top_r) c_r − s_r        at r = r(j), with S = Σ_j s_{r(j)}
    c_r = exp(top_r − in_0) (S + Σ_{k > r} w_k) − Σ_{1 ≤ k ≤ r} w_k exp(top_r − in_k) (1 − q_k)

where no exponent is above 0 and no small difference of large numbers is taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hiercnn.errors import ShapeError
from hiercnn.ops._check import accumulation_type, check_device, check_floats, check_target, known_rows
from hiercnn.ops._math import softplus
from hiercnn.ops._mixed import Mixed
from hiercnn.ops._segments import segment_log_sum_exp, segment_sum, spread

LEAST = 1e-12  # probability below which a CPU works with log-sum-exps of rings instead of sums of probabilities


class Rings(NamedTuple):
    """What `ring_nll` must know of the tree, as tensors; T labels, L nodes on the longest path, C classes.

    Attributes:
        order: Class at each leaf rank [C], int64.
        starts, stops: Leaf ranks below the k-th node on the path to each label [T, L], int64. k = 0 is the root, 0 … C; the ranges are
            nested; behind the end of a shorter path the last is repeated, with weight 0, or ranges are empty, at the last start.
        weight: Weight w_k ≥ 0 of −log q_k of each node [T, L], float32 or float64; that of the root is not read.
        soft: Weight s_r of −log p_j of each leaf j in ring r [T, L], float32 or float64, or None.
    """

    order: Tensor
    starts: Tensor
    stops: Tensor
    weight: Tensor
    soft: Tensor | None = None


def ring_nll(logits: Tensor, target: Tensor | Mixed, rings: Rings) -> Tensor:
    """Σ_k w_k (−log q_k) + Σ_j s_{r(j)} (−log p_j): level NLL, HXE, and soft labels whose distance depends on the common ancestor.

    Args:
        logits: Leaf scores [B, C] in the order of the classes; half types are summed in float32.
        target: Rows of `rings` [B], int64: classes and, where there are rows for them, inner nodes; or `Mixed` pairs of them.
        rings: The tree and the weights.

    Returns:
        Loss of each row [B] in nats, float32 (float64 for float64).

    Raises:
        ShapeError: Sizes, types or devices that do not fit.

    Source: the marginal form of Bertinetto et al., "Making better mistakes" (CVPR 2020); the ring sums are ours.
    """
    if isinstance(target, Mixed):
        return target.mix(*(ring_nll(logits, labels, rings) for labels in target[:2]))
    check_floats("logits", logits, ("class", len(rings.order)))
    check_target(target, logits)
    for table in filter(torch.is_tensor, rings):
        check_device("rings", table, logits)
    if len({rings.starts.shape, rings.stops.shape, rings.weight.shape, (rings.soft if rings.soft is not None else rings.weight).shape}) > 1:
        raise ShapeError(
            f"rings: starts, stops and weights want one shape [T, L], got {[list(t.shape) for t in rings[1:] if t is not None]}"
        )
    return torch.ops.hiercnn.ring_nll(logits, target, *rings)[0]


@torch.library.custom_op("hiercnn::ring_nll", mutates_args=(), device_types="cpu")
def _forward(
    logits: Tensor, target: Tensor, order: Tensor, starts: Tensor, stops: Tensor, weight: Tensor, soft: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss [B], and what the gradient is made of: on a CPU itself [B, C], for losses of weight 1, by leaf
    rank; on CUDA top_r and c_r [B, L]."""
    kind, target = accumulation_type(logits.dtype), known_rows(target, len(starts))
    tables = [starts[target], stops[target], weight[target].double(), None if soft is None else soft[target].double()]
    tables[2][:, 0] = 0  # the root: −log 1
    loss, gradient, exact = _by_sums(logits.index_select(1, order).to(kind), *tables)
    if not exact.all():
        rows = torch.nonzero(~exact)[:, 0]
        tables = (None if table is None else table[rows] for table in tables)
        loss[rows], gradient[rows] = _by_log_sum_exp(logits[rows].index_select(1, order).to(kind), *tables)
    return loss.to(kind), gradient, *(logits.new_zeros(starts[target].shape, dtype=kind) for _ in range(2))


@torch.library.custom_op("hiercnn::ring_nll_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    order: Tensor,
    starts: Tensor,
    stops: Tensor,
    soft: Tensor | None,
    gradient: Tensor,
    top: Tensor,
    slope: Tensor,
) -> Tensor:
    """Gradient of the logits [B, C] for the gradient of the losses [B]."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return gradient.index_select(1, rank).mul_(grad[:, None]).to(logits.dtype)


def _by_sums(ranked: Tensor, lower: Tensor, upper: Tensor, weight: Tensor, soft: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], gradient [B, C], and for which rows they are exact [B]: those whose path has no node too improbable for a sum of exp(z).

    Scores [B, C] by leaf rank; they are overwritten.
    """
    edges, rings = _edges(lower, upper, ranked.shape[1]), lower.shape[1]
    ranked -= ranked.amax(1, keepdim=True)
    if soft is not None:
        distances = _ring_sums(ranked, edges, rings).neg_()
    ranked.exp_()
    ring = _ring_sums(ranked, edges, rings)
    inside = ring.flip(1).cumsum(1).flip(1)
    outside = torch.nn.functional.pad(ring.cumsum(1)[:, :-1], (1, 0))
    everything, weighted = inside[:, :1], weight != 0
    odds = torch.where(weighted, outside / inside, 0.0)  # (1 − q_k) / q_k
    loss = (weight * odds.log1p()).sum(1)
    slope = _after(weight) - (weight * odds).cumsum(1)  # by which p is multiplied in each ring
    exact = torch.where(weighted, inside, everything).amin(1) > LEAST * everything[:, 0]  # NaN is not
    if soft is not None:
        sizes = _ring_sizes(lower, upper)
        loss += torch.where(soft != 0, soft * (distances + sizes * everything.log()), 0.0).sum(1)  # Σ in_0 − z
        slope += (soft * sizes).sum(1, keepdim=True)
    gradient = ranked.mul_(_at_leaves((slope / everything).to(ranked.dtype), edges, ranked.shape[1]))
    if soft is not None:
        gradient -= _at_leaves(soft.to(ranked.dtype), edges, ranked.shape[1])
    return loss, gradient, exact


def _by_log_sum_exp(ranked: Tensor, lower: Tensor, upper: Tensor, weight: Tensor, soft: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss [B] and gradient [B, C], by leaf rank, for any scores by leaf rank [B, C]. What is [B, L] is computed in float64."""
    classes, edges = ranked.shape[1], _edges(lower, upper, ranked.shape[1])
    top, log_sum, _ = segment_log_sum_exp(ranked.view(-1), edges)
    top, log_sum = (x.double().view(len(ranked), 2 * lower.shape[1]) for x in (top, log_sum))
    top, ring = _by_ring(top, torch.maximum), _by_ring(top + log_sum, torch.logaddexp)
    inside = ring.flip(1).logcumsumexp(1).flip(1)
    outside = torch.nn.functional.pad(ring.logcumsumexp(1)[:, :-1], (1, 0), value=-torch.inf)
    nll = torch.where(weight != 0, softplus(outside - inside), 0.0)
    loss, total_soft = (weight * nll).sum(1), 0.0
    if soft is not None:
        sizes, high = _ring_sizes(lower, upper), top.amax(1, keepdim=True)
        total_soft = (soft * sizes).sum(1, keepdim=True)
        distances = _ring_sums(high.to(ranked.dtype) - ranked, edges, lower.shape[1]) + sizes * (inside[:, :1] - high)
        loss += torch.where(soft != 0, soft * distances, 0.0).sum(1)
    missed = torch.where(weight != 0, (-weight * torch.expm1(-nll)).log() - inside, -torch.inf)  # log w_k (1 − q_k) / exp(in_k)
    slope = (top - inside[:, :1]).exp() * (total_soft + _after(weight)) - (top + missed.logcumsumexp(1)).exp()
    shift = torch.where(top == -torch.inf, 0, top).to(ranked.dtype)
    gradient = (ranked - _at_leaves(shift, edges, classes)).exp_().mul_(_at_leaves(slope.to(ranked.dtype), edges, classes))
    if soft is not None:
        gradient -= _at_leaves(soft.to(ranked.dtype), edges, classes)
    return loss, gradient


@_forward.register_kernel("cuda")
def _(logits, target, order, starts, stops, weight, soft):
    from hiercnn.ops._triton import ring_nll as triton

    return triton.forward(logits, target, order, starts, stops, weight, soft)


@_backward.register_kernel("cuda")
def _(grad, logits, target, order, starts, stops, soft, top, slope):
    from hiercnn.ops._triton import ring_nll as triton

    return triton.backward(grad, logits, target, order, starts, stops, soft, top, slope)


@_forward.register_fake
def _(logits, target, order, starts, stops, weight, soft):
    kind = accumulation_type(logits.dtype)
    sizes = [logits.shape, *[[len(logits), starts.shape[1]]] * 2]
    return logits.new_empty(len(logits), dtype=kind), *(logits.new_empty(size, dtype=kind) for size in sizes)


@_backward.register_fake
def _(grad, logits, target, order, starts, stops, soft, gradient, top, slope):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)  # else torch makes zeros [B, N] for what only the gradient needs
    logits, target, order, starts, stops, _, soft = inputs
    ctx.save_for_backward(logits, target, order, starts, stops, soft, *output[1:])


def _differentiate(ctx, grad, *_):
    if grad is None:  # nothing depends on the loss
        return (None,) * 7
    return torch.ops.hiercnn.ring_nll_backward(grad, *ctx.saved_tensors), *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_save)


# ---- the CPU's rings: in the order of ranks, each is one segment on the left of the next ring and one on its right -------------------


def _edges(lower: Tensor, upper: Tensor, classes: int) -> Tensor:
    """Edges of 2 L segments of each row of [B, C] [2 B L + 1]: rings 0, 1, … L − 1, … 1, 0, and an empty one."""
    rows = torch.arange(len(lower))[:, None] * classes
    inner = torch.cat([lower, upper.flip(1)], 1) + rows
    return torch.cat([inner.flatten(), torch.tensor([len(lower) * classes])])


def _by_ring(segments: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """From both sides of each ring [B, 2 L] to rings [B, L]."""
    left, right = segments.hsplit(2)
    return torch.cat([combine(left[:, :-1], right[:, :-1].flip(1)), left[:, -1:]], 1)


def _ring_sums(ranked: Tensor, edges: Tensor, rings: int) -> Tensor:
    """Sum over each of L rings [B, L] of values by leaf rank [B, C], float64."""
    return _by_ring(segment_sum(ranked.view(-1), edges).view(len(ranked), 2 * rings), torch.add)


def _after(weight: Tensor) -> Tensor:
    """Σ_{k > r} w_k for each ring r [B, L]."""
    return torch.nn.functional.pad(weight.flip(1).cumsum(1).flip(1)[:, 1:], (0, 1))


def _ring_sizes(lower: Tensor, upper: Tensor) -> Tensor:
    """Number of leaves in each ring [B, L]."""
    below = upper - lower
    return below - torch.nn.functional.pad(below[:, 1:], (0, 1))


def _at_leaves(rings: Tensor, edges: Tensor, classes: int) -> Tensor:
    """The value of its ring [B, L] at each leaf rank [B, C]."""
    segments = torch.cat([rings, rings[:, :-1].flip(1), rings[:, :1]], 1)
    return spread(segments.flatten(), edges).view(len(rings), classes)
