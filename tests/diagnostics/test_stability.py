"""Agreement of leverage over training runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from hatband.diagnostics import leverage_stability, leverage_variation
from hatband.diagnostics.stability import ensemble_means, run_leverages, spread_reading


def made(runs=4, m=30, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(runs, m))


def test_correlations_are_those_of_spearman_ties_included():
    h = made().round(1)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = [spearmanr(h[i], h[j]).statistic for i, j in pairs]

    np.testing.assert_allclose(leverage_stability(h).correlations, expected, rtol=1e-12)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_units_of_a_run_do_not_matter(seed, factor):
    h = made(seed=seed)
    scaled = h * np.array([factor, 1, 1, 1])[:, None]

    np.testing.assert_allclose(leverage_stability(scaled).correlations, leverage_stability(h).correlations, atol=1e-12)
    assert leverage_stability(scaled).variation == pytest.approx(leverage_stability(h).variation, rel=1e-9)
    assert leverage_variation(scaled[0]) == pytest.approx(leverage_variation(h[0]), rel=1e-9)


def test_runs_that_agree_have_correlation_one_and_no_variation():
    found = leverage_stability(np.tile(made(1), (3, 1)))

    assert found.mean_correlation == found.lowest_correlation == pytest.approx(1)
    assert found.variation == pytest.approx(0, abs=1e-15)
    assert found.spreads == pytest.approx(leverage_variation(made(1)[0]))


def test_eta_is_the_standard_deviation_of_all_rows_relative_to_their_mean():
    h = made(1)[0]

    assert leverage_variation(h) == pytest.approx(np.sqrt(np.mean((h - h.mean()) ** 2)) / h.mean(), rel=1e-12)


def test_runs_are_summed_up_by_means_and_by_the_worst_pair():
    h = made()
    found = leverage_stability(h)
    pairs = [spearmanr(h[i], h[j]).statistic for i in range(4) for j in range(i + 1, 4)]

    assert found.mean_correlation == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.lowest_correlation == pytest.approx(min(pairs), rel=1e-12)
    assert found.mean_spread == pytest.approx(np.mean([run.std() / run.mean() for run in h]), rel=1e-12)


def test_variation_is_the_standard_deviation_over_runs_relative_to_the_mean():
    h = made()
    relative = h / h.mean(axis=1, keepdims=True)
    expected = np.mean([np.std(row, ddof=1) / np.mean(row) for row in relative.T])

    assert leverage_stability(h).variation == pytest.approx(expected, rel=1e-12)


def test_means_of_independent_noise_agree_better_than_single_runs():
    signal = np.linspace(1, 2, 200)
    runs = signal + np.random.default_rng(0).normal(scale=0.5, size=(50, 200)).clip(-0.9, 0.9)

    # Correlation s / (s + v) becomes s / (s + v / 5): with s = 1/12 and v = 1/5, 0.29 and 0.68.
    assert leverage_stability(runs).mean_correlation < 0.4
    assert leverage_stability(ensemble_means(runs, 5)).mean_correlation > 0.55


def test_ensembles_of_networks_agree_better_than_networks():
    pytest.importorskip("torch")
    from hatband.nn import MLP, LastLayerConformalRegressor, fit_ensemble
    from nn.cases import rows

    X, y = rows(200)
    nets = fit_ensemble(lambda: MLP(4, widths=(8,)), X, y, n_networks=15, epochs=15, random_state=0)
    fitted = [LastLayerConformalRegressor(net, scale="leverage").fit_train(X) for net in nets]
    h = run_leverages(fitted, rows(150, 1)[0])

    assert leverage_stability(ensemble_means(h, 5)).mean_correlation > leverage_stability(h).mean_correlation


@pytest.mark.parametrize(
    ("spread", "reading"),
    [
        (0, "uninformative"),
        (0.29, "uninformative"),
        (0.3, "mild"),
        (0.5, "moderate"),
        (1, "large"),
        (2, "large"),
        (2.01, "dominated"),
    ],
)
def test_the_reading_of_eta_changes_at_its_limits(spread, reading):
    assert spread_reading(spread) == reading


def test_ensembles_are_consecutive_and_leftovers_are_not_used():
    assert ensemble_means(np.arange(7.0)[:, None], 3).tolist() == [[1.0], [4.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leverage_stability(np.ones(5)), "two of each at least"),
        (lambda: leverage_stability(made(1)), "two of each at least"),
        (lambda: leverage_stability(np.ones((2, 5))), "run 0 gives every row the same leverage"),
        (lambda: leverage_stability(np.full((2, 5), np.nan)), "leverages must be finite"),
        (lambda: leverage_stability(np.zeros((2, 5))), "run 0 gives every row the same leverage"),
        (lambda: leverage_variation([]), "at least one row"),
        (lambda: leverage_stability([["a"]]), "must be an array of numbers"),
        (lambda: leverage_stability([]), "at least one row"),
        (lambda: leverage_variation([-1.0, 2.0]), "leverage must be >= 0"),
        (lambda: leverage_stability([[-1.0, 2.0], [1.0, 2.0]]), "leverages must be >= 0"),
        (lambda: spread_reading(np.nan), "spread must be a number"),
        (lambda: spread_reading(-0.1), "spread must be a number"),
        (lambda: spread_reading("0.1"), "spread must be a number"),
        (lambda: ensemble_means([1.0, 2.0], 1), r"shape \(runs, rows\)"),
        (lambda: ensemble_means([[1.0, np.nan]], 1), "leverages must be finite"),
        (lambda: ensemble_means(made(4), 1.5), "size must be an integer"),
        (lambda: run_leverages([], np.ones((2, 2))), "at least one fitted regressor"),
        (lambda: leverage_variation([1.0, np.inf]), "leverage must be finite; row 1"),
        (lambda: ensemble_means(made(4), 5), "from 1 to the number of runs, 4; got 5"),
        (lambda: ensemble_means(made(4), 0), "got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
