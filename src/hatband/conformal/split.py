"""Split conformal prediction around any regressor, with a band shaped by the leverage of the model as it was fitted."""

from functools import cache, partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state

from hatband.arrays.typing import Array
from hatband.checks import check_calibration_size, check_confidence_level, check_in, check_target, unchanged_on_failure
from hatband.conformal.band import Band, Ends, split_target
from hatband.conformal.calibration.calibration import (
    CalibrationPlan,
    EachOutput,
    check_labels,
    check_ratio,
)
from hatband.conformal.calibration.groups import PASSED_LABELS, Grouping
from hatband.conformal.calibration.joint import fit_joint_box
from hatband.conformal.calibration.shift import fit_ratio
from hatband.conformal.regressor import CalibratedRegressor, RegressorWrapper, check_rows, fit_geometry
from hatband.fitted.rows import (
    Rows,
    TrainingData,
    TrainingRows,
    fit_estimator,
    fit_parameters,
    held_out_rows,
    new_rows,
    take_rows,
)
from hatband.fitted.training_rows import training_rows
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.geometry.registry import as_geometry
from hatband.scales.named import as_scale, fit_scale


class SplitConformalRegressor(RegressorWrapper, CalibratedRegressor):
    """Prediction intervals mu(x) -+ q (1 + h(x))^1/2 around any regressor, valid with a stated probability.

    The rows are split: one part trains the estimator and sets the space in which leverage h(x) is measured, the other
    calibrates the threshold q. The interval is wide where the model knows little. It is valid for any estimator.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        Any scikit-learn regressor, Pipeline or search; inside ``FrozenEstimator``, one that is already fitted.
    geometry : "auto", Geometry or transformer, default="auto"
        The space of leverage. "auto" reads it from the fitted estimator, its ridge and intercept included
        (see `hatband.geometry`); a transformer is cloned and fitted on the training X.
    scale : str, Scale or callable(rows) -> width, default="auto"
        The shape of the band: "auto" chooses among the scales below by cross-validation on held-out residuals
        (`AutoScale`); "constant" and "leverage" are fixed; "strength", "magnitude", "quantile" and "laplace" are
        learned from these residuals; or your own.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    calibration_size : float or int, default=0.25
        Share or number of rows that `fit` keeps for calibration; 0 trains only.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    groups : None, str, callable, LeverageBins or Groups, default=None
        Calibrate each group of rows by itself: a column name, a callable(X) -> labels, bins of leverage, or `Groups`
        with rules for small and unseen groups. None: groups are those passed with the rows, if any are.
    likelihood_ratio : None, callable or ClassifierRatio, default=None
        For new rows from another population: its density over that of the calibration rows, as a callable(X), or
        learned from `X_target` given to fit. None: ratios are those passed with the rows, if any are.
    joint : bool, default=False
        Intervals that hold for all outputs at once, P(all outputs inside) >= level; by default each holds by itself.
    fit_train_rows : {"auto", "unseen"}, default="auto"
        For frozen models and scales that learn from residuals: "unseen" states that the rows given to `fit_train` were
        not used to train the frozen model.
    random_state : int, RandomState or None, default=None
        Draws the calibration rows.
    n_jobs : int or None, default=None
        Processes for the refits that some estimators need for held-out residuals.

    Attributes
    ----------
    estimator_ : fitted estimator
    space_ : Space
        The fitted geometry; it holds training rows for kernels only.
    scale_ : fitted scale
    scores_ : array (n_cal, q)
        Signed calibration scores (y - prediction - shift) / width.
    residuals_from_ : str or None
        Source of the residuals that the scale learned from.
    effective_sample_size_ : float
        Number of rows of equal weight that the calibration rows are worth: (sum w)^2 / sum w^2 for likelihood ratios w,
        else n_cal.
    calibration_indices_ : array (n_cal,)
        After `fit`: which rows calibrated.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows, with any estimator, geometry and scale: the threshold
    is the ceil((n + 1) level)-th smallest score, by exact rational arithmetic. With groups it holds in every group;
    with the true likelihood ratio, for rows of the other population, each of which counts with its own weight. Cost
    beyond the estimator's own: one factorisation, n d^2 + d^3 / 3. Papadopoulos et al. (2002); Lei et al. (2018);
    Fadnavis (2026), arXiv 2602.12693; groups: Vovk (2012); likelihood ratio: Tibshirani et al. (2019).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y_pred, interval = SplitConformalRegressor(random_state=0).fit(X, y).predict_interval(X[:3])
    >>> y_pred.shape, interval.shape
    ((3,), (3, 2))
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        geometry: Any = "auto",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        calibration_size: float = 0.25,
        symmetric: bool = True,
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        fit_train_rows: Literal["auto", "unseen"] = "auto",
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.calibration_size = calibration_size
        self.symmetric = symmetric
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.fit_train_rows = fit_train_rows
        self.random_state = random_state
        self.n_jobs = n_jobs

    _trained_by: ClassVar[tuple[str, str]] = ("space_", "fit, or fit_train and calibrate,")

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
            Passed to the estimator unchanged.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0. Calibration scores are never weighted by it.
        groups, likelihood_ratio : array-like (n,), optional
            Group of each row, and density of new rows over that of these: as in `calibrate`. The estimator itself gets
            groups by metadata routing only.
        X_target : array-like, sparse matrix or DataFrame, optional
            Rows of the population to predict for, where `likelihood_ratio` is learned (`ClassifierRatio`): from the
            training part and these rows, without calibration rows.
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
        data = TrainingData.checked(X, y, sample_weight, fit_params, groups=groups)
        check_consistent_length(X, likelihood_ratio)
        n = len(data)
        # Here the rows of a message are those of the caller, and no rows escape by being trained on.
        groups = None if groups is None else check_labels(groups, n)
        likelihood_ratio = None if likelihood_ratio is None else check_ratio(likelihood_ratio, n)
        size = check_calibration_size(self.calibration_size, n)
        order = check_random_state(self.random_state).permutation(n)
        calibration, training = np.sort(order[:size]), np.sort(order[size:])
        with unchanged_on_failure(self):
            data = data.with_rows(check_rows(self, X, reset=True))
            self._train(data.take(training), X_target)
            if size:
                marks = (take_rows(entry, calibration, n) for entry in (groups, likelihood_ratio))
                self._calibrate(take_rows(data.X, calibration, n), data.y[calibration], *marks)
                self.calibration_indices_ = calibration
        return self

    def fit_train(self, X: Any, y: Any, sample_weight: Any = None, *, X_target: Any = None, **fit_params: Any) -> Self:
        """Train on all rows given; call `calibrate` with other rows before asking for intervals.

        Around a ``FrozenEstimator`` nothing is trained: the rows set the reference that leverage is measured against.

        Parameters
        ----------
        X, y, sample_weight, X_target, **fit_params
            As in `fit`.

        Returns
        -------
        self
            Without earlier calibration scores: they belonged to another model.
        """
        data = TrainingData.checked(X, y, sample_weight, fit_params)
        with unchanged_on_failure(self):
            self._train(data.with_rows(check_rows(self, X, reset=True)), X_target)
        return self

    def calibrate(self, X: Any, y: Any, *, groups: Any = None, likelihood_ratio: Any = None) -> Self:
        """Score rows that the model has not seen; earlier scores are replaced.

        Parameters
        ----------
        X, y
            Calibration rows, exchangeable with the rows to come and not among the training rows.
        groups : array-like (n,), optional
            Group of each row, any hashable labels: each group is calibrated by itself (see `Groups`).
        likelihood_ratio : array-like (n,), optional
            Density of the population of new rows over the density of these rows, at each row: >= 0, up to one factor.

        Returns
        -------
        self
            With `scores_` (n, q): signed residuals divided by the scale's width; `effective_sample_size_`.

        Raises
        ------
        NotFittedError
            If `fit` and `fit_train` have not run.
        ValueError
            If y holds NaN or infinity, a group is missing or a ratio negative; the object stays as it was.
        """
        self._check_trained("calibrate")
        target, _ = check_target(y)
        check_consistent_length(X, target, groups, likelihood_ratio)
        with unchanged_on_failure(self):
            self._calibrate(self._checked(X), target, groups, likelihood_ratio)
            self.__dict__.pop("calibration_indices_", None)
        return self

    def _train(self, data: TrainingData, X_target: Any) -> None:
        """Fit the estimator, the space that measures it and the scale, and plan the calibration."""
        levels, _ = check_confidence_level(self.confidence_level)
        check_in(self.fit_train_rows, ("auto", "unseen"), "fit_train_rows")
        check_in(self.joint, (True, False), "joint")
        check_in(self.symmetric, (True, False), "symmetric")
        self.n_outputs_, self.single_target_ = data.y.shape[1], data.is_single
        ratio = self._fitted_ratio(data.X, X_target)
        self.estimator_, weight = fit_estimator(self, self._regressor(), data)
        self.model_, self.target_ = split_target(self.estimator_, data.y)
        geometry = as_geometry(self.geometry, self.estimator_)
        self.space_ = fit_geometry(geometry, self.model_, data.X, weight)
        self.scale_ = as_scale(self.scale, levels[0], self.random_state)
        # Refits may stand behind these residuals: they are made once, and only for what asks.
        held_out = cache(partial(self._training_rows, data, weight))
        self.residuals_from_ = fit_scale(self.scale_, held_out)
        joint = self.joint and self.n_outputs_ > 1
        outputs = fit_joint_box(self.scale_, held_out, partial(self._seen, data), levels[0]) if joint else EachOutput()
        grouping = PASSED_LABELS
        if self.groups is not None:
            grouping = Grouping.of(self.groups, partial(self._training_leverages, data.X, weight))
        self.plan_ = CalibrationPlan(grouping, self.groups is not None, ratio, outputs)
        for name in ("calibration_", "calibration_indices_"):
            self.__dict__.pop(name, None)

    def _training_rows(self, data: TrainingData, weight: Array | None) -> TrainingRows:
        """Return the training rows as if each had not been seen, with residuals."""
        return training_rows(
            self.model_,
            self.space_,
            data.X,
            data.y,
            template=self._regressor(),
            sample_weight=weight,
            fit_params=fit_parameters(self, self._regressor(), data),
            fit_train_rows=self.fit_train_rows,
            random_state=self.random_state,
            n_jobs=self.n_jobs,
            target=self.target_,
        )

    def _fitted_ratio(self, X: Any, X_target: Any) -> Any:
        if self.likelihood_ratio is None and X_target is None:
            return None
        return fit_ratio(
            self.likelihood_ratio, X, None if X_target is None else check_rows(self, X_target, reset=False)
        )

    def _seen(self, data: TrainingData) -> tuple[Rows, Array]:
        """Return the training rows as the model sees them, and their residuals on the scale of the scores."""
        rows = self._rows(data.X)
        return rows, self.target_.forward(data.y) - self.target_.read(rows.prediction)

    def _training_leverages(self, X: Any, weight: Array | None) -> Rows:
        """Return the training rows with leave-one-out leverage, and no prediction."""
        features, weights = self.space_.features(X), self.space_.training_weights(weight)
        leverage = self.space_.training_leverage(features)
        return held_out_rows(self.space_, features, leverage, leverage, weights)

    def _calibrate(self, X: Any, y: Array, groups: Any, likelihood_ratio: Any) -> None:
        """Score rows that the model has not seen, and keep the scores with their groups and weights."""
        levels, _ = check_confidence_level(self.confidence_level)
        rows = self._rows(X)
        self.calibration_ = self.plan_.calibration(
            Band.of(self.scale_, rows, self.target_).scores(y),
            X,
            rows,
            groups=groups,
            likelihood_ratio=likelihood_ratio,
            needed=lambda: max(minimum_calibration_size(level, self.symmetric) for level in levels),
        )

    # ---------------------------------------------------------------- prediction

    def _band(self, X: Any) -> Band:
        return Band.of(self.scale_, self._rows(X), self.target_)

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        rows = self._rows(X)
        new = self.calibration_.reader.read(X, rows, groups, likelihood_ratio)
        band = Band.of(self.scale_, rows, self.target_)
        return band.point, self.calibration_.ends(band, new, levels, self.symmetric)

    def _rows(self, X: Any) -> Rows:
        """Return rows as scale and calibration see them; X runs through the model's preprocessing once."""
        return new_rows(self.model_, self.space_, X, self.n_outputs_)
