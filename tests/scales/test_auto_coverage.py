"""Coverage of the default scale is exactly beta-binomial, because no calibration row takes part in the choice."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from hatband import SplitConformalRegressor
from hatband.fitted.rows import new_rows
from hatband.scales.candidates import default_candidates
from hatband.scales.named import as_scale
from oracles import covered_bounds, exact_upper_rank
from scales.cases import draw

LEVEL = Fraction(9, 10)
FALSE_ALARM = 1e-6
SIZES = [19, *(pytest.param(size, marks=pytest.mark.slow) for size in (29, 49))]


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(7)
    return SplitConformalRegressor(LinearRegression(), scale="auto", random_state=0).fit_train(*draw(rng, 200))


@pytest.mark.parametrize("calibration", SIZES)
def test_the_default_keeps_exact_coverage_at_small_calibration_sizes(model, calibration):
    """False-alarm rate 1e-6 for each size."""
    rng = np.random.default_rng(calibration)
    repetitions, tests, inside = 100, 40, 0
    for _ in range(repetitions):
        model.calibrate(*draw(rng, calibration))
        X, y = draw(rng, tests)
        lower, upper = model.predict_interval(X)[1].T
        inside += int(((lower <= y) & (y <= upper)).sum())
    fewest, most = covered_bounds(calibration, LEVEL, tests, repetitions, false_alarm=FALSE_ALARM)

    assert fewest <= inside <= most
    assert any(entry["chosen"] and "score" in entry for entry in model.scale_.report_)


@pytest.mark.parametrize("calibration", SIZES)
def test_choosing_by_calibration_rows_would_lose_it(model, calibration):
    """The narrowest of the same candidates, each fitted on training rows, on the rows that calibrate it too."""
    rng = np.random.default_rng(calibration)
    repetitions, tests = 1500, 10
    scores, widths = _on_new_rows(model, rng, repetitions * (calibration + tests))
    scores = scores.reshape(repetitions, calibration + tests, -1)
    widths = widths.reshape(scores.shape)[:, :calibration].mean(axis=1)
    rank = exact_upper_rank(calibration, LEVEL)
    thresholds = np.sort(scores[:, :calibration], axis=1)[:, rank - 1]
    narrowest = (thresholds * widths).argmin(axis=1)
    each = np.arange(repetitions)
    inside = scores[each, calibration:, narrowest] <= thresholds[each, narrowest][:, None]
    fewest, _ = covered_bounds(calibration, LEVEL, tests, repetitions, false_alarm=FALSE_ALARM)

    assert inside.sum() < fewest


def _on_new_rows(model, rng, n):
    """Scores and widths (n, k) of the k candidates on new rows."""
    rng_train = np.random.default_rng(7)
    rows, residuals = _training_rows(model, *draw(rng_train, 200))
    X, y = draw(rng, n)
    new = new_rows(model.model_, model.space_, X, 1)
    scores, widths = [], []
    for scale in default_candidates().values():
        if isinstance(scale, tuple):
            continue
        shift, width = clone(as_scale(scale, 0.9, 0)).fit(rows, residuals).predict(new)
        scores.append((np.abs(y[:, None] - new.prediction - shift) / width)[:, 0])
        widths.append(width[:, 0])
    return np.stack(scores, axis=1), np.stack(widths, axis=1)


def _training_rows(model, X, y):
    from hatband.fitted.training_rows import training_rows

    found = training_rows(model.model_, model.space_, X, y[:, None], template=LinearRegression())
    return found.rows, found.residuals
