"""Leverage of rows of features and of kernels, as functions of arrays.

Throughout: A = Phi'W Phi + ridge, h(x, z) = phi(x)' A^-1 phi(z), h(x) = h(x, x), w the training weights. Weights are
never part of a leverage: the hat matrix is h(x_i, x_j) w_j. With an unpenalised intercept 1 / sum(w) is part of every
h. The leave-one-out formulas of `_leave_one_out` are part of this module's interface.
"""

from typing import Any

from hatband._leave_one_out import (
    interpolated,
    kernel_loo_residuals,
    loo_leverage,
    loo_leverage_at,
    loo_predictions,
    loo_residuals,
    loo_sampling_leverage,
)
from hatband._typing import Array, Float, Shaped
from hatband.linalg import Auto, Factor, Solver, factor_kernel

__all__ = [
    "cross_leverage",
    "effective_dimension",
    "interpolated",
    "kernel_cross_leverage",
    "kernel_effective_dimension",
    "kernel_leverage",
    "kernel_loo_residuals",
    "kernel_sampling_leverage",
    "leverage",
    "loo_leverage",
    "loo_leverage_at",
    "loo_predictions",
    "loo_residuals",
    "loo_sampling_leverage",
    "sampling_leverage",
]


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
    the prior of a ridge regression. n d^2 operations for the factorisation and d^2 for each row. For many calls keep
    the factor: ``Auto().factor(...)``. Hoaglin and Welsch (1978), *The hat matrix in regression and ANOVA*; with a
    ridge Alaoui and Mahoney (2015), *Fast randomized kernel ridge regression with statistical guarantees*.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import leverage
    >>> X = np.vander(np.linspace(-1, 1, 5), 3)[:, :2]
    >>> round(float(leverage(X).sum()), 6)  # two features and the intercept
    3.0
    """
    return _factor(features, ridge, weights, fit_intercept, solver).leverage(features if rows is None else rows)


def _factor(features: Array, ridge: Any, weights: Any, fit_intercept: bool, solver: Solver | None) -> Factor:
    return (Auto() if solver is None else solver).factor(features, ridge, weights, fit_intercept)


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


def kernel_leverage(
    kernel: Shaped[Array, "n n"],
    kernel_rows: Shaped[Array, "m n"] | None = None,
    diagonal: Shaped[Array, " m"] | None = None,
    *,
    ridge: float,
    weights: Any = None,
    fit_intercept: bool = False,
) -> Float[Array, " m"]:
    """Return the kernel leverage h(x) = (k(x, x) - k_x' (K + ridge W^-1)^-1 k_x) / ridge of each row.

    Parameters
    ----------
    kernel : array or tensor
        Kernel matrix of the training rows.
    kernel_rows : array or tensor, optional
        Kernels k(x, x_i) of the rows to measure with the training rows; the training rows themselves when None.
    diagonal : array or tensor
        k(x, x) of the rows to measure; needed with `kernel_rows`.
    ridge : float
        Ridge in the sum convention, > 0.
    weights : array, optional
        Sample weights.
    fit_intercept : bool
        Whether there is an unpenalised intercept (KernelRidge and Gaussian processes have none).

    Returns
    -------
    array
        Between |a|^2 and k(x, x) / ridge, without an intercept; k(x, x) / ridge far from the data.

    Raises
    ------
    ValueError
        If the ridge is not positive, or `kernel_rows` comes without `diagonal`.

    Notes
    -----
    2 n^3 / 3 operations, then 2 n^2 for each row. For many calls keep the factor: ``factor_kernel``. Times the ridge it
    is the posterior variance of a Gaussian process: Rasmussen and Williams (2006), equation 2.26.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband._leverage import kernel_leverage
    >>> kernel_leverage(np.eye(2), ridge=1.0)
    array([0.5, 0.5])
    """
    factor = factor_kernel(kernel, ridge, weights, fit_intercept)
    if kernel_rows is None:
        return factor.training_leverage()
    if diagonal is None:
        raise ValueError("kernel_rows need `diagonal`, k(x, x) of the same rows; got None.")
    return factor.leverage(kernel_rows, diagonal)


def kernel_sampling_leverage(
    kernel: Shaped[Array, "n n"],
    kernel_rows: Shaped[Array, "m n"] | None = None,
    *,
    ridge: float,
    weights: Any = None,
    fit_intercept: bool = False,
) -> Float[Array, " m"]:
    """Return the kernel sampling leverage s(x) = sum_i w_i h(x, x_i)^2 of each row.

    Parameters
    ----------
    kernel, kernel_rows, ridge, weights, fit_intercept
        As in `kernel_leverage`; no diagonal is needed.

    Returns
    -------
    array
        At most the leverage; 0 far from the data, without an intercept.

    Raises
    ------
    ValueError
        If the ridge is not positive.

    Notes
    -----
    The squared length of the smoother's row, as `sampling_leverage` is. n^3 / 3 operations, then n^2 for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband._leverage import kernel_sampling_leverage
    >>> kernel_sampling_leverage(np.eye(2), ridge=1.0)
    array([0.25, 0.25])
    """
    factor = factor_kernel(kernel, ridge, weights, fit_intercept)
    return factor.sampling_leverage(kernel if kernel_rows is None else kernel_rows)


def kernel_cross_leverage(
    kernel: Shaped[Array, "n n"],
    kernel_rows: Shaped[Array, "m n"] | None = None,
    *,
    ridge: float,
    weights: Any = None,
    fit_intercept: bool = False,
) -> Float[Array, "m n"]:
    """Return the kernel cross-leverage h(x, x_i) = (C k_x)_i / w_i, C = (K + ridge W^-1)^-1, to every training row.

    Parameters
    ----------
    kernel, kernel_rows, ridge, weights, fit_intercept
        As in `kernel_leverage`; no diagonal is needed.

    Returns
    -------
    array
        Row by row, times the weights, the linear smoother that predicts from y.

    Raises
    ------
    ValueError
        If the ridge is not positive.

    Notes
    -----
    The smoother is that of Rasmussen and Williams (2006), equation 2.25. n^3 / 3 operations, then n^2 for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband._leverage import kernel_cross_leverage
    >>> kernel_cross_leverage(np.eye(2), np.array([[1.0, 0.0]]), ridge=1.0)
    array([[0.5, 0. ]])
    """
    factor = factor_kernel(kernel, ridge, weights, fit_intercept)
    return factor.smoother(kernel if kernel_rows is None else kernel_rows)


def kernel_effective_dimension(
    kernel: Shaped[Array, "n n"], *, ridge: float, weights: Any = None, fit_intercept: bool = False
) -> float:
    """Return the effective dimension sum_i w_i h(x_i) = tr(K (K + ridge W^-1)^-1), an intercept counted as 1.

    Parameters
    ----------
    kernel, ridge, weights, fit_intercept
        As in `kernel_leverage`.

    Returns
    -------
    float
        Between 0 and n.

    Raises
    ------
    ValueError
        If the ridge is not positive.

    Notes
    -----
    Alaoui and Mahoney (2015), *Fast randomized kernel ridge regression with statistical guarantees*. n^3 operations.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband._leverage import kernel_effective_dimension
    >>> round(kernel_effective_dimension(np.eye(4), ridge=1.0), 6)
    2.0
    """
    return factor_kernel(kernel, ridge, weights, fit_intercept).effective_dimension()
