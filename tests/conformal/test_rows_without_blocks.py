"""Training rows predicted without their whole block: equal to refits, and left alone where there is no closed form."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from hatband.fitted.training_rows import training_rows
from hatband.formulas.leave_one_out import block_residuals
from hatband.geometry import geometry_of

BLOCKS = np.array_split(np.arange(60), 6)


def held_out(model, X, y, weight=None):
    fitted = model.fit(X, y) if weight is None else model.fit(X, y, sample_weight=weight)
    space = geometry_of(fitted).fit(X, weight)
    return training_rows(fitted, space, X, y[:, None], template=model, sample_weight=weight, random_state=0)


@pytest.fixture
def data(rng):
    X = rng.normal(size=(60, 4))
    return X, X[:, 0] + rng.normal(size=60), rng.uniform(0.5, 3.0, 60)


@pytest.mark.parametrize("model", [Ridge(2.0), LinearRegression(), KernelRidge(0.5, kernel="rbf")], ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_and_residuals_are_those_of_refits_without_the_block(model, weighted, data):
    X, y, weight = data
    weight = weight if weighted else None
    found = held_out(model, X, y, weight)
    rows, residual = found.rows.without_blocks(found.residuals[:, 0], BLOCKS)

    for block in BLOCKS:
        kept = np.setdiff1d(np.arange(60), block)
        passed = {} if weight is None else {"sample_weight": weight[kept]}
        expected = model.fit(X[kept], y[kept], **passed).predict(X[block])
        np.testing.assert_allclose(rows.prediction[block, 0], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(residual[block], y[block] - expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(rows.leverage, found.rows.leverage)


def test_rows_of_refits_are_returned_as_they_are(data):
    X, y, _ = data
    found = held_out(HistGradientBoostingRegressor(max_iter=3), X, y)
    rows, residual = found.rows.without_blocks(found.residuals[:, 0], BLOCKS)

    assert rows is found.rows
    np.testing.assert_array_equal(residual, found.residuals[:, 0])


def test_rows_are_returned_as_they_are_where_a_block_holds_all_that_is_known_of_a_column(data):
    X, y, _ = data
    X[10:, 3] = 0.0
    found = held_out(LinearRegression(), X, y)
    rows, _ = found.rows.without_blocks(found.residuals[:, 0], BLOCKS)

    assert rows is found.rows


def test_a_block_that_leaves_no_model_has_no_residuals():
    assert block_residuals(np.ones(2), np.eye(2)) is None
    assert block_residuals(np.ones(2), 2 * np.eye(2)) is None


def test_one_input_does_not_give_residuals_away(rng):
    # The curve of the model is known to a learner that sees x; leave-one-out predictions lie beside it, by h r.
    x = rng.uniform(-1, 1, (300, 1))
    y = x[:, 0] + rng.normal(size=300)
    found = held_out(make_pipeline(PolynomialFeatures(3), LinearRegression()), x, y)
    curve = make_pipeline(PolynomialFeatures(3), LinearRegression()).fit(x, y).predict(x)
    rows, residual = found.rows.without_blocks(found.residuals[:, 0], np.array_split(np.arange(300), 10))

    # Beside the curve by -h r, each of them; without its block a row is moved by all rows of the block.
    assert (np.sign(curve - found.rows.prediction[:, 0]) == np.sign(found.residuals[:, 0])).all()
    assert (np.sign(curve - rows.prediction[:, 0]) == np.sign(residual)).mean() < 0.75
