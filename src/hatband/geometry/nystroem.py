"""Kernel geometry for many rows: landmarks replace the training rows, and the rest of the kernel counts as unseen."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import linalg

from hatband.arrays.typing import Array
from hatband.checks import check_ridge, check_weights
from hatband.geometry.base import Exactness, Features, Geometry, Space, input_columns, passed_rows
from hatband.geometry.kernel import KernelGeometry, KernelSpace
from hatband.geometry.kernels import Kernel, blocks
from hatband.linalg import Auto, Factor


@dataclass(frozen=True, eq=False)
class LandmarkMap:
    """f(x) with f(x)'f(z) = k_x' K_mm^-1 k_z: the kernel in terms of the landmarks.

    Parameters
    ----------
    kernel : Kernel
        Compares rows.
    landmarks : array with m rows
        Training rows, as the kernel compares them.
    root : array of shape (m, r)
        K_mm^-1 = root root', on the eigenvectors of K_mm that rounding leaves standing.
    """

    kernel: Kernel
    landmarks: Any
    root: Array

    @classmethod
    def of(cls, kernel: Kernel, landmarks: Any) -> "LandmarkMap":
        """Compute the inverse root from a spectrum: K_mm is singular if landmarks coincide, which jitter would hide."""
        values, vectors = linalg.eigh(kernel(landmarks, landmarks))
        kept = values > len(values) * np.finfo(float).eps * values[-1]
        return cls(kernel, landmarks, vectors[:, kept] / np.sqrt(values[kept]))

    def __call__(self, rows: Any) -> Array:
        """Return f of a block of rows, shape (m, r)."""
        return self.kernel(rows, self.landmarks) @ self.root


@dataclass(frozen=True, eq=False)
class NystroemGeometry(Geometry):
    """h(x) = f'(F'F + ridge)^-1 f + max(0, k(x,x) - f'f)/ridge, f(x) = K_mm^-1/2 k_m(x) for m landmarks.

    The second term is what the landmarks cannot express: without it h would vanish far from the data.

    Parameters
    ----------
    kernel : Kernel
        Compares rows.
    ridge : float
        Ridge in the sum convention, > 0.
    fit_intercept : bool
        Whether the model has an intercept, which is not penalised.
    landmarks : int
        How many training rows are drawn as landmarks, all of them when there are fewer.
    random_state : int
        Seed of the draw.

    Notes
    -----
    Costs n m^2 + m^3 once and m^2 for each row measured; the space keeps the m landmarks. Not a bound: it
    under-estimates in the span of the landmarks and over-estimates orthogonal to it. Williams and Seeger 2001, the
    residual term as in Rasmussen and Williams 2006, section 8.3.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import NystroemGeometry, PairwiseKernel
    >>> space = NystroemGeometry(PairwiseKernel("rbf", {"gamma": 1.0}), ridge=0.5).fit(np.array([[0.0]]))
    >>> space.leverage(space.features(np.array([[1e3]])))
    array([2.])
    """

    kernel: Kernel
    ridge: float
    fit_intercept: bool = False
    landmarks: int = 1000
    random_state: int = 0
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> "NystroemSpace":
        """Draw landmarks from the training rows X, factor the landmark features of all rows, and return the space."""
        rows = self.kernel.rows(X)
        n_samples = int(rows.shape[0])
        weights = None if sample_weight is None else check_weights(sample_weight, n_samples)
        landmark_map = LandmarkMap.of(self.kernel, rows[self._draw(n_samples)])
        features = np.empty((n_samples, landmark_map.root.shape[1]))
        for part, block in blocks(rows):
            features[part] = landmark_map(block)
        ridge = float(check_ridge(self.ridge))
        if ridge == 0:
            raise ValueError("ridge must be > 0 for a geometry by landmarks; got 0.")
        return NystroemSpace(
            landmark_map=landmark_map,
            factor=Auto().factor(features, ridge, weights, self.fit_intercept),
            ridge=ridge,
            n_samples=n_samples,
            input_columns=input_columns(X),
        )

    def _draw(self, n_samples: int) -> Array:
        if n_samples <= self.landmarks:
            return np.arange(n_samples)
        return np.sort(np.random.default_rng(self.random_state).choice(n_samples, self.landmarks, replace=False))


@dataclass(frozen=True, eq=False, kw_only=True)
class NystroemSpace(Space):
    """A kernel between new rows and landmarks, which it keeps, and the factor of all training rows.

    Parameters
    ----------
    landmark_map : LandmarkMap
        Features of a row.
    factor : Factor
        Factor of F'W F + ridge.
    ridge : float
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    input_columns : array of int, or None
        Columns of CSR rows that a learned scale gets.
    """

    landmark_map: LandmarkMap
    factor: Factor
    ridge: float
    n_samples: int
    input_columns: Array | None = None
    exactness: Exactness = "none"

    def features(self, X: Any) -> Features:
        """Return the rows as the kernel compares them."""
        return Features(model_inputs=X, values=self.landmark_map.kernel.rows(X))

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage, with the features of 1,024 rows at a time in memory."""
        posterior, sampling = np.empty(len(features)), np.empty(len(features))
        for part, rows in blocks(features.values):
            seen = self.landmark_map(rows)
            posterior[part], sampling[part] = self.factor.leverages(seen)
            posterior[part] += self._unseen(rows, seen)
        return posterior, sampling

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        result = np.empty(len(features))
        for part, rows in blocks(features.values):
            seen = self.landmark_map(rows)
            result[part] = self.factor.leverage(seen) + self._unseen(rows, seen)
        return result

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,); the part that the landmarks cannot express is not in it."""
        result = np.empty(len(features))
        for part, rows in blocks(features.values):
            result[part] = self.factor.sampling_leverage(self.landmark_map(rows))
        return result

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z) = f_x'(F'F + ridge)^-1 f_z + (k(x,z) - f_x'f_z)/ridge, shape (m, k)."""
        others = passed_rows(others, "a Nystroem space keeps its landmarks only")
        seen, seen_others = self.landmark_map(features.values), self.landmark_map(others.values)
        unseen = self.landmark_map.kernel(features.values, others.values) - seen @ seen_others.T
        return self.factor.cross_leverage(seen, seen_others) + unseen / self.ridge

    def unseen_leverage(self, features: Features) -> Array:
        """Return max(0, k(x,x) - f'f) / ridge of each row, shape (m,): the part that the landmarks cannot express."""
        result = np.empty(len(features))
        for part, rows in blocks(features.values):
            result[part] = self._unseen(rows, self.landmark_map(rows))
        return result

    def _unseen(self, rows: Any, seen: Array) -> Array:
        lost = self.landmark_map.kernel.diagonal(rows) - np.einsum("ij,ij->i", seen, seen)
        return np.maximum(lost, 0.0) / self.ridge


@dataclass(frozen=True, eq=False)
class DualOrNystroem(Geometry):
    """The exact kernel leverage up to `dual_rows` training rows; for more rows, landmarks and a residual term.

    Parameters
    ----------
    kernel : Kernel
        Compares rows.
    ridge : float
        Ridge in the sum convention, > 0.
    fit_intercept : bool
        Whether the model has an intercept, which is not penalised.
    dual_rows : int
        Training rows up to which the n x n kernel is factored: 400 MB at 5,000.
    landmarks, random_state
        As in NystroemGeometry.
    """

    kernel: Kernel
    ridge: float
    fit_intercept: bool = True
    dual_rows: int = 5000
    landmarks: int = 1000
    random_state: int = 0
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> KernelSpace | NystroemSpace:
        """Fit the exact or the landmark geometry to the training rows X."""
        if np.shape(X)[0] <= self.dual_rows:
            return KernelGeometry(self.kernel, self.ridge, self.fit_intercept).fit(X, sample_weight)
        return NystroemGeometry(self.kernel, self.ridge, self.fit_intercept, self.landmarks, self.random_state).fit(
            X, sample_weight
        )
