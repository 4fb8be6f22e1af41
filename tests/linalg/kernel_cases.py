"""Kernel matrices with test rows, and the two ways of factoring them."""

from dataclasses import dataclass

import numpy as np

from hatband.linalg import KernelSpectrum, factor_kernel
from rounding import through_kernel


@dataclass(frozen=True)
class KernelCase:
    """Training kernel (n, n), kernel rows of new rows (m, n), their diagonal (m,), kernel among them (m, m)."""

    kernel: np.ndarray
    rows: np.ndarray
    between: np.ndarray

    @property
    def diagonal(self):
        return np.diag(self.between)

    def tolerance(self, ridge, weights=None):
        """Relative tolerance: rounding times the condition number of K + ridge W^-1, with slack for dimension."""
        return through_kernel(self.kernel, ridge, weights)


def rbf(rows, others, width=1.0):
    return np.exp(-((rows[:, None] - others[None]) ** 2).sum(-1) / (2 * width**2))


def linear(rows, others):
    return rows @ others.T


def make_case(function, rng, n=30, m=7, d=3):
    train, new = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d))
    return KernelCase(function(train, train), function(new, train), function(new, new))


def duplicated(rng):
    train = np.repeat(rng.normal(size=(10, 3)), 3, axis=0)
    new = rng.normal(size=(4, 3))
    return KernelCase(rbf(train, train), rbf(new, train), rbf(new, new))


CASES = {
    "rbf": lambda rng: make_case(rbf, rng),
    "rbf of a wide kernel": lambda rng: make_case(lambda a, b: rbf(a, b, 5.0), rng),
    "linear": lambda rng: make_case(linear, rng),
    "constant plus rbf": lambda rng: make_case(lambda a, b: 100.0 + rbf(a, b), rng),
    "duplicated rows": duplicated,
    "identity": lambda rng: make_case(lambda a, b: (a[:, None] == b[None]).all(-1).astype(float), rng),
    "one row": lambda rng: make_case(rbf, rng, n=1),
}

WEIGHTS = {
    "unweighted": lambda rng, n: None,
    "weighted": lambda rng, n: rng.uniform(0.1, 3.0, n),
    "zero weights": lambda rng, n: np.where(np.arange(n) % 3 == 1, 0.0, rng.uniform(0.1, 3.0, n)),
}

FACTORS = {
    "Cholesky": factor_kernel,
    "Spectral": lambda K, ridge, weights=None, fit_intercept=False: KernelSpectrum.of(K, weights, fit_intercept).at(
        ridge
    ),
}
