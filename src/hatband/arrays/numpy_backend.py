"""The dense primitives for NumPy arrays and CSR matrices.

Blocks of rows and triangles are C-ordered: their transposes are the Fortran arrays that BLAS overwrites in place, where
any other layout would be copied by SciPy in silence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg import blas, lapack
from scipy.spatial.distance import cdist

from hatband.arrays.blas import trmm
from hatband.arrays.blocks import block_rows, empty_block, share
from hatband.arrays.kinds import is_sparse, is_tensor, on_host, tensor_like, torch
from hatband.arrays.typing import Array


@dataclass(frozen=True)
class NumpyBackend:
    """NumPy arrays and CSR matrices through SciPy's BLAS and LAPACK."""

    def block_rows(self, n_features: int) -> int:
        """Return how many rows go into one block."""
        return block_rows(n_features)

    def empty(self, *shape: int) -> Array:
        """Return an uninitialised float64 array."""
        return np.empty(shape)

    def block(self, rows: int, width: int) -> Array:
        """Return an uninitialised block of rows, to be used again and again."""
        return empty_block(rows, width)

    def share(self, work: Callable[[slice], None], count: int, n_features: int) -> None:
        """Call work(part) for parts that cover range(count), side by side."""
        share(work, count, block_rows(n_features))

    def zeros(self, *shape: int) -> Array:
        """Return a float64 array of zeros."""
        return np.zeros(shape)

    def ones(self, *shape: int) -> Array:
        """Return a float64 array of ones."""
        return np.ones(shape)

    def asarray(self, values: Any) -> Array:
        """Return values as a float64 array, copied only where that is needed."""
        return np.asarray(on_host(values), dtype=np.float64)

    def like(self, values: Array, rows: Any) -> Array:
        """Return values as the kind of array that the rows are."""
        return tensor_like(torch().as_tensor(values), rows) if is_tensor(rows) else values

    def numpy(self, values: Array) -> np.ndarray:
        """Return values as a NumPy array."""
        return np.asarray(values)

    def read(self, rows: Any, part: slice) -> Array:
        """Return some rows, dense; a view where the rows are dense already."""
        return rows[part].toarray() if is_sparse(rows) else np.asarray(on_host(rows[part]))

    def subtract(self, rows: Array, shift: Array | None, out: Array) -> Array:
        """Write rows - shift in float64 into `out`."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.subtract(rows, 0.0 if shift is None else shift, out=out)

    def is_plain(self, rows: Any) -> bool:
        """Whether BLAS can read the rows as they are."""
        return isinstance(rows, np.ndarray) and rows.dtype == np.float64 and rows.flags.c_contiguous

    def syrk_add(self, gram: Array, block: Array) -> Array:
        """Add block'block to the upper triangle of gram, in place."""
        if gram.size:
            blas.dsyrk(1.0, block.T, beta=1.0, c=gram.T, lower=1, overwrite_c=1)
        return gram

    def weighted_sum(self, block: Array, weights: Array) -> Array:
        """Return block' weights."""
        # SciPy's BLAS again: NumPy's has threads of its own, and the two would wait for each other's.
        return blas.dgemv(1.0, block.T, weights) if block.size else self.zeros(block.shape[1])

    def mirror(self, gram: Array) -> Array:
        """Copy the upper triangle of gram onto the lower, in place."""
        for i in range(len(gram)):
            gram[i + 1 :, i] = gram[i, i + 1 :]
        return gram

    def set_diagonal(self, matrix: Array, values: Array) -> None:
        """Write the diagonal, in place."""
        np.fill_diagonal(matrix, values)

    def cholesky(self, matrix: Array) -> Array | None:
        """Return upper R with R'R = matrix, or None where the matrix is not positive definite."""
        if not len(matrix):
            return matrix
        lower, failure = lapack.dpotrf(matrix.T, lower=1, clean=1)
        return None if failure else lower.T

    def tri_inv(self, triangle: Array) -> Array:
        """Return the inverse of an upper triangle."""
        if not len(triangle):
            return triangle
        inverse, failure = lapack.dtrtri(triangle.T, lower=1)
        if failure:
            raise np.linalg.LinAlgError(f"a triangle has a zero at position {failure} of its diagonal")
        return inverse.T

    def trmm(self, block: Array, triangle: Array, transpose: bool = False) -> Array:
        """Return block @ triangle (or its transpose), written over the block."""
        return trmm(block, triangle, transpose)

    def qr_add(self, triangle: Array, block: Array) -> Array:
        """Return the upper triangle of the QR factorisation of [triangle; block], the triangle overwritten."""
        if not block.size:
            return triangle
        return lapack.dtpqrt(0, min(32, len(triangle)), triangle, block)[0]

    def svd(self, rows: Array) -> tuple[Array, Array, Array]:
        """Return the thin singular value decomposition U, s, V'."""
        return scipy.linalg.svd(rows, full_matrices=False, check_finite=False)

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
        return scipy.linalg.eigh(matrix, check_finite=False)

    def rcond_cholesky(self, triangle: Array, norm: float) -> float:
        """Estimate the reciprocal condition number of R'R, whose 1-norm is `norm`."""
        return float(lapack.dpocon(triangle.T, norm, uplo="L")[0]) if len(triangle) else 1.0

    def rcond_triangle(self, triangle: Array) -> float:
        """Estimate the reciprocal condition number of an upper triangle."""
        return float(lapack.dtrcon(triangle.T, norm="1", uplo="L")[0]) if len(triangle) else 1.0

    def row_squares(self, block: Array) -> Array:
        """Return the squared norm of each row."""
        # One dot product of BLAS a row: half the time of einsum.
        return np.matmul(block[:, None, :], block[:, :, None])[:, 0, 0]

    def isfinite(self, values: Array) -> bool:
        """Whether all values are finite."""
        return bool(np.isfinite(values).all())

    def exp(self, values: Array) -> Array:
        """Return e to the power of each value."""
        return np.exp(values)

    def distances(self, rows: Array, others: Array, order: int) -> Array:
        """Return |x - z| of all pairs in the 1-norm or 2-norm, by differences."""
        return cdist(rows, others, "cityblock" if order == 1 else "euclidean")
