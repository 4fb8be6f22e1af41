"""Training rows as if each had not been seen: leave-one-out in closed form where it is exact, else by refits."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
from hatband.checks import check_prediction
from hatband.fitted.rows import (
    NoHeldOutResiduals,
    TrainingRows,
    check_leverage,
    held_out_rows,
    predict_features,
    take_rows,
)
from hatband.fitted.smoother import Smoother, SmootherMismatch
from hatband.geometry import Features, Space

RESIDUAL_FOLDS = 5


def training_rows(
    estimator: Any,
    space: Space,
    X: Any,
    y: Array,
    *,
    template: Any,
    sample_weight: Array | None = None,
    fit_params: dict[str, Any] | None = None,
    fit_train_rows: Literal["auto", "unseen"] = "auto",
    random_state: Any = None,
    n_jobs: int | None = None,
    target: Any = None,
) -> TrainingRows:
    """Return the training rows as if each had not been seen, with their residuals, the source of these, and weights.

    Predictions and residuals are exact leave-one-out where the model is a linear smoother that was trained on these
    rows, ordinary ones where a frozen model has not seen the rows, and from 5-fold refits of `template` otherwise.
    Leverages are leave-one-out in every case (`held_out_rows`). With a `target` that the model learns on another scale
    than y, residuals are on the scale of its scores and predictions on the scale of the model. Rows whose leave-one-out
    is undefined (the model interpolates them) are left out.

    Raises
    ------
    NoHeldOutResiduals
        If the model is frozen and is not known to have seen or not seen the rows; or if it would have to be refitted
        without the only row.
    """
    features, frozen = space.features(X), isinstance(template, FrozenEstimator)
    told_unseen = frozen and fit_train_rows == "unseen"
    smoother = None if told_unseen else _smoother(estimator, space, features, y, sample_weight)
    if smoother is not None:
        rows = smoother.held_out_rows(features, y)
        source = "leave-one-out" if space.exactness == "exact" else "leave-one-out, hyperparameters as tuned"
    elif told_unseen or (frozen and space.exactness != "none"):
        prediction, source = predict_features(estimator, space, features, y.shape[1]), "unseen rows"
    elif frozen:
        raise NoHeldOutResiduals(
            "A frozen model cannot be refitted for held-out residuals, and it does not tell whether it was trained "
            "on the rows of fit_train. Pass fit_train_rows='unseen' with rows that it has not seen, or a scale that "
            "needs no residuals, such as 'leverage'."
        )
    elif len(y) < 2:
        raise NoHeldOutResiduals(
            "Held-out residuals from refits need at least two training rows; got 1. Pass more rows, or a scale that "
            "needs no residuals, such as 'leverage'."
        )
    else:
        folds = KFold(min(RESIDUAL_FOLDS, len(y)), shuffle=True, random_state=random_state)
        refit = partial(_predicted_without, (template, X, y, fit_params or {}))
        prediction = _held_out_predictions(refit, list(folds.split(y)), n_jobs)
        prediction = prediction if target is None else target.transform(prediction)
        source = f"{folds.get_n_splits()}-fold cross-validation"
    if smoother is None:
        weights = space.training_weights(sample_weight)
        leverage = check_leverage(space.training_leverage(features), space, y.shape)
        rows = held_out_rows(space, features, prediction, leverage, weights)
    held_out = y - rows.prediction if target is None else target.forward(y) - target.read(rows.prediction)
    defined = np.isfinite(held_out).all(axis=1)
    if defined.all():
        return TrainingRows(rows, held_out, source, sample_weight)
    weight = None if sample_weight is None else sample_weight[defined]
    return TrainingRows(rows.take(defined), held_out[defined], source, weight)


def _smoother(estimator: Any, space: Space, training: Features, y: Array, weights: Array | None) -> Smoother | None:
    """Return the model as a linear smoother of these rows, or None if it is not one."""
    try:
        return None if space.exactness == "none" else Smoother.of(estimator, space, training, y, weights)
    except SmootherMismatch:
        return None


def _held_out_predictions(refit: Callable[..., Array], folds: list[tuple[Array, Array]], n_jobs: int | None) -> Array:
    """Return the prediction (n, q) of each row by a refit without its fold.

    scikit-learn's cross_val_predict refuses estimators that have no `predict` before they are fitted, and it needs
    another request for fit parameters.
    """
    predicted = Parallel(n_jobs=n_jobs)(delayed(refit)(*fold) for fold in folds)
    order = np.argsort(np.concatenate([held for _, held in folds]))
    return np.concatenate(predicted)[order]


def _predicted_without(given: tuple[Any, Any, Array, dict[str, Any]], training: Array, held: Array) -> Array:
    """Return predictions of the held-out rows by a clone fitted to the other rows; `given`: template, X, y, params."""
    template, X, y, fit_params = given
    params = {name: take_rows(value, training, len(y)) for name, value in fit_params.items()}
    observed = y[training, 0] if y.shape[1] == 1 else y[training]
    model = clone(template).fit(_safe_indexing(X, training), observed, **params)
    predicted = model.predict(_safe_indexing(X, held))
    return check_prediction(predicted, len(held), y.shape[1], type(template).__name__)
