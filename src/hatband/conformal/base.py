"""What every split-conformal estimator does: train, calibrate, predict with intervals."""

import warnings
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import _num_samples, check_is_fitted

from hatband._typing import Array
from hatband._validation import (
    CalibrationWarning,
    LeverageWarning,
    check_calibration_size,
    check_confidence_level,
    check_in,
    check_target,
    check_weights,
    check_widths,
)
from hatband.conformal.inputs import check_rows, input_names_kept_on_failure, shaped_like_target
from hatband.conformal.intervals import bounds, layout, thresholds
from hatband.conformal.routing import fit_parameters, weights_used
from hatband.conformal.target import split_target
from hatband.geometry import as_geometry
from hatband.order_statistics import minimum_calibration_size
from hatband.rows import Rows, new_rows, training_rows
from hatband.scales import as_scale, fit_scale

_TRAINED = ("estimator_", "model_", "target_", "space_", "scale_", "residuals_from_", "n_outputs_", "single_target_")
_CALIBRATED = ("scores_", "calibration_indices_")


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

    @abstractmethod
    def _regressor(self) -> Any:
        """Return the unfitted regressor to wrap."""

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Split the rows at random, train on one part and calibrate on the other.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Handed to the estimator as it is.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0. Calibration scores are never weighted by it.
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
        check_consistent_length(X, target)
        n = len(target)
        weight = None if sample_weight is None else check_weights(sample_weight, n)
        size = check_calibration_size(self.calibration_size, n)
        order = check_random_state(self.random_state).permutation(n)
        calibration, training = np.sort(order[:size]), np.sort(order[size:])
        params = {name: take_rows(value, training, n) for name, value in fit_params.items()}
        with input_names_kept_on_failure(self):
            X, values = check_rows(self, X, reset=True), np.asarray(y)
            weight = None if weight is None else weight[training]
            state = self._trained(take_rows(X, training, n), values[training], weight, params)
            scores = self._scores(state, take_rows(X, calibration, n), target[calibration]) if size else None
            self._forget()
            self.__dict__.update(state)
        if scores is not None:
            self.scores_, self.calibration_indices_ = scores, calibration
        return self

    def fit_train(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Train on all rows given; `calibrate` must follow with other rows before intervals can be had.

        Around a ``FrozenEstimator`` nothing is trained: the rows set the reference that leverage is measured against.

        Parameters
        ----------
        X, y, sample_weight, **fit_params
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
            state = self._trained(X, np.asarray(y), weight, fit_params)
            self._forget()
            self.__dict__.update(state)
        return self

    def calibrate(self, X: Any, y: Any) -> Self:
        """Score rows that the model has not seen; earlier scores are replaced.

        Parameters
        ----------
        X, y
            Calibration rows, exchangeable with the rows to come and apart from the training rows.

        Returns
        -------
        self
            With `scores_` (n, q): signed residuals divided by the scale's width.

        Raises
        ------
        NotFittedError
            If neither `fit` nor `fit_train` has run.
        ValueError
            If y holds NaN or infinity; the object stays as it was.
        """
        self._check_trained("calibrate")
        target, _ = check_target(y)
        check_consistent_length(X, target)
        state = {name: getattr(self, name) for name in _TRAINED}
        self.scores_ = self._scores(state, check_rows(self, X, reset=False), target)
        self.__dict__.pop("calibration_indices_", None)
        return self

    def _trained(self, X: Any, y: Array, sample_weight: Array | None, fit_params: dict[str, Any]) -> dict[str, Any]:
        """Return everything that training produces, and change nothing before all of it is there."""
        levels, _ = check_confidence_level(self.confidence_level)
        check_in(self.residuals, ("auto", "unseen"), "residuals")
        template, (target, single) = self._regressor(), check_target(y)
        params = fit_parameters(self, template, sample_weight, fit_params)
        estimator = clone(template).fit(X, y, **params)
        model, scored = split_target(estimator, target)
        weight = weights_used(params, sample_weight)
        space = as_geometry(self.geometry, estimator).fit(X, weight)
        scale = as_scale(self.scale, levels[0], self.random_state)
        source = fit_scale(
            scale,
            partial(
                training_rows,
                model,
                space,
                X,
                target,
                template=template,
                sample_weight=weight,
                fit_params=params,
                residuals=self.residuals,  # type: ignore[arg-type]
                random_state=self.random_state,
                n_jobs=self.n_jobs,
                target=scored,
            ),
        )
        values = (estimator, model, scored, space, scale, source, target.shape[1], single)
        return dict(zip(_TRAINED, values, strict=True))

    def _scores(self, state: dict[str, Any], X: Any, y: Array) -> Array:
        """Return signed scores (y - prediction - shift) / width of rows that the model has not seen."""
        rows = new_rows(state["model_"], state["space_"], X, state["n_outputs_"])
        center, width = band_of(state["scale_"], rows, state["target_"])
        scores = (state["target_"].forward(y) - center) / width
        infinite = np.isinf(np.broadcast_to(width, scores.shape)).any(axis=1)
        if infinite.mean() >= 0.5:
            warnings.warn(
                f"{infinite.sum()} of {len(scores)} calibration rows lie outside the span of the training rows and "
                "have infinite leverage: intervals will be infinite for such rows and too narrow to mean anything for "
                "the others. Give the estimator a ridge > 0, or more training rows than features.",
                LeverageWarning,
                stacklevel=4,
            )
        return scores

    # ---------------------------------------------------------------- prediction

    def predict(
        self, X: Any, *, return_interval: bool = False, return_std: bool = False, confidence_level: Any = None
    ) -> Any:
        """Predict, on request with intervals or with the scale's width.

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
        self._check_trained("predict")
        X = check_rows(self, X, reset=False)
        if not return_std:
            return self._shaped(self.estimator_.predict(X))
        rows = self._rows(X)
        shift, width = _shift_and_width(self.scale_, rows)
        if np.any(shift):
            raise ValueError(
                f"return_std needs an interval centred on the prediction; {type(self.scale_).__name__} shifts it. "
                "Use predict_interval."
            )
        return self._shaped(rows.prediction), self._shaped(np.broadcast_to(width, rows.prediction.shape).copy())

    def predict_interval(self, X: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with intervals prediction + shift -+ threshold x width that hold with the stated probability.

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
            If there are no calibration scores.
        ValueError
            If a level is not inside (0, 1).

        Notes
        -----
        P(y in interval) >= level, on average over calibration sets and new rows, when calibration rows and new rows
        are exchangeable; per output, not jointly. Cost: one prediction and, for leverage scales, d^2 per row.
        """
        self._check_trained("predict_interval")
        if "scores_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is trained but not calibrated; call calibrate first.")
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        rows = self._rows(check_rows(self, X, reset=False))
        center, width = band_of(self.scale_, rows, self.target_)
        self._warn_if_infinite(levels, width)
        pairs = []
        for level in levels:
            pair = bounds(center, width, *thresholds(self.scores_, level, self.symmetric))
            pairs.append((self._bound(pair[0], -np.inf), self._bound(pair[1], np.inf)))
        point = self._shaped(self.target_.backward(self.target_.read(rows.prediction)))
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

    def _bound(self, bound: Array, unknown: float) -> Array:
        """Bring a bound to the scale of y; where the inverse has no value the bound is infinite."""
        mapped = self.target_.backward(bound)
        return np.where(np.isnan(mapped), unknown, mapped)

    def _warn_if_infinite(self, levels: list[Any], width: Array) -> None:
        needed = max(minimum_calibration_size(level, self.symmetric) for level in levels)
        if len(self.scores_) < needed:
            warnings.warn(
                f"{len(self.scores_)} calibration rows cannot support confidence level {max(levels, key=float)}: its "
                f"intervals are (-inf, inf). At least {needed} calibration rows are needed.",
                CalibrationWarning,
                stacklevel=3,
            )
        outside = np.isinf(width).any(axis=1).sum()
        if outside:
            warnings.warn(
                f"{outside} of {len(width)} rows lie outside the span of the training rows (infinite leverage): their "
                "intervals are (-inf, inf). A ridge > 0 in the estimator makes them finite.",
                LeverageWarning,
                stacklevel=3,
            )

    # ---------------------------------------------------------------- input, state, scikit-learn

    def _check_trained(self, caller: str) -> None:
        check_is_fitted(
            self,
            "space_",
            msg=f"This %(name)s instance is not fitted yet. Call fit, or fit_train and calibrate, before {caller}.",
        )

    def _forget(self) -> None:
        for name in (*_TRAINED, *_CALIBRATED):
            self.__dict__.pop(name, None)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing: this estimator uses sample_weight itself and passes it on to the estimator's fit."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return (
            MetadataRouter(owner=self).add_self_request(self).add(estimator=self._regressor(), method_mapping=mapping)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = get_tags(self._regressor()).input_tags.sparse
        tags.regressor_tags.poor_score = True
        return tags


def take_rows(values: Any, index: Array, n_samples: int) -> Any:
    """Return rows of something with one entry per row, anything else as it is."""
    if not (hasattr(values, "__len__") or hasattr(values, "shape")) or isinstance(values, (str, dict)):
        return values
    return _safe_indexing(values, index) if _num_samples(values) == n_samples else values


def _shift_and_width(scale: Any, rows: Rows) -> tuple[Any, Array]:
    shift, width = scale.predict(rows)
    name = getattr(scale, "function", type(scale)).__name__
    return shift, check_widths(width, lambda: np.isinf(rows.leverage), len(rows), name)


def band_of(scale: Any, rows: Rows, target: Any) -> tuple[Array, Array]:
    """Return centre (m, q) and width (m, 1) or (m, q) of the band, on the scale of the scores."""
    shift, width = _shift_and_width(scale, rows)
    return target.read(rows.prediction) + shift, width
