"""The solver that chooses a solver, and says which and why."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband._typing import Array, Shaped
from hatband.linalg.base import Factor
from hatband.linalg.cholesky import factor_gram, singular
from hatband.linalg.design import centred_gram, design_of


@dataclass(frozen=True)
class Auto:
    """Leverage by the cheapest solver that is accurate enough: h(x) = phi' A^-1 phi.

    Parameters
    ----------
    tolerance : float
        Largest relative error that Cholesky may cause.
    """

    tolerance: float = 1e-8

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> Factor:
        """Factor A = Phi'W Phi + diag(ridge)."""
        design, gram = centred_gram(design_of(features, ridge, weights, fit_intercept))
        factor = factor_gram(gram, design.penalty, design.ridge, design.frame, "well conditioned")
        if factor is None:
            raise np.linalg.LinAlgError(singular(design))
        return factor
