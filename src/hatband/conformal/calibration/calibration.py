"""Calibration: the scores, which of them a new row is compared with, and the weight of each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from sklearn.utils._missing import is_pandas_na, is_scalar_nan

from hatband.arrays.backend import on_host
from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning, check_likelihood_ratio, warn_caller
from hatband.conformal.band import Band, Ends, thresholds, too_few
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import (
    conformal_quantile,
    effective_sample_size,
    minimum_calibration_size,
    weighted_quantile,
)


@dataclass(frozen=True, eq=False)
class RowMetadata:
    """The group (None: one group) and the weight (None: all equal) of each of some rows.

    Parameters
    ----------
    n_samples : int
    groups : list or None
        One hashable label per row.
    weights : array (n,) or None
        Finite and >= 0.
    """

    n_samples: int
    groups: list[Any] | None = None
    weights: Array | None = None

    def take(self, index: Array) -> "RowMetadata":
        """Return the metadata of the rows at `index`, without groups: rows of one group are not grouped again."""
        return RowMetadata(len(index), None, None if self.weights is None else self.weights[index])


class MetadataSource(ABC):
    """Where the entry of each row comes from."""

    @abstractmethod
    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return one entry per row, or None; `given` is what the caller passed as metadata of this name."""


class Absent(MetadataSource):
    """No metadata: all rows have the same group and weight."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> None:
        """Return None; ValueError if metadata is passed although calibration had none."""
        _check_not_given(given, name, "calibration had none. Pass it to fit or calibrate too, or leave it out")


class Passed(MetadataSource):
    """Metadata that the caller passes with the rows."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return the metadata passed; ValueError if there is none."""
        _check_given(given, name)
        return given


@dataclass(frozen=True)
class FromInputs(MetadataSource):
    """A function of X."""

    function: Callable[[Any], Any]

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return function(X); ValueError if metadata is passed too."""
        _check_not_given(given, name, f"the constructor's {name} makes it from X. Use one of the two")
        check_whole(X, name)
        return self.function(X)


@dataclass(frozen=True, eq=False)
class FromLeverage(MetadataSource):
    """The bin of leverage that a row falls into, of 0, 1, ..., len(edges)."""

    edges: Array

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Array:
        """Return the bin of each row; ValueError if metadata is passed too."""
        _check_not_given(given, name, f"the constructor's {name} makes it from leverage. Use one of the two")
        return np.searchsorted(self.edges, one_leverage(rows))


def check_whole(X: Any, name: str) -> None:
    """Raise unless all rows are at hand, as a function of them needs."""
    if not (hasattr(X, "shape") or hasattr(X, "columns")):
        raise ValueError(
            f"{name} is a function of X in the constructor, which must be an array or a table then; got "
            f"{type(X).__name__}, whose rows come in batches. Leave it out of the constructor, and pass {name}= with "
            "the rows, one entry per row, to calibrate and predict_interval."
        )


def one_leverage(rows: Rows) -> Array:
    """Return one leverage per row (m,), the largest over outputs where each has its own ridge."""
    return rows.leverage.reshape(len(rows), -1).max(axis=1)


@dataclass(frozen=True)
class MetadataReader:
    """Reads the metadata of rows.

    Parameters
    ----------
    groups, weights : MetadataSource
    """

    groups: MetadataSource
    weights: MetadataSource

    def read(self, X: Any, rows: Rows, groups: Any, likelihood_ratio: Any) -> RowMetadata:
        """Return the metadata of rows, made from X or passed with it."""
        n = len(rows)
        labels = self.groups.read("groups", X, rows, groups)
        weights = self.weights.read("likelihood_ratio", X, rows, likelihood_ratio)
        return RowMetadata(
            n,
            None if labels is None else check_labels(labels, n),
            None if weights is None else check_ratio(weights, n),
        )


def check_alike(model: Any, groups: Any, likelihood_ratio: Any) -> None:
    """Raise if groups or weights are passed to a model that uses neither."""
    reason = f"{type(model).__name__} has neither groups nor weights. Leave it out, or use SplitConformalRegressor"
    _check_not_given(groups, "groups", reason)
    _check_not_given(likelihood_ratio, "likelihood_ratio", reason)


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
        """Return the number of rows of equal weight that these are worth."""

    @abstractmethod
    def explain(self, infinite: Array, new: RowMetadata, n_samples: int, level: Any, needed: int) -> list[str]:
        """Return messages: why the new rows marked in `infinite` (m,) have no finite threshold."""


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
        """Name the number of calibration rows that would be enough."""
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
            f"are (-inf, inf). The {n_samples} calibration rows are worth {self.effective_size(n_samples):.3g} rows of "
            f"equal weight; at least {needed} are needed. Calibrate with more rows that are like the new rows."
        ]


class Outputs(ABC):
    """What a threshold holds for: each output by itself, or all outputs of a row."""

    @abstractmethod
    def quantile(self, scores: Array, rank: Callable[[Array], Array]) -> Array:
        """Return thresholds, (q,) or (m, q), of scores (n, q), ranked by `rank`."""


class EachOutput(Outputs):
    """Each output by itself: q thresholds, each with its own probability."""

    def quantile(self, scores: Array, rank: Callable[[Array], Array]) -> Array:
        """Rank the scores of each output."""
        return rank(scores)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration scores, from which the intervals of new rows are made.

    Parameters
    ----------
    scores : array (n, q)
        Signed.
    reader : MetadataReader
        Reads the group and weight of rows.
    ranking : Ranking
        Among which calibration rows a new one is ranked, and how heavily each counts.
    outputs : Outputs
        One threshold for each output, or one for all.
    """

    scores: Array
    reader: MetadataReader = field(default_factory=lambda: MetadataReader(Absent(), Absent()))
    ranking: Ranking = field(default_factory=PooledRanking)
    outputs: Outputs = field(default_factory=EachOutput)

    @property
    def effective_size(self) -> float:
        """Number of rows of equal weight that the calibration rows are worth."""
        return self.ranking.effective_size(len(self.scores))

    @property
    def is_pooled(self) -> bool:
        """Whether all scores have the same weight for every new row."""
        return isinstance(self.ranking, PooledRanking)

    def ends(self, band: Band, new: RowMetadata, levels: list[Any], symmetric: bool) -> list[Ends]:
        """Return the ends of the calibrated band at each level, and warn of rows whose interval is infinite."""
        found = [self.thresholds(level, symmetric, new) for level in levels]
        highest = max(range(len(levels)), key=lambda index: float(levels[index]))
        self._warn_if_infinite(found[highest][1], levels[highest], symmetric, new)
        band.warn_if_outside()
        return [band.ends(*pair) for pair in found]

    def thresholds(self, level: Any, symmetric: bool, new: RowMetadata) -> Ends:
        """Return lower and upper thresholds, (q,) or (m, q), of new rows."""

        def quantile(scores: Array, level: Any) -> Array:
            return self.outputs.quantile(scores, lambda joined: self.ranking.quantile(joined, level, new))

        return thresholds(self.scores, level, symmetric, quantile)

    def _warn_if_infinite(self, upper: Array, level: Any, symmetric: bool, new: RowMetadata) -> None:
        """Say which rows have infinite thresholds at a level, and what would help."""
        infinite = np.broadcast_to(np.isinf(upper).reshape(-1, upper.shape[-1]).any(axis=1), new.n_samples)
        if infinite.any():
            needed = minimum_calibration_size(level, symmetric)
            for sentence in self.ranking.explain(infinite, new, len(self.scores), level, needed):
                warn_caller(sentence, CalibrationWarning)


class GroupingRule(Protocol):
    """How rows are divided into groups that calibrate by themselves; see `hatband.conformal.calibration.groups`."""

    @property
    def source(self) -> MetadataSource:
        """Where the label of a row comes from."""
        ...

    def at(self, n_samples: int, needed: Callable[[], int]) -> Self:
        """Return the rule for a number of calibration rows, of which a threshold needs so many."""
        ...

    def ranking(self, labels: list[Any], inner: Ranking) -> Ranking:
        """Return the ranking within groups, given the labels of the calibration rows."""
        ...


@dataclass(frozen=True, eq=False)
class CalibrationPlan:
    """How to calibrate: the settings that are ready before there are scores.

    Parameters
    ----------
    grouping : GroupingRule
    always : bool
        Whether rows are divided into groups even where none are passed with them.
    ratio : callable(X) -> array, or None
        None: ratios are those passed with the rows, if any are.
    outputs : Outputs
    """

    grouping: GroupingRule
    always: bool = False
    ratio: Callable[[Any], Any] | None = None
    outputs: Outputs = field(default_factory=EachOutput)

    @property
    def needs_leverage(self) -> bool:
        """Whether the group of a row is read off its leverage."""
        return self.always and isinstance(self.grouping.source, FromLeverage)

    def calibration(
        self, scores: Array, X: Any, rows: Rows, *, groups: Any, likelihood_ratio: Any, needed: Callable[[], int]
    ) -> Calibration:
        """Return the calibration by scores (n, q) of these rows and the metadata passed with them."""
        grouping = self.grouping.at(len(scores), needed) if self.always or groups is not None else None
        reader = MetadataReader(Absent() if grouping is None else grouping.source, self._weights(likelihood_ratio))
        metadata = reader.read(X, rows, groups, likelihood_ratio)
        ranking: Ranking = PooledRanking() if metadata.weights is None else WeightedRanking(metadata.weights)
        if grouping is not None and metadata.groups is not None:
            ranking = grouping.ranking(metadata.groups, ranking)
        return Calibration(scores, reader, ranking, self.outputs)

    def _weights(self, given: Any) -> MetadataSource:
        if self.ratio is not None:
            return FromInputs(self.ratio)
        return Absent() if given is None else Passed()


def check_pooled(pooled: bool) -> None:
    """Raise if scores have groups or weights: a predictive distribution needs equal ones."""
    if not pooled:
        raise ValueError(
            "predictive_distribution needs calibration scores of equal weight; this model was calibrated by groups or "
            "with a likelihood ratio. Calibrate it without these, or fit one model per group."
        )


def _check_not_given(given: Any, name: str, reason: str) -> None:
    """Raise if metadata is passed that would be ignored."""
    if given is not None:
        raise ValueError(f"{name} must not be passed here: {reason}.")


def _check_given(given: Any, name: str) -> None:
    """Raise if metadata is missing although the model was calibrated with it."""
    if given is None:
        raise ValueError(
            f"{name} must be passed: this model is calibrated with it; got none. Pass {name}=..., one entry per row, "
            f"or give the constructor a function of X as {name}."
        )


def check_labels(labels: Any, n_samples: int) -> list[Any]:
    """Return one hashable group label per row; a missing label is an error."""
    # As objects, because in a list of numbers and strings the numbers would become strings.
    values = np.asarray(on_host(labels), dtype=object)
    if values.shape != (n_samples,):
        raise ValueError(f"groups must have one label per row, shape ({n_samples},); got shape {values.shape}.")
    found: list[Any] = values.tolist()
    for row, label in enumerate(found):
        if not isinstance(label, Hashable):
            raise ValueError(f"groups must be labels such as strings or integers; row {row} has {label!r}.")
    # There are few labels and many rows: each label is looked at once.
    for label in set(found):
        if label is None or is_scalar_nan(label) or is_pandas_na(label):
            row = next(row for row, other in enumerate(found) if other is label)
            raise ValueError(f"groups must not be missing; row {row} has {label!r}. Give these rows a separate label.")
    return found


def check_ratio(ratio: Any, n_samples: int) -> Array:
    """Return likelihood ratios as float64 (n,), finite and >= 0."""
    values = np.asarray(on_host(ratio), dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(
            f"likelihood_ratio must have one value per row, shape ({n_samples},); got shape {values.shape}."
        )
    check_likelihood_ratio(values, "likelihood_ratio")
    return values
