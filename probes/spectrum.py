"""Eigenvectors of a symmetric matrix, by whichever of two libraries is the faster."""

import torch
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["eigen"]

LARGE = 512
"""Width from which LAPACK as SciPy ships it takes about half the time that it does in torch."""


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n], rising, and eigenvectors [n, n] in columns; the matrix may be overwritten.

    On a CPU it uses as many threads as torch does.
    """
    if matrix.device.type != "cpu" or len(matrix) < LARGE:
        return torch.linalg.eigh(matrix)
    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        # The transpose of a symmetric matrix is itself, in the order that LAPACK wants.
        values, vectors = eigh(matrix.numpy().T, overwrite_a=True, check_finite=False, driver="evd")
    return torch.from_numpy(values), torch.from_numpy(vectors)
