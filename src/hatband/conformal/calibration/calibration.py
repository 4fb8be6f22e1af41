"""Calibration: scores, who they are ranked for, and how their thresholds are shared by outputs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning
from hatband.conformal.calibration.groups import Grouping, Groups
from hatband.conformal.calibration.joint import Outputs
from hatband.conformal.calibration.ranking import PooledRanking, Ranking, WeightedRanking
from hatband.conformal.calibration.row_metadata import Absent, FromInputs, Marker, Marks, Passed, Source
from hatband.conformal.intervals import thresholds
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import minimum_calibration_size


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration scores, asked for the thresholds of new rows.

    Parameters
    ----------
    scores : array (n, q)
        Signed.
    marker : Marker
        Reads the group and weight of rows.
    ranking : Ranking
        Among which calibration rows a new one is ranked, and how heavily each counts.
    outputs : Outputs
        One threshold for each output, or one for all.
    """

    scores: Array
    marker: Marker
    ranking: Ranking
    outputs: Outputs

    @property
    def effective_size(self) -> float:
        """How many equally heavy rows the calibration rows are worth."""
        return self.ranking.effective_size(len(self.scores))

    def thresholds(self, level: Any, symmetric: bool, new: Marks) -> tuple[Array, Array]:
        """Return lower and upper thresholds, (q,) or (m, q), of new rows."""

        def quantile(scores: Array, level: Any) -> Array:
            return self.outputs.quantile(scores, lambda joined: self.ranking.quantile(joined, level, new))

        return thresholds(self.scores, level, symmetric, quantile)

    def warn_if_infinite(self, upper: Array, level: Any, symmetric: bool, new: Marks, stacklevel: int) -> None:
        """Say which rows have infinite thresholds at a level, and what would help."""
        infinite = np.broadcast_to(np.isinf(upper).reshape(-1, upper.shape[-1]).any(axis=1), new.n_samples)
        if infinite.any():
            needed = minimum_calibration_size(level, symmetric)
            for sentence in self.ranking.explain(infinite, new, len(self.scores), level, needed):
                warnings.warn(sentence, CalibrationWarning, stacklevel=stacklevel + 1)


@dataclass(frozen=True, eq=False)
class Plan:
    """How to calibrate: what training left to be filled with scores.

    Parameters
    ----------
    grouping : Grouping or None
        None: groups are those passed with the rows, if any are.
    ratio : callable(X) -> array, or None
        The same for the likelihood ratio.
    outputs : Outputs
    """

    grouping: Grouping | None
    ratio: Callable[[Any], Any] | None
    outputs: Outputs

    def calibration(
        self, scores: Array, X: Any, rows: Rows, *, groups: Any, likelihood_ratio: Any, needed: int
    ) -> Calibration:
        """Return the calibration by scores (n, q) of these rows and the metadata passed with them."""
        grouping = Grouping(Groups()) if self.grouping is None and groups is not None else self.grouping
        grouping = None if grouping is None else grouping.at(len(scores), needed)
        marker = Marker(Absent() if grouping is None else grouping.source, self._weights(likelihood_ratio))
        marks = marker.marks(X, rows, groups, likelihood_ratio)
        ranking: Ranking = PooledRanking() if marks.weights is None else WeightedRanking(marks.weights)
        if grouping is not None and marks.groups is not None:
            ranking = grouping.ranking(marks.groups, ranking)
        return Calibration(scores, marker, ranking, self.outputs)

    def _weights(self, given: Any) -> Source:
        if self.ratio is not None:
            return FromInputs(self.ratio)
        return Absent() if given is None else Passed()
