"""Where the network has not been: in a gap of the data and beyond its ends the band widens, others do not."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from hatband.formulas.order_statistics import conformal_quantile
from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    NeuralConformalRegressor,
    fit_ensemble,
)

GAP = np.linspace(-0.5, 0.5, 21)[:, None]
BELOW, ABOVE = np.linspace(-6, -4, 21)[:, None], np.linspace(4, 6, 21)[:, None]
OUTSIDE = {"gap": GAP, "below": BELOW, "above": ABOVE}


def rows(n, seed):
    """A cosine on [-3, -1] and [1, 3], nothing between and beyond."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 3, n) * rng.choice([-1, 1], n)
    return x[:, None], np.cos(2 * x) + 0.1 * rng.standard_normal(n)


X, y = rows(400, 0)
X_CAL, Y_CAL = rows(199, 1)
INSIDE = rows(500, 2)[0]


def widths(model, where):
    return np.diff(model.predict_interval(where)[1])[:, 0]


@pytest.fixture(scope="module", params=[0, 1])
def trained(request):
    settings = {"activation": "gelu", "random_state": request.param}
    model = NeuralConformalRegressor(scale="leverage", **settings).fit_train(X, y)
    return model.calibrate(X_CAL, Y_CAL)


@pytest.mark.parametrize("place", OUTSIDE)
def test_the_band_of_leverage_widens(trained, place):
    inside = widths(trained, INSIDE)

    assert inside.max() < 1.3 * inside.min()
    assert widths(trained, OUTSIDE[place]).min() > 1.3 * inside.max()


def test_it_widens_with_the_distance_and_most_in_the_middle_of_the_gap(trained):
    gap = widths(trained, GAP)

    assert (np.diff(widths(trained, ABOVE)) > 0).all()
    assert (np.diff(widths(trained, BELOW)) < 0).all()
    assert 0 < gap.argmax() < len(gap) - 1


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_constant_band_around_the_same_network_does_not_widen(trained, place):
    constant = LastLayerConformalRegressor(trained.module_, scale="constant")
    constant.fit_train(X.astype(np.float32)).calibrate(X_CAL, Y_CAL)

    np.testing.assert_allclose(widths(constant, OUTSIDE[place]), widths(constant, INSIDE)[0], rtol=1e-6)


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_band_of_conformalised_quantile_regression_does_not_widen(place):
    # Romano, Patterson and Candes (2019), eqs. 5-8, with boosted trees.
    low, high = (
        HistGradientBoostingRegressor(loss="quantile", quantile=level, max_iter=50, random_state=0).fit(X, y)
        for level in (0.05, 0.95)
    )
    margin = conformal_quantile(np.maximum(low.predict(X_CAL) - Y_CAL, Y_CAL - high.predict(X_CAL))[:, None], 0.9)[0]

    def width(where):
        return high.predict(where) - low.predict(where) + 2 * margin

    assert width(OUTSIDE[place]).max() < 1.3 * width(INSIDE).max()


def test_the_band_of_an_ensemble_widens():
    nets = fit_ensemble(lambda: MLP(1, activation="gelu"), X, y, n_networks=2, epochs=80, random_state=0)
    model = EnsembleConformalRegressor(nets, scale="leverage").fit_train(X).calibrate(X_CAL, Y_CAL)

    for place in OUTSIDE.values():
        assert widths(model, place).min() > 1.1 * widths(model, INSIDE).max()
