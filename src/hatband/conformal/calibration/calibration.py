"""Calibration: scores, who they are ranked for, and how their thresholds are shared by outputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning, warn_caller
from hatband.conformal.band import Band, Ends, thresholds
from hatband.conformal.calibration.groups import Grouping, Groups
from hatband.conformal.calibration.joint import EachOutput, Outputs
from hatband.conformal.calibration.ranking import PooledRanking, Ranking, WeightedRanking
from hatband.conformal.calibration.row_metadata import (
    Absent,
    FromInputs,
    MetadataReader,
    MetadataSource,
    Passed,
    RowMetadata,
)
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import minimum_calibration_size


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration scores, asked for the intervals of new rows.

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
        """How many equally heavy rows the calibration rows are worth."""
        return self.ranking.effective_size(len(self.scores))

    @property
    def is_pooled(self) -> bool:
        """Whether all scores count alike for every new row."""
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


@dataclass(frozen=True, eq=False)
class CalibrationPlan:
    """How to calibrate: what training left to be filled with scores.

    Parameters
    ----------
    grouping : Grouping or None
        None: groups are those passed with the rows, if any are.
    ratio : callable(X) -> array, or None
        The same for the likelihood ratio.
    outputs : Outputs
    """

    grouping: Grouping | None = None
    ratio: Callable[[Any], Any] | None = None
    outputs: Outputs = field(default_factory=EachOutput)

    @property
    def needs_leverage(self) -> bool:
        """Whether the group of a row is read off its leverage."""
        return self.grouping is not None and self.grouping.bins is not None

    def calibration(
        self, scores: Array, X: Any, rows: Rows, *, groups: Any, likelihood_ratio: Any, needed: int
    ) -> Calibration:
        """Return the calibration by scores (n, q) of these rows and the metadata passed with them."""
        grouping = Grouping(Groups()) if self.grouping is None and groups is not None else self.grouping
        grouping = None if grouping is None else grouping.at(len(scores), needed)
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
    """Raise for a model whose scores do not all count alike."""
    if not pooled:
        raise ValueError(
            "predictive_distribution needs calibration scores that all count alike; this model was calibrated by "
            "groups or with a likelihood ratio. Calibrate it without, or one model per group."
        )
