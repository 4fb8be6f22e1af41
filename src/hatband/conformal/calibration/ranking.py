"""How calibration scores become thresholds: all of them alike, weighted, or those of the row's own group."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.band import too_few
from hatband.conformal.calibration.row_metadata import RowMetadata
from hatband.formulas.order_statistics import conformal_quantile, effective_sample_size, weighted_quantile


class Ranking(ABC):
    """Which calibration rows the score of a new row is ranked among, and how heavily each counts."""

    @abstractmethod
    def quantile(self, scores: Array, level: Any, new: RowMetadata) -> Array:
        """Return upper thresholds, (q,) or (m, q), of scores (n, q) for new rows; +inf where there are too few."""

    @abstractmethod
    def take(self, index: Array) -> "Ranking":
        """Return the same ranking among the calibration rows at `index`."""

    @abstractmethod
    def effective_size(self, n_samples: int) -> float:
        """Return how many equally heavy calibration rows these are worth."""

    @abstractmethod
    def explain(self, infinite: Array, new: RowMetadata, n_samples: int, level: Any, needed: int) -> list[str]:
        """Return sentences on why the new rows (m,) that are marked `infinite` have no finite threshold."""


class PooledRanking(Ranking):
    """Every calibration row counts as one."""

    def quantile(self, scores: Array, level: Any, new: RowMetadata) -> Array:
        """Return the ceil((n + 1) level)-th smallest score of each output (q,)."""
        return conformal_quantile(scores, level)

    def take(self, index: Array) -> "PooledRanking":
        """Return self."""
        return self

    def effective_size(self, n_samples: int) -> float:
        """Return the number of rows."""
        return float(n_samples)

    def explain(self, infinite: Array, new: RowMetadata, n_samples: int, level: Any, needed: int) -> list[str]:
        """Name the number of calibration rows that would do."""
        return [too_few(f"{n_samples} calibration rows", level, needed)]


@dataclass(frozen=True, eq=False)
class WeightedRanking(Ranking):
    """Every calibration row counts with its likelihood ratio, and so does the new row.

    Parameters
    ----------
    weights : array (n,)
    """

    weights: Array

    def quantile(self, scores: Array, level: Any, new: RowMetadata) -> Array:
        """Return weighted quantiles (m, q), with the new row's own weight at +inf."""
        columns = [weighted_quantile(column, self.weights, new.weights, level) for column in scores.T]
        return np.column_stack(columns)

    def take(self, index: Array) -> "WeightedRanking":
        """Return the ranking with the weights of these rows."""
        return WeightedRanking(self.weights[index])

    def effective_size(self, n_samples: int) -> float:
        """Return (sum w)^2 / sum w^2."""
        return effective_sample_size(self.weights)

    def explain(self, infinite: Array, new: RowMetadata, n_samples: int, level: Any, needed: int) -> list[str]:
        """Name the effective sample size."""
        return [
            f"{infinite.sum()} of {len(infinite)} rows weigh too much for confidence level {level}: their intervals "
            f"are (-inf, inf). The {n_samples} calibration rows are worth {self.effective_size(n_samples):.3g} equally "
            f"heavy ones, and of those at least {needed} would be needed. Calibrate with more rows from where the new "
            "rows lie."
        ]


@dataclass(frozen=True, eq=False)
class GroupedRanking(Ranking):
    """Among the calibration rows of the new row's own group (Mondrian); an empty pool makes infinite thresholds.

    Parameters
    ----------
    pools : mapping of label to array of int
        The calibration rows that each known group is ranked among.
    unseen : array of int
        The same for every other group.
    sizes : mapping of label to int
        Calibration rows of each known group.
    minimum_size : int
        Fewest rows that a group calibrates with.
    inner : Ranking
        Ranking among all rows.
    """

    pools: Mapping[Any, Array]
    unseen: Array
    sizes: Mapping[Any, int]
    minimum_size: int
    inner: Ranking

    def quantile(self, scores: Array, level: Any, new: RowMetadata) -> Array:
        """Return the inner ranking's thresholds (m, q) among each row's own group."""
        result = np.empty((new.n_samples, scores.shape[1]))
        for label, at in positions(new.groups or []).items():
            pool = self.pools.get(label, self.unseen)
            result[at] = self.inner.take(pool).quantile(scores[pool], level, new.take(at))
        return result

    def take(self, index: Array) -> Ranking:
        """Return the inner ranking: rows of one group are not grouped again."""
        return self.inner.take(index)

    def effective_size(self, n_samples: int) -> float:
        """Return the effective size of all groups together."""
        return self.inner.effective_size(n_samples)

    def explain(self, infinite: Array, new: RowMetadata, n_samples: int, level: Any, needed: int) -> list[str]:
        """Name the groups that calibration has not seen, those that are too small, and what others say."""
        at = positions(new.groups or [])
        found = {label: rows[infinite[rows]] for label, rows in at.items() if infinite[rows].any()}
        unseen = {label: rows for label, rows in found.items() if label not in self.sizes}
        needed = max(needed, self.minimum_size)
        small = {label: rows for label, rows in found.items() if self.sizes.get(label, needed) < needed}
        told = []
        if unseen:
            told.append(
                f"{_count(unseen)} of {len(infinite)} rows belong to groups that calibration has not seen "
                f"({_listed(map(repr, unseen))}): their intervals are (-inf, inf). Calibrate with rows of these "
                "groups, or pass groups=Groups(unseen='pooled')."
            )
        if small:
            sizes = (f"{label!r}: {self.sizes[label]}" for label in small)
            told.append(
                f"{_count(small)} of {len(infinite)} rows belong to groups with fewer than the {needed} calibration "
                f"rows needed at confidence level {level} ({_listed(sizes)}): their intervals are (-inf, inf). "
                "Calibrate with more rows, or merge these groups."
            )
        for label in found.keys() - unseen.keys() - small.keys():
            part = infinite[at[label]]
            told += self.inner.explain(part, new.take(at[label]), self.sizes[label], level, needed)
        return told


def positions(labels: list[Any]) -> dict[Any, Array]:
    """Return where each label stands, in the order of first appearance."""
    codes: dict[Any, int] = {}
    code = np.fromiter((codes.setdefault(label, len(codes)) for label in labels), dtype=np.intp, count=len(labels))
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=len(codes)))
    return dict(zip(codes, np.split(order, ends[:-1]), strict=True)) if codes else {}


def _count(found: Mapping[Any, Array]) -> int:
    return sum(len(rows) for rows in found.values())


def _listed(names: Any, most: int = 5) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
