"""Exact ranks and order statistics: every threshold in the package comes from here.

With n calibration scores at confidence level L the threshold is the k-th smallest score, k = ceil((n + 1) L). Binary
floating point gets this k wrong for everyday levels (ceil((1 - 0.1) * (1 + 1 / 29) * 29) is 28, not 27), and a rank
that is one too small has no coverage guarantee. So a level becomes a fraction first, and the rest is integers.
"""

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_level, check_likelihood_ratio, check_no_nan

Level: TypeAlias = float | Fraction | Decimal | np.floating

#: Fractions with denominators up to 10^6 keep 10^-15 away from all others up to 10^9: rounding cannot confuse them.
LARGEST_DENOMINATOR = 10**9
SNAP = Fraction(4, 2**53)
#: The same for float32, of which six decimals can be meant.
SNAP_SINGLE = Fraction(4, 2**24)
#: Rounding allowance for sums of weights: nine weights of 0.1 sum to 0.8999999999999999.
WEIGHT_SLACK = 1e-12


def exact_level(level: Level) -> Fraction:
    """Return the fraction that a level in (0, 1) stands for: 9/10 for 0.9, for 1 - 0.1 and for float32(0.9).

    Parameters
    ----------
    level : float, Fraction, Decimal or NumPy scalar
        A confidence level, or a miscoverage such as ``1 - 0.9``.

    Returns
    -------
    Fraction
        The nearest fraction with a denominator up to 10^9, which lies within 4 * 2^-53 of every level that is not
        extremely close to 0 or 1; those keep their binary value.
        A float32 or float16 is read as six decimals when they lie within 4 * 2^-24, else by its shortest digits. A
        Fraction or Decimal is taken at its word.

    Raises
    ------
    ValueError
        If the level is not a number strictly between 0 and 1.

    Examples
    --------
    >>> from hatband.formulas.order_statistics import exact_level
    >>> exact_level(1 - 0.9)
    Fraction(1, 10)
    """
    check_level(level)
    if isinstance(level, (Fraction, Decimal)):
        return Fraction(level)
    if isinstance(level, (np.float32, np.float16)):
        return _snap(Fraction(str(level)), Fraction(f"{level:.6f}"), SNAP_SINGLE)
    return _nearest_fraction(float(level))


@lru_cache(maxsize=1024)
def _nearest_fraction(level: float) -> Fraction:
    """The fraction that a level stands for; cached, because it costs more than a threshold."""
    exact = Fraction(level)
    return _snap(exact, exact.limit_denominator(LARGEST_DENOMINATOR), SNAP)


def _snap(exact: Fraction, simple: Fraction, tolerance: Fraction) -> Fraction:
    """The simple fraction when it lies inside (0, 1) and within the tolerance, else the exact one."""
    return simple if 0 < simple < 1 and abs(simple - exact) <= tolerance else exact


def upper_rank(n: int, level: Level) -> int:
    """Return ceil((n + 1) level), the rank of an upper threshold among n scores; n + 1 stands for +inf.

    Parameters
    ----------
    n : int
        Number of calibration scores.
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1), not the miscoverage.

    Returns
    -------
    int
        Between 1 and n + 1.

    Notes
    -----
    A new score, exchangeable with the n, is at most the score of this rank with probability >= level, ties or not
    (Vovk, Gammerman and Shafer 2005, proposition 2.3; Lei et al. 2018, theorem 2.2).

    Examples
    --------
    >>> from hatband.formulas.order_statistics import upper_rank
    >>> upper_rank(99, 0.9), upper_rank(8, 0.9)
    (90, 9)
    """
    fraction = exact_level(level)
    return -(-(n + 1) * fraction.numerator // fraction.denominator)


def lower_rank(n: int, level: Level) -> int:
    """Return floor((n + 1) (1 - level)), the rank of a lower threshold among n scores; 0 stands for -inf.

    Parameters
    ----------
    n : int
        Number of calibration scores.
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1), not the miscoverage.

    Returns
    -------
    int
        Between 0 and n; always ``n + 1 - upper_rank(n, level)``.

    Examples
    --------
    >>> from hatband.formulas.order_statistics import lower_rank
    >>> lower_rank(99, 0.9), lower_rank(8, 0.9)
    (10, 0)
    """
    return n + 1 - upper_rank(n, level)


def kth_smallest(values: Shaped[Array, "..."], k: int, axis: int = 0) -> Float[Array, "..."]:
    """Return the k-th smallest of n values along an axis, -inf for k = 0 and +inf for k = n + 1.

    Parameters
    ----------
    values : array
        Infinite values are allowed and sort to the ends.
    k : int
        Rank from 0 to n + 1, such as `upper_rank` and `lower_rank` return.
    axis : int
        The axis that is reduced.

    Returns
    -------
    array
        Shaped like `values` without that axis.

    Raises
    ------
    ValueError
        If a value is NaN, or k is not a rank.

    Notes
    -----
    Selection, not sorting: O(n) (``numpy.partition``).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.order_statistics import kth_smallest
    >>> values = np.array([3.0, 1.0, 2.0])
    >>> float(kth_smallest(values, 2)), float(kth_smallest(values, 4))
    (2.0, inf)
    """
    values = _floating(values)
    check_no_nan(values, "values")
    n = values.shape[axis]
    if not 0 <= k <= n + 1:
        raise ValueError(f"k must be a rank from 0 (-inf) to n + 1 = {n + 1} (+inf); got {k}.")
    if 1 <= k <= n:
        return np.take(np.partition(values, k - 1, axis=axis), k - 1, axis=axis)
    return np.full(np.delete(values.shape, axis), -np.inf if k == 0 else np.inf, dtype=values.dtype)[()]


def _floating(values: Array) -> Array:
    """A NumPy array of floats; integers become float64."""
    values = np.asarray(values)
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)


def conformal_quantile(scores: Float[Array, "n *q"], level: Level) -> Float[Array, "*q"]:
    """Return the ceil((n + 1) level)-th smallest score of each column, +inf when n is too small for the level.

    Parameters
    ----------
    scores : array
        Calibration scores, one row per calibration row; absolute values for a symmetric interval.
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1).

    Returns
    -------
    array
        One threshold per column; a number for one-dimensional scores.

    Raises
    ------
    ValueError
        If a score is NaN or the level is not in (0, 1).

    Notes
    -----
    The share of new scores at or below the threshold is >= level on average over calibration sets, and at most
    level + 1 / (n + 1) when scores have no ties (Lei et al. 2018, theorem 2.2).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.order_statistics import conformal_quantile
    >>> float(conformal_quantile(np.arange(1.0, 20.0), 0.9))
    18.0
    """
    return kth_smallest(scores, upper_rank(len(scores), level))


def conformal_bounds(scores: Float[Array, "n *q"], level: Level) -> tuple[Float[Array, "*q"], Float[Array, "*q"]]:
    """Return lower and upper thresholds of signed scores, each side with miscoverage (1 - level) / 2.

    Parameters
    ----------
    scores : array
        Signed calibration scores, one row per calibration row.
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1) of the two sides together.

    Returns
    -------
    lower, upper : array
        The floor((n + 1) (1 - level) / 2)-th smallest score (-inf when that is 0) and the
        ceil((n + 1) (1 + level) / 2)-th (+inf when that is n + 1) of each column.

    Raises
    ------
    ValueError
        If a score is NaN or the level is not in (0, 1).

    Notes
    -----
    Without ties the share of new scores between the two is (upper rank - lower rank) / (n + 1) >= level on average.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.order_statistics import conformal_bounds
    >>> [float(bound) for bound in conformal_bounds(np.arange(-19.0, 20.0), 0.9)]
    [-18.0, 18.0]
    """
    side = side_level(level)
    n = len(scores)
    return kth_smallest(scores, lower_rank(n, side)), kth_smallest(scores, upper_rank(n, side))


def side_level(level: Level) -> Fraction:
    """Return (1 + level) / 2, the level of one side when two sides share the miscoverage.

    Parameters
    ----------
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1) of the two sides together.

    Returns
    -------
    Fraction

    Examples
    --------
    >>> from hatband.formulas.order_statistics import side_level
    >>> side_level(0.9)
    Fraction(19, 20)
    """
    return (1 + exact_level(level)) / 2


def minimum_calibration_size(level: Level, symmetric: bool = True) -> int:
    """Return the least n with finite thresholds: ceil(1 / (1 - level)) - 1, or ceil(2 / (1 - level)) - 1 for two sides.

    Parameters
    ----------
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1).
    symmetric : bool
        True for one threshold (`conformal_quantile`), False for two (`conformal_bounds`).

    Returns
    -------
    int
        Number of calibration rows.

    Examples
    --------
    >>> from hatband.formulas.order_statistics import minimum_calibration_size
    >>> minimum_calibration_size(0.9), minimum_calibration_size(0.9, symmetric=False)
    (9, 19)
    """
    miscoverage = 1 - (exact_level(level) if symmetric else side_level(level))
    return -(-miscoverage.denominator // miscoverage.numerator) - 1


def weighted_quantile(
    scores: Float[Array, " n"], weights: Shaped[Array, " n"], test_weight: Shaped[Array, " m"], level: Level
) -> Float[Array, " m"]:
    """Return the least score s with sum of w_i over s_i <= s at least level * (sum of all w_i + w_test), else +inf.

    Parameters
    ----------
    scores : array
        Calibration scores.
    weights : array
        Weight of each calibration row, such as its likelihood ratio; any common factor is allowed.
    test_weight : array
        Weight of each test row, with the same factor: its own score counts as +inf.
    level : float, Fraction, Decimal or NumPy scalar
        Confidence level in (0, 1).

    Returns
    -------
    array
        One threshold per test row.

    Raises
    ------
    ValueError
        If a score is NaN, or a weight is negative or not finite.

    Notes
    -----
    The quantile of weighted conformal prediction (Tibshirani, Foygel Barber, Candes and Ramdas 2019, lemma 3). Equal
    weights give `conformal_quantile`. The right side is lowered by a relative 1e-12 against rounding in the sums; where
    all weights, including that of the test row, are 0, the threshold is +inf. O((n + m) log n).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.order_statistics import weighted_quantile
    >>> weighted_quantile(np.arange(1.0, 20.0), np.ones(19), np.array([1.0, 3.0]), 0.9)
    array([18., inf])
    """
    scores, weights, test_weight = _floating(scores), _floating(weights), _floating(test_weight)
    check_no_nan(scores, "scores")
    check_likelihood_ratio(weights, "weights")
    check_likelihood_ratio(test_weight, "test_weight")
    order = np.argsort(scores, kind="stable")
    # Extended precision keeps the sum of a million weights well inside the slack.
    cumulated = np.concatenate([[0], np.cumsum(weights[order], dtype=np.longdouble)])
    total = cumulated[-1] + test_weight
    needed = (1 - np.longdouble(WEIGHT_SLACK)) * float(exact_level(level)) * total
    position = np.where(total > 0, np.searchsorted(cumulated, needed), len(cumulated))
    return np.append(scores[order], np.inf)[np.minimum(position - 1, len(scores))]


def effective_sample_size(weights: Shaped[Array, " n"]) -> float:
    """Return (sum of w)^2 / sum of w^2, the number of rows of equal weight that a weighted sum is worth.

    Parameters
    ----------
    weights : array
        Weights >= 0, such as likelihood ratios.

    Returns
    -------
    float
        From 1 to n; 0 where all weights are 0.

    Notes
    -----
    Kish (1965), *Survey Sampling*; for weighted conformal prediction Tibshirani et al. (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.order_statistics import effective_sample_size
    >>> effective_sample_size(np.ones(50)), effective_sample_size(np.array([1.0, 0.0, 0.0]))
    (50.0, 1.0)
    """
    weights = _floating(weights)
    check_likelihood_ratio(weights, "weights")
    largest = weights.max(initial=0.0)
    if largest == 0:
        return 0.0
    share = weights / largest
    return float(share.sum() ** 2 / (share**2).sum())
