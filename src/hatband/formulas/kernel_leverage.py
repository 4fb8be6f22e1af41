"""Leverage of rows by a kernel, as functions of arrays.

Throughout: K (n, n) and k_x (n,) are kernels of the training rows with one another and with a row x, W the training
weights, C = (K + ridge W^-1)^-1, bordered by ones with an unpenalised intercept. The numbers are those of
`_leverage` for features of which the kernel is the inner product.
"""

from typing import Any

from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg import factor_kernel

__all__ = [
    "kernel_cross_leverage",
    "kernel_effective_dimension",
    "kernel_leverage",
    "kernel_sampling_leverage",
]


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
    >>> from hatband.formulas.kernel_leverage import kernel_leverage
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
    The squared length of the smoother's row, as that of features is. n^3 / 3 operations, then n^2 for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.kernel_leverage import kernel_sampling_leverage
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
    >>> from hatband.formulas.kernel_leverage import kernel_cross_leverage
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
    >>> from hatband.formulas.kernel_leverage import kernel_effective_dimension
    >>> round(kernel_effective_dimension(np.eye(4), ridge=1.0), 6)
    2.0
    """
    return factor_kernel(kernel, ridge, weights, fit_intercept).effective_dimension()
