"""Many ridges from one decomposition."""

import numpy as np
import pytest
import torch

from hatband.linalg import QR, Auto, Spectral
from linalg.cases import with_condition
from oracles import mp_leverage
from rounding import EPS, through_gram

RIDGES = np.array([0.0, 1e-3, 1.0, 1e9])
DESIGNS = {
    "tall": with_condition(50.0),
    "dependent": with_condition(50.0)[:, [0, 1, 2, 1]],
    "constant": np.insert(with_condition(50.0), 2, 4.0, axis=1),
    "wide": with_condition(50.0, n=9, d=4).T,
}


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("first", [0.0, 2.0])
def test_the_spectrum_taken_at_one_ridge_serves_every_other(name, first, rng):
    features = DESIGNS[name]
    rows = np.vstack([features[:3], rng.normal(size=(2, features.shape[1]))])
    factor = Spectral().factor(features, first)

    for ridge in RIDGES[1:]:
        posterior, sampling = mp_leverage(features, rows, ridge)
        close = through_gram(features, ridge)
        seen = factor.at(ridge)
        np.testing.assert_allclose(seen.leverage(rows), posterior, rtol=close)
        np.testing.assert_allclose(seen.sampling_leverage(rows), sampling, rtol=close)
        assert seen.ridge == ridge


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_a_ridge_put_on_later_is_one_put_on_at_once(name, convert, rng):
    features = convert(DESIGNS[name])
    for ridge in RIDGES:
        later, at_once = Spectral().factor(features, 1.0).at(ridge), Spectral().factor(features, ridge)
        np.testing.assert_allclose(later.leverage(features), at_once.leverage(features), rtol=1e3 * EPS)


def test_solutions_satisfy_the_normal_equations():
    features = DESIGNS["wide"]
    centred = features - features.mean(axis=0)
    rhs = centred.T[:, :2]
    factor = Spectral().factor(features, 1.0)

    for ridge in RIDGES[1:]:
        slope = factor.at(ridge).solve(rhs)
        np.testing.assert_allclose(centred.T @ (centred @ slope) + ridge * slope, rhs, atol=1e5 * EPS)


def test_a_ridge_per_feature_is_a_rescaling(rng):
    features, ridge = DESIGNS["tall"], np.array([0.1, 2.0, 3.0, 0.5, 1.0])

    spectral, qr = (solver.factor(features, ridge) for solver in (Spectral(), QR()))

    close = through_gram(features, ridge)
    np.testing.assert_allclose(spectral.leverages(features), qr.leverages(features), rtol=close)
    assert spectral.logdet() == pytest.approx(qr.logdet(), abs=5 * close)
    assert spectral.effective_dimension() == pytest.approx(qr.effective_dimension(), rel=close)


def test_a_spectrum_with_a_ridge_per_feature_cannot_change_it():
    with pytest.raises(ValueError, match="one ridge per feature"):
        Spectral().factor(DESIGNS["tall"], np.ones(5)).at(1.0)


def test_sampling_leverage_does_not_cancel_at_a_huge_ridge():
    features = DESIGNS["tall"]
    _, sampling = mp_leverage(features, features, 1e14, fit_intercept=False)

    seen = Spectral().factor(features, 1e14, fit_intercept=False).sampling_leverage(features)

    np.testing.assert_allclose(seen, sampling, rtol=1e4 * EPS)


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("ridge", [1e-6, 1e-14, 1e-30, 1e-300])
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_a_tiny_ridge_does_not_blow_rounding_up_in_the_row_space(convert, ridge, offset, rng):
    # 40 rows of 60 columns: every training row is interpolated, h = 1 - O(ridge / s^2).
    features = 1e6 * rng.normal(size=(40, 60)) + offset
    outside = features[:1] + rng.normal(size=60)
    factor = Auto().factor(convert(features), ridge)

    seen = np.asarray(factor.leverage(convert(features)))
    np.testing.assert_allclose(seen, 1.0, rtol=1e3 * EPS)
    np.testing.assert_allclose(np.diag(np.asarray(factor.cross_leverage(convert(features), convert(features)))), seen)
    centred = np.vstack([features, outside]) - features.mean(axis=0)
    basis = np.linalg.svd(centred[:40], full_matrices=False)[2][:39]
    lost = np.square(centred[40] - centred[40] @ basis.T @ basis).sum()
    assert np.asarray(factor.leverage(convert(outside)))[0] * ridge == pytest.approx(lost, rel=1e-4)
