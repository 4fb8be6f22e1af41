"""Coverage for new rows of another population: plain split conformal, and weighted by a known or learned ratio.

Calibration rows have inputs N(0, I) in four dimensions, new rows N(shift, 1) in the first of them, and the noise grows
with that one; so the likelihood ratio is known, exp(shift x - shift^2 / 2). Each trial draws a calibration set and new
rows. The first new row of each trial makes the exact check: these are independent, and covered with probability
between level and level + E[largest share of weight] for the true ratio w (Tibshirani et al. 2019), less and more half
the mean |w' - w| for a learned one w' (Lei and Candes 2021). All new rows make the table.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from _report import Report, parser
from hatband import CalibrationWarning, ClassifierRatio, SplitConformalRegressor

LEVEL = 0.9
FALSE_ALARM = 1e-3
SHIFTS = [0.0, 0.5, 1.0, 1.5]
#: The shift at which plain split conformal is to cover between 0.75 and 0.85.
EXAMPLE = 0.5
TRAINING, CALIBRATION, TARGET, NEW = 1000, 500, 1000, 20

METHODS: dict[str, Callable[[float], Any]] = {
    "plain": lambda shift: None,
    "known ratio": lambda shift: partial(known_ratio, shift),
    "learned ratio, logistic": lambda shift: ClassifierRatio(),
    "learned ratio, boosting": lambda shift: ClassifierRatio(
        HistGradientBoostingClassifier(max_iter=50, learning_rate=0.05, min_samples_leaf=50, random_state=0)
    ),
}


class Trials(NamedTuple):
    """What the trials of a method saw, one entry each."""

    first: np.ndarray
    covered: np.ndarray
    infinite: np.ndarray
    width: np.ndarray
    effective: np.ndarray
    share: np.ndarray


def main() -> int:
    args = parser(__doc__).parse_args()
    models, trials = (4, 80) if args.quick else (10, 400)
    report = Report("shift")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        for shift in SHIFTS:
            for name, ratio in METHODS.items():
                rng = np.random.default_rng(1)
                runs = [run(rng, ratio(shift), shift, trials) for _ in range(models)]
                found = Trials(*map(np.concatenate, zip(*(run[0] for run in runs), strict=True)))
                record(report, shift, name, found, float(np.mean([error for _, error in runs])))
    return report.finish(args)


def draw(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    X = rng.standard_normal((n, 4))
    X[:, 0] += shift
    return X, X @ np.array([1.0, -1.0, 0.5, 0.0]) + np.exp(0.8 * X[:, 0]) * rng.standard_normal(n)


def known_ratio(shift: float, X: np.ndarray) -> np.ndarray:
    """Return the density of N(shift, 1) over that of N(0, 1), of the first column."""
    return np.exp(shift * X[:, 0] - shift**2 / 2)


def run(rng: np.random.Generator, ratio: Any, shift: float, trials: int) -> tuple[Trials, float]:
    """Train once, and return what the trials saw and half the mean absolute error of the learned ratio."""
    model = SplitConformalRegressor(Ridge(), scale="constant", confidence_level=LEVEL, likelihood_ratio=ratio)
    target = draw(rng, TARGET, shift)[0] if isinstance(ratio, ClassifierRatio) else None
    model.fit_train(*draw(rng, TRAINING), X_target=target)
    weigh = model.plan_.ratio or (lambda X: np.ones(len(X)))
    seen = [trial(rng, model, weigh, shift) for _ in range(trials)]
    return Trials(*map(np.array, zip(*seen, strict=True))), ratio_error(rng, weigh, ratio, shift)


def trial(rng: np.random.Generator, model: Any, weigh: Callable[[Any], Any], shift: float) -> tuple[float, ...]:
    X, y = draw(rng, CALIBRATION)
    X_new, y_new = draw(rng, NEW, shift)
    lower, upper = model.calibrate(X, y).predict_interval(X_new)[1].T
    inside, width = (lower <= y_new) & (y_new <= upper), upper - lower
    before, own = weigh(X), weigh(X_new)[0]
    share = max(before.max(), own) / (before.sum() + own)
    finite = np.isfinite(width)
    typical = np.median(width[finite]) if finite.any() else np.nan
    return inside[0], inside.mean(), 1 - finite.mean(), typical, model.effective_sample_size_, share


def ratio_error(rng: np.random.Generator, weigh: Callable[[Any], Any], ratio: Any, shift: float) -> float:
    """Return half the mean |w' - w| over calibration inputs, both with mean 1; 0 unless the ratio is learned."""
    if not isinstance(ratio, ClassifierRatio):
        return 0.0
    X, _ = draw(rng, 20_000)
    learned, true = weigh(X), known_ratio(shift, X)
    return float(np.abs(learned / learned.mean() - true).mean() / 2)


def record(report: Report, shift: float, name: str, found: Trials, error: float) -> None:
    n, first = len(found.first), int(found.first.sum())
    report.row(
        shift=shift,
        method=name,
        coverage=round(float(found.covered.mean()), 4),
        standard_error=round(float(found.covered.std() / np.sqrt(n)), 4),
        infinite=round(float(found.infinite.mean()), 4),
        median_width=round(float(np.nanmedian(found.width)), 2),
        effective_size=round(float(found.effective.mean()), 1),
        ratio_error=round(error, 4),
    )
    if name == "plain":
        if shift == EXAMPLE:
            report.target(f"plain coverage at shift {shift}", found.covered.mean(), 0.75, ">=")
            report.target(f"plain coverage at shift {shift}", found.covered.mean(), 0.85, "<=")
        return
    chance = FALSE_ALARM / (2 * len(SHIFTS) * (len(METHODS) - 1))
    low = binom(n, LEVEL - error).ppf(chance)
    high = binom(n, min(1.0, LEVEL + found.share.mean() + error)).ppf(1 - chance)
    report.target(f"{name} at shift {shift}: covered of {n} first rows", first, low, ">=")
    report.target(f"{name} at shift {shift}: covered of {n} first rows", first, high, "<=")


if __name__ == "__main__":
    sys.exit(main())
