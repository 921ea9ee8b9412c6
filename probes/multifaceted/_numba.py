"""TV smoothing on a CPU, row by row, compiled by numba when it is first used.

Planes lie innermost, so that one vector instruction serves the same pixel of many planes while the
pixels keep their order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["denoise"]


def _kernel(function: Callable[..., Any]) -> Any:
    """Compiled when it is first called, and kept on disk where there is a place to write to."""
    options: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        return njit(nogil=True, **options)(function)


@_kernel
def denoise(planes: NDArray, weight: float, eps: float, max_iter: int) -> NDArray:
    """Split Bregman on planes [h, w, p]; each stops when its change is eps or less."""
    h, w, p = planes.shape
    real = planes.dtype.type
    one, lam = real(1), real(2 * weight)
    pull, norm = real(weight), real(weight + 8 * weight)
    u = np.zeros((h + 2, w + 2, p), planes.dtype)
    u[1:-1, 1:-1] = planes
    u[0, 1:-1], u[-1, 1:-1] = planes[1], planes[-1]
    u[1:-1, 0], u[1:-1, -1] = planes[:, 1], planes[:, -1]
    ex, ey = np.zeros_like(u), np.zeros_like(u)  # auxiliary less Bregman
    bx, by = np.zeros_like(planes), np.zeros_like(planes)
    out, change = planes.copy(), np.zeros(p, planes.dtype)
    running, left = np.ones(p, np.bool_), p
    for _ in range(max_iter):
        change[:] = 0
        for r in range(1, h + 1):
            for c in range(1, w + 1):
                for k in range(p):
                    old, down, right = u[r, c, k], u[r + 1, c, k], u[r, c + 1, k]
                    near = down + right + u[r - 1, c, k] + u[r, c - 1, k]
                    near += ex[r, c - 1, k] - ex[r, c, k] + ey[r - 1, c, k] - ey[r, c, k]
                    new = (lam * near + pull * planes[r - 1, c - 1, k]) / norm
                    u[r, c, k] = new
                    change[k] += (new - old) * (new - old)
                    tx = right - old + bx[r - 1, c - 1, k]
                    ty = down - old + by[r - 1, c - 1, k]
                    s = lam * np.sqrt(tx * tx + ty * ty)
                    rest = one / (s + one)  # the share that shrinkage leaves over
                    bx[r - 1, c - 1, k], by[r - 1, c - 1, k] = tx * rest, ty * rest
                    ex[r, c, k] = tx - (tx * rest + tx * rest)
                    ey[r, c, k] = ty - (ty * rest + ty * rest)
        for k in range(p):
            if running[k] and np.sqrt(change[k] / (h * w)) <= eps:
                out[:, :, k] = u[1:-1, 1:-1, k]
                running[k] = False
                left -= 1
        if left == 0:
            return out
    for k in range(p):
        if running[k]:
            out[:, :, k] = u[1:-1, 1:-1, k]
    return out
