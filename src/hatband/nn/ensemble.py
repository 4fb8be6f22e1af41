"""Ensembles: networks trained separately on the same rows, and one calibrated band from all of them."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_at_least, unchanged_on_failure
from hatband.conformal.band import Band
from hatband.fitted.rows import Rows
from hatband.nn.files.folders import check_networks, load_ensemble, save_ensemble
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import block_of, stacked
from hatband.nn.measure.space import NetworkSpace
from hatband.nn.measure.state import learning, seeded
from hatband.nn.measure.training_stream import leverage_alone
from hatband.nn.regressor import BandOfBatch, NetworkRegressor
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
        Makes an untrained network; its weights are drawn with a separate seed.
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
        If `build` is not a function.
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
            raise ValueError("build must make a new network at every call; it returned the same network again.")
        fit_network(module, X, y, random_state=int(second), **settings)
        networks.append(module.eval())
    return networks


class EnsembleConformalRegressor(NetworkRegressor):
    """Intervals m(x) -+ q s(x), m the mean prediction of K networks, s the mean of their widths.

    Each network has its own features, ridge and scale. Widths are divided by their mean over the training rows,
    because a scale is defined up to a factor. Leverages of single networks differ from run to run; their mean differs
    less.

    Parameters
    ----------
    modules : sequence of nn.Module
        Networks trained on the same rows, as `fit_ensemble` returns them.
    layer : str or None, default=None
        The linear layer; its input is the features. None finds it in each network.
    scale : str, Scale or callable(rows) -> width, default="auto"
        As in `LastLayerConformalRegressor`, one for each network.
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        "auto" gives each network 1e-4 of the mean eigenvalue of its own Gram matrix, which makes their leverages
        comparable. With one number, or a ridge that each network chooses, they are not comparable.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    groups, likelihood_ratio, joint
        As in `LastLayerConformalRegressor`; bins of leverage are those of the mean leverage of the networks.
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
    effective_sample_size_ : float
        Number of rows of equal weight that the calibration rows are worth.

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
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        random_state: Any = None,
    ) -> None:
        self.modules = modules
        self.layer = layer
        self.scale = scale
        self.ridge = ridge
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.random_state = random_state

    _trained_by: ClassVar[tuple[str, str]] = ("members_", "fit_train, and calibrate,")

    def fit_train(self, data: Any, y: Any = None, *, validation: Any = None, X_target: Any = None) -> Self:
        """Measure the rows that the networks were trained on; nothing is trained but the scales.

        Parameters
        ----------
        data, y, validation, X_target
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
        self._check_settings()
        members = [
            LastLayerConformalRegressor(
                module, self.layer, scale=self.scale, ridge=self.ridge, random_state=self.random_state
            ).fit_train(data, y, validation=validation)
            for module in self.modules
        ]
        _check_same_outputs([member.n_outputs_ for member in members])
        with unchanged_on_failure(self):
            for name in ("calibration_", "plan_"):
                self.__dict__.pop(name, None)
            self.members_, self.sizes_ = members, _mean_widths(members, as_batches(data, y))
            self.n_outputs_, self.single_target_ = members[0].n_outputs_, members[0].single_target_
            self.target_seen_ = members[0].target_seen_
            self.plan_ = self._planned(data, y, validation, X_target, lambda: self._training_leverages(data))
        return self

    def _training_leverages(self, data: Any) -> Rows:
        """Return the mean leave-one-out leverage of the training rows."""
        self._check_comparable()
        spaces = [member.space_ for member in self.members_]
        parts = (
            np.mean([block_of(space, *batch).training_rows(space, None).leverage for space in spaces], axis=0)
            for batch in as_batches(data)
        )
        return leverage_alone(stacked(parts))

    def _leverage(self, X: Any) -> Array:
        self._check_comparable()
        return super()._leverage(X)

    def _bands(self, data: Any, y: Any = None) -> Generator[BandOfBatch, None, None]:
        start = 0
        # Every network sees the same batch, in whatever order a loader gives them.
        for batch in as_batches(data, y):
            parts = [member._band_of_batch(batch, start) for member in self.members_]
            start += len(parts[0].prediction)
            yield self._mean_of(parts)

    def _mean_of(self, parts: list[BandOfBatch]) -> BandOfBatch:
        """Return the mean band of a batch: widths in units of their mean over the training rows."""
        prediction = np.mean([part.prediction for part in parts], axis=0)

        def band() -> Band:
            bands = [part.band() for part in parts]
            center = np.mean([one.center for one in bands], axis=0)
            widths = [
                np.broadcast_to(one.width, center.shape) / size for one, size in zip(bands, self.sizes_, strict=True)
            ]
            return Band(prediction, center, np.mean(widths, axis=0))

        return BandOfBatch(
            prediction, band, lambda: np.mean([part.leverage() for part in parts], axis=0), parts[0].target
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
            If the scale is an object of the user's, which cannot be written without code, or the model has groups or a
            likelihood ratio: save it without them, and calibrate by groups after loading.
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

    def _check_trained(self, caller: str) -> None:
        super()._check_trained(caller)
        for member in self.members_:
            member.weights_.check(member.space_.module)

    def _check_comparable(self) -> None:
        _check_comparable([member.space_ for member in self.members_])


def _mean_widths(members: list[LastLayerConformalRegressor], batches: Any) -> list[Array]:
    """Return the mean width of each member over the training rows, (q,) each."""
    total: list[Any] = [0.0] * len(members)
    count = 0
    for batch in batches:
        bands = [member._band_of_batch(batch, count).band() for member in members]
        widths = [np.broadcast_to(band.width, band.center.shape) for band in bands]
        total = [before + width.sum(axis=0) for before, width in zip(total, widths, strict=True)]
        count += len(widths[0])
    return [np.asarray(size) / count for size in total]


def _check_same_outputs(counts: Sequence[int]) -> None:
    """Raise unless all networks predict the same columns."""
    if len(set(counts)) > 1:
        raise ValueError(f"the networks of an ensemble must have the same number of outputs; they have {list(counts)}.")


def _check_comparable(spaces: Sequence[NetworkSpace]) -> None:
    """Raise unless all ridges are the same share of the mean eigenvalue, as default ridges are."""
    # Features that are all constant have no eigenvalue, and a leverage that no ridge changes.
    shares = [space.ridge / space.default_ridge for space in spaces if space.default_ridge > 0]
    if shares and max(shares) - min(shares) > _SAME_SHARE * max(shares):
        raise ValueError(
            "leverages of networks can be averaged only if each ridge is the same share of the mean eigenvalue of its "
            f"Gram matrix; divided by their defaults the ridges are from {min(shares):.3g} to {max(shares):.3g}. Pass "
            "ridge='auto', or average widths."
        )
