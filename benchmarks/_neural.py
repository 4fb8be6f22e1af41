"""What `neural.py` measures: intervals around the same networks, and full conformal intervals without a split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from hatband import interval_score
from hatband.formulas.metrics import covered
from hatband.formulas.order_statistics import conformal_quantile
from hatband.formulas.ridge_choice import best_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.linalg import KernelSpectrum
from hatband.nn import (
    MLP,
    LastLayerConformalRegressor,
    LinearisedConformalRegressor,
    NoiseScale,
    TangentFeatures,
    TangentGeometry,
    fit_network,
)

LEVEL = 0.9
# Share of the training half that decides when training stops, and that noise and learned scales are fitted to.
VALIDATION = 0.2


class Pair(NamedTuple):
    """Inputs and targets of some rows."""

    X: np.ndarray
    y: np.ndarray


class Parts(NamedTuple):
    """The rows of one split."""

    train: Pair
    validation: Pair
    calibrate: Pair
    test: Pair


def parts(data: Pair, seed: int, cap: int) -> Parts:
    """Draw the rows of one split: 40 % train, 10 % validate, a quarter calibrates, a quarter tests."""
    order = np.random.default_rng(1_000 + seed).permutation(len(data.y))[:cap]
    half, quarter = len(order) // 2, len(order) // 4
    kept = half - round(VALIDATION * half)
    pieces = np.split(order, [kept, half, half + quarter])
    return Parts(*(Pair(data.X[index], data.y[index]) for index in pieces))


def figures(interval: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return coverage, mean width and mean interval score."""
    lower, upper = interval.T
    return {
        "inside": int(covered(y, lower, upper).sum()),
        "tests": len(y),
        "width": float(np.mean(upper - lower)),
        "score": float(np.mean(interval_score(y, lower, upper, LEVEL))),
    }


# -------------------------------------------------------------------- the same network, several scales


def network(rows: Parts, loss: str, seed: int) -> Any:
    """Train a perceptron of two hidden layers of 64, stopped by the validation rows."""
    torch.manual_seed(seed)
    module = MLP(rows.train.X.shape[1], widths=(64, 64), noise_head=loss == "gaussian")
    fit_network(module, *rows.train, loss=loss, validation=tuple(rows.validation), random_state=seed)
    return module


def _last_layer(scale: str) -> Callable[[Any, Parts, int], Any]:
    def fitted(module: Any, rows: Parts, seed: int) -> Any:
        model = LastLayerConformalRegressor(module, scale=scale, confidence_level=LEVEL, random_state=seed)
        return model.fit_train(*rows.train, validation=tuple(rows.validation))

    return fitted


def _all_layers(module: Any, rows: Parts, seed: int) -> Any:
    model = LastLayerConformalRegressor(
        module, layer="all", scale="leverage", confidence_level=LEVEL, random_state=seed
    )
    return model.fit_train(*rows.train)


def _claps(noise: str) -> Callable[[Any, Parts, int], Any]:
    def fitted(module: Any, rows: Parts, seed: int) -> Any:
        scale: Any = "leverage"
        if noise != "constant":
            scale = NoiseScale(module.noise if noise == "head" else noise, random_state=seed)
        model = LastLayerConformalRegressor(
            module, scale=scale, ridge="evidence", confidence_level=LEVEL, random_state=seed
        )
        return model.fit_train(*rows.train, validation=tuple(rows.validation))

    return fitted


BASE = "split"
# The networks that have a noise head are trained by its likelihood; the others by squared error.
METHODS: dict[str, dict[str, Callable[[Any, Parts, int], Any]]] = {
    "squared": {
        BASE: _last_layer("constant"),
        "leverage": _last_layer("leverage"),
        "leverage, all layers": _all_layers,
        "CLAPS v1": _claps("constant"),
        "CLAPS v4": _claps("learned"),
        "auto": _last_layer("auto"),
    },
    "gaussian": {
        BASE: _last_layer("constant"),
        "CLAPS v1": _claps("constant"),
        "CLAPS v4": _claps("head"),
        "auto": _last_layer("auto"),
    },
}


def scales(data: Pair, seed: int, cap: int) -> dict[str, dict[str, float]]:
    """Return the figures of every method around both networks of one split."""
    rows = parts(data, seed, cap)
    found = {}
    for loss, methods in METHODS.items():
        module = network(rows, loss, seed)
        for name, fitted in methods.items():
            model = fitted(module, rows, seed).calibrate(*rows.calibrate)
            _, interval = model.predict_interval(rows.test.X)
            found[f"{loss}, {name}"] = figures(interval, rows.test.y) | {"calibration_rows": len(rows.calibrate.y)}
    return found


# -------------------------------------------------------------------- all rows for training


def whole_network(data: Pair, seed: int, cap: int) -> dict[str, dict[str, float]]:
    """Return the figures of split, split by whole-network leverage, and full conformal on one split of the rows.

    Split trains on half of the rows and calibrates on a quarter; full conformal trains on both.
    """
    rows = parts(data, seed, cap)
    half, both = _joined(rows.train, rows.validation), _joined(rows.train, rows.validation, rows.calibrate)
    module = _small_network(half, seed)
    error, prediction = np.abs(rows.calibrate.y - _predicted(module, rows.calibrate.X)), _predicted(module, rows.test.X)
    geometry = TangentGeometry(module, _evidence_ridge(module, half))
    space = geometry.fit(half.X)
    width_at_calibration, width = (
        np.sqrt(1 + space.leverage(space.features(X))) for X in (rows.calibrate.X, rows.test.X)
    )
    full = LinearisedConformalRegressor(_small_network(both, seed), confidence_level=LEVEL).fit(*both)
    intervals = {
        "split": _around(prediction, conformal_quantile(error, LEVEL) * np.ones(len(prediction))),
        "split / leverage": _around(prediction, conformal_quantile(error / width_at_calibration, LEVEL) * width),
        "full, studentised": full.predict_interval(rows.test.X)[1],
    }
    return {name: figures(interval, rows.test.y) for name, interval in intervals.items()}


def _joined(*pairs: Pair) -> Pair:
    return Pair(*(np.concatenate(part) for part in zip(*pairs, strict=True)))


def _small_network(rows: Pair, seed: int) -> Any:
    """One hidden layer of 50, as in Tailor et al. (2025)."""
    torch.manual_seed(seed)
    module = MLP(rows.X.shape[1], widths=(50,), activation="gelu")
    settings: dict[str, Any] = {"epochs": 300, "patience": 40, "learning_rate": 3e-3, "weight_decay": 1e-2}
    fit_network(module, *rows, validation_size=0.1, random_state=seed, **settings)
    return module


def _evidence_ridge(module: Any, rows: Pair) -> float:
    features = TangentFeatures(module)
    at = features.expand(rows.X)
    centred = at.gradient - at.gradient.mean(axis=0)
    target = rows.y - at.value + at.gradient @ features.weights
    return best_ridge(RidgeSpectrum.of_kernel(KernelSpectrum.of(centred @ centred.T, None, True), target), "evidence")


def _predicted(module: Any, X: np.ndarray) -> np.ndarray:
    return TangentFeatures(module).expand(X).value


def _around(center: np.ndarray, half: np.ndarray) -> np.ndarray:
    return np.stack([center - half, center + half], axis=1)
