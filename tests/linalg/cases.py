"""Named designs, the solvers that claim them, and what an answer may be wrong by."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch

from hatband.linalg import QR, Auto, Cholesky, CholeskyQR2, Dual, Spectral
from rounding import EPS, condition


@dataclass(frozen=True)
class Case:
    name: str
    features: np.ndarray
    rows: np.ndarray
    fit_intercept: bool = True
    weights: np.ndarray | None = None

    @property
    def is_wide(self):
        return self.features.shape[0] <= self.features.shape[1]


class Claim(NamedTuple):
    """A solver answers for this case, ridge and kind of array, whose condition number is kappa."""

    kind: str
    case: str
    label: str
    ridge: Any
    solver: Any
    kappa: float

    def __str__(self):
        return f"{self.solver}-{self.case}-{self.label}-{self.kind}"


def with_singular_values(values, n, rng):
    """An (n, d) matrix with these singular values and an exactly random pair of bases."""
    left, _ = np.linalg.qr(rng.normal(size=(n, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return left * values @ right.T


def with_condition(kappa, n=24, d=5, seed=0):
    return with_singular_values(np.geomspace(1, 1 / kappa, d), n, np.random.default_rng(seed))


def _case(name, features, **options):
    # New rows in the row space of every design: combinations of training rows.
    mix = np.random.default_rng(7).normal(size=(4, len(features)))
    return Case(name, features, mix @ features / 4, **options)


def _cases():
    rng = np.random.default_rng(1)
    for power in (2, 3, 4, 6, 7, 8, 10, 12):
        yield _case(f"tall-1e{power}", with_condition(10.0**power), fit_intercept=power % 4 != 0)
    yield _case("weighted", rng.normal(size=(20, 4)), weights=rng.uniform(0, 2, size=20) * (np.arange(20) > 2))
    yield _case("square", with_condition(1e3, n=6, d=6), fit_intercept=False)
    yield _case("graded", rng.normal(size=(24, 5)) * 10.0 ** -np.arange(0, 15, 3))
    yield _case("offset", rng.normal(size=(24, 4)) + 10.0 ** np.arange(0, 8, 2))
    yield _case("duplicated-rows", np.repeat(rng.normal(size=(9, 4)), 3, axis=0))
    yield _case("one-column", rng.normal(size=(9, 1)))
    yield _case("wide", rng.normal(size=(6, 11)))
    yield _case("wide-1e4", with_condition(1e4, n=15, d=5, seed=3).T, fit_intercept=False)


CASES = {case.name: case for case in _cases()}

# The largest condition number that each solver claims to serve within the tolerance.
REACH = {Cholesky(): 1e4, CholeskyQR2(): 1e7, QR(): 1e13, Spectral(): 1e13, Auto(): 1e13}


def _frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


KINDS = {
    "numpy": lambda x: x,
    "read-only": _frozen,
    "fortran": np.asfortranarray,
    "float32": lambda x: x.astype(np.float32),
    "csr": scipy.sparse.csr_matrix,
    "torch": torch.tensor,
    "torch32": lambda x: torch.tensor(x, dtype=torch.float32),
}


def rounded(kind, x):
    """The numbers that an array of this kind holds, in float64."""
    return x.astype(np.float32).astype(np.float64) if kind in {"float32", "torch32"} else x


def tolerance(kappa):
    return max(1e-8, 10 * kappa * EPS)


def claims():
    """Every (kind, case, ridge, solver) that a solver claims."""
    for kind in KINDS:
        for case in CASES.values():
            features = rounded(kind, case.features)
            mean_square = float((features**2).sum() / features.shape[1])
            vector = np.linspace(0.5, 2, features.shape[1]) * mean_square
            for label, ridge in {
                "none": 0.0,
                "small": 1e-6 * mean_square,
                "one": mean_square,
                "vector": vector,
            }.items():
                if case.is_wide and case.name != "square" and label == "none":
                    continue
                kappa = condition(features, ridge, case.weights, case.fit_intercept)
                for solver in _claimants(case, label, kappa):
                    yield Claim(kind, case.name, label, ridge, solver, kappa)


def _claimants(case, label, kappa):
    for solver, reach in REACH.items():
        # A ridge ties the scales of the columns together: singular values then see the raw ones.
        if kappa <= reach and not (isinstance(solver, Spectral) and case.name == "graded" and label == "small"):
            yield solver
    if len(case.features) < case.features.shape[1] and kappa <= REACH[Cholesky()]:
        yield Dual()
