"""Exact bounds on a proportion that was seen in a finite number of rows."""

from typing import Any

import numpy as np
from scipy.stats import beta

from hatband._checks_diagnostics import check_counts
from hatband.arrays.typing import Array
from hatband.formulas.order_statistics import Level, exact_level


def binomial_interval(hits: Any, n_samples: Any, confidence: Level = 0.95) -> tuple[Array, Array]:
    """Return quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k): exact bounds on the proportion behind k of n.

    Parameters
    ----------
    hits, n_samples : int or array-like of int
        k covered rows out of n; no row at all gives (0, 1).
    confidence : float, Fraction, Decimal or NumPy scalar
        Probability, at least, with which the bounds hold the proportion.

    Returns
    -------
    lower, upper : array
        Shaped like `hits`.

    Raises
    ------
    ValueError
        If a count is no whole number or 0 <= hits <= n_samples fails.

    Notes
    -----
    Clopper and Pearson (1934). Half of the remaining probability is given to either side.

    Examples
    --------
    >>> from hatband.diagnostics import binomial_interval
    >>> [round(float(bound), 3) for bound in binomial_interval(18, 20)]
    [0.683, 0.988]
    """
    k, n = check_counts(hits, n_samples)
    tail = float((1 - exact_level(confidence)) / 2)
    low = beta.ppf(tail, np.maximum(k, 1), n - k + 1)
    high = beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1))
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)
