"""``python -m hatband demo``: the effect of a leverage scale on intervals on real data, and its limits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hatband.arrays.typing import Array
from hatband.commands.base import CommandError
from hatband.conformal import SplitConformalRegressor
from hatband.displays import LeverageDisplay
from hatband.displays.leverage import leverage_groups
from hatband.formulas.metrics import covered, interval_score

LEVEL = 0.9
SCALES = ("constant", "leverage")
TEST_SHARE = 0.25
TENTHS = 10


@dataclass(frozen=True)
class Case:
    """A data set, the model fitted to it, and the finding that the table shows."""

    title: str
    finding: str
    features: Array
    target: Array
    estimator: Any


@dataclass(frozen=True)
class Outcome:
    """Results of the intervals of one scale, one row per random split."""

    coverage: Array  # (splits,)
    width: Array
    score: Array
    tenth_coverage: Array  # (splits, 10), by tenth of the leverages of the split's new rows
    tenth_width: Array
    tenth_leverage: Array

    def fifth(self, index: int) -> Array:
        """Coverage in one fifth of leverage, per split."""
        return self.tenth_coverage.reshape(-1, 5, 2)[:, index].mean(axis=1)


def diabetes() -> Case:
    """442 patients; least squares on 10 measurements and their 45 products."""
    features, target = load_diabetes(return_X_y=True)
    products = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
    return Case(
        title="diabetes progression (442 rows), least squares on 10 measurements and their 45 products",
        finding=(
            "Many columns for few rows: the error of the fit is large where leverage is high. A constant width covers\n"
            "such rows too rarely and the others too often; a width growing with sqrt(1 + leverage) evens this out."
        ),
        features=features,
        target=target,
        estimator=make_pipeline(StandardScaler(), products, StandardScaler(), LinearRegression()),
    )


def tumours() -> Case:
    """569 tumours; least squares for the largest cell area on the ten mean measurements."""
    bunch = load_breast_cancer()
    return Case(
        title="worst cell area of tumours (569 rows), least squares on 10 mean measurements",
        finding=(
            "Few columns, and noise that itself grows with the size of the cells: leverages are small, so the two\n"
            "scales hardly differ and the gap stays. Leverage knows the error of the fit, not the noise."
        ),
        features=bunch.data[:, :10],
        target=bunch.data[:, list(bunch.feature_names).index("worst area")],
        estimator=make_pipeline(StandardScaler(), LinearRegression()),
    )


def run_demo(output: Path, splits: int = 100, seed: int = 0) -> None:
    """Print the table for both data sets and write the picture to `output`."""
    if not output.parent.is_dir():
        raise CommandError(f"cannot write the picture to {output}: there is no folder {output.parent}")
    print(f"{LEVEL:.0%} intervals, {splits} random splits; every split: train, calibrate, and test on new rows.")
    results = [(case, run_case(case, splits, seed)) for case in (diabetes(), tumours())]
    for case, outcomes in results:
        print(f"\n{case.title}\n{table(outcomes)}\n{case.finding}")
    print(
        "\nIn brackets: standard error over the splits, which redraw the same rows; it says nothing about other data.\n"
        f"Both scales cover at least {LEVEL:.0%} of new rows on average: that is guaranteed for any model and scale.\n"
        "Leverage is for flat coverage over leverage. It does not make intervals narrower on average.\n"
    )
    print(draw(results, output))


def run_case(case: Case, splits: int, seed: int) -> dict[str, Outcome]:
    """Outcome of each scale on the same splits."""
    return {scale: Outcome(*map(np.array, zip(*_runs(case, scale, splits, seed), strict=True))) for scale in SCALES}


def _runs(case: Case, scale: str, splits: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """The fields of `Outcome` for each split in turn."""
    for split in range(seed, seed + splits):
        train, new, y_train, y_new = train_test_split(
            case.features, case.target, test_size=TEST_SHARE, random_state=split
        )
        model = SplitConformalRegressor(case.estimator, scale=scale, confidence_level=LEVEL, random_state=split)
        _, interval = model.fit(train, y_train).predict_interval(new)
        lower, upper = interval.T
        leverage, width, hits = model.leverage(new), upper - lower, covered(y_new, lower, upper)
        tenths = [leverage_groups(leverage, TENTHS) == tenth for tenth in range(TENTHS)]
        yield (
            hits.mean(),
            width.mean(),
            interval_score(y_new, lower, upper, LEVEL).mean(),
            [hits[rows].mean() for rows in tenths],
            [width[rows].mean() for rows in tenths],
            [np.median(leverage[rows]) for rows in tenths],
        )


def table(outcomes: dict[str, Outcome]) -> str:
    """One line per scale, standard errors in brackets."""
    head = ["scale", "coverage", "mean width", "interval score", "lowest leverage fifth", "highest leverage fifth"]
    lines = [head] + [
        [
            scale,
            _percent(outcome.coverage),
            _number(outcome.width),
            _number(outcome.score),
            _percent(outcome.fifth(0)),
            _percent(outcome.fifth(-1)),
        ]
        for scale, outcome in outcomes.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _percent(values: Array) -> str:
    return f"{100 * values.mean():.1f} % ({100 * _standard_error(values):.1f})"


def _number(values: Array) -> str:
    return f"{values.mean():.1f} ({_standard_error(values):.1f})"


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def draw(results: list[tuple[Case, dict[str, Outcome]]], output: Path) -> str:
    """Write the picture and return its path as a message; without matplotlib, a message how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'No picture: it needs matplotlib. pip install "hatband[plot]"'
    figure = Figure(figsize=(10, 4 * len(results)), layout="constrained")
    parts = figure.subfigures(len(results), squeeze=False).ravel()
    for part, (case, outcomes) in zip(parts, results, strict=True):
        part.suptitle(case.title)
        axes = part.subplots(1, 2)
        for scale, outcome in outcomes.items():
            _display(outcome, scale).plot(ax=axes, points_kwargs={"marker": "o", "linestyle": "-"})
    try:
        figure.savefig(output, dpi=120)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write the picture to {output}: {error}") from error
    return f"Picture: {output.resolve()} (coverage with bars of two standard errors, and width, by tenth of leverage)"


def _display(outcome: Outcome, scale: str) -> LeverageDisplay:
    """Tenths of leverage, averaged over splits; bars are two standard errors over splits."""
    coverage = outcome.tenth_coverage.mean(axis=0)
    bar = 2 * outcome.tenth_coverage.std(axis=0, ddof=1) / np.sqrt(len(outcome.coverage))
    leverage = np.median(outcome.tenth_leverage, axis=0)
    return LeverageDisplay(
        leverage=leverage,
        width=outcome.tenth_width.mean(axis=0),
        bin_leverage=leverage,
        bin_coverage=coverage,
        bin_coverage_low=coverage - bar,
        bin_coverage_high=coverage + bar,
        confidence_level=LEVEL,
        name=scale,
    )
