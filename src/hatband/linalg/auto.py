"""The solver that chooses another solver; the factor names the choice and the reason."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, is_sparse
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import LeverageWarning, warn_caller
from hatband.linalg.base import Factor
from hatband.linalg.cholesky import Triangle, cholesky_triangle, factor_upper, gram_error, singular
from hatband.linalg.design import Design, centred_gram, design_of, determined_gram
from hatband.linalg.dual import factor_dual
from hatband.linalg.qr import factor_triangle, factor_twice, scaled_triangle, stacked_triangle
from hatband.linalg.sparse import GRAM_COLUMNS
from hatband.linalg.spectral import factor_spectral


@dataclass(frozen=True)
class Auto:
    """Leverage h(x) = phi' A^-1 phi by the cheapest solver that is accurate enough; the factor names it and the reason.

    More features than rows and ridge > 0: Dual. Else Cholesky while its error stays below the tolerance, then
    CholeskyQR2, then QR. Spectral for features that are rank deficient, and for a ridge that dwarfs them.

    Parameters
    ----------
    tolerance : float, default=1e-8
        Largest relative error of a leverage that Cholesky (or Dual) may cause.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import Auto
    >>> X = np.vander(np.linspace(0, 1, 30), 4)
    >>> Auto().factor(X).solver, Auto().factor(np.hstack([X, X])).solver
    ('Cholesky', 'Spectral')
    """

    tolerance: float = 1e-8

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> Factor:
        """Factor A = Phi'W Phi + diag(ridge).

        Raises
        ------
        ValueError
            When the features are sparse, and too large for a Gram matrix of their columns and of their rows.
        numpy.linalg.LinAlgError
            When some features have no ridge and are linearly dependent, while others have one.

        Notes
        -----
        n d^2 + d^3/3 operations with Cholesky, three times that with CholeskyQR2, O(d^2 + block d) memory.
        """
        design = design_of(features, ridge, weights, fit_intercept)
        if design.rows < design.frame.n_features:
            wide = self._wide(design)
            if wide is not None:
                return wide
        return self._tall(design)

    def _wide(self, provisional: Design) -> Factor | None:
        rows, columns = provisional.frame.n_samples, provisional.frame.n_features
        wide = f"{rows} rows for {columns} features"
        if np.all(provisional.ridge):
            factor = factor_dual(provisional, wide)
            large = is_sparse(provisional.features) and columns > GRAM_COLUMNS
            if factor is not None and (large or factor.error_bound <= self.tolerance):
                self._warn(factor)
                return factor
            return factor_spectral(provisional, f"{wide}, and the ridge is too small for Dual")
        return None if np.any(provisional.ridge) else factor_spectral(provisional, f"{wide} at ridge 0")

    def _warn(self, factor: Factor) -> None:
        if factor.error_bound > self.tolerance:
            message = f"relative error of leverage up to {factor.error_bound:.1e}: {factor.reason}. Raise the ridge."
            warn_caller(message, LeverageWarning)

    def _tall(self, provisional: Design) -> Factor:
        design, gram = determined_gram(*centred_gram(provisional))
        if self._is_dwarfed(design, gram):
            return factor_spectral(provisional, "the ridge dwarfs the features: sampling leverage would cancel")
        triangle = cholesky_triangle(design.backend, gram, design.penalty)
        reason = f"{provisional.dropped(design)}{_conditioning(triangle)}"
        if triangle is not None and gram_error(triangle.rcond) <= self.tolerance:
            return factor_upper(triangle, design, reason)
        if triangle is not None and triangle.rcond >= 10 * EPS:
            factor = factor_twice(design, triangle, f"{reason}: too small for Cholesky")
            if factor is not None:
                return factor
        return self._orthogonal(provisional, design, reason)

    def _orthogonal(self, provisional: Design, design: Design, reason: str) -> Factor:
        triangle = scaled_triangle(design.backend, stacked_triangle(design))
        if triangle.rcond > max(design.frame.n_samples, design.frame.n_features) * EPS:
            reason = f"{reason}: too small for CholeskyQR2"
            return factor_triangle(triangle, design, reason)
        if np.any(design.ridge) and not np.all(design.ridge):
            raise np.linalg.LinAlgError(singular(design))
        return factor_spectral(provisional, "the features are rank deficient to working precision")

    def _is_dwarfed(self, design: Design, gram: Float[Array, "k k"]) -> bool:
        """Whether s = h - ridge |A^-1 phi|^2 would lose more than the tolerance."""
        if not len(gram) or not np.all(design.ridge):
            return False
        return EPS * float(design.penalty.max()) > self.tolerance * float(gram.diagonal().mean())


def _conditioning(triangle: Triangle | None) -> str:
    return "A is singular in the Gram matrix" if triangle is None else f"rcond(A) = {triangle.rcond:.1e}"
