"""Every solver on every design that it claims, against 80 digits."""

from functools import cache

import numpy as np
import pytest

from linalg.cases import CASES, KINDS, claims, rounded, tolerance
from oracles import mp_leverage


@cache
def exact(is_float32, name, ridge):
    case = CASES[name]
    features, rows = (rounded("float32" if is_float32 else "numpy", x) for x in (case.features, case.rows))
    return mp_leverage(features, rows, np.array(ridge), case.weights, case.fit_intercept)


def in_every_run(claim):
    """Layouts and float32 of torch change what is read, not what is solved: two designs show it in every run."""
    return claim.kind not in {"read-only", "fortran", "torch32"} or claim.case in {"weighted", "wide"}


CLAIMS = [pytest.param(one, marks=[] if in_every_run(one) else pytest.mark.slow, id=str(one)) for one in claims()]


@pytest.mark.parametrize("claim", CLAIMS)
def test_leverage_is_as_accurate_as_claimed(claim):
    case, convert, limit = CASES[claim.case], KINDS[claim.kind], tolerance(claim.kappa)
    ridge = tuple(claim.ridge) if np.ndim(claim.ridge) else claim.ridge
    posterior, sampling = exact("32" in claim.kind, claim.case, ridge)

    factor = claim.solver.factor(convert(case.features), claim.ridge, case.weights, case.fit_intercept)
    seen_posterior, seen_sampling = map(np.asarray, factor.leverages(convert(case.rows)))
    error = np.abs(seen_posterior / posterior - 1).max()

    assert error <= limit
    assert error <= factor.error_bound
    # Triangular factors subtract: their sampling form is as accurate as the posterior form is large.
    subtracts = factor.solver in {"Cholesky", "CholeskyQR2", "QR"}
    scale = np.maximum(sampling, posterior) if subtracts else sampling
    assert (np.abs(seen_sampling - sampling) <= limit * scale).all()
    np.testing.assert_array_equal(np.asarray(factor.leverage(convert(case.rows))), seen_posterior)
