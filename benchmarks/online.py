"""Streams in time order: OnlineConformalRegressor at levels that correct themselves, against fixed ones and a split.

beijing_pm25 (hourly rows of twelve stations, in time order), each row predicted before it is learned; figures are of
the last 200,000 rows. Width and interval score are those of intervals cut to the range of y in the whole set, which
costs no coverage and makes infinite ones (`infinite` is their share) as wide as can be. `level error` is the mean of
|coverage - 0.9| over windows of 2,000 rows, `worst` the least coverage of one. Memory is the peak that tracemalloc
sees while a stream is followed in blocks. With --quick, or without HATBAND_DATA, made data that drift.
"""

import os
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from _report import Report, parser
from hatband import OnlineConformalRegressor, SplitConformalRegressor
from hatband.datasets import load
from hatband.formulas.metrics import covered, interval_score

LEVEL, LOCAL, BLOCK = 0.9, 2_000, 288
# The first rows, which fit the scaler; the split is trained and calibrated on the first year.
FIRST, YEAR = 2_000, 95_000
WINDOWS = {"all rows": None, "30 days": 8_640, "7 days": 2_016}
RULES = ("fixed", "adaptive", "aggregated")


def drifting(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Slopes that wander, noise that comes in waves and doubles in between, inputs that spread."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 6)) * np.linspace(1, 2, n)[:, None]
    slopes = np.cumsum(rng.standard_normal((n, 6)), axis=0) * 0.02
    noise = (1.2 + np.sin(np.arange(n) / 1_500)) * np.where(np.arange(n) // 7_000 % 2, 2.0, 1.0)
    return X, (X * slopes).sum(axis=1) + noise * rng.standard_normal(n)


def blocks(n: int) -> Iterator[slice]:
    yield slice(0, FIRST)
    for start in range(FIRST, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def followed(model: OnlineConformalRegressor, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Intervals as they were issued, and seconds."""
    interval, start = np.empty((len(y), 2)), time.perf_counter()
    for part in blocks(len(y)):
        interval[part] = model.predict_then_fit(X[part], y[part])[1]
    return interval, time.perf_counter() - start


def peak_memory(model: OnlineConformalRegressor, X: np.ndarray, y: np.ndarray) -> float:
    """Most megabytes that the model and its work ever took."""
    tracemalloc.start()
    for part in blocks(len(y)):
        model.predict_then_fit(X[part], y[part])
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return peak


def figures(y: np.ndarray, interval: np.ndarray, last: int) -> dict[str, Any]:
    span, y, interval = (y.min(), y.max()), y[-last:], interval[-last:]
    held = covered(y, *interval.T)
    local = held[: len(held) // LOCAL * LOCAL].reshape(-1, LOCAL).mean(axis=1)
    lower, upper = interval.clip(*span).T
    return {
        "coverage": held.mean(),
        "level error": np.abs(local - LEVEL).mean(),
        "worst": local.min(),
        "infinite": np.isinf(interval).any(axis=1).mean(),
        "width": (upper - lower).mean(),
        "score": interval_score(y, lower, upper, LEVEL).mean(),
    }


def split_intervals(X: np.ndarray, y: np.ndarray, train: int) -> tuple[np.ndarray, float]:
    """A split conformal model of the first rows, never updated."""
    start = time.perf_counter()
    model = SplitConformalRegressor(make_pipeline(StandardScaler(), Ridge()), scale="leverage", random_state=0)
    _, interval = model.fit(X[:train], y[:train]).predict_interval(X)
    return interval, time.perf_counter() - start


def main() -> int:
    args = parser(__doc__).parse_args()
    report = Report("online")
    real = not args.quick and "HATBAND_DATA" in os.environ
    X, y = load("beijing_pm25")[:2] if real else drifting(30_000)
    last, train = (200_000, YEAR) if real else (20_000, 8_000)
    interval, seconds = split_intervals(X, y, train)
    report.row(model="split, never updated", level="-", **figures(y, interval, last), seconds=seconds)
    adapted, plain = [], []
    for name, window in WINDOWS.items():
        for rule in RULES:
            model = OnlineConformalRegressor(window=window, adaptation=rule, transformer=StandardScaler())
            interval, seconds = followed(model, X, y)
            found = figures(y, interval, last)
            report.row(model=f"online, {name}", level=rule, **found, seconds=seconds)
            (plain if rule == "fixed" else adapted).append(found)
    where = "beijing_pm25" if real else "made drifting data"
    gap = max(abs(found["coverage"] - LEVEL) for found in adapted)
    report.target(f"|coverage - 0.9| of adaptive levels on the last rows of {where}", gap, 0.01)
    worst = max(found["level error"] for found in adapted[1::2]) / min(found["level error"] for found in plain)
    report.target("local level error, worst aggregated over best fixed", worst, 1.0)
    if not real:
        report.target("|coverage - 0.9| of adaptive levels on the last 200,000 rows of beijing_pm25", None, 0.01)
    memory(report, X, y)
    return report.finish(args)


def memory(report: Report, X: np.ndarray, y: np.ndarray) -> None:
    """Peak memory of half a stream and of a whole one."""
    n = min(len(y) // 2, 40_000)
    for name, window in WINDOWS.items():
        model = OnlineConformalRegressor(window=window, transformer=StandardScaler())
        short, long = (peak_memory(model, X[:rows], y[:rows]) for rows in (n // 2, n))
        report.row(memory=f"online, {name}", **{"half, MB": short, "whole, MB": long, "data, MB": X[:n].nbytes / 1e6})
        report.target(f"peak memory of {n} rows over that of half as many, {name}", long / short, 1.2)


if __name__ == "__main__":
    sys.exit(main())
