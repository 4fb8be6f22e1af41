"""Intervals from models fitted without some training rows: jackknife+, CV+, their min-max and plain forms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.band import Band, Ends, uncrossed
from hatband.formulas.order_statistics import conformal_quantile, kth_smallest, upper_rank


class Reach(NamedTuple):
    """For some new rows and one output: the interval for y by each held-out row.

    Parameters
    ----------
    part : slice or array of int
        Which new rows.
    output : int
        Which output.
    low, high : array (b, n)
        mu_-i(x) -+ spread_i width_-i(x), in the units of y; infinite where there is no finite bound.
    below, above : int
        Held-out rows that are left out because their `high` is known to lie below that of every requested rank, and
        their `low` above; and the reverse.
    """

    part: Any
    output: int
    low: Array
    high: Array
    below: int = 0
    above: int = 0


class HeldOut(ABC):
    """Models, each fitted without one or more training rows, and the scores of the rows that each has not seen.

    `scores` (n, q) are signed, (y_i - mu_-i(x_i)) / width_-i(x_i); infinite where leaving a row out leaves no model.
    """

    #: Whether the models were refitted, or read off the fit to all rows.
    refitted: ClassVar[bool] = False

    scores: Array
    estimator: Any
    space: Any
    scale: Any

    @abstractmethod
    def features(self, X: Any) -> Any:
        """Return rows X in the form that all other methods take; preprocessing runs here, once per call."""

    @abstractmethod
    def prediction(self, features: Any) -> Array:
        """Return what the model of all rows predicts on the scale of y (m, q)."""

    @abstractmethod
    def width(self, features: Any) -> Array:
        """Return the scale's width for the model of all rows (m, 1) or (m, q)."""

    @abstractmethod
    def around(self, features: Any, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i width_-i(x) for spread (n, q), a block of new rows at a time."""

    def near(self, features: Any, spread: Array, ranks: list[int]) -> Iterator[Reach]:
        """Yield what `around` does; held-out rows that cannot have these ranks among the n `high` may be left out."""
        return self.around(features, spread)

    def band(self, features: Any) -> Band:
        """Return the band of the model of all rows."""
        prediction = self.prediction(features)
        return Band(prediction, prediction, self.width(features))


def plus(held: HeldOut, features: Any, m: int, levels: list[Any]) -> list[Ends]:
    """Return the floor((n+1)(1-level))-th smallest mu_-i - R_i w_-i, the ceil((n+1)level)-th smallest mu_-i + R_i w_-i.

    Barber, Candes, Ramdas and Tibshirani (2021), *Predictive inference with the jackknife+*, equations 1.5 and 4.1.
    """
    n, q = held.scores.shape
    bounds = np.full((len(levels), 2, m, q), np.inf)
    bounds[:, 0] = -np.inf
    finite = [(place, upper_rank(n, level)) for place, level in enumerate(levels) if upper_rank(n, level) <= n]
    if finite:
        for part, j, low, high, below, above in held.near(features, np.abs(held.scores), [k for _, k in finite]):
            for place, k in finite:
                bounds[place, 0, part, j] = kth_smallest(low, n + 1 - k - above, axis=1)
                bounds[place, 1, part, j] = kth_smallest(high, k - below, axis=1)
    return [uncrossed(lower, upper) for lower, upper in bounds]


def minmax(held: HeldOut, features: Any, m: int, levels: list[Any]) -> list[Ends]:
    """Return min_i and max_i of mu_-i -+ t w_-i, t the conformal quantile of the scores: Barber et al. (2021), A.3."""
    return [_extremes(held, features, m, threshold) for threshold in _thresholds(held, levels)]


def _extremes(held: HeldOut, features: Any, m: int, threshold: Array) -> Ends:
    lower, upper = np.empty((2, m, held.scores.shape[1]))
    for part, j, low, high, *_ in held.around(features, np.broadcast_to(threshold, held.scores.shape)):
        lower[part, j], upper[part, j] = low.min(axis=1), high.max(axis=1)
    return lower, upper


def base(held: HeldOut, features: Any, m: int, levels: list[Any]) -> list[Ends]:
    """Return mu -+ t w of the model of all rows, t the conformal quantile of the held-out scores: no guarantee."""
    return [held.band(features).ends(-threshold, threshold) for threshold in _thresholds(held, levels)]


def _thresholds(held: HeldOut, levels: list[Any]) -> list[Array]:
    return [conformal_quantile(np.abs(held.scores), level) for level in levels]


METHODS = {"plus": plus, "minmax": minmax, "base": base}
