"""The leverage of a last layer and the intervals that it shapes."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from hatband.nn import LastLayerConformalRegressor
from nn.cases import N_INPUTS, dense_leverage, loader, network, phi, rows
from pretend_device import DEVICE

# ---------------------------------------------------------------- leverage


@pytest.mark.parametrize("ridge", [1e-2, 1.0, "auto"])
@pytest.mark.parametrize("intercept", ["free", "penalised", "none"])
def test_leverage_is_the_dense_formula(device, intercept, ridge):
    net = network(bias=intercept != "none", dtype=torch.float64).to(device)
    X, new = rows(300)[0].double(), 5 * rows(50, seed=1)[0].double()
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=ridge, penalise_bias=intercept == "penalised")

    model.fit_train(loader(X))

    train = phi(net, X)
    if intercept == "penalised":
        train = np.column_stack([train, np.ones(len(train))])
    centred = train - (train.mean(axis=0) if intercept == "free" else 0)
    expected = 1e-4 * (centred**2).sum() / train.shape[1] if ridge == "auto" else ridge
    assert model.space_.ridge == pytest.approx(expected, rel=1e-12)
    answer = dense_leverage(phi(net, X), phi(net, new), expected, intercept)
    np.testing.assert_allclose(model.leverage(new), answer, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_leverage_is_the_functional_variance_of_laplace_torch(device):
    laplace = pytest.importorskip("laplace", reason="laplace-torch is not installed")
    net, (X, y), new = network().to(device), rows(300), 3 * rows(50, seed=1)[0]
    # It knows nothing of the pretended device.
    there = torch.device("cpu") if device == DEVICE else device
    other = laplace.Laplace(
        network().to(there),
        "regression",
        subset_of_weights="last_layer",
        hessian_structure="full",
        sigma_noise=1.0,
        prior_precision=1.0,
    )
    other.fit(loader(X.to(there), y[:, None].to(there)))
    _, variance = other(new.to(there))

    model = LastLayerConformalRegressor(net, scale="leverage", ridge=1.0, penalise_bias=True).fit_train(X)

    np.testing.assert_allclose(model.leverage(new), variance.detach().cpu().numpy().reshape(-1), rtol=1e-5)


def test_float32_features_are_summed_in_float64(net):
    X, new = rows(3_000)[0], rows(20, seed=1)[0]

    model = LastLayerConformalRegressor(net, scale="leverage", ridge=1e-3).fit_train(loader(X, batch_size=256))

    np.testing.assert_allclose(model.leverage(new), dense_leverage(phi(net, X), phi(net, new), 1e-3, "free"), rtol=1e-5)


def test_low_precision_products_leave_the_leverage_alone(net):
    X, new = rows(500)[0], rows(20, seed=1)[0]
    before = torch.get_float32_matmul_precision()
    expected = LastLayerConformalRegressor(net, scale="leverage").fit_train(X)
    features = phi(net, new)
    try:
        torch.set_float32_matmul_precision("medium")
        factor = LastLayerConformalRegressor(net, scale="leverage").fit_train(X).space_.factor
    finally:
        torch.set_float32_matmul_precision(before)

    same = net[0].weight.device.type == "cpu"
    np.testing.assert_allclose(
        factor.leverage(features), expected.space_.factor.leverage(features), rtol=1e-12 if same else 1e-2
    )


def test_every_output_shares_one_factorisation(net, device):
    X, y = rows(200, n_outputs=3)
    many = network(3).to(device)
    many[0].load_state_dict(net[0].state_dict())

    model = LastLayerConformalRegressor(many, scale="leverage").fit_train(X, y).calibrate(*rows(99, 1, 3))

    single = LastLayerConformalRegressor(net, scale="leverage").fit_train(X)
    np.testing.assert_allclose(model.leverage(X), single.leverage(X), rtol=1e-12)
    assert model.predict_interval(X)[1].shape == (200, 3, 2)
    assert model.predict_interval(X, confidence_level=[0.5, 0.8])[1].shape == (200, 3, 2, 2)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_interval_is_the_order_statistic_of_the_scores_times_the_width(net, symmetric):
    (X, _), (X_cal, y_cal), (new, _) = rows(200), rows(99, 1), rows(30, 2)
    model = LastLayerConformalRegressor(net, scale="leverage", confidence_level=0.8, symmetric=symmetric)
    prediction, interval = model.fit_train(X).calibrate(X_cal, y_cal).predict_interval(new)

    with torch.no_grad():
        f_cal, f = (net(part.to(net[0].weight.device)).double().cpu().numpy()[:, 0] for part in (X_cal, new))
    h_cal, h = (dense_leverage(phi(net, X), phi(net, part), model.space_.ridge, "free") for part in (X_cal, new))
    scores = (y_cal.double().numpy() - f_cal) / np.sqrt(1 + h_cal)
    if symmetric:
        low, high = -np.sort(abs(scores))[79], np.sort(abs(scores))[79]
    else:
        low, high = np.sort(scores)[9], np.sort(scores)[89]
    np.testing.assert_allclose(prediction, f, rtol=1e-6)
    np.testing.assert_allclose(interval, f[:, None] + np.sqrt(1 + h)[:, None] * [low, high], rtol=1e-5, atol=1e-6)


def test_coverage_has_the_exact_beta_binomial_distribution(net):
    X, _ = rows(100)
    model = LastLayerConformalRegressor(net, scale="leverage", confidence_level=0.8).fit_train(X)
    n, m = 199, 4_000
    (X_cal, y_cal), (new, y_new) = rows(n, 11), rows(m, 12)

    _, interval = model.calibrate(loader(X_cal, y_cal)).predict_interval(loader(new, y_new))

    y = y_new.numpy()
    covered = int(((interval[:, 0] <= y) & (y <= interval[:, 1])).sum())
    rank = 160
    # False alarms: 1 in 10,000 per device; the seeds are fixed.
    assert betabinom.ppf(5e-5, m, rank, n + 1 - rank) <= covered <= betabinom.ppf(1 - 5e-5, m, rank, n + 1 - rank)


def test_the_band_widens_beyond_the_data_and_in_a_gap(net):
    X = rows(400)[0]
    X[:, 0] = X[:, 0].sign() * (1 + X[:, 0].abs())
    model = LastLayerConformalRegressor(net, scale="leverage", ridge=1e-3).fit_train(X).calibrate(*rows(99, 1))

    line = torch.zeros(3, N_INPUTS)
    line[:, 0] = torch.tensor([0.0, 1.5, 40.0])
    gap, near, far = np.diff(model.predict_interval(line)[1])[:, 0]

    assert near < min(gap, far)


def test_y_with_one_column_keeps_its_axis_and_without_it_is_never_broadcast(net):
    (X, y), (X_cal, y_cal) = rows(100), rows(50, 1)

    flat = LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).calibrate(X_cal, y_cal)
    column = LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y[:, None]).calibrate(X_cal, y_cal)

    assert flat.predict(X).shape == (100,)
    assert column.predict(X).shape == (100, 1)
    assert column.predict_interval(X)[1].shape == (100, 1, 2)
    np.testing.assert_array_equal(flat.predict_interval(X)[1], column.predict_interval(X)[1][:, 0])


@pytest.mark.parametrize("kind", ["loader", "pair", "two arrays", "numpy float64", "list of batches"])
def test_rows_may_come_in_any_form(net, kind):
    (X, y), (X_cal, y_cal) = rows(100), rows(60, 1)
    forms = {
        "loader": lambda X, y: (loader(X, y),),
        "pair": lambda X, y: ((X, y),),
        "two arrays": lambda X, y: (X, y),
        "numpy float64": lambda X, y: (X.double().numpy(), y.double().numpy()),
        "list of batches": lambda X, y: ([(X[:50], y[:50]), (X[50:], y[50:])],),
    }
    expected = LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).calibrate(X_cal, y_cal)

    seen = LastLayerConformalRegressor(net, scale="leverage").fit_train(*forms[kind](X, y))
    seen.calibrate(*forms[kind](X_cal, y_cal))

    # A bound may be close to 0.
    np.testing.assert_allclose(seen.predict_interval(X)[1], expected.predict_interval(X)[1], rtol=1e-4, atol=1e-5)
