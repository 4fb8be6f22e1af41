"""CV+: every row trains and every row calibrates, with one model per fold, for any regressor."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags

from hatband.conformal.held_out.base import HeldOutRegressor
from hatband.conformal.held_out.closed_form import LARGEST_BLOCK, BlockOut
from hatband.conformal.held_out.plus import HeldOut
from hatband.conformal.held_out.refits import CallbackSupportMixin, Fold, Refitted, folds_of, with_callbacks
from hatband.conformal.split import SplitConformalRegressor
from hatband.fitted.rows import TrainingData, fit_parameters, weight_in
from hatband.fitted.smoother import Smoother, SmootherMismatch
from hatband.geometry import Space
from hatband.geometry.composite import PerOutputSpace, PreprocessedSpace
from hatband.scales import ConstantScale, LeverageScale


class CrossConformalRegressor(CallbackSupportMixin, HeldOutRegressor):
    """Intervals from K fold models mu_-k(x) -+ R_i w_-k(x), any regressor; each row is scored by a model without it.

    Every row trains K - 1 models and calibrates one. Leverage and scale are fitted inside each fold, learned scales
    too. Least squares, ridge and kernel models without preprocessing are not refitted: a whole block of rows is left
    out in closed form.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        Any scikit-learn regressor, Pipeline or search.
    cv : int, splitter or iterable of (training, held-out) positions, default=5
        The folds. An integer means K consecutive folds, not shuffled. Splitters that need groups get the `cv_groups`
        of `fit`.
    method : {"plus", "minmax", "base"}, default="plus"
        "plus": CV+, quantiles of mu_-k(x) -+ R_i w_-k(x). "minmax": the extremes of the fold models -+ one quantile of
        all scores. "base": the model of all rows -+ that quantile, without a guarantee.
    geometry, scale : as in SplitConformalRegressor
        Fitted in each fold.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    random_state : int, RandomState or None, default=None
        For scales that need their own folds.
    n_jobs : int or None, default=None
        Processes for the refits. With scikit-learn >= 1.9, ``set_callbacks(ProgressBar())`` shows how far they are.
    block_size : int or None, default=None
        New rows worked on at once; None takes as many as make a block of 2^18 numbers.

    Attributes
    ----------
    estimator_ : fitted estimator
        Fitted to all rows: what `predict` answers with.
    held_out_ : Refitted or BlockOut
        The fold models; `held_out_.refitted` says whether any model was refitted.
    scores_ : array (n, q)
        Signed scores, in the order of the rows when each row is held out once, else fold after fold.
    space_, scale_ : Space, fitted scale
        Of the model of all rows.

    Raises
    ------
    ValueError
        In fit, if a fold is empty or the estimator is frozen and cannot be refitted.

    Notes
    -----
    Guarantee for exchangeable rows and K folds of n / K rows each: P(y in interval) >= 1 - 2 (1 - level) - sqrt(2 / n)
    for "plus", close to the level where the fold models are stable; >= level - sqrt(2 / n) or so for "minmax". It
    needs each row held out once; with repeated or partial splits and with groups (when new rows come from new groups)
    the same ranks are used, without a theorem. Barber, Candes, Ramdas and Tibshirani (2021), *Predictive inference
    with the jackknife+*, theorem 4; Vovk (2015).

    Cost: K + 1 fits; or one, K factorisations of |B| x |B|, and n d per new row, where blocks are left out in closed
    form: mu_-B(x) = mu(x) - h(x, X_B) G e_B, G = (W_B^-1 - H_BB)^-1. That is done for blocks of at most 1,000 rows, a
    constant or leverage scale, no learned preprocessing, and predictions that are those of the geometry.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> from hatband import CrossConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = CrossConformalRegressor(RandomForestRegressor(5, random_state=0), scale="leverage").fit(X, y)
    >>> model.predict_interval(X[:3])[1].shape
    (3, 2)
    """

    _methods: ClassVar[tuple[str, ...]] = ("plus", "minmax", "base")

    def __init__(
        self,
        estimator: Any = None,
        *,
        cv: Any = 5,
        method: Literal["plus", "minmax", "base"] = "plus",
        geometry: Any = "auto",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        random_state: Any = None,
        n_jobs: int | None = None,
        block_size: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.cv = cv
        self.method = method
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.block_size = block_size

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, cv_groups: Any = None, **fit_params: Any) -> Self:
        """Fit the model of all rows and the models of the folds.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Passed to the estimator unchanged.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0. Ranks of scores are never weighted by it.
        cv_groups : array-like (n,), optional
            For splitters that keep the rows of a group together. They have no part in calibration.
        **fit_params : dict
            Further fit parameters of the estimator, sliced to the rows of a fold where they have n rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If y holds NaN or infinity, a weight is negative, or a fold is empty.
        """
        return self._fit(X, y, sample_weight, fit_params, cv_groups)

    def _hold_out(self, data: TrainingData) -> HeldOut:
        _check_refittable(self._regressor())
        folds = folds_of(self.cv, data)
        whole = SplitConformalRegressor(
            self._regressor(),
            geometry=self.geometry,
            scale=self.scale,
            confidence_level=self.confidence_level,
            random_state=self.random_state,
        ).fit_train(data.X, data.values, data.weight, **data.fit_params)
        if _in_closed_form(whole, folds, len(data)):
            block_out = self._block_out(whole, folds, data)
            if block_out is not None:
                return block_out
        return Refitted.of(whole, folds, data, n_jobs=self.n_jobs, block_size=self.block_size, owner=self)

    def _block_out(self, whole: SplitConformalRegressor, folds: Sequence[Fold], data: TrainingData) -> BlockOut | None:
        """Return the fold models in closed form; None if the model is not a smoother or a fold cannot be left out."""
        weight = weight_in(fit_parameters(self, self._regressor(), data), data)
        training = whole.space_.features(data.X)
        try:
            smoother = Smoother.of(whole.estimator_, whole.space_, training, data.y, weight)
        except SmootherMismatch:
            return None
        return BlockOut.of(smoother, training, data.y, folds, scale=whole.scale_, block_size=self.block_size)


def _in_closed_form(whole: SplitConformalRegressor, folds: Sequence[Fold], n_samples: int) -> bool:
    """Whether the closed form without each fold equals a refit and costs less."""
    complements = all(
        len(fold.training) + len(fold.held) == n_samples == len(np.union1d(fold.training, fold.held)) for fold in folds
    )
    small = max(len(fold.held) for fold in folds) <= LARGEST_BLOCK
    return complements and small and _of_leverage_alone(whole.scale_) and _is_fixed(whole.space_)


def _of_leverage_alone(scale: Any) -> bool:
    match scale:
        case ConstantScale():
            return True
        case LeverageScale():
            return scale.form == "posterior"
        case _:
            return False


def _is_fixed(space: Space) -> bool:
    """Whether the features are the same for any training rows."""
    if space.exactness != "exact" or isinstance(space, PerOutputSpace):
        return False
    if isinstance(space, PreprocessedSpace):
        stateless = all(not get_tags(step).requires_fit for step in space.transformers)
        return stateless and _is_fixed(space.space)
    return True


def _check_refittable(estimator: Any) -> None:
    """Raise for a frozen estimator: it cannot be refitted without a fold."""
    if isinstance(estimator, FrozenEstimator):
        raise ValueError(
            "CrossConformalRegressor needs an estimator that it can refit without a fold; got a FrozenEstimator. Pass "
            "the estimator itself, or use SplitConformalRegressor with fit_train and calibrate."
        )
