"""Geometries made of other geometries: transformers before a geometry, and one geometry for each output."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.geometry.base import Exactness, Features, Geometry, Space, kept
from hatband.geometry.model import final_step, weakest


@dataclass(frozen=True, eq=False)
class Preprocessed(Geometry):
    """h(T(x)): the leverage of the inner geometry after the fitted transformers T, which run once per call.

    Parameters
    ----------
    transformers : tuple of fitted transformers
        What X goes through first, in order. They are held as they were learned: leave-one-out does not refit them.
    geometry : Geometry
        What is measured behind them.
    claim : {"exact", "given", "none"}
        The most that leave-one-out may claim through what stands around the model.
    """

    transformers: tuple[Any, ...]
    geometry: Geometry
    claim: Exactness = "exact"

    @property
    def exactness(self) -> Exactness:  # type: ignore[override]
        """The weaker of the claimed exactness and that of the inner geometry."""
        return weakest(self.claim, self.geometry.exactness)

    def fit(self, X: Any, sample_weight: Array | None = None) -> "PreprocessedSpace":
        """Transform the training rows X and fit the inner geometry to them."""
        space = self.geometry.fit(transformed(self.transformers, X), sample_weight)
        return PreprocessedSpace(
            transformers=self.transformers, space=space, exactness=weakest(self.claim, space.exactness)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PreprocessedSpace(Space):
    """Fitted transformers in front of a space.

    Parameters
    ----------
    transformers : tuple of fitted transformers
        What X goes through first.
    space : Space
        What measures their output.
    exactness : {"exact", "given", "none"}
        That of the space, weakened by what stands around the model.
    """

    transformers: tuple[Any, ...]
    space: Space
    exactness: Exactness

    @property
    def n_samples(self) -> int:  # type: ignore[override]
        """Number of training rows."""
        return self.space.n_samples

    @property
    def ridge(self) -> Any:
        """The ridge of the space."""
        return self.space.ridge

    @property
    def factor(self) -> Any:  # type: ignore[override]
        """The factor of the space, where it has one."""
        return self.space.factor

    def features(self, X: Any) -> Features:
        """Run the transformers and the feature map once on X."""
        return self.space.features(transformed(self.transformers, X))

    def inputs(self, features: Features) -> Array:
        """Return the numeric inputs of a learned scale."""
        return self.space.inputs(features)

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage from one pass over the rows."""
        return self.space.leverages(features)

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row."""
        return self.space.leverage(features)

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row."""
        return self.space.sampling_leverage(features)

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) between two sets of rows; None means the training rows, where they are kept."""
        return self.space.cross_leverage(features, others)

    def final_step(self, estimator: Any) -> Any:
        """Return the part of the estimator that predicts from transformed rows."""
        return final_step(estimator)

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) of the training rows."""
        return self.space.training_leverage(training)

    def training_weights(self, sample_weight: Array | None) -> Array | None:
        """Return the weights of the training rows, times the weights that the model itself gave them."""
        return self.space.training_weights(sample_weight)

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q)."""
        return self.space.smooth(training, y, weights)

    def unseen_leverage(self, features: Features) -> Array | float:
        """Return the part of h(x) outside the directions that the inner space keeps."""
        return self.space.unseen_leverage(features)

    def reweighted(self, training: Features, weights: Array) -> Space | None:
        """Return the same transformers before the inner space with other weights; None if that is not possible."""
        inner = self.space.reweighted(training, weights)
        return None if inner is None else replace(self, space=inner)


def transformed(transformers: Sequence[Any], X: Any) -> Any:
    """Return X after the transformers."""
    for transformer in transformers:
        X = transformer.transform(kept(X, transformer))
    return X


@dataclass(frozen=True, eq=False)
class PerOutputGeometry(Geometry):
    """h_j(x), j = 1..q: one geometry for each output, where ridge or active set differ; they share their features.

    Parameters
    ----------
    geometries : sequence of Geometry
        One per output, all with the same feature map or kernel.
    """

    geometries: Sequence[Geometry]

    @property
    def exactness(self) -> Exactness:  # type: ignore[override]
        """The weakest exactness of the geometries."""
        return weakest(*(geometry.exactness for geometry in self.geometries))

    def fit(self, X: Any, sample_weight: Array | None = None) -> "PerOutputSpace":
        """Fit every geometry to the training rows X."""
        spaces = tuple(geometry.fit(X, sample_weight) for geometry in self.geometries)
        return PerOutputSpace(
            spaces=spaces,
            exactness=self.exactness,
            n_samples=spaces[0].n_samples,
            ridge=np.array([space.ridge for space in spaces]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PerOutputSpace(Space):
    """One space per output over the same features: leverages have shape (m, q), cross-leverages (m, k, q).

    Parameters
    ----------
    spaces : tuple of Space
        One per output.
    exactness : {"exact", "given", "none"}
        The weakest exactness of the spaces.
    n_samples : int
        Number of training rows.
    ridge : array of shape (q,) or (q, d)
        Ridge of each output.
    factor : None
        There are several: ``spaces[j].factor``.
    """

    spaces: tuple[Space, ...]
    exactness: Exactness
    n_samples: int
    ridge: Any
    factor: None = None

    def features(self, X: Any) -> Features:
        """Run the shared feature map once on X."""
        return self.spaces[0].features(X)

    def inputs(self, features: Features) -> Array:
        """Return the numeric inputs of a learned scale."""
        return self.spaces[0].inputs(features)

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, each of shape (m, q)."""
        posterior, sampling = zip(*(space.leverages(features) for space in self.spaces), strict=True)
        return np.stack(posterior, axis=-1), np.stack(sampling, axis=-1)

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row and output, shape (m, q)."""
        return np.stack([space.leverage(features) for space in self.spaces], axis=-1)

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row and output, shape (m, q)."""
        return np.stack([space.sampling_leverage(features) for space in self.spaces], axis=-1)

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) for each output, shape (m, k, q)."""
        return np.stack([space.cross_leverage(features, others) for space in self.spaces], axis=-1)

    def training_leverage(self, training: Features) -> Array:
        """Return h(x_i) of each training row and output, shape (n, q)."""
        return np.stack([space.training_leverage(training) for space in self.spaces], axis=-1)

    def training_weights(self, sample_weight: Array | None) -> Array | None:
        """Return the weights of the training rows, the same for all outputs."""
        return self.spaces[0].training_weights(sample_weight)

    def smooth(self, training: Features, y: Array, weights: Array | None) -> Array:
        """Return sum_j h(x_i, x_j) w_j y_j (n, q), each output by its own space."""
        outputs = [
            self.spaces[j % len(self.spaces)].smooth(training, y[:, j : j + 1], weights) for j in range(y.shape[1])
        ]
        return np.hstack(outputs)
