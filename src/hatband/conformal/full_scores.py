"""Full conformal prediction: new rows beside the training rows, and how each score turns these into sets."""

from collections.abc import Callable, Iterator
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
from hatband.geometry import Features

# Numbers per array while roots are worked out: half a dozen such arrays stay in the cache.
CACHED_NUMBERS = 2**17


def crossed(smoother: Smoother, features: Features, block_size: int | None) -> Iterator[tuple[slice, int, CrossedRows]]:
    """Yield (part of the new rows, output, these rows beside all training rows), in the order of the rows."""
    size = max(1, CACHED_NUMBERS // smoother.n_samples)
    for block in smoother.crossed(features, size if block_size is None else min(size, block_size)):
        yield from ((block.index, j, rows) for j, rows in block.outputs())


def near(
    smoother: Smoother, features: Features, block_size: int | None, ranks: list[int]
) -> Iterator[tuple[Any, int, CrossedRows]]:
    """Yield the same beside training rows whose studentised roots can have one of these ranks; others are counted."""
    finite = [rank for rank in ranks if rank <= smoother.n_samples]
    if smoother.weights is not None or not finite:
        yield from crossed(smoother, features, block_size)
        return

    def choose(h: Array) -> RankBounds:
        columns = zip(smoother.residuals.T, np.broadcast_to(smoother.leverage, smoother.residuals.shape).T, strict=True)
        new = np.broadcast_to(h, (len(h), smoother.n_outputs)).T
        return RankBounds.among(
            [studentised_range(e, own, at) for (e, own), at in zip(columns, new, strict=True)], finite
        )

    for block in smoother.crossed(features, block_size, choose):
        yield from ((block.index, j, rows) for j, rows in block.outputs())


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
