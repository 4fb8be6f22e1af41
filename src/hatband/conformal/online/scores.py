"""The latest scores of one column, kept in order: p-values and thresholds in the time that finding a place takes."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

import numpy as np

from hatband.arrays.typing import Array, Float


def rank_at(miscoverage: float, n: int) -> int:
    """Return the rank of the threshold among n scores: the number of ranks r with 1 - (r - 1) / (n + 1) > miscoverage.

    At a miscoverage of 1 - level this is `order_statistics.upper_rank(n, level)`. Adapted miscoverages are arbitrary
    numbers, at and beyond 0 and 1 too: rank n + 1 (infinite) at <= 0, and rank 1 (the least score) at its limit of 0.
    Comparing rounded quotients makes "p-value <= miscoverage" and "score > threshold" the same event.
    """
    dropped = min(int(min(max(miscoverage, 0.0), 1.0) * (n + 1)), n)
    while dropped < n and (dropped + 1) / (n + 1) <= miscoverage:
        dropped += 1
    while dropped and dropped / (n + 1) > miscoverage:
        dropped -= 1
    return n + 1 - dropped


class ScoreWindow:
    """The latest `size` scores of one column of a stream, larger being stranger, with the p-values they came with.

    Parameters
    ----------
    size : int
        How many scores are kept.

    Notes
    -----
    O(log size) comparisons per row and one move within a list of `size` numbers. Memory: three numbers per score.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._p_values: deque[float] = deque(maxlen=size)

    def copy(self) -> "ScoreWindow":
        """Return a window that moves on its own."""
        other = ScoreWindow(self.size)
        other._recent, other._ordered = self._recent.copy(), self._ordered.copy()
        other._p_values = self._p_values.copy()
        return other

    def __len__(self) -> int:
        return len(self._ordered)

    @property
    def p_values(self) -> Float[Array, " n"]:
        """P-values of the scores that are kept, oldest first."""
        return np.array(self._p_values, dtype=np.float64)

    def threshold(self, miscoverage: float) -> float:
        """Return the threshold that a score exceeds when its p-value is at most the miscoverage; inf at rank n + 1."""
        rank = rank_at(miscoverage, len(self._ordered))
        return self._ordered[rank - 1] if rank <= len(self._ordered) else float("inf")

    def follow(self, scores: Float[Array, " n"]) -> Float[Array, " n"]:
        """Take scores in, one after the other, and return the p-value of each among those before it."""
        p_values = np.array([self._met(score) for score in scores.tolist()], dtype=np.float64)
        self._p_values.extend(p_values.tolist())
        return p_values

    def thresholds(self, scores: Float[Array, " n"], miscoverages: Float[Array, " k n"]) -> Float[Array, " k n"]:
        """Return the thresholds before each of these scores is taken in, one row per sequence of miscoverages."""
        walk = self.copy()
        found = [[walk.threshold(value) for value in column] for column in walk._before_each(scores, miscoverages)]
        return np.array(found, dtype=np.float64).reshape(len(scores), len(miscoverages)).T

    def _before_each(self, scores: Array, miscoverages: Array) -> Iterator[list[float]]:
        """Yield the miscoverages of each row while the window stands before it."""
        for score, column in zip(scores.tolist(), miscoverages.T.tolist(), strict=True):
            yield column
            self._push(score)

    def _met(self, score: float) -> float:
        """Return (1 + number of scores >= score) / (n + 1), then take the score in."""
        n = len(self._ordered)
        p_value = (1 + n - bisect_left(self._ordered, score)) / (n + 1)
        self._push(score)
        return p_value

    def _push(self, score: float) -> None:
        insort(self._ordered, score)
        self._recent.append(score)
        if len(self._recent) > self.size:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
