"""A fit that fails, or that the user interrupts, leaves every estimator as it was."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import PoissonRegressor, Ridge

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    FullConformalRegressor,
    JackknifePlusRegressor,
    OnlineConformalRegressor,
    SplitConformalRegressor,
)


class Interrupted(Ridge):
    """Ridge that the user interrupts at a table of four columns."""

    def fit(self, X, y, sample_weight=None):
        if np.shape(X)[1] == 4:
            raise KeyboardInterrupt
        return super().fit(X, y, sample_weight)


MODELS = {
    "split": SplitConformalRegressor(Interrupted(), scale="leverage", random_state=0),
    "cross": CrossConformalRegressor(Interrupted(), scale="constant"),
    "jackknife+": JackknifePlusRegressor(Interrupted()),
    "full": FullConformalRegressor(Interrupted()),
}


@pytest.fixture
def data(rng):
    X = rng.uniform(size=(60, 3))
    return X, X[:, 0] + rng.uniform(size=60)


@pytest.mark.parametrize("name", MODELS)
def test_an_interrupt_by_the_user_leaves_the_fitted_model_as_it_was(name, data):
    X, y = data
    model = clone(MODELS[name]).fit(X, y)
    before, state = model.predict_interval(X)[1], dict(vars(model))

    with pytest.raises(KeyboardInterrupt):
        model.fit(np.column_stack([X, y]), y)
    assert vars(model) == state
    np.testing.assert_array_equal(model.predict_interval(X)[1], before)


@pytest.mark.parametrize("name", MODELS)
def test_an_interrupt_of_the_first_fit_leaves_nothing_behind(name, data):
    X, y = data
    model = clone(MODELS[name])
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.column_stack([X, y]), y)
    assert vars(model).keys() == vars(clone(model)).keys()


@pytest.mark.parametrize(
    "model", [*MODELS.values(), ApproximateJackknifePlusRegressor(PoissonRegressor()), OnlineConformalRegressor()]
)
def test_bad_input_leaves_the_fitted_model_as_it_was(model, data):
    X, y = data
    model = clone(model).fit(X, y)
    state = dict(vars(model))
    for bad_X, bad_y in ((X, np.where(y == y[3], np.nan, y)), (X[:-1], y), (np.full_like(X, np.nan), y)):
        with pytest.raises(ValueError, match=r"NaN|inconsistent"):
            model.fit(bad_X, bad_y)
        assert vars(model) == state
