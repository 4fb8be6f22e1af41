"""Geometry of kernels: h(x) = (k(x,x) - k_x'(K + ridge W^-1)^-1 k_x) / ridge, never the form that vanishes far away."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.utils import check_array

from hatband.arrays.kinds import on_host
from hatband.arrays.typing import Array
from hatband.checks import check_finite, check_ridge
from hatband.geometry.base import Exactness, Features, Geometry, Space
from hatband.geometry.convert import as_numbers, combined_weights, dense_inputs, input_columns
from hatband.linalg import KernelFactor, KernelSpectrum, factor_kernel

# Test rows whose kernel with all training rows is held at once.
BLOCK_ROWS = 1024
# The diagonal of a kernel without a formula for it is read off square blocks of this many rows.
_DIAGONAL_ROWS = 64


class Kernel(ABC):
    """A positive definite function of two rows, and what it has to know of a row."""

    @abstractmethod
    def rows(self, X: Any) -> Any:
        """Return what the kernel compares, one entry per row of X."""

    @abstractmethod
    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""

    @abstractmethod
    def diagonal(self, rows: Any) -> Array:
        """Return k(x, x), shape (m,)."""


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
        """Return X as a float64 array or CSR matrix; ValueError where it is not finite."""
        values = as_numbers(X)
        check_finite(values, "features")
        return values.astype(np.float64, copy=False)

    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""
        return pairwise_kernels(rows, others, metric=self.metric, filter_params=True, **self.parameters)

    def diagonal(self, rows: Any) -> Array:
        """Return k(x, x), shape (m,)."""
        return block_diagonal(self, rows)


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
        """Return X as a float64 array; ValueError where it is not finite."""
        values = check_array(X, dtype=np.float64, ensure_all_finite=False)
        check_finite(values, "features")
        return values

    def __call__(self, rows: Any, others: Any) -> Array:
        """Return k(x, z), shape (m, k)."""
        return np.asarray(self.function(rows, others))

    def diagonal(self, rows: Any) -> Array:
        """Return k(x, x), shape (m,)."""
        return block_diagonal(self, rows)


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

    def diagonal(self, rows: Any) -> Array:
        """Return k(x, x), shape (m,)."""
        return block_diagonal(self, rows)

    def noise(self, rows: Any) -> Array:
        """Return the white noise of each row: diag k(X) - diag k(X, X), 0 where the two differ by rounding."""
        signal = self.diagonal(rows)
        noise = self.kernel.diag(rows) - signal
        return np.where(noise > 16 * np.finfo(float).eps * signal, noise, 0.0)


def block_diagonal(kernel: Kernel, rows: Any) -> Array:
    """Return k(x, x) from the diagonals of small square blocks."""
    count = int(rows.shape[0])
    blocks = [rows[start : start + _DIAGONAL_ROWS] for start in range(0, count, _DIAGONAL_ROWS)]
    return np.concatenate([np.diagonal(kernel(block, block)) for block in blocks]) if blocks else np.zeros(0)


@dataclass(frozen=True, eq=False)
class KernelGeometry(Geometry):
    """h(x) = (k(x,x) - k_x'(K + ridge W^-1)^-1 k_x) / ridge: the posterior variance of a process in units of the ridge.

    Parameters
    ----------
    kernel : Kernel
        Compares rows.
    ridge : float
        Ridge in the sum convention: the noise variance of a Gaussian process.
    fit_intercept : bool
        Whether the model has an intercept, which is not penalised.
    exactness : {"exact", "given", "none"}
        What leave-one-out in closed form may claim.
    row_weights : array of shape (n,), or None
        Weights that the model gave its own training rows: ridge / noise of the row.

    Notes
    -----
    Costs n^3/3 once and n^2 for each row measured. The space keeps the n training rows, for a kernel has no smaller
    summary of them, and two n x n matrices of its factor: 16 n^2 bytes, 400 MB for 5,000 rows.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import KernelGeometry, PairwiseKernel
    >>> space = KernelGeometry(PairwiseKernel("rbf", {"gamma": 1.0}), ridge=0.5).fit(np.array([[0.0]]))
    >>> space.leverage(space.features(np.array([[1e3]])))  # far away: k(x, x) / ridge
    array([2.])
    """

    kernel: Kernel
    ridge: float
    fit_intercept: bool = False
    exactness: Exactness = "none"
    row_weights: Array | None = None

    def fit(self, X: Any, sample_weight: Array | None = None) -> "KernelSpace":
        """Factor the kernel of the training rows X and return the space."""
        rows = self.kernel.rows(X)
        n_samples = int(rows.shape[0])
        weights = combined_weights(self.row_weights, sample_weight, n_samples)
        ridge = float(check_ridge(self.ridge))
        factor = factored(self.kernel(rows, rows), ridge, weights, self.fit_intercept)
        return KernelSpace(
            kernel=self.kernel,
            rows=rows,
            factor=factor,
            ridge=ridge,
            n_samples=n_samples,
            exactness=self.exactness,
            input_columns=input_columns(X),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelSpace(Space):
    """A kernel between new rows and all training rows, which it keeps.

    Parameters
    ----------
    kernel : Kernel
        Compares rows.
    rows : array with n rows
        The training rows, as the kernel compares them.
    factor : KernelFactor
        Factor of K + ridge W^-1; it keeps two n x n matrices.
    ridge : float
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    exactness : {"exact", "given", "none"}
        What leave-one-out in closed form may claim.
    input_columns : array of int, or None
        Columns of CSR rows that a learned scale gets.
    """

    kernel: Kernel
    rows: Any
    factor: KernelFactor
    ridge: float
    n_samples: int
    exactness: Exactness
    input_columns: Array | None = None

    def features(self, X: Any) -> Features:
        """Return the rows as the kernel compares them."""
        return Features(model_inputs=X, values=self.kernel.rows(X))

    def inputs(self, features: Features) -> Array:
        """Return X as numbers."""
        return dense_inputs(as_numbers(on_host(features.model_inputs)), self.input_columns)

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, with the kernel of 1,024 rows at a time in memory."""
        posterior, sampling = np.empty(len(features)), np.empty(len(features))
        for part, rows in blocks(features.values):
            against = self.kernel(rows, self.rows), self.kernel.diagonal(rows)
            posterior[part], sampling[part] = map(on_host, self.factor.leverages(*against))
        return posterior, sampling

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return self.leverages(features)[0]

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,): far from the training rows it shrinks, to 0 without intercept."""
        result = np.empty(len(features))
        for part, rows in blocks(features.values):
            result[part] = on_host(self.factor.sampling_leverage(self.kernel(rows, self.rows)))
        return result

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k); None means the n training rows."""
        result = np.empty((len(features), self.n_samples if others is None else len(others)))
        for part, rows in blocks(features.values):
            against = self.kernel(rows, self.rows)
            if others is None:
                result[part] = on_host(self.factor.smoother(against))
                continue
            for place, columns in blocks(others.values):
                between = self.kernel(rows, columns)
                result[part, place] = on_host(
                    self.factor.cross_leverage(against, self.kernel(columns, self.rows), between)
                )
        return result

    def final_step(self, estimator: Any) -> Any:
        """Return the estimator: it predicts from X itself."""
        return estimator

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) of the training rows, shape (n,), from the factor: no further n x n array."""
        return on_host(self.factor.training_leverage())

    def training_weights(self, sample_weight: Array | None) -> Array | None:
        """Return the weights that the kernel was factored with."""
        frame = self.factor.frame
        return None if frame.root is None else on_host(frame.spread(frame.root**2))

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q) from the factor: n^2 for each output."""
        return y - on_host(self.factor.residuals(y))

    def reweighted(self, training: Features, weights: Array) -> "KernelSpace":
        """Return the space of the kernel K + ridge W^-1 of these rows; it shares all but rows and factor."""
        rows = training.values
        factor = factored(self.kernel(rows, rows), self.ridge, weights, self.factor.fit_intercept)
        return replace(self, rows=rows, factor=factor, n_samples=len(training))


def factored(kernel: Array, ridge: float, weights: Array | None, fit_intercept: bool) -> KernelFactor:
    """Factor by Cholesky, or by the spectrum where the ridge is lost in rounding."""
    try:
        return factor_kernel(kernel, ridge, weights, fit_intercept)
    except np.linalg.LinAlgError:
        return KernelSpectrum.of(kernel, weights, fit_intercept).at(ridge)


def blocks(rows: Any) -> Iterator[tuple[slice, Any]]:
    """Yield parts of the rows with their place."""
    count = int(rows.shape[0])
    for start in range(0, count, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, count))
        yield part, rows[part]
