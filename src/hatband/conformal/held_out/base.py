"""What estimators share in which every row trains and every row calibrates: jackknife+ and CV+."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import check_is_fitted

from hatband.arrays.typing import Array
from hatband.checks import (
    LeverageWarning,
    check_confidence_level,
    check_in,
    check_target,
    check_weights,
)
from hatband.conformal.held_out.plus import METHODS, Given, HeldOut
from hatband.conformal.inputs import check_rows, input_names_kept_on_failure, shaped_like_target
from hatband.conformal.intervals import layout, warn_if_too_few
from hatband.conformal.routing import router_of
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.geometry.convert import kept


class BaseEveryRow(MetaEstimatorMixin, RegressorMixin, BaseEstimator, ABC):
    """Fit once on all rows, hold rows out, and put intervals together from what the held-out models say."""

    # Which of "plus", "minmax" and "base" a subclass offers.
    _methods: ClassVar[tuple[str, ...]]
    _multi_output: ClassVar[bool] = True

    estimator: Any
    method: str
    confidence_level: Any
    held_out_: Any

    @abstractmethod
    def _held_out(self, given: Given) -> HeldOut:
        """Fit to all rows and return the held-out models."""

    def _fit(self, X: Any, y: Any, sample_weight: Any, fit_params: dict[str, Any], groups: Any = None) -> Self:
        """Fit, and change nothing before everything is there."""
        target, single = check_target(y)
        check_consistent_length(X, target)
        weight = None if sample_weight is None else check_weights(sample_weight, len(target))
        check_confidence_level(self.confidence_level)
        check_in(self.method, self._methods, "method")
        with input_names_kept_on_failure(self):
            X = check_rows(self, X, reset=True)
            held_out = self._held_out(Given(X, target, np.asarray(y), weight, fit_params, groups))
        self.held_out_, self.estimator_ = held_out, held_out.estimator
        self.n_outputs_, self.single_target_ = target.shape[1], single
        return self

    def predict(
        self, X: Any, *, return_interval: bool = False, return_std: bool = False, confidence_level: Any = None
    ) -> Any:
        """Predict by the model of all rows, on request with intervals or with the scale's width.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows
        return_interval : bool, default=False
            Return (prediction, interval), as `predict_interval` does; this reaches through an outer Pipeline.
        return_std : bool, default=False
            Return (prediction, width), the width being relative: defined up to a factor common to all rows.
        confidence_level : float or list of float, optional
            As in `predict_interval`.

        Returns
        -------
        prediction : array (m,) or (m, q)

        Raises
        ------
        ValueError
            If both are asked for, or `return_std` with a scale that shifts the centre.
        """
        if return_interval and return_std:
            raise ValueError("Pass return_interval=True or return_std=True, not both.")
        if return_interval:
            return self.predict_interval(X, confidence_level)
        self._check_fitted()
        X = check_rows(self, X, reset=False)
        if not return_std:
            return self._point(self.estimator_.predict(kept(X, self.estimator_)))
        features = self.held_out_.features(X)
        prediction, width = self.held_out_.prediction(features), self.held_out_.width(features)
        return self._point(prediction), self._point(np.broadcast_to(width, prediction.shape).copy())

    def predict_interval(self, X: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict by the model of all rows, with intervals from the models that held rows out.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            Lower and upper bound in the units of y; -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            Before fit.
        ValueError
            If a level is not inside (0, 1).

        Notes
        -----
        Rows are worked on in blocks; the bounds of a row are two selections among the n scores, O(n).
        """
        self._check_fitted()
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        X = check_rows(self, X, reset=False)
        features = self.held_out_.features(X)
        point = self._point(self.held_out_.prediction(features))
        warn_if_too_few("rows", len(self.scores_), levels, symmetric=True, stacklevel=2)
        bounds = METHODS[self.method](self.held_out_, features, len(point), levels)
        interval = layout(bounds, self.single_target_, single)
        self._warn_if_infinite(levels, bounds)
        return point, interval

    def leverage(self, X: Any) -> Array:
        """Return h(x) = phi(x)' A^-1 phi(x) of each row, in the space that the model of all rows works in.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows

        Returns
        -------
        leverage : array (m,), or (m, q) where the ridge differs per output
            Dimensionless, >= 0.
        """
        self._check_fitted()
        return self.space_.leverage(self.space_.features(check_rows(self, X, reset=False)))

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

    def _regressor(self) -> Any:
        return Ridge() if self.estimator is None else self.estimator

    def _check_fitted(self) -> None:
        check_is_fitted(self, "held_out_")

    def _point(self, prediction: Array) -> Array:
        return shaped_like_target(prediction, self.n_outputs_, self.single_target_)

    def _warn_if_infinite(self, levels: list[Any], bounds: list[tuple[Array, Array]]) -> None:
        supported = [
            lower
            for level, (lower, _) in zip(levels, bounds, strict=True)
            if len(self.scores_) >= minimum_calibration_size(level)
        ]
        infinite = sum(int(np.isinf(lower).any(axis=1).sum()) for lower in supported)
        if infinite:
            warnings.warn(
                f"{infinite} intervals have no finite bound: these rows lie outside the span of the training rows, or "
                "leaving single rows out leaves no model. A ridge > 0 in the estimator makes them finite.",
                LeverageWarning,
                stacklevel=3,
            )

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing: this estimator uses sample_weight itself and passes it on to the estimator's fit."""
        return router_of(self, self._regressor())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = self._multi_output
        tags.input_tags.sparse = get_tags(self._regressor()).input_tags.sparse
        tags.regressor_tags.poor_score = True
        return tags
