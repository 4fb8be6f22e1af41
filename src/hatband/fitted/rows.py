"""What is known about a row, in four lazy fields, and the held-out version of these for training rows."""

from collections.abc import Callable, Iterable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from hatband.arrays.typing import Array
from hatband.checks import check_prediction
from hatband.formulas.leave_one_out import block_residuals, loo_leverage, loo_sampling_leverage
from hatband.geometry import Features, Space


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

        Leave-one-out predictions are told from the curve of the model by how far the row itself would bend it: in few
        dimensions a learner can read the residual off them. Where there is no closed form, rows and residuals are
        returned as they are. Leverages stay leave-one-out.
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
