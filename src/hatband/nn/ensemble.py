"""Ensembles: networks trained apart on the same rows, and one calibrated band from all of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_at_least, check_confidence_level, check_in
from hatband.conformal.band import Band
from hatband.conformal.regressor import shaped_like_target
from hatband.nn.calibrated import calibrated_interval, check_calibrated
from hatband.nn.files.folders import check_networks, load_ensemble, save_ensemble
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import NetworkRows, block_of, columns_like, stacked
from hatband.nn.measure.space import NetworkSpace
from hatband.nn.measure.state import learning, seeded
from hatband.nn.train.fit import fit_network

# Ridges as shares of the mean eigenvalue agree to the rounding of a trace.
_SAME_SHARE = 1e-6


@learning()
def fit_ensemble(
    build: Callable[[], nn.Module],
    X: Any,
    y: Any = None,
    *,
    n_networks: int = 5,
    random_state: Any = None,
    **settings: Any,
) -> list[nn.Module]:
    """Build and train networks that differ in first weights, batches and rows held out.

    Parameters
    ----------
    build : callable() -> nn.Module
        Makes an untrained network; its weights are drawn under a seed of their own.
    X, y
        As `fit_network` takes them.
    n_networks : int, default=5
        How many.
    random_state : int, RandomState or None, default=None
        Draws the seeds.
    **settings
        Of `fit_network`.

    Returns
    -------
    list of nn.Module
        In evaluation mode.

    Raises
    ------
    TypeError
        If `build` is no function.
    ValueError
        If it returns the same network twice, `n_networks` is below 1, or for the reasons of `fit_network`.

    Notes
    -----
    Cost: K times that of `fit_network`. Lakshminarayanan, Pritzel and Blundell (2017), *Simple and scalable predictive
    uncertainty estimation using deep ensembles*, algorithm 1: random first weights and order of rows, all rows for
    every network.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.nn import MLP, fit_ensemble
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> len(fit_ensemble(lambda: MLP(2, widths=(8,)), X, X[:, 0], n_networks=3, epochs=2, random_state=0))
    3
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            f"build must be a function that makes an untrained network, such as lambda: MLP(3); got "
            f"{type(build).__name__}."
        )
    seeds = check_random_state(random_state).randint(2**31 - 1, size=(check_at_least(n_networks, 1, "n_networks"), 2))
    networks: list[nn.Module] = []
    for first, second in seeds:
        with seeded(int(first), torch.get_default_device()):
            module = build()
        if any(module is other for other in networks):
            raise ValueError("build must make a new network at every call; it returned the same one again.")
        fit_network(module, X, y, random_state=int(second), **settings)
        networks.append(module.eval())
    return networks


class EnsembleConformalRegressor(BaseEstimator):
    """Intervals m(x) -+ q s(x), m the mean prediction of K networks, s the mean of their widths.

    Features, ridge and scale of each network are its own; a width counts relative to its mean over the training rows,
    because a scale is defined up to a factor. Leverages of single networks differ from run to run; their mean does so
    less.

    Parameters
    ----------
    modules : sequence of nn.Module
        Networks trained on the same rows, as `fit_ensemble` returns them.
    layer : str or None, default=None
        The linear layer whose input the features are; None finds it in each.
    scale : str, Scale or callable(rows) -> width, default="auto"
        As in `LastLayerConformalRegressor`, one for each network.
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        "auto" gives each network 1e-4 of the mean eigenvalue of its own Gram matrix, which makes their leverages
        comparable. One number, or a ridge that each chooses, does not.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval is to hold.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    random_state : int or None, default=None
        For scales that learn.

    Attributes
    ----------
    members_ : list of LastLayerConformalRegressor
        One around each network.
    sizes_ : list of array
        Mean width of each member over the training rows, (1,) or (q,).
    scores_ : array (n_cal, q)
        Signed calibration scores.

    Notes
    -----
    P(y in interval) >= confidence_level for calibration rows and new rows that are exchangeable: networks and scales
    are fixed before calibration. Cost: K times that of one network. Ensembles: Lakshminarayanan, Pritzel and Blundell
    (2017); leverage as the scale: Fadnavis (2026), arXiv 2602.12693; averaging relative widths is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.nn import MLP, EnsembleConformalRegressor, fit_ensemble
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = X[:, 0]
    >>> networks = fit_ensemble(lambda: MLP(2, widths=(8,)), X[:100], y[:100], n_networks=2, epochs=5, random_state=0)
    >>> model = EnsembleConformalRegressor(networks, scale="leverage").fit_train(X[:100], y[:100])
    >>> model.calibrate(X[100:], y[100:]).predict_interval(X[:3])[1].shape
    (3, 2)
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        layer: str | None = None,
        *,
        scale: Any = "auto",
        ridge: Any = "auto",
        confidence_level: Any = 0.9,
        symmetric: bool = True,
        random_state: Any = None,
    ) -> None:
        self.modules = modules
        self.layer = layer
        self.scale = scale
        self.ridge = ridge
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.random_state = random_state

    def fit_train(self, data: Any, y: Any = None, *, validation: Any = None) -> Self:
        """Measure the rows that the networks were trained on; nothing is trained but the scales.

        Parameters
        ----------
        data, y, validation
            As in `LastLayerConformalRegressor`.

        Returns
        -------
        self
            Earlier calibration scores are gone.

        Raises
        ------
        ValueError
            If the networks predict different columns, or as `LastLayerConformalRegressor.fit_train` does.
        """
        check_networks(self.modules)
        check_in(self.symmetric, (True, False), "symmetric")
        members = [
            LastLayerConformalRegressor(
                module, self.layer, scale=self.scale, ridge=self.ridge, random_state=self.random_state
            ).fit_train(data, y, validation=validation)
            for module in self.modules
        ]
        _check_same_outputs([member.n_outputs_ for member in members])
        total, count = [0.0] * len(members), 0
        for batch in as_batches(data, y):
            bands = [_member_band(member, batch) for member in members]
            total = [before + band.width.sum(axis=0) for before, band in zip(total, bands, strict=True)]
            count += len(bands[0].width)
        self.__dict__.pop("scores_", None)
        self.members_, self.sizes_ = members, [np.asarray(size) / count for size in total]
        self.single_target_ = members[0].single_target_
        return self

    def calibrate(self, data: Any, y: Any = None) -> Self:
        """Score rows that the networks have not seen; earlier scores are replaced.

        Parameters
        ----------
        data : DataLoader, pair (X, y) or array X
            Calibration rows.
        y : array (n,) or (n, q), optional
            Targets beside an array.

        Returns
        -------
        self
            With `scores_` (n, q).

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If there are no targets, or something is not finite; the object stays as it was.
        """
        self._check_trained("calibrate")
        scores, single = [], True
        for band in self._bands(data, y):
            scores.append((columns_like(band.target, band.center) - band.center) / band.width)
            single = np.asarray(band.target).ndim == 1
        self.scores_, self.single_target_ = stacked(scores), single
        return self

    def predict(self, data: Any) -> Array:
        """Return the mean prediction of the networks, (m,) or (m, q) as y came."""
        self._check_trained("predict")
        return self._shaped(stacked(band.prediction for band in self._bands(data)))

    def predict_interval(self, data: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with intervals that hold with the stated probability.

        Parameters
        ----------
        data : DataLoader or array (m, ...)
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            In the units of y; -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            If there are no calibration scores.
        """
        self._check_trained("predict_interval")
        check_calibrated(self)
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        parts = list(self._bands(data))
        prediction, center, width = (
            stacked(getattr(part, name) for part in parts) for name in ("prediction", "center", "width")
        )
        return self._shaped(prediction), calibrated_interval(self, center, width, levels, single)

    def leverage(self, data: Any) -> Array:
        """Return the mean leverage of the networks, (m,).

        Raises
        ------
        ValueError
            If their ridges are not the same share of the mean eigenvalue: then leverages have no common scale.
        """
        self._check_trained("leverage")
        _check_comparable([member.space_ for member in self.members_])
        blocks = ([_block(member, batch) for member in self.members_] for batch in as_batches(data))
        return stacked(
            np.mean([m.space_.leverage(b.features) for m, b in zip(self.members_, row, strict=True)], axis=0)
            for row in blocks
        )

    def save(self, folder: str | Path) -> None:
        """Write networks, spaces, scales and scores into a folder, one safetensors file per network; see `load`.

        Parameters
        ----------
        folder : str or Path
            Made when it is missing.

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If the scale is an object of the user's, which cannot be written without code.
        """
        self._check_trained("save")
        save_ensemble(self, folder)

    @classmethod
    def load(cls, folder: str | Path, modules: Sequence[nn.Module]) -> Self:
        """Read what `save` wrote. Never executes code from the files.

        Parameters
        ----------
        folder : str or Path
            Where `save` wrote.
        modules : sequence of nn.Module
            Networks of the architectures that were saved, in the same order; their weights are replaced.

        Returns
        -------
        EnsembleConformalRegressor

        Raises
        ------
        ValueError
            If a file is damaged, was changed, or is that of another ensemble, or does not belong to its architecture.
            All modules are then as they were.

        Notes
        -----
        The index of the folder holds a SHA-256 sum of each file, which finds damage and mixtures, not a forger.
        """
        return load_ensemble(cls, folder, modules)

    def _bands(self, data: Any, y: Any = None) -> "Iterator[_Band]":
        """Yield the ensemble's band over batches; every network sees the same one, in whatever order they come."""
        start = 0
        for batch in as_batches(data, y):
            parts = [_member_band(member, batch, start) for member in self.members_]
            start += len(parts[0].prediction)
            widths = [part.width / size for part, size in zip(parts, self.sizes_, strict=True)]
            prediction = np.mean([part.prediction for part in parts], axis=0)
            center = np.mean([part.center for part in parts], axis=0)
            yield _Band(prediction, center, np.mean(widths, axis=0), parts[0].target)

    def _shaped(self, prediction: Array) -> Array:
        return shaped_like_target(prediction, prediction.shape[1], self.single_target_)

    def _check_trained(self, caller: str) -> None:
        if "members_" not in self.__dict__:
            raise NotFittedError(
                f"This {type(self).__name__} is not fitted yet. Call fit_train, and calibrate, before {caller}."
            )
        for member in self.members_:
            member.weights_.check(member.space_.module)


class _Band(NamedTuple):
    """Prediction (b, q), centre (b, q), width (b, 1) or (b, q), and the target of a batch where there is one."""

    prediction: Array
    center: Array
    width: Array
    target: Array | None


def _block(member: LastLayerConformalRegressor, batch: tuple[Any, Any], start: int = 0) -> NetworkRows:
    return block_of(member.space_, *batch, start)


def _member_band(member: LastLayerConformalRegressor, batch: tuple[Any, Any], start: int = 0) -> _Band:
    block = _block(member, batch, start)
    band = Band.of(member.scale_, block.new_rows(member.space_))
    return _Band(block.prediction, band.center, np.broadcast_to(band.width, band.center.shape), block.target)


def _check_same_outputs(counts: Sequence[int]) -> None:
    """Raise unless all networks predict the same columns."""
    if len(set(counts)) > 1:
        raise ValueError(f"the networks of an ensemble must have the same number of outputs; they have {list(counts)}.")


def _check_comparable(spaces: Sequence[NetworkSpace]) -> None:
    """Raise unless all ridges are the same share of the mean eigenvalue, which defaults are."""
    # Features that are all constant have no eigenvalue, and a leverage that no ridge changes.
    shares = [space.ridge / space.default_ridge for space in spaces if space.default_ridge > 0]
    if shares and max(shares) - min(shares) > _SAME_SHARE * max(shares):
        raise ValueError(
            "leverages of networks can be averaged when each ridge is the same share of the mean eigenvalue of its "
            f"Gram matrix; in units of its default they are from {min(shares):.3g} to {max(shares):.3g}. Pass "
            "ridge='auto', or average widths."
        )
