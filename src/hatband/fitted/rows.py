"""What is known of a row, in four lazy fields, and the honest version of them for the rows that trained the model."""

from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from hatband.arrays.typing import Array
from hatband.checks import check_prediction
from hatband.formulas.leave_one_out import block_residuals, loo_leverage, loo_residuals, loo_sampling_leverage
from hatband.geometry import Features, Space, is_training_sample, reweighted, unseen_leverage

RESIDUAL_FOLDS = 5


class NoHonestResiduals(ValueError):
    """The model may have been trained on the rows, and cannot be refitted without them."""


class Rows:
    """What a scale may look at: inputs (m, k), leverage and sampling leverage (m,), prediction (m, q).

    Each field is computed when it is first read, and once: a constant scale costs no leverage, a leverage scale no
    second prediction.

    Parameters
    ----------
    n_samples : int
        How many rows there are.
    inputs, leverage, sampling_leverage, prediction : callable() -> array
        What computes each field.
    measured : callable() -> (Space, Features), optional
        The space that measures the rows, and the rows as it sees them, for `reweighted` and `leverage_in`.
    left_out : bool, default=False
        Whether predictions and leverages are leave-one-out in closed form, so that blocks can be left out too.
    """

    def __init__(
        self,
        n_samples: int,
        *,
        inputs: Callable[[], Array],
        leverage: Callable[[], Array],
        sampling_leverage: Callable[[], Array],
        prediction: Callable[[], Array],
        measured: Callable[[], tuple[Space, Features]] | None = None,
        left_out: bool = False,
    ) -> None:
        self._n_samples = n_samples
        self._measured = measured
        self._left_out = left_out
        self._inputs = inputs
        self._leverage = leverage
        self._sampling_leverage = sampling_leverage
        self._prediction = prediction

    def __len__(self) -> int:
        return self._n_samples

    @cached_property
    def inputs(self) -> Array:
        """Numeric inputs (m, k); NaN where the data had none."""
        return self._inputs()

    @cached_property
    def leverage(self) -> Array:
        """Posterior leverage (m,), or (m, q) where the ridge differs per output."""
        return self._leverage()

    @cached_property
    def sampling_leverage(self) -> Array:
        """Sampling leverage, shaped like `leverage`."""
        return self._sampling_leverage()

    @cached_property
    def prediction(self) -> Array:
        """Prediction (m, q)."""
        return self._prediction()

    def reweighted(self, weights: Array) -> Space | None:
        """Return their space trained on these rows with weights (m,); None where it cannot be."""
        return None if self._measured is None else reweighted(*self._measured(), weights)

    def leverage_in(self, space: Space) -> Array:
        """Posterior leverage in a space that `reweighted` returned for rows of the same model."""
        if self._measured is None:
            raise ValueError("these rows were made without features, and no other space can measure them.")
        return space.leverage(self._measured()[1])

    def take(self, index: Array) -> "Rows":
        """Return the rows at `index` (integers, a boolean mask or a slice), still lazy."""
        return Rows(
            len(np.arange(len(self))[index]),
            inputs=lambda: self.inputs[index],
            leverage=lambda: self.leverage[index],
            sampling_leverage=lambda: self.sampling_leverage[index],
            prediction=lambda: self.prediction[index],
            measured=None if self._measured is None else partial(_taken, self._measured, index),
            left_out=self._left_out,
        )

    def of_output(self, j: int) -> "Rows":
        """Return the rows as output j sees them: its own prediction (m, 1) and leverage (m,)."""
        return Rows(
            len(self),
            inputs=lambda: self.inputs,
            leverage=lambda: _of_output(self.leverage, j),
            sampling_leverage=lambda: _of_output(self.sampling_leverage, j),
            prediction=lambda: self.prediction[:, j : j + 1],
            measured=self._measured,
            # With a ridge for each output there is no one cross-leverage.
            left_out=self._left_out and self.leverage.ndim == 1,
        )

    def without_blocks(self, residual: Array, weights: Array | None, blocks: Iterable[Array]) -> tuple["Rows", Array]:
        """Return rows of one output and their residuals (n,), each predicted without its whole block of rows.

        Leave-one-out predictions are told from the curve of the model by how far the row itself would bend it: in few
        dimensions a learner can read the residual off them. Where there is no closed form, rows and residuals are
        returned as they are. Leverages stay leave-one-out.
        """
        if self._measured is None or not self._left_out:
            return self, residual
        space, features = self._measured()
        w = np.ones(len(self)) if weights is None else weights
        seen = residual / (1 + w * self.leverage)  # e = (1 - w h) r, and h / (1 - w h) is the leverage here
        found = np.empty(len(self))
        for block in blocks:
            taken = features.take(block)
            without = block_residuals(seen[block], space.cross_leverage(taken, taken), w[block])
            if without is None:
                return self, residual
            found[block] = without
        prediction = self.prediction + (residual - found)[:, None]
        rows = Rows(
            len(self),
            inputs=lambda: self.inputs,
            leverage=lambda: self.leverage,
            sampling_leverage=lambda: self.sampling_leverage,
            prediction=lambda: prediction,
            measured=self._measured,
        )
        return rows, found


def _of_output(values: Array, j: int) -> Array:
    """Return the leverage that belongs to an output: there is one for all, or one for each."""
    return values if values.ndim == 1 else values[:, j]


def _taken(measured: Callable[[], tuple[Space, Features]], index: Array) -> tuple[Space, Features]:
    space, features = measured()
    return space, features.take(index)


class TrainingRows(NamedTuple):
    """Training rows as if each had not been seen."""

    rows: Rows
    residuals: Array
    """Honest residuals (n, q)."""
    source: str
    """Where the residuals came from."""
    sample_weight: Array | None
    """Weights (n,) of these rows."""


def new_rows(estimator: Any, space: Space, X: Any, n_outputs: int) -> Rows:
    """Return rows that the model has not seen; X runs through the model's preprocessing once."""
    features = space.features(X)
    return Rows(
        len(features),
        inputs=partial(space.inputs, features),
        leverage=partial(space.leverage, features),
        sampling_leverage=partial(space.sampling_leverage, features),
        prediction=partial(predict_features, estimator, space, features, n_outputs),
        measured=lambda: (space, features),
    )


def training_rows(
    estimator: Any,
    space: Space,
    X: Any,
    y: Array,
    *,
    template: Any,
    sample_weight: Array | None = None,
    fit_params: dict[str, Any] | None = None,
    residuals: Literal["auto", "unseen"] = "auto",
    random_state: Any = None,
    n_jobs: int | None = None,
    target: Any = None,
) -> TrainingRows:
    """Return the training rows as if each had not been seen, with residuals, where those came from, and weights.

    Leverage becomes h / (1 - w h) and sampling leverage (s - w h^2) / (1 - w h)^2, but for what a space of few
    directions adds to h (`unseen_leverage`), which stays. Predictions and residuals are exact
    leave-one-out where the model is a linear smoother that was trained on these rows, taken as they are where the
    model has not seen the rows, and from 5-fold refits of `template` otherwise. With a `target` that the model learns
    on another scale than y, residuals are on the scale of its scores and predictions on the scale of the model. Rows
    whose leave-one-out is undefined (the model interpolates them) are left out.

    Raises
    ------
    NoHonestResiduals
        If the model is frozen, is not known to have seen or not seen the rows, and so cannot give honest residuals; or
        if it would have to be refitted without the only row.
    """
    features = space.features(X)
    predicted = predict_features(estimator, space, features, y.shape[1])
    h = space.leverage(features)
    frozen = isinstance(template, FrozenEstimator)
    own = not frozen or (residuals == "auto" and is_training_sample(space, estimator, features, y, sample_weight))
    if own and space.exactness != "none":
        prediction = y - left_out(y - predicted, h, sample_weight)
        source = "leave-one-out" if space.exactness == "exact" else "leave-one-out, hyperparameters as tuned"
    elif frozen and (residuals == "unseen" or space.exactness != "none"):
        prediction, source = predicted, "unseen rows"
    elif frozen:
        raise NoHonestResiduals(
            "A frozen model cannot be refitted for honest residuals, and whether it was trained on the rows of "
            "fit_train cannot be seen from it. Pass residuals='unseen' with rows that it has not seen, or a scale that "
            "needs no residuals, such as 'leverage'."
        )
    elif len(y) < 2:
        raise NoHonestResiduals(
            "Honest residuals from refits need at least two training rows; got 1. Pass more rows, or a scale that "
            "needs no residuals, such as 'leverage'."
        )
    else:
        folds = KFold(min(RESIDUAL_FOLDS, len(y)), shuffle=True, random_state=random_state)
        refit = partial(_predicted_without, (template, X, y, fit_params or {}))
        prediction = _held_out_predictions(refit, list(folds.split(y)), n_jobs)
        prediction = prediction if target is None else target.transform(prediction)
        source = f"{folds.get_n_splits()}-fold cross-validation"
    honest = y - prediction if target is None else target.forward(y) - target.read(prediction)
    rows = honest_rows(space, features, prediction, h, sample_weight, closed=own and space.exactness != "none")
    defined = np.isfinite(honest).all(axis=1)
    if defined.all():
        return TrainingRows(rows, honest, source, sample_weight)
    weight = None if sample_weight is None else sample_weight[defined]
    return TrainingRows(rows.take(defined), honest[defined], source, weight)


def _held_out_predictions(refit: Callable[..., Array], folds: list[tuple[Array, Array]], n_jobs: int | None) -> Array:
    """Return the prediction (n, q) of each row by a refit without its fold.

    scikit-learn's cross_val_predict refuses estimators that have no `predict` before they are fitted, and wants fit
    parameters requested anew.
    """
    predicted = Parallel(n_jobs=n_jobs)(delayed(refit)(*fold) for fold in folds)
    order = np.argsort(np.concatenate([held for _, held in folds]))
    return np.concatenate(predicted)[order]


def _predicted_without(given: tuple[Any, Any, Array, dict[str, Any]], training: Array, held: Array) -> Array:
    """Return predictions of the rows held out by a model, given as (template, X, y, fit_params), of the others."""
    template, X, y, fit_params = given
    params = {name: take_rows(value, training, len(y)) for name, value in fit_params.items()}
    observed = y[training, 0] if y.shape[1] == 1 else y[training]
    model = clone(template).fit(_safe_indexing(X, training), observed, **params)
    predicted = model.predict(_safe_indexing(X, held))
    return check_prediction(predicted, len(held), y.shape[1], type(template).__name__)


def take_rows(values: Any, index: Array, n_samples: int) -> Any:
    """Return rows of something with one entry per row, anything else as it is."""
    if not (hasattr(values, "__len__") or hasattr(values, "shape")) or isinstance(values, (str, dict)):
        return values
    return _safe_indexing(values, index) if _num_samples(values) == n_samples else values


def left_out(residuals: Array, h: Array, weights: Array | None) -> Array:
    """Return leave-one-out residuals (n, q); h is (n,), or has one column for all outputs or for each."""
    leverage = np.broadcast_to(h.reshape(len(h), -1), residuals.shape)
    return _per_output(loo_residuals, weights, residuals, leverage)


def honest_rows(
    space: Space, features: Features, prediction: Array, h: Array, weights: Array | None, *, closed: bool = False
) -> Rows:
    """Return training rows as if each had not been seen: held-out predictions, leave-one-out leverages, lazy.

    `closed` says that the predictions are leave-one-out in closed form.
    """
    unseen = cache(partial(unseen_leverage, space, features))
    return Rows(
        len(features),
        inputs=partial(space.inputs, features),
        leverage=lambda: _per_output(loo_leverage, weights, np.maximum(h - unseen(), 0.0)) + unseen(),
        sampling_leverage=lambda: _per_output(
            loo_sampling_leverage,
            weights,
            space.sampling_leverage(features).reshape(h.shape),
            np.maximum(h - unseen(), 0.0),
        ),
        prediction=lambda: prediction,
        measured=lambda: (space, features),
        left_out=closed,
    )


def _per_output(formula: Callable[..., Array], weights: Array | None, *values: Array) -> Array:
    """Apply a formula of (n,) arrays to each column, where there are columns."""
    if values[0].ndim == 1:
        return formula(*values, weights)
    return np.column_stack([formula(*columns, weights) for columns in zip(*(v.T for v in values), strict=True)])


def predict_features(estimator: Any, space: Space, features: Features, n_outputs: int) -> Array:
    """Predict from features that are already there, so that preprocessing does not run again."""
    final = space.final_step(estimator)
    return check_prediction(final.predict(features.model_inputs), len(features), n_outputs, type(final).__name__)
