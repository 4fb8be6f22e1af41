"""The space of the features of a network: leverage from one factor, on the device of the features."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import scipy.linalg
import torch
from torch import nn

from hatband.arrays.backend import exact_device, on_host
from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, warn_caller
from hatband.formulas.ridge_choice import NO_TARGETS, chosen_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.geometry import Features, Space
from hatband.geometry.base import Exactness, passed_rows
from hatband.linalg import Factor, GramStatistics
from hatband.linalg.moments import Centre
from hatband.linalg.spectral import SpectralFactor
from hatband.nn.measure.batches import wide_on_host
from hatband.nn.measure.low_rank import Sketch
from hatband.nn.measure.parameter_subset import Intercept, Part

INTERCEPTS: tuple[Intercept, ...] = get_args(Intercept)
# Coordinates of the features that stand for inputs which are not a table.
DIRECTIONS = 32
FEW_DIRECTIONS = "low rank keeps only a few directions, and a choice needs all directions"
# Relative error of the leverage beyond which to warn: leave-one-out rests on its digits, a width does not. Rounding of
# features to float32 alone moves a leverage by 1e-6, and a layer of 1,000 features has a bound of 1e-7 by default.
_TOLERANCE: dict[Exactness, float] = {"exact": 1e-8, "given": 1e-8, "none": 1e-6}


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkSpace(Space):
    """h(x) = 1/n + (phi(x) - m)' (Phi_c' Phi_c + ridge)^-1 (phi(x) - m), phi(x) features in a network.

    Parameters
    ----------
    module : nn.Module
        The network; measuring leaves it as it was found.
    part : Part
        What of it is measured: its last linear layer, or all parameters.
    factor : Factor
        Of the Gram matrix of the training features.
    intercept : {"free", "penalised", "none"}
        What is done about a constant: 1/n and m belong to "free"; "penalised" appends it to phi.
    ridge : float
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    exactness : {"given", "none"}
        "given" when the network is the ridge regression on the features of these rows.
    """

    module: nn.Module
    part: Part
    factor: Factor
    intercept: Intercept
    ridge: float
    n_samples: int
    exactness: Exactness

    @property
    @abstractmethod
    def directions(self) -> Array:
        """Principal directions of the training features (d, k), k <= 32, on the device of the factor."""

    @property
    @abstractmethod
    def default_ridge(self) -> float:
        """The ridge of ridge="auto" unless the head has its own; ridges of networks are compared in units of it."""

    def features(self, X: Any) -> Features:
        """Run the module once on X."""
        with self.part.watching(self.module) as run:
            seen = run(X)
            return Features(seen.table, seen.features)

    def inputs(self, features: Features) -> Array:
        """Return X where it is a table of at most 256 columns, else the features along their principal directions."""
        X, backend = features.model_inputs, self.factor.frame.backend
        if X is not None:
            return wide_on_host(X)
        return backend.numpy(backend.asarray(features.values) @ backend.asarray(self.directions))

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage from one pass over the rows."""
        posterior, sampling = self.factor.leverages(self._rows(features))
        return np.asarray(on_host(posterior)), np.asarray(on_host(sampling))

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return np.asarray(on_host(self.factor.leverage(self._rows(features))))

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,)."""
        return np.asarray(on_host(self.factor.sampling_leverage(self._rows(features))))

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k); the training rows are not kept, so pass them as `others`."""
        others = passed_rows(others, "the space of a network keeps none")
        return np.asarray(on_host(self.factor.cross_leverage(self._rows(features), self._rows(others))))

    def _rows(self, features: Features) -> torch.Tensor:
        """Return the rows that the factor measures."""
        # Answers come in the precision that the device of the rows has.
        values = features.values.to(exact_device(features.values.device))
        return with_one(values) if self.intercept == "penalised" else values


@dataclass(frozen=True, eq=False, kw_only=True)
class GramSpace(NetworkSpace):
    """Leverage by the Gram matrix of all training features: exact.

    Parameters
    ----------
    statistics : GramStatistics
        Of the training features, and of the targets where there were any.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> space = LastLayerConformalRegressor(net, scale="leverage").fit_train(torch.randn(50, 3)).space_
    >>> space.leverage(space.features(torch.randn(5, 3))).shape
    (5,)
    """

    statistics: GramStatistics

    @cached_property
    def directions(self) -> Array:
        """Principal directions of the training features (d, k), k <= 32."""
        gram = self.factor.frame.backend.numpy(self.statistics.gram)
        last = len(gram) - 1
        return scipy.linalg.eigh(gram, subset_by_index=(max(0, last + 1 - DIRECTIONS), last))[1]

    @property
    def default_ridge(self) -> float:
        """The ridge of ridge="auto" unless the head has its own; a penalised constant counts as a feature."""
        return default_ridge(self.part, measured(self.statistics, self.intercept), self.intercept)


@dataclass(frozen=True, eq=False, kw_only=True)
class SketchSpace(NetworkSpace):
    """Leverage by the leading directions of the Gram matrix: at least the exact one, at the same ridge.

    Parameters
    ----------
    sketch : Sketch
        These directions.
    factor : SpectralFactor
        Of them.
    """

    sketch: Sketch
    factor: SpectralFactor

    @property
    def directions(self) -> Array:
        """Principal directions of the training features (d, k), k <= 32."""
        return self.sketch.vectors[:, :DIRECTIONS]

    @property
    def default_ridge(self) -> float:
        """The ridge of ridge="auto"."""
        return sketch_ridge(self.part, self.sketch)

    def unseen_leverage(self, features: Features) -> Array:
        """Return |phi_perp|^2 / ridge of each row, shape (m,): the part outside the directions."""
        return np.asarray(on_host(self.factor.unseen_leverage(self._rows(features))))


def with_one(values: torch.Tensor) -> torch.Tensor:
    """Return features [phi, 1]."""
    return torch.cat([values, values.new_ones(len(values), 1)], dim=1)


def fit_space(
    module: nn.Module, part: Part, statistics: GramStatistics, ridge: Any = "auto", penalise_bias: bool = False
) -> GramSpace:
    """Factor the statistics of the features of a part of a network.

    Parameters
    ----------
    module, part : nn.Module, Part
        The network, and what of it is measured.
    statistics : GramStatistics
        What `feature_statistics` returns.
    ridge : float, "evidence", "gcv" or "auto"
        "auto": the ridge of the part itself where it is a ridge regression on these rows, else 1e-4 tr(Phi'Phi) / d
        for a last layer and 1e-2 tr(Phi'Phi) / min(n, d) for a whole network.
    penalise_bias : bool
        Whether the ridge is on the constant as well, as under a prior on all weights.
    """
    intercept = part.intercept(penalise_bias)
    used = measured(statistics, intercept)
    asked = chosen_ridge(
        ridge,
        auto=lambda: default_ridge(part, used, intercept),
        spectrum=(lambda: RidgeSpectrum.of_statistics(used, intercept == "free")) if used.n_targets else NO_TARGETS,
    )
    own = part.own_ridge(used, intercept, "auto" if isinstance(ridge, str) and ridge == "auto" else asked)
    exactness: Exactness = "none" if own is None else "given"
    chosen = asked if own is None else own
    return space_at(module, part, statistics, ridge=chosen, intercept=intercept, exactness=exactness)


def space_at(
    module: nn.Module,
    part: Part,
    statistics: GramStatistics,
    *,
    ridge: float,
    intercept: Intercept,
    exactness: Exactness,
) -> GramSpace:
    """Factor the statistics of the features of a part of a network at a given ridge."""
    return GramSpace(
        module=module,
        part=part,
        statistics=statistics,
        factor=_factored(measured(statistics, intercept), ridge, intercept, _TOLERANCE[exactness]),
        intercept=intercept,
        ridge=ridge,
        n_samples=statistics.n_samples,
        exactness=exactness,
    )


def _factored(statistics: GramStatistics, ridge: float, intercept: Intercept, tolerance: float) -> Factor:
    try:
        factor = statistics.factor(ridge, intercept == "free", np.inf)
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(
            f"ridge must be large enough for the Gram matrix of {statistics.n_features} features over "
            f"{statistics.n_samples} rows to be invertible; it is singular at {ridge:.3g}. Pass ridge='auto', or a "
            "larger number."
        ) from None
    if factor.error_bound > tolerance:
        warn_caller(
            f"ridge must be larger for accurate leverage: at {ridge:.3g} leverages may be wrong by a relative "
            f"{factor.error_bound:.1e} (tolerance {tolerance:.1e}). Pass ridge='auto', or a larger number.",
            LeverageWarning,
        )
    return factor


def fit_sketch(module: nn.Module, part: Part, sketch: Sketch, ridge: Any, intercept: Intercept) -> SketchSpace:
    """Make a space from the leading directions of the features of a part of a network and a ridge."""
    chosen = chosen_ridge(ridge, auto=lambda: sketch_ridge(part, sketch), spectrum=FEW_DIRECTIONS)
    if not chosen > 0:
        raise ValueError(f"ridge must be > 0 for leverage of low rank; got {ridge!r}.")
    return SketchSpace(
        module=module,
        part=part,
        sketch=sketch,
        factor=sketch.factor(chosen, intercept),
        intercept=intercept,
        ridge=chosen,
        n_samples=sketch.n_samples,
        exactness="none",
    )


def default_ridge(part: Part, statistics: GramStatistics, intercept: Intercept) -> float:
    """Return the default ridge of a part by the Gram matrix, about the mean if a constant is free."""
    gram, _ = statistics.products(intercept == "free")
    return part.default_ridge(float(gram.diagonal().sum()), statistics.n_samples, len(gram))


def sketch_ridge(part: Part, sketch: Sketch) -> float:
    """Return the default ridge of a part by the leading directions of the Gram matrix, and its trace."""
    return part.default_ridge(sketch.trace, sketch.n_samples, len(sketch.mean))


def measured(statistics: GramStatistics, intercept: Intercept) -> GramStatistics:
    """Return the statistics of the factored features: phi, or [phi, 1]."""
    return appended(statistics) if intercept == "penalised" else statistics


def appended(statistics: GramStatistics) -> GramStatistics:
    """Return the statistics of [phi, 1]: a column of ones has mean 1 and no scatter."""
    d, centre, joint = statistics.n_features, statistics.centre, statistics.joint
    backend = statistics.backend
    size = len(joint) + 1
    mean, wider = backend.ones(size), backend.zeros(size, size)
    mean[:d], mean[d + 1 :] = centre.mean[:d], centre.mean[d:]
    old, new = (slice(d), slice(d, None)), (slice(d), slice(d + 1, None))
    for i in range(2):
        for j in range(2):
            wider[new[i], new[j]] = joint[old[i], old[j]]
    return replace(statistics, centre=Centre(centre.n_samples, centre.weight, mean), n_features=d + 1, joint=wider)
