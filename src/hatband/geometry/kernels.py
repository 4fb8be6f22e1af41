"""Kernels: of scikit-learn's models, of NumPy arrays and torch tensors, and of the leaves of trees."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import check_array

from hatband.arrays.backend import AnyBackend, NumpyBackend, backend_of
from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite, check_in
from hatband.geometry.base import as_numbers

# Test rows whose kernel with all training rows is held at once.
BLOCK_ROWS = 1024
# The diagonal of a kernel without a formula for it is read off square blocks of this many rows.
_DIAGONAL_ROWS = 64
# Up to this many nodes leaf indicators are multiplied as dense matrices.
_FEW_LEAVES = 4096


class Kernel(ABC):
    """A positive definite function of two rows, and the form of rows that it compares."""

    @abstractmethod
    def rows(self, X: Any) -> Any:
        """Return the rows of X in the form that the kernel compares."""

    @abstractmethod
    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""

    def diagonal(self, rows: Any) -> Array:
        """Return k(x, x), shape (m,): from the diagonals of small square blocks where there is no formula for it."""
        count = int(rows.shape[0])
        parts = [rows[start : start + _DIAGONAL_ROWS] for start in range(0, count, _DIAGONAL_ROWS)]
        return np.concatenate([np.diagonal(self(part, part)) for part in parts]) if parts else np.zeros(0)


@dataclass(frozen=True, eq=False)
class PairwiseKernel(Kernel):
    """A kernel of ``sklearn.metrics.pairwise_kernels``, or a callable that takes two rows.

    Parameters
    ----------
    metric : str or callable
        "rbf", "laplacian", "polynomial", "linear", "sigmoid", "cosine", "chi2", "additive_chi2", or a callable.
    parameters : mapping
        gamma, degree, coef0; those that the kernel does not take are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import PairwiseKernel
    >>> PairwiseKernel("rbf", {"gamma": 1.0})(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    metric: Any
    parameters: Mapping[str, Any]

    def rows(self, X: Any) -> Any:
        """Return X as a float64 array or CSR matrix; ValueError if it is not finite."""
        values = as_numbers(X)
        check_finite(values, "features")
        return values.astype(np.float64, copy=False)

    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""
        return pairwise_kernels(rows, others, metric=self.metric, filter_params=True, **self.parameters)


@dataclass(frozen=True, eq=False)
class MatrixKernel(Kernel):
    """A callable that takes two arrays of rows and returns their kernel matrix, as SVR takes it.

    Parameters
    ----------
    function : callable
        function(rows (m, d), others (k, d)) -> (m, k).
    """

    function: Callable[[Any, Any], Array]

    def rows(self, X: Any) -> Any:
        """Return X as a float64 array; ValueError if it is not finite."""
        values = check_array(X, dtype=np.float64, ensure_all_finite=False)
        check_finite(values, "features")
        return values

    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""
        return np.asarray(self.function(rows, others))


@dataclass(frozen=True, eq=False)
class ProcessKernel(Kernel):
    """A kernel of ``sklearn.gaussian_process`` without its white noise, which belongs to the ridge.

    Parameters
    ----------
    kernel : sklearn.gaussian_process.kernels.Kernel
        With its hyperparameters as fitted.
    """

    kernel: Any

    def rows(self, X: Any) -> Any:
        """Return X as GaussianProcessRegressor does: an array, numeric where the kernel needs vectors."""
        if not self.kernel.requires_vector_input:
            return check_array(X, dtype=None, ensure_2d=False)
        values = check_array(X, dtype=np.float64, ensure_all_finite=False)
        check_finite(values, "features")
        return values

    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k): with two arguments the kernel leaves its white noise out."""
        return self.kernel(rows, others)

    def noise(self, rows: Any) -> Array:
        """Return the white noise of each row: diag k(X) - diag k(X, X), 0 where the two differ by rounding."""
        signal = self.diagonal(rows)
        noise = self.kernel.diag(rows) - signal
        return np.where(noise > 16 * np.finfo(float).eps * signal, noise, 0.0)


class VectorKernel(Kernel):
    """A positive definite function of two vectors, on the device where they are."""

    def rows(self, X: Any) -> Array:
        """Return X as a float64 array or tensor (n, d); ValueError if it is not finite."""
        backend = backend_of(X)
        values = backend.asarray(as_numbers(X) if isinstance(backend, NumpyBackend) else X)
        if values.ndim != 2:
            raise ValueError(f"X must have shape (n, d); got {tuple(values.shape)}.")
        if not backend.isfinite(values):
            check_finite(backend.numpy(values), "features")
        return values

    def __call__(self, rows: Any, others: Any) -> Float[Array, "m k"]:
        """Return k(x, z), shape (m, k)."""
        backend = backend_of(rows)
        return self._between(backend, backend.asarray(rows), backend.asarray(others))

    def diagonal(self, rows: Any) -> Float[Array, " m"]:
        """Return k(x, x), shape (m,)."""
        backend = backend_of(rows)
        return self._own(backend, backend.asarray(rows))

    @abstractmethod
    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        """Return k(x, z) of float64 rows."""

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        """Return k(x, x) of float64 rows: 1 for a function of the distance."""
        return backend.ones(len(rows))


@dataclass(frozen=True)
class RBFKernel(VectorKernel):
    """k(x, z) = exp(-gamma |x - z|^2).

    Parameters
    ----------
    gamma : float
        Inverse squared length.

    Notes
    -----
    Distances from a matrix product about the mean of the rows: fast, and to 1e-16 gamma |x|^2 in the exponent.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import RBFKernel
    >>> RBFKernel(gamma=1.0)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    gamma: float = 1.0

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        centre = others.mean(0)
        left, right = rows - centre, others - centre
        squares = backend.row_squares(left)[:, None] + backend.row_squares(right) - 2 * (left @ right.T)
        return backend.exp(-self.gamma * squares.clip(0.0))


@dataclass(frozen=True)
class LaplacianKernel(VectorKernel):
    """k(x, z) = exp(-gamma sum_j |x_j - z_j|).

    Parameters
    ----------
    gamma : float
        Inverse length.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import LaplacianKernel
    >>> LaplacianKernel(gamma=1.0)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    gamma: float = 1.0

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return backend.exp(-self.gamma * backend.distances(rows, others, 1))


@dataclass(frozen=True)
class MaternKernel(VectorKernel):
    """k(x, z) = exp(-s), (1 + s) exp(-s) or (1 + s + s^2 / 3) exp(-s), s = sqrt(2 nu) |x - z| / length_scale.

    Parameters
    ----------
    length_scale : float
        Length.
    nu : {0.5, 1.5, 2.5}
        Smoothness.

    Notes
    -----
    Rasmussen and Williams (2006), eqs. 4.16 and 4.17.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import MaternKernel
    >>> MaternKernel(nu=1.5)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    length_scale: float = 1.0
    nu: float = 1.5

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        check_in(self.nu, (0.5, 1.5, 2.5), "nu")
        s = backend.distances(rows, others, 2) * ((2 * self.nu) ** 0.5 / self.length_scale)
        polynomial = {0.5: 1.0, 1.5: 1 + s, 2.5: 1 + s + s**2 / 3}[self.nu]
        return polynomial * backend.exp(-s)


@dataclass(frozen=True)
class PolynomialKernel(VectorKernel):
    """k(x, z) = (gamma x'z + coef0)^degree.

    Parameters
    ----------
    gamma, coef0 : float
        Slope and offset.
    degree : int
        Exponent.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import PolynomialKernel
    >>> PolynomialKernel(degree=2)(np.ones((1, 2)), np.ones((1, 2)))
    array([[9.]])
    """

    gamma: float = 1.0
    coef0: float = 1.0
    degree: int = 3

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return (self.gamma * (rows @ others.T) + self.coef0) ** self.degree

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        return (self.gamma * backend.row_squares(rows) + self.coef0) ** self.degree


@dataclass(frozen=True)
class LinearKernel(VectorKernel):
    """k(x, z) = x'z.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import LinearKernel
    >>> LinearKernel()(np.ones((1, 2)), np.ones((1, 2)))
    array([[2.]])
    """

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return rows @ others.T

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        return backend.row_squares(rows)


@dataclass(frozen=True, eq=False)
class LeafKernel(Kernel):
    """k(x, z) = share of the trees in which x and z fall into the same leaf.

    Parameters
    ----------
    trees : fitted estimator
        Its ``apply`` gives the leaf of each row in each tree.

    Notes
    -----
    A feature for each leaf would do the same and be 250,000 columns for a forest grown on 4,000 rows. A block of
    rows is one sparse product of leaf indicators: about m * k * trees / leaves additions.
    Scornet, "Random forests and kernel methods", IEEE Transactions on Information Theory 62, 2016 (KeRF).
    """

    trees: Any

    def rows(self, X: Any) -> Array:
        """Return the leaf of each row in each tree, shape (m, trees)."""
        return np.asarray(self.trees.apply(X)).reshape(np.shape(X)[0], -1).astype(np.int32)

    def __call__(self, rows: Array, others: Array) -> Array:
        """Return k(x, z), shape (m, k)."""
        width = 1 + int(max(rows.max(initial=0), others.max(initial=0)))
        indicators = _indicators(others, width)
        result = np.empty((len(rows), len(others)))
        for part, block in blocks(rows):
            result[part] = _together(_indicators(block, width), indicators)
        return np.divide(result, rows.shape[1], out=result)

    def diagonal(self, rows: Array) -> Array:
        """Return k(x, x) = 1, shape (m,)."""
        return np.ones(len(rows))


def _together(indicators: sparse.csr_array, others: sparse.csr_array) -> Array:
    """Count the leaves that rows share; for shallow trees (few leaves, many rows) dense matrices are faster."""
    if others.shape[1] <= _FEW_LEAVES:
        return indicators.toarray() @ others.toarray().T
    return (indicators @ others.T).toarray()


def _indicators(leaves: Array, width: int) -> sparse.csr_array:
    """Return a 0/1 matrix with a column for each node of each tree; float32 counts up to 2^24 exactly."""
    count, trees = leaves.shape
    columns = leaves + width * np.arange(trees, dtype=np.int64)
    start = np.arange(0, leaves.size + 1, trees)
    return sparse.csr_array((np.ones(leaves.size, np.float32), columns.ravel(), start), shape=(count, width * trees))


@dataclass(frozen=True, eq=False)
class BaggedTrees:
    """The trees of a BaggingRegressor, each with the columns that it was trained on.

    Parameters
    ----------
    members : sequence of (tree, array of int)
        Fitted trees and their columns.
    """

    members: Sequence[tuple[DecisionTreeRegressor, Array]]

    def apply(self, X: Any) -> Array:
        """Return the leaf of each row in each tree, shape (m, trees)."""
        values = as_numbers(X)
        return np.column_stack([tree.apply(values[:, columns]) for tree, columns in self.members])


def blocks(rows: Any) -> Iterator[tuple[slice, Any]]:
    """Yield blocks of rows with their positions."""
    count = int(rows.shape[0])
    for start in range(0, count, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, count))
        yield part, rows[part]
