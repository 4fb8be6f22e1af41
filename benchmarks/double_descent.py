"""Double descent is a peak of leverage: at ridge 0 test leverage and test error explode where features = rows.

Rows x ~ N(0, I) in D = 4 n dimensions, y = x'b + noise, b spread evenly with |b| = 1; the model sees the first d of
the D features. The leverage shown is the sampling form s(x) = |x'A^-1 X'|^2, the variance of a prediction in units of
the noise; it is finite for d > n too, where the posterior form h(x) is infinite at ridge 0 (the share of such rows is
shown). Beside it stands the ridge of least leave-one-out error, averaged over the draws, and the test error when every
draw chooses its own. One draw can choose badly at d = n: with almost no ridge every leave-one-out residual is
u'y / u_i, u the direction of the smallest singular value, and the one number u'y is small by chance. At last, for fixed
designs, variance and squared bias add up to the measured risk.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from _report import Report, parser
from hatband import LeaveOneOutRidge
from hatband.linalg import Spectral

NOISE = 0.5
# Features over rows.
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
# Against squared singular values of about 1 and more where it stands for the limit.
TINY = 1e-8
GRID = np.logspace(-3, 6, 46)
RIDGES = (0.0, *np.logspace(-1, 4, 11))


def draw(n: int, seed: int, n_test: int) -> tuple[np.ndarray, ...]:
    """Return training rows, targets, test rows and targets, all features included."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n + n_test, 4 * n))
    y = features @ coefficients(4 * n) + NOISE * rng.standard_normal(n + n_test)
    return features[:n], y[:n], features[n:], y[n:]


def coefficients(dimension: int) -> np.ndarray:
    return np.full(dimension, dimension**-0.5)


def at_no_ridge(X: np.ndarray, y: np.ndarray, rows: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Least squares, or the interpolant of least norm (the limit of ridge -> 0): mu(x) = sum_i h(x, x_i) y_i."""
    determined = Spectral().factor(X, 0.0, fit_intercept=False)
    limit = determined if determined.rank == X.shape[1] else determined.at(TINY)
    smoother = limit.cross_leverage(rows, X)
    return {
        "leverage": float((smoother**2).sum(axis=1).mean()),
        "infinite": float(np.isinf(determined.leverage(rows)).mean()),
        "error": float(np.mean((target - smoother @ y) ** 2)),
    }


def at_ridge(X: np.ndarray, rows: np.ndarray, target: np.ndarray, y: np.ndarray, ridge: float) -> dict[str, float]:
    """Ridge regression at one penalty."""
    factor = Spectral().factor(X, ridge, fit_intercept=False)
    return {
        "dimension": factor.effective_dimension(),
        "leverage": float(factor.sampling_leverage(rows).mean()),
        "error": float(np.mean((target - rows @ factor.solve((X.T @ y)[:, None])[:, 0]) ** 2)),
    }


def descent(report: Report, n: int, draws: int, n_test: int) -> list[dict[str, Any]]:
    """Mean test leverage and test error against the number of features."""
    data = [draw(n, seed, n_test) for seed in range(draws)]
    table = [_at_width(data, round(ratio * n)) for ratio in RATIOS]
    for row in table:
        report.row(**row)
    for quantity in ("leverage", "error"):
        _peak_targets(report, table, n, quantity)
    return table


def _at_width(data: list[tuple[np.ndarray, ...]], d: int) -> dict[str, Any]:
    cut = [(X[:, :d], y, rows[:, :d], target) for X, y, rows, target in data]
    none = _mean([at_no_ridge(*part) for part in cut])
    models = [LeaveOneOutRidge(GRID, fit_intercept=False).fit(X, y) for X, y, _, _ in cut]
    ridge = float(GRID[np.mean([model.leave_one_out_error_ for model in models], axis=0).argmin()])
    chosen = _mean([at_ridge(X, rows, target, y, ridge) for X, y, rows, target in cut])
    own = [
        np.mean((target - model.predict(rows)) ** 2) for model, (_, _, rows, target) in zip(models, cut, strict=True)
    ]
    return {
        "rows": len(data[0][1]),
        "features": d,
        "leverage, ridge 0": none["leverage"],
        "error, ridge 0": none["error"],
        "h infinite": none["infinite"],
        "ridge by leave-one-out": ridge,
        "effective dimension": chosen["dimension"],
        "leverage": chosen["leverage"],
        "error": chosen["error"],
        "ridge per draw: median error": float(np.median(own)),
        "largest": float(np.max(own)),
    }


def _mean(records: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([record[key] for record in records])) for key in records[0]}


def _peak_targets(report: Report, table: list[dict[str, Any]], n: int, quantity: str) -> None:
    bare = {row["features"]: row[f"{quantity}, ridge 0"] for row in table}
    chosen = {row["features"]: row[quantity] for row in table}
    half, double = n // 2, 2 * n
    report.target(
        f"test {quantity} at ridge 0: features / rows at its peak", max(bare, key=bare.__getitem__) / n, 1, "=="
    )
    report.target(f"test {quantity} at ridge 0: at n over at n/2", bare[n] / bare[half], 10, ">=")
    larger = max(chosen[half], chosen[double])
    report.target(f"test {quantity} at the chosen ridge: at n over the larger of n/2 and 2n", chosen[n] / larger, 1.05)


def decomposition(report: Report, n: int, d: int, draws: int, n_test: int) -> list[dict[str, Any]]:
    """Risk of fixed designs against ridge: noise^2 mean s(x) + mean (ridge x'A^-1 b)^2 against what is measured."""
    rng = np.random.default_rng(d)
    X, rows = rng.standard_normal((n, d)), rng.standard_normal((n_test, d))
    noisy = (X @ coefficients(d))[:, None] + NOISE * rng.standard_normal((n, draws))
    # Beyond n features the prediction at ridge 0 is not determined.
    ridges = RIDGES if d < n else RIDGES[1:]
    spectrum = Spectral().factor(X, ridges[0], fit_intercept=False)
    table = [_risk(spectrum.at(ridge), X, rows, noisy) for ridge in ridges]
    for row in table:
        report.row(**row)
    return table


def _risk(factor: Any, X: np.ndarray, rows: np.ndarray, noisy: np.ndarray) -> dict[str, Any]:
    b = coefficients(X.shape[1])[:, None]
    variance = NOISE**2 * float(factor.sampling_leverage(rows).mean())
    bias = float(np.mean((factor.ridge * rows @ factor.solve(b)) ** 2))
    error = rows @ (factor.solve(X.T @ noisy) - b)
    measured = np.mean(error**2, axis=0)
    standard_error = float(measured.std(ddof=1) / np.sqrt(measured.size))
    return {
        "n x d": f"{len(X)} x {len(b)}",
        "ridge": factor.ridge,
        "effective dimension": factor.effective_dimension(),
        "variance": variance,
        "squared bias": bias,
        "sum": variance + bias,
        "measured risk": float(measured.mean()),
        "standard error": standard_error,
        "difference / se": float((measured.mean() - variance - bias) / standard_error),
    }


def picture(curve: list[dict[str, Any]], risks: list[dict[str, Any]], file: Path) -> None:
    """Draw test leverage and error against features, and the parts of the risk against ridge."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    ratio = [row["features"] / row["rows"] for row in curve]
    for axis, quantity, title in (
        (left, "leverage", "mean test leverage s(x)"),
        (middle, "error", "mean squared test error"),
    ):
        axis.plot(ratio, [row[f"{quantity}, ridge 0"] for row in curve], "o-", color="#c0392b", label="ridge 0")
        axis.plot(ratio, [row[quantity] for row in curve], "s-", color="#1f618d", label="ridge by leave-one-out")
        axis.set(xscale="log", yscale="log", xlabel="features / rows", title=title)
        axis.axvline(1, color="0.7", zorder=0)
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
        axis.minorticks_off()
        axis.legend(frameon=False, loc="upper left", fontsize=8)
    positive = [row for row in risks if row["ridge"] > 0]
    ridge = [row["ridge"] for row in positive]
    for name, style in (("variance", "--"), ("squared bias", ":"), ("sum", "-")):
        right.plot(ridge, [row[name] for row in positive], style, color="#1f618d", label=name)
    right.plot(ridge, [row["measured risk"] for row in positive], "o", color="#c0392b", label="measured")
    right.set(xscale="log", xlabel="ridge", title=f"risk, {positive[0]['n x d']}")
    right.legend(frameon=False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(args: Namespace) -> int:
    report = Report("double_descent")
    n, draws, n_test = (100, 5, 500) if args.quick else (200, 20, 1000)
    curve = descent(report, n, draws, n_test)
    noise_draws = 200 if args.quick else 1000
    risks = [decomposition(report, n, d, noise_draws, n_test) for d in (n // 2, 2 * n)]
    # 4 standard errors: 23 comparisons give a false alarm in 1 of 700 runs with other seeds.
    worst = max(abs(row["difference / se"]) for table in risks for row in table)
    report.target("risk: largest |measured - variance - squared bias| in standard errors", worst, 4)
    args.output.mkdir(parents=True, exist_ok=True)
    picture(curve, risks[1], args.output / "double_descent.png")
    return report.finish(args)


if __name__ == "__main__":
    # Small fits gain nothing from threads, and lose much where other work shares the cores.
    with threadpool_limits(1):
        code = main(parser(__doc__).parse_args())
    sys.exit(code)
