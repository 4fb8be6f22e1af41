"""Every solver on every design that it claims, against 80 digits."""

from functools import cache

import numpy as np
import pytest
from linalg.cases import CASES, KINDS, claims, rounded, tolerance
from oracles import mp_leverage

CLAIMS = [pytest.param(*claim, id=f"{claim[4]}-{claim[1]}-{claim[2]}-{claim[0]}") for claim in claims()]


@cache
def exact(kind_is_float32, name, label, ridge):
    case = CASES[name]
    features, rows = (rounded("float32" if kind_is_float32 else "numpy", x) for x in (case.features, case.rows))
    return mp_leverage(features, rows, np.array(ridge), case.weights, case.fit_intercept)


def as_key(ridge):
    return tuple(ridge) if np.ndim(ridge) else ridge


@pytest.mark.parametrize(("kind", "name", "label", "ridge", "solver", "kappa"), CLAIMS)
def test_leverage_is_as_accurate_as_claimed(kind, name, label, ridge, solver, kappa):
    case, convert = CASES[name], KINDS[kind]
    posterior, sampling = exact("32" in kind, name, label, as_key(ridge))

    factor = solver.factor(convert(case.features), ridge, case.weights, case.fit_intercept)
    seen_posterior, seen_sampling = factor.leverages(convert(case.rows))
    error = np.abs(np.asarray(seen_posterior) / posterior - 1).max()

    assert error <= tolerance(kappa)
    assert error <= factor.error_bound
    # Triangular factors subtract: their sampling form is as accurate as the posterior form is large.
    subtracts = factor.solver in {"Cholesky", "CholeskyQR2", "QR"}
    scale = np.maximum(sampling, posterior) if subtracts else sampling
    assert (np.abs(np.asarray(seen_sampling) - sampling) <= tolerance(kappa) * scale).all()
    np.testing.assert_array_equal(np.asarray(factor.leverage(convert(case.rows))), np.asarray(seen_posterior))
