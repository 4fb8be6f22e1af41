"""What is known about a row, in four lazy fields; and the rows of a fit, on their way to the estimator."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import _num_samples, has_fit_parameter

from hatband.arrays.typing import Array
from hatband.checks import check_prediction, check_target, check_weights
from hatband.formulas.leave_one_out import block_residuals, loo_leverage, loo_sampling_leverage
from hatband.geometry import Features, Space
from hatband.geometry.base import kept


class NoHeldOutResiduals(ValueError):
    """The model may have been trained on these rows and cannot be refitted without them."""


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
    closed_form : array (m,), optional
        Weights of the rows in the fit, where predictions and leverages are leave-one-out in closed form: blocks can be
        left out too.
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
        closed_form: Array | None = None,
    ) -> None:
        self._n_samples = n_samples
        self._measured = measured
        self._closed_form = closed_form
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
        """Return the space of the rows, trained on them with weights (m,); None if that is not possible."""
        if self._measured is None:
            return None
        space, features = self._measured()
        return space.reweighted(features, weights)

    def leverage_in(self, space: Space) -> Array:
        """Posterior leverage in a space that `reweighted` returned for rows of the same model."""
        if self._measured is None:
            raise ValueError("these rows were made without features, so another space cannot measure them.")
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
            closed_form=None if self._closed_form is None else self._closed_form[index],
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
            closed_form=self._closed_form if self.leverage.ndim == 1 else None,
        )

    def without_blocks(self, residual: Array, blocks: Iterable[Array]) -> tuple["Rows", Array]:
        """Return rows of one output and their residuals (n,), each predicted without its whole block of rows.

        A leave-one-out prediction differs from the curve of the model by an amount that depends on the row's residual:
        in few dimensions a learner can recover the residual from it. Without a closed form, rows and residuals are
        returned unchanged. Leverages stay leave-one-out.
        """
        if self._measured is None or self._closed_form is None:
            return self, residual
        (space, features), w = self._measured(), self._closed_form
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
    """Return the leverage of one output: leverages are shared by all outputs, or there is one column for each."""
    return values if values.ndim == 1 else values[:, j]


def _taken(measured: Callable[[], tuple[Space, Features]], index: Array) -> tuple[Space, Features]:
    space, features = measured()
    return space, features.take(index)


class TrainingRows(NamedTuple):
    """Training rows as if each had not been seen."""

    rows: Rows
    residuals: Array
    """Held-out residuals (n, q)."""
    source: str
    """Where the residuals came from."""
    sample_weight: Array | None
    """Weights (n,) of these rows."""


def check_leverage(leverage: Array, space: Space, shape: tuple[int, ...]) -> Array:
    """Return leverages of rows whose predictions have a shape (m, q); ValueError unless they are (m,) or (m, q)."""
    if leverage.shape not in (shape, shape[:1]):
        raise ValueError(
            f"{type(space).__name__} must give one leverage for each row, ({shape[0]},), or one for each output too, "
            f"{shape}; got {leverage.shape}. Correct its leverages."
        )
    return leverage


def _measured(verb: Callable[[Features], Array], space: Space, features: Features, n_outputs: int) -> Array:
    return check_leverage(verb(features), space, (len(features), n_outputs))


def new_rows(estimator: Any, space: Space, X: Any, n_outputs: int) -> Rows:
    """Return rows that the model has not seen; X runs through the model's preprocessing once."""
    features = space.features(X)
    return Rows(
        len(features),
        inputs=partial(space.inputs, features),
        leverage=partial(_measured, space.leverage, space, features, n_outputs),
        sampling_leverage=partial(_measured, space.sampling_leverage, space, features, n_outputs),
        prediction=partial(predict_features, estimator, space, features, n_outputs),
        measured=lambda: (space, features),
    )


def held_out_rows(
    space: Space, training: Features, prediction: Array, h: Array, weights: Array | None, *, closed_form: bool = False
) -> Rows:
    """Return training rows as if each had not been seen: held-out predictions, leave-one-out leverages, lazy.

    Leverage h (n,) or (n, q) becomes h / (1 - w h) and sampling leverage (s - w h^2) / (1 - w h)^2, but for what a
    space of few directions adds to h (`Space.unseen_leverage`), which stays. `closed_form` says that the predictions
    are leave-one-out in closed form.
    """
    unseen = cache(partial(space.unseen_leverage, training))

    def seen() -> Array:
        return np.maximum(h - unseen(), 0.0)

    def sampling_leverage() -> Array:
        return loo_sampling_leverage(space.sampling_leverage(training).reshape(h.shape), seen(), weights)

    return Rows(
        len(training),
        inputs=partial(space.inputs, training),
        leverage=lambda: loo_leverage(seen(), weights) + unseen(),
        sampling_leverage=sampling_leverage,
        prediction=lambda: prediction,
        measured=lambda: (space, training),
        closed_form=(np.ones(len(training)) if weights is None else weights) if closed_form else None,
    )


def take_rows(values: Any, index: Array, n_samples: int) -> Any:
    """Return the rows at an index of an object with one entry per row, and any other object unchanged."""
    if not (hasattr(values, "__len__") or hasattr(values, "shape")) or isinstance(values, (str, dict)):
        return values
    return _safe_indexing(values, index) if _num_samples(values) == n_samples else values


def predict_features(estimator: Any, space: Space, features: Features, n_outputs: int) -> Array:
    """Predict from features that were computed already, so that preprocessing does not run again."""
    final = space.final_step(estimator)
    return check_prediction(final.predict(features.model_inputs), len(features), n_outputs, type(final).__name__)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The arguments of `fit`, after their checks.

    Parameters
    ----------
    X : array, sparse matrix or DataFrame of n rows
    y : array (n, q)
        Targets.
    values : array (n,) or (n, q)
        The same in the shape that they came in, which is what an estimator gets.
    weight : array (n,), or None
        Importance of the rows in training.
    fit_params : dict
        Further fit parameters of the estimator.
    metadata : mapping
        Metadata of the owner that its estimator gets as well where it requests it: groups.
    cv_groups : array (n,), or None
        For a splitter of rows into folds.
    """

    X: Any
    y: Array
    values: Array
    weight: Array | None = None
    fit_params: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cv_groups: Any = None

    @classmethod
    def checked(cls, X: Any, y: Any, sample_weight: Any, fit_params: Mapping[str, Any], **metadata: Any) -> Self:
        """Check y, weights and lengths.

        Raises
        ------
        ValueError
            If y holds NaN or infinity, a weight is negative, or lengths differ.
        """
        target, _ = check_target(y)
        given = {name: entry for name, entry in metadata.items() if entry is not None}
        check_consistent_length(X, target, *given.values())
        weight = None if sample_weight is None else check_weights(sample_weight, len(target))
        return cls(X, target, np.asarray(y), weight, fit_params, given)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def is_single(self) -> bool:
        """Whether y had one axis."""
        return self.values.ndim == 1

    def with_rows(self, X: Any) -> Self:
        """Return the same with X as it was checked."""
        return replace(self, X=X)

    def take(self, index: Array) -> Self:
        """Return the rows at `index`; fit parameters are sliced where they have n rows."""
        n = len(self)
        return replace(
            self,
            X=take_rows(self.X, index, n),
            y=self.y[index],
            values=self.values[index],
            weight=None if self.weight is None else self.weight[index],
            fit_params={name: take_rows(value, index, n) for name, value in self.fit_params.items()},
            metadata={name: take_rows(value, index, n) for name, value in self.metadata.items()},
        )


def fit_estimator(owner: Any, template: Any, data: TrainingData) -> tuple[Any, Array | None]:
    """Return a clone of the template that is fitted to the rows, and the weights that reached it.

    Metadata routing may keep weights from the estimator: what is measured of it is not weighted then either.
    """
    params = fit_parameters(owner, template, data)
    estimator = clone(template).fit(kept(data.X, template), kept(data.values, template), **params)
    return estimator, weight_in(params, data)


def weight_in(params: dict[str, Any], data: TrainingData) -> Array | None:
    """Return the weights of the rows if they are among these fit parameters."""
    return data.weight if any(name.endswith("sample_weight") for name in params) else None


def fit_parameters(owner: Any, estimator: Any, data: TrainingData) -> dict[str, Any]:
    """Return the keyword arguments of ``estimator.fit``: by metadata routing when that is on, by step name otherwise.

    Raises
    ------
    TypeError
        If there are weights and the estimator does not take any: they are never dropped in silence.
    """
    weight = data.weight
    if _routing_enabled():
        given = {**data.metadata, **data.fit_params} | ({} if weight is None else {"sample_weight": weight})
        return dict(process_routing(owner, "fit", **given).estimator.fit)
    if weight is None:
        return dict(data.fit_params)
    prefix, consumer = _weight_consumer(estimator)
    if not has_fit_parameter(consumer, "sample_weight"):
        raise TypeError(
            f"sample_weight was passed, but {type(consumer).__name__}.fit does not take it; leave it out, or use an "
            "estimator that does."
        )
    return {**data.fit_params, f"{prefix}sample_weight": weight}


def router_of(owner: Any, estimator: Any) -> MetadataRouter:
    """Return the routing of an owner that uses sample_weight itself and passes it on to the estimator's fit."""
    mapping = MethodMapping().add(caller="fit", callee="fit")
    return MetadataRouter(owner=owner).add_self_request(owner).add(estimator=estimator, method_mapping=mapping)


def _weight_consumer(estimator: Any) -> tuple[str, Any]:
    """Return the prefix under which weights reach the step that trains, and that step."""
    match estimator:
        case Pipeline():
            name, step = estimator.steps[-1]
            prefix, consumer = _weight_consumer(step)
            return f"{name}__{prefix}", consumer
        case BaseSearchCV() | FrozenEstimator():
            return _weight_consumer(estimator.estimator)
        case TransformedTargetRegressor():
            return _weight_consumer(estimator.regressor)
        case _:
            return "", estimator
