"""Rows (x, y) for running statistics: read in blocks and centred, their means merged or removed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hatband.arrays.backend import AnyBackend, backend_of
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite, check_ridge, check_weights
from hatband.linalg.design import Design, Frame

# What is left of the weight after a removal counts as nothing below this share of what there was.
_NOTHING = 1e-12
S = TypeVar("S", bound="RunningStatistics")


@dataclass(frozen=True, eq=False)
class Centre:
    """Number, weight and weighted mean of some rows.

    Parameters
    ----------
    n_samples : int
        Number of rows, those of weight 0 included.
    weight : float
        Sum of their weights.
    mean : array of shape (p,)
        Weighted mean; zeros where the weight is 0.
    """

    n_samples: int
    weight: float
    mean: Float[Array, " p"]

    def merged(self, other: "Centre") -> tuple["Centre", Float[Array, " p"]]:
        """Return the centre of both, and the row that must be added to their scatter matrices.

        Chan, Golub and LeVeque (1983), eq. 2.1.
        """
        n_samples, weight = self.n_samples + other.n_samples, self.weight + other.weight
        if not weight:
            return Centre(n_samples, 0.0, self.mean), 0.0 * self.mean
        between = other.mean - self.mean
        share = other.weight / weight
        # A side without rows has no mean.
        mean = other.mean if not self.weight else self.mean + share * between
        return Centre(n_samples, weight, mean), (share * self.weight) ** 0.5 * between

    def removed(self, other: "Centre") -> tuple["Centre", Float[Array, " p"]]:
        """Return the centre of the remaining rows, and the row that `merged` would give for it and `other`."""
        self._refuse_more(other)
        n_samples, weight = self.n_samples - other.n_samples, self.weight - other.weight
        if not n_samples or weight <= _NOTHING * self.weight:
            if not n_samples and weight > _NOTHING * self.weight:
                raise ValueError(f"all rows are removed, but weight {weight:.6g} of {self.weight:.6g} would be left.")
            return Centre(n_samples, 0.0, 0.0 * self.mean), 0.0 * self.mean
        mean = self.mean + (other.weight / weight) * (self.mean - other.mean)
        return Centre(n_samples, weight, mean), (other.weight * weight / self.weight) ** 0.5 * (other.mean - mean)

    def _refuse_more(self, other: "Centre") -> None:
        if other.n_samples > self.n_samples:
            raise ValueError(f"cannot remove {other.n_samples} rows from statistics of {self.n_samples} rows.")
        if other.weight > (1 + _NOTHING) * self.weight:
            raise ValueError(f"cannot remove weight {other.weight:.6g} from statistics of weight {self.weight:.6g}.")


@dataclass(frozen=True, eq=False)
class RunningStatistics(ABC):
    """The base of statistics of rows z = (x, y); `matrix` is the form in which a subclass keeps their scatter."""

    centre: Centre
    n_features: int

    @property
    @abstractmethod
    def matrix(self) -> Float[Array, "p p"]:
        """The scatter of features and targets together, in the form of the subclass."""

    @abstractmethod
    def add(self: S, X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> S:
        """Return the statistics of these rows and of one more block."""

    @classmethod
    def empty(cls: type[S], n_features: int, n_targets: int = 0) -> S:
        """Return the statistics of no rows."""
        return cls._empty(backend_of(None), n_features, n_targets)

    @classmethod
    def _empty(cls: type[S], backend: AnyBackend, n_features: int, n_targets: int) -> S:
        size = n_features + n_targets
        # Every subclass adds one field, its matrix.
        return cls(Centre(0, 0.0, backend.zeros(size)), n_features, backend.zeros(size, size))  # type: ignore[call-arg]

    @classmethod
    def of(cls: type[S], X: Shaped[Array, "n d"], y: Any = None, weights: Any = None) -> S:
        """Return the statistics of some rows; X may be CSR."""
        return cls._empty(backend_of(X), int(X.shape[1]), target_columns(y)).add(X, y, weights)

    @property
    def backend(self) -> AnyBackend:
        """Array library and device of the arrays."""
        return backend_of(self.matrix)

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return self.centre.n_samples

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return self.centre.weight

    @property
    def mean(self) -> Float[Array, " d"]:
        """Weighted mean of the features."""
        return self.centre.mean[: self.n_features]

    @property
    def y_mean(self) -> Float[Array, " q"]:
        """Weighted mean of the targets."""
        return self.centre.mean[self.n_features :]

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.matrix) - self.n_features

    def _on(self, backend: AnyBackend) -> tuple[Centre, Array]:
        """Copies of centre and matrix on a backend."""
        mean = backend.asarray(self.centre.mean) + 0.0
        return Centre(self.n_samples, self.weight, mean), backend.asarray(self.matrix) + 0.0

    def _both_on(self: S, other: S) -> tuple[AnyBackend, tuple[Centre, Array], tuple[Centre, Array]]:
        """Two statistics of the same columns, copied to one backend."""
        if (other.n_features, other.n_targets) != (self.n_features, self.n_targets):
            raise ValueError(
                f"statistics of {self.n_features} features and {self.n_targets} targets cannot be merged with those of "
                f"{other.n_features} and {other.n_targets}."
            )
        backend = backend_of(self.matrix if self.n_samples else other.matrix)
        return backend, self._on(backend), other._on(backend)

    def _block(self: S, X: Any, y: Any, weights: Any) -> S:
        """Return the statistics of a block of rows on the backend of these."""
        check_block(X, y, self.n_features, self.n_targets)
        return self._empty(self.backend, self.n_features, self.n_targets).add(X, y, weights)


def target_columns(y: Any) -> int:
    """Return the number of targets in y; 0 for None."""
    return 0 if y is None else 1 if len(y.shape) == 1 else int(y.shape[1])


def check_block(X: Any, y: Any, n_features: int, n_targets: int) -> None:
    """Raise unless a block of rows has the columns that the statistics have."""
    if len(X.shape) != 2 or int(X.shape[1]) != n_features:
        raise ValueError(f"these statistics hold {n_features} features; got features of shape {tuple(X.shape)}.")
    if target_columns(y) != n_targets:
        raise ValueError(f"these statistics hold {n_targets} targets; got {target_columns(y)}.")
    if y is not None and int(y.shape[0]) != int(X.shape[0]):
        raise ValueError(f"y must have one entry per row of X, {int(X.shape[0])}; got {int(y.shape[0])}.")


def centred_blocks(backend: AnyBackend, X: Any, y: Any, weights: Any) -> Iterator[tuple[Centre, Float[Array, "b p"]]]:
    """Yield centre and weighted, centred rows [x, y] block by block, in ONE reused buffer of float64."""
    count, n_features = map(int, X.shape)
    roots = _roots(backend, weights, count)
    size = min(backend.block_rows(n_features + target_columns(y)), count)
    buffer = backend.empty(size, n_features + target_columns(y))
    for start in range(0, count, max(size, 1)):
        part = slice(start, min(start + size, count))
        block = buffer[: part.stop - start]
        backend.subtract(backend.read(X, part), None, block[:, :n_features])
        if y is not None:
            block[:, n_features:] = backend.asarray(backend.read(y, part)).reshape(len(block), -1)
        if not backend.isfinite(block):
            _refuse_not_finite(X, y)
        centre = _centre(backend, block, None if roots is None else roots[part])
        if centre.weight:
            yield centre, block
        else:
            yield centre, block[:0]


def _roots(backend: AnyBackend, weights: Any, count: int) -> Array | None:
    """Square roots of the weights; unlike in a training set, all weights of a block can be 0."""
    if weights is None:
        return None
    values = np.asarray(backend_of(weights).numpy(weights), dtype=np.float64)
    if values.shape != (count,) or values.any():
        values = check_weights(values, count)
    return backend.asarray(np.sqrt(values))


def _refuse_not_finite(X: Any, y: Any) -> None:
    for array, name in ((X, "X"), (y, "y")):
        if array is not None:
            check_finite(array if hasattr(array, "indptr") else backend_of(array).numpy(array), name)


def _centre(backend: AnyBackend, block: Array, roots: Array | None) -> Centre:
    """Centre and weight the block in place. A row is subtracted first, so that constant columns become exact zeros."""
    weights = backend.ones(len(block)) if roots is None else roots**2
    weight = float(weights.sum())
    if not weight:
        return Centre(len(block), 0.0, 0.0 * block[0])
    shift = block[0] + 0.0
    block -= shift
    offset = (weights @ block) / weight
    block -= offset
    if roots is not None:
        block *= roots[:, None]
    return Centre(len(block), weight, shift + offset)


def design_at(centre: Centre, n_features: int, ridge: Any, fit_intercept: bool) -> Design:
    """Return the design from which a factorisation of the features starts."""
    if not centre.weight:
        raise ValueError("these statistics hold no rows (or rows of weight 0 only); add rows before factoring.")
    backend, penalty = backend_of(centre.mean), check_ridge(ridge)
    if np.shape(penalty) not in {(), (n_features,)}:
        raise ValueError(f"ridge must be a number or have shape ({n_features},); got shape {np.shape(penalty)}.")
    frame = Frame(
        backend=backend,
        n_samples=centre.n_samples,
        n_features=n_features,
        weight=centre.weight,
        fit_intercept=fit_intercept,
        shift=centre.mean[:n_features] if fit_intercept else None,
    )
    vector = backend.asarray(np.broadcast_to(penalty, n_features).copy())
    return Design(features=None, root_weights=None, ridge=penalty, penalty=vector, frame=frame)
