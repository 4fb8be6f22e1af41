"""The ridge that training rows ask for: against dense densities, refits, and limits."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from hatband.formulas.posterior import LinearPosterior
from hatband.formulas.ridge_choice import best_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.linalg import GramStatistics, KernelSpectrum, TriangularStatistics

RIDGE, NOISE = 1.7, 0.6
SHAPES = {"tall": (40, 6), "square": (9, 9), "wide": (8, 15), "dependent": (30, 5)}


def draw(rng, shape):
    n, d = SHAPES[shape]
    features = rng.normal(size=(n, d)) * np.linspace(0.3, 3, d) + 0.5
    if shape == "dependent":
        features[:, -1] = features[:, 0] - 2 * features[:, 1]
    return features, features @ rng.normal(size=d) / np.sqrt(d) + rng.normal(size=n) + 3


def dense_log_evidence(features, y, ridge, noise, weights):
    """log N(y; 0, noise (W^-1 + Phi Phi' / ridge))."""
    covariance = noise * (np.diag(1 / weights) + features @ features.T / ridge)
    return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def dense_flat_log_evidence(features, y, ridge, noise, weights):
    """log of the integral over b of N(y; b, noise (W^-1 + Phi Phi' / ridge)): a Gaussian in b, completed."""
    inverse = np.linalg.inv(noise * (np.diag(1 / weights) + features @ features.T / ridge))
    precision = inverse.sum()
    b = inverse.sum(axis=0) @ y / precision
    at_peak = dense_log_evidence(features, y - b, ridge, noise, weights)
    return at_peak + 0.5 * np.log(2 * np.pi / precision)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
class TestEvidence:
    def weights(self, rng, y, weighted):
        return rng.uniform(0.2, 3, len(y)) if weighted else np.ones(len(y))

    def test_is_the_log_density_of_y_under_the_model(self, shape, weighted, rng):
        features, y = draw(rng, shape)
        w = self.weights(rng, y, weighted)
        ours = RidgeSpectrum.of(features, y, w, fit_intercept=False).log_evidence(RIDGE, NOISE)
        np.testing.assert_allclose(ours, dense_log_evidence(features, y, RIDGE, NOISE, w), rtol=1e-10)

    def test_with_an_intercept_integrates_it_out_under_a_flat_prior(self, shape, weighted, rng):
        features, y = draw(rng, shape)
        w = self.weights(rng, y, weighted)
        ours = RidgeSpectrum.of(features, y, w).log_evidence(RIDGE, NOISE)
        np.testing.assert_allclose(ours, dense_flat_log_evidence(features, y, RIDGE, NOISE, w), rtol=1e-9)

    def test_noise_maximises_it_at_a_fixed_ridge(self, shape, weighted, rng):
        features, y = draw(rng, shape)
        spectrum = RidgeSpectrum.of(features, y, self.weights(rng, y, weighted))
        best = spectrum.log_evidence(RIDGE)
        for factor in (0.999, 1.001):
            assert spectrum.log_evidence(RIDGE, spectrum.noise(RIDGE) * factor) < best

    def test_press_is_the_sum_of_squared_residuals_of_refits(self, shape, weighted, rng):
        features, y = draw(rng, shape)
        w = self.weights(rng, y, weighted)
        ours = RidgeSpectrum.of(features, y, w).press(np.array([RIDGE]))[0]
        errors = [
            y[i] - ridge_fit(np.delete(features, i, 0), np.delete(y, i), np.delete(w, i), features[i])
            for i in range(len(y))
        ]
        np.testing.assert_allclose(ours, w @ np.square(errors), rtol=1e-9)


def ridge_fit(features, y, weights, row):
    mean, y_mean = np.average(features, axis=0, weights=weights), np.average(y, weights=weights)
    centred = features - mean
    gram = centred.T @ (weights[:, None] * centred) + RIDGE * np.eye(features.shape[1])
    return y_mean + (row - mean) @ np.linalg.solve(gram, centred.T @ (weights * (y - y_mean)))


def test_gcv_is_its_definition(rng):
    features, y = draw(rng, "tall")
    centred, target = features - features.mean(axis=0), y - y.mean()
    hat = centred @ np.linalg.solve(centred.T @ centred + RIDGE * np.eye(6), centred.T)
    residual, m = target - hat @ target, len(y) - 1
    expected = m * residual @ residual / (m - np.trace(hat)) ** 2
    np.testing.assert_allclose(RidgeSpectrum.of(features, y).gcv(RIDGE), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_the_best_evidence_is_where_autograd_finds_no_slope(shape, rng):
    features, y = draw(rng, shape)
    spectrum = RidgeSpectrum.of(features, y, fit_intercept=False)
    ridge = best_ridge(spectrum, "evidence")
    logs = torch.tensor([np.log(ridge), np.log(spectrum.noise(ridge)[0])], dtype=torch.float64, requires_grad=True)
    phi, target = torch.tensor(features), torch.tensor(y)
    covariance = logs[1].exp() * (torch.eye(len(y), dtype=torch.float64) + phi @ phi.T / logs[0].exp())
    torch.distributions.MultivariateNormal(torch.zeros_like(target), covariance).log_prob(target).backward()
    # The search stops at 1e-8 of log ridge, around which the evidence is flat to sqrt(eps).
    np.testing.assert_allclose(logs.grad, 0, atol=1e-5)


def test_the_best_evidence_is_a_fixed_point_of_mackay(rng):
    features, y = draw(rng, "tall")
    posterior = LinearPosterior.of(features, y)
    residual = y - posterior.predict(features).mean
    dimension = RidgeSpectrum.of(features, y).effective_dimension(posterior.ridge)
    np.testing.assert_allclose(posterior.scale, residual @ residual / (len(y) - 1 - dimension), rtol=1e-6)
    np.testing.assert_allclose(posterior.prior_precision, dimension / (posterior.slopes**2).sum(), rtol=1e-6)


@pytest.mark.parametrize("criterion", ["evidence", "loo", "gcv"])
class TestEveryCriterion:
    def test_is_no_worse_anywhere_on_a_fine_grid(self, criterion, rng):
        features, y = draw(rng, "tall")
        spectrum = RidgeSpectrum.of(features, np.stack([y, rng.normal(size=len(y))], axis=1))
        loss = {
            "evidence": lambda ridge: -spectrum.log_evidence(ridge),
            "loo": lambda ridge: (
                spectrum.press(np.array([ridge]))[0] / np.square(targets - targets.mean(0)).sum(0)
            ).sum(),
            "gcv": lambda ridge: (spectrum.gcv(ridge) / np.square(targets - targets.mean(0)).sum(0)).sum(),
        }[criterion]
        targets = spectrum.side.left @ spectrum.coordinates + spectrum.side.rest
        found = loss(best_ridge(spectrum, criterion))
        assert all(found <= loss(ridge) + 1e-9 for ridge in np.logspace(-6, 5, 400))

    def test_follows_the_units_of_the_features_and_ignores_those_of_y(self, criterion, rng):
        features, y = draw(rng, "tall")
        ridge = best_ridge(RidgeSpectrum.of(features, y), criterion)
        np.testing.assert_allclose(best_ridge(RidgeSpectrum.of(1e3 * features, y), criterion), 1e6 * ridge, rtol=1e-4)
        np.testing.assert_allclose(best_ridge(RidgeSpectrum.of(features, 1e3 * y), criterion), ridge, rtol=1e-4)

    def test_gives_up_features_that_say_nothing(self, criterion, rng):
        features = rng.normal(size=(50, 5))
        q, _ = np.linalg.qr(np.hstack([np.ones((50, 1)), features]))
        y = rng.normal(size=50)
        spectrum = RidgeSpectrum.of(features, y - q @ (q.T @ y))
        assert spectrum.effective_dimension(best_ridge(spectrum, criterion)) < 1e-4


@pytest.mark.parametrize("kind", [GramStatistics, TriangularStatistics])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_statistics_give_the_same_as_rows(kind, fit_intercept, rng):
    features, y = draw(rng, "tall")
    target = np.stack([y, y**2], axis=1)
    rows = RidgeSpectrum.of(features, target, fit_intercept=fit_intercept)
    statistics = kind.of(features[:7], target[:7]).add(features[7:], target[7:])
    running = RidgeSpectrum.of_statistics(statistics, fit_intercept)
    np.testing.assert_allclose(running.trace, rows.trace)
    np.testing.assert_allclose(running.log_evidence(RIDGE, NOISE), rows.log_evidence(RIDGE, NOISE), rtol=1e-9)
    np.testing.assert_allclose(best_ridge(running, "evidence"), best_ridge(rows, "evidence"), rtol=1e-4)
    np.testing.assert_allclose(best_ridge(running, "gcv"), best_ridge(rows, "gcv"), rtol=1e-4)
    with pytest.raises(ValueError, match="PRESS needs the training rows"):
        running.press(np.array([RIDGE]))


@pytest.mark.parametrize("shape", ["tall", "wide"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_kernel_gives_the_same_as_its_features(shape, fit_intercept, rng):
    features, y = draw(rng, shape)
    rows = RidgeSpectrum.of(features, y, fit_intercept=fit_intercept)
    kernel = RidgeSpectrum.of_kernel(KernelSpectrum.of(features @ features.T, None, fit_intercept), y)
    np.testing.assert_allclose(kernel.log_evidence(RIDGE, NOISE), rows.log_evidence(RIDGE, NOISE), rtol=1e-9)
    np.testing.assert_allclose(kernel.press(np.array([RIDGE]))[0], rows.press(np.array([RIDGE]))[0], rtol=1e-9)


def test_a_triangle_keeps_a_remainder_that_a_gram_matrix_loses(rng):
    features = rng.normal(size=(50, 3))
    y = 1e6 * features.sum(axis=1) + 1e-3 * rng.normal(size=50)
    exact = RidgeSpectrum.of(features, y).remainder
    triangle = RidgeSpectrum.of_statistics(TriangularStatistics.of(features, y[:, None])).remainder
    np.testing.assert_allclose(triangle, exact, rtol=1e-5)


@pytest.mark.parametrize("kind", [GramStatistics, TriangularStatistics])
@pytest.mark.parametrize("units", [1e-9, 1e9])
def test_statistics_choose_the_same_ridge_in_all_units_of_y(kind, units, rng):
    features, y = draw(rng, "tall")
    found = best_ridge(RidgeSpectrum.of_statistics(kind.of(features, units * y[:, None])), "evidence")
    np.testing.assert_allclose(found, best_ridge(RidgeSpectrum.of(features, y), "evidence"), rtol=1e-4)


def test_statistics_of_features_alone_are_refused(rng):
    with pytest.raises(ValueError, match="hold only features"):
        RidgeSpectrum.of_statistics(GramStatistics.of(rng.normal(size=(9, 2))))


def test_rows_of_weight_zero_count_like_rows_that_are_not_there(rng):
    features, y = draw(rng, "tall")
    weights = np.ones(len(y))
    weights[:5] = 0
    whole, part = RidgeSpectrum.of(features, y, weights), RidgeSpectrum.of(features[5:], y[5:])
    np.testing.assert_allclose(whole.log_evidence(RIDGE), part.log_evidence(RIDGE), rtol=1e-12)


def test_a_target_without_noise_still_gets_a_ridge(rng):
    features, _ = draw(rng, "tall")
    spectrum = RidgeSpectrum.of(features, np.column_stack([features @ np.ones(6), np.zeros(len(features))]))
    assert all(0 < best_ridge(spectrum, criterion) < np.inf for criterion in ("evidence", "loo", "gcv"))


@pytest.mark.parametrize("criterion", ["loo", "gcv", "evidence"])
def test_where_no_feature_varies_every_ridge_is_as_good_and_some_number_comes_out(criterion):
    assert 0 < best_ridge(RidgeSpectrum.of(np.ones((6, 2)), np.arange(6.0)), criterion) < np.inf


def test_rows_that_no_other_row_speaks_of_have_no_leave_one_out_error(rng):
    features, y = draw(rng, "tall")
    alone = np.column_stack([features, np.arange(len(y)) == 3])
    assert np.isinf(RidgeSpectrum.of(alone, y).press(np.zeros(1))).all()


@pytest.mark.parametrize(
    ("features", "y", "message"),
    [
        (np.array([[1.0], [np.nan]]), np.zeros(2), "features must be finite; row 1"),
        (np.ones((2, 1)), np.array([np.inf, 0.0]), "y must be finite; row 0"),
    ],
)
def test_what_is_not_finite_is_refused(features, y, message):
    with pytest.raises(ValueError, match=message):
        RidgeSpectrum.of(features, y)


def test_an_unknown_criterion_is_refused_by_name(rng):
    with pytest.raises(ValueError, match="'auto', 'loo', 'gcv' or 'evidence'; got 'aic'"):
        LinearPosterior.of(*draw(rng, "tall"), ridge="aic")


def test_noise_cannot_be_told_from_one_row_beside_an_intercept():
    one = np.ones((1, 2)), np.array([3.0])
    for measure in (lambda: RidgeSpectrum.of(*one).noise(RIDGE), lambda: LinearPosterior.of(*one, ridge=RIDGE)):
        with pytest.raises(ValueError, match="at least 2 training rows are needed to estimate the noise; got 1"):
            measure()
    # Where noise is given, or nothing but the slope is free, one row will do.
    assert np.isfinite(LinearPosterior.of(*one, ridge=RIDGE, scale=1.0).log_evidence)
    np.testing.assert_allclose(RidgeSpectrum.of(*one, fit_intercept=False).noise(RIDGE), 9 / (1 + 2 / RIDGE))
