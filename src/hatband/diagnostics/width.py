"""The two parts of a width: noise, which stays, and the error of the fit, which more rows reduce."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_intervals, check_leverages, check_row_values


@dataclass(frozen=True, eq=False)
class WidthDecomposition:
    """Widths with width^2 = noise^2 + epistemic^2, row by row.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics.width import WidthDecomposition
    >>> WidthDecomposition(np.array([4.0]), np.array([3.0]), np.array([0.36]))
    epistemic share of the variance: mean 0.360, largest 0.360, over 1 rows
    """

    noise: Array
    """(m,): the width if the fit had no error; infinite where the interval is."""
    epistemic: Array
    """(m,): the width if there were no noise."""
    epistemic_share: Array
    """(m,): share of the variance, c h / (1 + c h)."""

    def to_dict(self) -> dict[str, Array]:
        """Return the fields by name."""
        return {"noise": self.noise, "epistemic": self.epistemic, "epistemic_share": self.epistemic_share}

    def __repr__(self) -> str:
        share = self.epistemic_share
        return (
            f"epistemic share of the variance: mean {share.mean():.3f}, largest {share.max():.3f}, over {len(share)} "
            "rows"
        )


def width_decomposition(interval: Any, leverage: Any, *, strength: float = 1.0) -> WidthDecomposition:
    """Split widths into noise, width / (1 + c h)^1/2, and error of the fit, width (c h / (1 + c h))^1/2.

    Parameters
    ----------
    interval : array-like (m, 2)
        Intervals of one output at one level.
    leverage : array-like (m,)
        Their leverages; infinite ones are all error of the fit.
    strength : float >= 0
        c in the variance of a prediction error, sigma^2 (1 + c h): 1 for a model whose ridge is that of its noise,
        or what `StrengthScale` has estimated.

    Returns
    -------
    WidthDecomposition

    Raises
    ------
    ValueError
        If shapes differ, a leverage is negative or a number is NaN.

    Notes
    -----
    sigma^2 h(x) is the posterior variance of the fitted value and sigma^2 that of the noise (Bishop 2006, equation
    3.59). The split is that of the model, for every scale of the interval; bias is not in either part.

    Examples
    --------
    >>> from hatband.diagnostics import width_decomposition
    >>> parts = width_decomposition([[-5.0, 5.0]], [0.5625])
    >>> parts.noise, parts.epistemic, parts.epistemic_share
    (array([8.]), array([6.]), array([0.36]))
    """
    bounds = check_intervals(interval)
    h = check_row_values(check_leverages(leverage), len(bounds), "leverage")
    c = _check_strength(strength)
    error = c * h if c else np.zeros(len(h))
    noise_share = 1 / (1 + error)
    share = np.divide(error, 1 + error, out=np.ones_like(error), where=np.isfinite(error))
    infinite = np.isinf(bounds).any(axis=1)
    width = np.subtract(bounds[:, 1], bounds[:, 0], out=np.zeros(len(bounds)), where=~infinite)
    return WidthDecomposition(
        noise=np.where(infinite, np.inf, width * np.sqrt(noise_share)),
        epistemic=np.where(infinite & (share > 0), np.inf, width * np.sqrt(share)),
        epistemic_share=share,
    )


def _check_strength(strength: Any) -> float:
    """Return the factor of leverage in the variance 1 + strength h."""
    if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 <= float(strength) < float("inf"):
        raise ValueError(f"strength must be a finite number >= 0; got {strength!r}.")
    return float(strength)
