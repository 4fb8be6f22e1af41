"""The dense primitives of the numerical layers, for NumPy/SciPy and for torch; nothing else branches on an array type.

All matrices are float64. Blocks of rows and triangles are C-ordered: their transposes are the Fortran arrays that BLAS
overwrites in place, where any other layout would be copied by SciPy in silence.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg import blas, lapack
from scipy.spatial.distance import cdist

from hatband._blas import trmm
from hatband._blocks import block_rows, device_rows, empty_block, share
from hatband._typing import Array
from hatband._validation import LeverageWarning

EPS = float(np.finfo(np.float64).eps)


def on_host(values: Any) -> Any:
    """Return a tensor as a NumPy array; everything else as it is."""
    return values.detach().cpu().numpy() if _is_tensor(values) else values


def as_rows(values: Any) -> Any:
    """Return a sparse matrix in CSR format, which can be read by rows; everything else as it is."""
    return values.tocsr() if is_sparse(values) else values


def is_sparse(rows: Any) -> bool:
    """Whether rows are a SciPy sparse matrix or array."""
    return bool(scipy.sparse.issparse(rows))


class Backend(Protocol):
    """What the numerical layers ask of an array library."""

    def block_rows(self, n_features: int) -> int: ...
    def empty(self, *shape: int) -> Array: ...
    def block(self, rows: int, width: int) -> Array: ...
    def share(self, work: Callable[[slice], None], count: int, n_features: int) -> None: ...
    def zeros(self, *shape: int) -> Array: ...
    def ones(self, *shape: int) -> Array: ...
    def asarray(self, values: Any) -> Array: ...
    def like(self, values: Array, rows: Any) -> Array: ...
    def numpy(self, values: Array) -> np.ndarray: ...
    def read(self, rows: Any, part: slice) -> Array: ...
    def subtract(self, rows: Array, shift: Array | None, out: Array) -> Array: ...
    def is_plain(self, rows: Any) -> bool: ...
    def syrk_add(self, gram: Array, block: Array) -> Array: ...
    def weighted_sum(self, block: Array, weights: Array) -> Array: ...
    def mirror(self, gram: Array) -> Array: ...
    def set_diagonal(self, matrix: Array, values: Array) -> None: ...
    def cholesky(self, matrix: Array) -> Array | None: ...
    def tri_inv(self, triangle: Array) -> Array: ...
    def trmm(self, block: Array, triangle: Array, transpose: bool = False) -> Array: ...
    def qr_add(self, triangle: Array, block: Array) -> Array: ...
    def svd(self, rows: Array) -> tuple[Array, Array, Array]: ...
    def eigh(self, matrix: Array) -> tuple[Array, Array]: ...
    def rcond_cholesky(self, triangle: Array, norm: float) -> float: ...
    def rcond_triangle(self, triangle: Array) -> float: ...
    def row_squares(self, block: Array) -> Array: ...
    def isfinite(self, values: Array) -> bool: ...
    def exp(self, values: Array) -> Array: ...
    def distances(self, rows: Array, others: Array, order: int) -> Array: ...


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
        return TorchBackend("cpu").like(_torch().as_tensor(values), rows) if _is_tensor(rows) else values

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


@dataclass(frozen=True)
class TorchBackend:
    """torch tensors on one device, in float64."""

    device: str

    def block_rows(self, n_features: int) -> int:
        """Return how many rows go into one block."""
        return block_rows(n_features) if self.device == "cpu" else device_rows(n_features)

    def empty(self, *shape: int) -> Array:
        """Return an uninitialised float64 tensor."""
        return _torch().empty(shape, dtype=_torch().float64, device=self.device)

    def block(self, rows: int, width: int) -> Array:
        """Return an uninitialised block of rows."""
        return self.empty(rows, width)

    def share(self, work: Callable[[slice], None], count: int, n_features: int) -> None:
        """Call work on the whole of range(count): torch shares out its own work."""
        work(slice(0, count))

    def zeros(self, *shape: int) -> Array:
        """Return a float64 tensor of zeros."""
        return _torch().zeros(shape, dtype=_torch().float64, device=self.device)

    def ones(self, *shape: int) -> Array:
        """Return a float64 tensor of ones."""
        return _torch().ones(shape, dtype=_torch().float64, device=self.device)

    def asarray(self, values: Any) -> Array:
        """Return values as a float64 tensor on the device of this backend."""
        values = values.detach().to(self.device) if _is_tensor(values) else np.asarray(values)
        return _torch().as_tensor(values, dtype=_torch().float64, device=self.device)

    def like(self, values: Array, rows: Any) -> Array:
        """Return values as the kind of array that the rows are."""
        if not _is_tensor(rows):
            return self.numpy(values)
        return values.to(rows.device) if _has_float64(rows.device) else values.float().to(rows.device)

    def numpy(self, values: Array) -> np.ndarray:
        """Return values as a NumPy array."""
        return np.asarray(on_host(values))

    def read(self, rows: Any, part: slice) -> Array:
        """Return some rows, dense, on the device of this backend; float32 stays, to be widened where it is used."""
        if _is_tensor(rows) and rows.dtype == _torch().float32:
            return rows[part].detach().to(self.device)
        return self.asarray(rows[part].toarray() if is_sparse(rows) else rows[part])

    def subtract(self, rows: Array, shift: Array | None, out: Array) -> Array:
        """Write rows - shift into `out`."""
        return out.copy_(rows) if shift is None else _torch().sub(rows, shift, out=out)

    def is_plain(self, rows: Any) -> bool:
        """Whether the rows can be multiplied as they are."""
        of_ours = _is_tensor(rows) and rows.dtype == _torch().float64 and str(rows.device) == self.device
        return of_ours and not rows.requires_grad

    def syrk_add(self, gram: Array, block: Array) -> Array:
        """Add block'block to gram, in place."""
        return gram.addmm_(block.T, block)

    def weighted_sum(self, block: Array, weights: Array) -> Array:
        """Return block' weights."""
        return block.T @ weights

    def mirror(self, gram: Array) -> Array:
        """Return gram, which torch fills whole."""
        return gram

    def set_diagonal(self, matrix: Array, values: Array) -> None:
        """Write the diagonal, in place."""
        matrix.diagonal().copy_(values)

    def cholesky(self, matrix: Array) -> Array | None:
        """Return upper R with R'R = matrix, or None where the matrix is not positive definite."""
        upper, failure = _torch().linalg.cholesky_ex(matrix, upper=True)
        return None if int(failure) else upper

    def tri_inv(self, triangle: Array) -> Array:
        """Return the inverse of an upper triangle."""
        identity = _torch().eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
        return _torch().linalg.solve_triangular(triangle, identity, upper=True)

    def trmm(self, block: Array, triangle: Array, transpose: bool = False) -> Array:
        """Return block @ triangle (or its transpose)."""
        return block @ (triangle.T if transpose else triangle)

    def qr_add(self, triangle: Array, block: Array) -> Array:
        """Return the upper triangle of the QR factorisation of [triangle; block]."""
        return _torch().linalg.qr(_torch().cat([triangle, block]), mode="r")[1]

    def svd(self, rows: Array) -> tuple[Array, Array, Array]:
        """Return the thin singular value decomposition U, s, V'."""
        return tuple(_torch().linalg.svd(rows, full_matrices=False))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
        return tuple(_torch().linalg.eigh(matrix))

    def rcond_cholesky(self, triangle: Array, norm: float) -> float:
        """Estimate the reciprocal condition number of R'R, whose 1-norm is `norm`, without leaving the device."""
        if self.device == "cpu" or not len(triangle):
            return NumpyBackend().rcond_cholesky(self.numpy(triangle), norm)
        inverse = self.tri_inv(triangle)
        return _reciprocal(norm * self._norm_of_square(inverse))

    def rcond_triangle(self, triangle: Array) -> float:
        """Estimate the reciprocal condition number of an upper triangle, without leaving the device."""
        if self.device == "cpu" or not len(triangle):
            return NumpyBackend().rcond_triangle(self.numpy(triangle))
        norms = [abs(matrix.triu()).sum(0).max() for matrix in (triangle, self.tri_inv(triangle))]
        return _reciprocal(float(norms[0] * norms[1]))

    def _norm_of_square(self, inverse: Array) -> float:
        """Estimate |B|_1 of B = U U' from below by products with B. Higham 2002, algorithm 15.1 and eq. 15.8."""
        size = len(inverse)
        steps = _torch().linspace(1, 2, size, dtype=inverse.dtype, device=inverse.device)
        steps[1::2] *= -1
        largest = 2 / (3 * size) * float(abs(inverse @ (inverse.T @ steps)).sum())
        x = _torch().full_like(steps, 1 / size)
        for _ in range(5):
            y = inverse @ (inverse.T @ x)
            largest = max(largest, float(abs(y).sum()))
            z = inverse @ (inverse.T @ y.sign())
            place = int(abs(z).argmax())
            if not float(abs(z[place])) > float(z @ x):
                break
            x = _torch().zeros_like(x)
            x[place] = 1.0
        return largest

    def row_squares(self, block: Array) -> Array:
        """Return the squared norm of each row, in one pass over the memory."""
        return _torch().linalg.vector_norm(block, dim=1) ** 2

    def isfinite(self, values: Array) -> bool:
        """Whether all values are finite."""
        return bool(_torch().isfinite(values).all())

    def exp(self, values: Array) -> Array:
        """Return e to the power of each value."""
        return values.exp()

    def distances(self, rows: Array, others: Array, order: int) -> Array:
        """Return |x - z| of all pairs in the 1-norm or 2-norm, by differences."""
        # The default takes a product from 25 rows on, and loses half the digits of small distances.
        return _torch().cdist(rows, others, p=float(order), compute_mode="donot_use_mm_for_euclid_dist")


def _reciprocal(condition: float) -> float:
    """Return 1 / condition; 0 where that is infinite or no number."""
    return 1 / condition if 0 < condition < np.inf else 0.0


AnyBackend: TypeAlias = NumpyBackend | TorchBackend


def backend_of(rows: Any) -> AnyBackend:
    """Return the backend that factors these rows: torch on the device of a tensor, NumPy for everything else."""
    if not _is_tensor(rows):
        return NumpyBackend()
    if _has_float64(rows.device):
        return TorchBackend(str(rows.device))
    warnings.warn(
        f"Leverage needs float64, which the device {rows.device} does not have: the factor is computed on the CPU.",
        LeverageWarning,
        stacklevel=2,
    )
    return TorchBackend("cpu")


def exact_device(device: Any) -> Any:
    """Return a device of torch, or the CPU in its place where it has no float64."""
    return device if _has_float64(device) else _torch().device("cpu")


def _torch() -> Any:
    # Looked up, not imported: a tensor cannot exist before its user has imported torch.
    return sys.modules["torch"]


def _is_tensor(rows: Any) -> bool:
    return "torch" in sys.modules and isinstance(rows, _torch().Tensor)


def _has_float64(device: Any) -> bool:
    return device.type != "mps"
