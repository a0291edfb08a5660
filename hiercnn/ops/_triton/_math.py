"""Functions that Triton's language lacks, with the digits of small values."""

import triton
import triton.language as tl


@triton.jit
def log1p(x):
    """log(1 + x) for 0 ≤ x ≤ 1 (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def expm1(x):
    """exp(x) − 1 for x ≤ 0 (Kahan)."""
    u = tl.exp(x)
    v = tl.where(u == 0.0, 0.5, u)  # log(0) would be computed and thrown away
    return tl.where(u == 1.0, x, tl.where(u - 1.0 == -1.0, -1.0, (u - 1.0) * x / tl.where(u == 1.0, 1.0, tl.log(v))))


@triton.jit
def softplus(x):
    """log(1 + exp(x))."""
    return tl.where(x > 0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))
