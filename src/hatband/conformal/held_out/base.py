"""The base of jackknife+ and CV+, where every row trains and every row calibrates."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils import check_consistent_length

from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_confidence_level, check_in, unchanged_on_failure, warn_caller
from hatband.conformal.band import Band, Ends, warn_if_too_few
from hatband.conformal.calibration.calibration import check_alike
from hatband.conformal.held_out.plus import METHODS, HeldOut
from hatband.conformal.regressor import IntervalRegressor, RegressorWrapper, check_rows
from hatband.fitted.rows import TrainingData
from hatband.formulas.order_statistics import minimum_calibration_size


class HeldOutRegressor(RegressorWrapper, IntervalRegressor):
    """Fit once on all rows, hold rows out, and combine the held-out models into intervals."""

    # Which of "plus", "minmax" and "base" a subclass offers.
    _methods: ClassVar[tuple[str, ...]]
    _trained_by: ClassVar[tuple[str, str]] = ("held_out_", "fit")

    estimator: Any
    method: str
    held_out_: HeldOut

    @abstractmethod
    def _hold_out(self, data: TrainingData) -> HeldOut:
        """Fit to all rows and return the held-out models."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Fit the estimator to all rows, and hold rows out of it.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Passed to the estimator unchanged.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0. Ranks of scores are never weighted by it.
        **fit_params : dict
            Further fit parameters of the estimator.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If y holds NaN or infinity, a weight is negative, or rows cannot be held out as the class says.
        """
        return self._fit(X, y, sample_weight, fit_params)

    def _fit(self, X: Any, y: Any, sample_weight: Any, fit_params: dict[str, Any], cv_groups: Any = None) -> Self:
        data = replace(TrainingData.checked(X, y, sample_weight, fit_params), cv_groups=cv_groups)
        check_consistent_length(data.y, cv_groups)
        check_confidence_level(self.confidence_level)
        check_in(self.method, self._methods, "method")
        with unchanged_on_failure(self):
            self.held_out_ = self._hold_out(data.with_rows(check_rows(self, X, reset=True)))
            self.estimator_ = self.held_out_.estimator
            self.n_outputs_, self.single_target_ = data.y.shape[1], data.is_single
        return self

    @property
    def scores_(self) -> Array:
        """Signed scores (n, q): residual of a row under a model that has not seen it, over that model's width."""
        return self.held_out_.scores

    @property
    def space_(self) -> Any:
        """The space of the model of all rows."""
        return self.held_out_.space

    @property
    def scale_(self) -> Any:
        """The fitted scale of the model of all rows."""
        return self.held_out_.scale

    # ---------------------------------------------------------------- prediction

    def _band(self, X: Any) -> Band:
        return self.held_out_.band(self.held_out_.features(X))

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        check_alike(self, groups, likelihood_ratio)
        features = self.held_out_.features(X)
        point = self.held_out_.prediction(features)
        warn_if_too_few("rows", len(self.scores_), levels, symmetric=True)
        ends = METHODS[self.method](self.held_out_, features, len(point), levels)
        self._warn_if_infinite(levels, ends)
        return point, ends

    def _warn_if_infinite(self, levels: list[Any], ends: list[Ends]) -> None:
        supported = [
            lower
            for level, (lower, _) in zip(levels, ends, strict=True)
            if len(self.scores_) >= minimum_calibration_size(level)
        ]
        infinite = sum(int(np.isinf(lower).any(axis=1).sum()) for lower in supported)
        if infinite:
            warn_caller(
                f"{infinite} intervals have no finite bound: these rows lie outside the span of the training rows, or "
                "no model exists without some single row. A ridge > 0 in the estimator makes them finite.",
                LeverageWarning,
            )
