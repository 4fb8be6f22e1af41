"""Leave-one-out in closed form: what a refit without row i would give, from one fit.

Sources: Allen 1974; Cook and Weisberg 1982, section 2.2; for kernels Wahba 1990, section 4.2.

h is the leverage of the training rows (n,), e their residuals, w their weights, c = h(x, x_i) cross-leverages (m, n).
Exact for predictions that are linear in y with fixed features and a fixed ridge (in the sum convention); an unpenalised
intercept is included when it is included in h and c.

A training row with 1 - w h < 1e-12 is interpolated: no other row says anything about it in some direction (ridge 0, a
feature that it alone has). What a refit without it would give there is not determined, so its leverages are inf and its
residual is infinite with the sign of e, never NaN. `interpolated` finds such rows.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from hatband.arrays.typing import Array, Bool, Float

# Below this 1 - w h is rounding.
INTERPOLATED = 1e-12
# Smallest squared pivot of 1 - H_BB at which leaving the block out still leaves a model. As 1 - h_ii for one row.
_SMALLEST_PIVOT = 1e-10
# A row whose part in an undetermined direction is smaller than this share has no such part.
_OUTSIDE = 1e-10


def interpolated(h: Float[Array, "*n"], w: Any = None) -> Bool[Array, "*n"]:
    """Return 1 - w h < 1e-12: the rows for which leave-one-out is not determined.

    Parameters
    ----------
    h : array
        Leverage of the training rows.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Booleans.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.leave_one_out import interpolated
    >>> interpolated(np.array([0.5, 1.0]))
    array([False,  True])
    """
    return 1 - _weighted(h, w) < INTERPOLATED


def _weighted(h: Array, w: Any) -> Array:
    """The diagonal w h of the hat matrix; h (n, q) has one weight a row."""
    return np.asarray(h) if w is None else _as_column(np.asarray(w), h) * h


def _as_column(values: Array, like: Array) -> Array:
    """Return values (n,) with as many axes as `like`, to broadcast against its rows."""
    return values.reshape(values.shape + (1,) * (np.ndim(like) - values.ndim))


def _complement(h: Array, w: Any) -> Array:
    """1 - w h, or 1 where that is rounding error: the caller overwrites those rows."""
    complement = 1 - _weighted(h, w)
    return np.where(complement < INTERPOLATED, 1.0, complement)


def loo_leverage(h: Float[Array, "n *q"], w: Any = None) -> Float[Array, "n *q"]:
    """Return h_-i(x_i) = h / (1 - w h), the leverage of each training row against all others.

    Parameters
    ----------
    h : array
        Leverage of the training rows.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Comparable with the leverage of new rows; inf for interpolated rows.

    Notes
    -----
    Sherman and Morrison 1950: A - w x x' has h_-i(z) = h(z) + w h(z, x)^2 / (1 - w h(x)), at z = x.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import loo_leverage
    >>> loo_leverage(np.array([0.5, 1.0]))
    array([ 1., inf])
    """
    return np.where(interpolated(h, w), np.inf, h / _complement(h, w))


def loo_sampling_leverage(s: Float[Array, "n *q"], h: Float[Array, "n *q"], w: Any = None) -> Float[Array, "n *q"]:
    """Return s_-i(x_i) = (s - w h^2) / (1 - w h)^2, the sampling leverage of each training row against all others.

    Parameters
    ----------
    s, h : array
        Sampling leverage and leverage of the training rows.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Comparable with the sampling leverage of new rows; inf for interpolated rows.

    Notes
    -----
    sum over j != i of w_j h_-i(x_i, x_j)^2 with h_-i(x_i, x_j) = h(x_i, x_j) / (1 - w_i h(x_i)).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.leave_one_out import loo_sampling_leverage
    >>> loo_sampling_leverage(np.array([0.5]), np.array([0.5]))  # ridge 0: s = h, before and after
    array([1.])
    """
    rest = np.maximum(s - _weighted(h, w) * h, 0.0)
    return np.where(interpolated(h, w), np.inf, rest / _complement(h, w) ** 2)


def loo_residuals(e: Float[Array, "n *q"], h: Float[Array, "n *p"], w: Any = None) -> Float[Array, "n *q"]:
    """Return y_i - mu_-i(x_i) = e / (1 - w h), the residual of each training row from a fit without it.

    Parameters
    ----------
    e : array
        Training residuals y - mu, one column per output.
    h : array
        Leverage of the training rows; with a ridge for each output one column for each.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Shaped like `e`; infinite, with the sign of e, for interpolated rows.

    Notes
    -----
    Allen 1974 (PRESS); Cook and Weisberg 1982, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import loo_residuals
    >>> loo_residuals(np.array([0.1, -0.3]), np.array([0.5, 0.0]))
    array([ 0.2, -0.3])
    """
    h = _as_column(np.asarray(h), e)
    return np.where(interpolated(h, w), np.copysign(np.inf, e), e / _complement(h, w))


def block_residuals(
    e: Float[Array, " b"], hat: Float[Array, "b b"], w: Float[Array, " b"] | None = None
) -> Float[Array, " b"] | None:
    """Return y_B - mu_-B(x_B) = (1 - H_BB W_B)^-1 e_B, residuals of a block of rows from a fit without all of them.

    Parameters
    ----------
    e : array
        Training residuals y - mu of the block.
    hat : array
        Cross-leverages h(x_i, x_j) within the block.
    w : array, optional
        Sample weights, > 0.

    Returns
    -------
    array or None
        None where leaving the block out leaves no model.

    Notes
    -----
    Cook and Weisberg 1982, section 3.6. Cost: b^3 / 3.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.leave_one_out import block_residuals
    >>> block_residuals(np.array([0.1, -0.3]), np.array([[0.5, 0.0], [0.0, 0.0]]))
    array([ 0.2, -0.3])
    """
    factor = block_factor(hat, w)
    return None if factor is None else cho_solve((factor.lower, True), factor.root * e) / factor.root


class BlockFactor(NamedTuple):
    """Factors for leaving out a block of rows: L with L L' = 1 - W^1/2 H_BB W^1/2, and the diagonal of W^1/2."""

    lower: Float[Array, "b b"]
    root: Float[Array, " b"]

    def half(self) -> Float[Array, "b b"]:
        """Return Q = L^-1 W^1/2, so that Q'Q = (W^-1 - H_BB)^-1."""
        return solve_triangular(self.lower, np.diag(self.root), lower=True)


def block_factor(hat: Float[Array, "b b"], w: Float[Array, " b"] | None = None) -> BlockFactor | None:
    """Factor 1 - W^1/2 H_BB W^1/2 of a block of rows with weights > 0; None if the block cannot be left out."""
    root = np.ones(len(hat)) if w is None else np.sqrt(w)
    try:
        lower = np.linalg.cholesky(np.eye(len(hat)) - root[:, None] * hat * root)
    except np.linalg.LinAlgError:
        return None
    return None if np.square(lower.diagonal()).min() < _SMALLEST_PIVOT else BlockFactor(lower, root)


def loo_predictions(
    mu: Float[Array, " m"], cross: Float[Array, "m n"], loo_residual: Float[Array, " n"], w: Any = None
) -> Float[Array, "m n"]:
    """Return mu_-i(x) = mu(x) - h(x, x_i) w_i r_i, r the leave-one-out residuals: each row without each training row.

    Parameters
    ----------
    mu : array
        Predictions.
    cross : array
        Cross-leverage of these rows with the training rows.
    loo_residual : array
        Leave-one-out residuals of the training rows, of one output.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Column i: the predictions of a fit without training row i. For interpolated i the prediction of the whole fit:
        together with its infinite residual the interval of jackknife+ is infinite on both sides there, as it must be.

    Notes
    -----
    Barber, Candes, Ramdas and Tibshirani 2021, section 3, for the use; the formula as in `loo_residuals`.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import loo_predictions
    >>> loo_predictions(np.array([2.0]), np.array([[0.5, 0.25]]), np.array([1.0, -4.0]))
    array([[1.5, 3. ]])
    """
    step = np.where(np.isinf(loo_residual), 0.0, _weighted(loo_residual, w))
    return mu[:, None] - cross * step


def loo_leverage_at(
    h: Float[Array, " m"], cross: Float[Array, "m n"], h_train: Float[Array, " n"], w: Any = None
) -> Float[Array, "m n"]:
    """Return h_-i(x) = h(x) + w_i h(x, x_i)^2 / (1 - w_i h(x_i)): leverage of each row without each training row.

    Parameters
    ----------
    h : array
        Leverage of the rows.
    cross : array
        Cross-leverage of these rows with the training rows.
    h_train : array
        Leverage of the training rows.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Column i: leverage against the training rows without i. For interpolated i it is inf where the row has a part in
        the direction that i alone determined, else h.

    Notes
    -----
    Sherman and Morrison 1950, as in `loo_leverage`.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.leave_one_out import loo_leverage_at
    >>> loo_leverage_at(np.array([0.5]), np.array([[0.5, 0.0]]), np.array([0.5, 0.5]))
    array([[1. , 0.5]])
    """
    gain = (1.0 if w is None else np.asarray(w)) / _complement(h_train, w)
    result = cross**2 * gain + h[:, None]
    lost = np.flatnonzero(interpolated(h_train, w))
    if len(lost):
        with np.errstate(invalid="ignore"):
            apart = cross[:, lost] ** 2 * (1.0 if w is None else w[lost]) > _OUTSIDE**2 * h[:, None]
        result[:, lost] = np.where(apart, np.inf, h[:, None])
    return result


def loo_sampling_leverage_at(
    s: Float[Array, " m"],
    cross: Float[Array, "m n"],
    smoothed: Float[Array, "m n"],
    *,
    s_train: Float[Array, " n"],
    h_train: Float[Array, " n"],
    w: Any = None,
) -> Float[Array, "m n"]:
    """Return s_-i(x) = sum over j != i of w_j h_-i(x, x_j)^2: sampling leverage of each row without each training row.

    Parameters
    ----------
    s : array
        Sampling leverage of the rows.
    cross : array
        Cross-leverage of these rows with the training rows.
    smoothed : array
        sum_j w_j h(x, x_j) h(x_j, x_i): the fit to the rows of `cross`, at the training rows.
    s_train, h_train : array
        Sampling leverage and leverage of the training rows.
    w : array, optional
        Sample weights.

    Returns
    -------
    array
        Column i: sampling leverage against the training rows without i; for interpolated i that of the whole fit.

    Notes
    -----
    h_-i(x, z) = h(x, z) + f_i h(x, x_i) h(x_i, z), f_i = w_i / (1 - w_i h_i), squared and summed. Sherman and Morrison
    1950.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.leave_one_out import loo_sampling_leverage_at
    >>> half = np.array([0.5])  # two equal rows, ridge 0: s = h = 1/2, and 1 for either alone
    >>> loo_sampling_leverage_at(half, half[:, None], half[:, None], s_train=half, h_train=half)
    array([[1.]])
    """
    weight = 1.0 if w is None else np.asarray(w)
    lost, own = interpolated(h_train, w), _weighted(h_train, w)
    shift = np.where(lost, 0.0, weight / _complement(h_train, w)) * cross
    removed = np.where(lost, 0.0, weight) * cross**2
    return s[:, None] - removed + 2 * shift * (smoothed - own * cross) + shift**2 * (s_train - own * h_train)
