"""Running statistics that do not keep their rows: mean and Gram matrix, merged by addition."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, backend_of
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import LeverageWarning, warn_caller
from hatband.linalg.cholesky import TriangularFactor, cholesky_triangle, factor_upper, singular
from hatband.linalg.design import determined_gram
from hatband.linalg.moments import RunningStatistics, centred_blocks, check_block, design_at

# A sum of squares may come out this much below zero, relative to what it was before a removal.
_ROUNDING = 1e-8


@dataclass(frozen=True, eq=False)
class GramStatistics(RunningStatistics):
    """Number, weight, mean and centred Gram matrix sum_i w_i (z_i - mean)(z_i - mean)' of rows z = (x, y).

    Immutable: every method returns new statistics. All arrays are float64 for rows of any type; with tensors they stay
    on the device of the first block.

    Parameters
    ----------
    centre : Centre
        Number, weight and mean of the rows (x, y).
    n_features : int
        How many of the columns are features; the rest are targets.
    joint : array of shape (p, p)
        Centred Gram matrix of features and targets together.

    Notes
    -----
    n p^2 operations for n rows, O(p^2 + block p) memory. A Gram matrix squares the condition number: `factor` warns
    when that costs more than its tolerance, and `TriangularStatistics` does not have the problem.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import GramStatistics
    >>> X = np.arange(8.0).reshape(4, 2) ** 2
    >>> GramStatistics.of(X[:1]).add(X[1:]).factor(ridge=1.0).n_samples
    4
    """

    joint: Float[Array, "p p"]

    @property
    def matrix(self) -> Float[Array, "p p"]:
        """The joint Gram matrix."""
        return self.joint

    @property
    def gram(self) -> Float[Array, "d d"]:
        """Centred Gram matrix of the features."""
        return self.joint[: self.n_features, : self.n_features]

    @property
    def cross(self) -> Float[Array, "d q"]:
        """Centred cross-products of features and targets."""
        return self.joint[: self.n_features, self.n_features :]

    @property
    def y_square(self) -> Float[Array, "q q"]:
        """Centred cross-products of the targets."""
        return self.joint[self.n_features :, self.n_features :]

    def add(self, X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> "GramStatistics":
        """Return the statistics of these rows and of one more block.

        Raises
        ------
        ValueError
            If the block has other columns, is not finite, or has negative weights. The statistics stay as they were.
        """
        check_block(X, y, self.n_features, self.n_targets)
        backend = backend_of(self.joint if self.n_samples else X)
        centre, joint = self._on(backend)
        for new, block in centred_blocks(backend, X, y, weights):
            backend.syrk_add(joint, block)
            centre, between = centre.merged(new)
            backend.syrk_add(joint, between[None] + 0.0)
        return GramStatistics(centre, self.n_features, backend.mirror(joint))

    def merge(self, other: "GramStatistics") -> "GramStatistics":
        """Return the statistics of the rows of both."""
        _, (mine, joint), (theirs, addition) = self._both_on(other)
        centre, between = mine.merged(theirs)
        return GramStatistics(centre, self.n_features, joint + addition + between[:, None] * between)

    def remove(self, X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> "GramStatistics":
        """Return the statistics without a block of rows that was added before.

        Raises
        ------
        ValueError
            If the block holds more rows or weight than there are, or a sum of squares would become negative.

        Notes
        -----
        This is a difference: the remaining Gram matrix has an absolute error of eps times the one before, its leverages
        a relative error of up to eps |A before| / (smallest eigenvalue of A after).
        """
        backend, block = self.backend, self._block(X, y, weights)
        centre, between = self.centre.removed(block.centre)
        if not centre.weight:
            return GramStatistics(centre, self.n_features, 0.0 * self.joint)
        joint = self.joint - backend.asarray(block.joint) - between[:, None] * between
        if bool((joint.diagonal() < -_ROUNDING * self.joint.diagonal()).any()):
            raise ValueError("a sum of squares would become negative: these rows were not part of the statistics.")
        backend.set_diagonal(joint, joint.diagonal().clip(0.0))
        return GramStatistics(centre, self.n_features, joint)

    def factor(self, ridge: Any = 0.0, fit_intercept: bool = True, tolerance: float = 1e-8) -> TriangularFactor:
        """Factor A = Phi'W Phi + diag(ridge) by Cholesky.

        Parameters
        ----------
        ridge : float or array of shape (d,)
            Ridge in the sum convention.
        fit_intercept : bool
            Whether there is an unpenalised intercept.
        tolerance : float
            Relative error of the leverage beyond which a warning states the bound.

        Raises
        ------
        ValueError
            If there are no rows, or the ridge is negative.
        numpy.linalg.LinAlgError
            If A is not positive definite to working precision.

        Warns
        -----
        LeverageWarning
            When the bound on the relative error exceeds the tolerance: the rows are not kept and cannot be read again.
        """
        design = design_at(self.centre, self.n_features, ridge, fit_intercept)
        gram, _ = self.products(fit_intercept)
        design, gram = determined_gram(design, gram)
        triangle = cholesky_triangle(design.backend, gram, design.penalty)
        if triangle is None or triangle.rcond <= EPS:
            raise np.linalg.LinAlgError(
                f"{singular(design)} Statistics keep no rows for these; use TriangularStatistics."
            )
        factor = factor_upper(triangle, design, "running Gram matrix")
        if factor.error_bound > tolerance:
            warn_caller(
                f"the Gram matrix has a reciprocal condition number of {factor.rcond:.1e}: leverages may be wrong by a "
                f"relative {factor.error_bound:.1e} (tolerance {tolerance:.1e}); use TriangularStatistics, or a larger "
                "ridge.",
                LeverageWarning,
            )
        return factor

    def products(self, fit_intercept: bool) -> tuple[Float[Array, "d d"], Float[Array, "d q"]]:
        """Return Gram matrix and cross-products with the targets, about the mean with an intercept, else about zero."""
        if fit_intercept:
            return self.gram, self.cross
        raw = self.joint + self.weight * self.centre.mean[:, None] * self.centre.mean
        return raw[: self.n_features, : self.n_features], raw[: self.n_features, self.n_features :]

    def root(self) -> Float[Array, "p p"]:
        """Return a matrix R with R'R the centred Gram matrix of features and targets, each column to its own scale."""
        unit = self.joint.diagonal() ** 0.5
        unit = unit + (unit == 0)
        values, vectors = self.backend.eigh(self.joint / unit / unit[:, None])
        return (values.clip(0.0) ** 0.5)[:, None] * vectors.T * unit

    def coefficients(
        self, ridge: Any = 0.0, fit_intercept: bool = True
    ) -> tuple[Float[Array, "d q"], Float[Array, " q"]]:
        """Return slopes A^-1 Phi'W y and intercepts of the ridge regression; warnings and errors as in `factor`."""
        slopes = self.factor(ridge, fit_intercept).solve(self.products(fit_intercept)[1] + 0.0)
        return slopes, self.y_mean - self.mean @ slopes if fit_intercept else 0.0 * self.y_mean
