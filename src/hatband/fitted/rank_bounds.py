"""Which training rows can have a given rank in the jackknife+, found before any cross-leverage is computed.

h(x, x_i)^2 <= h(x) h(x_i) (Cauchy and Schwarz in the metric A^-1), so mu_-i(x) stays within a known distance of mu(x),
and with it mu_-i(x) + R_i w_-i(x). Rows whose range lies wholly below or above that of the rank wanted need only be
counted: of tall data a few in a hundred remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.formulas.full_conformal import SLACK
from hatband.formulas.order_statistics import kth_smallest


@dataclass(frozen=True, eq=False)
class RankBounds:
    """Training rows that may have some ranks for a block of new rows, and how many other rows lie on each side.

    Parameters
    ----------
    columns : array of int or slice
        Their positions.
    below, above : array (q,)
        How many other rows have mu_-i + R_i w_-i below that of the ranks (and mu_-i - R_i w_-i above), or the reverse.
    """

    columns: Any
    below: Array
    above: Array

    @classmethod
    def among(cls, ranges: Sequence[tuple[Array, Array]], ranks: Sequence[int]) -> Self:
        """Return the rows that may have given ranks, by the least and largest value that each can take, per output."""
        sides = [_sides(least, largest, min(ranks), max(ranks)) for least, largest in ranges]
        out = np.logical_and.reduce([under | over for under, over in sides])
        below = np.array([np.count_nonzero(under & out) for under, _ in sides])
        above = np.array([np.count_nonzero(over & out) for _, over in sides])
        return cls(np.flatnonzero(~out), below, above)

    @classmethod
    def unknown(cls, n_outputs: int) -> Self:
        """Return bounds that exclude no row: all training rows, in their order."""
        nothing = np.zeros(n_outputs, dtype=int)
        return cls(slice(None), nothing, nothing)


def _sides(least: Array, largest: Array, first: int, last: int) -> tuple[Array, Array]:
    """Return which rows lie below every value that the ranks can take, and which above."""
    return largest < kth_smallest(least, first), least > kth_smallest(largest, last)


def value_range(
    spread: Array, residuals: Array, h_train: Array, w: Array | None, *, h: Array, power: float
) -> tuple[Array, Array]:
    """Return the least and largest (mu_-i(x) + spread_i w_-i(x) - mu(x)) / (1 + h(x))^p over new rows of leverage h.

    mu_-i moves by at most (h h_i)^1/2 w_i |r_i|, and w_-i^(1/p) = 1 + h + f_i h(x, x_i)^2 lies between 1 + h and
    (1 + h) (1 + f_i h_i h / (1 + h)), f_i = w_i / (1 - w_i h_i).
    """
    weight = 1.0 if w is None else w
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        swing = np.max(np.where(np.isinf(h), _at_infinity(power), np.sqrt(h) / (1 + h) ** power))
        share = np.max(np.where(np.isinf(h), 1.0, h / (1 + h)))
        shift = SLACK * swing * np.sqrt(h_train) * weight * np.abs(residuals)
        growth = (1 + SLACK * share * weight * h_train / (1 - weight * h_train)) ** power
        least, largest = spread - shift, spread * growth + shift
    unknown = ~np.isfinite(residuals)
    return np.where(unknown, np.inf, _or(least, -np.inf)), np.where(unknown, np.inf, _or(largest, np.inf))


def _at_infinity(power: float) -> float:
    """The limit of h^1/2 / (1 + h)^p for h to infinity."""
    return np.inf if power < 0.5 else float(power == 0.5)


def _or(values: Array, unknown: float) -> Array:
    return np.where(np.isnan(values), unknown, values)
