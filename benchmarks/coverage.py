"""Coverage, width and interval score on real regression sets, over all rows and by fifth of leverage.

Every split draws at most `--rows` rows with its own seed, keeps a fifth of them for testing, and gives the rest to the
method, which calibrates on a quarter of it. Coverage of a split is judged exactly: whatever the data, the number of
covered test rows is beta-binomial when the scores have no ties; ties can only raise it. So the rows inside the
interval must not be fewer than the lower bound, and the rows strictly inside not more than the upper one.

A later method is one more entry in METHODS, a later model one more in MODELS.
"""

import os
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from _chance import is_outside
from _report import Report, parser
from hatband import SplitConformalRegressor
from hatband.datasets import load, names
from hatband.formulas.metrics import coverage_by_group, interval_score, leverage_fifths

LEVEL = 0.9
# Chance that a run of correct methods misses a coverage target, shared by all its splits.
FALSE_ALARM = 1e-3

MODELS: dict[str, Callable[[int], RegressorMixin]] = {
    "ridge": lambda seed: make_pipeline(StandardScaler(), Ridge()),
    "boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
}


class Method(NamedTuple):
    """How intervals are made around a model, and from how many calibration rows out of n (None: no exact bounds)."""

    make: Callable[[RegressorMixin, int], Any]
    calibration_rows: Callable[[Any], int] | None


def _split(scale: str) -> Method:
    return Method(
        lambda model, seed: SplitConformalRegressor(model, scale=scale, confidence_level=LEVEL, random_state=seed),
        lambda fitted: len(fitted.scores_),
    )


METHODS = {"split, constant": _split("constant"), "split, leverage": _split("leverage")}


class Outcome(NamedTuple):
    """One method on the test rows of one split."""

    covered: np.ndarray
    strictly: np.ndarray
    width: np.ndarray
    score: np.ndarray
    leverage: np.ndarray
    calibration_rows: int | None
    seconds: float


def made_sets(rng_seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return sets made here, for runs without data: equal noise, and noise that grows with the distance."""
    X, y = make_friedman1(1_500, 10, noise=1.0, random_state=rng_seed)
    rng = np.random.default_rng(rng_seed)
    Z = rng.standard_normal((1_500, 20)) * rng.chisquare(4, (1_500, 1)) / 4
    spread = np.sqrt(1 + (Z**2).mean(axis=1))
    return {"made, friedman": (X, y), "made, spread": (Z, Z.sum(axis=1) + spread * rng.standard_normal(1_500))}


def sets(args: Namespace) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | None]]:
    """Yield one set at a time, None if it is not available; a quick run without a folder downloads nothing."""
    if os.environ.get("HATBAND_DATA") or not args.quick:
        for name in args.sets or [name for name in names() if name != "diabetes"]:
            yield name, _found(name)
        return
    yield "diabetes", _found("diabetes")
    yield from made_sets().items()


def _found(name: str) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        found = load(name)
    except FileNotFoundError as missing:
        print(missing)
        return None
    return found.data, found.target


def outcome(method: Method, model: RegressorMixin, data: tuple[np.ndarray, np.ndarray], seed: int, cap: int) -> Outcome:
    """Fit on four fifths of the rows of one split and measure on the last."""
    X, y = data
    rows = np.random.default_rng(seed).permutation(len(y))[: cap or None]
    test, rest = np.split(rows, [len(rows) // 5])
    start = time.perf_counter()
    fitted = method.make(model, seed).fit(X[rest], y[rest])
    _, interval = fitted.predict_interval(X[test])
    seconds = time.perf_counter() - start
    lower, upper = interval.T
    # A score that ties with the threshold may round to either side of it.
    slack = 1e-9 * np.where(np.isfinite(upper - lower), upper - lower, 0)
    return Outcome(
        covered=(lower - slack <= y[test]) & (y[test] <= upper + slack),
        strictly=(lower + slack < y[test]) & (y[test] < upper - slack),
        width=upper - lower,
        score=interval_score(y[test], lower, upper, LEVEL),
        leverage=fitted.leverage(X[test]),
        calibration_rows=method.calibration_rows(fitted) if method.calibration_rows else None,
        seconds=seconds,
    )


def outside_bounds(outcomes: list[Outcome], false_alarm: float) -> int:
    """Count the splits whose coverage no correct method would have, but for the false alarms shared among them."""
    tail = false_alarm / (2 * len(outcomes))
    return sum(_outside(run, tail) for run in outcomes)


def _outside(run: Outcome, tail: float) -> bool:
    rows = int(run.covered.sum()), int(run.strictly.sum()), run.calibration_rows, len(run.covered)
    return is_outside(*rows, level=LEVEL, tail=tail)


def summary(outcomes: list[Outcome], spread: float) -> dict[str, Any]:
    """Return the columns of one row: means over splits, and pooled coverage of the outer fifths of leverage."""
    shares = np.array([run.covered.mean() for run in outcomes])
    pooled = np.concatenate([run.covered for run in outcomes])
    fifths = np.concatenate([leverage_fifths(run.leverage) for run in outcomes])
    low, *_, high = coverage_by_group(pooled, fifths)
    width = np.mean([run.width.mean() for run in outcomes])
    columns = {
        "coverage": shares.mean(),
        "se": shares.std(ddof=1) / np.sqrt(len(shares)),
        "width / sd(y)": width / spread,
        # A few rows of enormous leverage can make up most of the mean.
        "median width / sd(y)": np.median(np.concatenate([run.width for run in outcomes])) / spread,
        "score / sd(y)": np.mean([run.score.mean() for run in outcomes]) / spread,
        "low fifth": low.coverage,
        "low se": low.standard_error,
        "high fifth": high.coverage,
        "high se": high.standard_error,
        "seconds": np.mean([run.seconds for run in outcomes]),
    }
    return {name: round(float(value), 4) for name, value in columns.items()}


def compare(report: Report, rows: list[dict[str, Any]]) -> None:
    """Report each method against the first one of the same model, over all sets."""
    reference = {(row["set"], row["model"]): row for row in rows if row["method"] == next(iter(METHODS))}
    for model in MODELS:
        for method in METHODS:
            mine = [row for row in rows if (row["model"], row["method"]) == (model, method)]
            gaps = [abs(row["low fifth"] - row["high fifth"]) for row in mine]
            pairs = [(row, reference[row["set"], model]) for row in mine]
            report.row(
                model=model,
                method=method,
                sets=len(mine),
                coverage=round(float(np.mean([row["coverage"] for row in mine])), 4),
                **{
                    "mean gap of the outer fifths": round(float(np.mean(gaps)), 4),
                    "width, geometric mean ratio": _ratio(pairs, "width / sd(y)"),
                    "score, geometric mean ratio": _ratio(pairs, "score / sd(y)"),
                },
            )


def _ratio(pairs: list[tuple[dict[str, Any], dict[str, Any]]], column: str) -> float:
    return round(float(np.exp(np.mean([np.log(row[column] / other[column]) for row, other in pairs]))), 4)


def main(args: Namespace) -> int:
    report = Report("coverage")
    splits = args.splits or (3 if args.quick else 20)
    cap = min(args.rows or 2_000, 2_000) if args.quick else args.rows
    judged: dict[str, list[Outcome]] = {}
    for set_name, data in sets(args):
        if data is None:
            report.target(f"coverage on {set_name}: splits outside exact bounds", None, 0)
            continue
        for (model_name, model), (method_name, method) in product(MODELS.items(), METHODS.items()):
            runs = [outcome(method, model(seed), data, seed, cap) for seed in range(splits)]
            columns = summary(runs, float(data[1].std()))
            report.row(set=set_name, model=model_name, method=method_name, splits=splits, **columns)
            print(f"{set_name}, {model_name}, {method_name}: coverage {columns['coverage']:.4f}", flush=True)
            if method.calibration_rows:
                judged.setdefault(method_name, []).extend(runs)
    compare(report, list(report.rows))
    for method_name, runs in judged.items():
        title = f"{method_name}: splits of {len(runs)} outside exact bounds (false-alarm rate {FALSE_ALARM:g} a run)"
        report.target(title, outside_bounds(runs, FALSE_ALARM / len(judged)), 0)
    return report.finish(args)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=6_000, help="largest number of rows of a split; 0: all")
    options.add_argument("--splits", type=int, default=0, help="splits per set (default: 20, quick: 3)")
    options.add_argument("--sets", nargs="+", metavar="NAME", help="sets to run (default: all fourteen)")
    return options.parse_args()


if __name__ == "__main__":
    # Infinite leverages and short calibration sets are figures here, not news.
    warnings.simplefilter("ignore", UserWarning)
    # Small fits gain nothing from threads, and lose much where other work shares the cores.
    with threadpool_limits(1):
        code = main(arguments())
    sys.exit(code)
