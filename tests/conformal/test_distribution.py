"""Predictive distributions: cdf and quantile belong together, CRPS is the integral, p-values have their level.

Atoms of the full distribution equal roots of refits. False-alarm rate of each statistical claim: 1e-6.
"""

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge

from hatband import FullConformalRegressor, JackknifePlusRegressor, LeverageWarning, SplitConformalRegressor
from hatband.conformal.distribution import RowwiseDistribution, ScaledDistribution
from oracles import augmented_scores, dense_hat
from sweeps import sweep

FALSE_ALARM = 1e-6


def draw(rng, n, d=3):
    X = rng.standard_normal((n, d))
    return X, X[:, 0] + (0.5 + np.abs(X[:, 1])) * rng.standard_normal(n)


def log_of_positive(estimator):
    return TransformedTargetRegressor(estimator, func=np.log, inverse_func=np.exp)


def laws(rng):
    """One distribution of each kind, for the same 6 rows."""
    X, y = draw(rng, 47)
    X_new, _ = draw(rng, 6)
    split = SplitConformalRegressor(Ridge(), random_state=0).fit(X, y)
    full = FullConformalRegressor(Ridge()).fit(X, y)
    jackknife = JackknifePlusRegressor(Ridge()).fit(X, y)
    positive = SplitConformalRegressor(log_of_positive(Ridge()), random_state=0).fit(X, np.exp(y))
    return {
        "split": split.predictive_distribution(X_new),
        "transformed target": positive.predictive_distribution(X_new),
        "full": full.predictive_distribution(X_new),
        "leave-one-out": jackknife.predictive_distribution(X_new),
    }


KINDS = ["split", "transformed target", "full", "leave-one-out"]


def atoms_of(law):
    return law.quantile([k / law.n_atoms for k in range(1, law.n_atoms + 1)])


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_cdf_counts_atoms_and_never_falls(self, kind, rng):
        law = laws(rng)[kind]
        atoms = atoms_of(law)
        for y in np.linspace(atoms.min() - 1, atoms.max() + 1, 101):
            np.testing.assert_allclose(law.cdf(y), (atoms <= y).mean(axis=1), rtol=1e-14)
        assert (law.cdf(-np.inf) == 0).all()
        assert (law.cdf(np.inf) == 1).all()

    def test_crps_of_a_point_at_infinity_is_infinite(self, kind, rng):
        law = laws(rng)[kind]
        for y in (np.inf, -np.inf):
            assert (law.crps(y) == np.inf).all()
        mixed = np.r_[np.inf, np.zeros(5)]
        np.testing.assert_array_equal(law.crps(mixed)[1:], law.crps(0.0)[1:])

    def test_quantile_is_the_least_y_that_reaches_p(self, kind, rng):
        law = laws(rng)[kind]
        for p in (0.01, 0.1, 1 / 3, 0.5, 0.9, 0.999, 1 / law.n_atoms, 1.0):
            q = law.quantile(p)
            assert (law.cdf(q) >= p - 1e-15).all()
            assert (law.cdf(np.nextafter(q, -np.inf)) < p).all()
        for k in range(1, law.n_atoms + 1):
            np.testing.assert_array_equal(
                law.quantile(k / law.n_atoms), law.quantile(law.cdf(law.quantile(k / law.n_atoms))[0])
            )

    def test_crps_is_the_integral_of_the_squared_distance_to_a_step(self, kind, rng):
        law = laws(rng)[kind]
        atoms = atoms_of(law)
        for y in [atoms.min() - 3, np.median(atoms), atoms[0, 3], atoms.max() + 2]:
            np.testing.assert_allclose(law.crps(y), [integral(row, y) for row in atoms], rtol=1e-8, atol=1e-8)

    def test_interval_takes_exact_ranks_on_either_side(self, kind, rng):
        law = laws(rng)[kind]
        n, atoms = law.n_atoms, np.pad(atoms_of(law), ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
        for level in (0.5, 0.8, 0.9, 1 - 0.1, 0.99):
            low = (n + 1) * (1 - Fraction(level).limit_denominator(100)) / 2
            expected = atoms[:, [int(low // 1), n + 1 - int(low // 1)]]
            np.testing.assert_array_equal(law.interval(level), expected)

    def test_pvalues_and_pit_follow_from_counts(self, kind, rng):
        law = laws(rng)[kind]
        atoms = atoms_of(law)
        y = atoms[:, 4]
        n, below, at_most = law.n_atoms, (atoms < y[:, None]).sum(axis=1), (atoms <= y[:, None]).sum(axis=1)

        np.testing.assert_allclose(law.pvalue(y, "lower"), (at_most + 1) / (n + 1))
        np.testing.assert_allclose(law.pvalue(y, "upper"), (n - below + 1) / (n + 1))
        np.testing.assert_allclose(law.pvalue(y), np.minimum(1, 2 * np.minimum(at_most + 1, n - below + 1) / (n + 1)))
        pit = law.pit(y, random_state=0)
        assert ((below / (n + 1) <= pit) & (pit <= (at_most + 1) / (n + 1))).all()
        np.testing.assert_array_equal(pit, law.pit(y, random_state=0))


def integral(atoms, y):
    """The integral of (F - step)^2 by quadrature between consecutive jumps: exact for what is constant there."""
    points = np.unique(np.append(atoms, y))

    def height(t):
        return (np.mean(atoms <= t) - (y <= t)) ** 2

    return sum(integrate.quad(height, a, b)[0] for a, b in itertools.pairwise(points))


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    width=st.sampled_from([1e-6, 0.1, 1.0, 10.0, 1e6]),
    z=st.floats(-8, 8),
)
def test_crps_scales_with_the_width(scores, width, z):
    """A known trap: multiplying by the width twice leaves width 1 right and all others wrong."""
    law = ScaledDistribution(np.array([[3.0]]), np.array([[width]]), np.array(scores)[:, None])
    y = 3.0 + width * z
    direct = np.abs(np.array(scores) - z).mean() - np.abs(np.subtract.outer(scores, scores)).mean() / 2

    # y = 3 + width z is rounded before the distribution sees it.
    np.testing.assert_allclose(
        law.crps(y)[0] / width, direct, rtol=1e-8, atol=1e-8 + 8 * np.finfo(float).eps * 3 / width
    )


def test_crps_of_three_residuals_at_width_ten_is_known():
    law = ScaledDistribution(np.zeros((1, 1)), np.full((1, 1), 10.0), np.array([[-1.0], [0.0], [2.0]]))

    np.testing.assert_allclose(law.crps(15.0), 10 * (2.5 + 1.5 + 0.5) / 3 - 10 * 12 / 18, rtol=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_atoms_of_the_full_distribution_are_where_signed_studentised_residuals_of_a_refit_cross(weighted, rng):
    X, y = draw(rng, 21)
    weights = rng.uniform(0.5, 2, 21) if weighted else np.ones(21)
    X_new = np.vstack([draw(rng, 3)[0], [[6.0, -5.0, 4.0]]])
    model = FullConformalRegressor(Ridge(2.0)).fit(X, y, sample_weight=weights)
    atoms = atoms_of(model.predictive_distribution(X_new))

    all_weights = np.append(weights, 1.0)
    for x, row in zip(X_new, atoms, strict=True):
        hat = dense_hat(np.vstack([X, x]), 2.0, all_weights)

        def gap(t, i, hat=hat):
            target = np.append(y, t)
            # |leave-one-out residual| / sqrt(1 + leave-one-out leverage), with its sign.
            signed = np.sign(target - hat @ target) * augmented_scores(hat, target, "studentised", all_weights)
            return signed[-1] - signed[i]

        roots = sorted(optimize.brentq(gap, -1e4, 1e4, args=(i,), xtol=1e-12) for i in range(len(y)))
        np.testing.assert_allclose(row, roots, rtol=1e-8, atol=1e-8)


def test_the_full_interval_at_equal_tails_lies_close_to_the_studentised_set(rng):
    X, y = draw(rng, 199)
    X_new, _ = draw(rng, 20)
    model = FullConformalRegressor(Ridge(1.0)).fit(X, y)
    interval = model.predictive_distribution(X_new).interval(0.9)
    _, studentised = model.predict_interval(X_new)

    width = np.diff(studentised)
    assert (np.abs(interval - studentised) < 0.5 * width).all()


def pits(make, rng, repetitions, n=20):
    values = []
    for seed in range(repetitions):
        X, y = draw(rng, n + 1)
        law = make(X[:n], y[:n], X[n:])
        values.append(law.pit(y[n:], random_state=seed)[0])
    return np.array(values)


@sweep(80, 250)
@pytest.mark.parametrize("name", ["split", "full", "full, kernel"])
def test_pit_is_uniform_at_small_n(name, rng, repetitions):
    """Exactly uniform, so the Kolmogorov-Smirnov test has its level: false-alarm rate 1e-6."""
    models = {
        "split": SplitConformalRegressor(Ridge(), random_state=0),
        "full": FullConformalRegressor(Ridge(0.1)),
        "full, kernel": FullConformalRegressor(KernelRidge(kernel="rbf", gamma=0.5, alpha=0.2)),
    }

    def law(X, y, new):
        return models[name].fit(X, y).predictive_distribution(new)

    assert stats.kstest(pits(law, rng, repetitions), "uniform").pvalue > FALSE_ALARM


@sweep(80, 250)
def test_leave_one_out_pit_is_nearly_uniform_when_n_is_large_against_d(rng, repetitions):
    """Only in the limit: the distance allowed is the 1e-6 quantile of Kolmogorov's statistic plus d / n."""
    n, d = 100, 3

    def law(X, y, new):
        return JackknifePlusRegressor(Ridge(0.1)).fit(X, y).predictive_distribution(new)

    values = pits(law, rng, repetitions, n)
    assert stats.kstest(values, "uniform").statistic < stats.kstwo.isf(FALSE_ALARM, repetitions) + (d + 1) / n


def test_atoms_of_a_jackknife_are_studentised_residuals_times_the_width(rng):
    """Against a dense hat matrix: mu(x) + sqrt(1 + h(x)) e_i / sqrt(1 - h_i)."""
    X, y = draw(rng, 40)
    atoms = atoms_of(JackknifePlusRegressor(Ridge()).fit(X, y).predictive_distribution(X))

    hat = dense_hat(X, 1.0)
    h, mu = np.diag(hat), hat @ y
    expected = np.sort(mu[:, None] + np.sqrt(1 + h)[:, None] * ((y - mu) / np.sqrt(1 - h)), axis=1)
    np.testing.assert_allclose(atoms, expected, rtol=1e-9)


def test_split_interval_of_the_distribution_is_the_asymmetric_one(rng):
    X, y = draw(rng, 200)
    model = SplitConformalRegressor(Ridge(), symmetric=False, random_state=0).fit(X, y)

    np.testing.assert_allclose(
        model.predictive_distribution(X).interval(0.9), model.predict_interval(X, 0.9)[1], rtol=1e-12
    )


def test_ties_leave_a_gap_that_cdf_fills_from_above():
    law = ScaledDistribution(np.zeros((1, 1)), np.ones((1, 1)), np.array([[0.0], [1.0], [1.0], [2.0]]))

    assert law.cdf(1.0) == 0.75
    assert law.cdf(np.nextafter(1.0, 0)) == 0.25
    assert law.pvalue(1.0, "lower") == 4 / 5
    assert law.pvalue(1.0, "upper") == 4 / 5
    assert law.quantile(0.5) == law.quantile(0.75) == 1.0


def test_outputs_keep_their_axis(rng):
    X, y = draw(rng, 60)
    Y = np.column_stack([y, 10 * y, -y])
    for model in (SplitConformalRegressor(random_state=0).fit(X, Y), FullConformalRegressor().fit(X, Y)):
        law = model.predictive_distribution(X[:5])
        single = clone(model).fit(X, y).predictive_distribution(X[:5])

        assert law.quantile([0.1, 0.5]).shape == (5, 3, 2)
        assert law.interval(0.8).shape == (5, 3, 2)
        np.testing.assert_allclose(law.crps(Y[:5])[:, 0], single.crps(y[:5]), rtol=1e-9)
        np.testing.assert_allclose(law.crps(Y[:5])[:, 1], 10 * single.crps(y[:5]), rtol=1e-9)


def test_no_array_of_test_rows_by_calibration_rows_is_made(rng):
    n, m = 2000, 20_000
    X, y = draw(rng, n)
    X_new, y_new = draw(rng, m)
    law = JackknifePlusRegressor().fit(X, y).predictive_distribution(X_new)
    tracemalloc.start()
    law.crps(y_new), law.cdf(y_new), law.quantile(0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 20 * 8 * (n + m)


def test_an_infinite_leverage_leaves_the_sign_of_each_atom(rng):
    X = np.column_stack([rng.standard_normal(30), np.zeros(30)])
    y = X[:, 0] + rng.standard_normal(30)
    model = FullConformalRegressor(LinearRegression()).fit(X, y)
    for law in (
        model.predictive_distribution([[0.0, 1.0]]),
        JackknifePlusRegressor(LinearRegression()).fit(X, y).predictive_distribution([[0.0, 1.0]]),
    ):
        assert np.isinf(law.quantile([0.1, 0.9])).all()
        assert 0 < law.cdf(1e9)[0] < 1
        assert law.crps(0.0)[0] == np.inf


def test_interpolated_rows_are_left_out_with_a_warning(rng):
    X, y = draw(rng, 30)
    X = np.column_stack([X, np.eye(30)[:, 0]])
    for model in (FullConformalRegressor(LinearRegression()), JackknifePlusRegressor(LinearRegression())):
        model.fit(X, y)
        with pytest.warns(LeverageWarning, match="interpolates 1 of 30 rows"):
            law = model.predictive_distribution(X[1:4])
        assert law.n_atoms == 29
        assert np.isfinite(law.crps(y[1:4])).all()
    with pytest.raises(ValueError, match=r"interpolates all 3 rows\. Give it a ridge > 0"):
        FullConformalRegressor(LinearRegression()).fit(X[:3], y[:3]).predictive_distribution(X)


def test_bad_arguments_are_named(rng):
    law = laws(rng)["split"]
    with pytest.raises(
        ValueError, match=r"y must be one number, or hold one value per row .* shape \(6, 1\); got shape \(4,\)"
    ):
        law.cdf(np.zeros(4))
    with pytest.raises(ValueError, match="y must not hold NaN; row 2 does"):
        law.crps([0, 0, np.nan, 0, 0, 0])
    with pytest.raises(ValueError, match=r"p must be a probability from 0 to 1, or a list of such; got 1\.2"):
        law.quantile(1.2)
    with pytest.raises(ValueError, match="tail must be one of"):
        law.pvalue(0.0, "both")
    assert isinstance(laws(rng)["full"], RowwiseDistribution)


def test_models_that_cannot_answer_say_what_is_missing(rng):
    X, y = draw(rng, 40)
    trained = SplitConformalRegressor().fit_train(X, y)
    with pytest.raises(NotFittedError, match="trained but not calibrated; call calibrate first"):
        trained.predictive_distribution(X)
    with pytest.raises(NotFittedError, match="before predictive_distribution"):
        SplitConformalRegressor().predictive_distribution(X)
