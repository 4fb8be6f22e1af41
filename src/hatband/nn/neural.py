"""A scikit-learn estimator that trains a network for a table and puts calibrated intervals around it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import validate_data

from hatband.arrays.typing import Array
from hatband.checks import check_calibration_size, check_target, check_weights, unchanged_on_failure
from hatband.conformal.band import Band, Ends
from hatband.conformal.calibration.calibration import Calibration, check_labels, check_ratio
from hatband.conformal.calibration.shift import fit_ratio
from hatband.conformal.regressor import CalibratedRegressor
from hatband.fitted.rows import take_rows
from hatband.nn.files.folders import load_neural, save_neural
from hatband.nn.train.fit import Epoch
from hatband.nn.train.table import TrainingTable, less, train

_STATE = (
    "model_",
    "module_",
    "history_",
    "offset_",
    "target_offset_",
    "n_outputs_",
    "single_target_",
    "calibration_indices_",
)


class NeuralConformalRegressor(CalibratedRegressor):
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
        Probability with which an interval must hold.
    calibration_size : float or int, default=0.25
        Share or number of rows that `fit` keeps for calibration; 0 trains only.
    validation_size : float or int, default=0.2
        Share or number of the training rows that early stopping and the scale look at; 0 takes the last epoch, and
        scales that learn fall back to leverage, with a warning, or refuse.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        Ridge on the features; "auto" is 1e-4 of the mean eigenvalue of their Gram matrix.
    groups : None, str, callable, LeverageBins or Groups, default=None
        Calibrate each group of rows by itself, as in `SplitConformalRegressor`.
    likelihood_ratio : None, callable or ClassifierRatio, default=None
        For new rows from another population, as in `SplitConformalRegressor`.
    joint : bool, default=False
        Intervals of several outputs that hold all at once. The box takes its proportions from the validation rows.
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
        The same for y, added to the output of the network: ``module_`` and ``model_`` predict y minus this.
    history_ : History
        Losses of every epoch.
    calibration_indices_ : array (n_cal,)
        After `fit`: which rows calibrated.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows, whatever the network: neither network nor scale sees the
    calibration rows. Cost: that of `fit_network`, and n d^2 + d^3 / 3 once for d features, d^2 per row. Fadnavis
    (2026), arXiv 2602.12693, on the features of the last layer. With scale="leverage" the deviation of
    ``predict(X, return_std=True)`` is (s (1 + h(x)))^1/2, s the mean squared score: that of the Laplace posterior of
    the last layer (MacKay 1992), its noise fitted to rows that the network has not seen.

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
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
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
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device
        self.progress = progress

    _trained_by: ClassVar[tuple[str, str]] = ("model_", "fit, or fit_train and calibrate,")

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
    ) -> Self:
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
        groups, likelihood_ratio : array-like (n,), optional
            Group of each row, and density of new rows over that of these: as in `calibrate`.
        X_target : array-like (m, k), optional
            Rows of the population to predict for, where `likelihood_ratio` is learned (`ClassifierRatio`).

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
            rows = self._table(X, y, sample_weight)
            X, n = _seen_by_functions(X, rows.X), len(rows.X)
            groups = None if groups is None else check_labels(groups, n)
            likelihood_ratio = None if likelihood_ratio is None else check_ratio(likelihood_ratio, n)
            random = check_random_state(self.random_state)
            size = check_calibration_size(self.calibration_size, n)
            order = random.permutation(n)
            held, kept = np.sort(order[:size]), np.sort(order[size:])
            self._train(rows.take(kept), take_rows(X, kept, n), X_target, random)
            if size:
                metadata = (take_rows(entry, held, n) for entry in (groups, likelihood_ratio))
                self._calibrate(take_rows(X, held, n), rows.y[held], *metadata)
                self.calibration_indices_ = held
        return self

    def fit_train(self, X: Any, y: Any, sample_weight: Any = None, *, X_target: Any = None) -> Self:
        """Train on all rows given; call `calibrate` with other rows before asking for intervals.

        Parameters
        ----------
        X, y, sample_weight, X_target
            As in `fit`.

        Returns
        -------
        self
            Earlier calibration scores are gone.
        """
        with unchanged_on_failure(self):
            rows = self._table(X, y, sample_weight)
            self._train(rows, _seen_by_functions(X, rows.X), X_target, check_random_state(self.random_state))
        return self

    def calibrate(self, X: Any, y: Any, *, groups: Any = None, likelihood_ratio: Any = None) -> Self:
        """Score rows that the network has not seen; earlier scores are replaced.

        Parameters
        ----------
        X, y
            Calibration rows, exchangeable with the rows to come and not among the training rows.
        groups : array-like (n,), optional
            Group of each row, any hashable labels: each group is calibrated by itself (see `Groups`).
        likelihood_ratio : array-like (n,), optional
            Density of the new rows' population over that of these rows, at each row, >= 0, up to one factor.

        Returns
        -------
        self
        """
        self._check_trained("calibrate")
        check_target(y)
        check_consistent_length(X, y, groups, likelihood_ratio)
        self._calibrate(X, np.asarray(y, dtype=np.float64), groups, likelihood_ratio)
        self.__dict__.pop("calibration_indices_", None)
        return self

    def _table(self, X: Any, y: Any, sample_weight: Any) -> TrainingTable:
        """Return X and y as float64, y in its original shape."""
        columns, single = check_target(y)
        rows = validate_data(self, X, reset=True, dtype=np.float64)
        check_consistent_length(rows, columns)
        weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
        return TrainingTable(rows, columns[:, 0] if single else columns, weight)

    def _train(self, rows: TrainingTable, X: Any, X_target: Any, random: np.random.RandomState) -> None:
        """Train the network and measure its last layer; functions of X get the original rows."""
        state = train(self, rows, random, fit_ratio(self.likelihood_ratio, X, X_target))
        for name in _STATE:
            self.__dict__.pop(name, None)
        self.__dict__.update(state)
        self.n_outputs_, self.single_target_ = self.model_.n_outputs_, self.model_.single_target_

    def _calibrate(self, X: Any, y: Array, groups: Any, likelihood_ratio: Any) -> None:
        rows = self._checked(X)
        with unchanged_on_failure(self.model_):
            self.model_._calibrate(rows.near, less(y, self.target_offset_), rows.given, groups, likelihood_ratio)

    # ---------------------------------------------------------------- prediction

    @property
    def calibration_(self) -> Calibration:  # type: ignore[override]
        """The calibration of `model_`: scores with groups and weights."""
        return self.model_.calibration_

    def _checked(self, X: Any) -> "_Table":
        values = validate_data(self, X, reset=False, dtype=np.float64)
        return _Table(_seen_by_functions(X, values), values - self.offset_)

    def _predict(self, X: "_Table") -> Array:
        return self.model_._predict(X.near) + self.target_offset_

    def _band(self, X: "_Table") -> Band:
        band = self.model_._band(X.near)
        return replace(band, prediction=band.prediction + self.target_offset_, center=band.center + self.target_offset_)

    def _intervals(
        self, X: "_Table", levels: list[Any], groups: Any, likelihood_ratio: Any
    ) -> tuple[Array, list[Ends]]:
        point, ends = self.model_._intervals_at(X.near, X.given, levels, groups, likelihood_ratio)
        return point + self.target_offset_, [
            (low + self.target_offset_, high + self.target_offset_) for low, high in ends
        ]

    def _leverage(self, X: "_Table") -> Array:
        return self.model_._leverage(X.near)

    def _check_trained(self, caller: str) -> None:
        super()._check_trained(caller)
        self.model_._check_trained(caller)

    # ---------------------------------------------------------------- saving

    def save(self, folder: str | Path) -> None:
        """Write design and state of the network into a folder of safetensors files; see `load`.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.

        Raises
        ------
        NotFittedError
            If `fit` and `fit_train` have not run.
        ValueError
            As `LastLayerConformalRegressor.save`.
        """
        self._check_trained("save")
        save_neural(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Never executes code from the files.

        Parameters
        ----------
        folder : str or Path
            The folder that `save` wrote.

        Returns
        -------
        NeuralConformalRegressor
            Predicts as the saved model; its training settings are the defaults, and it has no history.

        Raises
        ------
        ValueError
            If a file is not what `save` writes, is damaged or was changed.
        """
        return load_neural(cls, folder)


class _Table(NamedTuple):
    """Rows in the form for functions of X, and minus `offset_` in the form for the network."""

    given: Any
    near: Array


def _seen_by_functions(X: Any, values: Array) -> Any:
    """Return rows for functions of X: a table with its columns, otherwise the numbers."""
    return X if hasattr(X, "columns") or callable(getattr(X, "__dataframe__", None)) else values
