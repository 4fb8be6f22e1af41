"""Conformal intervals around a trained network, shaped by the leverage of its last layer or of all its parameters."""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from sklearn.utils import check_random_state
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_in, check_weights, unchanged_on_failure
from hatband.conformal.band import Band
from hatband.linalg import GramStatistics
from hatband.nn.files.last_layer import load_last_layer, save_last_layer
from hatband.nn.measure.batches import ArrayBatches, as_batches
from hatband.nn.measure.layer_choice import Task, as_choice
from hatband.nn.measure.network_rows import NetworkRows, block_of, blocks_of
from hatband.nn.measure.state import StateFingerprint, copied, usable_device
from hatband.nn.measure.training_stream import TrainingStream
from hatband.nn.noise import fit_to_network, noise_function
from hatband.nn.regressor import BandOfBatch, NetworkRegressor
from hatband.scales.named import as_scale


class LastLayerConformalRegressor(NetworkRegressor):
    """Prediction intervals f(x) -+ q (1 + h(x))^1/2 around a trained network, h the leverage of its last layer.

    With layer="all" it is the leverage of the whole network, in its gradients: see `WholeNetwork`.

    ``fit_train`` measures the rows that the network was trained on, ``calibrate`` takes the threshold q from rows that
    it has not seen. The network is never changed; intervals are wide where it has seen few rows.

    Parameters
    ----------
    module : nn.Module
        A trained network that returns (b,) or (b, q) for b rows; also a LightningModule, or ``module_`` of skorch.
    layer : str, nn.Module, WholeNetwork or None, default=None
        The linear layer; its input is the features phi(x). None finds it; see `find_head`. "all" takes the gradient
        of a network with one output with respect to all its parameters: a `WholeNetwork` with its defaults.
    scale : str, Scale or callable(rows) -> width, default="auto"
        The shape of the band, as in `SplitConformalRegressor`; `NoiseScale` adds noise that varies. Scales that learn
        do so from the `validation` rows of `fit_train`, or from its training rows where these can give held-out
        residuals (see `residuals`).
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        Ridge on the features, in the sum convention. "auto": that of the head itself where it is a ridge regression on
        the training rows, else 1e-4 tr(Phi_c'Phi_c) / d, a ten-thousandth of the mean eigenvalue; with layer="all"
        1e-2 tr(Phi_c'Phi_c) / min(n, d). "evidence" and "gcv" need training rows with y.
    penalise_bias : bool, default=False
        Whether the ridge is on the bias of the head too: h = [phi, 1]'A^-1[phi, 1], the variance of a Laplace
        approximation. By default the bias is a free intercept. A head without a bias has no intercept. With
        layer="all", by default a constant is free; True: the ridge is on all parameters, biases included.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    groups : None, str, callable, LeverageBins or Groups, default=None
        Calibrate each group of rows by itself, as in `SplitConformalRegressor`. A column name or a callable(X) needs X
        as one array or table; rows of a loader have their labels passed with them.
    likelihood_ratio : None, callable or ClassifierRatio, default=None
        For new rows from another population, as in `SplitConformalRegressor`; a callable(X) needs X as one array.
    joint : bool, default=False
        Intervals that hold for all outputs at once. The box takes its proportions from the `validation` rows of
        `fit_train`, else from the residuals of its training rows.
    fit_train_rows : {"auto", "unseen"}, default="auto"
        Whether the network was trained on the rows of `fit_train`. "unseen": it was not, and a scale may learn from
        their residuals. "auto": leave-one-out residuals where the head satisfies the normal equations of these rows;
        otherwise there are no held-out residuals, and "auto" falls back to the leverage scale with a warning.
    device : torch.device, str or None, default=None
        Where to work; a copy of the module is put there. None: where the module is.
    random_state : int, RandomState or None, default=None
        For scales that learn.

    Attributes
    ----------
    space_ : NetworkSpace
        The measured features, their factor and ridge; no rows are kept.
    scale_ : fitted scale
    scores_ : array (n_cal, q)
        Signed calibration scores (y - prediction - shift) / width.
    effective_sample_size_ : float
        Number of rows of equal weight that the calibration rows are worth.
    residuals_from_ : str or None
        Source of the residuals that the scale learned from.
    learned_from_ : TrainingRows or None
        The rows that the scale learned from, at most 100,000: inputs, leverages, prediction, residuals.

    Notes
    -----
    P(y in interval) >= confidence_level for calibration rows and new rows that are exchangeable, for any network
    that does not change: every call reads its weights once, and raises ValueError if they have changed.
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
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        fit_train_rows: Literal["auto", "unseen"] = "auto",
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
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.fit_train_rows = fit_train_rows
        self.device = device
        self.random_state = random_state

    _trained_by: ClassVar[tuple[str, str]] = ("space_", "fit_train, and calibrate,")

    # ---------------------------------------------------------------- training

    def fit_train(
        self,
        data: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation: Any = None,
        X_target: Any = None,
        merge: Callable[[GramStatistics], GramStatistics] | None = None,
    ) -> Self:
        """Measure the rows that the network was trained on; nothing is trained but the scale.

        Parameters
        ----------
        data : DataLoader, array (n, ...) or pair (X, y)
            Training rows, in batches (inputs, y) or inputs. Targets are needed by scales that learn from these rows.
        y : array (n,) or (n, q), optional
            Targets of an array.
        sample_weight : array (n,), optional
            Importance that rows of an array had in training, >= 0: in the Gram matrix that leverage is measured by.
        validation : DataLoader or pair (X, y), optional
            Rows that the network was not trained on and that will not calibrate: what a scale learns from. Those that
            decided when training stopped will do: validity does not rest on them.
        X_target : array, optional
            Rows of the population to predict for, where `likelihood_ratio` is learned (`ClassifierRatio`).
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
        check_in(self.fit_train_rows, ("auto", "unseen"), "fit_train_rows")
        check_in(self.penalise_bias, (True, False), "penalise_bias")
        level = self._check_settings()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        scale = as_scale(self.scale, level, seed)
        module, layer = self._placed()
        batches = as_batches(data, y)
        weights = None if sample_weight is None else _checked_weights(sample_weight, batches)
        task = Task(module, batches, self.ridge, self.penalise_bias, merge, weights)
        with unchanged_on_failure(self):
            self._forget()
            fitted = as_choice(layer).fit(task)
            self.space_, self.n_outputs_ = fitted.space, fitted.n_outputs
            self.single_target_, self.target_seen_ = fitted.is_flat, fitted.has_targets
            self.weights_, self.seed_ = StateFingerprint.of(module), seed
            held = None if validation is None else as_batches(validation)
            stream = TrainingStream(fitted.space, task, held, self.fit_train_rows, seed)
            self.residuals_from_ = fit_to_network(scale, stream)
            self.scale_ = scale
            # Rows are held only where the scale asked for them.
            self.learned_from_ = vars(stream).get("held_out")
            if self.joint and held is None:
                stream.check_alone("joint=True")
            self.plan_ = self._planned(data, y, validation, X_target, stream.leverages)
        return self

    def _placed(self) -> tuple[nn.Module, Any]:
        """Return the module, or a copy on the requested device, and the layer in it."""
        if not isinstance(self.module, nn.Module):
            kind = type(self.module).__name__
            raise TypeError(f"module must be a torch.nn.Module; got {kind}. For a skorch net, pass its module_.")
        if self.device is None:
            return self.module, self.layer
        layer = self.layer
        if isinstance(layer, nn.Module):
            layer = next((name for name, part in self.module.named_modules() if part is layer), layer)
        return copied(self.module).to(usable_device(self.device)), layer

    # ---------------------------------------------------------------- the band

    def _bands(self, data: Any, y: Any = None) -> Generator[BandOfBatch, None, None]:
        with closing(blocks_of(self.space_, as_batches(data, y), noise=noise_function(self.scale_))) as blocks:
            yield from map(self._band_of, blocks)

    def _band_of_batch(self, batch: tuple[Any, Any], start: int) -> BandOfBatch:
        """Return the band of one batch, even if it is computed in pieces; errors number its rows from `start`."""
        return self._band_of(block_of(self.space_, *batch, start, noise_function(self.scale_)))

    def _band_of(self, block: NetworkRows) -> BandOfBatch:
        rows = block.new_rows(self.space_)
        return BandOfBatch(
            prediction=block.prediction,
            band=lambda: Band.of(self.scale_, rows),
            leverage=lambda: rows.leverage,
            target=block.target,
        )

    # ---------------------------------------------------------------- saving

    def save(self, path: str | Path) -> None:
        """Write network, space, scale and scores to one safetensors file; see `load`.

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If the scale is a custom object, which cannot be written without code, or the model has groups or a
            likelihood ratio: save it without them, and calibrate by groups after loading.
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
            If the file is damaged or was changed, or does not belong to this architecture. The module then does not
            change.

        Notes
        -----
        The file holds tensors and JSON, a SHA-256 sum of both, and is checked against a strict schema. The sum detects
        damage and edits. It is not a signature: somebody who edits a file can compute a new sum. A scale that learned
        is fitted again to the rows that it learned from, which the file holds, and its widths are compared.
        """
        return load_last_layer(cls, path, module)

    # ---------------------------------------------------------------- state

    def _check_trained(self, caller: str) -> None:
        super()._check_trained(caller)
        self.weights_.check(self.space_.module)

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)


def _checked_weights(sample_weight: Any, batches: Any) -> Array:
    """Return weights of the rows of an array."""
    if not isinstance(batches, ArrayBatches):
        raise ValueError("pass sample_weight only with an array X; rows of a loader have equal weight.")
    return check_weights(sample_weight, len(batches.X))
