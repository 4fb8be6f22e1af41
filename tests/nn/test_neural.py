"""The scikit-learn estimator around a network: its contract, its coverage, and its files."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_readonly_memmap_input,
    check_regressor_data_not_an_array,
    parametrize_with_checks,
)

from hatband.nn import NeuralConformalRegressor, TrainingDivergedError


def estimator(**settings):
    return NeuralConformalRegressor(
        **{"widths": (8,), "epochs": 5, "scale": "leverage", "random_state": 0, **settings},
    )


def rows(n=160, seed=0, n_outputs=None):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    y = np.sin(X[:, :1]) * np.arange(1, (n_outputs or 1) + 1) + 0.3 * rng.standard_normal((n, n_outputs or 1))
    return X, y if n_outputs else y[:, 0]


# ---------------------------------------------------------------- scikit-learn


def cannot_hold(_):
    reason = "rows are drawn at random: a row repeated is not a row of weight two"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks([estimator()], expected_failed_checks=cannot_hold)
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [estimator(loss="gaussian", validation_size=0, calibration_size=0.5)], expected_failed_checks=cannot_hold
)
def test_scikit_learn_checks_pass_with_other_settings(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [check_dataframe_column_names_consistency, check_regressor_data_not_an_array, check_readonly_memmap_input],
    ids=lambda c: c.__name__,
)
def test_checks_that_scikit_learn_keeps_to_itself_pass(check):
    check("NeuralConformalRegressor", estimator())


def test_a_failed_fit_or_calibrate_leaves_the_model_as_it_was():
    X, y = rows()
    model = estimator().fit(X, y)
    _, interval = model.predict_interval(X)
    bad = np.where(np.arange(160) == 7, np.nan, y)
    for call in (model.fit, model.fit_train, model.calibrate):
        with pytest.raises(ValueError, match="y must be finite; row 7"):
            call(X, bad)
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        model.set_params(learning_rate=1e30).fit(X[:, :2], y)

    np.testing.assert_array_equal(model.predict_interval(X)[1], interval)
    assert model.n_features_in_ == 3


def test_unfitted_and_uncalibrated_say_what_to_call():
    X, y = rows()
    model = estimator()
    for call in (model.predict, model.predict_interval, model.leverage, lambda X: model.calibrate(X, y), model.save):
        with pytest.raises(NotFittedError, match="Call fit, or fit_train and calibrate, before"):
            call(X)
    with pytest.raises(NotFittedError, match="trained but not calibrated; call calibrate first"):
        model.fit_train(X, y).predict_interval(X)
    assert model.fit_train(X, y).predict(X).shape == (160,)


# ---------------------------------------------------------------- intervals


def test_width_is_the_root_of_one_plus_the_leverage_of_the_last_hidden_layer():
    X, y = rows()
    model = estimator(calibration_size=0, validation_size=0).fit(X, y).calibrate(*rows(99, 1))
    new = rows(30, 2)[0]
    with torch.no_grad():
        train, phi = (
            model.module_.features(torch.tensor(part, dtype=torch.float32)).double().numpy() for part in (X, new)
        )
    mean = train.mean(axis=0)
    gram = (train - mean).T @ (train - mean)
    inverse = np.linalg.inv(gram + 1e-4 * np.trace(gram) / 8 * np.eye(8))
    expected = 1 / 160 + np.einsum("ij,jk,ik->i", phi - mean, inverse, phi - mean)

    np.testing.assert_allclose(model.leverage(new), expected, rtol=1e-6)
    width = np.diff(model.predict_interval(new)[1])[:, 0] / np.sqrt(1 + expected)
    np.testing.assert_allclose(width, width[0], rtol=1e-6)


def test_columns_far_from_zero_lose_no_digits():
    X, y = rows(200)
    shift = np.array([2.0**31, 0.0, -(2.0**33)])
    plain, moved = (estimator(epochs=10).fit(X + s, y) for s in (0.0, shift))

    np.testing.assert_array_equal(plain.offset_, 0)
    np.testing.assert_allclose(moved.predict_interval(X + shift)[1], plain.predict_interval(X)[1], atol=2e-3)


@pytest.mark.parametrize("shape", [(200,), (200, 1), (200, 2)])
@pytest.mark.parametrize("levels", [0.9, [0.5, 0.9]])
def test_a_target_far_from_zero_loses_no_digits(shape, levels):
    X, y = rows(200)
    y = np.resize(y, shape[::-1]).T
    shift = np.resize([2.0**40, -(2.0**38)], shape[1:] or 1)
    plain, moved = (estimator(epochs=10).fit(X, y + s) for s in (0.0, shift))

    np.testing.assert_array_equal(plain.target_offset_, 0)
    assert (np.abs(moved.target_offset_ - shift) < 1).all()
    np.testing.assert_allclose(moved.predict(X) - shift, plain.predict(X), atol=2e-3)
    by = shift.reshape(-1, *[1] * (np.ndim(levels) + 1))
    expected = plain.predict_interval(X, levels)[1]
    np.testing.assert_allclose(moved.predict_interval(X, levels)[1] - by, expected, atol=4e-3)
    found = moved.calibrate(X, y + shift).predict_interval(X, levels)[1]
    np.testing.assert_allclose(found - by, plain.calibrate(X, y).predict_interval(X, levels)[1], atol=4e-3)


def test_coverage_lies_within_exact_bounds():
    X, y = rows(300)
    model = estimator(epochs=20).fit_train(X, y)
    n_cal, n_new, draws = 39, 400, 10
    lower, upper = betabinom(n_new, 36, 4).ppf([1e-7, 1 - 1e-7])  # rank 36 of 39 at 0.9; 10 draws: 2e-6 false alarms
    for seed in range(draws):
        X, y = rows(n_cal + n_new, seed + 10)
        _, interval = model.calibrate(X[:n_cal], y[:n_cal]).predict_interval(X[n_cal:])
        inside = (interval[:, 0] <= y[n_cal:]) & (y[n_cal:] <= interval[:, 1])
        assert lower <= inside.sum() <= upper


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 16},
        {"learning_rate": 1e-2},
        {"weight_decay": 10.0},
        {"activation": "tanh"},
        {"dropout": 0.5},
        {"widths": (9,)},
        {"epochs": 6},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_network_and_of_its_training_act(settings):
    X, y = rows()
    plain, other = estimator().fit(X, y), estimator(**settings).fit(X, y)

    assert abs(other.predict(X) - plain.predict(X)).max() > 1e-4


def test_training_stops_when_its_patience_is_at_its_end_and_progress_is_told():
    X, _ = rows()
    heard = []
    noise = np.random.default_rng(1).standard_normal(160)
    model = estimator(epochs=200, patience=2, learning_rate=0.05, progress=heard.append).fit(X, noise)

    assert tuple(heard) == model.history_.epochs
    assert len(heard) == model.history_.best_epoch + 2 < 200


def test_settings_of_the_band_act():
    X, y = rows()
    plain = estimator().fit(X, y)

    assert estimator(ridge=5.0).fit(X, y).model_.space_.ridge == 5.0
    np.testing.assert_array_equal(
        estimator(confidence_level=0.5).fit(X, y).predict_interval(X)[1], plain.predict_interval(X, 0.5)[1]
    )
    prediction, interval = estimator(symmetric=False).fit(X, y).predict_interval(X, 0.8)
    scores = np.sort(plain.model_.scores_[:, 0])
    width = np.sqrt(1 + plain.leverage(X))
    # Of 40 scores the 4th and the 37th leave a tenth out on each side.
    np.testing.assert_allclose(interval[:, 0], prediction + scores[3] * width, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(interval[:, 1], prediction + scores[36] * width, rtol=1e-6, atol=1e-7)


def test_fit_scores_the_rows_that_it_kept_for_calibration():
    X, y = rows()
    model = estimator().fit(X, y)
    held = model.calibration_indices_

    expected = (y[held] - model.predict(X[held])) / np.sqrt(1 + model.leverage(X[held]))
    assert len(held) == 40
    np.testing.assert_allclose(model.model_.scores_[:, 0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", ["leverage", "auto"])
def test_neither_network_nor_scale_knows_anything_of_the_calibration_rows(scale):
    X, y = rows(400)
    model = estimator(scale=scale).fit(X, y)
    held = model.calibration_indices_
    X[held], y[held] = X[held] + 50, 1e3

    other = estimator(scale=scale).fit(X, y)

    new = rows(30, 1)[0]
    np.testing.assert_array_equal(other.calibration_indices_, held)
    widths = [np.diff(one.calibrate(*rows(99, 2)).predict_interval(new)[1]) for one in (model, other)]
    np.testing.assert_array_equal(*widths)
    np.testing.assert_array_equal(other.predict(new), model.predict(new))


def test_a_scale_that_learns_does_so_from_rows_held_out():
    X, y = rows(800)
    model = estimator(scale="auto", epochs=15).fit(X, y)

    assert model.model_.residuals_from_ == "validation rows"
    assert len(model.model_.learned_from_.residuals) == 120
    assert len(model.calibration_indices_) == 200


def test_a_noise_head_is_trained_by_the_gaussian_loss():
    assert estimator(loss="gaussian").fit(*rows()).module_.noise_head is not None
    assert estimator().fit(*rows()).module_.noise_head is None


def test_global_generators_stay_as_they_were():
    state = torch.get_rng_state()
    estimator().fit(*rows())

    assert torch.equal(torch.get_rng_state(), state)


def test_training_and_prediction_take_place_on_the_device(device):
    X, y = rows()
    model = estimator(device=device).fit(X, y)

    assert next(model.module_.parameters()).device.type == device.type
    np.testing.assert_allclose(model.predict(X), estimator().fit(X, y).predict(X), atol=0.05)
