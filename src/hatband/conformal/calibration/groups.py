"""Coverage within groups: categories, or bins of leverage, each calibrated by its own rows (Mondrian)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
from hatband.checks import check_at_least, check_in
from hatband.conformal.calibration.calibration import (
    FromInputs,
    FromLeverage,
    MetadataSource,
    Passed,
    Ranking,
    RowMetadata,
    one_leverage,
)
from hatband.fitted.rows import Rows

#: Bins of leverage expect this many times the rows that the level needs: fewer than it needs are then very rare.
EXPECTED_OVER_NEEDED = 3


class LeverageBins(BaseEstimator):
    """k groups by leverage, cut at the quantiles i / k of the training rows' leave-one-out leverage h / (1 - h).

    The edges come from training rows alone, and so does the merging of bins (from their share of training rows and the
    number of calibration rows): each bin keeps the guarantee exactly.

    Parameters
    ----------
    n_bins : int, default=5
        Fewer where leverages are tied, or a bin would expect too few calibration rows.

    Raises
    ------
    ValueError
        In fit, if n_bins is not an integer >= 1.

    Notes
    -----
    P(y in interval | bin of leverage) >= level. Where each output has its own ridge, the largest leverage counts.
    Cost: one leverage per row.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LeverageBins, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(groups=LeverageBins(3), random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    def __init__(self, n_bins: int = 5) -> None:
        self.n_bins = n_bins


class Groups(BaseEstimator):
    """Which group a row belongs to, and what happens to groups that are small or were not seen in calibration.

    Parameters
    ----------
    by : None, str, callable or LeverageBins, default=None
        None: labels are passed as ``groups=`` to fit (or calibrate) and predict_interval. A string names a column of a
        DataFrame, a callable makes labels (m,) from X, `LeverageBins` makes bins of leverage.
    minimum_size : int or None, default=None
        Fewest calibration rows of a group. None: as many as the level needs, and for bins of leverage an expected
        number three times as large.
    small : {"auto", "merge", "infinite", "pooled"}, default="auto"
        What smaller groups get: "merge" (bins of leverage only) joins neighbours, "infinite" gives (-inf, inf),
        "pooled" uses the threshold of all rows, which holds on average over groups and not in the group. "auto" merges
        bins, and is "infinite" for other groups.
    unseen : {"infinite", "pooled"}, default="infinite"
        What groups that calibration has not seen get.

    Raises
    ------
    ValueError
        In fit, if a setting is not one of these.

    Notes
    -----
    P(y in interval | group) >= level for every group, when its calibration rows and new rows are exchangeable. Vovk,
    Gammerman and Shafer (2005), section 4.5 (Mondrian conformal prediction); Vovk (2012).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import Groups, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> older = Groups(by=lambda X: X[:, 0] > 0, unseen="pooled")
    >>> SplitConformalRegressor(groups=older, random_state=0).fit(X, y).predict_interval(X)[1].shape
    (442, 2)
    """

    def __init__(
        self,
        by: Any = None,
        *,
        minimum_size: int | None = None,
        small: Literal["auto", "merge", "infinite", "pooled"] = "auto",
        unseen: Literal["infinite", "pooled"] = "infinite",
    ) -> None:
        self.by = by
        self.minimum_size = minimum_size
        self.small = small
        self.unseen = unseen


@dataclass(frozen=True, eq=False)
class GroupedRanking(Ranking):
    """Among the calibration rows of the new row's own group (Mondrian); an empty pool makes infinite thresholds.

    Parameters
    ----------
    pools : mapping of label to array of int
        The calibration rows that each known group is ranked among.
    unseen : array of int
        The calibration rows for every other group.
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
        """Name the groups that calibration has not seen and those that are too small; for other groups ask `inner`."""
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
    """Return the positions of each label, in the order of first appearance."""
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


@dataclass(frozen=True)
class Column:
    """Reads a column of a DataFrame.

    Parameters
    ----------
    name : str
    """

    name: str

    def __call__(self, X: Any) -> Any:
        """Return the column."""
        _check_column_named(X, self.name)
        return _safe_indexing(X, self.name, axis=1)


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of leverage: inner edges, and the share of training rows in each.

    Parameters
    ----------
    edges : array (k - 1,)
    shares : array (k,)
    """

    edges: Array
    shares: Array

    @classmethod
    def of(cls, leverage: Array, n_bins: int) -> Self:
        """Cut at quantiles of training leverages; tied edges become one."""
        known = leverage[~np.isnan(leverage)]
        inner = np.quantile(known, np.arange(1, n_bins) / n_bins, method="lower") if n_bins > 1 else np.empty(0)
        edges = np.unique(inner)
        counts = np.bincount(np.searchsorted(edges, known), minlength=len(edges) + 1)
        return cls(edges, counts / counts.sum())

    def merged(self, n_samples: int, minimum: int) -> Self:
        """Join neighbours, from the smallest leverage on, until each bin expects `minimum` of `n_samples` rows."""
        kept: list[int] = []
        expected = 0.0
        for index, share in enumerate(self.shares):
            expected += n_samples * share
            if expected >= minimum:
                kept.append(index)
                expected = 0.0
        # The last bin has no upper edge: it takes what remains.
        return replace(self, edges=self.edges[kept[:-1]])


@dataclass(frozen=True, eq=False)
class Grouping:
    """Settings of groups, with what was learned from training rows.

    Parameters
    ----------
    settings : Groups
    bins : Bins or None
    """

    settings: Groups
    bins: Bins | None = None

    @classmethod
    def of(cls, groups: Any, training_rows: Callable[[], Rows]) -> Self:
        """Check settings, and cut bins at quantiles of the leave-one-out leverage of training rows."""
        settings = groups if isinstance(groups, Groups) else Groups(groups)
        by = settings.by
        check_in(settings.small, ("auto", "merge", "infinite", "pooled"), "small")
        check_in(settings.unseen, ("infinite", "pooled"), "unseen")
        if settings.minimum_size is not None:
            check_at_least(settings.minimum_size, 1, "minimum_size")
        if isinstance(by, LeverageBins):
            return cls(settings, Bins.of(one_leverage(training_rows()), check_at_least(by.n_bins, 1, "n_bins")))
        if not (by is None or isinstance(by, str) or callable(by)):
            raise TypeError(
                "groups must be None, the name of a column, a callable(X) -> labels, LeverageBins or Groups; got "
                f"{type(by).__name__}. Labels themselves go to fit, calibrate and predict_interval."
            )
        _check_merge(by, settings.small)
        return cls(settings)

    def at(self, n_samples: int, needed: Callable[[], int]) -> Self:
        """Return the grouping for a number of calibration rows: bins that would expect too few are joined."""
        if self.bins is None or self.settings.small not in ("auto", "merge"):
            return self
        minimum = self.settings.minimum_size or EXPECTED_OVER_NEEDED * needed()
        return replace(self, bins=self.bins.merged(n_samples, minimum))

    @property
    def source(self) -> MetadataSource:
        """Where the label of a row comes from."""
        by = self.settings.by
        if self.bins is not None:
            return FromLeverage(self.bins.edges)
        if by is None:
            return Passed()
        return FromInputs(Column(by) if isinstance(by, str) else by)

    def ranking(self, labels: list[Any], inner: Ranking) -> GroupedRanking:
        """Return the ranking within groups, given the labels of the calibration rows."""
        everyone, nobody = np.arange(len(labels)), np.arange(0)
        members = positions(labels)
        if self.bins is not None:
            members = {label: members.get(label, nobody) for label in range(len(self.bins.edges) + 1)}
        # Bins that were to be merged are as they were planned: their counts must not decide anything.
        counted = self.bins is None or self.settings.small in ("infinite", "pooled")
        minimum = (self.settings.minimum_size or 1) if counted else 1
        instead = everyone if self.settings.small == "pooled" else nobody
        return GroupedRanking(
            pools={label: rows if len(rows) >= minimum else instead for label, rows in members.items()},
            unseen=everyone if self.settings.unseen == "pooled" else nobody,
            sizes={label: len(rows) for label, rows in members.items()},
            minimum_size=minimum,
            inner=inner,
        )


def _check_column_named(X: Any, column: str) -> None:
    """Raise unless X has a column of this name."""
    names = getattr(X, "columns", None)
    if names is None:
        raise ValueError(
            f"groups={column!r} names a column, so X must be a DataFrame; got {type(X).__name__}. Pass groups as a "
            "function of X, or as an array to fit, calibrate and predict_interval."
        )
    if column not in names:
        raise ValueError(f"groups={column!r} must be a column of X; its columns are {list(names)}.")


def _check_merge(by: Any, small: str) -> None:
    """Raise if groups without neighbours should be merged."""
    if small == "merge":
        raise ValueError(
            f"small='merge' needs groups with neighbours, that is by=LeverageBins(...); got by={by!r}. Use "
            "small='infinite' or 'pooled', or merge such groups in the labels."
        )


#: Labels that are passed with the rows, for a model whose constructor names no groups.
PASSED_LABELS = Grouping(Groups())
