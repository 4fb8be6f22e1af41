"""Statistics of all rows of a stream, or of its latest ones: nothing is ever subtracted, so no error accumulates."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from hatband.arrays.typing import Array, Float
from hatband.linalg import TriangularStatistics


class RowMemory(Protocol):
    """What a stream keeps of its rows."""

    def add(self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]) -> "RowMemory":
        """Return the memory with a block more."""
        ...

    def total(self) -> TriangularStatistics:
        """Return the statistics of the rows that are remembered."""
        ...


@dataclass(frozen=True, eq=False)
class GrowingMemory:
    """Statistics of all rows: O(d^2) numbers, 2 d^2 operations per row.

    Parameters
    ----------
    statistics : TriangularStatistics
        Of all rows so far.
    """

    statistics: TriangularStatistics

    def add(
        self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]
    ) -> "GrowingMemory":
        """Return the memory with a block more."""
        return GrowingMemory(self.statistics.add(features, y, weights))

    def total(self) -> TriangularStatistics:
        """Return the statistics of all rows."""
        return self.statistics


@dataclass(frozen=True, eq=False)
class SlidingMemory:
    """Statistics of the latest rows, as a queue of blocks made of two stacks: dropping a block subtracts nothing.

    Parameters
    ----------
    window, block_size : int
        At least `window` rows are kept, in blocks of at least `block_size` rows.
    old : tuple of TriangularStatistics
        Statistics of the older blocks from some block on; the last entry has all of them.
    new : tuple of TriangularStatistics
        Statistics of each newer block.
    recent : TriangularStatistics
        All newer blocks together.
    open : TriangularStatistics
        Rows of the block that is being filled.

    Notes
    -----
    Three merges per block on average; one block in window / block_size pays for all of them. Memory: a triangle of d^2
    numbers per block. Rows kept: at least `window`, fewer than `window` + 3 `block_size`.
    """

    window: int
    block_size: int
    old: tuple[TriangularStatistics, ...]
    new: tuple[TriangularStatistics, ...]
    recent: TriangularStatistics
    open: TriangularStatistics

    def add(
        self, features: Float[Array, "b d"], y: Float[Array, "b q"], weights: Float[Array, " b"]
    ) -> "SlidingMemory":
        """Return the memory with a block more, less the blocks that the window has left."""
        grown = replace(self, open=self.open.add(features, y, weights))
        if grown.open.n_samples >= self.block_size:
            grown = grown._closed()
        while grown._rows() - grown._oldest() >= self.window:
            grown = grown._turned()._dropped()
        return grown

    def total(self) -> TriangularStatistics:
        """Return the statistics of the rows in the window."""
        newest = self.recent.merge(self.open)
        return self.old[-1].merge(newest) if self.old else newest

    def _closed(self) -> "SlidingMemory":
        empty = _empty_like(self.open)
        return replace(self, new=(*self.new, self.open), recent=self.recent.merge(self.open), open=empty)

    def _turned(self) -> "SlidingMemory":
        """When the older stack is used up, the newer blocks become it."""
        if self.old:
            return self
        suffixes = tuple(accumulate(reversed(self.new), lambda later, block: block.merge(later)))
        return replace(self, old=suffixes, new=(), recent=_empty_like(self.recent))

    def _dropped(self) -> "SlidingMemory":
        return replace(self, old=self.old[:-1])

    def _rows(self) -> int:
        return (self.old[-1].n_samples if self.old else 0) + self.recent.n_samples + self.open.n_samples

    def _oldest(self) -> int:
        """Number of rows in the oldest closed block; all rows where there is none."""
        if self.old:
            return self.old[-1].n_samples - (self.old[-2].n_samples if len(self.old) > 1 else 0)
        return self.new[0].n_samples if self.new else self._rows()


def _empty_like(statistics: TriangularStatistics) -> TriangularStatistics:
    return TriangularStatistics.empty(statistics.n_features, statistics.n_targets)


def row_memory(n_features: int, n_targets: int, window: int | None, block_size: int) -> RowMemory:
    """Return an empty memory for all rows (window None) or the latest ones."""
    empty = TriangularStatistics.empty(n_features, n_targets)
    if window is None:
        return GrowingMemory(empty)
    return SlidingMemory(window, block_size, (), (), empty, empty)
