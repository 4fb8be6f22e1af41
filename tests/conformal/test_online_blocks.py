"""Blocks of a stream: it goes on where it was, refuses a bad block whole, and says what has no bound."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hatband import CalibrationWarning, LeverageScale, LeverageWarning, OnlineConformalRegressor, StrengthScale
from hatband.conformal import AdaptiveLevel, AggregatedLevel

ESTIMATORS = [
    OnlineConformalRegressor(),
    OnlineConformalRegressor(adaptation=AdaptiveLevel(0.01), window=40, symmetric=False, score_window=50),
    OnlineConformalRegressor(adaptation="fixed", transformer=StandardScaler(), scale="constant"),
]


@pytest.fixture
def data():
    return make_regression(120, 4, noise=5.0, random_state=0)


def state(model):
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["default", "window", "transformer"])
class TestStream:
    def test_goes_on_after_pickle_and_copy_as_if_nothing_had_happened(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X[:60], y[:60])
        copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
        _, interval = model.predict_then_fit(X[60:], y[60:])

        for other in copies:
            np.testing.assert_array_equal(other.predict_then_fit(X[60:], y[60:])[1], interval)

    @pytest.mark.parametrize("call", ["partial_fit", "predict_then_fit"])
    def test_stays_as_it_was_when_a_block_fails(self, estimator, call, data):
        X, y = data
        model = clone(estimator).partial_fit(X[:50], y[:50])
        before = state(model)
        bad_y, bad_X, negative = y.copy(), X.copy(), np.ones(len(y))
        bad_y[7], bad_X[9, 1], negative[3] = np.nan, np.inf, -1.0
        with pytest.raises(ValueError, match="y must be finite; row 7 holds NaN or infinity"):
            getattr(model, call)(X, bad_y)
        with pytest.raises(ValueError, match="infinity"):
            getattr(model, call)(bad_X, y)
        with pytest.raises(ValueError, match="sample_weight must be finite and >= 0; row 3 has -1"):
            getattr(model, call)(X, y, negative)

        assert state(model) == before

    def test_fit_starts_anew_and_partial_fit_goes_on(self, estimator, data):
        X, y = data
        model = clone(estimator).fit(X, y).fit(X[:50], y[:50])
        assert model.n_samples_seen_ == 50
        assert model.partial_fit(X[50:], y[50:]).n_samples_seen_ == 120


def test_a_stream_that_failed_to_start_is_not_started(data):
    X, y = data
    model = OnlineConformalRegressor(ridge=-1.0)
    with pytest.raises(ValueError, match=r"ridge must be finite and >= 0 .*got -1"):
        model.partial_fit(X, y)
    assert vars(model) == vars(OnlineConformalRegressor(ridge=-1.0))


def test_features_whose_squares_overflow_are_refused(data):
    X, y = data
    model = OnlineConformalRegressor().partial_fit(X, y)
    X[5] *= 1e200
    with pytest.raises(ValueError, match=r"features must not exceed 1e\+140 in size.* row 5 has"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="row 5"):
        model.predict_interval(X)


def test_a_block_of_other_columns_or_outputs_is_refused(data):
    X, y = data
    model = OnlineConformalRegressor().partial_fit(X, y)
    before = state(model)
    with pytest.raises(ValueError, match="is expecting 4 features"):
        model.partial_fit(X[:, :2], y)
    with pytest.raises(ValueError, match=r"y must have 1 output, as in the stream so far; got 2. Call fit"):
        model.partial_fit(X, np.column_stack([y, y]))
    assert state(model) == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window": 0}, r"window must be None for all rows, or a number of rows >= 1; got 0"),
        ({"window": 10.5}, r"window must be None .*got 10.5"),
        ({"score_window": 0}, "score_window must be an integer >= 1; got 0"),
        ({"confidence_level": 1.0}, "confidence_level must be a number strictly between 0 and 1"),
        ({"adaptation": "ACI"}, "adaptation, if it is not a LevelAdaptation, must be one of"),
        ({"scale": "magnitude"}, "function of a row's leverage alone .*got MagnitudeScale"),
        ({"scale": StrengthScale()}, "function of a row's leverage alone .*got StrengthScale"),
        ({"scale": LeverageScale(form="sampling")}, "asks for 'sampling'"),
        ({"ridge": np.ones(4)}, r"ridge must be one number >= 0 here; got an array of shape \(4,\)"),
    ],
    ids=repr,
)
def test_a_parameter_out_of_range_is_named_with_its_value(parameters, message, data):
    with pytest.raises(ValueError, match=message):
        OnlineConformalRegressor(**parameters).fit(*data)


@pytest.mark.parametrize("step", [0, -1.0, np.nan, np.inf, "0.1", True])
def test_a_step_out_of_range_is_refused_with_its_value(step):
    with pytest.raises(ValueError, match=r"step must be finite and > 0, such as 0.005; got"):
        AdaptiveLevel(step)
    with pytest.raises(ValueError, match=r"every step must be finite and > 0, such as 0.005; got"):
        AggregatedLevel(steps=[0.1, step])


def test_an_aggregate_needs_steps_and_a_horizon():
    with pytest.raises(ValueError, match="steps must hold at least one step"):
        AggregatedLevel(steps=[])
    with pytest.raises(ValueError, match="horizon must be an integer >= 1; got 0"):
        AggregatedLevel(horizon=0)


def test_before_the_first_row_every_call_says_what_is_missing(data):
    model = OnlineConformalRegressor()
    for call in (model.predict, model.predict_interval, model.leverage):
        with pytest.raises(NotFittedError, match="Call fit or partial_fit before"):
            call(data[0])
    for name in ("scores_", "scale_", "window_size_", "n_samples_seen_"):
        assert not hasattr(model, name)


def test_too_few_scores_give_infinite_intervals_and_say_how_many_would_do(data):
    X, y = data
    model = OnlineConformalRegressor().partial_fit(X[:9], y[:9])  # the first row has no model before it
    with pytest.warns(CalibrationWarning, match=r"8 scores cannot support .*0.9.* At least 9 rows"):
        _, interval = model.predict_interval(X)
    assert np.isinf(interval).all()
    assert np.isfinite(model.partial_fit(X[9:10], y[9:10]).predict_interval(X)[1]).all()


def test_a_row_outside_the_span_has_an_infinite_interval_and_is_not_scored(rng):
    X = np.column_stack([rng.standard_normal(60), np.zeros(60)])
    model = OnlineConformalRegressor(ridge=0.0).partial_fit(X, X[:, 0])
    strange = np.array([[0.0, 1.0]])
    scores = model.scores_
    with pytest.warns(LeverageWarning, match=r"1 of 1 rows lie outside the span .* A ridge > 0"):
        assert np.isinf(model.predict_interval(strange)[1]).all()
    assert np.isinf(model.predict_then_fit(strange, [5.0])[1]).all()
    np.testing.assert_array_equal(model.scores_, scores)
    np.testing.assert_allclose(model.predict(strange), 5.0, rtol=1e-12)


def test_shapes_follow_outputs_and_levels(data):
    X, y = data
    both = np.column_stack([y, -y])
    for symmetric in (True, False):
        model = OnlineConformalRegressor(confidence_level=[0.5, 0.8], symmetric=symmetric)
        assert model.predict_then_fit(X, both)[1].shape == (120, 2, 2, 2)
        assert model.predict_interval(X, 0.8)[1].shape == (120, 2, 2)
        column = clone(model).set_params(confidence_level=0.5)
        assert column.predict_then_fit(X, y[:, None])[1].shape == (120, 1, 2)
        assert column.predict(X).shape == (120, 1)


def test_each_output_is_followed_as_if_alone(data):
    X, y = data
    second = y**2 / 100
    both = OnlineConformalRegressor().predict_then_fit(X, np.column_stack([y, second]))[1]
    for index, target in enumerate((y, second)):
        alone = OnlineConformalRegressor().predict_then_fit(X, target)[1]
        np.testing.assert_allclose(both[:, index], alone, rtol=1e-9)


def test_a_transformer_is_fitted_to_the_first_block_and_then_fixed(data):
    X, y = data
    model = OnlineConformalRegressor(transformer=StandardScaler()).partial_fit(X[:60], y[:60])
    mean = model.transformer_.mean_.copy()
    model.partial_fit(X[60:] + 100, y[60:])
    frozen = OnlineConformalRegressor(transformer=FrozenEstimator(StandardScaler().fit(X[:60])))
    frozen.partial_fit(X[:60], y[:60]).partial_fit(X[60:] + 100, y[60:])

    np.testing.assert_array_equal(model.transformer_.mean_, mean)
    np.testing.assert_array_equal(frozen.predict_interval(X)[1], model.predict_interval(X)[1])


def test_tables_with_names_and_text_go_through_a_transformer(rng):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"city": rng.choice(list("abc"), 200)})
    y = table["city"].map({"a": 0.0, "b": 1.0, "c": 5.0}) + 0.1 * rng.standard_normal(200)
    model = OnlineConformalRegressor(transformer=OneHotEncoder()).fit(table[:100], y[:100])
    model.partial_fit(table[100:], y[100:])

    assert list(model.feature_names_in_) == ["city"]
    assert np.ptp(model.predict(table)) > 4
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(table.rename(columns={"city": "town"}), y)
