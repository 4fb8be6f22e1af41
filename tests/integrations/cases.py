"""Data, models and a check that the tests of both bridges share."""

import inspect
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hatband import LeverageScale, MagnitudeScale, QuantileScale

MODELS = {
    "ridge": Ridge(0.5),
    "pipeline": make_pipeline(StandardScaler(), PolynomialFeatures(2), LinearRegression()),
    "forest": RandomForestRegressor(20, min_samples_leaf=5, random_state=0),
}
SCALES = {
    "constant": "constant",
    "leverage": LeverageScale(power=1.0),
    "strength": "strength",
    "magnitude": MagnitudeScale(random_state=0),
    "quantile": QuantileScale(random_state=0),
    "auto": "auto",
    "callable": lambda rows: 1 + np.abs(rows.prediction),
}


class Parts(NamedTuple):
    """Rows to train on, to calibrate on, and new ones."""

    train: tuple[np.ndarray, np.ndarray]
    calibration: tuple[np.ndarray, np.ndarray]
    new: tuple[np.ndarray, np.ndarray]


def made(seed: int = 0, n_calibration: int = 90, n_new: int = 60) -> Parts:
    """Rows whose noise grows with the first feature; the new rows reach further out."""
    rng = np.random.default_rng(seed)

    def draw(n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
        X = spread * rng.standard_normal((n, 3))
        return X, X @ [3.0, -2.0, 1.0] + np.exp(X[:, 0] / 3) * rng.gamma(2.0, size=n)

    return Parts(draw(150, 1.0), draw(n_calibration, 1.0), draw(n_new, 2.0))


def relative_difference(one: Any, other: Any) -> float:
    """Largest difference between two arrays of bounds, in mean sizes of the second."""
    return float(np.max(np.abs(np.asarray(one) - other)) / np.mean(np.abs(other)))


def undocumented(module: ModuleType) -> list[str]:
    """Public objects of a module without a docstring with an example, and public methods without a docstring."""
    found = []
    for name in module.__all__:
        value = getattr(module, name)
        found += [name] * (">>>" not in (inspect.getdoc(value) or ""))
        methods = [key for key in vars(value) if not key.startswith("_")]
        found += [f"{name}.{key}" for key in methods if not inspect.getdoc(getattr(value, key))]
    return found
