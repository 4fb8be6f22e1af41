"""Coverage by bins of rows, by leverage and by width, with exact bounds on a proportion as bars."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import beta

from hatband.arrays.typing import Array, Bool, Float
from hatband.checks import check_at_least, check_interval_rows, check_intervals, check_row_values
from hatband.formulas.metrics import covered, mean_width, quantile_bins
from hatband.formulas.order_statistics import Level, exact_level


class BinCoverage(NamedTuple):
    """Coverage of one bin of rows.

    Examples
    --------
    >>> from hatband.diagnostics.coverage import BinCoverage
    >>> BinCoverage(0.1, 0.2, 20, 0.9, 0.683, 0.988, 3.5).n_samples
    20
    """

    smallest: float
    """Smallest value in the bin of what the rows were sorted by."""
    largest: float
    """Largest such value."""
    n_samples: int
    """Number of rows."""
    coverage: float
    """Share of these rows that were covered."""
    lower: float
    """Lower end of the exact binomial interval around the coverage."""
    upper: float
    """Upper end."""
    mean_width: float
    """Mean width of the intervals."""


@dataclass(frozen=True)
class CoverageTable:
    """Coverage = covered rows / rows of each bin, in increasing order of what the rows were sorted by.

    ``pandas.DataFrame(table.rows)`` makes a data frame of it.

    Parameters
    ----------
    by : str
        What the rows were sorted by.
    rows : tuple of BinCoverage
        One named tuple (smallest, largest, n_samples, coverage, lower, upper, mean_width) per bin.
    confidence : float
        Of the bars.

    Examples
    --------
    >>> from hatband.diagnostics.coverage import BinCoverage
    >>> from hatband.diagnostics.coverage import CoverageTable
    >>> CoverageTable("leverage", (BinCoverage(0.1, 0.2, 20, 0.9, 0.683, 0.988, 3.5),))
              leverage    rows  coverage       95 % bars  mean width
            0.1 to 0.2      20     0.900  0.683 to 0.988         3.5
    """

    by: str
    rows: tuple[BinCoverage, ...]
    confidence: float = 0.95

    @property
    def lowest(self) -> BinCoverage:
        """The bin with the lowest coverage."""
        return min(self.rows, key=lambda row: row.coverage)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return one list per column."""
        return {name: [getattr(row, name) for row in self.rows] for name in BinCoverage._fields}

    def __repr__(self) -> str:
        bars = f"{100 * self.confidence:g} % bars"
        head = f"{self.by:>18}{'rows':>8}  coverage  {bars:>14}  mean width"
        return "\n".join([head, *(_line(row) for row in self.rows)])


def _line(row: BinCoverage) -> str:
    span = f"{row.smallest:.3g} to {row.largest:.3g}"
    bars = f"{row.lower:.3f} to {row.upper:.3f}"
    return f"{span:>18}{row.n_samples:>8}     {row.coverage:.3f}  {bars}  {row.mean_width:>10.4g}"


def coverage_by_leverage(
    y_true: Any, interval: Any, leverage: Any, *, n_bins: int = 10, confidence: Level = 0.95
) -> CoverageTable:
    """Return covered rows / rows of each leverage bin, with exact binomial intervals.

    Parameters
    ----------
    y_true : array-like (m,)
        Observed targets of rows that were not used to train or calibrate.
    interval : array-like (m, 2)
        Their intervals, of one output at one level.
    leverage : array-like (m,)
        Their leverages; infinite ones fall into the highest bin.
    n_bins : int
        Bins of about equally many rows; rows of equal leverage share a bin.
    confidence : float
        Of the bars.

    Returns
    -------
    CoverageTable

    Raises
    ------
    ValueError
        If shapes differ, anything is NaN, or a lower bound exceeds its upper bound.

    Notes
    -----
    The bars (Clopper and Pearson 1934) take the rows as independent given the model; the calibration rows move all
    bins together and are not in the bars. Cost: one sort.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import coverage_by_leverage
    >>> interval = np.tile([-1.0, 1.0], (4, 1))
    >>> coverage_by_leverage([0, 0, 0, 2], interval, [0.1, 0.1, 0.2, 0.2], n_bins=2)
              leverage    rows  coverage       95 % bars  mean width
            0.1 to 0.1       2     1.000  0.158 to 1.000           2
            0.2 to 0.2       2     0.500  0.013 to 0.987           2
    """
    y, bounds, h = check_interval_rows(y_true, interval, leverage)
    bins = quantile_bins(h, check_at_least(n_bins, 1, "n_bins"))
    return CoverageTable("leverage", _rows(y, bounds, h, bins, confidence), float(confidence))


def size_stratified_coverage(y_true: Any, interval: Any, *, n_bins: int = 5, confidence: Level = 0.95) -> CoverageTable:
    """Return covered rows / rows of each bin of interval widths; ``.lowest.coverage`` is the score of that name.

    Narrow intervals that cover too little, and wide ones that cover too much, are widths that follow the wrong thing.

    Parameters
    ----------
    y_true : array-like (m,)
        Observed targets of rows that were not used to train or calibrate.
    interval : array-like (m, 2)
        Their intervals, of one output at one level.
    n_bins : int
        Bins of about equally many rows; equal widths share a bin, so a band of constant width has one.
    confidence : float
        Of the bars.

    Returns
    -------
    CoverageTable

    Raises
    ------
    ValueError
        If shapes differ, anything is NaN, or a lower bound exceeds its upper bound.

    Notes
    -----
    Angelopoulos, Bates, Malik and Jordan (2021); Angelopoulos and Bates (2023). The minimum over bins is below the
    level by chance alone: look at the bars.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import size_stratified_coverage
    >>> table = size_stratified_coverage(np.zeros(4), [[-1, 1], [1, 3], [-4, 4], [-5, 5]], n_bins=2)
    >>> [row.coverage for row in table.rows], table.lowest.largest
    ([0.5, 1.0], 2.0)
    """
    bounds = check_intervals(interval)
    y = check_row_values(y_true, len(bounds), "y_true")
    # inf - inf is NaN, and both ends at the same infinity say as little as one at each.
    infinite = np.isinf(bounds).any(axis=1)
    width = np.where(infinite, np.inf, np.subtract(bounds[:, 1], bounds[:, 0], where=~infinite, out=np.zeros(len(y))))
    bins = quantile_bins(_sizes(width, bounds[~infinite]), check_at_least(n_bins, 1, "n_bins"))
    return CoverageTable("width", _rows(y, bounds, width, bins, confidence), float(confidence))


def _sizes(width: Float[Array, " m"], finite: Float[Array, "k 2"]) -> Array:
    """Rank of each row's width among the distinct widths; widths that differ by rounding of their ends are equal."""
    rounding = 4 * np.finfo(np.float64).eps * np.abs(finite).max(initial=0)
    order = np.argsort(width)
    with np.errstate(invalid="ignore"):  # infinite widths are one size: inf - inf > rounding is False
        larger = np.diff(width[order]) > rounding
    size = np.empty(len(width), dtype=int)
    size[order] = np.concatenate([[0], np.cumsum(larger)])
    return size


def _rows(y: Array, bounds: Array, values: Array, bins: Array, confidence: Level) -> tuple[BinCoverage, ...]:
    """Coverage of each bin that holds rows."""
    hits = covered(y, bounds[:, 0], bounds[:, 1])
    return tuple(_bin(hits[bins == b], bounds[bins == b], values[bins == b], confidence) for b in np.unique(bins))


def _bin(
    hits: Bool[Array, " m"], bounds: Float[Array, "m 2"], values: Float[Array, " m"], confidence: Level
) -> BinCoverage:
    low, high = binomial_interval(int(hits.sum()), len(hits), confidence)
    return BinCoverage(
        smallest=float(values.min()),
        largest=float(values.max()),
        n_samples=len(hits),
        coverage=float(hits.mean()),
        lower=float(low),
        upper=float(high),
        mean_width=float(mean_width(bounds[:, 0], bounds[:, 1])),
    )


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
        If a count is not a whole number or 0 <= hits <= n_samples does not hold.

    Notes
    -----
    Clopper and Pearson (1934). Half of the remaining probability is given to either side.

    Examples
    --------
    >>> from hatband.diagnostics import binomial_interval
    >>> [round(float(bound), 3) for bound in binomial_interval(18, 20)]
    [0.683, 0.988]
    """
    k, n = _check_counts(hits, n_samples)
    tail = float((1 - exact_level(confidence)) / 2)
    low = beta.ppf(tail, np.maximum(k, 1), n - k + 1)
    high = beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1))
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def _check_counts(hits: Any, trials: Any) -> tuple[Array, Array]:
    """Return numbers of hits and trials, broadcast to one shape, 0 <= hits <= trials."""
    k, n = np.broadcast_arrays(np.asarray(hits), np.asarray(trials))
    if not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise ValueError(f"hits and n_samples must be whole numbers; got {k.dtype} and {n.dtype}.")
    if not ((k >= 0) & (k <= n)).all():
        raise ValueError("hits must be at least 0 and at most n_samples.")
    return k, n
