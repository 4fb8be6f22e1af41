"""Running statistics that keep a triangle R with R'R = Gram matrix, which never squares the condition number."""

from dataclasses import dataclass
from typing import Any

from hatband.arrays.backend import EPS, AnyBackend, backend_of
from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg.base import Factor
from hatband.linalg.cholesky import TriangularFactor, power_of_two
from hatband.linalg.design import Design, determined
from hatband.linalg.moments import RunningStatistics, centred_blocks, check_block, design_at
from hatband.linalg.qr import factor_triangle, scaled_triangle
from hatband.linalg.spectral import factor_compressed


@dataclass(frozen=True, eq=False)
class TriangularStatistics(RunningStatistics):
    """Number, weight, mean and the triangle R of the centred rows z = (x, y): R'R = sum_i w_i (z_i - m)(z_i - m)'.

    Immutable: every verb returns new statistics. Leverages are as accurate as from QR of all rows at once.

    Parameters
    ----------
    centre : Centre
        Number, weight and mean of the rows (x, y).
    n_features : int
        How many of the columns are features; the rest are targets.
    triangle : array of shape (p, p)
        R, upper triangular, of features and targets together.

    Notes
    -----
    2 n p^2 operations for n rows, O(p^2 + block p) memory. Merging is QR of one triangle on the other (TSQR; Demmel et
    al. 2012) and of the row that Chan's formula adds for the means.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import TriangularStatistics
    >>> X = np.vander(np.linspace(0, 1, 30), 9)[:, :-1]
    >>> factor = TriangularStatistics.of(X[:9]).add(X[9:]).factor()
    >>> round(float(factor.leverage(X).sum()), 6)
    9.0
    """

    triangle: Float[Array, "p p"]

    @property
    def matrix(self) -> Float[Array, "p p"]:
        """The triangle."""
        return self.triangle

    def add(self, X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> "TriangularStatistics":
        """Return the statistics of these rows and of one more block; errors as in `GramStatistics.add`."""
        check_block(X, y, self.n_features, self.n_targets)
        backend = backend_of(self.triangle if self.n_samples else X)
        centre, triangle = self._on(backend)
        for new, block in centred_blocks(backend, X, y, weights):
            triangle = backend.qr_add(triangle, block)
            centre, between = centre.merged(new)
            triangle = backend.qr_add(triangle, between[None] + 0.0)
        return TriangularStatistics(centre, self.n_features, triangle)

    def merge(self, other: "TriangularStatistics") -> "TriangularStatistics":
        """Return the statistics of the rows of both."""
        backend, (mine, triangle), (theirs, addition) = self._both_on(other)
        centre, between = mine.merged(theirs)
        triangle = backend.qr_add(backend.qr_add(triangle, addition), between[None] + 0.0)
        return TriangularStatistics(centre, self.n_features, triangle)

    def remove(self, X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> "TriangularStatistics":
        """Return the statistics without a block of rows that was added before.

        Raises
        ------
        ValueError
            If the block holds more rows or weight than there are, or the Gram matrix would become indefinite.

        Notes
        -----
        R'R - B'B = R'(I - S'S)R with S = B R^-1, taken apart by singular values t of S: what is left of a direction is
        (1 - t^2)^1/2 of it, with a relative error of up to eps cond(R) / (1 - t^2), columns scaled to the same length.
        That is the error which hyperbolic rotations have too: no downdate recovers a direction that the removed rows
        held almost alone (t^2 is their leverage). Directions with 1 - t^2 below rounding are taken to be gone.
        """
        backend, block = self.backend, self._block(X, y, weights)
        centre, between = self.centre.removed(block.centre)
        if not centre.weight:
            return TriangularStatistics(centre, self.n_features, 0.0 * self.triangle)
        rows = backend.qr_add(backend.asarray(block.triangle) + 0.0, between[None] + 0.0)
        return TriangularStatistics(centre, self.n_features, downdate(backend, self.triangle, rows))

    def factor(self, ridge: Any = 0.0, fit_intercept: bool = True) -> Factor:
        """Factor A = Phi'W Phi + diag(ridge) without forming it: QR of [R; ridge^1/2 I], singular values if singular.

        Raises
        ------
        ValueError
            If there are no rows, or the ridge is negative.
        """
        return _factor(*self._stacked(ridge, fit_intercept))

    def root(self) -> Float[Array, "p p"]:
        """Return the triangle: R with R'R the centred Gram matrix of features and targets."""
        return self.triangle

    def coefficients(
        self, ridge: Any = 0.0, fit_intercept: bool = True
    ) -> tuple[Float[Array, "d q"], Float[Array, " q"]]:
        """Return slopes and intercepts of the ridge regression from R b = Q'y, without normal equations.

        Where the features are rank deficient at ridge 0, the slopes of least norm (columns scaled to the same length).
        """
        design, columns, stacked = self._stacked(ridge, fit_intercept)
        factor, width = _factor(design, columns, stacked), design.frame.width
        slopes = design.backend.zeros(self.n_features, self.n_targets)
        if isinstance(factor, TriangularFactor):
            slopes[design.frame.kept] = factor.inverse @ stacked[:width, width:]
        else:
            slopes[design.frame.kept] = stacked[:width, :width].T @ stacked[:width, width:]
            slopes = design.backend.asarray(factor.solve(slopes))
        return slopes, self.y_mean - self.mean @ slopes if fit_intercept else 0.0 * self.y_mean

    def _stacked(self, ridge: Any, fit_intercept: bool) -> tuple[Design, Array, Array]:
        """The design, the triangle without constant columns, and R of that stacked on ridge^1/2 I."""
        design = design_at(self.centre, self.n_features, ridge, fit_intercept)
        backend, triangle = design.backend, self.triangle + 0.0
        if not fit_intercept:
            triangle = backend.qr_add(triangle, self.weight**0.5 * self.centre.mean[None])
        features = triangle[:, : self.n_features]
        design = determined(design, (features**2).sum(0) / self.weight)
        width, size = design.frame.width, design.frame.width + self.n_targets
        columns = backend.zeros(len(triangle), size)
        columns[:, :width] = features[:, design.frame.kept]
        columns[:, width:] = triangle[:, self.n_features :]
        diagonal, start = backend.zeros(size), backend.zeros(size, size)
        diagonal[:width] = design.penalty**0.5
        backend.set_diagonal(start, diagonal)
        return design, columns, backend.qr_add(start, columns + 0.0)


def _factor(design: Design, columns: Array, stacked: Array) -> Factor:
    """Factor from the stacked triangle, or by singular values of the columns where that is singular."""
    frame, width = design.frame, design.frame.width
    scaled = scaled_triangle(design.backend, stacked[:width, :width] + 0.0)
    if scaled.rcond > max(frame.n_samples, width) * EPS:
        return factor_triangle(scaled, design, "running triangle")
    reason = "running triangle, rank deficient to working precision"
    return factor_compressed(design, columns[:, :width] + 0.0, reason)


def downdate(backend: AnyBackend, triangle: Float[Array, "p p"], rows: Float[Array, "b p"]) -> Float[Array, "p p"]:
    """Return R with R'R = triangle'triangle - rows'rows, b >= p; ValueError where that is indefinite."""
    unit = power_of_two(backend, backend.row_squares(triangle.T + 0.0) ** 0.5)
    _, values, vectors = backend.svd(triangle / unit)
    # At least one direction, even of length 0, keeps the rest free of special cases.
    rank = max(1, int((values > len(triangle) * EPS * values[0]).sum()))
    values, vectors = values[:rank] + (values[0] == 0), vectors[:rank]
    scaled = rows / unit
    held = scaled @ vectors.T
    rounding = 100 * len(triangle) * EPS * float(values[0] / values[-1])
    _, shares, directions = backend.svd(held / values)
    outside = float(abs(scaled - held @ vectors).max()) / float(abs(scaled).max() or 1.0)
    if float(shares.max()) ** 2 > 1 + rounding or outside > rounding:
        raise ValueError("the Gram matrix would become indefinite: these rows were not part of the statistics.")
    left = 1 - shares**2
    left = left * (left > rounding)
    remainder = (left**0.5)[:, None] * (directions * values) @ vectors * unit
    return backend.qr_add(backend.zeros(*triangle.shape), remainder + 0.0)
