"""Quality of intervals: coverage, width and proper scores, as pure functions of arrays.

Rows come first; a second axis, one column per output, is allowed everywhere. Infinite bounds are answers, not errors:
an infinite interval covers, and its width and score are infinite.
"""

from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.typing import Array, Bool, Float, Int, Shaped
from hatband.checks import check_bounds, check_no_nan
from hatband.formulas.order_statistics import Level, exact_level


class GroupCoverage(NamedTuple):
    """Coverage of one group of rows.

    Examples
    --------
    >>> from hatband.formulas.metrics import GroupCoverage
    >>> GroupCoverage(group="north", n_samples=20, coverage=0.9, standard_error=0.067).coverage
    0.9
    """

    group: Any
    """The label, as it came."""
    n_samples: int
    """Number of rows with this label."""
    coverage: Any
    """Share of these rows that were covered: a number, or one per output."""
    standard_error: Any
    """sqrt(coverage (1 - coverage) / n_samples); 0 where all or none were covered, which is not certainty."""


def covered(y: Shaped[Array, "n *q"], lower: Float[Array, "n *q"], upper: Float[Array, "n *q"]) -> Bool[Array, "n *q"]:
    """Return lower <= y <= upper for each row.

    Parameters
    ----------
    y : array
        Observed targets.
    lower, upper : array
        Bounds, lower <= upper; infinite bounds are allowed.

    Returns
    -------
    array
        Booleans.

    Raises
    ------
    ValueError
        If anything is NaN, or a lower bound exceeds its upper bound.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import covered
    >>> covered(np.array([1.0, 5.0]), np.array([0.0, -np.inf]), np.array([2.0, 4.0]))
    array([ True, False])
    """
    y = _checked(y, lower, upper)
    return (lower <= y) & (y <= upper)


def _checked(y: Array, lower: Array, upper: Array) -> Array:
    """Targets as an array, after the checks that every metric of an interval needs."""
    y = np.asarray(y)
    check_no_nan(y, "y")
    check_bounds(lower, upper)
    return y


def mean_width(lower: Float[Array, "n *q"], upper: Float[Array, "n *q"]) -> Float[Array, "*q"]:
    """Return the mean of upper - lower over rows; one infinite interval makes it infinite.

    Parameters
    ----------
    lower, upper : array
        Bounds, lower <= upper.

    Returns
    -------
    array
        One mean per output; a number for one-dimensional bounds.

    Raises
    ------
    ValueError
        If a bound is NaN, or a lower bound exceeds its upper bound.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import mean_width
    >>> float(mean_width(np.zeros(2), np.array([1.0, 3.0])))
    2.0
    """
    check_bounds(lower, upper)
    return np.mean(_width(lower, upper), axis=0)


def _width(lower: Array, upper: Array) -> Array:
    """Upper minus lower, infinite where either is (inf - inf would be NaN)."""
    infinite = np.isinf(lower) | np.isinf(upper)
    return np.subtract(upper, lower, out=np.full(infinite.shape, np.inf), where=~infinite)


def interval_score(
    y: Shaped[Array, "n *q"],
    lower: Float[Array, "n *q"],
    upper: Float[Array, "n *q"],
    confidence_level: Level,
) -> Float[Array, "n *q"]:
    """Return (upper - lower) + 2 / (1 - level) * distance of y from the interval, for each row; lower is better.

    Parameters
    ----------
    y : array
        Observed targets, finite.
    lower, upper : array
        Bounds, lower <= upper.
    confidence_level : float, Fraction, Decimal or NumPy scalar
        The level in (0, 1) that the interval was made for.

    Returns
    -------
    array
        In the units of y; infinite where a bound is infinite.

    Raises
    ------
    ValueError
        If anything is NaN, a lower bound exceeds its upper bound, or the level is not in (0, 1).

    Notes
    -----
    The Winkler score (Winkler 1972; Gneiting and Raftery 2007, equation 43): proper for the pair of
    (1 - level) / 2 and (1 + level) / 2 quantiles.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import interval_score
    >>> interval_score(np.array([1.0, 5.0]), np.zeros(2), np.full(2, 4.0), 0.9)
    array([ 4., 24.])
    """
    y = _checked(y, lower, upper)
    miss = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return _width(lower, upper) + float(2 / (1 - exact_level(confidence_level))) * miss


def pinball_loss(y: Shaped[Array, "n *q"], prediction: Float[Array, "n *q"], level: Level) -> Float[Array, "n *q"]:
    """Return max(level (y - prediction), (1 - level) (prediction - y)) for each row; lower is better.

    Parameters
    ----------
    y : array
        Observed targets, finite.
    prediction : array
        Predicted quantiles; an infinite one has infinite loss.
    level : float, Fraction, Decimal or NumPy scalar
        Level of the quantile in (0, 1): 0.05 for the lower end of a 90 % interval.

    Returns
    -------
    array
        In the units of y.

    Raises
    ------
    ValueError
        If anything is NaN or the level is not in (0, 1).

    Notes
    -----
    Proper for the quantile of this level (Koenker and Bassett 1978).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import pinball_loss
    >>> pinball_loss(np.array([1.0, 3.0]), np.full(2, 2.0), 0.75)
    array([0.25, 0.75])
    """
    y = np.asarray(y)
    check_no_nan(y, "y")
    check_no_nan(prediction, "prediction")
    quantile = float(exact_level(level))
    error = y - prediction
    return np.maximum(quantile * error, (quantile - 1) * error)


def coverage_by_group(covered: Bool[Array, "n *q"], groups: Shaped[Array, " n"]) -> list[GroupCoverage]:
    """Return the share of covered rows in each group with its binomial standard error, in the order of the labels.

    Parameters
    ----------
    covered : array
        What `covered` returns.
    groups : array
        One label per row: strings, integers, or the bins of `quantile_bins`.

    Returns
    -------
    list of GroupCoverage
        One named tuple (group, n_samples, coverage, standard_error) per label that occurs.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import coverage_by_group
    >>> [(str(g.group), g.coverage) for g in coverage_by_group(np.array([True, False, True]), np.array(list("aab")))]
    [('a', 0.5), ('b', 1.0)]
    """
    labels, member = np.unique(np.asarray(groups), return_inverse=True)
    return [_group_coverage(label, np.asarray(covered)[member == index]) for index, label in enumerate(labels)]


def _group_coverage(label: Any, covered: Array) -> GroupCoverage:
    """Mean and standard error over one group; plain floats where there is one output."""
    share = covered.mean(axis=0)
    error = np.sqrt(share * (1 - share) / len(covered))
    if covered.ndim == 1:
        return GroupCoverage(label, len(covered), float(share), float(error))
    return GroupCoverage(label, len(covered), share, error)


def quantile_bins(values: Shaped[Array, " n"], k: int) -> Int[Array, " n"]:
    """Return the bin floor(k r / n) of each value, r the number of smaller values: k bins of nearly equal size.

    Parameters
    ----------
    values : array
        Infinite values are allowed.
    k : int
        Number of bins, at least 1.

    Returns
    -------
    array
        Integers from 0 (lowest) to k - 1. Equal values share a bin, so with many ties bins differ in size or are empty;
        without ties their sizes differ by at most 1.

    Raises
    ------
    ValueError
        If a value is NaN or k < 1.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import quantile_bins
    >>> quantile_bins(np.array([0.3, 0.1, 0.9, 0.5]), 2)
    array([0, 0, 1, 1])
    """
    if k < 1:
        raise ValueError(f"k, the number of bins, must be at least 1; got {k}.")
    check_no_nan(values, "values")
    _, member, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    smaller = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return (k * smaller // len(member))[member] if len(member) else member


def leverage_fifths(leverage: Float[Array, " n"]) -> Int[Array, " n"]:
    """Return the fifth of the leverages that each row falls in: 0 for the lowest, 4 for the highest.

    Parameters
    ----------
    leverage : array
        Leverages; infinite ones belong to the highest fifth.

    Returns
    -------
    array
        Integers from 0 to 4.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.metrics import leverage_fifths
    >>> leverage_fifths(np.array([0.5, 0.1, 0.2, 0.3, np.inf]))
    array([3, 0, 1, 2, 4])
    """
    return quantile_bins(leverage, 5)
