"""Posterior of a linear model: dense formulas, the split into two variances, and refusals."""

import numpy as np
import pytest
import torch

from hatband.formulas.posterior import LinearPosterior

TAU = 0.8


@pytest.fixture
def made(rng):
    features = rng.normal(size=(60, 4)) + 1.0
    noise = rng.uniform(0.1, 4, 60)
    return features, features.sum(axis=1) + np.sqrt(noise) * rng.normal(size=60), noise


def dense(features, y, noise, tau, rows):
    """Mean and covariance of w | y for w ~ N(0, I / tau), by inverses."""
    precision = tau * np.eye(features.shape[1]) + (features.T / noise) @ features
    covariance = np.linalg.inv(precision)
    return rows @ covariance @ features.T @ (y / noise), np.einsum("ij,jk,ik->i", rows, covariance, rows)


def test_noise_taken_as_it_is_gives_the_posterior_of_tau_i_plus_phi_phi_over_noise(made, rng):
    rows, at = rng.normal(size=(7, 4)), rng.uniform(0.5, 2, 7)
    posterior = LinearPosterior.of(*made, ridge=TAU, scale=1.0, fit_intercept=False)
    mean, epistemic = dense(*made, TAU, rows)
    found = posterior.predict(rows, at)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(found.epistemic, epistemic, rtol=1e-10)
    np.testing.assert_array_equal(found.aleatoric, at)
    np.testing.assert_array_equal(found.variance, found.aleatoric + found.epistemic)


def test_a_flat_prior_on_the_intercept_is_the_limit_of_a_wide_one(made, rng):
    features, y, noise = made
    rows = rng.normal(size=(5, 4))
    found = LinearPosterior.of(features, y, noise, ridge=TAU, scale=1.0).predict(rows)
    with_one, ones = (np.hstack([part, 1e4 * np.ones((len(part), 1))]) for part in (features, rows))
    mean, epistemic = dense(with_one, y, noise, TAU, ones)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.epistemic, epistemic, rtol=1e-5)


def test_the_unit_of_the_noise_is_estimated_where_it_is_not_given(made):
    features, y, noise = made
    one, other = (LinearPosterior.of(features, y, factor * noise) for factor in (1.0, 10.0))
    np.testing.assert_allclose(one.scale, 10 * other.scale, rtol=1e-5)
    for left, right in zip(one.predict(features, noise), other.predict(features, 10 * noise), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)


def test_the_choice_recovers_noise_and_prior(rng):
    # 4,000 rows, 200 weights: relative deviations of sqrt(2 / 3800) = 0.023 and sqrt(2 / 200) = 0.1; 5 of each.
    features = rng.normal(size=(4_000, 200))
    y = features @ (0.5 * rng.normal(size=200)) + 2.0 * rng.normal(size=4_000)
    posterior = LinearPosterior.of(features, y)
    assert abs(posterior.scale[0] / 4.0 - 1) < 0.12
    assert abs(posterior.prior_precision[0] / 4.0 - 1) < 0.5


def test_outputs_share_the_factor_and_have_noise_of_their_own(made):
    features, y, noise = made
    both = LinearPosterior.of(features, np.stack([y, 3 * y], axis=1), noise, ridge=1.0).predict(features, noise)
    one = LinearPosterior.of(features, y, noise, ridge=1.0).predict(features, noise)
    assert both.mean.shape == both.aleatoric.shape == both.epistemic.shape == (60, 2)
    for pair, single, power in zip(both, one, (1, 2, 2), strict=True):
        np.testing.assert_allclose(pair, single[:, None] * [1, 3.0**power], rtol=1e-9)


def test_tensors_are_taken_like_arrays(made):
    features, y, noise = made
    tensors = LinearPosterior.of(*(torch.tensor(part, requires_grad=True) for part in (features, y, noise)))
    np.testing.assert_array_equal(
        tensors.predict(torch.tensor(features)).mean, LinearPosterior.of(features, y, noise).predict(features).mean
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_variance": np.zeros(60)}, "finite and > 0; row 0 has 0.0"),
        ({"noise_variance": np.ones(59)}, r"shape \(60,\); got shape \(59,\)"),
        ({"ridge": "aic"}, "a number >= 0, several numbers, 'auto', 'loo'"),
        ({"ridge": -1.0}, "ridge must be finite and >= 0"),
        ({"y": np.full(60, np.nan)}, "y must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, made):
    features, y, noise = made
    given = {"y": y, "noise_variance": noise} | change
    with pytest.raises(ValueError, match=message):
        LinearPosterior.of(features, **given)
