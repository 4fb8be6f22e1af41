"""What every split-conformal estimator does: train, calibrate, predict with intervals."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_consistent_length, check_random_state, get_tags
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import check_is_fitted

from hatband._checks_calibration import check_labels, check_ratio
from hatband.arrays.typing import Array
from hatband.checks import check_calibration_size, check_confidence_level, check_target, check_weights
from hatband.conformal.band import band_of, mapped_back, scores_of, shift_and_width, warn_if_outside
from hatband.conformal.inputs import check_rows, input_names_kept_on_failure, shaped_like_target
from hatband.conformal.intervals import bounds, layout
from hatband.conformal.routing import router_of
from hatband.conformal.target import MonotoneTarget
from hatband.conformal.training import TRAINED, Given, train
from hatband.fitted.rows import Rows, new_rows, take_rows
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.geometry.convert import kept

_CALIBRATED = ("scores_", "calibration_", "effective_sample_size_")


class BaseSplitConformal(MetaEstimatorMixin, RegressorMixin, BaseEstimator, ABC):
    """What every split-conformal estimator does; a subclass says which regressor it wraps."""

    geometry: Any
    scale: Any
    confidence_level: Any
    calibration_size: Any
    symmetric: bool
    residuals: str
    random_state: Any
    n_jobs: int | None
    # A subclass without these parameters calibrates all rows alike.
    groups: Any = None
    likelihood_ratio: Any = None
    joint: bool = False

    @abstractmethod
    def _regressor(self) -> Any:
        """Return the unfitted regressor to wrap."""

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        likelihood_ratio: Any = None,
        X_target: Any = None,
        **fit_params: Any,
    ) -> Self:
        """Split the rows at random, train on one part and calibrate on the other.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Handed to the estimator as it is.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0. Calibration scores are never weighted by it.
        groups, likelihood_ratio : array-like (n,), optional
            Group of each row, and density of new rows over that of these: as in `calibrate`. The estimator itself gets
            groups by metadata routing only.
        X_target : array-like, sparse matrix or DataFrame, optional
            Rows of the population to predict for, where `likelihood_ratio` is learned (`ClassifierRatio`): from the
            training part and these, no calibration row.
        **fit_params : dict
            Further fit parameters of the estimator, sliced to the training rows where they have n rows.

        Returns
        -------
        self
            With `calibration_indices_`, the positions of the calibration rows.

        Raises
        ------
        ValueError
            If y holds NaN or infinity, a weight is negative, or the split leaves no training row.
        """
        target, _ = check_target(y)
        check_consistent_length(X, target, groups, likelihood_ratio)
        n = len(target)
        weight = None if sample_weight is None else check_weights(sample_weight, n)
        # Here the rows of a message are those of the caller, and no rows escape by being trained on.
        groups = None if groups is None else check_labels(groups, n)
        likelihood_ratio = None if likelihood_ratio is None else check_ratio(likelihood_ratio, n)
        size = check_calibration_size(self.calibration_size, n)
        order = check_random_state(self.random_state).permutation(n)
        calibration, training = np.sort(order[:size]), np.sort(order[size:])
        params = {name: take_rows(value, training, n) for name, value in fit_params.items()}
        marks = [None if entry is None else take_rows(entry, calibration, n) for entry in (groups, likelihood_ratio)]
        with input_names_kept_on_failure(self):
            X, values = check_rows(self, X, reset=True), np.asarray(y)
            weight = None if weight is None else weight[training]
            routed = {} if groups is None else {"groups": take_rows(groups, training, n)}
            state = self._train(Given(take_rows(X, training, n), values[training], weight, params, X_target, routed))
            if size:
                state |= self._calibrate(state, take_rows(X, calibration, n), target[calibration], *marks)
                state["calibration_indices_"] = calibration
            self._forget()
            self.__dict__.update(state)
        return self

    def fit_train(self, X: Any, y: Any, sample_weight: Any = None, *, X_target: Any = None, **fit_params: Any) -> Self:
        """Train on all rows given; `calibrate` must follow with other rows before intervals can be had.

        Around a ``FrozenEstimator`` nothing is trained: the rows set the reference that leverage is measured against.

        Parameters
        ----------
        X, y, sample_weight, X_target, **fit_params
            As in `fit`.

        Returns
        -------
        self
            Earlier calibration scores are gone: they belonged to another model.
        """
        target, _ = check_target(y)
        check_consistent_length(X, target)
        weight = None if sample_weight is None else check_weights(sample_weight, len(target))
        with input_names_kept_on_failure(self):
            X = check_rows(self, X, reset=True)
            state = self._train(Given(X, np.asarray(y), weight, fit_params, X_target))
            self._forget()
            self.__dict__.update(state)
        return self

    def calibrate(self, X: Any, y: Any, *, groups: Any = None, likelihood_ratio: Any = None) -> Self:
        """Score rows that the model has not seen; earlier scores are replaced.

        Parameters
        ----------
        X, y
            Calibration rows, exchangeable with the rows to come and apart from the training rows.
        groups : array-like (n,), optional
            Group of each row, any hashable labels: rows are calibrated by those of their own group (see `Groups`).
        likelihood_ratio : array-like (n,), optional
            Density of the new rows' population over that of these rows, at each row, >= 0, up to one factor.

        Returns
        -------
        self
            With `scores_` (n, q): signed residuals divided by the scale's width; `effective_sample_size_`.

        Raises
        ------
        NotFittedError
            If neither `fit` nor `fit_train` has run.
        ValueError
            If y holds NaN or infinity, a group is missing or a ratio negative; the object stays as it was.
        """
        self._check_trained("calibrate")
        target, _ = check_target(y)
        check_consistent_length(X, target, groups, likelihood_ratio)
        state = {name: getattr(self, name) for name in TRAINED}
        X = check_rows(self, X, reset=False)
        self.__dict__.update(self._calibrate(state, X, target, groups, likelihood_ratio))
        self.__dict__.pop("calibration_indices_", None)
        return self

    def _train(self, given: Given) -> dict[str, Any]:
        return train(self, self._regressor(), given)

    def _calibrate(self, state: dict[str, Any], X: Any, y: Array, groups: Any, likelihood_ratio: Any) -> dict[str, Any]:
        """Return everything that calibration produces, and change nothing."""
        rows = new_rows(state["model_"], state["space_"], X, state["n_outputs_"])
        scores = scores_of(state["scale_"], rows, state["target_"], y, stacklevel=4)
        levels, _ = check_confidence_level(self.confidence_level)
        calibration = state["plan_"].calibration(
            scores,
            X,
            rows,
            groups=groups,
            likelihood_ratio=likelihood_ratio,
            needed=max(minimum_calibration_size(level, self.symmetric) for level in levels),
        )
        values = (scores, calibration, calibration.effective_size)
        return dict(zip(_CALIBRATED, values, strict=True))

    # ---------------------------------------------------------------- prediction

    def predict(
        self,
        X: Any,
        *,
        return_interval: bool = False,
        return_std: bool = False,
        confidence_level: Any = None,
        groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> Any:
        """Predict, on request with intervals or with the scale's width.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows
        return_interval : bool, default=False
            Return (prediction, interval), as `predict_interval` does; this reaches through an outer Pipeline.
        return_std : bool, default=False
            Return (prediction, width), the width being relative: defined up to a factor common to all rows.
        confidence_level, groups, likelihood_ratio
            As in `predict_interval`; without `return_interval` they change nothing.

        Returns
        -------
        prediction : array (m,) or (m, q)

        Raises
        ------
        ValueError
            If both are asked for, or `return_std` with a scale that shifts the centre or a target learned on another
            scale.
        """
        if return_interval and return_std:
            raise ValueError("Pass return_interval=True or return_std=True, not both.")
        if return_interval:
            return self.predict_interval(X, confidence_level, groups=groups, likelihood_ratio=likelihood_ratio)
        self._check_trained("predict")
        X = check_rows(self, X, reset=False)
        if not return_std:
            return self._shaped(self.estimator_.predict(kept(X, self.estimator_)))
        rows = self._rows(X)
        shift, width = shift_and_width(self.scale_, rows)
        if np.any(shift):
            raise ValueError(
                f"return_std needs an interval centred on the prediction; {type(self.scale_).__name__} shifts it. "
                "Use predict_interval."
            )
        if isinstance(self.target_, MonotoneTarget):
            raise ValueError(
                "return_std needs a width on the scale of y; that of a TransformedTargetRegressor is on the scale it "
                "learns. Use predict_interval."
            )
        point = self.target_.point(rows.prediction)
        return self._shaped(point), self._shaped(np.broadcast_to(width, rows.prediction.shape).copy())

    def predict_interval(
        self, X: Any, confidence_level: Any = None, *, groups: Any = None, likelihood_ratio: Any = None
    ) -> tuple[Array, Array]:
        """Predict, with intervals prediction + shift -+ threshold x width that hold with the stated probability.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.
        groups, likelihood_ratio : array-like (m,), optional
            Of each row, where calibration had them as arrays: as in `calibrate`, the ratio with the same factor.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            Lower and upper bound in the units of y; -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            If there are no calibration scores.
        ValueError
            If a level is not inside (0, 1), or groups or ratios are missing that calibration had, or the reverse.

        Notes
        -----
        P(y in interval) >= level, on average over calibration sets and new rows, when calibration rows and new rows
        are exchangeable (within groups where there are groups; after weighting where there is a likelihood ratio); per
        output, or for all outputs with ``joint=True``. Cost: one prediction and, for leverage scales, d^2 per row.
        """
        self._check_calibrated("predict_interval")
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        X = check_rows(self, X, reset=False)
        rows = self._rows(X)
        marks = self.calibration_.marker.marks(X, rows, groups, likelihood_ratio)
        center, width = band_of(self.scale_, rows, self.target_)
        found = [self.calibration_.thresholds(level, self.symmetric, marks) for level in levels]
        highest = max(range(len(levels)), key=lambda index: float(levels[index]))
        self.calibration_.warn_if_infinite(found[highest][1], levels[highest], self.symmetric, marks, stacklevel=2)
        warn_if_outside(width, stacklevel=2)
        ends = [bounds(center, width, *pair) for pair in found]
        pairs = [
            (mapped_back(self.target_, low, -np.inf), mapped_back(self.target_, high, np.inf)) for low, high in ends
        ]
        point = self._shaped(self.target_.point(rows.prediction))
        return point, layout(pairs, self.single_target_, single)

    def leverage(self, X: Any) -> Array:
        """Return h(x) = phi(x)' A^-1 phi(x) of each row, in the space that the fitted model works in.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows

        Returns
        -------
        leverage : array (m,), or (m, q) where the ridge differs per output
            Dimensionless, >= 0; at most 1 on training rows, without limit on new ones, infinite outside the row space
            of a model without ridge.
        """
        self._check_trained("leverage")
        return self.space_.leverage(self.space_.features(check_rows(self, X, reset=False)))

    def _rows(self, X: Any) -> Rows:
        return new_rows(self.model_, self.space_, X, self.n_outputs_)

    def _shaped(self, prediction: Array) -> Array:
        return shaped_like_target(prediction, self.n_outputs_, self.single_target_)

    # ---------------------------------------------------------------- input, state, scikit-learn

    def _check_trained(self, caller: str) -> None:
        check_is_fitted(
            self,
            "space_",
            msg=f"This %(name)s instance is not fitted yet. Call fit, or fit_train and calibrate, before {caller}.",
        )

    def _check_calibrated(self, caller: str) -> None:
        self._check_trained(caller)
        if "scores_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is trained but not calibrated; call calibrate first.")

    def _forget(self) -> None:
        for name in (*TRAINED, *_CALIBRATED, "calibration_indices_"):
            self.__dict__.pop(name, None)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing: this estimator uses sample_weight itself and passes it on to the estimator's fit."""
        return router_of(self, self._regressor())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = get_tags(self._regressor()).input_tags.sparse
        tags.regressor_tags.poor_score = True
        return tags
