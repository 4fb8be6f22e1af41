"""Cholesky of the Gram matrix, and the triangular factor of this and of the orthogonal solvers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, AnyBackend
from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg.base import Factor
from hatband.linalg.design import Design, centred_gram, design_of, determined_gram


@dataclass(frozen=True, eq=False, kw_only=True)
class TriangularFactor(Factor):
    """A = R'R, kept as the inverse of R: h(x) = |R^-T phi|^2 is one triangular multiplication.

    Parameters
    ----------
    inverse : array of shape (k, k)
        R^-1, upper triangular, in the coordinates of the frame.
    penalty : array of shape (k,)
        Ridge of each column of the frame.
    """

    inverse: Float[Array, "k k"]
    penalty: Float[Array, " k"]

    def logdet(self) -> float:
        """Return log det A; -inf when A is singular."""
        if self.rank < self.n_features:
            return -np.inf
        return float(-2 * np.log(abs(self.frame.backend.numpy(self.inverse.diagonal()))).sum())

    def _posterior(self, block: Array) -> Array:
        backend = self.frame.backend
        return backend.row_squares(backend.trmm(block, self.inverse))

    def _both(self, block: Array) -> tuple[Array, Array]:
        # Hoerl and Kennard 1970, eq. 4.2, minus and plus the ridge: s = h - |ridge^1/2 A^-1 phi|^2. It cancels when the
        # ridge dwarfs the Gram matrix.
        backend = self.frame.backend
        half = backend.trmm(block, self.inverse)
        posterior = backend.row_squares(half)
        coefficients = backend.trmm(half, self.inverse, transpose=True)
        if np.ndim(self.ridge) == 0:
            prior = float(self.ridge) * backend.row_squares(coefficients)
        else:
            coefficients *= self.penalty**0.5
            prior = backend.row_squares(coefficients)
        return posterior, (posterior - prior).clip(0.0)

    def _half(self, block: Array) -> Array:
        return self.frame.backend.trmm(block, self.inverse)

    def _solve(self, rhs: Array) -> Array:
        return self.inverse @ (self.inverse.T @ rhs)

    def _trace(self) -> float:
        return self.frame.width - float(self.penalty @ self.frame.backend.row_squares(self.inverse))


@dataclass(frozen=True, eq=False)
class Triangle:
    """R with A = R'R, its columns scaled by powers of two, so that scaling is exact.

    Parameters
    ----------
    upper : array of shape (k, k)
        R / scale.
    scale : array of shape (k,)
        Powers of two close to the roots of the diagonal of A.
    rcond : float
        Reciprocal condition number of the scaled A, or of the scaled R.
    """

    upper: Float[Array, "k k"]
    scale: Float[Array, " k"]
    rcond: float

    def inverse(self, backend: AnyBackend) -> Float[Array, "k k"]:
        """Return R^-1."""
        return backend.tri_inv(self.upper) / self.scale[:, None]


def power_of_two(backend: AnyBackend, values: Array) -> Array:
    """Round positive numbers to powers of two; zeros become 1."""
    values = backend.numpy(values)
    exponent = np.rint(np.log2(np.where(values > 0, values, 1.0)))
    return backend.asarray(np.exp2(exponent))


def cholesky_triangle(backend: AnyBackend, gram: Array, penalty: Array) -> Triangle | None:
    """Return the Cholesky factor of gram + diag(penalty), or None where that is not positive definite."""
    diagonal = gram.diagonal() + penalty
    scale = power_of_two(backend, diagonal**0.5)
    matrix = gram / scale[:, None]
    matrix /= scale
    backend.set_diagonal(matrix, diagonal / scale**2)
    norm = float(abs(matrix).sum(0).max()) if len(matrix) else 1.0
    upper = backend.cholesky(matrix)
    return None if upper is None else Triangle(upper, scale, backend.rcond_cholesky(upper, norm))


def triangular_factor(
    design: Design, inverse: Float[Array, "k k"], *, rcond: float, error_bound: float, solver: str, reason: str
) -> TriangularFactor:
    """Make a factor of R^-1."""
    return TriangularFactor(
        frame=design.frame,
        ridge=design.ridge,
        rank=design.frame.width,
        rcond=rcond,
        error_bound=error_bound,
        solver=solver,
        reason=reason,
        inverse=inverse,
        penalty=design.penalty,
    )


def factor_upper(triangle: Triangle, design: Design, reason: str) -> TriangularFactor:
    """Make a factor of the Cholesky factor of a Gram matrix."""
    rcond, inverse = triangle.rcond, triangle.inverse(design.backend)
    return triangular_factor(
        design, inverse, rcond=rcond, error_bound=gram_error(rcond), solver="Cholesky", reason=reason
    )


def gram_error(rcond: float) -> float:
    """Bound the relative error of a leverage from a Gram matrix: of the factor, and of the rows times its inverse."""
    return EPS / rcond + orthogonal_error(rcond**0.5) if rcond > 0 else np.inf


def orthogonal_error(rcond: float) -> float:
    """Bound the relative error of a leverage from a triangle that was made without a Gram matrix."""
    return 40 * EPS / rcond if rcond > 0 else np.inf


@dataclass(frozen=True)
class Cholesky:
    """Leverage from the Cholesky factor of the Gram matrix: A = R'R, h(x) = |R^-T phi|^2.

    The fastest solver. Its relative error grows with the SQUARE of the condition number of the features.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import Cholesky
    >>> X = np.arange(12.0).reshape(6, 2) ** 2
    >>> round(float(Cholesky().factor(X).leverage(X).sum()), 6)  # rank + intercept
    3.0
    """

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> TriangularFactor:
        """Factor A = Phi'W Phi + diag(ridge).

        Raises
        ------
        numpy.linalg.LinAlgError
            When A is not positive definite to working precision.

        Notes
        -----
        n d^2 + d^3/3 operations, O(d^2 + block d) memory.
        """
        design, gram = determined_gram(*centred_gram(design_of(features, ridge, weights, fit_intercept)))
        triangle = cholesky_triangle(design.backend, gram, design.penalty)
        if triangle is None:
            raise np.linalg.LinAlgError(singular(design))
        return factor_upper(triangle, design, "asked for")


def singular(design: Design) -> str:
    """Return the message for a matrix that a triangular solver cannot factor."""
    return (
        f"Phi'W Phi + ridge is not positive definite to working precision ({design.frame.n_samples} rows, "
        f"{design.frame.n_features} features, ridge {design.ridge}); use Auto() or Spectral(), or a larger ridge."
    )
