"""The methods that `adaptive.py` compares, and what is measured of each."""

import importlib.util
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from hatband import SplitConformalRegressor
from hatband.fitted.rows import Rows, TrainingRows, new_rows
from hatband.fitted.training_rows import training_rows
from hatband.formulas.metrics import covered, interval_score, quantile_bins
from hatband.formulas.order_statistics import conformal_quantile
from hatband.geometry import geometry_of
from hatband.scales.named import as_scale, fit_scale

LEVEL = 0.9
# Splits of each set on which the cost of AutoScale.fit is measured.
COST_SPLITS = 3


class Parts(NamedTuple):
    """The rows of one split."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_calibrate: np.ndarray
    y_calibrate: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


class Interval(NamedTuple):
    """Bounds of the test rows, the number of rows that calibrated, the cost of the scale, and the time if known."""

    bounds: np.ndarray
    calibration_rows: int
    cost: float | None = None
    seconds: float | None = None


class Method(NamedTuple):
    """How intervals are made, whether their coverage is exactly beta-binomial, and the package that it needs."""

    run: Callable[[Any, Parts, int], Interval]
    exact: bool = True
    needs: str | None = None


class Prepared(NamedTuple):
    """What all our methods share in a cell: held-out training rows, calibration and test rows, and their time."""

    held_out: TrainingRows
    calibrate: Rows
    test: Rows
    seconds: float


def split(scale: Any) -> Callable[[Any, Parts, int], Interval]:
    """Return our split-conformal intervals with a scale that learns nothing."""

    def run(model: Any, rows: Parts, seed: int) -> Interval:
        conformal = SplitConformalRegressor(model, scale=scale, confidence_level=LEVEL, random_state=seed)
        conformal.fit_train(rows.X_train, rows.y_train).calibrate(rows.X_calibrate, rows.y_calibrate)
        _, interval = conformal.predict_interval(rows.X_test)
        return Interval(interval, len(rows.y_calibrate))

    return run


def learned(scale: str) -> Callable[[Any, Parts, int], Interval]:
    """Return the intervals that SplitConformalRegressor makes with a learned scale, on rows that scales share."""
    return lambda model, rows, seed: _learned(scale, prepared(model, rows, seed), rows, seed)[0]


def chosen(model: Any, rows: Parts, seed: int) -> Interval:
    """Return the scale chosen by AutoScale, with the time of its fit in units of two boosted quantile regressions."""
    found, cost = _learned("auto", prepared(model, rows, seed), rows, seed)
    if seed >= COST_SPLITS:
        return found
    return found._replace(cost=cost / _cpu_seconds(lambda: _quantile_pair(rows.X_train, rows.y_train, seed)))


def _learned(scale: str, shared: Prepared, rows: Parts, seed: int) -> tuple[Interval, float]:
    """Return the intervals, and the processor time of fitting the scale."""
    start = time.perf_counter()
    fitted = as_scale(scale, LEVEL, seed)
    cost = _cpu_seconds(lambda: fit_scale(fitted, lambda: shared.held_out))
    bounds = _calibrated(fitted, shared, rows)
    seconds = shared.seconds + time.perf_counter() - start
    return Interval(bounds, len(rows.y_calibrate), seconds=seconds), cost


def _calibrated(scale: Any, shared: Prepared, rows: Parts) -> np.ndarray:
    shift, width = scale.predict(shared.calibrate)
    scores = np.abs(rows.y_calibrate[:, None] - shared.calibrate.prediction - shift) / width
    half_of = conformal_quantile(scores, LEVEL)
    shift, width = scale.predict(shared.test)
    centre, half = shared.test.prediction + shift, half_of * width
    return np.hstack([centre - half, centre + half])


def prepared(model: Any, rows: Parts, seed: int) -> Prepared:
    """Fit the model and compute every field of the rows, once for all methods of a cell."""
    key = (repr(model), seed, rows.X_train.shape, rows.X_train.tobytes())
    if key not in _PREPARED:
        _PREPARED.clear()
        start = time.perf_counter()
        fitted = clone(model).fit(rows.X_train, rows.y_train)
        space = geometry_of(fitted).fit(rows.X_train)
        held_out = training_rows(fitted, space, rows.X_train, rows.y_train[:, None], template=model, random_state=seed)
        later = [new_rows(fitted, space, X, 1) for X in (rows.X_calibrate, rows.X_test)]
        for found in (held_out.rows, *later):
            for field in ("inputs", "leverage", "sampling_leverage", "prediction"):
                getattr(found, field)
        _PREPARED[key] = Prepared(held_out, *later, time.perf_counter() - start)
    return _PREPARED[key]


_PREPARED: dict[Any, Prepared] = {}


def _cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _quantile_pair(X: np.ndarray, y: np.ndarray, seed: int) -> list[Any]:
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    regressors = [HistGradientBoostingRegressor(loss="quantile", quantile=tail, random_state=seed) for tail in tails]
    return [regressor.fit(X, y) for regressor in regressors]


def quantile_regression(model: Any, rows: Parts, seed: int) -> Interval:
    """Return conformalised quantile regression: boosted quantiles of y itself (Romano et al. 2019, algorithm 1)."""
    pair = _quantile_pair(rows.X_train, rows.y_train, seed)
    low, high = np.sort([regressor.predict(rows.X_calibrate) for regressor in pair], axis=0)
    scores = np.maximum(low - rows.y_calibrate, rows.y_calibrate - high)
    threshold = conformal_quantile(scores[:, None], LEVEL)[0]
    low, high = np.sort([regressor.predict(rows.X_test) for regressor in pair], axis=0)
    # A negative threshold can make an interval empty: its bounds meet in the middle then.
    half = np.maximum((high - low) / 2 + threshold, 0)
    middle = (low + high) / 2
    return Interval(np.stack([middle - half, middle + half], axis=1), len(scores))


def mapie_normalised(regressor: Callable[[int], Any]) -> Callable[[Any, Parts, int], Interval]:
    """Return MAPIE's residual-normalised score, whose regressor learns from a quarter of the calibration rows."""

    def run(model: Any, rows: Parts, seed: int) -> Interval:
        from mapie.conformity_scores import ResidualNormalisedScore
        from mapie.regression import SplitConformalRegressor as MapieRegressor

        score = ResidualNormalisedScore(residual_estimator=regressor(seed), random_state=seed)
        conformal = MapieRegressor(model, confidence_level=LEVEL, conformity_score=score, prefit=False)
        conformal.fit(rows.X_train, rows.y_train).conformalize(rows.X_calibrate, rows.y_calibrate)
        _, interval = conformal.predict_interval(rows.X_test)
        return Interval(interval[:, :, 0], len(rows.y_calibrate) - -(-len(rows.y_calibrate) // 4))

    return run


def crepes_difficulty(model: Any, rows: Parts, seed: int) -> Interval:
    """Return crepes' normalised regressor: the mean |residual| of 25 neighbours, residuals from 5 folds."""
    from crepes import ConformalRegressor
    from crepes.extras import DifficultyEstimator

    folds = KFold(5, shuffle=True, random_state=seed)
    residuals = rows.y_train - cross_val_predict(clone(model), rows.X_train, rows.y_train, cv=folds)
    scaler = StandardScaler().fit(rows.X_train)
    difficulty = DifficultyEstimator().fit(scaler.transform(rows.X_train), residuals=residuals, scaler=True)
    fitted = clone(model).fit(rows.X_train, rows.y_train)
    sigmas = [difficulty.apply(scaler.transform(X)) for X in (rows.X_calibrate, rows.X_test)]
    conformal = ConformalRegressor().fit(rows.y_calibrate - fitted.predict(rows.X_calibrate), sigmas=sigmas[0])
    bounds = conformal.predict_int(fitted.predict(rows.X_test), sigmas=sigmas[1], confidence=LEVEL)
    return Interval(np.asarray(bounds), len(rows.y_calibrate))


METHODS = {
    "constant": Method(split("constant")),
    "leverage": Method(split("leverage")),
    "strength": Method(learned("strength")),
    "magnitude": Method(learned("magnitude")),
    "quantile": Method(learned("quantile")),
    "AutoScale": Method(chosen),
    "MAPIE normalised": Method(mapie_normalised(lambda seed: None), exact=False, needs="mapie"),
    "MAPIE normalised, boosting": Method(
        mapie_normalised(lambda seed: HistGradientBoostingRegressor(random_state=seed)), exact=False, needs="mapie"
    ),
    "CQR, boosting": Method(quantile_regression, exact=False),
    "crepes, 25 neighbours": Method(crepes_difficulty, exact=False, needs="crepes"),
}


@cache
def absent() -> dict[str, str]:
    """Return the methods whose package is not installed, and the reason in words."""
    missing = {name: method.needs for name, method in METHODS.items() if method.needs and not _installed(method.needs)}
    return {name: f"{package} is not installed" for name, package in missing.items()}


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def measured(method: Method, model: Any, rows: Parts, seed: int) -> dict[str, Any]:
    """Return the figures of one method in one cell."""
    start = time.perf_counter()
    found = method.run(model, rows, seed)
    seconds = time.perf_counter() - start if found.seconds is None else found.seconds
    lower, upper = found.bounds.T
    inside = covered(rows.y_test, lower, upper)
    # A score that ties with the threshold may round to either side of it.
    slack = 1e-9 * np.where(np.isfinite(upper - lower), upper - lower, 0)
    deciles = _deciles(rows)
    figures = {
        "coverage": float(inside.mean()),
        "inside": int(covered(rows.y_test, lower - slack, upper + slack).sum()),
        "strictly": int(((lower + slack < rows.y_test) & (rows.y_test < upper - slack)).sum()),
        "tests": len(inside),
        "calibration_rows": found.calibration_rows,
        "width": float(np.mean(upper - lower)),
        "score": float(interval_score(rows.y_test, lower, upper, LEVEL).mean()),
        "deciles": [[int(inside[deciles == k].sum()), int((deciles == k).sum())] for k in range(10)],
        "seconds": seconds,
    }
    return figures if found.cost is None else {**figures, "cost": found.cost}


def _deciles(rows: Parts) -> np.ndarray:
    """Return the tenth of each test row by its leverage in the standardised inputs."""
    from hatband import InputsGeometry

    space = InputsGeometry().fit(rows.X_train)
    return quantile_bins(space.leverage(space.features(rows.X_test)), 10)
