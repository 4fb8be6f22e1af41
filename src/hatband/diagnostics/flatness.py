"""How far coverage over leverage is from flat: single numbers, compared with their size by chance alone."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array, Bool, Float, Int
from hatband.checks import check_at_least, check_interval_rows
from hatband.formulas.metrics import coverage_by_group, covered, leverage_fifths, quantile_bins
from hatband.formulas.order_statistics import Level, exact_level, upper_rank


@dataclass(frozen=True)
class CoverageGap:
    """Gap = coverage of the fifth of lowest leverage - coverage of the fifth of highest, with its standard error.

    Positive: rows of high leverage are covered too rarely compared with rows of low leverage.

    Examples
    --------
    >>> from hatband.diagnostics.flatness import CoverageGap
    >>> CoverageGap(gap=0.05, standard_error=0.02, lowest=0.92, highest=0.87).to_dict()["gap"]
    0.05
    """

    gap: float
    standard_error: float
    lowest: float
    """Coverage of the fifth of lowest leverage."""
    highest: float
    """Coverage of the fifth of highest leverage."""

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)

    def __repr__(self) -> str:
        fifths = f"{self.lowest:.3f} - {self.highest:.3f}"
        return f"coverage gap {self.gap:+.4f} (standard error {self.standard_error:.4f}): {fifths}"


def coverage_gap(y_true: Any, interval: Any, leverage: Any, *, repetition: Any = None) -> CoverageGap:
    """Return coverage in the lowest fifth of leverages - coverage in the highest, pooled over repetitions.

    Parameters
    ----------
    y_true : array-like (m,)
        Observed targets of rows that were not used to train or calibrate.
    interval : array-like (m, 2)
        Their intervals, of one output at one level.
    leverage : array-like (m,)
        Their leverages.
    repetition : array-like (m,), optional
        Which of several repetitions (splits, seeds) each row belongs to: fifths are formed within each, and the
        standard error takes repetitions as independent, not rows.

    Returns
    -------
    CoverageGap

    Raises
    ------
    ValueError
        If shapes differ, anything is NaN, all rows have the same leverage, or `repetition` names one repetition.

    Notes
    -----
    The mean of |gap| over repetitions is .033 for perfect coverage of 500 rows; the pooled gap is unbiased. The
    standard error is sqrt(G / (G - 1) sum u^2) over G repetitions (or rows), u the sum of (covered - coverage of the
    fifth) / rows of the fifth, with the sign of the fifth: for rows it is sqrt(sum of coverage (1 - coverage) / rows).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import coverage_gap
    >>> coverage_gap(np.r_[np.zeros(18), 2, 2], np.tile([-1.0, 1.0], (20, 1)), np.arange(20) / 20)
    coverage gap +0.5000 (standard error 0.2565): 1.000 - 0.500
    """
    y, bounds, h = check_interval_rows(y_true, interval, leverage)
    hits = covered(y, bounds[:, 0], bounds[:, 1])
    if repetition is None:
        cluster = np.arange(len(y))
        fifths = leverage_fifths(h)
    else:
        _, cluster = np.unique(_check_row_labels(repetition, len(y), "repetition"), return_inverse=True)
        fifths = np.empty(len(y), dtype=int)
        for index in range(cluster.max() + 1):
            fifths[cluster == index] = leverage_fifths(h[cluster == index])
    return outer_gap(hits, fifths, cluster)


def outer_gap(hits: Bool[Array, " m"], bins: Int[Array, " m"], cluster: Int[Array, " m"]) -> CoverageGap:
    """Gap = coverage of the lowest bin - coverage of the highest; its standard error takes clusters as independent."""
    low, high = bins == bins.min(), bins == bins.max()
    if low.all():
        raise ValueError(f"leverage must differ between rows for a gap to exist; all {len(hits)} rows share one bin.")
    lowest, highest = hits[low].mean(), hits[high].mean()
    influence = low * (hits - lowest) / low.sum() - high * (hits - highest) / high.sum()
    sums = np.bincount(cluster, influence)
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2))
    return CoverageGap(float(lowest - highest), float(error), float(lowest), float(highest))


@dataclass(frozen=True)
class SquaredCoverageError:
    """Mean squared coverage error over leverage bins, raw and debiased, each compared with its size by chance alone.

    Examples
    --------
    >>> from hatband.diagnostics.flatness import SquaredCoverageError
    >>> SquaredCoverageError(0.0021, 0.0003, 0.0018, 0.0, 0.0006, 10)
    squared coverage error 0.00210 (0.00180 by chance alone); debiased 0.00030 (0.00000 -+ 0.00060) over 10 bins
    """

    raw: float
    """Mean over bins of (coverage - level)^2."""
    debiased: float
    """The same less the part that the finite number of rows in a bin adds; may be negative."""
    raw_floor: float
    """Expectation of `raw` when the coverage is the same in every bin."""
    debiased_floor: float
    """Expectation of `debiased` in that case: what the calibration rows add, 0 where their number is not given."""
    standard_error: float
    """Standard deviation of `debiased` in that case, from the rows in the bins."""
    n_bins: int
    """Number of bins that hold at least two rows."""

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)

    def __repr__(self) -> str:
        return (
            f"squared coverage error {self.raw:.5f} ({self.raw_floor:.5f} by chance alone); debiased "
            f"{self.debiased:.5f} ({self.debiased_floor:.5f} -+ {self.standard_error:.5f}) over {self.n_bins} bins"
        )


def squared_coverage_error(
    y_true: Any,
    interval: Any,
    leverage: Any,
    confidence_level: Level,
    *,
    n_bins: int = 10,
    n_calibration: int | None = None,
) -> SquaredCoverageError:
    """Return the mean over leverage bins of (c - level)^2 - c (1 - c) / (m - 1), c the coverage of the m rows of a bin.

    Parameters
    ----------
    y_true : array-like (m,)
        Observed targets of rows that were not used to train or calibrate.
    interval : array-like (m, 2)
        Their intervals, of one output at one level.
    leverage : array-like (m,)
        Their leverages.
    confidence_level : float
        The level that the intervals claim.
    n_bins : int
        Bins of about equally many rows; bins of a single row are left out.
    n_calibration : int, optional
        Number of calibration rows behind symmetric split-conformal intervals: the floors then count their chance too.

    Returns
    -------
    SquaredCoverageError

    Raises
    ------
    ValueError
        If shapes differ, anything is NaN, or no bin holds two rows.

    Notes
    -----
    (c - level)^2 has expectation (p - level)^2 + p (1 - p) / m, p the true coverage of the bin: with 50 rows in a bin
    the second term is .0018 at level 0.9, more than most effects that are looked for. c (1 - c) / (m - 1) estimates it
    without bias. The floors are those of p ~ Beta(k, n + 1 - k), the coverage of a threshold of rank k among n scores
    (Vovk 2012), the same in every bin; the standard error is that of a U-statistic of order 2 at its
    degenerate point, level (1 - level) sqrt(2 / (m (m - 1))) for each bin (Hoeffding 1948).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import squared_coverage_error
    >>> y, interval = np.tile([0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 10), np.tile([-1.0, 1.0], (100, 1))
    >>> squared_coverage_error(y, interval, np.arange(100.0), 0.9, n_bins=5)
    squared coverage error 0.00000 (0.00450 by chance alone); debiased -0.00474 (0.00000 -+ 0.00292) over 5 bins
    """
    y, bounds, h = check_interval_rows(y_true, interval, leverage)
    level = float(exact_level(confidence_level))
    bins = quantile_bins(h, check_at_least(n_bins, 1, "n_bins"))
    groups = [g for g in coverage_by_group(covered(y, bounds[:, 0], bounds[:, 1]), bins) if g.n_samples > 1]
    if not groups:
        raise ValueError(f"a leverage bin must hold at least 2 rows; none of {n_bins} does for {len(y)} rows.")
    m = np.array([g.n_samples for g in groups])
    c = np.array([g.coverage for g in groups])
    mean, variance = _calibrated_coverage(confidence_level, n_calibration)
    shared = variance + (mean - level) ** 2
    within = mean * (1 - mean) - variance
    return SquaredCoverageError(
        raw=float(np.mean((c - level) ** 2)),
        debiased=float(np.mean((c - level) ** 2 - c * (1 - c) / (m - 1))),
        raw_floor=float(shared + within * np.mean(1 / m)),
        debiased_floor=float(shared),
        standard_error=_error_by_chance(m.astype(np.float64), within),
        n_bins=len(groups),
    )


def _error_by_chance(m: Float[Array, " b"], variance: float) -> float:
    """Standard deviation of the mean over bins of U-statistics of m rows with this variance and mean 0."""
    return float(variance * np.sqrt(np.sum(2 / (m * (m - 1)))) / len(m))


def _calibrated_coverage(confidence_level: Level, n_calibration: int | None) -> tuple[float, float]:
    """Mean and variance of the coverage over calibration sets: Beta(k, n + 1 - k), or exactly the level."""
    if n_calibration is None:
        return float(exact_level(confidence_level)), 0.0
    n = check_at_least(n_calibration, 1, "n_calibration")
    mean = upper_rank(n, confidence_level) / (n + 1)
    return mean, mean * (1 - mean) / (n + 2)


def _check_row_labels(labels: Any, n_samples: int, name: str) -> Array:
    """Return one label per row, with at least two different labels."""
    values = np.asarray(labels)
    if values.shape != (n_samples,):
        raise ValueError(f"{name} must hold one label per row, shape ({n_samples},); got shape {values.shape}.")
    if (values == values[0]).all():
        raise ValueError(f"{name} must name at least two repetitions; got one. Leave it out for a single repetition.")
    return values
