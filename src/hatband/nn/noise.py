"""Noise that varies: the scale of CLAPS, from a noise head of the network or learned from residuals."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_in
from hatband.conformal.regressor import shaped_like_target
from hatband.fitted.rows import Rows
from hatband.formulas.posterior import PosteriorPrediction
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import NoisyRows, blocks_of, stacked
from hatband.nn.measure.space import GramSpace
from hatband.nn.measure.state import StateFingerprint
from hatband.nn.measure.training_stream import Noise, TrainingStream
from hatband.scales import LaplaceScale, Scale
from hatband.scales.named import fit_scale
from hatband.scales.noise import Temper


class NoiseScale(Scale):
    """Width S, S^2 = sigma^2(x) + phi' (ridge I + sum_i phi_i phi_i' / sigma_i^2)^-1 phi: noise and model variance.

    For `LastLayerConformalRegressor`, `EnsembleConformalRegressor` and `NeuralConformalRegressor`, which give it the
    training rows of the network. Constant noise is scale="leverage".

    Parameters
    ----------
    noise_std : "learned" or callable(inputs) -> tensor (b,), (b, 1) or (b, q), default="learned"
        sigma(x). "learned": a regression on residuals of rows that the network was not trained on (`validation` of
        `fit_train`). A callable is the noise head of the network, such as ``network.noise`` of an `MLP`. Fitted to
        training residuals it is too small and varies too much; with `validation` rows it becomes c sigma^k,
        0 <= k <= 1, with c and k fitted to their residuals.
    random_state : int, RandomState or None, default=None
        For learned noise. None: that of the regressor around the scale.

    Attributes
    ----------
    spaces_ : list of NetworkSpace
        The training rows with weights 1 / sigma_i^2: one for all outputs, or one for each if their noise differs.
    noise_ : NetworkNoise
        The source of sigma of a row.
    head_state_ : StateFingerprint or None
        State of the network of the noise head, if that is another network: it must not change either.

    Notes
    -----
    The ridge is that of the regressor, in units of the noise: pass ridge="evidence" to choose it by the training
    targets. One more pass over the training rows, n d^2 + d^3 / 3 for each column of the noise, two if a noise
    head is tempered; memory O(q d^2), and no row is kept.

    A RECONSTRUCTION of the scale of Kim, Choi, Rasool and Oh, "Conformal Laplace-aware predictive scaling" (arXiv
    2512.01384), from the abstracts of versions 1 (homoscedastic: scale="leverage") and 4 (heteroscedastic). The score
    of version 1, two-sided in the posterior CDF, increases in |y - f| / S and is computed as |y - f| / S. How noise is
    fitted, how the ridge is chosen, and that the bias has a flat prior are ours; so are the defaults.

    Examples
    --------
    >>> import torch
    >>> from hatband.nn import MLP, LastLayerConformalRegressor, NoiseScale, fit_network
    >>> generator = torch.Generator().manual_seed(0)
    >>> X = torch.randn(400, 3, generator=generator)
    >>> y = X.sum(1) + (0.2 + X[:, 0].abs()) * torch.randn(400, generator=generator)
    >>> net = MLP(3, widths=(16,), noise_head=True)
    >>> _ = fit_network(net, X[:200], y[:200], loss="gaussian", epochs=5, random_state=0)
    >>> model = LastLayerConformalRegressor(net, scale=NoiseScale(net.noise), ridge="evidence")
    >>> model.fit_train(X[:200], y[:200]).calibrate(X[200:], y[200:]).predict_interval(X[:5])[1].shape
    (5, 2)
    """

    needs_residuals: ClassVar[bool] = True

    def __init__(
        self, noise_std: Literal["learned"] | Callable[[Any], Any] = "learned", *, random_state: Any = None
    ) -> None:
        self.noise_std = noise_std
        self.random_state = random_state

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted scale with the same noise head, which belongs to the network and is not copied."""
        return type(self)(self.noise_std, random_state=self.random_state)

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Raise ValueError: the scale needs the network, because it weights the network's training rows."""
        raise ValueError(
            "NoiseScale weights the training rows of a network and works only in a regressor of hatband.nn; for other "
            "models use LaplaceScale."
        )

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width (m, 1) or (m, q)."""
        aleatoric, epistemic = self.variances(rows)
        return 0.0, np.sqrt(aleatoric + epistemic)

    def variances(self, rows: Any) -> tuple[Array, Array]:
        """Return aleatoric sigma^2(x) and epistemic variance, (m, 1) or (m, q), whose sum is the square of the width.

        Parameters
        ----------
        rows : NoisyRows
            Rows of the network that the scale was fitted for.

        Returns
        -------
        aleatoric, epistemic : array (m, 1) or (m, q)
            In the units of y^2; infinite where the leverage is.
        """
        epistemic = np.stack([rows.leverage_in(space) for space in self.spaces_], axis=1)
        return np.square(self.noise_.of(rows)), epistemic

    def _fit_to_network(self, training: TrainingStream) -> str | None:
        """Learn the noise, weight the training rows by it, and return the source of the residuals."""
        network = _network_of(self.noise_std)
        apart = network is not None and network is not training.space.module
        self.head_state_ = StateFingerprint.of(network) if apart else None
        if not callable(self.noise_std):
            check_in(self.noise_std, ("learned",), "noise_std")
            held = training.held_out
            self.noise_: NetworkNoise = ResidualNoise(
                LaplaceScale(random_state=self.random_state).fit(held.rows, held.residuals)
            )
            self.spaces_ = training.weighted(self.noise_.of)
            return held.source
        self.noise_ = HeadNoise()
        self.spaces_ = training.weighted(self.noise_.of, self.noise_std)
        if training.validation is None:
            return None
        self.noise_ = TemperedHeadNoise.of_held(_held(training, self.spaces_, self.noise_std))
        self.spaces_ = training.weighted(self.noise_.of, self.noise_std)
        return "validation rows"


@singledispatch
def fit_to_network(scale: Any, training: TrainingStream) -> str | None:
    """Fit a scale to the training rows of a network, and return the source of the residuals, if it used any."""
    return fit_scale(scale, lambda: training.held_out)


@fit_to_network.register
def _fit_noise(scale: NoiseScale, training: TrainingStream) -> str | None:
    return scale._fit_to_network(training)


def noise_function(scale: Any) -> Noise | None:
    """Return the function that gives the noise of a batch of inputs, if a scale has one."""
    if not (isinstance(scale, NoiseScale) and callable(scale.noise_std)):
        return None
    if scale.head_state_ is not None:
        scale.head_state_.check(_network_of(scale.noise_std))
    return scale.noise_std


def _network_of(noise: Any) -> Any:
    """Return the network if a noise function is a network or its method; None for any other function."""
    owner = getattr(noise, "__self__", noise)
    return owner if isinstance(owner, nn.Module) else None


# -------------------------------------------------------------------- where sigma comes from


class NetworkNoise(ABC):
    """The standard deviation of the noise as a function of rows."""

    @abstractmethod
    def of(self, rows: Any) -> Array:
        """Return sigma of rows, (m, 1) or (m, q)."""


@dataclass(frozen=True)
class HeadNoise(NetworkNoise):
    """The noise of the noise function, unchanged."""

    def of(self, rows: Any) -> Array:
        """Return sigma unchanged."""
        return given_noise(rows)


@dataclass(frozen=True)
class TemperedHeadNoise(NetworkNoise):
    """The noise of the noise function, tempered: c sigma^k.

    Parameters
    ----------
    tempers : tuple of Temper
        One for each output.
    """

    tempers: tuple[Temper, ...]

    @classmethod
    def of_held(cls, held: "Held") -> "TemperedHeadNoise":
        """Fit to residuals (n, q) of rows that network and noise have not seen, less the model's share."""
        noise = np.broadcast_to(held.noise_std, held.residuals.shape)
        known = np.isfinite(held.epistemic)
        share = 1 + np.where(known, held.epistemic, 0.0) / np.square(noise)
        sizes = np.abs(held.residuals) / np.sqrt(share)
        return cls(tuple(Temper.of(size, deviation) for size, deviation in zip(sizes.T, noise.T, strict=True)))

    def of(self, rows: Any) -> Array:
        """Return tempered sigma."""
        noise = np.broadcast_to(given_noise(rows), (len(rows), len(self.tempers)))
        return np.stack([temper(one) for temper, one in zip(self.tempers, noise.T, strict=True)], axis=1)


@dataclass(frozen=True, eq=False)
class ResidualNoise(NetworkNoise):
    """Noise learned from residuals of rows that the network was not trained on.

    Parameters
    ----------
    scale : LaplaceScale
        Fitted to these rows.
    """

    scale: LaplaceScale

    def of(self, rows: Any) -> Array:
        """Return sigma by the regression, within its bounds."""
        return np.sqrt(self.scale.variances(rows)[0])


class Held(NamedTuple):
    """Noise, residuals and epistemic variance of rows that network and noise have not seen."""

    noise_std: Array
    residuals: Array
    epistemic: Array


def _held(training: TrainingStream, spaces: list[GramSpace], noise: Noise) -> Held:
    """Read the validation rows once."""
    assert training.validation is not None
    space, parts = training.space, []
    with closing(blocks_of(space, training.validation, noise=noise)) as blocks:
        for block in blocks:
            rows = block.new_rows(space)
            epistemic = np.stack([rows.leverage_in(one) for one in spaces], axis=1)
            parts.append(Held(given_noise(rows), block.residuals(), epistemic))
    return Held(*map(stacked, zip(*parts, strict=True)))


def given_noise(rows: Any) -> Array:
    """Return the noise of rows by the noise function, (m, 1) or (m, q)."""
    noise = rows.noise_std if isinstance(rows, NoisyRows) else None
    if noise is None:
        raise ValueError("these rows have no noise; read them with the noise function of the scale.")
    return noise


# -------------------------------------------------------------------- the law before calibration


def predictive_law(model: Any, data: Any) -> PosteriorPrediction:
    """Return mean f(x), aleatoric variance sigma^2(x) and epistemic variance of rows before calibration.

    Parameters
    ----------
    model : LastLayerConformalRegressor
        Trained, with a `NoiseScale`.
    data : DataLoader or array (m, ...)

    Returns
    -------
    PosteriorPrediction
        Mean in the units of y, variances in those of y^2; each (m,), or (m, q) as y came. It has no guarantee.

    Raises
    ------
    ValueError
        If the scale is not a `NoiseScale`; for constant noise use `LastLayerLaplace`.

    Notes
    -----
    One pass. `variance_shares` and `calibration_arrays` of `hatband.diagnostics.laplace` read it.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor, NoiseScale, predictive_law
    >>> net, X = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(200, 3)
    >>> scale = NoiseScale(lambda inputs: 0.1 + inputs[:, 0].abs())
    >>> model = LastLayerConformalRegressor(net, scale=scale, ridge=1.0).fit_train(X, X[:, 0])
    >>> predictive_law(model, X[:5]).variance.shape
    (5,)
    """
    model._check_trained("predictive_law")
    if not isinstance(model.scale_, NoiseScale):
        raise ValueError(
            f"predictive_law needs a model with scale=NoiseScale(...); its scale is {type(model.scale_).__name__}, "
            "which has no noise function. LastLayerLaplace gives the law of constant noise."
        )
    parts = []
    with closing(blocks_of(model.space_, as_batches(data), noise=noise_function(model.scale_))) as blocks:
        for block in blocks:
            variances = model.scale_.variances(block.new_rows(model.space_))
            parts.append([np.broadcast_to(part, block.prediction.shape) for part in (block.prediction, *variances)])
    law = map(stacked, zip(*parts, strict=True))
    return PosteriorPrediction(*(shaped_like_target(p, model.n_outputs_, model.single_target_) for p in law))
