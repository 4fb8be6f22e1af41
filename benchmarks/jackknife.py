"""Jackknife+ from one factorisation: time and memory against MAPIE, what a split costs, and approximate leave-one-out.

Speed is that of fit and 1,000 intervals together, in processes of their own, MAPIE and ours in turn in the same run;
their bounds must agree. The other tables: split against jackknife+ on the same rows; one Newton step against published
figures and against refits; transformers held at their full fit against transformers refitted without each row.
"""

import multiprocessing
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, LeaveOneOut
from threadpoolctl import threadpool_limits

import _jackknife
from _report import Report, parser
from hatband import CrossConformalRegressor, FullConformalRegressor, JackknifePlusRegressor

TEST_ROWS, LEVEL = 1000, 0.9
# (rows, features, how many times faster than MAPIE it has to be).
SIZES = ((500, 20, 30.0), (2000, 50, 80.0), (10_000, 100, 150.0))
GROWTH = (1000, 2000, 4000, 8000, 16_000)
GROWTH_MAPIE = (250, 500, 1000, 2000)
GROWTH_FEATURES = 50


def draw(n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n + TEST_ROWS, d))
    y = X @ rng.standard_normal(d) + rng.standard_normal(n + TEST_ROWS)
    return X[:n], y[:n], X[n:]


def ours(X: np.ndarray, y: np.ndarray, rows: np.ndarray, method: str = "plus", scale: str = "constant") -> np.ndarray:
    return JackknifePlusRegressor(Ridge(), method=method, scale=scale).fit(X, y).predict_interval(rows)[1]


def normalised(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return ours(X, y, rows, scale="leverage")


def full(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return FullConformalRegressor(Ridge()).fit(X, y).predict_interval(rows)[1]


def folds_ours(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return CrossConformalRegressor(Ridge(), cv=KFold(10), scale="constant").fit(X, y).predict_interval(rows)[1]


def mapie(X: np.ndarray, y: np.ndarray, rows: np.ndarray, method: str = "plus", cv: Any = None) -> np.ndarray:
    from mapie.regression import CrossConformalRegressor as Refitting

    model = Refitting(Ridge(), confidence_level=LEVEL, method=method, cv=cv or LeaveOneOut())
    return model.fit_conformalize(X, y).predict_interval(rows)[1][..., 0]


def mapie_minmax(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return mapie(X, y, rows, method="minmax")


def mapie_folds(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return mapie(X, y, rows, cv=KFold(10))


def ours_minmax(X: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return ours(X, y, rows, method="minmax")


Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _measure(method: Method, n: int, d: int, repeats: int) -> tuple[float, float, np.ndarray]:
    """Best seconds, peak memory in MB above what the process had before, and the bounds."""
    with threadpool_limits(1):
        data, small = draw(n, d), draw(30, 3)
        method(*small)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            bounds = method(*data)
            seconds.append(time.perf_counter() - start)
        return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, bounds


def measure(method: Method, n: int, d: int, repeats: int = 1) -> tuple[float, float, np.ndarray]:
    """Measure in a fresh process: peak memory never falls within one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (method, n, d, repeats))


def speed(report: Report, sizes: tuple[tuple[int, int, float], ...]) -> None:
    """Fit and 1,000 intervals by ridge, score |residual|, against n refits."""
    for n, d, times in SIZES:
        name = f"times faster than MAPIE at n = {n:,}, d = {d}"
        if (n, d, times) not in sizes:
            report.target(name, None, times, ">=")
            continue
        theirs, their_memory, expected = measure(mapie, n, d, 3 if n <= 500 else 1)
        seconds, memory, bounds = measure(ours, n, d, 7)
        leverage_scale = measure(normalised, n, d, 7)[0]
        difference = float(np.abs(bounds - expected).max())
        report.row(
            n=n,
            d=d,
            MAPIE_s=theirs,
            ours_s=seconds,
            times=theirs / seconds,
            leverage_scale_s=leverage_scale,
            MAPIE_MB=their_memory,
            ours_MB=memory,
            difference=difference,
        )
        report.target(name, theirs / seconds, times, ">=")
        report.target(f"largest difference of a bound from MAPIE's at n = {n:,}", difference, 1e-9)


def agreement(report: Report) -> None:
    """Jackknife-minmax, and CV+ with ten folds."""
    pairs = {"minmax": (mapie_minmax, ours_minmax), "CV+, 10 folds": (mapie_folds, folds_ours)}
    for name, (theirs, own) in pairs.items():
        seconds, _, expected = measure(theirs, *SIZES[0][:2])
        own_seconds, _, bounds = measure(own, *SIZES[0][:2], 3)
        difference = float(np.abs(bounds - expected).max())
        report.row(method=name, MAPIE_s=seconds, ours_s=own_seconds, difference=difference)
        report.target(f"largest difference of a bound from MAPIE's, {name}", difference, 1e-9)


def growth(report: Report, own: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    """Exponent b of seconds ~ n^b at fixed d, by least squares on logarithms."""
    for name, method, sizes in (("ours", ours, own), ("MAPIE", mapie, theirs)):
        seconds = [measure(method, n, GROWTH_FEATURES, 3 if method is ours else 1)[0] for n in sizes]
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        report.row(
            who=name,
            features=GROWTH_FEATURES,
            smallest_n=sizes[0],
            largest_n=sizes[-1],
            exponent=exponent,
            s=seconds[-1],
        )
    report.target("growth of ours with n, exponent", _exponent(report, "ours"), 1.2)


def _exponent(report: Report, who: str) -> float:
    return next(row["exponent"] for row in report.rows if row.get("who") == who)


def full_conformal(report: Report) -> None:
    """Studentised full conformal against jackknife+ with the leverage scale, on the same rows."""
    n, d, _ = SIZES[1]
    times = {name: measure(method, n, d, 7)[0] for name, method in (("full", full), ("jackknife+", normalised))}
    ratio = times["full"] / times["jackknife+"]
    report.row(n=n, d=d, full_conformal_s=times["full"], jackknife_s=times["jackknife+"], ratio=ratio)
    report.target("full conformal (studentised) over jackknife+, 1,000 rows, n = 2,000, d = 50", ratio, 10.0)


def main(args: Namespace) -> int:
    report = Report("jackknife")
    speed(report, SIZES[:2] if args.quick else SIZES)
    agreement(report)
    growth(report, GROWTH[:3] if args.quick else GROWTH, GROWTH_MAPIE[:2] if args.quick else GROWTH_MAPIE)
    full_conformal(report)
    with threadpool_limits(1):
        # Small fits gain nothing from threads.
        _jackknife.split_tax(report, quick=args.quick)
        _jackknife.newton_published(report, repetitions=10 if args.quick else 50, refitted=1 if args.quick else 5)
        _jackknife.newton_against_refits(report, seeds=1 if args.quick else 5)
        _jackknife.pipelines(report, seeds=2 if args.quick else 20)
    return report.finish(args)


if __name__ == "__main__":
    sys.exit(main(parser(__doc__).parse_args()))
