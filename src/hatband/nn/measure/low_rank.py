"""The leading directions of a Gram matrix that is too large to hold, by a few passes over its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hatband.arrays.backend import backend_of
from hatband.arrays.typing import Array, Float
from hatband.linalg.base import Frame
from hatband.linalg.spectral import SpectralFactor, Spectrum, factor_spectrum
from hatband.nn.measure.batches import NO_ROWS, as_tensor
from hatband.nn.measure.parameter_subset import Intercept

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
        """Add a batch of rows; targets are looked at for what is not finite."""
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
        """Whether nothing but numbers was added."""
        return bool(torch.isfinite(self._sums).all()) and abs(self._targets) < float("inf")

    def about(self, intercept: Intercept) -> "GramProduct":
        """Return the product about the mean where a constant is free, else about zero. Chan et al. 1979."""
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
    """What one pass leaves: number, weight and mean of the rows, tr G, and G B (p, k)."""

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
    """A Gram matrix of rows as V S^2 V' with few directions V: what leverage needs of it, in O(p r) memory.

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
        """Return the factor: (v'phi)^2 / (s^2 + ridge) over the directions, |phi|^2 / ridge for what they miss."""
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
