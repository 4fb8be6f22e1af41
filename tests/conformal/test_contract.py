"""What every estimator with intervals promises: each entry of `REGRESSORS` is held to it, and a new one at once."""

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_readonly_memmap_input,
    check_regressor_data_not_an_array,
    parametrize_with_checks,
)

from conformal.cases import COSTLY, REGRESSORS, N, table
from hatband import CalibrationWarning, LeverageWarning
from rounding import of_predictions

# One of each class in every run; what differs by a parameter only, and what is costly, in the slow one.
FAST = ["split", "jackknife+", "cross", "newton", "full", "online"]
ALL = REGRESSORS | COSTLY
ONE_OUTPUT = {"newton", "newton of counts"}
WEIGHTS = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
EXPECTED = {
    "split": dict.fromkeys(WEIGHTS, "a random split counts rows: a row of weight 2 is one row to calibrate with"),
    "newton": {"check_supervised_y_2d": "a target of one column keeps its axis, and nothing needs to be said"},
    "full of a pipeline": dict.fromkeys(WEIGHTS, "the step before the model is fitted without weights"),
    "online with a transformer": {WEIGHTS[0]: "the scaler is fitted without weights"},
}


def expected_failures(estimator):
    name = next(name for name, make in ALL.items() if repr(make()) == repr(estimator))
    return EXPECTED.get(name) or EXPECTED.get(name.split()[0].strip(",")) or {}


@parametrize_with_checks([ALL[name]() for name in FAST], expected_failed_checks=expected_failures)
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


# scikit-learn's checks pass targets below zero to "newton of counts"; those of "neural" stand in nn/test_neural.py.
OTHERS = [make() for name, make in ALL.items() if name not in {*FAST, "newton of counts", "neural"}]


@pytest.mark.slow
@parametrize_with_checks(OTHERS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks_pass_with_other_parameters(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    "check",
    [check_dataframe_column_names_consistency, check_regressor_data_not_an_array, check_readonly_memmap_input],
    ids=lambda c: c.__name__,
)
def test_checks_that_scikit_learn_keeps_to_itself_pass(name, check):
    estimator = ALL[name]()
    check(type(estimator).__name__, estimator)


def test_every_public_estimator_is_held_to_the_contract():
    rooms = ["hatband", *(["hatband.nn"] if find_spec("torch") else [])]
    public = [getattr(room, name) for room in map(import_module, rooms) for name in room.__all__]
    of_tables = {kind.__name__ for kind in public if hasattr(kind, "predict_interval") and hasattr(kind, "fit")}

    # A linearised network takes whatever its network takes, tables or not, and no weights.
    assert {type(make()).__name__ for make in REGRESSORS.values()} == of_tables - {"LinearisedConformalRegressor"}


@pytest.fixture(params=[*REGRESSORS, *(pytest.param(name, marks=pytest.mark.slow) for name in COSTLY)])
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return ALL[name]()


@pytest.fixture
def data():
    return table()


def state(model):
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


def same(one, other, **kwargs):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, **kwargs)


class TestIntervals:
    def test_do_not_depend_on_row_order_or_subset(self, model, data):
        X, y = data
        _, interval = model.fit(X, y).predict_interval(X)
        order = np.random.default_rng(0).permutation(N)[:20]

        close = of_predictions(X, y)
        np.testing.assert_allclose(model.predict_interval(X[order])[1], interval[order], rtol=1e-9, atol=close)
        np.testing.assert_allclose(model.predict_interval(X[:1])[1], interval[:1], rtol=1e-9, atol=close)

    def test_are_the_same_for_lists_and_float32(self, model, data):
        X, y = data[0].astype(np.float32), data[1]
        expected = model.fit(X.astype(np.float64), y).predict_interval(X.astype(np.float64))

        same(model.predict_interval(X.tolist()), expected, rtol=1e-9, atol=of_predictions(X, y))
        same(model.predict_interval(X), expected, rtol=1e-4, atol=1e-4)

    def test_have_the_layout_of_levels_and_of_a_target_of_one_column(self, model, data):
        X, y = data
        prediction, interval = model.fit(X, y).predict_interval(X, [0.5, 0.8])
        column = clone(model).fit(X, y[:, None])

        assert prediction.shape == (N,)
        assert interval.shape == (N, 2, 2)
        assert (interval[:, 0, 1] <= interval[:, 0, 0]).all()
        np.testing.assert_array_equal(model.predict_interval(X, 0.5)[1], interval[..., 0])
        np.testing.assert_array_equal(model.predict_interval(X, [0.5])[1], interval[..., :1])
        asked = model.predict(X, return_interval=True, confidence_level=0.5)
        np.testing.assert_array_equal(asked[1], interval[..., 0])
        assert column.predict(X).shape == (N, 1)
        np.testing.assert_allclose(column.predict_interval(X, [0.5, 0.8])[1][:, 0], interval, rtol=1e-9)

    def test_of_several_outputs_have_their_own_axis(self, name, model):
        X, Y = table(2)
        if name in ONE_OUTPUT:
            with pytest.raises(ValueError, match="output"):
                model.fit(X, Y)
            return
        prediction, interval = model.fit(X, Y).predict_interval(X, [0.5, 0.8])

        assert prediction.shape == (N, 2)
        assert interval.shape == (N, 2, 2, 2)
        assert (interval[:, :, 0] <= interval[:, :, 1]).all()

    def test_follow_a_level_that_is_set_after_the_fit(self, model, data):
        X, y = data
        expected = model.fit(X, y).predict_interval(X, 0.6)

        same(model.set_params(confidence_level=0.6).predict_interval(X), expected, rtol=0)

    def test_come_through_predict_and_through_that_of_an_outer_pipeline(self, model, data):
        X, y = data
        outer = make_pipeline(StandardScaler(), model).fit(X, y)
        expected = model.predict_interval(StandardScaler().fit_transform(X))

        same(outer.predict(X, return_interval=True), expected, rtol=0)
        np.testing.assert_array_equal(outer.predict(X), expected[0])

    def test_survive_pickle_copy_clone_and_a_second_fit(self, model, data):
        X, y = data
        expected = model.fit(X, y).predict_interval(X)
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model).fit(X, y), model.fit(X, y)):
            # Copies lie elsewhere in memory, and BLAS sums in another order there.
            same(other.predict_interval(X), expected, rtol=1e-9)

    def test_leave_no_trace_in_the_model_and_threads_share_it(self, model, data):
        X, y = data
        model.fit(X, y)
        before, expected = state(model), model.predict_interval(X)[1]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: model.predict_interval(X)[1], range(8)))
        model.predict(X), model.leverage(X), model.predict_interval(X, [0.5, 0.9])

        for interval in found:
            np.testing.assert_array_equal(interval, expected)
        assert state(model) == before

    def test_leave_the_callers_arrays_alone(self, model, data):
        X, y = (array.copy() for array in data)
        X.setflags(write=False)
        y.setflags(write=False)
        model.fit(X, y).predict_interval(X)

        np.testing.assert_array_equal(X, data[0])


class TestMetadata:
    def test_of_weights_counts(self, model, data):
        X, y = data
        plain = model.fit(X, y).predict_interval(X)
        ones = clone(model).fit(X, y, sample_weight=np.ones(N)).predict_interval(X)
        few = clone(model).fit(X, y, sample_weight=np.where(np.arange(N) % 3, 1.0, 0.01)).predict_interval(X)

        same(ones, plain, rtol=1e-6, atol=1e-6)
        assert np.abs(few[0] - plain[0]).max() > 1e-6

    def test_is_routed_where_scikit_learn_is_asked_to(self, name, model, data):
        X, y = data
        weights = np.random.default_rng(0).uniform(0.1, 2, N)
        expected = clone(model).fit(X, y, sample_weight=weights).predict_interval(X)
        with config_context(enable_metadata_routing=True):
            if not hasattr(model, "estimator"):
                model.set_fit_request(sample_weight=True)
            else:
                *before, last = [step for _, step in getattr(model.estimator, "steps", [("", model.estimator)])]
                for step in before:
                    step.set_fit_request(sample_weight=False)
                last.set_fit_request(sample_weight=True)
            found = model.fit(X, y, sample_weight=weights).predict_interval(X)

        same(found, expected, rtol=1e-9)

    def test_that_calibration_has_not_seen_is_refused(self, name, model, data):
        X, y = data
        model.fit(X, y)
        for metadata in ("groups", "likelihood_ratio"):
            for call in (model.predict_interval, lambda X, **given: model.predict(X, return_interval=True, **given)):
                with pytest.raises(ValueError, match=metadata):
                    call(X, **{metadata: np.ones(N)})
        for call in (model.predict, model.predict_interval):
            with pytest.raises(TypeError, match="shift"):
                call(X, shift=100.0)


class TestOtherAnswers:
    def test_exclude_each_other(self, model, data):
        X, y = data
        model.fit(X, y)
        names = ["return_interval", "return_width", "return_std"]
        for left_out in names:
            with pytest.raises(ValueError, match="Pass one of return_interval"):
                model.predict(X, **{name: name != left_out for name in names})

    def test_have_the_shape_of_the_prediction_and_are_positive(self, model, data):
        X, y = data
        model.fit(X, y)
        for one in ("return_width", "return_std"):
            prediction, size = model.predict(X, **{one: True})
            np.testing.assert_array_equal(prediction, model.predict(X))
            assert size.shape == (N,)
            assert (size > 0).all()

    def test_of_the_distribution_belong_to_the_scores(self, name, model, data):
        X, y = data
        model.fit(X, y)
        if "groups" in name:
            with pytest.raises(ValueError, match="groups"):
                model.predictive_distribution(X)
            return
        law = model.predictive_distribution(X[:7])
        n = law.n_atoms
        assert n == len(model.scores_)
        atoms = law.quantile([k / n for k in range(1, n + 1)])
        assert (np.diff(atoms, axis=1) >= 0).all()
        if name.startswith("full"):  # its atoms are those of refits with the new row
            return
        prediction, width = model.predict(X[:7], return_width=True)
        z = (atoms - prediction[:, None]) / width[:, None]
        scores = np.sort(model.scores_[:, 0])
        # The width is defined up to one factor that all rows share.
        factor = np.abs(z[0]).max() / np.abs(scores).max()
        np.testing.assert_allclose(z, np.tile(factor * scores, (7, 1)), rtol=1e-6, atol=1e-9 * np.abs(z).max())


class TestRefusals:
    def test_of_a_model_that_is_not_fitted_say_what_to_call(self, model, data):
        for call in (model.predict, model.predict_interval, model.predictive_distribution, model.leverage):
            with pytest.raises(NotFittedError, match=r"not fitted yet\. Call fit"):
                call(data[0])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_of_a_target_name_its_row_and_leave_nothing_behind(self, model, value, data):
        X, y = data
        y[13] = value
        before = vars(model).keys()
        with pytest.raises(ValueError, match="y must be finite; row 13 holds NaN or infinity"):
            model.fit(X, y)
        assert vars(model).keys() == before

    def test_of_weights_name_their_row(self, model, data):
        weight = np.ones(N)
        weight[13] = -2
        with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0; row 13 has -2\.0"):
            model.fit(*data, sample_weight=weight)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_of_inputs_that_are_not_finite_come_at_fit_and_after_it(self, model, value, data):
        X, y = data
        bad = X.copy()
        bad[13, 1] = value
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.fit(bad, y)
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.fit(X, y).predict_interval(bad)

    def test_of_levels_name_their_value(self, model, data):
        X, y = data
        fitted = clone(model).fit(X, y)
        for level in (0, 1, -0.5, 90, np.nan, "high", [0.5, 1.5]):
            seen = str(level[-1] if isinstance(level, list) else level)
            with pytest.raises(ValueError, match=f"confidence_level must be a number .*{seen}"):
                fitted.predict_interval(X, level)
            with pytest.raises(ValueError, match=f"confidence_level must be a number .*{seen}"):
                clone(model).set_params(confidence_level=level).fit(X, y).predict_interval(X)

    def test_of_other_columns_are_in_the_words_of_scikit_learn(self, model, data):
        X, y = data
        calls = (model.predict, model.predict_interval, model.leverage)
        model.fit(X, y)
        for call in calls:
            with pytest.raises(ValueError, match=r"has 2 features, but .* is expecting 4 features"):
                call(X[:, :2])
        model.fit(pd.DataFrame(X, columns=list("abcd")), y)
        assert list(model.feature_names_in_) == list("abcd")
        for call in calls:
            with pytest.raises(ValueError, match="feature names should match"):
                call(pd.DataFrame(X, columns=list("abce")))
            with pytest.raises(ValueError, match="same order"):
                call(pd.DataFrame(X, columns=list("dcba")))

    def test_of_a_fit_leave_the_fitted_model_as_it_was(self, model, data):
        X, y = data
        model.fit(X, y)
        before, kept = state(model), dict(vars(model))
        gaps = np.where(X[7, 1] == X, np.nan, X)[:, :2]
        for bad_X, bad_y in ((X, np.where(y == y[3], np.nan, y)), (X[:-1], y), (gaps, y)):
            with pytest.raises(ValueError, match=r"NaN|inconsistent"):
                model.fit(bad_X, bad_y)
            assert vars(model) == kept
        assert state(model) == before


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("design", ["plain", "wide", "copies", "constant", "flat target"])
def test_lower_never_exceeds_upper_and_none_is_nan(model, design, data):
    X, y = data
    X, y = {
        "plain": (X, y),
        "wide": (np.tile(X, 40) ** 2, y),
        "copies": (np.repeat(X[:6], N // 6, axis=0), np.repeat(np.round(y[:6]), N // 6)),
        "constant": (np.full_like(X, 7.0), y),
        "flat target": (X, np.full_like(y, 7.0)),
    }[design]
    model.set_params(confidence_level=[0.9, 0.05, 0.6, 0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (CalibrationWarning, LeverageWarning))
        prediction, interval = model.fit(X, y).predict_interval(np.vstack([X[:5], X[:5] + 1, 1e3 * X[:5]]))

    assert interval.shape == (15, 2, 4)
    assert np.isfinite(prediction).all()
    assert (interval[:, 0] <= interval[:, 1]).all()
    np.testing.assert_array_equal(interval[..., 0], interval[..., 3])
    # Below 1/2 the ends of jackknife+ may cross, and the point between them lie anywhere.
    slack = 1e-9 * (1 + np.abs(prediction))
    assert (interval[:, 0, 0] <= interval[:, 0, 2] + slack).all()
    assert (interval[:, 1, 2] <= interval[:, 1, 0] + slack).all()


def test_too_few_rows_are_infinite_and_say_how_many_would_do(name, model, data):
    X, y = data
    with pytest.warns(CalibrationWarning, match=r"\b1?999 .*rows"):
        _, interval = model.set_params(confidence_level=0.999).fit(X, y).predict_interval(X[:3])

    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 3)


class Interrupted(Ridge):
    """Ridge that the user interrupts at a table of five columns."""

    def fit(self, X, y, sample_weight=None):
        if np.shape(X)[1] == 5:
            raise KeyboardInterrupt
        return super().fit(X, y, sample_weight)


INTERRUPTED = ["split", "cross", "jackknife+", "full"]


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_by_the_user_leaves_the_model_as_it_was_fitted_or_not(name, model, data):
    X, y = data
    model.set_params(estimator=Interrupted())
    for fitted in (False, True):
        kept = dict(vars(model.fit(X, y) if fitted else model))
        with pytest.raises(KeyboardInterrupt):
            model.fit(np.column_stack([X, y]), y)
        assert vars(model) == kept
