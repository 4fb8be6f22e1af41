"""Conformal intervals around a trained network, shaped by the leverage of its last layer or of all its parameters."""

import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_confidence_level, check_in
from hatband.conformal.band import Band
from hatband.conformal.regressor import shaped_like_target
from hatband.fitted.rows import NoHeldOutResiduals, TrainingRows
from hatband.linalg import GramStatistics
from hatband.nn.calibrated import calibrated_deviation, calibrated_interval, check_calibrated
from hatband.nn.files.last_layer import load_last_layer, save_last_layer
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.layer_choice import Task, as_choice
from hatband.nn.measure.network_rows import (
    NetworkRows,
    blocks_of,
    columns_like,
    stacked,
    training_rows,
    validation_rows,
)
from hatband.nn.measure.space import NetworkSpace
from hatband.nn.measure.state import StateFingerprint, copied, usable_device
from hatband.scales.named import as_scale, fit_scale

_TRAINED = ("space_", "weights_", "scale_", "learned_from_", "residuals_from_", "n_outputs_", "single_target_", "seed_")


class LastLayerConformalRegressor(BaseEstimator):
    """Prediction intervals f(x) -+ q (1 + h(x))^1/2 around a trained network, h the leverage of its last layer.

    With layer="all" it is the leverage of the whole network, in its gradients: see `WholeNetwork`.

    ``fit_train`` measures the rows that the network was trained on, ``calibrate`` takes the threshold q from rows that
    it has not seen. The network is used as it is and never changed; intervals are wide where it has not been.

    Parameters
    ----------
    module : nn.Module
        A trained network that returns (b,) or (b, q) for b rows; also a LightningModule, or ``module_`` of skorch.
    layer : str, nn.Module, WholeNetwork or None, default=None
        The linear layer whose input the features phi(x) are. None finds it; see `find_head`. "all" takes the gradient
        of a network with one output in all its parameters, as a `WholeNetwork` with its defaults does.
    scale : str, Scale or callable(rows) -> width, default="auto"
        The shape of the band, as in `SplitConformalRegressor`. Scales that learn do so from the `validation` rows of
        `fit_train`, or from its training rows where these can give honest residuals (see `residuals`).
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        Ridge on the features, in the sum convention. "auto": that of the head itself where it is a ridge regression on
        the training rows, else 1e-4 tr(Phi_c'Phi_c) / d, a ten-thousandth of the mean eigenvalue; with layer="all"
        1e-2 tr(Phi_c'Phi_c) / min(n, d). "evidence" and "gcv" need training rows with y.
    penalise_bias : bool, default=False
        Whether the ridge is on the bias of the head too: h = [phi, 1]'A^-1[phi, 1], the variance of a Laplace
        approximation. By default the bias is a free intercept. A head without a bias has neither. With layer="all",
        by default a constant is free beside all parameters; True: all parameters, biases included, carry the ridge.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval is to hold.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    residuals : {"auto", "unseen"}, default="auto"
        What the residuals of the rows of `fit_train` are. "unseen": the network was not trained on these rows, and a
        scale may learn from them. "auto": leave-one-out residuals where the head satisfies the normal equations of
        these rows; else none are honest, and "auto" falls back to the leverage scale with a warning.
    device : torch.device, str or None, default=None
        Where to work; a copy of the module is put there. None: where the module is.
    random_state : int, RandomState or None, default=None
        For scales that learn.

    Attributes
    ----------
    space_ : NetworkSpace
        What of the network is measured, factor and ridge; no rows are kept.
    scale_ : fitted scale
    scores_ : array (n_cal, q)
        Signed calibration scores (y - prediction - shift) / width.
    residuals_from_ : str or None
        Where the residuals came from that the scale learned from.
    learned_from_ : TrainingRows or None
        What the scale learned from, at most 100,000 rows: inputs, leverages, prediction, residuals.

    Notes
    -----
    P(y in interval) >= confidence_level for calibration rows and new rows that are exchangeable, whatever the network,
    as long as it stays as it was: every call reads its weights once, and raises ValueError where they have changed.
    Cost beyond the forward passes: n d^2 + d^3 / 3 once, d^2 per row; memory O(d^2 + block d); of layer="all" see
    `WholeNetwork`. Features stay on the device, products are in float64 there; per row only leverage and prediction
    come to the host. A scale that learns sees X where that is a table of at most 256 columns, else the features along
    their first 32 principal directions. Fadnavis (2026), arXiv 2602.12693; the variance is that of MacKay (1992),
    *Neural Computation* 4, 448-472, for the last layer. Threads may share a model whose network is in evaluation mode.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> X = torch.randn(300, 3)
    >>> y = X.sum(1)
    >>> net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))  # trained by you
    >>> model = LastLayerConformalRegressor(net, scale="leverage").fit_train(X[:200]).calibrate(X[200:], y[200:])
    >>> y_pred, interval = model.predict_interval(X[:5])
    >>> interval.shape
    (5, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | nn.Module | None = None,
        *,
        scale: Any = "auto",
        ridge: Any = "auto",
        penalise_bias: bool = False,
        confidence_level: Any = 0.9,
        symmetric: bool = True,
        residuals: Literal["auto", "unseen"] = "auto",
        device: Any = None,
        random_state: Any = None,
    ) -> None:
        self.module = module
        self.layer = layer
        self.scale = scale
        self.ridge = ridge
        self.penalise_bias = penalise_bias
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.residuals = residuals
        self.device = device
        self.random_state = random_state

    # ---------------------------------------------------------------- fitting

    def fit_train(
        self,
        data: Any,
        y: Any = None,
        *,
        validation: Any = None,
        merge: Callable[[GramStatistics], GramStatistics] | None = None,
    ) -> Self:
        """Measure the rows that the network was trained on; nothing is trained but the scale.

        Parameters
        ----------
        data : DataLoader, array (n, ...) or pair (X, y)
            Training rows, in batches (inputs, y) or inputs. Targets are needed by scales that learn from these rows.
        y : array (n,) or (n, q), optional
            Targets beside an array.
        validation : DataLoader or pair (X, y), optional
            Rows that the network was not trained on and that will not calibrate: what a scale learns from. Those that
            decided when training stopped will do: validity does not rest on them.
        merge : callable(GramStatistics) -> GramStatistics, optional
            Applied to the statistics before they are factored: `all_reduce` adds the rows of other processes.

        Returns
        -------
        self
            Earlier calibration scores are gone.

        Raises
        ------
        ValueError
            If no head can be found, features or targets are not finite, or shapes do not agree; with layer="all" if
            there is more than one output, or torch.func cannot differentiate the network row by row.
        """
        check_in(self.residuals, ("auto", "unseen"), "residuals")
        check_in(self.symmetric, (True, False), "symmetric")
        check_in(self.penalise_bias, (True, False), "penalise_bias")
        levels, _ = check_confidence_level(self.confidence_level)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        scale = as_scale(self.scale, levels[0], seed)
        module, layer = self._placed()
        batches = as_batches(data, y)
        space, n_outputs, is_flat = as_choice(layer).fit(Task(module, batches, self.ridge, self.penalise_bias, merge))
        learned: TrainingRows | None = None

        def honest() -> TrainingRows:
            nonlocal learned
            learned = self._honest(space, batches, validation, seed, merged=merge is not None)
            return learned

        source = fit_scale(scale, honest)
        values = (space, StateFingerprint.of(module), scale, learned, source, n_outputs, is_flat, seed)
        self._forget()
        self.__dict__.update(zip(_TRAINED, values, strict=True))
        return self

    def _honest(self, space: NetworkSpace, batches: Any, validation: Any, seed: int, *, merged: bool) -> TrainingRows:
        """Return what a scale may learn from."""
        if validation is not None:
            return validation_rows(space, as_batches(validation), seed)
        if space.exactness == "none" and self.residuals == "auto":
            raise NoHeldOutResiduals(
                "The residuals of the rows that the network was trained on are too small to learn a scale from. Pass "
                "validation= rows that it has not seen, residuals='unseen' if it has not seen those of fit_train, or "
                "a scale that needs no residuals, such as 'leverage'."
            )
        if merged:
            raise ValueError(
                "a scale that learns needs the same rows in every process, so that all have the same scale; pass "
                "validation=, the same everywhere, or scale='leverage'."
            )
        return training_rows(space, batches, seed)

    def calibrate(self, data: Any, y: Any = None) -> Self:
        """Score rows that the network has not seen; earlier scores are replaced.

        Parameters
        ----------
        data : DataLoader, pair (X, y) or array X
            Calibration rows, exchangeable with the rows to come and apart from those that trained network and scale.
        y : array (n,) or (n, q), optional
            Targets beside an array.

        Returns
        -------
        self
            With `scores_` (n, q): signed residuals divided by the scale's width.

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If there are no targets, or something is not finite; the object stays as it was.
        """
        self._check_trained("calibrate")
        scores, flat, infinite = [], True, 0
        with closing(self._blocks(data, y)) as blocks:
            for block in blocks:
                target = columns_like(block.target, block.prediction)
                center, width = self._band(block)
                scores.append((target - center) / width)
                flat = np.asarray(block.target).ndim == 1
                infinite += int(np.isinf(width).any(axis=1).sum())
        found = stacked(scores)
        if 2 * infinite >= len(found):
            warnings.warn(
                f"{infinite} of {len(found)} calibration rows lie outside the span of the training features and have "
                "infinite leverage: intervals will mean nothing for the others. Pass a ridge > 0.",
                LeverageWarning,
                stacklevel=2,
            )
        self.scores_, self.single_target_ = found, flat
        return self

    # ---------------------------------------------------------------- prediction

    def predict(self, data: Any, *, return_std: bool = False) -> Any:
        """Return the prediction of the network, (m,) or (m, q) as y came, as a NumPy array.

        With `return_std` also the standard deviation of y about it, width times the root mean square calibration score;
        it carries no coverage guarantee, see `NeuralConformalRegressor.predict`.
        """
        self._check_trained("predict")
        if not return_std:
            return self._shaped(self._of_each(data, lambda block: block.prediction))
        check_calibrated(self)
        prediction, center, width = self._bands(data)
        return self._shaped(prediction), self._shaped(calibrated_deviation(self, center - prediction, width))

    def predict_interval(self, data: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with intervals prediction + shift -+ threshold x width that hold with the stated probability.

        Parameters
        ----------
        data : DataLoader or array (m, ...)
            Rows; targets in a loader are passed over.
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            Lower and upper bound; -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            If there are no calibration scores.
        ValueError
            If a level is not inside (0, 1).
        """
        self._check_trained("predict_interval")
        check_calibrated(self)
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        prediction, center, width = self._bands(data)
        return self._shaped(prediction), calibrated_interval(self, center, width, levels, single)

    def leverage(self, data: Any) -> Array:
        """Return h(x) = phi(x)' A^-1 phi(x) of each row (m,), phi(x) being what enters the head.

        Parameters
        ----------
        data : DataLoader or array (m, ...)
        """
        self._check_trained("leverage")
        return self._of_each(data, lambda block: self.space_.leverage(block.features))

    # ---------------------------------------------------------------- saving

    def save(self, path: str | Path) -> None:
        """Write network, space, scale and scores to one safetensors file; see `load`.

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If the scale is an object of the user's, which cannot be written without code.
        """
        self._check_trained("save")
        save_last_layer(self, path)

    @classmethod
    def load(cls, path: str | Path, module: nn.Module) -> Self:
        """Read what `save` wrote. Never executes code from the file.

        Parameters
        ----------
        path : str or Path
            The file.
        module : nn.Module
            A network of the same architecture; its weights are replaced by those of the file.

        Returns
        -------
        LastLayerConformalRegressor

        Raises
        ------
        ValueError
            If the file is damaged or was changed, or does not belong to this architecture. The module is then as it
            was.

        Notes
        -----
        The file holds tensors and JSON, a SHA-256 sum of both, and is checked against a strict schema. The sum finds
        damage and edits, not a forger who computes it anew: it is no signature. A scale that learned is fitted again
        to the rows that it learned from, which the file holds, and compared with the widths it had.
        """
        return load_last_layer(cls, path, module)

    # ---------------------------------------------------------------- input, state

    def _placed(self) -> tuple[nn.Module, Any]:
        """Return the module, or a copy on the device asked for, and the layer in it."""
        if not isinstance(self.module, nn.Module):
            kind = type(self.module).__name__
            raise TypeError(f"module must be a torch.nn.Module; got {kind}. Of a skorch net, pass its module_.")
        if self.device is None:
            return self.module, self.layer
        layer = self.layer
        if isinstance(layer, nn.Module):
            layer = next((name for name, part in self.module.named_modules() if part is layer), layer)
        return copied(self.module).to(usable_device(self.device)), layer

    def _blocks(self, data: Any, y: Any = None) -> Generator[NetworkRows, None, None]:
        return blocks_of(self.space_, as_batches(data, y))

    def _of_each(self, data: Any, verb: Callable[[NetworkRows], Array]) -> Array:
        """Return what a function makes of every block, one below the other."""
        with closing(self._blocks(data)) as blocks:
            return stacked(map(verb, blocks))

    def _bands(self, data: Any) -> Array:
        """Return prediction, centre and width (3, m, q)."""
        return np.moveaxis(self._of_each(data, lambda one: np.stack((one.prediction, *self._band(one)), axis=1)), 1, 0)

    def _band(self, block: NetworkRows) -> tuple[Array, Array]:
        """Return centre and width, both (b, q)."""
        band = Band.of(self.scale_, block.new_rows(self.space_))
        return band.center, np.broadcast_to(band.width, band.center.shape)

    def _shaped(self, prediction: Array) -> Array:
        return shaped_like_target(prediction, self.n_outputs_, self.single_target_)

    def _check_trained(self, caller: str) -> None:
        if "space_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit_train before {caller}.")
        self.weights_.check(self.space_.module)

    def _forget(self) -> None:
        for name in (*_TRAINED, "scores_"):
            self.__dict__.pop(name, None)
