"""Whether the width follows leverage as far as the errors do, too little or too much."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite, check_leverages, check_row_values
from hatband.formulas.metrics import quantile_bins
from hatband.formulas.order_statistics import Level, exact_level


@dataclass(frozen=True)
class LeverageAlignment:
    """Rank correlation of |score| = |error| / width with leverage: positive where the width grows too slowly.

    Examples
    --------
    >>> from hatband.diagnostics.alignment import LeverageAlignment
    >>> LeverageAlignment(rank_correlation=0.2, p_value=1e-4, ratio=1.5, n_samples=400, significance=0.05)
    under-corrects: scores grow with leverage (rank correlation +0.200, p = 0.0001; highest fifth / lowest: 1.50)
    """

    rank_correlation: float
    """Of |score| with leverage."""
    p_value: float
    """Two-sided, of no dependence."""
    ratio: float
    """Mean |score| in the fifth of highest leverage / mean |score| in the lowest; 1 is aligned."""
    n_samples: int
    significance: float
    """The p-value from which misalignment is stated."""

    @property
    def verdict(self) -> str:
        """One of "under-corrects", "over-corrects" and "no misalignment seen"."""
        if self.p_value > self.significance:
            return "no misalignment seen"
        return "under-corrects" if self.rank_correlation > 0 else "over-corrects"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict by name."""
        return asdict(self) | {"verdict": self.verdict}

    def __repr__(self) -> str:
        meaning = {
            "under-corrects": "under-corrects: scores grow with leverage",
            "over-corrects": "over-corrects: scores fall with leverage",
            "no misalignment seen": f"no misalignment seen in {self.n_samples} rows",
        }[self.verdict]
        return (
            f"{meaning} (rank correlation {self.rank_correlation:+.3f}, p = {self.p_value:.2g}; "
            f"highest fifth / lowest: {self.ratio:.2f})"
        )


def leverage_alignment(scores: Any, leverage: Any, *, significance: Level = 0.05) -> LeverageAlignment:
    """Return the rank correlation of |score| with leverage: > 0 the scale under-corrects, < 0 it over-corrects.

    A score is an error divided by the width that the scale gave its row. If scores still grow with leverage, the width
    does not grow enough: take a larger power, or a learned scale. If they fall, it grows too much: take a smaller
    power, or the constant scale.

    Parameters
    ----------
    scores : array-like (n,) or (n, 1)
        Scores of rows that the model has not seen, signed or not: a model's ``scores_``.
    leverage : array-like (n,)
        Leverages of the same rows: ``model.leverage(X[model.calibration_indices_])`` after ``fit``. Rows of infinite
        leverage are left out: their width is infinite and their score 0, for any error.
    significance : float
        The p-value from which misalignment is stated.

    Returns
    -------
    LeverageAlignment

    Raises
    ------
    ValueError
        If shapes differ, anything is NaN, or there are fewer than 3 rows of finite leverage.

    Notes
    -----
    Spearman's (1904) correlation, because leverages are skewed and the spread of scores is what varies: the p-value of
    a least squares slope would hold for neither. Student's t with n - 2 degrees of freedom. A monotone trend is what it
    sees. The error of the fit is one draw that all rows share: with thousands of rows a small p-value may speak of this
    fit more than of the scale, so look at the ratio too. To choose a scale, use `AutoScale`, which spends no
    calibration rows: a scale that is chosen by these very scores loses the guarantee.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.diagnostics import leverage_alignment
    >>> rng = np.random.default_rng(0)
    >>> h = rng.uniform(0, 3, 400)
    >>> error = np.sqrt(1 + h) * rng.standard_normal(400)
    >>> [leverage_alignment(error / (1 + h) ** power, h).verdict for power in (0, 0.5, 1)]
    ['under-corrects', 'no misalignment seen', 'over-corrects']
    """
    h = check_leverages(leverage)
    size = np.abs(check_row_values(scores, len(h), "scores"))
    finite = np.isfinite(h)
    size, h = size[finite], h[finite]
    if len(h) < 3:
        raise ValueError(f"alignment needs at least 3 rows of finite leverage; got {len(h)}.")
    correlation = _rank_correlation(size, h)
    return LeverageAlignment(
        rank_correlation=correlation,
        p_value=_p_value(correlation, len(h)),
        ratio=_outer_ratio(size, h),
        n_samples=len(h),
        significance=float(exact_level(significance)),
    )


def _rank_correlation(a: Float[Array, " n"], b: Float[Array, " n"]) -> float:
    """Spearman's correlation, ties by mean rank; 0 where one side is constant."""
    ranks = np.stack([rankdata(a), rankdata(b)])
    return 0.0 if (np.ptp(ranks, axis=1) == 0).any() else float(np.clip(np.corrcoef(ranks)[0, 1], -1, 1))


def _p_value(correlation: float, n: int) -> float:
    """Two-sided, by Student's t with n - 2 degrees of freedom."""
    if abs(correlation) == 1:
        return 0.0
    return float(2 * student.sf(abs(correlation) * np.sqrt((n - 2) / (1 - correlation**2)), n - 2))


def _outer_ratio(size: Float[Array, " n"], h: Float[Array, " n"]) -> float:
    """Mean of the highest fifth over mean of the lowest; infinite, or 1, where the lowest is all zero."""
    fifths = quantile_bins(h, 5)
    low, high = (float(size[fifths == edge].mean()) for edge in (fifths.min(), fifths.max()))
    if low == 0:
        return 1.0 if high == 0 else float("inf")
    return high / low


def leverage_variation(leverage: Any) -> float:
    """Return eta = standard deviation / mean of leverages: the variation that a leverage scale can use.

    Parameters
    ----------
    leverage : array-like (n,)
        Finite, >= 0.

    Returns
    -------
    float
        Near 0 all rows are equally far from the training rows, and every function of leverage is nearly a constant;
        from about 1 on, some rows are much further out than other rows.

    Raises
    ------
    ValueError
        If a leverage is negative, NaN or infinite.

    Notes
    -----
    Fadnavis (2026), arXiv 2602.12693. It says nothing about the size of h itself: with h far below 1 the width
    (1 + h)^1/2 hardly varies for any eta.

    Examples
    --------
    >>> from hatband.diagnostics import leverage_variation
    >>> leverage_variation([0.1, 0.1, 0.1, 0.5])
    0.8660254037844386
    """
    h = check_leverages(leverage)
    check_finite(h, "leverage")
    return float(h.std() / h.mean()) if h.any() else 0.0
