"""What a regressor around a network leaves alone, and what it says when something is missing or wrong."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from hatband.checks import CalibrationWarning, LeverageWarning
from hatband.nn import LastLayerConformalRegressor
from hatband.nn.measure import network_rows as blocks_module
from nn.cases import loader, rows

# ---------------------------------------------------------------- what it leaves alone


def noticing(net):
    """Everything of a module that could change."""
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return hooks, [part.training for part in net.modules()], state, [p.grad for p in net.parameters()]


def test_the_module_is_left_as_it_was_found(device):
    net = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 1)).to(device).train()
    net[1].eval()
    net(rows(10)[0].to(device)).sum().backward()
    hooks, modes, state, grads = noticing(net)

    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(*rows(50)).calibrate(*rows(30, 1))
    model.predict_interval(rows(5)[0])

    after = noticing(net)
    assert (after[0], after[1]) == (hooks, modes)
    assert all(torch.equal(after[2][name], value) for name, value in state.items())
    assert all(a is b for a, b in zip(after[3], grads, strict=True))
    assert torch.is_grad_enabled()


def test_the_module_is_left_as_it_was_found_when_something_fails(net):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fails = net, False

        def forward(self, x):
            if self.fails and len(x) < 17:
                raise RuntimeError("out of luck")
            return self.inner(x)

    failing = Failing().train()
    before = noticing(failing)
    model = LastLayerConformalRegressor(failing, scale="leverage").fit_train(rows(50)[0]).calibrate(*rows(30, 1))
    scores, failing.fails = model.scores_, True

    for verb in (model.fit_train, model.calibrate, model.predict):
        with pytest.raises(RuntimeError, match="out of luck"):
            verb(loader(*rows(40)))

    assert noticing(failing)[:2] == before[:2]
    assert model.scores_ is scores
    assert torch.is_grad_enabled()


def test_a_device_gets_a_copy(net, device):
    model = LastLayerConformalRegressor(net, net[-1], scale="leverage", device=device).fit_train(rows(50)[0])

    assert model.space_.module is not net
    assert model.space_.part.layer.weight.device.type == device.type


def test_it_survives_pickle_and_copy(net):
    X, y = rows(150)
    model = LastLayerConformalRegressor(net, scale="strength", fit_train_rows="unseen").fit_train(X, y).calibrate(X, y)

    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(again.predict_interval(X)[1], model.predict_interval(X)[1])
        assert again.space_.module is not net


def test_threads_share_a_network(net):
    parts = [rows(400, seed)[0] for seed in range(4)]
    model = LastLayerConformalRegressor(net.eval(), scale="leverage").fit_train(parts[0])
    expected = [model.leverage(part) for part in parts]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(model.leverage, parts * 5))

    for found, answer in zip(seen, expected * 5, strict=True):
        # A GPU may choose another float32 kernel in another thread.
        np.testing.assert_allclose(found, answer, rtol=1e-5)


def test_it_clones_and_shows_itself(net):
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=2.0)

    other = clone(model)

    assert other.ridge == 2.0
    assert "ridge=2.0" in repr(other)


# ---------------------------------------------------------------- order of calls


def test_what_is_missing_is_named(net):
    model = LastLayerConformalRegressor(net, scale="leverage")
    for verb in (model.predict, model.predict_interval, model.leverage, model.calibrate):
        with pytest.raises(NotFittedError, match="fit_train"):
            verb(rows(5)[0])
    model.fit_train(rows(50)[0])
    with pytest.raises(NotFittedError, match="calibrate"):
        model.predict_interval(rows(5)[0])
    model.calibrate(*rows(20, 1))
    model.fit_train(rows(50)[0])
    assert not hasattr(model, "scores_")


def test_too_few_calibration_rows_give_infinite_intervals_and_say_how_many_would_do(net):
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(rows(50)[0]).calibrate(*rows(5, 1))

    with pytest.warns(CalibrationWarning, match="At least 9"):
        _, interval = model.predict_interval(rows(3)[0])

    assert np.isinf(interval).all()


# ---------------------------------------------------------------- bad input


def test_one_threshold_for_each_side_needs_twice_as_many_rows(net):
    X, (X_cal, y_cal) = rows(40)[0], rows(15, 1)
    both, each = (LastLayerConformalRegressor(net, scale="leverage", symmetric=one) for one in (True, False))
    # At 0.9 both sides together need 9 rows, each side alone 19.
    assert np.isfinite(both.fit_train(X).calibrate(X_cal, y_cal).predict_interval(X)[1]).all()

    with pytest.warns(CalibrationWarning, match="19"):
        _, interval = each.fit_train(X).calibrate(X_cal, y_cal).predict_interval(X)

    assert np.isinf(interval).all()


@pytest.mark.parametrize("level", [0.0, 1.0, [], "high"])
def test_a_level_outside_0_and_1_is_refused_before_anything_runs(net, level):
    with pytest.raises(ValueError, match="confidence_level"):
        LastLayerConformalRegressor(net, confidence_level=level).fit_train(*rows(20))


def test_inputs_that_are_not_finite_are_refused_with_their_row(net):
    X, y = rows(100)
    X[61, 2] = float("nan")
    model = LastLayerConformalRegressor(net, scale="leverage")

    with pytest.raises(ValueError, match="features of the module must be finite; row 61"):
        model.fit_train(X)
    assert not hasattr(model, "space_")
    model.fit_train(rows(50)[0])
    with pytest.raises(ValueError, match="row 61"):
        model.calibrate(loader(X, y))
    assert not hasattr(model, "scores_")


@pytest.mark.parametrize("what", ["features of the module", "prediction of the module", "y"])
def test_rows_are_counted_over_all_blocks(net, monkeypatch, what):
    monkeypatch.setattr(blocks_module, "rows_per_block", lambda backend, n_columns: 16)
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(rows(40)[0])
    X, y = rows(100)
    if what == "features of the module":
        X[61, 2] = float("nan")
    if what == "y":
        y[61] = float("inf")
    if what == "prediction of the module":
        net.register_forward_hook(lambda _, args, out: torch.where((args[0] == X[61].to(out))[:, :1], out / 0.0, out))

    with pytest.raises(ValueError, match=f"{what} must be finite; row 61"):
        model.calibrate(loader(X, y))


@pytest.mark.parametrize("where", ["fit_train", "calibrate"])
@pytest.mark.parametrize("form", ["loader", "arrays"])
def test_a_target_that_is_not_finite_is_refused(net, where, form):
    X, y = rows(40)
    y[3] = float("inf")
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(rows(40)[0])

    with pytest.raises(ValueError, match=r"y must be finite; row 3"):
        getattr(model, where)(*((loader(X, y),) if form == "loader" else (X, y)))


def wrong_data():
    X, y = rows(20)
    return {
        "an iterator": ((iter([(X, y)]),), "more than once"),
        "a number": ((3,), "DataLoader"),
        "no rows": ((X[:0], y[:0]), "at least one row"),
        "an empty loader": (([],), "at least one row"),
        "y beside a loader": (([(X, y)], y), "only with an array X"),
        "fewer targets": ((X, y[:5]), "one entry per row"),
        "fewer targets in a batch": (([(X, y[:5])],), "one entry per row"),
        "two columns for one output": ((X, torch.stack([y, y], 1)), "one column per output"),
        "no targets": ((X,), "targets are needed"),
        "three parts": (([(X, X, y)],), "Collate"),
    }


@pytest.mark.parametrize("case", list(wrong_data()))
def test_data_that_cannot_be_read_are_refused_and_the_scores_stay(net, case):
    arguments, message = wrong_data()[case]
    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(rows(40)[0]).calibrate(*rows(30, 1))
    scores = model.scores_

    with pytest.raises((ValueError, TypeError), match=message):
        model.calibrate(*arguments)

    assert model.scores_ is scores


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), np.ones(3), "much"])
def test_an_invalid_ridge_is_refused(net, ridge):
    with pytest.raises(ValueError, match="ridge"):
        LastLayerConformalRegressor(net, scale="leverage", ridge=ridge).fit_train(*rows(40))


def test_targets_of_other_outputs_are_refused(net):
    with pytest.raises(ValueError, match="one column per output of the module, 1; got 3"):
        LastLayerConformalRegressor(net, scale="leverage").fit_train(*rows(40, n_outputs=3))


def test_something_that_is_not_a_module_is_refused():
    with pytest.raises(TypeError, match=r"torch.nn.Module; got str"):
        LastLayerConformalRegressor("net").fit_train(*rows(20))


def test_features_that_never_vary_have_the_leverage_of_a_mean(device):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).to(device)
    with torch.no_grad():
        net[0].bias.fill_(-100.0)

    model = LastLayerConformalRegressor(net, scale="leverage").fit_train(rows(40)[0])

    np.testing.assert_allclose(model.leverage(rows(3, 1)[0]), 1 / 40)


def test_rows_outside_the_span_without_ridge_get_infinite_intervals_and_a_warning(device):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).to(device)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
        net[0].bias.zero_()
    X, (X_cal, y_cal) = rows(40)[0], rows(30, 1)
    X[:, 3], X_cal[:, 3] = -1.0, -1.0
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=0.0).fit_train(X).calibrate(X_cal, y_cal)
    new = rows(3, 2)[0]
    new[:, 3] = torch.tensor([-1.0, 2.0, -3.0])

    with pytest.warns(LeverageWarning, match="1 of 3 rows"):
        _, interval = model.predict_interval(new)

    np.testing.assert_array_equal(np.isinf(interval).all(axis=1), [False, True, False])


def test_calibration_rows_most_of_which_lie_outside_the_span_are_warned_of(device):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).to(device)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
        net[0].bias.zero_()
    X, (X_cal, y_cal) = rows(40)[0], rows(30, 1)
    X[:, 3], X_cal[:, 3] = -1.0, -1.0
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=0.0).fit_train(X)
    X_cal[:14, 3] = 2.0
    model.calibrate(X_cal, y_cal)
    X_cal[:15, 3] = 2.0

    with pytest.warns(LeverageWarning, match=r"15 of 30 calibration rows lie outside the span.*a ridge > 0"):
        model.calibrate(X_cal, y_cal)
