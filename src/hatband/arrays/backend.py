"""The operations that the numerical layers need from an array library; no other module branches on an array type.

All matrices are float64. Blocks of rows and triangles of NumPy are C-ordered: their transposes are the Fortran arrays
that BLAS overwrites in place, where any other layout would be copied by SciPy in silence.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg import blas, lapack
from scipy.spatial.distance import cdist

from hatband.arrays.blas import trmm
from hatband.arrays.blocks import block_rows, empty_block, share
from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, warn_caller

EPS = float(np.finfo(np.float64).eps)


def is_sparse(rows: Any) -> bool:
    """Whether rows are a SciPy sparse matrix or array."""
    return bool(scipy.sparse.issparse(rows))


def as_rows(values: Any) -> Any:
    """Return a sparse matrix in CSR format, which can be read by rows; return everything else unchanged."""
    return values.tocsr() if is_sparse(values) else values


def torch() -> Any:
    """Return the package: looked up, not imported, because tensors exist only after the user imported it."""
    return sys.modules["torch"]


def is_tensor(rows: Any) -> bool:
    """Whether rows are a tensor."""
    return "torch" in sys.modules and isinstance(rows, torch().Tensor)


def has_float64(device: Any) -> bool:
    """Whether a device of torch computes in float64."""
    return device.type != "mps"


def exact_device(device: Any) -> Any:
    """Return a device of torch, or the CPU if the device has no float64."""
    return device if has_float64(device) else torch().device("cpu")


def on_host(values: Any) -> Any:
    """Return a tensor as a NumPy array, and everything else unchanged."""
    return values.detach().cpu().numpy() if is_tensor(values) else values


def tensor_like(values: Array, rows: Any) -> Array:
    """Return a tensor where the tensor `rows` is, in float64 where its device has that."""
    return values.to(rows.device) if has_float64(rows.device) else values.float().to(rows.device)


class Backend(Protocol):
    """The operations that the numerical layers need from an array library."""

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
        """Return an uninitialised block of rows, to be reused."""
        return empty_block(rows, width)

    def share(self, work: Callable[[slice], None], count: int, n_features: int) -> None:
        """Call work(part) for parts that cover range(count), in parallel."""
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
        """Whether BLAS can read the rows without a copy."""
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
        """Return the exponential of each value."""
        return np.exp(values)

    def distances(self, rows: Array, others: Array, order: int) -> Array:
        """Return |x - z| of all pairs in the 1-norm or 2-norm, by differences."""
        return cdist(rows, others, "cityblock" if order == 1 else "euclidean")


if TYPE_CHECKING:
    AnyBackend: TypeAlias = Backend
else:
    # In tests every call would ask for every verb of the protocol.
    AnyBackend: TypeAlias = Any

# What makes the backend of a device; `hatband.arrays.torch_backend` puts its class here.
_of_device: list[Callable[[str], AnyBackend]] = []


def register_tensors(backend: Callable[[str], AnyBackend]) -> Callable[[str], AnyBackend]:
    """Make a class the backend of tensors, as a decorator."""
    _of_device[:] = [backend]
    return backend


def backend_of(rows: Any) -> AnyBackend:
    """Return the backend that factors these rows: torch on the device of a tensor, NumPy for everything else."""
    if not is_tensor(rows):
        return NumpyBackend()
    device = exact_device(rows.device)
    if device != rows.device:
        warn_caller(
            f"Leverage needs float64, which the device {rows.device} does not have: the factor is computed on the CPU.",
            LeverageWarning,
        )
    return _of_device[0](str(device))
