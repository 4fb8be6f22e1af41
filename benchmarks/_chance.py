"""What chance alone allows: the exact law of how many test rows a split-conformal interval covers."""

from typing import Any

from scipy.stats import betabinom

from hatband.formulas.order_statistics import upper_rank


def covered_law(n_calibration: int, n_test: int, level: float) -> Any:
    """Return BetaBinomial(n_test, k, n + 1 - k), k = ceil((n + 1) level): scores without ties (Vovk 2012)."""
    rank = upper_rank(n_calibration, level)
    return betabinom(n_test, rank, n_calibration + 1 - rank)


def is_outside(inside: int, strictly: int, n_calibration: int, n_test: int, *, level: float, tail: float) -> bool:
    """Whether no split-conformal method would cover so few or so many, but with probability `tail` on either side.

    Ties can only raise coverage: `strictly` counts the rows inside that no rounding of a tie has put there.
    """
    if upper_rank(n_calibration, level) > n_calibration:
        return inside < n_test
    law = covered_law(n_calibration, n_test, level)
    return bool(inside < law.ppf(tail) or strictly > law.isf(tail))
