"""Refits tell scikit-learn's callbacks about each fold, and leave nothing of them behind."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from hatband import CrossConformalRegressor
from hatband.conformal.held_out.refits import CALLBACKS_SUPPORTED


class Recording:
    """Writes down which hooks were called."""

    def __init__(self):
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self.calls.append(f"end {context.task_name}")

    def teardown(self, estimator, context):
        self.calls.append("teardown")


@pytest.fixture
def data(rng):
    X = rng.standard_normal((60, 3))
    return X, X[:, 0] + rng.standard_normal(60)


@pytest.mark.skipif(not CALLBACKS_SUPPORTED, reason="scikit-learn < 1.9 has no callbacks")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_fold_is_reported_once_in_order(n_jobs, data):
    callback = Recording()
    model = CrossConformalRegressor(RandomForestRegressor(3, random_state=0), cv=3, scale="constant", n_jobs=n_jobs)
    model.set_callbacks(callback).fit(*data)

    assert callback.calls == ["setup", "begin fit", *["begin fold", "end fold"] * 3, "end fit", "teardown"]
    assert not [name for name in vars(model) if "context" in name or "ctx" in name]


@pytest.mark.skipif(not CALLBACKS_SUPPORTED, reason="scikit-learn < 1.9 has no callbacks")
def test_callbacks_do_not_change_the_intervals(data):
    forest = RandomForestRegressor(3, random_state=0)
    plain = CrossConformalRegressor(forest, scale="constant").fit(*data)
    watched = CrossConformalRegressor(forest, scale="constant").set_callbacks(Recording()).fit(*data)

    np.testing.assert_array_equal(watched.predict_interval(data[0])[1], plain.predict_interval(data[0])[1])
