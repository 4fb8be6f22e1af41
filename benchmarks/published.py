"""Published tables of leverage-weighted conformal prediction (LWCP, arXiv 2602.12693), to every printed digit.

LWCP measures leverage about the origin, although its models have an intercept. With that choice,
`InputsGeometry(standardise=False, fit_intercept=False, ridge=0)`, our estimators must give the published figures;
beside them stands the corrected definition (`geometry="auto"`: centred, with the intercept's 1/n, the ridge of the
model), which is what a user of this package gets.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student
from sklearn.base import RegressorMixin, clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from threadpoolctl import threadpool_limits

import _lwcp
from _report import Report, parser
from hatband import InputsGeometry, SplitConformalRegressor
from hatband.datasets import load

# Every table but that of coverage has this many seeds.
SEEDS = 200
CONSTANT, WEIGHTED, CORRECTED = "constant", "LWCP", "corrected"


class Outcome(NamedTuple):
    """What one method did on the test rows of one repetition; the last axis runs over the levels."""

    covered: np.ndarray
    width: np.ndarray
    leverage: np.ndarray

    @property
    def gap(self) -> float:
        """Coverage of the lowest fifth of leverage less that of the highest, at the first level."""
        low, high = _outer_fifths([self])
        return low - high


def outcomes(estimator: RegressorMixin, parts: _lwcp.Parts, levels: Iterable[float] = (0.9,)) -> dict[str, Outcome]:
    """Run the three methods on given parts, as a user would."""
    ridge = getattr(estimator, "alpha", 0.0)
    about_origin = InputsGeometry(standardise=False, fit_intercept=False, ridge=ridge)
    methods = {
        CONSTANT: (about_origin, "constant"),
        WEIGHTED: (about_origin, "leverage"),
        CORRECTED: ("auto", "leverage"),
    }
    return {name: outcome(estimator, *method, parts, list(levels)) for name, method in methods.items()}


def outcome(estimator: RegressorMixin, geometry: Any, scale: str, parts: _lwcp.Parts, levels: list[float]) -> Outcome:
    """Train, calibrate and test one method."""
    model = SplitConformalRegressor(clone(estimator), geometry=geometry, scale=scale, random_state=0)
    model.fit_train(*parts.train).calibrate(*parts.calibration)
    X, y = parts.test
    _, interval = model.predict_interval(X, confidence_level=levels)
    lower, upper = interval[:, 0], interval[:, 1]
    covered = (lower <= y[:, None]) & (y[:, None] <= upper)
    return Outcome(covered, upper - lower, model.leverage(X))


def repeated(draw: Callable[[int], _lwcp.Parts], seeds: int, **options: Any) -> dict[str, list[Outcome]]:
    """Outcomes of every method over the seeds 0, 1, ..."""
    estimator = options.pop("estimator", LinearRegression())
    runs = [outcomes(estimator, draw(seed), **options) for seed in range(seeds)]
    return {method: [run[method] for run in runs] for method in runs[0]}


class Table:
    """Counts the cells of one published table that differ from ours, and reports a row per line of it."""

    def __init__(self, report: Report, name: str) -> None:
        self.report, self.name = report, name
        self.cells = self.wrong = 0

    def row(self, row: Any, quantity: str, printed: tuple[str | None, ...], found: tuple[float, ...]) -> None:
        """Compare the constant width and the weight with what was printed (None: another definition)."""
        for text, value in zip(printed, found, strict=False):
            self.cells += text is not None
            self.wrong += text is not None and not _agrees(text, value)
        constant, weighted = [None if text is None else float(text) for text in printed]
        self.report.row(
            table=self.name,
            row=str(row),
            quantity=quantity,
            **{"constant, published": constant, "constant": _rounded(found[0])},
            **{"LWCP, published": weighted, "LWCP": _rounded(found[1]), "corrected": _rounded(found[2])},
        )

    def target(self) -> None:
        """Ask for no difference; a table without a row in this run could not be tested."""
        if not self.cells:
            self.report.target(f"{self.name}: cells that differ from the print", None, 0)
            return
        self.report.target(f"{self.name}: cells of {self.cells} that differ from the print", self.wrong, 0)


def _agrees(text: str, value: float) -> bool:
    """Half a unit of the last printed digit, the half itself included."""
    digits = len(text.split(".")[1])
    return abs(value - float(text)) <= 0.5 * 10.0**-digits + 1e-9


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


def _means(runs: dict[str, list[Outcome]], field: str, level: int = 0) -> tuple[float, ...]:
    return tuple(float(np.mean([getattr(run, field)[:, level].mean() for run in of])) for of in runs.values())


def _mean_gaps(runs: dict[str, list[Outcome]]) -> tuple[float, ...]:
    return tuple(float(np.mean([abs(run.gap) for run in of])) for of in runs.values())


def marginal(report: Report, seeds: int) -> None:
    """Tables of coverage (exp1, 1,000 seeds) and width (exp3, the first 200 of them)."""
    width, coverage = Table(report, "exp3 width"), Table(report, "exp1 coverage")
    found = {name: _width_and_coverage(name, seeds) for name in _lwcp.COVERAGE}
    for name, (widths, _) in found.items():
        width.row(name, "mean width, 200 seeds", _lwcp.WIDTH[name], widths)
    for name, (_, coverages) in found.items():
        if seeds == 1000:
            coverage.row(name, "coverage, 1000 seeds", _lwcp.COVERAGE[name], coverages)
    width.target()
    coverage.target()


def _width_and_coverage(name: str, seeds: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    runs = repeated(lambda seed: _lwcp.design(name, seed), seeds)
    return _means({method: of[:200] for method, of in runs.items()}, "width"), _means(runs, "covered")


def pooled(report: Report, designs: Iterable[str]) -> None:
    """Coverage of the outer fifths of leverage, pooled over the seeds (exp2)."""
    table = Table(report, "exp2 pooled")
    for name in designs:
        printed = _lwcp.POOLED[name]
        sizes = (100, 200, 500) if name == "homoscedastic" else (300, 500, 500)
        runs = repeated(lambda seed, name=name, sizes=sizes: _lwcp.design(name, seed, *sizes), SEEDS)
        low, high = zip(*[_outer_fifths(of) for of in runs.values()], strict=True)
        table.row(name, "coverage, lowest fifth", (printed[0], printed[2]), low)
        table.row(name, "coverage, highest fifth", (printed[1], printed[3]), high)
        if name == "homoscedastic":
            # Two standard errors of a difference between 20,000 rows a side.
            gap = low[2] - high[2]
            report.target("exp2, equal noise: |low - high| fifth, corrected leverage", abs(gap), 0.006)
    table.target()


def _outer_fifths(runs: list[Outcome]) -> tuple[float, float]:
    leverage = np.concatenate([run.leverage for run in runs])
    covered = np.concatenate([run.covered[:, 0] for run in runs])
    # As published: interpolated percentiles, which may take one row more than a fifth.
    low, high = np.percentile(leverage, [20, 80])
    return float(covered[leverage <= low].mean()), float(covered[leverage >= high].mean())


def frontier(report: Report, designs: Iterable[str]) -> None:
    """Width against level (exp4): all levels from one calibration."""
    table = Table(report, "exp4 frontier")
    for name in designs:
        printed = _lwcp.FRONTIER[name]
        runs = repeated(lambda seed, name=name: _lwcp.design(name, seed), SEEDS, levels=_lwcp.LEVELS)
        for index, level in enumerate(_lwcp.LEVELS):
            table.row(name, f"width at {level}", (printed[0][index], printed[1][index]), _means(runs, "width", index))
            if name == "textbook":
                printed_coverage = (_lwcp.FRONTIER_COVERAGE[index], None)
                table.row(name, f"coverage at {level}", printed_coverage, _means(runs, "covered", index))
    table.target()


def classical_limit(report: Report, sizes: Iterable[int]) -> None:
    """Width over that of the classical interval of least squares (exp5), which knows that the noise is normal."""
    table = Table(report, "exp5 classical")
    for n in sizes:
        parts = [_lwcp.classical(n, seed) for seed in range(SEEDS)]
        runs = [outcomes(LinearRegression(), part) for part in parts]
        pairs = zip(parts, runs, strict=True)
        found = np.mean([_over_classical(part, run) for part, run in pairs], axis=0)
        table.row(f"n = {n}", "width / classical width", (None, _lwcp.CLASSICAL[n]), tuple(found))
        if n == 5000:
            report.target("exp5, n = 5000: |width / classical - 1|, corrected", abs(found[2] - 1), 0.01)
    table.target()


def _over_classical(parts: _lwcp.Parts, run: dict[str, Outcome]) -> tuple[float, ...]:
    """Ratio to the classical width, without (as published) and with the intercept's degree of freedom and leverage."""
    published = _classical_width(parts, run[WEIGHTED].leverage, intercept=0)
    corrected = _classical_width(parts, run[CORRECTED].leverage, intercept=1)
    denominators = {CONSTANT: published, WEIGHTED: published, CORRECTED: corrected}
    return tuple(run[method].width[0, 0] / denominators[method] for method in run)


def _classical_width(parts: _lwcp.Parts, leverage: np.ndarray, intercept: int) -> float:
    X, y = parts.train
    residual = y - LinearRegression().fit(X, y).predict(X)
    freedom = len(y) - X.shape[1] - intercept
    return 2 * student.ppf(0.95, freedom) * np.sqrt(residual @ residual / freedom * (1 + leverage[0]))


def ridge(report: Report, features: Iterable[int]) -> None:
    """Ridge with as many features as rows and more (exp_ridge)."""
    table = Table(report, "exp_ridge")
    for p in features:
        printed = _lwcp.RIDGE[p]
        runs = repeated(lambda seed, p=p: _lwcp.ridge_design(p, seed), SEEDS, estimator=Ridge(alpha=1.0))
        # Beyond 100 features the published leverage is that of the row space alone, and so are its fifths.
        same = p <= 100
        cells = [(printed[j], printed[3 + j] if same else None) for j in range(3)]
        table.row(f"p = {p}", "coverage", cells[0], _means(runs, "covered"))
        table.row(f"p = {p}", "width", cells[1], _means(runs, "width"))
        table.row(f"p = {p}", "mean absolute gap", cells[2] if same else (None, None), _mean_gaps(runs))
    table.target()


def real(report: Report, sets: list[str]) -> None:
    """Real data and the made "Heavy-tailed" set, standardised on the training rows, 30 permutations."""
    for name in _lwcp.REAL:
        table = Table(report, f"real data, {name}")
        if name in sets:
            _real(report, table, name)
        table.target()


def _real(report: Report, table: Table, name: str) -> None:
    data = dataset(name)
    runs = repeated(lambda seed: scaled(_lwcp.permuted(data, seed), StandardScaler()), 30)
    printed = _lwcp.REAL[name]
    table.row(name, "coverage", (printed[0], printed[3]), _means(runs, "covered"))
    table.row(name, "width", (printed[1], printed[4]), _means(runs, "width"))
    table.row(name, "mean absolute gap", (printed[2], printed[5]), _mean_gaps(runs))
    gaps = tuple(float(np.mean([run.gap for run in of])) for of in runs.values())
    table.row(name, "mean gap, low less high", (None, None), gaps)


def dataset(name: str) -> _lwcp.Rows:
    if name == "heavy_tailed_set":
        return _lwcp.heavy_tailed_set()
    found = load(name)
    return found.data, found.target


def scaled(parts: _lwcp.Parts, scaler: Any) -> _lwcp.Parts:
    scaler.fit(parts.train[0])
    return _lwcp.Parts(*[(scaler.transform(X), y) for X, y in parts])


def scalers(report: Report) -> None:
    """Change of the interval under an affine change of the features: none, once leverage is measured from the mean."""
    designs = {"textbook": _lwcp.design("textbook", 0), "diabetes": _lwcp.permuted(dataset("diabetes"), 0)}
    for name, parts in designs.items():
        plain = outcomes(LinearRegression(), parts)
        for scaler in (StandardScaler(), MinMaxScaler(), RobustScaler()):
            moved = outcomes(LinearRegression(), scaled(parts, scaler))
            change = {method: _relative_change(plain[method], moved[method]) for method in plain}
            title = f"{name}, {type(scaler).__name__}"
            report.row(**{"change of width under": title}, LWCP=change[WEIGHTED], corrected=change[CORRECTED])
            report.target(f"change of width under {title}, corrected", change[CORRECTED], 1e-9)


def _relative_change(one: Outcome, other: Outcome) -> float:
    return float(np.max(np.abs(other.width / one.width - 1)))


def main(args: Namespace) -> int:
    report = Report("published")
    if args.quick:
        _quick(report)
    else:
        marginal(report, 1000)
        pooled(report, _lwcp.POOLED)
        frontier(report, _lwcp.FRONTIER)
        classical_limit(report, _lwcp.CLASSICAL)
        ridge(report, _lwcp.RIDGE)
        real(report, list(_lwcp.REAL))
    scalers(report)
    return report.finish(args)


def _quick(report: Report) -> None:
    """Whole cells of the tables, fewer of them; without a folder of data nothing is downloaded."""
    marginal(report, SEEDS)
    pooled(report, ["homoscedastic"])
    frontier(report, ["textbook"])
    classical_limit(report, [50, 200, 5000])
    ridge(report, [50])
    real(report, [name for name in _lwcp.REAL if name != "cpu_act" or os.environ.get("HATBAND_DATA")])


if __name__ == "__main__":
    # Small fits gain nothing from threads, and lose much where other work shares the cores.
    with threadpool_limits(1):
        code = main(parser(__doc__).parse_args())
    sys.exit(code)
