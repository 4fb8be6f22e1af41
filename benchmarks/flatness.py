"""How flat coverage is over leverage when the scale is estimated: pooled gaps, single gaps, cpu_act.

The gap is the coverage of the fifth of lowest leverage less that of the highest. Pooled over the seeds it tells methods
apart; the gap of one seed is mostly binomial noise, so means of its absolute value are compared on the same seeds only.
Designs and protocol are those of Fadnavis, arXiv 2602.12693, code version 0.1.0.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import _lwcp
from _chance import covered_law
from _report import Report, parser
from hatband.diagnostics.flatness import CoverageGap, outer_gap
from hatband.formulas.metrics import leverage_fifths
from published import Outcome, dataset, outcome, scaled

SCALES = ("constant", "leverage", "strength", "auto")
QUICK = ("constant", "leverage", "strength")
DEFAULT = "auto"
SEEDS = 200
# The pooled table of equal noise was made with fewer rows than the others.
SMALL = (100, 200, 500)
LARGE = (300, 500, 500)
POOLED = {
    "homoscedastic": SMALL,
    "textbook": LARGE,
    "heavy_tailed": LARGE,
    "polynomial": LARGE,
    "steep": LARGE,
}
SINGLE = ("textbook", "heavy_tailed", "polynomial", "adversarial", "homoscedastic")
# Published for cpu_act: a forest on training residuals times (1 + h)^1/2 has this mean |gap| at this mean width.
FOREST_GAP, FOREST_WIDTH = 0.0687, 20.7

Runs = dict[str, list[Outcome]]


def pooled_gap(runs: Sequence[Outcome]) -> CoverageGap:
    """Return the gap with the rows of all seeds in one pool; its error takes each seed as one draw."""
    hits = np.concatenate([run.covered[:, 0] for run in runs])
    leverage = np.concatenate([run.leverage for run in runs])
    seed = np.repeat(np.arange(len(runs)), [len(run.leverage) for run in runs])
    return outer_gap(hits, leverage_fifths(leverage), seed)


def of_design(name: str, sizes: tuple[int, int, int], seeds: int, scales: Sequence[str]) -> Runs:
    """Return the outcomes of every scale on the same seeds, around least squares."""
    runs: Runs = {scale: [] for scale in scales}
    for seed in range(seeds):
        parts = _lwcp.design(name, seed, *sizes)
        for scale in scales:
            runs[scale].append(outcome(LinearRegression(), "auto", scale, parts, [0.9]))
    return runs


def mean_gap(runs: Sequence[Outcome]) -> float:
    """Return the mean over seeds of the absolute gap."""
    return float(np.mean([abs(run.gap) for run in runs]))


def mean_of(runs: Sequence[Outcome], field: str) -> float:
    """Return the mean over seeds and test rows of "covered" or "width"."""
    return float(np.mean([getattr(run, field).mean() for run in runs]))


def pooled_table(report: Report, found: dict[str, Runs]) -> None:
    """Pooled gaps of every design, with their standard errors."""
    for name, runs in found.items():
        for scale, outcomes in runs.items():
            gap = pooled_gap(outcomes)
            report.row(
                **{"pooled over seeds": name, "scale": scale},
                **{"lowest fifth": gap.lowest, "highest fifth": gap.highest},
                **{"gap": gap.gap, "standard error": gap.standard_error},
                width=mean_of(outcomes, "width"),
            )
            if scale in ("strength", DEFAULT) and name in ("homoscedastic", "textbook"):
                report.target(f"|pooled gap|, {name}, scale {scale}", abs(gap.gap), 0.008)


def single_table(report: Report, found: dict[str, Runs]) -> None:
    """Mean |gap| of single seeds, the scale chosen against the fixed one on the same seeds."""
    for name, runs in found.items():
        fixed = np.array([abs(run.gap) for run in runs["leverage"]])
        for scale, outcomes in runs.items():
            excess = np.array([abs(run.gap) for run in outcomes]) - fixed
            coverage = mean_of(outcomes, "covered")
            report.row(
                **{"single seeds": name, "scale": scale, "mean |gap|": mean_gap(outcomes)},
                **{"excess over leverage": excess.mean(), "standard error": excess.std() / np.sqrt(len(excess))},
                coverage=coverage,
            )
            if scale == DEFAULT:
                report.target(f"mean |gap| less that of the fixed scale, {name}", float(excess.mean()), 0.002)
                report.target(f"coverage, {name}", coverage, lowest_coverage(len(outcomes)), ">=")


def lowest_coverage(seeds: int) -> float:
    """Return what the mean coverage of a valid method falls below with probability 0.001 / 5: one of five designs.

    Covered rows of one seed are beta-binomial (Vovk 2012); the mean over the seeds is taken as normal.
    """
    _, n_calibration, n_test = LARGE
    law = covered_law(n_calibration, n_test, 0.9)
    return float((law.mean() + norm.ppf(0.001 / len(SINGLE)) * law.std() / np.sqrt(seeds)) / n_test)


def cpu_table(report: Report, splits: int, scales: Sequence[str]) -> None:
    """cpu_act, 30 permutations, least squares on standardised features."""
    data, runs = dataset("cpu_act"), {scale: [] for scale in scales}
    for seed in range(splits):
        parts = scaled(_lwcp.permuted(data, seed), StandardScaler())
        for scale in scales:
            runs[scale].append(outcome(LinearRegression(), "auto", scale, parts, [0.9]))
    for scale, outcomes in runs.items():
        gap = pooled_gap(outcomes)
        report.row(
            **{"cpu_act": scale, "mean |gap|": mean_gap(outcomes), "pooled gap": gap.gap},
            **{"standard error": gap.standard_error, "width": mean_of(outcomes, "width")},
            coverage=mean_of(outcomes, "covered"),
        )
    if DEFAULT in runs:
        report.target("cpu_act: mean |gap|, default", mean_gap(runs[DEFAULT]), FOREST_GAP, "<")
        report.target("cpu_act: mean width, default", mean_of(runs[DEFAULT], "width"), FOREST_WIDTH)


def main(args: Namespace) -> int:
    report = Report("flatness")
    if args.quick:
        _quick(report)
    else:
        found = {name: of_design(name, sizes, SEEDS, SCALES) for name, sizes in POOLED.items()}
        pooled_table(report, found)
        again = {name: LARGE for name in SINGLE if POOLED.get(name) != LARGE}
        found |= {name: of_design(name, sizes, SEEDS, SCALES) for name, sizes in again.items()}
        single_table(report, {name: found[name] for name in SINGLE})
        cpu_table(report, 30, SCALES)
    return report.finish(args)


def _quick(report: Report) -> None:
    """The two designs with targets, without the choice between scales; cpu_act where a folder of data is given."""
    designs = ("homoscedastic", "textbook")
    pooled_table(report, {name: of_design(name, POOLED[name], SEEDS, QUICK) for name in designs})
    report.target("|pooled gap|, both designs, scale auto", None, 0.008)
    report.target("mean |gap| less that of the fixed scale", None, 0.002)
    if os.environ.get("HATBAND_DATA"):
        cpu_table(report, 2, SCALES)
    else:
        report.target("cpu_act: mean |gap|, default", None, FOREST_GAP, "<")


if __name__ == "__main__":
    # Small fits gain nothing from threads, and lose much where other work shares the cores.
    with threadpool_limits(1):
        code = main(parser(__doc__).parse_args())
    sys.exit(code)
