"""The scores of full conformal prediction: how each makes intervals and sets from new rows and training rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rank_bounds import RankBounds
from hatband.fitted.smoother import Smoother
from hatband.formulas.full_conformal import (
    CrossedRows,
    Pieces,
    Scales,
    absolute_scales,
    acceptance,
    deleted_scales,
    known,
    studentised_interval,
    studentised_range,
)
from hatband.formulas.order_statistics import lower_rank, upper_rank

# Numbers per array while roots are worked out: half a dozen such arrays stay in the cache.
CACHED_NUMBERS = 2**17


def rows_near(smoother: Smoother, ranks: list[int]) -> Callable[[Array], RankBounds] | None:
    """Return a function: for new rows of leverage h (b, k), the training rows whose roots can have one of the ranks.

    None where every training row has to be looked at: at infinite ranks, and where rows have weights.
    """
    finite = [rank for rank in ranks if rank <= smoother.n_samples]
    if smoother.weights is not None or not finite:
        return None
    residuals, shape = smoother.residuals, smoother.residuals.shape
    leverage = np.broadcast_to(smoother.leverage, shape)

    def choose(h: Array) -> RankBounds:
        new = np.broadcast_to(h, (len(h), shape[1]))
        ranges = [studentised_range(residuals[:, j], leverage[:, j], new[:, j]) for j in range(shape[1])]
        return RankBounds.among(ranges, finite)

    return choose


class FullScore(Protocol):
    """A conformity score whose prediction sets have a closed form."""

    def bounds(self, fit: CrossedRows, level: Any) -> tuple[Array, Array]:
        """Return the hull of each row's prediction set, (m,) and (m,)."""
        ...

    def sets(self, fit: CrossedRows, level: Any) -> list[Array]:
        """Return the pieces (k, 2) of each row's prediction set."""
        ...


@dataclass(frozen=True)
class Studentised:
    """Residuals over sqrt(1 - h): every training row accepts an interval around mu(x), so the set is an interval."""

    def bounds(self, fit: CrossedRows, level: Any) -> tuple[Array, Array]:
        """Return the interval by selection."""
        return studentised_interval(fit, upper_rank(fit.n_samples, level))

    def sets(self, fit: CrossedRows, level: Any) -> list[Array]:
        """Return the interval as one piece."""
        return list(np.stack(self.bounds(fit, level), axis=-1)[:, None, :])


@dataclass(frozen=True)
class Swept:
    """Any other scaling of residuals: a sweep over the ends of the sets that training rows accept.

    Parameters
    ----------
    scales : callable(fit) -> Scales
    """

    scales: Callable[[CrossedRows], Scales]

    def bounds(self, fit: CrossedRows, level: Any) -> tuple[Array, Array]:
        """Return the hull of the pieces."""
        low, high = self._pieces(fit, level).hull()
        growth = fit.growth[:, 0]
        return known(fit, fit.prediction + growth * low, fit.prediction + growth * high)

    def sets(self, fit: CrossedRows, level: Any) -> list[Array]:
        """Return the pieces; the whole line where the leverage is infinite."""
        pieces, line = self._pieces(fit, level), np.array([[-np.inf, np.inf]])
        known_rows = np.isfinite(fit.new_leverage)
        at, growth = fit.prediction, fit.growth[:, 0]
        return [at[i] + growth[i] * pieces.row(i) if known_rows[i] else line for i in range(len(at))]

    def _pieces(self, fit: CrossedRows, level: Any) -> Pieces:
        return Pieces.of(acceptance(fit, self.scales(fit)), lower_rank(len(fit.residuals), level))


SCORES: dict[str, FullScore] = {
    "studentised": Studentised(),
    "absolute": Swept(absolute_scales),
    "deleted": Swept(deleted_scales),
}
