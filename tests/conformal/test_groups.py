"""Each group is calibrated by its own rows: exact coverage in each, and what small and unseen groups get.

False-alarm rate of the coverage claims: 1e-6 each, 1e-5 for this file.
"""

import pickle
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hatband import (
    CalibrationWarning,
    Groups,
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    LeverageBins,
    SplitConformalRegressor,
)
from hatband.conformal.calibration.calibration import FromLeverage
from hatband.conformal.calibration.groups import Bins
from oracles import covered_bounds, exact_upper_rank
from rounding import of_products
from scales.cases import rows_of
from sweeps import sweep

FALSE_ALARM = 1e-6
LEVEL = Fraction(9, 10)


def noise_level(groups):
    return np.array([0.2, 1.0, 5.0])[groups]


def draw(rng, sizes):
    """Rows of three groups, with noise of their own."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    X = rng.standard_normal((len(groups), 3))
    return X, X[:, 0] + noise_level(groups) * rng.standard_normal(len(groups)), groups


def inside(interval, y):
    return (interval[:, 0] <= y) & (y <= interval[:, 1])


@pytest.fixture
def trained(rng):
    X, y, _ = draw(rng, [50, 50, 50])
    return SplitConformalRegressor(Ridge(), scale="leverage").fit_train(X, y)


class TestCoverage:
    SIZES, TESTS, REPETITIONS = [19, 39, 29], 40, 60

    def test_is_exact_in_every_group(self, rng, trained):
        covered = np.zeros(3, dtype=int)
        pooled = np.zeros(3, dtype=int)
        for _ in range(self.REPETITIONS):
            X, y, groups = draw(rng, self.SIZES)
            X_new, y_new, new = draw(rng, [self.TESTS] * 3)
            hits = inside(trained.calibrate(X, y, groups=groups).predict_interval(X_new, groups=new)[1], y_new)
            covered += np.bincount(new, hits).astype(int)
            pooled += np.bincount(new, inside(trained.calibrate(X, y).predict_interval(X_new)[1], y_new)).astype(int)
        for group, size in enumerate(self.SIZES):
            low, high = covered_bounds(size, LEVEL, self.TESTS, self.REPETITIONS, false_alarm=FALSE_ALARM)
            assert low <= covered[group] <= high
            assert not low <= pooled[group] <= high

    @sweep(120, 400)
    def test_of_leverage_bins_is_at_least_the_level_in_each(self, rng, repetitions):
        """One new row per bin and calibration set: independent trials, so a binomial bound holds."""

        def rows(n):
            X = rng.standard_normal((n, 3)) * rng.exponential(size=(n, 1))
            return X, (0.1 + (X**2).sum(axis=1)) * rng.standard_normal(n)

        bins = Groups(LeverageBins(3), minimum_size=15)
        model = SplitConformalRegressor(Ridge(), scale="constant", groups=bins).fit_train(*rows(300))
        trials, hits = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
        for _ in range(repetitions):
            model.calibrate(*rows(60))
            X, y = rows(8)
            bin_of = np.searchsorted(model.calibration_.reader.groups.edges, model.leverage(X))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                hit = inside(model.predict_interval(X)[1], y)
            found, first = np.unique(bin_of, return_index=True)
            trials[found] += 1
            hits[found] += hit[first]

        assert (trials > 3 * repetitions / 8).all()
        assert (hits >= stats.binom(trials, 0.9).ppf(FALSE_ALARM)).all()


def test_thresholds_of_a_group_are_those_of_its_rows_alone(rng, trained):
    X, y, groups = draw(rng, [30, 40, 50])
    X_new, _, new = draw(rng, [5, 6, 7])
    _, interval = trained.calibrate(X, y, groups=groups).predict_interval(X_new, [0.8, 0.9], groups=new)
    # Fewer rows are multiplied in another order: bounds differ by the rounding of two predictions.
    close = 4 * of_products(X, np.full(X.shape[1], np.abs(y).max()))
    for group in range(3):
        alone = trained.calibrate(X[groups == group], y[groups == group]).predict_interval(
            X_new[new == group], [0.8, 0.9]
        )[1]
        np.testing.assert_allclose(interval[new == group], alone, rtol=0, atol=close)


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_group_is_the_same_as_no_groups(rng, trained, symmetric):
    X, y, _ = draw(rng, [30, 30, 30])
    trained.set_params(symmetric=symmetric)
    plain = trained.calibrate(X, y).predict_interval(X)[1]
    grouped = trained.calibrate(X, y, groups=["all"] * 90).predict_interval(X, groups=np.repeat("all", 90))[1]

    np.testing.assert_array_equal(plain, grouped)


@pytest.mark.parametrize("labels", [["a", "b"], [1, 2], [1.0, 2.0], [True, False], ["a", 2]], ids=repr)
def test_labels_are_anything_that_hashes(rng, trained, labels):
    X, y, groups = draw(rng, [30, 30])
    named = pd.Series([labels[group] for group in groups])
    expected = trained.calibrate(X, y, groups=groups).predict_interval(X, groups=groups)[1]

    np.testing.assert_array_equal(trained.calibrate(X, y, groups=named).predict_interval(X, groups=named)[1], expected)


class TestWhereLabelsComeFrom:
    def test_a_function_of_the_inputs(self, rng):
        X, y, _ = draw(rng, [100, 100])
        model = SplitConformalRegressor(groups=sign, scale="constant", random_state=0).fit(X, y)
        passed = SplitConformalRegressor(scale="constant", random_state=0).fit(X, y, groups=sign(X))

        np.testing.assert_array_equal(model.predict_interval(X)[1], passed.predict_interval(X, groups=sign(X))[1])

    @pytest.mark.parametrize("package", ["pandas", "polars"])
    def test_a_column_by_name(self, rng, package):
        frames = pytest.importorskip(package)
        X, y, groups = draw(rng, [80, 80])
        frame = frames.DataFrame({"a": X[:, 0], "b": X[:, 1], "plant": [f"p{g}" for g in groups]})
        numbers = make_pipeline(make_column_transformer((StandardScaler(), ["a", "b"])), Ridge())
        model = SplitConformalRegressor(numbers, groups="plant", scale="constant", random_state=0).fit(frame, y)
        widths = np.ptp(model.predict_interval(frame)[1], axis=1)

        assert len(np.unique(widths.round(9))) == 2
        assert widths[groups == 1].min() > 2 * widths[groups == 0].max()

    def test_leverage(self, rng):
        X, y, _ = draw(rng, [200, 200])
        model = SplitConformalRegressor(groups=LeverageBins(4), scale="constant", random_state=0).fit(X, y)
        edges = model.calibration_.reader.groups.edges
        widths = np.ptp(model.predict_interval(X)[1], axis=1)
        by_bin = [widths[np.searchsorted(edges, model.leverage(X)) == k] for k in range(len(edges) + 1)]

        assert len(edges) == 1  # 100 calibration rows expect 25 in a quarter, fewer than 3 x 9: two bins of a half
        assert all(np.ptp(width) < 1e-9 for width in by_bin)

    def test_leverage_at_an_edge_is_in_the_bin_below_for_new_rows_as_for_training_rows(self):
        tied = np.repeat([0.1, 0.2, 0.3, 0.4], 5)
        bins = Bins.of(tied, 4)
        labels = FromLeverage(bins.edges).read("groups", None, rows_of(tied), None)

        np.testing.assert_array_equal(labels, np.repeat([0, 1, 2, 3], 5))
        np.testing.assert_array_equal(bins.shares, np.full(4, 0.25))

    def test_leverage_of_training_rows_as_if_unseen(self, rng):
        X, y, _ = draw(rng, [200, 200])
        model = SplitConformalRegressor(Ridge(1e-9), groups=LeverageBins(2), scale="constant").fit_train(X, y)
        h = model.leverage(X)

        assert model.plan_.grouping.bins.edges == pytest.approx(np.quantile(h / (1 - h), 0.5, method="lower"))

    @pytest.mark.parametrize(
        "model",
        [
            SplitConformalRegressor(LeaveOneOutRidge(), groups=LeverageBins(2), random_state=0),
            SplitConformalRegressor(LeaveOneOutKernelRidge(), groups=LeverageBins(2), random_state=0),
            SplitConformalRegressor(HistGradientBoostingRegressor(max_iter=5), groups=LeverageBins(2), random_state=0),
        ],
        ids=lambda model: type(model).__name__,
    )
    def test_of_every_split_estimator(self, rng, model):
        X, y, _ = draw(rng, [150, 150])

        assert np.isfinite(model.fit(X, y).predict_interval(X)[1]).all()


def sign(X):
    return np.where(X[:, 0] > 0, "positive", "other")


class TestBinsThatWouldBeTooSmall:
    def test_join_their_neighbours(self, rng):
        X, y, _ = draw(rng, [200, 200])
        model = SplitConformalRegressor(Ridge(), groups=Groups(LeverageBins(10), minimum_size=40)).fit_train(X, y)
        bins = {n: len(model.calibrate(X[:n], y[:n]).calibration_.reader.groups.edges) + 1 for n in (30, 100, 200, 400)}

        assert bins == {30: 1, 100: 2, 200: 5, 400: 10}

    def test_are_told_by_training_rows_and_never_by_calibration_rows(self, rng):
        """Merging by the counts of calibration rows would make these and a new row unexchangeable."""
        X, y, _ = draw(rng, [200, 200])
        model = SplitConformalRegressor(Ridge(), groups=LeverageBins(3)).fit_train(X, y)
        near, far = (X[np.argsort(model.leverage(X))[::step]][:100] for step in (1, -1))
        edges = [model.calibrate(part, y[:100]).calibration_.reader.groups.edges for part in (near, far)]

        np.testing.assert_array_equal(*edges)

    def test_are_infinite_on_request(self, rng):
        X, y, _ = draw(rng, [100, 100])
        groups = Groups(LeverageBins(2), minimum_size=1000, small="infinite")
        model = SplitConformalRegressor(Ridge(), groups=groups, random_state=0).fit(X, y)
        with pytest.warns(CalibrationWarning, match="fewer than the 1000 calibration rows needed"):
            assert np.isinf(model.predict_interval(X)[1]).all()


class TestSmallAndUnseenGroups:
    @pytest.fixture
    def fitted(self, rng):
        X, y, groups = draw(rng, [40, 40, 5])

        def fitted(**settings):
            model = SplitConformalRegressor(Ridge(), scale="constant", groups=Groups(**settings))
            return model.fit_train(X, y).calibrate(X, y, groups=groups)

        return fitted

    def test_get_infinite_intervals_and_a_warning_that_names_them(self, rng, fitted):
        model, X = fitted(), rng.standard_normal((6, 3))
        with pytest.warns(CalibrationWarning) as told:
            _, interval = model.predict_interval(X, groups=[0, 1, 2, 2, 7, "x"])
        messages = [str(warning.message) for warning in told]

        assert np.isinf(interval).all(axis=1).tolist() == [False, False, True, True, True, True]
        assert len(messages) == 2
        assert messages[0].startswith("2 of 6 rows belong to groups that calibration has not seen (7, 'x')")
        assert "2 of 6 rows belong to groups with fewer than the 9 calibration rows needed" in messages[1]
        assert "(2: 5)" in messages[1]
        assert told[0].filename == __file__

    def test_get_the_threshold_of_all_rows_on_request(self, rng, fitted):
        X = rng.standard_normal((3, 3))
        model = fitted(small="pooled", unseen="pooled", minimum_size=6)
        _, interval = model.predict_interval(X, groups=[2, 7, 7])
        everyone = np.quantile(np.abs(model.scores_), 1, axis=0)
        pooled = np.sort(np.abs(model.scores_[:, 0]))[exact_upper_rank(85, LEVEL) - 1]

        np.testing.assert_allclose(np.ptp(interval, axis=1), 2 * pooled)
        assert pooled < everyone

    def test_need_their_minimum_size(self, rng, fitted):
        X = rng.standard_normal((2, 3))
        with pytest.warns(CalibrationWarning, match=r"fewer than the 41 calibration rows needed .*\(0: 40, 1: 40\)"):
            assert np.isinf(fitted(minimum_size=41).predict_interval(X, groups=[0, 1])[1]).all()
        assert np.isfinite(fitted(minimum_size=40).predict_interval(X, groups=[0, 1])[1]).all()

    def test_are_told_at_the_highest_of_several_levels(self, rng, fitted):
        with pytest.warns(
            CalibrationWarning, match="fewer than the 99 calibration rows needed at confidence level 0.99"
        ):
            _, interval = fitted().predict_interval(rng.standard_normal((1, 3)), [0.99, 0.5], groups=[0])

        assert np.isinf(interval[0]).all(axis=0).tolist() == [True, False]


class TestScikitLearn:
    def test_groups_reach_predict_by_metadata_routing(self, rng):
        X, y, groups = draw(rng, [60, 60])
        with config_context(enable_metadata_routing=True):
            inner = SplitConformalRegressor(Ridge(), random_state=0)
            inner.set_fit_request(groups=True).set_predict_request(groups=True, return_interval=True)
            outer = make_pipeline(StandardScaler(), inner).fit(X, y, groups=groups)
            _, interval = outer.predict(X, groups=groups, return_interval=True)
        direct = SplitConformalRegressor(Ridge(), random_state=0)
        direct.fit(StandardScaler().fit_transform(X), y, groups=groups)

        np.testing.assert_allclose(
            interval, direct.predict_interval(StandardScaler().fit_transform(X), groups=groups)[1], rtol=1e-12
        )

    def test_the_estimator_gets_groups_by_metadata_routing(self, rng):
        X, y, groups = draw(rng, [60, 60, 60])
        search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=GroupKFold(3))
        with config_context(enable_metadata_routing=True):
            model = SplitConformalRegressor(search, random_state=0).fit(X, y, groups=groups)

        assert model.estimator_.n_splits_ == 3

    def test_settings_are_searched_cloned_and_pickled(self, rng):
        X, y, _ = draw(rng, [100, 100])
        model = SplitConformalRegressor(Ridge(), groups=Groups(LeverageBins(2)), random_state=0)
        search = GridSearchCV(model, {"groups__by__n_bins": [1, 2]}, cv=2).fit(X, y)
        fitted = model.fit(X, y)
        _, interval = fitted.predict_interval(X)

        assert search.best_params_["groups__by__n_bins"] in (1, 2)
        assert clone(model).groups is not model.groups
        for other in (pickle.loads(pickle.dumps(fitted)), clone(model).fit(X, y)):
            np.testing.assert_array_equal(other.predict_interval(X)[1], interval)


class TestErrors:
    def test_groups_where_calibration_had_none_and_the_reverse(self, rng, trained):
        X, y, groups = draw(rng, [30, 30])
        trained.calibrate(X, y)
        with pytest.raises(ValueError, match=r"groups must not be passed here: calibration had none\. Pass it to"):
            trained.predict_interval(X, groups=groups)
        trained.calibrate(X, y, groups=groups)
        with pytest.raises(ValueError, match="groups must be passed: this model is calibrated with it; got none"):
            trained.predict_interval(X)

    def test_no_groups_where_they_were_asked_for(self, rng):
        X, y, _ = draw(rng, [30, 30])
        with pytest.raises(ValueError, match="groups must be passed"):
            SplitConformalRegressor(groups=Groups(unseen="pooled")).fit(X, y)

    def test_groups_from_two_places(self, rng):
        X, y, groups = draw(rng, [30, 30])
        for setting in (sign, LeverageBins(2)):
            with pytest.raises(ValueError, match="groups must not be passed here: the constructor's groups makes it"):
                SplitConformalRegressor(groups=setting).fit(X, y, groups=groups)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0.0, np.nan], "groups must not be missing; row 1 has nan"),
            ([None, "a"], "groups must not be missing; row 0 has None"),
            (pd.array([1, None], dtype="Int64"), "groups must not be missing; row 1 has <NA>"),
            ([[0], [1]], r"groups must have one label per row, shape \(2,\); got shape \(2, 1\)"),
            ([0, 1, 2], r"shape \(2,\); got shape \(3,\)"),
            ("ab", r"shape \(2,\); got shape \(\)"),
            ([{}, {}], "groups must be labels such as strings or integers; row 0 has {}"),
        ],
        ids=str,
    )
    def test_invalid_labels(self, rng, trained, labels, message):
        X, y, groups = draw(rng, [30, 30])
        trained.calibrate(X, y, groups=groups)
        with pytest.raises(ValueError, match=message):
            trained.predict_interval(X[:2], groups=labels)

    def test_labels_given_to_fit_are_counted_as_the_caller_does(self, rng):
        X, y, groups = draw(rng, [30, 30])
        labels = groups.astype(object)
        labels[5] = None
        for seed in range(2):  # row 5 calibrates in the one split and trains in the other
            with pytest.raises(ValueError, match="groups must not be missing; row 5 has None"):
                SplitConformalRegressor(calibration_size=0.5, random_state=seed).fit(X, y, groups=labels)

    @pytest.mark.parametrize(
        ("setting", "error", "message"),
        [
            ("plant", ValueError, "groups='plant' names a column, so X must be a DataFrame; got ndarray"),
            (3, TypeError, "groups must be None, the name of a column, a callable"),
            (Groups(sign, small="merge"), ValueError, "small='merge' needs groups with neighbours"),
            (Groups(sign, small="none"), ValueError, "small must be one of"),
            (Groups(sign, unseen="zero"), ValueError, "unseen must be one of"),
            (Groups(sign, minimum_size=0), ValueError, "minimum_size must be an integer >= 1; got 0"),
            (LeverageBins(0), ValueError, "n_bins must be an integer >= 1; got 0"),
        ],
    )
    def test_invalid_settings(self, rng, setting, error, message):
        X, y, _ = draw(rng, [30, 30])
        model = SplitConformalRegressor(groups=setting)
        with pytest.raises(error, match=message):
            model.fit(X, y)
        assert not hasattr(model, "space_")

    def test_a_column_that_is_not_there(self, rng):
        X, y, _ = draw(rng, [30, 30])
        with pytest.raises(
            ValueError, match=r"groups='plant' must be a column of X; its columns are \['a', 'b', 'c'\]"
        ):
            SplitConformalRegressor(groups="plant").fit(pd.DataFrame(X, columns=["a", "b", "c"]), y)

    def test_a_failed_calibrate_keeps_the_old_scores(self, rng, trained):
        X, y, groups = draw(rng, [30, 30])
        before = trained.calibrate(X, y, groups=groups).predict_interval(X, groups=groups)[1]
        with pytest.raises(ValueError, match="row 0 has None"):
            trained.calibrate(X, y, groups=[None] * 60)

        np.testing.assert_array_equal(trained.predict_interval(X, groups=groups)[1], before)

    def test_a_predictive_distribution_of_grouped_scores(self, rng, trained):
        X, y, groups = draw(rng, [30, 30])
        with pytest.raises(ValueError, match="predictive_distribution needs calibration scores of equal weight"):
            trained.calibrate(X, y, groups=groups).predictive_distribution(X)
