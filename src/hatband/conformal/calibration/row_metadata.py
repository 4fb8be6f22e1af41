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
class Marks:
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

    def take(self, index: Array) -> "Marks":
        """Return the marks of the rows at `index`; their groups are settled and left out."""
        return Marks(len(index), None, None if self.weights is None else self.weights[index])


class Source(ABC):
    """Where the entry of each row comes from."""

    @abstractmethod
    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return one entry per row, or None; `given` is what the caller passed as metadata of this name."""


class Absent(Source):
    """Nowhere: all rows are alike."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> None:
        """Return None; ValueError where metadata was passed that calibration did not have."""
        check_not_given(given, name, "calibration had none. Pass it to fit or calibrate as well, or leave it out")


class Passed(Source):
    """Metadata that the caller passes with the rows."""

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return what was passed; ValueError where nothing was."""
        check_given(given, name)
        return given


@dataclass(frozen=True)
class FromInputs(Source):
    """A function of X."""

    function: Callable[[Any], Any]

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Any:
        """Return function(X); ValueError where metadata was passed besides."""
        check_not_given(given, name, f"the constructor's {name} makes it from X. Use one of the two")
        return self.function(X)


@dataclass(frozen=True, eq=False)
class FromLeverage(Source):
    """The bin of leverage that a row falls into, of 0, 1, ..., len(edges)."""

    edges: Array

    def read(self, name: str, X: Any, rows: Rows, given: Any) -> Array:
        """Return the bin of each row; ValueError where metadata was passed besides."""
        check_not_given(given, name, f"the constructor's {name} makes it from leverage. Use one of the two")
        return np.searchsorted(self.edges, one_leverage(rows))


def one_leverage(rows: Rows) -> Array:
    """Return one leverage per row (m,), the largest where outputs have ridges of their own."""
    return rows.leverage.reshape(len(rows), -1).max(axis=1)


@dataclass(frozen=True)
class Marker:
    """Reads the marks of rows.

    Parameters
    ----------
    groups, weights : Source
    """

    groups: Source
    weights: Source

    def marks(self, X: Any, rows: Rows, groups: Any, likelihood_ratio: Any) -> Marks:
        """Return the marks of rows, from X or from the metadata that came with it."""
        n = len(rows)
        labels = self.groups.read("groups", X, rows, groups)
        weights = self.weights.read("likelihood_ratio", X, rows, likelihood_ratio)
        return Marks(
            n,
            None if labels is None else check_labels(labels, n),
            None if weights is None else check_ratio(weights, n),
        )
