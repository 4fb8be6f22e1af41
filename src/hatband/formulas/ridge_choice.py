"""The choice of the ridge: the values of `ridge=` that all classes share.

`ridge=` is a number, several numbers (of which leave-one-out chooses), or a word:

    "loo"        the least squared leave-one-out residuals: Allen (1974)
    "gcv"        generalised cross-validation: Golub, Heath and Wahba (1979)
    "evidence"   the largest density of y under the Gaussian model: MacKay (1992), "Bayesian interpolation"
    "auto"       what the class says: one of these, or the default for its kind of features
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array, Float
from hatband.checks import check_ridge, check_rows_for_noise
from hatband.formulas.ridge_spectrum import RidgeSpectrum

Ridge: TypeAlias = float | str | Sequence[float]

CRITERIA = ("loo", "gcv", "evidence")
# Relative to the mean squared singular value: from "no penalty" to "predict the mean".
RELATIVE_RIDGES = np.logspace(-10, 6, 65)

# Reasons why a criterion cannot be computed.
NO_TARGETS = "there are no targets y to choose it by"
NO_ROWS = "leave-one-out needs the training rows, and running statistics keep none"

# ---------------------------------------------------------------- defaults, by kind of features

# Of standardised inputs, whose mean eigenvalue is n: the prior weighs as much as one row.
INPUTS_RIDGE = 1.0
_LAST_LAYER_SHARE = 1e-4
_WHOLE_NETWORK_SHARE = 1e-2


def last_layer_ridge(trace: float, n_features: int) -> float:
    """Return 1e-4 tr(Phi'W Phi) / d, the default for the features of a last layer; 0 where no feature varies.

    Small against the mean eigenvalue in any units: it keeps the digits of a Gram matrix whose features are nearly
    dependent, and moves no prediction that the rows determine.
    """
    return _LAST_LAYER_SHARE * trace / n_features


def whole_network_ridge(trace: float, n_samples: int, n_parameters: int) -> float:
    """Return 1e-2 tr(J'J) / min(n, p), the default for the gradients of a whole network; 1e-2 where none varies.

    A hundredth of the mean of the eigenvalues that can differ from 0: the middle of what evidence picks, from 8 rows
    per parameter to 40 parameters per row. The mean over all p eigenvalues falls as 1 / p when parameters are added to
    a network that has more of them than rows, while those of J J' stay where they are, and the widths with them.
    """
    return _WHOLE_NETWORK_SHARE * (trace / min(n_samples, n_parameters) or 1.0)


# ---------------------------------------------------------------- what `ridge=` asks for


def chosen_ridge(ridge: Any, *, auto: Callable[[], float], spectrum: "Callable[[], RidgeSpectrum] | str") -> float:
    """Return the ridge that `ridge=` asks for.

    Parameters
    ----------
    ridge : float, list of float, "loo", "gcv", "evidence" or "auto"
    auto : callable() -> float
        Returns the ridge for "auto".
    spectrum : callable() -> RidgeSpectrum, or str
        Spectrum from which a criterion is computed; or the reason why there is none.

    Raises
    ------
    ValueError
        If the ridge is negative or an unknown word, or if it cannot be chosen here: the message says why.
    """
    asked = checked_ridge(ridge)
    if isinstance(asked, float):
        return asked
    if isinstance(asked, str) and asked == "auto":
        return auto()
    if isinstance(spectrum, str):
        raise ValueError(f"ridge must be a number >= 0 or 'auto' here, because {spectrum}; got {ridge!r}.")
    return best_ridge(spectrum(), asked)


def checked_ridge(ridge: Any) -> str | float | Array:
    """Return the checked ridge: a word, one number, or an array of numbers."""
    if isinstance(ridge, str):
        if ridge not in ("auto", *CRITERIA):
            raise ValueError(
                f"ridge must be a number >= 0, several numbers, 'auto', 'loo', 'gcv' or 'evidence'; got {ridge!r}."
            )
        return ridge
    values = check_ridge(ridge)
    if np.ndim(values) > 1 or not np.size(values):
        raise ValueError(f"ridge must be one number or a list of at least one; got shape {np.shape(values)}.")
    return values


# ---------------------------------------------------------------- choice by y


def best_ridge(spectrum: RidgeSpectrum, ridge: str | Array) -> float:
    """Return the ridge with the smallest loss.

    Parameters
    ----------
    spectrum : RidgeSpectrum
    ridge : {"loo", "gcv", "evidence"} or array (L,)
        A criterion, or several numbers from which leave-one-out chooses. Outputs share the ridge; each has its own
        noise.

    Returns
    -------
    float
        By a criterion between 1e-10 and 1e6 times the mean squared singular value; at the upper end where y does not
        depend on the features.

    Raises
    ------
    ValueError
        If leave-one-out must choose and there are no rows.
    """
    criterion = ridge if isinstance(ridge, str) else "loo"
    if criterion == "loo" and spectrum.side is None:
        raise ValueError(
            f"ridge must be a number >= 0, 'auto', 'gcv' or 'evidence' here, because {NO_ROWS}; got {ridge!r}."
        )
    grid = candidates(spectrum, ridge)
    losses = _losses(spectrum, criterion, grid)
    best = int(np.argmin(losses))
    if not isinstance(ridge, str) or not np.isfinite(losses[best]):
        return float(grid[best])
    found = minimize_scalar(
        lambda log: float(_losses(spectrum, criterion, np.exp([log]))[0]),
        bounds=np.log(grid[[max(best - 1, 0), min(best + 1, len(grid) - 1)]]),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x) if found.fun < losses[best] else grid[best])


def candidates(spectrum: RidgeSpectrum, ridge: str | float | Array) -> Float[Array, " L"]:
    """Return the ridges to try first: the numbers, or for a word 1e-10 to 1e6 mean squared singular values."""
    if not isinstance(ridge, str):
        return np.atleast_1d(ridge)
    return RELATIVE_RIDGES * (float(spectrum.squares.mean()) if spectrum.squares.size else 1.0)


def relative_error(spectrum: RidgeSpectrum, ridges: Float[Array, " L"]) -> Float[Array, " L"]:
    """Return squared leave-one-out residuals over squared y, about its mean with an intercept; mean over outputs."""
    return _relative(spectrum, spectrum.press(ridges))


def _relative(spectrum: RidgeSpectrum, errors: Float[Array, "L q"]) -> Float[Array, " L"]:
    return (errors / np.where(spectrum.size > 0, spectrum.size, 1.0)).mean(axis=1)


def _losses(spectrum: RidgeSpectrum, criterion: str, ridges: Float[Array, " L"]) -> Float[Array, " L"]:
    """Return the loss that a criterion minimises, at each ridge."""
    if criterion == "loo":
        return relative_error(spectrum, ridges)
    if criterion == "gcv":
        return _relative(spectrum, np.array([spectrum.gcv(ridge) for ridge in ridges]))
    check_rows_for_noise(spectrum.freedom + 1)
    # Targets without any noise have infinite evidence at every ridge: with a floor, other outputs decide.
    floor = np.maximum(EPS**2 * spectrum.size, np.finfo(float).tiny) / spectrum.freedom
    return np.array([-spectrum.log_evidence(ridge, np.maximum(spectrum.noise(ridge), floor)) for ridge in ridges])
