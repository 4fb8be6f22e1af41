"""What decides which calibration scores a row is compared with, and how heavily: its group, its likelihood ratio."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband._checks_calibration import check_given, check_labels, check_not_given, check_ratio
from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows


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
    """Nowhere: all rows are alike."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> None:
        """Return None; ValueError where metadata was passed that calibration did not have."""
        check_not_given(given, name, "calibration had none. Pass it to fit or calibrate as well, or leave it out")


class Passed(MetadataSource):
    """Metadata that the caller passes with the rows."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return what was passed; ValueError where nothing was."""
        check_given(given, name)
        return given


@dataclass(frozen=True)
class FromInputs(MetadataSource):
    """A function of X."""

    function: Callable[[Any], Any]

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return function(X); ValueError where metadata was passed besides."""
        check_not_given(given, name, f"the constructor's {name} makes it from X. Use one of the two")
        check_whole(X, name)
        return self.function(X)


@dataclass(frozen=True, eq=False)
class FromLeverage(MetadataSource):
    """The bin of leverage that a row falls into, of 0, 1, ..., len(edges)."""

    edges: Array

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Array:
        """Return the bin of each row; ValueError where metadata was passed besides."""
        check_not_given(given, name, f"the constructor's {name} makes it from leverage. Use one of the two")
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
    """Return one leverage per row (m,), the largest where outputs have ridges of their own."""
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
    """Raise if metadata was passed to a model that ranks all rows alike."""
    reason = f"{type(model).__name__} ranks all rows alike. Leave it out, or use SplitConformalRegressor"
    check_not_given(groups, "groups", reason)
    check_not_given(likelihood_ratio, "likelihood_ratio", reason)
