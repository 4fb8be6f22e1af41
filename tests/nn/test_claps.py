"""Noise that varies (CLAPS): version 1 is leverage weighting, version 4 has the five properties of its scale."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from torch import nn

from hatband import LeverageBins
from hatband.diagnostics.laplace import calibration_arrays, standard_score, two_sided_probability, variance_shares
from hatband.formulas.posterior import LinearPosterior, PosteriorPrediction
from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LastLayerLaplace,
    NeuralConformalRegressor,
    NoiseScale,
    WholeNetwork,
    fit_network,
    predictive_law,
    refit_head,
)
from hatband.nn.measure import network_rows
from nn.cases import N_INPUTS, gradients, loader, network, phi, rows

RIDGE = 0.7


def spread(inputs):
    return 0.5 + inputs[:, 0].abs()


def noisy(net, noise_std, **settings):
    """The regressor of version 4, or with constant noise of version 1."""
    scale = "leverage" if noise_std == "constant" else NoiseScale(noise_std)
    return LastLayerConformalRegressor(net, scale=scale, **{"ridge": "evidence", "random_state": 0, **settings})


def made(device, n=120, n_outputs=None):
    X, y = rows(n, n_outputs=n_outputs)
    return X.to(device), y.to(device)


class TestVersionOne:
    def test_has_the_intervals_of_leverage_weighting(self, net, device):
        (X, y), (X_cal, y_cal) = made(device), rows(60, seed=1)
        ours = noisy(net, lambda x: 1.7 * torch.ones(len(x)).double(), ridge=RIDGE / 1.7**2).fit_train(X, y)
        ours.calibrate(X_cal, y_cal)
        theirs = LastLayerConformalRegressor(net, scale="leverage", ridge=RIDGE).fit_train(X, y)
        theirs.calibrate(X_cal, y_cal)
        half, other = (np.diff(model.predict_interval(X)[1])[:, 0] / 2 for model in (ours, theirs))
        np.testing.assert_allclose(half, other, rtol=1e-12)

    def test_ranks_as_the_two_sided_probability_does(self, rng):
        z = rng.normal(size=200)
        np.testing.assert_array_equal(np.argsort(np.abs(z)), np.argsort(two_sided_probability(z)))
        np.testing.assert_allclose(two_sided_probability(z), np.abs(2 * stats.norm.cdf(z) - 1), atol=1e-15)

    def test_stays_finite_where_the_noise_is_taken_for_ten_times_smaller(self, net, device):
        (X, y), (X_cal, y_cal) = made(device), rows(60, seed=1)
        intervals = []
        for size in (1.0, 0.01):
            # tau in units of the noise: the same ridge means the same leverage where noise is constant.
            model = noisy(net, lambda x, size=size: size * torch.ones(len(x)).double(), ridge=RIDGE / size**2)
            model.fit_train(X, y).calibrate(X_cal, y_cal)
            intervals.append(model.predict_interval(X)[1])
        assert (two_sided_probability(model.scores_) == 1).mean() > 0.2
        np.testing.assert_allclose(*intervals, rtol=1e-10)

    def test_scores_y_at_its_mean_as_zero_and_any_other_as_infinite_where_nothing_varies(self):
        y, mean, variance = np.array([1.0, 2.0, 0.0, 3.0]), np.ones(4), np.array([0.0, 0.0, 0.0, np.inf])
        np.testing.assert_array_equal(standard_score(y, mean, variance), [0.0, np.inf, -np.inf, 0.0])


class TestVersionFour:
    """Scale sqrt(sigma^2(x) + phi' (tau I + sum phi phi' / sigma^2)^-1 phi)."""

    def scale(self, features, noise, tau, new, new_noise):
        posterior = LinearPosterior.of(features, 0 * noise, noise, ridge=tau, scale=1.0, fit_intercept=False)
        return np.sqrt(posterior.predict(new, new_noise).variance)

    @pytest.fixture
    def drawn(self, rng):
        return rng.normal(size=(200, 20)), rng.uniform(0.2, 3, 200), rng.normal(size=(50, 20)), rng.uniform(0.2, 3, 50)

    def test_i_is_the_noise_alone_under_an_infinitely_tight_prior(self, drawn):
        features, noise, new, new_noise = drawn
        np.testing.assert_allclose(self.scale(features, noise, 1e15, new, new_noise), np.sqrt(new_noise), rtol=1e-10)

    def test_ii_is_leverage_weighting_with_ridge_tau_s_where_noise_is_constant(self, drawn):
        features, _, new, _ = drawn
        s, tau = 0.3, 2.0
        h = np.einsum("ij,jk,ik->i", new, np.linalg.inv(features.T @ features + tau * s * np.eye(20)), new)
        found = self.scale(features, np.full(200, s), tau, new, np.full(50, s))
        np.testing.assert_allclose(found, np.sqrt(s * (1 + h)), rtol=1e-10)

    def test_iii_does_not_change_under_rotation_of_the_features(self, drawn, rng):
        features, noise, new, new_noise = drawn
        q, _ = np.linalg.qr(rng.normal(size=(20, 20)))
        np.testing.assert_allclose(
            self.scale(features @ q, noise, 2.0, new @ q, new_noise),
            self.scale(features, noise, 2.0, new, new_noise),
            rtol=1e-10,
        )

    @pytest.mark.parametrize("noise", [spread, "learned"])
    def test_iv_knows_nothing_of_the_calibration_rows(self, noise, net, device):
        X, y = made(device)
        model = noisy(net, noise).fit_train(X, y, validation=rows(50, seed=2))
        before = predictive_law(model, X).variance
        model.calibrate(*rows(40, seed=3))
        np.testing.assert_array_equal(predictive_law(model, X).variance, before)

    def test_v_a_noise_head_that_is_too_small_and_too_sure_is_brought_back_by_rows_it_has_not_seen(self, device):
        # Noise has deviation 1; the head says from 0.05 to 0.4, at random. 0.15 is 6 of the errors of its estimate.
        net, X = network().to(device), rows(2_000)[0].to(device)
        with torch.no_grad():
            y = net(X)[:, 0] + torch.randn(2_000, generator=torch.Generator().manual_seed(1)).to(device)
        wrong = noisy(net, lambda x: 0.05 + 0.35 * torch.frac(1e4 * x[:, 0].abs()), ridge=1e3)
        wrong.fit_train(X[:100], y[:100], validation=(X[100:], y[100:]))
        deviation = np.sqrt(predictive_law(wrong, X).aleatoric)
        assert abs(deviation - 1).max() < 0.15

    def test_loses_its_epistemic_part_as_rows_come_in(self, rng):
        shares = []
        for n in (50, 500, 5_000):
            features, noise = rng.normal(size=(n, 20)), rng.uniform(0.2, 3, n)
            law = LinearPosterior.of(features, noise, noise, ridge=1.0, scale=1.0).predict(rng.normal(size=(200, 20)))
            shares.append(np.mean(law.epistemic / law.aleatoric))
        assert shares[0] / shares[1] > 8
        np.testing.assert_allclose(shares[1] / shares[2], 10, rtol=0.2)

    def test_measures_the_network_by_the_dense_formula(self, net, device):
        X, y = made(device)
        law = predictive_law(noisy(net, spread, ridge=RIDGE).fit_train(X, y), X[:9])
        noise, features = spread(X).double().cpu().numpy() ** 2, phi(net, X)
        with_one = np.column_stack([features, 1e4 * np.ones(len(X))])
        inverse = np.linalg.inv((with_one.T / noise) @ with_one + RIDGE * np.eye(with_one.shape[1]))
        expected = np.einsum("ij,jk,ik->i", with_one[:9], inverse, with_one[:9])
        np.testing.assert_allclose(law.epistemic, expected, rtol=1e-5)


@pytest.mark.parametrize("noise", ["constant", "learned", spread])
class TestTheRegressor:
    def test_covers_new_rows(self, noise, net, device):
        model = noisy(net, noise, confidence_level=0.8)
        model.fit_train(*made(device), validation=rows(200, seed=2)).calibrate(*rows(199, seed=3))
        X, y = rows(1_000, seed=4)
        lower, upper = model.predict_interval(X)[1].T
        inside = int(((lower <= y.numpy()) & (y.numpy() <= upper)).sum())
        law = stats.betabinom(1_000, 160, 40)
        assert law.ppf(1e-6) <= inside <= law.isf(1e-6)

    def test_reads_loaders_and_several_outputs(self, noise, device):
        net = network(2).to(device)
        model = noisy(net, noise)
        held = loader(*rows(50, seed=2, n_outputs=2))
        model.fit_train(loader(*rows(90, n_outputs=2)), validation=held).calibrate(*rows(60, seed=3, n_outputs=2))
        prediction, interval = model.predict_interval(loader(rows(7)[0]), [0.5, 0.9])
        assert prediction.shape == (7, 2)
        assert interval.shape == (7, 2, 2, 2)
        assert (interval[..., 0, 1] <= interval[..., 0, 0]).all()


class TestDiagnostics:
    def test_epistemic_share_rises_with_leverage(self, net, device):
        model, X = LastLayerLaplace(net).fit(*made(device)), rows(500, seed=5)[0]
        shares = variance_shares(model.predict(X), model.leverage(X))
        assert shares.n_samples.sum() == 500
        assert (np.diff(shares.leverage) > 0).all()
        assert (np.diff(shares.epistemic_share) > 0).all()

    def test_shares_are_of_the_mean_variances_in_each_decile_of_leverage(self, rng):
        h, noise, unknown = rng.gamma(2.0, size=230), rng.uniform(1, 2, 230), rng.uniform(0, 3, 230)
        shares = variance_shares(PosteriorPrediction(0 * h, noise, unknown), h)
        # 230 rows in order of leverage, 23 to a decile.
        means = [np.sort(h).reshape(10, 23).mean(axis=1)]
        means += [values[np.argsort(h)].reshape(10, 23).mean(axis=1) for values in (noise, unknown)]
        np.testing.assert_array_equal(shares.n_samples, 23)
        for found, expected in zip(shares[1:4], means, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(shares.epistemic_share, means[2] / (means[1] + means[2]), rtol=1e-12)

    def test_pits_rise_with_y_before_and_after_calibration(self):
        y, scores = np.array([-6.0, -1.0, 0.0, 1.0, 6.0]), np.linspace(-2, 2, 99)[:, None]
        arrays = calibration_arrays(PosteriorPrediction(0 * y, 0 * y + 3.0, 0 * y + 1.0), y, scores, random_state=0)
        np.testing.assert_allclose(arrays.pit_before, stats.norm.cdf(y / 2), rtol=1e-12)
        # Scores are y / 2: none lies below -3, and from 37 to 38 of 99 below -1/2.
        np.testing.assert_allclose(arrays.pit_after, [0.0, 0.375, 0.5, 0.625, 1.0], atol=0.011)

    def test_the_factor_is_the_calibrated_threshold_over_that_of_the_normal_law(self):
        law = PosteriorPrediction(np.zeros(1), np.ones(1), np.zeros(1))
        # Of 99 scores 0.1 to 9.9, the 90th and the 50th are the thresholds at 0.9 and 0.5.
        scores = (np.arange(1, 100) / 10 * np.tile([1, -1], 50)[:99])[:, None]
        for level, threshold in ((0.9, 9.0), (0.5, 5.0)):
            factor = calibration_arrays(law, np.zeros(1), scores, level, random_state=0).factor
            np.testing.assert_allclose(factor, threshold / stats.norm.ppf((1 + level) / 2), rtol=1e-12)

    def test_calibration_makes_the_pit_uniform_and_the_density_wider_where_the_law_was_too_narrow(self, rng):
        y, mean = rng.normal(size=4_000), np.zeros(2_000)
        law = PosteriorPrediction(mean, np.full(2_000, 0.09), np.full(2_000, 0.0))
        scores = standard_score(y[2_000:], mean, law.variance)[:, None]
        arrays = calibration_arrays(law, y[:2_000], scores, random_state=0)
        assert stats.kstest(arrays.pit_before, "uniform").pvalue < 1e-6
        assert stats.ks_2samp(arrays.pit_after, rng.uniform(size=2_000)).pvalue > 1e-6
        np.testing.assert_allclose(arrays.factor, 1 / 0.3, rtol=0.15)
        np.testing.assert_allclose(arrays.density_before, stats.norm.pdf(y[:2_000], 0, 0.3))
        np.testing.assert_allclose(arrays.density_after, stats.norm.pdf(y[:2_000], 0, 0.3 * arrays.factor[0]))

    def test_an_infinite_variance_says_nothing(self):
        law = PosteriorPrediction(np.zeros(2), np.ones(2), np.array([0.0, np.inf]))
        arrays = calibration_arrays(law, np.array([0.0, 1.0]), np.linspace(-2, 2, 99)[:, None], random_state=0)
        assert arrays.pit_before[1] == 0.5
        assert arrays.density_before[1] == arrays.density_after[1] == 0
        assert variance_shares(law, np.array([0.0, np.inf]), 2).epistemic_share.tolist() == [0.0, 1.0]

    def test_shapes_that_do_not_agree_are_refused(self):
        law = PosteriorPrediction(np.zeros(3), np.ones(3), np.ones(3))
        with pytest.raises(ValueError, match="of the same rows"):
            variance_shares(law, np.zeros(2))
        with pytest.raises(ValueError, match="one value per row"):
            calibration_arrays(law, np.zeros(2), np.zeros((9, 1)))


class TestRefusals:
    def test_learned_noise_needs_rows_that_the_network_has_not_seen(self, net, device):
        with pytest.raises(ValueError, match="Pass validation="):
            noisy(net, "learned").fit_train(*made(device))

    def test_a_law_needs_noise(self, net, device):
        with pytest.raises(ValueError, match=r"scale=NoiseScale.*LastLayerLaplace"):
            predictive_law(noisy(net, "constant").fit_train(*made(device)), rows(3)[0])
        with pytest.raises(ValueError, match="not fitted"):
            predictive_law(noisy(net, spread), rows(3)[0])

    def test_noise_needs_the_rows_of_a_network_and_all_their_directions(self, net, device):
        with pytest.raises(ValueError, match="use LaplaceScale"):
            NoiseScale().fit(None)
        low_rank = noisy(net, spread, layer=WholeNetwork(exact_up_to=0, rank=3), ridge=1.0)
        with pytest.raises(ValueError, match="low rank does not form"):
            low_rank.fit_train(*made(device))

    def test_noise_has_one_column_or_one_for_each_output(self, device):
        three = noisy(network(2).to(device), lambda x: 0.1 + x[:, :3].abs(), ridge=1.0)
        with pytest.raises(ValueError, match="1 column or one per output, 2; got 3"):
            three.fit_train(*made(device, n_outputs=2))

    def test_an_unknown_noise_is_named(self, net, device):
        with pytest.raises(ValueError, match="noise_std must be one of"):
            noisy(net, "head").fit_train(*made(device))


def test_the_band_widens_in_a_gap_and_beyond_both_ends_where_a_constant_one_does_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1))
    x = torch.cat([torch.linspace(-2, -1, 100), torch.linspace(1, 2, 100)])[:, None]
    y = torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(200)
    train, held = slice(0, None, 2), slice(1, None, 2)
    fitted = refit_head(net, x[train], y[train], ridge="evidence")
    model = noisy(fitted, "constant").fit_train(x[train], y[train]).calibrate(x[held], y[held])
    at = torch.tensor([-4.0, -1.5, 0.0, 1.5, 4.0])[:, None]
    below, left, gap, right, above = np.diff(model.predict_interval(at)[1])[:, 0]
    assert min(below, gap, above) > 1.5 * max(left, right)
    constant = LastLayerConformalRegressor(fitted, scale="constant").fit_train(x[train], y[train])
    assert np.ptp(np.diff(constant.calibrate(x[held], y[held]).predict_interval(at)[1])) < 1e-9


def test_the_noise_head_of_a_perceptron_is_its_noise(device):
    X, y = made(device)
    torch.manual_seed(0)
    perceptron = MLP(N_INPUTS, widths=(16,), noise_head=True).to(device)
    fit_network(perceptron, X, y, loss="gaussian", epochs=5, random_state=0)
    law = predictive_law(noisy(perceptron, perceptron.noise).fit_train(X, y), X)
    with torch.no_grad():
        np.testing.assert_allclose(law.aleatoric, perceptron.noise(X)[:, 0].double().cpu().numpy() ** 2, rtol=1e-6)
        np.testing.assert_allclose(law.mean, perceptron(X)[:, 0].double().cpu().numpy(), rtol=1e-6)
    refitted = refit_head(perceptron, X, y)
    assert torch.equal(refitted.noise_head.weight, perceptron.noise_head.weight)


def test_no_row_is_kept_and_blocks_and_processes_add_up(net, device, monkeypatch):
    X, y = made(device, 400)
    model = noisy(net, spread, ridge=RIDGE).fit_train(X, y)
    assert (
        abs(len(pickle.dumps(model)) - len(pickle.dumps(noisy(net, spread, ridge=RIDGE).fit_train(X[:50], y[:50]))))
        < 99
    )

    new = rows(9, seed=3)[0]
    expected = model.predict(new, return_width=True)[1]
    monkeypatch.setattr(network_rows, "rows_per_block", lambda backend, n_columns: 16)
    blocks = noisy(net, spread, ridge=RIDGE).fit_train(loader(X.cpu(), y.cpu()))
    np.testing.assert_allclose(blocks.predict(new, return_width=True)[1], expected, rtol=1e-9)
    twice = noisy(net, spread, ridge=RIDGE).fit_train(X, y, merge=lambda statistics: statistics.merge(statistics))
    both = noisy(net, spread, ridge=RIDGE).fit_train(torch.cat([X, X]), torch.cat([y, y]))
    np.testing.assert_allclose(*(one.predict(new, return_width=True)[1] for one in (twice, both)), rtol=1e-9)


def test_what_processes_would_take_from_different_rows_is_refused(device):
    net, held = network(2).to(device), rows(40, seed=2, n_outputs=2)

    def fitted(**settings):
        validation = settings.pop("validation", None)
        model = LastLayerConformalRegressor(net, **{"scale": "leverage", **settings})
        return model.fit_train(*made(device, n_outputs=2), validation=validation, merge=lambda statistics: statistics)

    for settings in ({"joint": True}, {"groups": LeverageBins(2)}, {"groups": LeverageBins(2), "validation": held}):
        with pytest.raises(ValueError, match=r"needs the same rows in every process"):
            fitted(**settings)
    assert fitted(joint=True, validation=held).plan_.outputs.spread.shape == (2,)


def test_learned_noise_shapes_ensembles_and_perceptrons_too(device):
    X, y = rows(300)
    nets = [network().to(device) for _ in range(2)]
    ensemble = EnsembleConformalRegressor(nets, scale=NoiseScale(random_state=0), ridge="evidence")
    ensemble.fit_train(X[:100], y[:100], validation=(X[100:200], y[100:200])).calibrate(X[200:], y[200:])
    settings = {"widths": (8,), "epochs": 3, "scale": NoiseScale(), "ridge": "evidence", "random_state": 0}
    neural = NeuralConformalRegressor(**settings).fit(X.numpy(), y.numpy(), np.arange(300) % 3.0)
    for model in (ensemble, neural):
        widths = np.diff(model.predict_interval(X.numpy())[1])[:, 0]
        assert np.ptp(widths) > 0.01
        assert np.isfinite(widths).all()


def test_a_noise_head_of_another_network_must_stay_as_it_was_too(device):
    X, y = made(device)
    net, other = network().to(device), MLP(N_INPUTS, widths=(4,), noise_head=True).to(device)
    model = noisy(net, other.noise, ridge=1.0).fit_train(X, y).calibrate(X, y)
    before = model.predict_interval(X)[1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_interval(X)[1], before)
    with torch.no_grad():
        other.noise_head.bias += 1
    with pytest.raises(ValueError, match="state has changed since"):
        model.predict_interval(X)
    # A clone keeps the head, which belongs to its network; it is not copied.
    assert clone(model).scale.noise_std == other.noise


def test_the_whole_network_is_weighted_by_noise_as_the_dense_formula_has_it(device):
    net, (X, y) = network(dtype=torch.float64).to(device), made(device, 60)
    X, y = X.double(), y.double()
    law = predictive_law(noisy(net, spread, layer="all", ridge=RIDGE, penalise_bias=True).fit_train(X, y), X[:9])
    phi_all, noise = gradients(net, X), spread(X).cpu().numpy() ** 2
    inverse = np.linalg.inv((phi_all.T / noise) @ phi_all + RIDGE * np.eye(phi_all.shape[1]))
    np.testing.assert_allclose(law.epistemic, np.einsum("ij,jk,ik->i", phi_all[:9], inverse, phi_all[:9]), rtol=1e-8)
    np.testing.assert_allclose(law.aleatoric, noise[:9], rtol=1e-12)
