"""Orthogonal factorisations of [W^1/2 Phi; ridge^1/2 I], block by block: Householder QR and CholeskyQR2."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, AnyBackend
from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg.cholesky import (
    Triangle,
    TriangularFactor,
    cholesky_triangle,
    orthogonal_error,
    power_of_two,
    singular,
    triangular_factor,
)
from hatband.linalg.design import Design, centred, centred_gram, design_of, determined, determined_gram


def stacked_triangle(design: Design) -> Float[Array, "k k"]:
    """Return R of [W^1/2 Phi; ridge^1/2 I] = QR, one block of rows after the other."""
    design.refuse_large_sparse()
    backend = design.backend
    upper = backend.zeros(design.frame.width, design.frame.width)
    backend.set_diagonal(upper, design.penalty**0.5)
    for block in design.blocks():
        upper = backend.qr_add(upper, block)
    return upper


def scaled_triangle(backend: AnyBackend, upper: Float[Array, "k k"]) -> Triangle:
    """Scale the columns of R to length one, up to powers of two."""
    scale = power_of_two(backend, backend.row_squares(upper.T) ** 0.5)
    scaled = upper / scale
    return Triangle(scaled, scale, backend.rcond_triangle(scaled))


def factor_triangle(triangle: Triangle, design: Design, reason: str) -> TriangularFactor:
    """Make a factor of R, whose relative error in the leverage grows with the condition number, not its square."""
    rcond, inverse = triangle.rcond, triangle.inverse(design.backend)
    return triangular_factor(
        design, inverse, rcond=rcond, error_bound=orthogonal_error(rcond), solver="QR", reason=reason
    )


@dataclass(frozen=True)
class QR:
    """Leverage from Householder QR: [W^1/2 Phi; ridge^1/2 I] = QR, h(x) = |R^-T phi|^2.

    Its relative error grows with the condition number of the features, not with its square.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import QR
    >>> X = np.vander(np.linspace(0, 1, 30), 9)[:, :-1]  # Cholesky loses every digit of this one
    >>> round(float(QR().factor(X).leverage(X).sum()), 6)
    9.0
    """

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> TriangularFactor:
        """Factor A = Phi'W Phi + diag(ridge) without forming it.

        Raises
        ------
        numpy.linalg.LinAlgError
            When the columns of [W^1/2 Phi; ridge^1/2 I] are linearly dependent to working precision.

        Notes
        -----
        2 n d^2 operations, O(d^2 + block d) memory.
        """
        design = determined(*centred(design_of(features, ridge, weights, fit_intercept)))
        triangle = scaled_triangle(design.backend, stacked_triangle(design))
        if triangle.rcond <= EPS:
            raise np.linalg.LinAlgError(singular(design))
        return factor_triangle(triangle, design, "asked for")


def factor_twice(design: Design, first: Triangle, reason: str) -> TriangularFactor | None:
    """Orthogonalise with the Cholesky factor, then factor what is left: X = R1^-1, R2'R2 = X'A X, R^-1 = X R2^-1.

    X is used as computed, so that its own rounding does not matter. Yamamoto et al. 2015, algorithm CholeskyQR2.
    """
    backend = design.backend
    inverse = first.inverse(backend)
    gram = backend.zeros(*inverse.shape)
    for block in design.blocks():
        backend.syrk_add(gram, backend.trmm(block, inverse))
    backend.syrk_add(gram, design.penalty[:, None] ** 0.5 * inverse)
    upper = backend.cholesky(backend.mirror(gram))
    if upper is None:
        return None
    inverse = backend.trmm(inverse, backend.tri_inv(upper))
    rcond = backend.rcond_triangle(inverse * first.scale[:, None])
    return triangular_factor(
        design, inverse, rcond=rcond, error_bound=orthogonal_error(rcond), solver="CholeskyQR2", reason=reason
    )


@dataclass(frozen=True)
class CholeskyQR2:
    """Leverage from Cholesky twice: Q1 = [W^1/2 Phi; ridge^1/2 I] R1^-1, R2'R2 = Q1'Q1, h(x) = |(R2 R1)^-T phi|^2.

    As accurate as QR up to a condition number of about 1e7, with matrix products only.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import CholeskyQR2
    >>> X = np.vander(np.linspace(0, 1, 30), 6)[:, :-1]
    >>> round(float(CholeskyQR2().factor(X).leverage(X).sum()), 6)
    6.0
    """

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> TriangularFactor:
        """Factor A = Phi'W Phi + diag(ridge), reading the features twice.

        Raises
        ------
        numpy.linalg.LinAlgError
            When A is too close to singular for the first Cholesky factor to help.

        Notes
        -----
        3 n d^2 operations, O(d^2 + block d) memory.
        """
        design, gram = determined_gram(*centred_gram(design_of(features, ridge, weights, fit_intercept)))
        first = cholesky_triangle(design.backend, gram, design.penalty)
        factor = None if first is None or first.rcond < 10 * EPS else factor_twice(design, first, "asked for")
        if factor is None:
            raise np.linalg.LinAlgError(singular(design))
        return factor
