"""Weighted conformal prediction: coverage for rows of another population, with a known or a learned likelihood ratio.

False-alarm rate of the coverage claims: 1e-6 each, 4e-6 for this file.
"""

import pickle
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hatband import (
    CalibrationWarning,
    ClassifierRatio,
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    SplitConformalRegressor,
)
from rounding import of_products
from sweeps import sweep

FALSE_ALARM = 1e-6
SHIFT = 1.0


def draw(rng, n, shift=0.0):
    """Noise grows with the first column, whose mean is shifted."""
    X = rng.standard_normal((n, 2))
    X[:, 0] += shift
    return X, X[:, 0] + np.exp(X[:, 0]) * rng.standard_normal(n)


def true_ratio(X):
    """Density of N(SHIFT, 1) over that of N(0, 1)."""
    return np.exp(SHIFT * X[:, 0] - SHIFT**2 / 2)


def inside(interval, y):
    return (interval[:, 0] <= y) & (y <= interval[:, 1])


def weighted_threshold(scores, weights, own, level=Fraction(9, 10)):
    """Least score whose cumulated weight reaches level x (all weights + own), in exact arithmetic."""
    needed = level * (sum(map(Fraction, weights)) + Fraction(own))
    total = Fraction(0)
    for score, weight in sorted(zip(scores, weights, strict=True)):
        total += Fraction(weight)
        if total >= needed:
            return score
    return np.inf


@pytest.fixture
def trained(rng):
    return SplitConformalRegressor(Ridge(), scale="constant").fit_train(*draw(rng, 200))


class TestCoverage:
    @sweep(400, 1500)
    @pytest.mark.filterwarnings("ignore::hatband.CalibrationWarning")
    def test_for_rows_of_the_other_population_is_the_level_up_to_the_heaviest_weight(self, rng, trained, repetitions):
        """level <= P(inside) <= level + E[largest share of weight]; one new row per calibration set is one trial."""
        weighted = plain = 0
        share = np.empty(repetitions)
        for trial in range(repetitions):
            (X, y), (X_new, y_new) = draw(rng, 100), draw(rng, 1, SHIFT)
            before, now = true_ratio(X), true_ratio(X_new)
            share[trial] = max(before.max(), now[0]) / (before.sum() + now[0])
            plain += inside(trained.calibrate(X, y).predict_interval(X_new)[1], y_new)[0]
            trained.calibrate(X, y, likelihood_ratio=before)
            weighted += inside(trained.predict_interval(X_new, likelihood_ratio=now)[1], y_new)[0]
        low = stats.binom(repetitions, 0.9).ppf(FALSE_ALARM / 2)
        # The mean share is known to a standard error that five times covers.
        most = 0.9 + share.mean() + 5 * share.std() / np.sqrt(repetitions)

        assert low <= weighted <= stats.binom(repetitions, most).ppf(1 - FALSE_ALARM / 2)
        assert plain < low

    def test_is_close_to_the_level_with_many_rows(self, rng, trained):
        """2,000 rows are worth 2,000 / e = 700: the error is 0.012, new rows included; 7 times that is allowed."""
        X, y = draw(rng, 2000)
        X_new, y_new = draw(rng, 4000, SHIFT)
        trained.calibrate(X, y, likelihood_ratio=true_ratio(X))
        covered = inside(trained.predict_interval(X_new, likelihood_ratio=true_ratio(X_new))[1], y_new).mean()

        assert trained.effective_sample_size_ == pytest.approx(2000 / np.e, rel=0.4)
        assert abs(covered - 0.9) < 0.09
        assert inside(trained.calibrate(X, y).predict_interval(X_new)[1], y_new).mean() < 0.75


@pytest.mark.filterwarnings("ignore::hatband.CalibrationWarning")
def test_thresholds_are_weighted_quantiles_with_the_new_rows_own_weight(rng, trained):
    X, y = draw(rng, 40)
    weights, own = rng.exponential(size=40), np.array([0.0, 0.1, 1.0, 3.0, 50.0])
    trained.calibrate(X, y, likelihood_ratio=weights)
    point, interval = trained.predict_interval(X[:5], likelihood_ratio=own)
    expected = [weighted_threshold(np.abs(trained.scores_[:, 0]), weights, one) for one in own]

    np.testing.assert_allclose(interval[:, 1] - point, expected, rtol=1e-12)
    np.testing.assert_allclose(point - interval[:, 0], expected, rtol=1e-12)
    assert np.isinf(expected[-1])


@pytest.mark.filterwarnings("ignore::hatband.CalibrationWarning")
def test_each_side_has_half_of_the_miscoverage(rng, trained):
    X, y = draw(rng, 60)
    weights, own = rng.exponential(size=60), np.array([0.1, 1.0, 3.0])
    trained.set_params(symmetric=False).calibrate(X, y, likelihood_ratio=weights)
    point, interval = trained.predict_interval(X[:3], likelihood_ratio=own)
    scores, side = trained.scores_[:, 0], Fraction(19, 20)

    upper = [weighted_threshold(scores, weights, one, side) for one in own]
    lower = [-weighted_threshold(-scores, weights, one, side) for one in own]
    np.testing.assert_allclose(interval - point[:, None], np.column_stack([lower, upper]), rtol=1e-11)


@pytest.mark.parametrize("symmetric", [True, False])
def test_equal_weights_change_nothing(rng, trained, symmetric):
    X, y = draw(rng, 59)
    trained.set_params(symmetric=symmetric)
    plain = trained.calibrate(X, y).predict_interval(X, [0.8, 0.9])[1]
    assert trained.effective_sample_size_ == 59
    for weight in (1.0, 0.1, 1e-200, 1e200):
        equal = np.full(59, weight)
        trained.calibrate(X, y, likelihood_ratio=equal)
        np.testing.assert_array_equal(trained.predict_interval(X, [0.8, 0.9], likelihood_ratio=equal)[1], plain)
        assert trained.effective_sample_size_ == pytest.approx(59)


def test_groups_are_weighted_within(rng, trained):
    X, y = draw(rng, 120)
    groups, weights = np.arange(120) % 2, true_ratio(X)
    # Half as many rows are multiplied in another order: bounds differ by the rounding of two predictions.
    close = 4 * of_products(X, np.full(X.shape[1], np.abs(y).max()))
    trained.calibrate(X, y, groups=groups, likelihood_ratio=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        both = trained.predict_interval(X, groups=groups, likelihood_ratio=weights)[1]
        for group in (0, 1):
            part = groups == group
            trained.calibrate(X[part], y[part], likelihood_ratio=weights[part])
            alone = trained.predict_interval(X[part], likelihood_ratio=weights[part])[1]
            np.testing.assert_allclose(both[part], alone, rtol=0, atol=close)


def test_rows_that_weigh_too_much_are_infinite_and_say_so(rng, trained):
    X, y = draw(rng, 100)
    trained.calibrate(X, y, likelihood_ratio=np.repeat([1.0, 0.0], 50))
    with pytest.warns(
        CalibrationWarning, match=r"1 of 3 rows weigh too much .*100 calibration rows are worth 50 "
    ) as told:
        _, interval = trained.predict_interval(X[:3], likelihood_ratio=[1.0, 0.0, 6.0])

    assert np.isinf(interval).all(axis=1).tolist() == [False, False, True]
    assert told[0].filename == __file__


class TestConstructor:
    def test_takes_a_function_of_the_inputs(self, rng):
        X, y = draw(rng, 400)
        model = SplitConformalRegressor(scale="constant", likelihood_ratio=true_ratio, random_state=0).fit(X, y)
        passed = SplitConformalRegressor(scale="constant", random_state=0).fit(X, y, likelihood_ratio=true_ratio(X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            np.testing.assert_array_equal(
                model.predict_interval(X)[1], passed.predict_interval(X, likelihood_ratio=true_ratio(X))[1]
            )
        assert model.effective_sample_size_ == passed.effective_sample_size_ < 100

    def test_learns_the_ratio_from_training_rows_and_rows_of_the_target(self, rng):
        X, y = draw(rng, 2000)
        target, _ = draw(rng, 1500, SHIFT)
        model = SplitConformalRegressor(Ridge(), scale="constant", likelihood_ratio=ClassifierRatio(), random_state=0)
        model.fit(X, y, X_target=target)
        training = np.setdiff1d(np.arange(2000), model.calibration_indices_)
        alone = ClassifierRatio().fit(X[training], target)
        X_new, y_new = draw(rng, 2000, SHIFT)

        np.testing.assert_array_equal(model.calibration_.ranking.weights, alone.predict(X[model.calibration_indices_]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            assert 0.8 < inside(model.predict_interval(X_new)[1], y_new).mean() < 0.98

    @pytest.mark.parametrize("estimator", [LeaveOneOutRidge(), LeaveOneOutKernelRidge()])
    def test_around_estimators_that_choose_their_ridge(self, rng, estimator):
        X, y = draw(rng, 150)
        target, _ = draw(rng, 100, 0.2)
        model = SplitConformalRegressor(estimator, likelihood_ratio=ClassifierRatio(), random_state=0).fit(
            X, y, X_target=target
        )

        assert np.isfinite(model.predict_interval(X[:20])[1]).any()

    def test_is_cloned_pickled_and_fitted_again(self, rng):
        X, y = draw(rng, 400)
        target, _ = draw(rng, 200, 0.3)
        model = SplitConformalRegressor(likelihood_ratio=ClassifierRatio(LogisticRegression()), random_state=0)
        _, interval = model.fit(X, y, X_target=target).predict_interval(X[:50])
        for other in (pickle.loads(pickle.dumps(model)), clone(model).fit(X, y, X_target=target)):
            np.testing.assert_array_equal(other.predict_interval(X[:50])[1], interval)
        assert not hasattr(model.likelihood_ratio, "classifier_")

    def test_takes_a_ratio_that_is_learned_already(self, rng):
        X, y = draw(rng, 400)
        ratio = ClassifierRatio().fit(X[:200], draw(rng, 200, 0.3)[0])
        model = clone(SplitConformalRegressor(likelihood_ratio=ratio.predict, random_state=0)).fit(X[200:], y[200:])

        weights = ratio.predict(X[200:][model.calibration_indices_])
        np.testing.assert_array_equal(model.calibration_.ranking.weights, weights)

    def test_reaches_through_a_pipeline_by_metadata_routing(self, rng):
        X, y = draw(rng, 300)
        target, _ = draw(rng, 200, 0.3)
        with config_context(enable_metadata_routing=True):
            inner = SplitConformalRegressor(likelihood_ratio=ClassifierRatio(), scale="constant", random_state=0)
            inner.set_fit_request(X_target=True)
            outer = make_pipeline(StandardScaler(), inner, transform_input=["X_target"])
            outer.fit(X, y, X_target=target)
        scaler = StandardScaler().fit(X)
        direct = clone(inner).fit(scaler.transform(X), y, X_target=scaler.transform(target))

        np.testing.assert_allclose(outer[-1].calibration_.ranking.weights, direct.calibration_.ranking.weights)


class TestClassifierRatio:
    def test_finds_the_ratio_of_two_normal_populations(self, rng):
        X, target = draw(rng, 20_000)[0], draw(rng, 10_000, SHIFT)[0]
        ratio = ClassifierRatio().fit(X, target)
        X_new = rng.uniform(-2, 2, (50, 2))

        np.testing.assert_allclose(ratio.predict(X_new), true_ratio(X_new), rtol=0.25)

    @pytest.mark.parametrize("container", ["array", "list", "csr", "pandas", "polars"])
    def test_takes_rows_in_any_container(self, rng, container):
        X, target = draw(rng, 50)[0], draw(rng, 40, SHIFT)[0]
        plain = ClassifierRatio(LogisticRegression()).fit(X, target).predict(X)
        if container in ("pandas", "polars"):
            frames = pytest.importorskip(container)
            as_rows = lambda values: frames.DataFrame({"a": values[:, 0], "b": values[:, 1]})  # noqa: E731
        else:
            as_rows = {"array": np.asarray, "list": np.ndarray.tolist, "csr": sparse.csr_array}[container]

        found = ClassifierRatio(LogisticRegression()).fit(as_rows(X), as_rows(target)).predict(as_rows(X))
        np.testing.assert_allclose(found, plain, rtol=1e-6)

    def test_is_bounded_where_populations_do_not_meet(self, rng):
        X, target = draw(rng, 50)[0], draw(rng, 50, 100.0)[0]
        weights = ClassifierRatio(LogisticRegression(C=1e6, max_iter=1000)).fit(X, target).predict(np.r_[X, target])

        assert weights.max() == pytest.approx(101)
        assert weights.min() == pytest.approx(1 / 101)


class TestErrors:
    def test_ratios_where_calibration_had_none_and_the_reverse(self, rng, trained):
        X, y = draw(rng, 60)
        trained.calibrate(X, y)
        with pytest.raises(ValueError, match=r"likelihood_ratio must not be passed here: calibration had none"):
            trained.predict_interval(X, likelihood_ratio=np.ones(60))
        trained.calibrate(X, y, likelihood_ratio=np.ones(60))
        with pytest.raises(ValueError, match="likelihood_ratio must be passed: this model is calibrated with it"):
            trained.predict_interval(X)

    @pytest.mark.parametrize(
        ("ratio", "message"),
        [
            ([1.0, -0.5], r"likelihood_ratio must be finite and >= 0; row 1 has -0\.5"),
            ([np.nan, 1.0], "row 0 has nan"),
            ([np.inf, 1.0], "row 0 has inf"),
            ([1.0], r"one value per row, shape \(2,\); got shape \(1,\)"),
            (1.0, r"got shape \(\)"),
        ],
        ids=str,
    )
    def test_invalid_ratios(self, rng, trained, ratio, message):
        X, y = draw(rng, 60)
        trained.calibrate(X, y, likelihood_ratio=np.ones(60))
        with pytest.raises(ValueError, match=message):
            trained.predict_interval(X[:2], likelihood_ratio=ratio)

    def test_ratios_of_rows_that_fit_trains_on_count_too(self, rng):
        X, y = draw(rng, 60)
        ratio, model = np.ones(60), SplitConformalRegressor(calibration_size=20, random_state=0)
        ratio[np.setdiff1d(np.arange(60), model.fit(X, y).calibration_indices_)[3]] = -1
        row = int(ratio.argmin())
        with pytest.raises(ValueError, match=f"likelihood_ratio must be finite and >= 0; row {row} has -1"):
            model.fit(X, y, likelihood_ratio=ratio)

    def test_a_function_that_returns_none_is_named(self, rng):
        X, y = draw(rng, 60)
        model = SplitConformalRegressor(likelihood_ratio=lambda X: -true_ratio(X))
        with pytest.raises(ValueError, match="likelihood_ratio must be finite and >= 0; row 0"):
            model.fit(X, y)
        assert not hasattr(model, "space_")

    def test_settings_that_do_not_fit_what_is_passed(self, rng):
        X, y = draw(rng, 60)
        learner = SplitConformalRegressor(likelihood_ratio=ClassifierRatio())
        with pytest.raises(ValueError, match=r"X_target is missing\. Pass fit\(X, y, X_target"):
            learner.fit(X, y)
        with pytest.raises(ValueError, match="the constructor's likelihood_ratio makes it from X"):
            learner.fit(X, y, X_target=X, likelihood_ratio=np.ones(60))
        with pytest.raises(ValueError, match="X has 1 features, but SplitConformalRegressor is expecting 2"):
            learner.fit(X, y, X_target=X[:, :1])
        with pytest.raises(ValueError, match="X_target is only used to learn a likelihood ratio"):
            SplitConformalRegressor().fit(X, y, X_target=X)
        with pytest.raises(TypeError, match="likelihood_ratio must be None, a callable"):
            SplitConformalRegressor(likelihood_ratio=np.ones(60)).fit(X, y)
        with pytest.raises(TypeError, match="needs a classifier with predict_proba; LinearSVC has none"):
            ClassifierRatio(LinearSVC()).fit(X, X)


def test_columns_by_name_reach_the_function(rng):
    X, y = draw(rng, 200)
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = SplitConformalRegressor(likelihood_ratio=lambda frame: np.exp(frame["a"] / 4), random_state=0)

    assert 40 < model.fit(frame, y).effective_sample_size_ < 50
