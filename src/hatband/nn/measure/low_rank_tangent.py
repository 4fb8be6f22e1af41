"""Geometry of a whole network whose gradients are too many to hold: leading directions, and a residual term."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hatband._checks_network import check_at_least
from hatband.arrays.kinds import on_host
from hatband.arrays.typing import Array, Float
from hatband.checks import check_weights
from hatband.formulas.ridge_choice import NO_TARGETS, chosen_ridge, whole_network_ridge
from hatband.geometry import Exactness, Features, Geometry, Space
from hatband.geometry.convert import as_numbers, dense_inputs
from hatband.linalg.spectral import SpectralFactor
from hatband.nn.measure.batches import check_finite_from
from hatband.nn.measure.low_rank import RunningProduct, Sketch, SubspaceIteration
from hatband.nn.measure.parameter_subset import Intercept
from hatband.nn.measure.tangent import DoubleNetwork, TangentFeatures, blocks_of_gradients


@dataclass(frozen=True, eq=False)
class LowRankTangentGeometry(Geometry):
    """h(x) = 1/n + sum_j (v_j'phi)^2 / (s_j^2 + ridge) + |phi_perp|^2 / ridge, phi the centred gradient of a network.

    v_j are the leading directions of the gradients of the training rows. What they miss counts as if it had never been
    seen: h is at least that of `TangentGeometry` at the same ridge, and grows off the training rows.

    Parameters
    ----------
    module : nn.Module
        A trained network with one output.
    ridge : float or "auto", default="auto"
        > 0, in the sum convention; "auto" is 1e-2 tr(J'J) / min(n, p), as in `TangentGeometry`.
    fit_intercept : bool, default=True
        Whether a constant is left free, beside all parameters.
    rank : int, default=200
        How many directions.
    iterations : int, default=2
        Passes over the training rows that refine them, before one that measures.
    random_state : int, default=0
        Seed of the first directions.

    Notes
    -----
    1 + iterations passes of a backward pass and 4 p r operations per row, 4 p r per row measured; memory of some
    60 p r bytes and one block of gradients; no training row is kept. Directions by Halko, Martinsson and Tropp (2011),
    algorithm 4.4; the Gram matrix that they stand for by Tropp, Yurtsever, Udell and Cevher (2017), which never exceeds
    the true one.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LowRankTangentGeometry
    >>> net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 1))
    >>> space = LowRankTangentGeometry(net, rank=10).fit(torch.randn(500, 2))
    >>> space.leverage(space.features(torch.randn(5, 2))).shape
    (5,)
    """

    module: nn.Module
    ridge: Any = "auto"
    fit_intercept: bool = True
    rank: int = 200
    iterations: int = 2
    random_state: int = 0
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> "LowRankTangentSpace":
        """Measure the training rows X and return the space."""
        check_at_least(self.rank, 1, "rank")
        check_at_least(self.iterations, 0, "iterations")
        check_at_least(self.random_state, 0, "random_state")
        (rows, weights), network = _counted(_as_rows(X), sample_weight), DoubleNetwork.of(self.module)

        def passed(basis: torch.Tensor) -> RunningProduct:
            running = RunningProduct(basis)
            for block, gradients in _gradients(network, rows):
                running.add(gradients, weights=None if weights is None else weights[block].to(gradients))
            return running

        intercept: Intercept = "free" if self.fit_intercept else "none"
        subspace = SubspaceIteration(self.rank, self.iterations, self.random_state)
        sketch = subspace.sketch(network.n_parameters, network.device, intercept, passed)
        ridge = self._strength(sketch)
        return LowRankTangentSpace(
            features_of=TangentFeatures(self.module),
            factor=sketch.factor(ridge, intercept),
            ridge=ridge,
            n_samples=sketch.n_samples,
            captured=sketch.captured,
        )

    def _strength(self, sketch: Sketch) -> float:
        ridge = chosen_ridge(
            self.ridge,
            auto=lambda: whole_network_ridge(sketch.trace, sketch.n_samples, len(sketch.mean)),
            spectrum=NO_TARGETS,
        )
        if ridge == 0:
            raise ValueError("ridge must be > 0 where a few directions stand for all parameters; got 0.")
        return ridge


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankTangentSpace(Space):
    """Gradients of new rows, a block at a time, measured by the leading directions of those of the training rows.

    Parameters
    ----------
    features_of : TangentFeatures
        The network.
    factor : SpectralFactor
        Of the directions.
    ridge : float
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    captured : float
        Share of tr(J'J) that the directions hold.
    """

    features_of: TangentFeatures
    factor: SpectralFactor
    ridge: float
    n_samples: int
    captured: float
    exactness: Exactness = "none"

    def features(self, X: Any) -> Features:
        """Return the rows as they are: their gradients are taken when they are measured."""
        return Features(model_inputs=X, values=_as_rows(X))

    def inputs(self, features: Features) -> Array:
        """Return X as numbers."""
        return dense_inputs(as_numbers(features.model_inputs), None)

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, with one block of gradients in memory."""
        posterior, sampling = self._measured(features, self.factor.leverages, 2)
        return posterior, sampling

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return self._measured(features, lambda gradients: (self.factor.leverage(gradients),), 1)[0]

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,); what the directions miss adds nothing to it."""
        return self.leverages(features)[1]

    def unseen_leverage(self, features: Features) -> Array:
        """Return |phi_perp|^2 / ridge of each row, shape (m,): what the directions miss."""
        return self._measured(features, lambda gradients: (self.factor.unseen_leverage(gradients),), 1)[0]

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k), with the gradients of both in memory; training rows have to be passed."""
        if others is None:
            raise ValueError(
                "cross_leverage to the training rows needs these rows, and a space of low rank keeps none; pass "
                "others=space.features(X_train)."
            )
        return self.factor.cross_leverage(*(self.features_of.transform(side.values) for side in (features, others)))

    def final_step(self, estimator: Any) -> Any:
        """Return the estimator: it predicts from X itself."""
        return estimator

    def _measured(self, features: Features, verb: Callable[[torch.Tensor], tuple[Any, ...]], count: int) -> list[Array]:
        results = [np.empty(len(features)) for _ in range(count)]
        for block, gradients in _gradients(DoubleNetwork.of(self.features_of.module), features.values):
            for result, values in zip(results, verb(gradients), strict=True):
                result[block] = on_host(values)
        return results


def _as_rows(X: Any) -> Float[Array, "m *k"]:
    """Return rows on the host as float64, which can be taken apart."""
    return np.array(on_host(X), dtype=np.float64)


def _counted(rows: Array, sample_weight: Any) -> tuple[Array, torch.Tensor | None]:
    """Return rows with their weights, without those of weight 0."""
    if sample_weight is None:
        return rows, None
    weights = check_weights(sample_weight, len(rows))
    return rows[weights > 0], torch.from_numpy(weights[weights > 0])


def _gradients(network: DoubleNetwork, rows: Array) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of rows with their gradients."""
    for block in blocks_of_gradients(len(rows), network.n_parameters):
        gradients = network.expand(network.rows(rows[block]))[1]
        check_finite_from(gradients, "the gradients of the module", block.start)
        yield block, gradients
