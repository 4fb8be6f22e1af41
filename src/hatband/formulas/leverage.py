"""Leverage of rows of features, as functions of arrays.

Throughout: A = Phi'W Phi + ridge, h(x, z) = phi(x)' A^-1 phi(z), h(x) = h(x, x), w the training weights. Weights are
never part of a leverage: the hat matrix is h(x_i, x_j) w_j. With an unpenalised intercept 1 / sum(w) is part of every
h. For many calls keep the factor, `Auto().factor(...)`; for kernels `hatband.linalg.factor_kernel`.
"""

from typing import Any

from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg import Auto, Factor, Solver

__all__ = ["cross_leverage", "effective_dimension", "leverage", "sampling_leverage"]


def leverage(
    features: Shaped[Array, "n d"],
    rows: Shaped[Array, "m d"] | None = None,
    *,
    ridge: Any = 0.0,
    weights: Any = None,
    fit_intercept: bool = True,
    solver: Solver | None = None,
) -> Float[Array, " m"]:
    """Return the leverage h(x) = phi' (Phi'W Phi + ridge)^-1 phi of each row.

    Parameters
    ----------
    features : array, CSR matrix or tensor
        Training features.
    rows : array, CSR matrix or tensor, optional
        Rows to measure; the training rows when None.
    ridge : float or array of shape (d,)
        Ridge in the sum convention |y - Phi b|^2 + ridge |b|^2; 0 for least squares.
    weights : array, optional
        Sample weights.
    fit_intercept : bool
        Whether there is an unpenalised intercept.
    solver : Solver, optional
        ``Auto()`` when None.

    Returns
    -------
    array
        h(x) > 0, at most 1 / w for training rows; infinite outside the row space at ridge 0.

    Raises
    ------
    ValueError
        If features or rows are not finite, or ridge or weights are negative.

    Notes
    -----
    sigma^2 (1 + h(x)) is the variance of a new response less its prediction, exactly at ridge 0, and on average over
    the prior of a ridge regression. n d^2 operations for the factorisation and d^2 for each row. Hoaglin and Welsch
    (1978), *The hat matrix in regression and ANOVA*; with a ridge Alaoui and Mahoney (2015), *Fast randomized kernel
    ridge regression with statistical guarantees*.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import leverage
    >>> X = np.vander(np.linspace(-1, 1, 5), 3)[:, :2]
    >>> round(float(leverage(X).sum()), 6)  # two features and the intercept
    3.0
    """
    return _factor(features, ridge, weights, fit_intercept, solver).leverage(features if rows is None else rows)


def sampling_leverage(
    features: Shaped[Array, "n d"],
    rows: Shaped[Array, "m d"] | None = None,
    *,
    ridge: Any = 0.0,
    weights: Any = None,
    fit_intercept: bool = True,
    solver: Solver | None = None,
) -> Float[Array, " m"]:
    """Return the sampling leverage s(x) = phi' A^-1 Phi'W Phi A^-1 phi = sum_i w_i h(x, x_i)^2 <= h(x) of each row.

    Parameters
    ----------
    features, rows, ridge, weights, fit_intercept, solver
        As in `leverage`.

    Returns
    -------
    array
        sigma^2 s(x) is the variance of the prediction over new training responses (without weights).

    Raises
    ------
    ValueError
        As in `leverage`.

    Notes
    -----
    It equals the leverage at ridge 0 and tends to 0 off the row space at ridge > 0: there the prediction is stable, and
    biased. The variance is that of Hoerl and Kennard (1970), equation 4.2. Cost as of `leverage`.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import sampling_leverage
    >>> sampling_leverage(np.eye(2), ridge=1.0, fit_intercept=False)
    array([0.25, 0.25])
    """
    factor = _factor(features, ridge, weights, fit_intercept, solver)
    return factor.sampling_leverage(features if rows is None else rows)


def cross_leverage(
    features: Shaped[Array, "n d"],
    rows: Shaped[Array, "m d"],
    others: Shaped[Array, "k d"] | None = None,
    *,
    ridge: Any = 0.0,
    weights: Any = None,
    fit_intercept: bool = True,
    solver: Solver | None = None,
) -> Float[Array, "m k"]:
    """Return the cross-leverage h(x, z) = phi(x)' A^-1 phi(z) of two sets of rows.

    Parameters
    ----------
    features, rows, ridge, weights, fit_intercept, solver
        As in `leverage`.
    others : array, CSR matrix or tensor, optional
        The rows z; the training rows when None.

    Returns
    -------
    array
        For z = x_i, times w_i: how much the prediction at x moves when y_i moves by one.

    Raises
    ------
    ValueError
        As in `leverage`.

    Notes
    -----
    Of the training rows, times w_j, it is the hat matrix: Hoaglin and Welsch (1978). n d^2 operations for the
    factorisation, d^2 for each row and d for each pair.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import cross_leverage
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
    >>> (cross_leverage(X, np.array([[10.0]])) @ y).round(6)  # the prediction at 10 of 1 + 2 x
    array([21.])
    """
    factor = _factor(features, ridge, weights, fit_intercept, solver)
    return factor.cross_leverage(rows, features if others is None else others)


def effective_dimension(
    features: Shaped[Array, "n d"],
    *,
    ridge: Any = 0.0,
    weights: Any = None,
    fit_intercept: bool = True,
    solver: Solver | None = None,
) -> float:
    """Return the effective dimension sum_i w_i h(x_i) = tr((Phi'W Phi + ridge)^-1 Phi'W Phi), the intercept counted.

    Parameters
    ----------
    features, ridge, weights, fit_intercept, solver
        As in `leverage`.

    Returns
    -------
    float
        The rank at ridge 0, less at ridge > 0.

    Raises
    ------
    ValueError
        As in `leverage`.

    Notes
    -----
    The trace of the hat matrix: Hastie and Tibshirani (1990), *Generalized additive models*. n d^2 operations.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import effective_dimension
    >>> round(effective_dimension(np.eye(4), ridge=1.0, fit_intercept=False), 6)
    2.0
    """
    return _factor(features, ridge, weights, fit_intercept, solver).effective_dimension()


def _factor(features: Array, ridge: Any, weights: Any, fit_intercept: bool, solver: Solver | None) -> Factor:
    return (Auto() if solver is None else solver).factor(features, ridge, weights, fit_intercept)
