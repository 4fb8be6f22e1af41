"""Training rows measured by fewer directions than they have: what these miss stays when a row is left out."""

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from hatband import SplitConformalRegressor
from hatband.fitted.rows import held_out_rows
from hatband.geometry import FeatureGeometry, NystroemGeometry, PairwiseKernel
from hatband.geometry.composite import Preprocessed

N, RIDGE, RBF = 60, 1e-3, PairwiseKernel("rbf", {"gamma": 0.5})


def drawn(seed=0, n=N):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    return X, np.sin(X[:, 0]) + 0.3 * rng.normal(size=n)


def frozen(geometry, scale):
    model = FrozenEstimator(Ridge().fit(*drawn(1)))
    return SplitConformalRegressor(model, geometry=geometry, scale=scale, fit_train_rows="unseen")


def by_landmarks(X, landmarks):
    """Features K_xm K_mm^-1/2, and what of k(x, x) they miss, by formula."""

    def kernel(a, b):
        return np.exp(-0.5 * np.square(a[:, None] - b).sum(axis=-1))

    values, vectors = eigh(kernel(landmarks, landmarks))
    found = kernel(X, landmarks) @ vectors / np.sqrt(values)
    return found, 1 - np.square(found).sum(axis=1)


def left_out(features, missed, fit_intercept):
    """h(x_i) by a fit to the other rows, landmarks as they are, one after the other."""
    found = []
    for i in range(len(features)):
        rest = np.delete(features, i, axis=0)
        mean = rest.mean(axis=0) if fit_intercept else 0.0
        rest, row = rest - mean, features[i] - mean
        floor = 1 / len(rest) if fit_intercept else 0.0
        found.append(floor + row @ np.linalg.solve(rest.T @ rest + RIDGE * np.eye(len(row)), row) + missed[i] / RIDGE)
    return np.array(found)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leverages_are_those_of_a_fit_without_the_row(fit_intercept):
    X, _ = drawn()
    geometry = NystroemGeometry(RBF, RIDGE, fit_intercept, landmarks=12)
    space = geometry.fit(X)
    features = space.features(X)
    h = space.leverage(features)
    rows = held_out_rows(space, features, np.zeros((N, 1)), h, None)

    assert (h > 1).mean() > 0.5
    expected = left_out(*by_landmarks(X, space.landmark_map.landmarks), fit_intercept)
    np.testing.assert_allclose(rows.leverage, expected, rtol=1e-6)
    assert ((rows.sampling_leverage >= 0) & (rows.sampling_leverage < np.inf)).all()


def test_a_scale_learns_from_leverages_above_one():
    X, y = drawn(n=200)
    geometry = NystroemGeometry(RBF, RIDGE, True, landmarks=12)
    model = frozen(geometry, "strength").fit_train(X, y)
    width = model.calibrate(*drawn(2)).predict(drawn(3)[0], return_width=True)[1]

    assert model.scale_.strength_ > 0
    assert width.max() > 1.01 * width.min()


def test_what_is_missed_is_zero_for_features_and_the_same_behind_transformers():
    X, _ = drawn()
    features = FeatureGeometry(ridge=1.0).fit(X)
    scaler = StandardScaler().fit(X)
    inner = NystroemGeometry(RBF, RIDGE, landmarks=12)
    behind, plain = Preprocessed((scaler,), inner).fit(X), inner.fit(scaler.transform(X))

    assert features.unseen_leverage(features.features(X)) == 0
    expected = plain.unseen_leverage(plain.features(scaler.transform(X)))
    np.testing.assert_allclose(behind.unseen_leverage(behind.features(X)), expected)
    assert expected.max() > 1
