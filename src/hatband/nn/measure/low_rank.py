"""Leading directions of a Gram matrix that is too large for memory, and the geometry of a whole network by them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import backend_of, on_host
from hatband.arrays.typing import Array, Float
from hatband.checks import check_at_least, check_weights
from hatband.formulas.ridge_choice import NO_TARGETS, chosen_ridge, whole_network_ridge
from hatband.geometry import Features, Geometry, Space
from hatband.geometry.base import Exactness, passed_rows
from hatband.linalg.design import Frame
from hatband.linalg.spectral import SpectralFactor, Spectrum, factor_spectrum
from hatband.nn.measure.batches import NO_ROWS, as_tensor, check_finite_from
from hatband.nn.measure.parameter_subset import Intercept
from hatband.nn.measure.tangent import DoubleNetwork, TangentFeatures, blocks_of_gradients

# Directions beyond those asked for, which make these accurate.
_OVERSAMPLING = 10


class RunningProduct:
    """G B for the Gram matrix G = sum w (phi - m)(phi - m)' of rows and a basis B, with G never formed.

    Parameters
    ----------
    basis : tensor (p, k)
        float64; products are taken on its device.
    """

    def __init__(self, basis: torch.Tensor) -> None:
        self._basis, self._product = basis, torch.zeros_like(basis)
        self._sums, self._square = basis.new_zeros(len(basis)), basis.new_zeros(())
        self._targets, self._weight, self._count = 0.0, 0.0, 0
        self._shift: torch.Tensor | None = None

    def add(self, features: torch.Tensor, target: Array | None = None, weights: torch.Tensor | None = None) -> None:
        """Add a batch of rows; targets are only checked to be finite."""
        if target is not None:
            self._targets += float(target.sum())
        if self._shift is None:
            self._shift = features.mean(dim=0)
        block = features - self._shift
        weighted = block if weights is None else weights[:, None] * block
        self._sums += weighted.sum(dim=0)
        self._square += (weighted * block).sum()
        self._product.addmm_(weighted.T, block @ self._basis)
        self._weight += float(len(block) if weights is None else weights.sum())
        self._count += len(block)

    def is_finite(self) -> bool:
        """Whether all values added so far were finite."""
        return bool(torch.isfinite(self._sums).all()) and abs(self._targets) < float("inf")

    def about(self, intercept: Intercept) -> "GramProduct":
        """Return the product about the mean if a constant is free, otherwise about zero. Chan et al. 1979."""
        if self._shift is None:
            raise ValueError(NO_ROWS)
        offset, weight = self._sums / self._weight, self._weight
        mean = self._shift + offset
        product = self._product - weight * offset[:, None] * (offset @ self._basis)
        trace = self._square - weight * offset.square().sum()
        if intercept != "free":
            product = product + weight * mean[:, None] * (mean @ self._basis)
            trace = trace + weight * mean.square().sum()
        return GramProduct(self._count, weight, mean, float(trace.clamp(min=0.0)), product)


@dataclass(frozen=True, eq=False)
class GramProduct:
    """The result of one pass: number, weight and mean of the rows, tr G, and G B (p, k)."""

    n_samples: int
    weight: float
    mean: torch.Tensor
    trace: float
    product: torch.Tensor

    def directions(self, basis: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return singular values (r,) and directions (p, r) of the Nystroem approximation GB (B'GB)^+ B'G <= G.

        It never exceeds G, however far the basis is from the leading directions, so that leverages never come out
        too small. Tropp, Yurtsever, Udell and Cevher (2017), "Fixed-rank approximation of a positive-semidefinite
        matrix from streaming data", algorithm 3, with small eigenvalues dropped instead of shifted.
        """
        core = basis.T @ self.product
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0.0)
        root = self.product @ (vectors[:, kept] / values[kept].sqrt())
        left, found, _ = torch.linalg.svd(root, full_matrices=False)
        # In rows, as a file holds them: products of a loaded copy then round as these do.
        return found[:rank], left[:, :rank].contiguous()


@dataclass(frozen=True, eq=False)
class Sketch:
    """A Gram matrix of rows as V S^2 V' with few directions V, in O(p r) memory: all that leverage needs.

    Parameters
    ----------
    n_samples : int
        Number of rows.
    weight : float
        Sum of their weights.
    trace : float
        Of the Gram matrix itself.
    mean : array (p,)
        Mean of the rows.
    values : array (r,)
        S, descending.
    vectors : array (p, r)
        V, orthonormal columns.
    """

    n_samples: int
    weight: float
    trace: float
    mean: Float[Array, " p"]
    values: Float[Array, " r"]
    vectors: Float[Array, "p r"]

    @property
    def captured(self) -> float:
        """Share of the trace of the Gram matrix that the directions hold."""
        return float((self.values**2).sum()) / self.trace if self.trace else 1.0

    def factor(self, ridge: float, intercept: Intercept) -> SpectralFactor:
        """Return the factor: (v'phi)^2 / (s^2 + ridge) over the directions, |phi|^2 / ridge outside them."""
        backend = backend_of(as_tensor(self.values))
        frame = Frame(
            backend=backend,
            n_samples=self.n_samples,
            n_features=len(self.mean),
            weight=self.weight,
            fit_intercept=intercept == "free",
            shift=self.mean if intercept == "free" else None,
        )
        spectrum = Spectrum(frame, self.vectors, self.values, backend.ones(len(self.mean)))
        return factor_spectrum(spectrum, ridge, ridge, f"{len(self.values)} directions of {len(self.mean)}")


@dataclass(frozen=True)
class SubspaceIteration:
    """Leading directions by randomised subspace iteration; Halko, Martinsson and Tropp (2011), algorithm 4.4.

    Parameters
    ----------
    rank : int
        How many directions.
    iterations : int
        How many passes refine them before the last one measures.
    random_state : int
        Seed of the first basis, the same on every device.
    """

    rank: int
    iterations: int
    random_state: int

    def sketch(
        self, n_features: int, device: Any, intercept: Intercept, passed: Callable[[torch.Tensor], RunningProduct]
    ) -> Sketch:
        """Return the sketch of the rows that `passed(basis)` runs over."""
        random = torch.Generator().manual_seed(self.random_state)
        columns = min(n_features, self.rank + _OVERSAMPLING)
        basis = torch.randn(n_features, columns, generator=random, dtype=torch.float64, device="cpu").to(device)
        for _ in range(self.iterations):
            basis = torch.linalg.qr(passed(torch.linalg.qr(basis)[0]).about(intercept).product)[0]
        basis = torch.linalg.qr(basis)[0]
        last = passed(basis).about(intercept)
        values, vectors = last.directions(basis, self.rank)
        backend = backend_of(vectors)
        mean, values, vectors = map(backend.asarray, (last.mean, values, vectors))
        return Sketch(last.n_samples, last.weight, last.trace, mean, values, vectors)


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
        Whether a constant is free, in addition to all parameters.
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
            raise ValueError("ridge must be > 0 for leverage of low rank; got 0.")
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
        """Return the rows unchanged: their gradients are computed when they are measured."""
        return Features(model_inputs=X, values=_as_rows(X))

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, with one block of gradients in memory."""
        posterior, sampling = self._measured(features, self.factor.leverages, 2)
        return posterior, sampling

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return self._measured(features, lambda gradients: (self.factor.leverage(gradients),), 1)[0]

    def unseen_leverage(self, features: Features) -> Array:
        """Return |phi_perp|^2 / ridge of each row, shape (m,): the part outside the directions."""
        return self._measured(features, lambda gradients: (self.factor.unseen_leverage(gradients),), 1)[0]

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k), with the gradients of both in memory; pass training rows as `others`."""
        others = passed_rows(others, "a space of low rank keeps none")
        return self.factor.cross_leverage(*(self.features_of.transform(side.values) for side in (features, others)))

    def _measured(self, features: Features, verb: Callable[[torch.Tensor], tuple[Any, ...]], count: int) -> list[Array]:
        results = [np.empty(len(features)) for _ in range(count)]
        for block, gradients in _gradients(DoubleNetwork.of(self.features_of.module), features.values):
            for result, values in zip(results, verb(gradients), strict=True):
                result[block] = on_host(values)
        return results


def _as_rows(X: Any) -> Float[Array, "m *k"]:
    """Return rows on the host as float64, which can be indexed."""
    return np.array(on_host(X), dtype=np.float64)


def _counted(rows: Array, sample_weight: Any) -> tuple[Array, torch.Tensor | None]:
    """Return the rows of weight > 0 with their weights."""
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
