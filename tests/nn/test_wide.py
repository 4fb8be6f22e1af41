"""Wide last layers and few rows: the default ridge needs no warning, and one that is too small still gets it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hatband import LeverageWarning
from hatband.nn import MLP, LastLayerConformalRegressor
from hatband.nn.measure.state import seeded
from nn.cases import dense_leverage, phi


def wide(width, dtype=torch.float32, *, one_direction=False):
    """A network whose features, where asked for, lie almost along one direction: the worst case for a ridge."""
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))
    with torch.no_grad():
        if one_direction:
            net[0].weight[:] = net[0].weight[0] + 1e-3 * net[0].weight
    return net.to(dtype)


def inputs(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("one_direction", [False, True])
@pytest.mark.parametrize(
    ("n", "width"),
    [(5, 1024), (50, 1024), *(pytest.param(*size, marks=pytest.mark.slow) for size in [(500, 1024), (20, 2048)])],
)
def test_the_default_ridge_gives_leverages_without_a_warning_and_right(n, width, one_direction):
    net = wide(width, torch.float64, one_direction=one_direction)
    X, new = inputs(n), inputs(20, 1)
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(X)

    expected = dense_leverage(phi(net, X), phi(net, new), model.space_.ridge, "free")
    np.testing.assert_allclose(model.leverage(new), expected, rtol=1e-6)


def test_rounding_to_float32_costs_more_than_the_factor_does():
    with seeded(0):
        single = MLP(3, widths=(1024,)).eval()
    double = copy.deepcopy(single).double()
    one, other = (LastLayerConformalRegressor(net, scale="leverage").fit_train(inputs(50)) for net in (single, double))
    gap = np.abs(one.leverage(inputs(50, 1)) / other.leverage(inputs(50, 1)) - 1).max()

    assert other.space_.factor.error_bound < gap < 1e-5


def test_a_ridge_that_is_too_small_for_the_gram_matrix_is_warned_of():
    with pytest.warns(LeverageWarning, match=r"at 1e-09 .* Pass ridge='auto', or a larger number"):
        LastLayerConformalRegressor(wide(64, one_direction=True), scale="leverage", ridge=1e-9).fit_train(inputs(20))
