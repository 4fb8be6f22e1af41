"""Geometry of kernels: h(x) = (k(x,x) - k_x'(K + ridge W^-1)^-1 k_x) / ridge, not the form that is 0 far away."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hatband.arrays.backend import on_host
from hatband.arrays.typing import Array
from hatband.checks import check_ridge
from hatband.geometry.base import Exactness, Features, Geometry, Space, combined_weights, input_columns
from hatband.geometry.kernels import Kernel, blocks
from hatband.linalg import KernelFactor, KernelSpectrum, factor_kernel


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

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, with the kernel of 1,024 rows at a time in memory."""
        posterior, sampling = np.empty(len(features)), np.empty(len(features))
        for part, rows in blocks(features.values):
            against = self.kernel(rows, self.rows), self.kernel.diagonal(rows)
            posterior[part], sampling[part] = map(on_host, self.factor.leverages(*against))
        return posterior, sampling

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,): far from the training rows it decreases, to 0 without intercept."""
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
