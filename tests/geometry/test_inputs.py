"""The inputs themselves: numbers with gaps, words, unknown levels, and any transformer of the user's."""

import datetime

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from geometry.cases import FAR, NEW, N, W, X, y
from hatband.geometry import InputsGeometry, TransformerGeometry, geometry_of
from hatband.geometry.registry import as_geometry
from oracles import dense_leverage
from rounding import EPS, offset, through_gram

pl = pytest.importorskip("polars", reason="polars is not installed")

RAW = InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0)
RNG = np.random.default_rng(11)


def encoded(train, rows, geometry=RAW):
    """Features of rows under the encoding learned from training rows."""
    return geometry.fit(train).features(rows).values


def standardised(rows):
    return (rows - X.mean(axis=0)) / X.std(axis=0)


# Leverage of standardised columns with ridge 1: X is rounded once more where its mean is taken away.
STANDARDISED = through_gram(standardised(X), 1.0) * (1 + offset(X))


@pytest.mark.parametrize("weights", [None, W], ids=["unweighted", "weighted"])
def test_raw_geometry_is_the_leverage_of_the_rows_themselves(weights):
    space = RAW.fit(X, weights)
    expected = dense_leverage(X, NEW, 0.0, weights, False)
    close = through_gram(X, 0.0, weights, False)
    np.testing.assert_allclose(space.leverage(space.features(NEW)), expected, rtol=close)
    assert space.exactness == "none"


def test_default_geometry_is_standardised_with_ridge_one_and_an_intercept():
    space = InputsGeometry().fit(X)
    F = space.features(NEW)
    expected = dense_leverage(standardised(X), standardised(NEW), 1.0)
    np.testing.assert_allclose(space.leverage(F), expected, rtol=STANDARDISED)
    assert space.leverage(space.features(FAR[None]))[0] > 1000


def test_geometry_of_numbers_does_not_depend_on_their_units_or_container():
    expected = InputsGeometry().fit(X).leverage(InputsGeometry().fit(X).features(NEW))
    scaled = InputsGeometry().fit(1e6 * X - 3)  # rounds no more than X itself: 3 is nothing beside 1e6
    np.testing.assert_allclose(scaled.leverage(scaled.features(1e6 * NEW - 3)), expected, rtol=STANDARDISED)
    for container in (pd.DataFrame, lambda rows: pl.DataFrame(rows.tolist(), orient="row"), list, np.asfortranarray):
        space = InputsGeometry().fit(container(X))
        np.testing.assert_allclose(space.leverage(space.features(container(NEW))), expected, rtol=STANDARDISED)


def test_row_of_weight_zero_counts_like_one_that_is_not_there():
    weights = np.r_[0.0, np.ones(N - 1)]
    rows = X.copy()
    rows[0, 0] = np.nan
    one, two = InputsGeometry().fit(rows, weights), InputsGeometry().fit(X[1:])
    np.testing.assert_allclose(one.leverage(one.features(NEW)), two.leverage(two.features(NEW)), rtol=STANDARDISED)


def test_gaps_are_filled_by_the_median_and_marked_where_training_rows_had_them():
    train = np.array([[1.0, 5.0], [2.0, np.nan], [9.0, 7.0], [np.nan, 8.0]])
    new = np.array([[np.nan, np.nan], [4.0, 4.0]])
    np.testing.assert_array_equal(encoded(train, new), [[2, 7, 1, 1], [4, 4, 0, 0]])
    np.testing.assert_array_equal(encoded(train[:1], new), [[1, 5], [4, 4]])  # no gap in training, no mark


def test_column_without_any_entry_is_filled_with_zero():
    np.testing.assert_array_equal(encoded([[np.nan, 1.0], [np.nan, 2.0]], [[3.0, 1.0]]), [[3.0, 1.0, 0.0]])


WORD_COLUMNS = {
    "pandas": lambda words: pd.DataFrame({"a": words}),
    "pandas category": lambda words: pd.DataFrame({"a": pd.Categorical(words)}),
    "pandas object": lambda words: pd.DataFrame({"a": np.array(words, dtype=object)}),
    "polars": lambda words: pl.DataFrame({"a": words}),
    "polars category": lambda words: pl.DataFrame({"a": pl.Series(words, dtype=pl.Categorical)}),
    "array of objects": lambda words: np.array(words, dtype=object)[:, None],
    "array of words": lambda words: np.array([str(word) for word in words])[:, None],
}


@pytest.mark.parametrize("table", WORD_COLUMNS.values(), ids=WORD_COLUMNS.keys())
def test_words_become_one_feature_per_level_and_new_words_are_zeros(table):
    train, new = table(["b", "a", "b", None]), table(["a", "c", None])
    np.testing.assert_array_equal(encoded(train, new), [[0, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_twenty_most_frequent_levels_are_kept():
    words = [f"level {i:02}" for i in range(25) for _ in range(30 - i)]
    features = encoded(pd.DataFrame({"a": words}), pd.DataFrame({"a": [f"level {i:02}" for i in range(25)]}))
    np.testing.assert_array_equal(features, np.eye(25)[:, :20])


def test_unknown_level_is_farther_away_than_any_known_one():
    words = pd.DataFrame({"a": RNG.choice(list("xyz"), 300)})
    space = InputsGeometry().fit(words)
    h = space.leverage(space.features(pd.DataFrame({"a": list("xyz?")})))
    assert h[3] > 10 * h[:3].max()


def test_mixed_table_puts_numbers_before_marks_before_levels():
    frame = pd.DataFrame({"word": ["a", "b", "a"], "flag": [True, False, True], "size": [1.0, np.nan, 3.0]})
    np.testing.assert_array_equal(encoded(frame, frame), [[1, 1, 0, 1, 0], [0, 2, 1, 0, 1], [1, 3, 0, 1, 0]])
    np.testing.assert_array_equal(encoded(frame, frame), encoded(frame.to_numpy(), frame.to_numpy()))


def test_nullable_numbers_booleans_and_numeric_categories_are_told_apart():
    frame = pd.DataFrame(
        {
            "count": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "grade": pd.Categorical([2, 1, 2]),
        }
    )
    np.testing.assert_array_equal(encoded(frame, frame), [[1, 1, 0, 0, 1, 0], [2, 0.5, 1, 1, 0, 1], [3, 0, 0, 0, 1, 0]])


@pytest.mark.parametrize(
    "column",
    [
        pd.to_datetime(["2026-01-01", "2026-01-02"]),
        pd.to_datetime(["2026-01-01", "2026-01-02"]).tz_localize("UTC"),
        pd.to_timedelta([1, 2], unit="s"),
        [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)],
        [1j, 2j],
    ],
    ids=["time", "zoned time", "duration", "date", "complex"],
)
def test_columns_that_are_neither_numbers_nor_words_are_refused_by_name(column):
    with pytest.raises(ValueError, match=r"column 'when' holds .*Turn it into a number"):
        InputsGeometry().fit(pd.DataFrame({"size": [1.0, 2.0], "when": column}))


def test_constant_column_adds_nothing_but_a_mark_of_what_differs():
    rows = np.c_[X, np.full(N, 4.0)]
    space, plain = InputsGeometry().fit(rows), InputsGeometry().fit(X)
    expected = plain.leverage(plain.features(NEW))
    np.testing.assert_allclose(
        space.leverage(space.features(np.c_[NEW, np.full(len(NEW), 4.0)])), expected, rtol=STANDARDISED
    )
    off = space.leverage(space.features(np.c_[NEW, np.full(len(NEW), 7.0)]))
    np.testing.assert_allclose(off, expected + 9.0, rtol=STANDARDISED)


def test_single_row_is_measured():
    space = InputsGeometry().fit(X)
    whole = space.leverage(space.features(NEW))
    alone = [space.leverage(space.features(NEW[i : i + 1]))[0] for i in range(len(NEW))]
    np.testing.assert_allclose(alone, whole, rtol=STANDARDISED)


def test_sparse_rows_are_divided_and_not_filled():
    thin = np.where(np.abs(X) > 1, X, 0.0)
    space = InputsGeometry().fit(sparse.csr_array(thin))
    F = space.features(sparse.csr_array(thin))
    assert F.values.format == "csr"
    dense = thin / thin.std(axis=0)
    np.testing.assert_allclose(space.leverage(F), dense_leverage(dense, dense, 1.0), rtol=through_gram(dense, 1.0))


def test_wide_sparse_rows_give_a_scale_their_most_varying_columns():
    rows = np.where(RNG.random((50, 1000)) < 0.5, RNG.random((50, 1000)), 0.0) * np.r_[np.full(744, 1e-3), np.ones(256)]
    space = InputsGeometry(standardise=False).fit(sparse.csr_array(rows))
    inputs = space.inputs(space.features(sparse.csr_array(rows)))
    assert isinstance(inputs, np.ndarray)
    np.testing.assert_array_equal(inputs, rows[:, 744:])


@pytest.mark.parametrize(
    "rows", [X[:, :3], pd.DataFrame(X, columns=list("abcde"))[list("badce")]], ids=["few", "order"]
)
def test_other_columns_than_in_training_are_refused(rows):
    space = InputsGeometry().fit(pd.DataFrame(X, columns=list("abcde")))
    with pytest.raises(ValueError, match=r"must have the columns of the training rows, 5 of them \('a', 'b'"):
        space.features(rows)


def test_word_in_a_column_of_numbers_is_refused_by_name():
    space = InputsGeometry().fit(pd.DataFrame({"size": [1.0, 2.0]}))
    with pytest.raises(ValueError, match=r"column 'size' held numbers in training.*'large'"):
        space.features(pd.DataFrame({"size": ["large"]}))


@pytest.mark.parametrize("geometry", [InputsGeometry(), RAW], ids=["standardised", "raw"])
def test_infinite_number_is_refused_with_its_row(geometry):
    rows = X.copy()
    rows[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"features must be finite; row 7"):
        geometry.fit(rows)
    space = geometry.fit(X)
    with pytest.raises(ValueError, match=r"must be finite; row 7"):
        space.leverage(space.features(rows))


def test_negative_ridge_is_refused():
    with pytest.raises(ValueError, match=r"ridge must be finite and >= 0.*-1"):
        InputsGeometry(ridge=-1.0).fit(X)


def test_model_without_features_of_its_own_is_measured_on_its_inputs():
    model = HistGradientBoostingRegressor(max_iter=3).fit(X, y)
    assert geometry_of(model) == InputsGeometry()
    inside = geometry_of(make_pipeline(StandardScaler(), model).fit(X, y)).fit(X)
    plain = InputsGeometry().fit(X)
    np.testing.assert_allclose(
        inside.leverage(inside.features(NEW)), plain.leverage(plain.features(NEW)), rtol=STANDARDISED
    )


def test_transformer_is_cloned_fitted_to_the_training_rows_and_standardised():
    transformer = PolynomialFeatures(2, include_bias=False)
    geometry = as_geometry(transformer, None)
    assert isinstance(geometry, TransformerGeometry)
    space = geometry.fit(X)
    assert "n_features_in_" not in vars(transformer)
    features = transformer.fit_transform(X)
    new = (transformer.transform(NEW) - features.mean(axis=0)) / features.std(axis=0)
    own = (features - features.mean(axis=0)) / features.std(axis=0)
    close = through_gram(own, 1.0) + 100 * EPS * offset(features)
    np.testing.assert_allclose(space.leverage(space.features(NEW)), dense_leverage(own, new, 1.0), rtol=close)
    assert (space.ridge, space.exactness) == (1.0, "none")


def test_frozen_transformer_keeps_what_it_learned():
    elsewhere = PCA(2).fit(NEW)
    space = as_geometry(FrozenEstimator(elsewhere), None).fit(X)
    features = elsewhere.transform(X)
    expected = (features - features.mean(axis=0)) / features.std(axis=0)
    close = 10 * EPS * np.sqrt(N) * (1 + offset(features)) * np.abs(expected).max()
    np.testing.assert_allclose(space.features(X).values, expected, rtol=0, atol=close)


def test_pipeline_of_transformers_is_a_geometry_and_only_these_are():
    assert isinstance(as_geometry(make_pipeline(StandardScaler(), PCA(2)), None), TransformerGeometry)
    assert as_geometry(RAW, None) is RAW
    for wrong in ("inputs", None, StandardScaler, 3):
        with pytest.raises(TypeError, match=r'must be "auto", a hatband Geometry.*transformer such as PCA'):
            as_geometry(wrong, None)
