"""A scikit-learn estimator that trains a network for a table and puts calibrated intervals around it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_calibration_size, check_target, check_weights, unchanged_on_failure
from hatband.nn.files.folders import load_neural, save_neural
from hatband.nn.train.fit import Epoch
from hatband.nn.train.table import TrainingTable, less, train

_STATE = ("model_", "module_", "history_", "offset_", "target_offset_", "calibration_indices_")


class NeuralConformalRegressor(RegressorMixin, BaseEstimator):
    """Intervals f(x) -+ q (1 + h(x))^1/2 around a perceptron f that `fit` trains, h the leverage of its last layer.

    The rows are split in three: one part trains the network, one says when to stop and what the scale learns from, one
    calibrates the threshold q. Inputs and target are standardised inside.

    Parameters
    ----------
    widths : sequence of int, default=(64, 64)
        Widths of the hidden layers.
    activation : {"relu", "gelu", "silu", "tanh"}, default="relu"
        What follows each of them.
    dropout : float in [0, 1), default=0.0
        Share of each hidden layer dropped in training.
    loss : {"squared", "gaussian"}, default="squared"
        "gaussian" trains a noise head too: ``module_.noise(x)``.
    scale : str, Scale or callable(rows) -> width, default="auto"
        The shape of the band; see `SplitConformalRegressor`. Scales that learn do so from the validation rows.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval is to hold.
    calibration_size : float or int, default=0.25
        Share or number of rows that `fit` keeps for calibration; 0 trains only.
    validation_size : float or int, default=0.2
        Share or number of the training rows that early stopping and the scale look at; 0 takes the last epoch, and
        scales that learn fall back to leverage, with a warning, or refuse.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        Ridge on the features; "auto" is 1e-4 of the mean eigenvalue of their Gram matrix.
    epochs, patience, batch_size, learning_rate, weight_decay
        Of training; see `fit_network`.
    random_state : int, RandomState or None, default=None
        Draws the split, the first weights, the batches. The same number gives the same model on the same machine.
    device : torch.device, str or None, default=None
        Where to train and predict; None is the CPU.
    progress : callable(Epoch), optional
        Called after every epoch.

    Attributes
    ----------
    module_ : MLP
        The trained network, in evaluation mode.
    model_ : LastLayerConformalRegressor
        Space, scale and scores around it.
    offset_ : array (k,)
        What is subtracted from X before the network gets it in float32: the mean of columns that lie more than 1,000
        standard deviations from 0, such as times in seconds, and 0 for all others.
    target_offset_ : array (q,)
        The same of y, added to what the network answers: ``module_`` and ``model_`` know y less this.
    history_ : History
        Losses of every epoch.
    calibration_indices_ : array (n_cal,)
        After `fit`: which rows calibrated.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows, whatever the network: neither network nor scale sees the
    calibration rows. Cost: that of `fit_network`, and n d^2 + d^3 / 3 once for d features, d^2 per row. Fadnavis
    (2026), arXiv 2602.12693, on the features of the last layer.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband.nn import NeuralConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = NeuralConformalRegressor(widths=(16,), epochs=20, scale="leverage", random_state=0).fit(X, y)
    >>> y_pred, interval = model.predict_interval(X[:3])
    >>> y_pred.shape, interval.shape
    ((3,), (3, 2))
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 64),
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        *,
        dropout: float = 0.0,
        loss: Literal["squared", "gaussian"] = "squared",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        calibration_size: float = 0.25,
        validation_size: float = 0.2,
        symmetric: bool = True,
        ridge: Any = "auto",
        epochs: int = 200,
        patience: int = 20,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        random_state: Any = None,
        device: Any = None,
        progress: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.widths = widths
        self.activation = activation
        self.dropout = dropout
        self.loss = loss
        self.scale = scale
        self.confidence_level = confidence_level
        self.calibration_size = calibration_size
        self.validation_size = validation_size
        self.symmetric = symmetric
        self.ridge = ridge
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device
        self.progress = progress

    # ---------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Split the rows at random, train on one part and calibrate on the other.

        Parameters
        ----------
        X : array-like (n, k)
            Numbers, finite.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0: in the loss, in that of the validation rows, and in the Gram matrix that
            leverage is measured by; rows of weight 0 are left out. Calibration scores are never weighted by it, and a
            scale that learns counts the validation rows alike.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X or y is not finite, a parameter is out of range, or the split leaves no training row.
        TrainingDivergedError
            If the loss becomes NaN or infinite; the object stays as it was.
        """
        with unchanged_on_failure(self):
            rows = self._checked(X, y, sample_weight)
            random = check_random_state(self.random_state)
            size = check_calibration_size(self.calibration_size, len(rows.X))
            order = random.permutation(len(rows.X))
            held, kept = np.sort(order[:size]), np.sort(order[size:])
            state = train(self, rows.take(kept), random)
            if size:
                near = rows.take(held).less(state["offset_"], state["target_offset_"])
                state["model_"].calibrate(near.X, near.y)
                state["calibration_indices_"] = held
            self._replace(state)
        return self

    def fit_train(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all rows given; call `calibrate` with other rows before asking for intervals.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        self
            Earlier calibration scores are gone.
        """
        with unchanged_on_failure(self):
            rows = self._checked(X, y, sample_weight)
            self._replace(train(self, rows, check_random_state(self.random_state)))
        return self

    def calibrate(self, X: Any, y: Any) -> Self:
        """Score rows that the network has not seen; earlier scores are replaced.

        Parameters
        ----------
        X, y
            Calibration rows, exchangeable with the rows to come and apart from the training rows.

        Returns
        -------
        self
        """
        self._check_trained("calibrate")
        check_target(y)
        check_consistent_length(X, y)
        self.model_.calibrate(self._rows(X), less(np.asarray(y, dtype=np.float64), self.target_offset_))
        self.__dict__.pop("calibration_indices_", None)
        return self

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> TrainingTable:
        """Return X and y as float64, y in the shape that it came in."""
        columns, single = check_target(y)
        rows = validate_data(self, X, reset=True, dtype=np.float64)
        check_consistent_length(rows, columns)
        weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
        return TrainingTable(rows, columns[:, 0] if single else columns, weight)

    def _replace(self, state: dict[str, Any]) -> None:
        for name in _STATE:
            self.__dict__.pop(name, None)
        self.__dict__.update(state)

    # ---------------------------------------------------------------- prediction

    def predict(
        self, X: Any, *, return_interval: bool = False, return_std: bool = False, confidence_level: Any = None
    ) -> Any:
        """Predict, on request with intervals or with the standard deviation of the predictive distribution.

        Parameters
        ----------
        X : array-like (m, k)
        return_interval : bool, default=False
            Return (prediction, interval), as `predict_interval` does; this reaches through an outer Pipeline.
        return_std : bool, default=False
            Return (prediction, std), both in units of y. This deviation carries NO coverage guarantee: prediction -+
            1.64 std holds nine times in ten where errors are normal and the scale is right, the interval of
            `predict_interval` wherever rows are exchangeable.
        confidence_level : float or list of float, optional
            As in `predict_interval`.

        Returns
        -------
        prediction : array (m,) or (m, q)

        Raises
        ------
        NotFittedError
            If a deviation is asked for and there are no calibration scores.
        ValueError
            If both are asked for.

        Notes
        -----
        std(x)^2 = s width(x)^2, s the mean squared calibration score. With scale="leverage" that is s (1 + h(x)), the
        predictive variance of the Laplace posterior of the last layer (MacKay 1992), its noise s fitted to rows that
        the network has not seen: by the evidence of its training rows s can be ten times too small. A noise head has no
        part in it. Where the scale shifts the interval, distances are from the prediction, not from the centre.
        """
        if return_interval and return_std:
            raise ValueError("Pass return_interval=True or return_std=True, not both.")
        if return_interval:
            return self.predict_interval(X, confidence_level)
        self._check_trained("predict")
        if return_std:
            self._check_calibrated()
            prediction, deviation = self.model_.predict(self._rows(X), return_std=True)
            return prediction + self.target_offset_, deviation
        return self.model_.predict(self._rows(X)) + self.target_offset_

    def predict_interval(self, X: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with intervals that hold with the stated probability.

        Parameters
        ----------
        X : array-like (m, k)
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)

        Raises
        ------
        NotFittedError
            If there are no calibration scores.
        """
        self._check_trained("predict_interval")
        self._check_calibrated()
        level = self.confidence_level if confidence_level is None else confidence_level
        prediction, interval = self.model_.predict_interval(self._rows(X), level)
        beyond = [1] * (interval.ndim - prediction.ndim)
        return prediction + self.target_offset_, interval + self.target_offset_.reshape(-1, *beyond)

    def leverage(self, X: Any) -> Array:
        """Return h(x) = phi(x)' A^-1 phi(x) of each row (m,), phi(x) the last hidden layer."""
        self._check_trained("leverage")
        return self.model_.leverage(self._rows(X))

    def _rows(self, X: Any) -> Array:
        return validate_data(self, X, reset=False, dtype=np.float64) - self.offset_

    def _check_trained(self, caller: str) -> None:
        check_is_fitted(
            self,
            "model_",
            msg=f"This %(name)s instance is not fitted yet. Call fit, or fit_train and calibrate, before {caller}.",
        )

    def _check_calibrated(self) -> None:
        if "scores_" not in vars(self.model_):
            raise NotFittedError(f"This {type(self).__name__} is trained but not calibrated; call calibrate first.")

    # ---------------------------------------------------------------- saving

    def save(self, folder: str | Path) -> None:
        """Write design and state of the network into a folder of safetensors files; see `load`.

        Parameters
        ----------
        folder : str or Path
            Made when it is missing.
        """
        self._check_trained("save")
        save_neural(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Never executes code from the files.

        Parameters
        ----------
        folder : str or Path
            Where `save` wrote.

        Returns
        -------
        NeuralConformalRegressor
            Predicts as the one that was saved; settings of training are the defaults, and there is no history.

        Raises
        ------
        ValueError
            If a file is not what `save` writes, is damaged or was changed.
        """
        return load_neural(cls, folder)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True
        return tags
