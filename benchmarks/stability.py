"""Does leverage depend on the training run? Rank correlation over runs against width, single networks and ensembles.

Perceptrons with two hidden layers of one width are trained on the same rows, each from weights, batches and rows held
out of its own; the leverage of the last layer, at a ridge of 1e-4 of the mean eigenvalue, is taken of the same new
rows. Ensembles average the leverages of 5 networks. Shown are Spearman's rank correlation over pairs of runs (mean and
lowest), the standard deviation of a row's leverage over runs relative to its mean, and eta = std(h) / mean(h) over
rows. Fadnavis (2026) says that variation falls like 1 / sqrt(width) for wide networks that hardly move, that nothing is
promised for others, that ensembles help, and that eta > 2 is a warning. No source gives figures; the targets are the
two of these claims that are about order. What moves features most is the step size: at width 1,024 runs agree less than
at 256 with the default of 3e-3, and about as well as untrained networks do with --learning-rate 3e-4. The leverage of
the inputs stands beside them for comparison: it does not depend on the run, and the correlation with it says how much
of a network's leverage it explains.
"""

import sys
import warnings
from argparse import Namespace
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr

from _report import Report, parser
from hatband import datasets
from hatband.checks import LeverageWarning
from hatband.diagnostics import leverage_stability
from hatband.diagnostics.stability import ensemble_means, run_leverages, spread_reading
from hatband.geometry import InputsGeometry
from hatband.nn import (
    MLP,
    LastLayerConformalRegressor,
    fit_ensemble,
)

MEMBERS = 5
WIDTHS = (16, 64, 256, 1024)
QUICK_WIDTHS = (16, 64, 256)
ROWS = 2_000


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of three of six inputs, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, 6))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.2 * rng.standard_normal(ROWS)


def real(name: str) -> tuple[np.ndarray, np.ndarray]:
    """At most 2,000 rows of a data set."""
    X, y = datasets.load(name)[:2]
    chosen = np.random.default_rng(0).permutation(len(y))[:ROWS]
    return np.asarray(X, dtype=np.float64)[chosen], np.asarray(y, dtype=np.float64)[chosen]


def leverages(X: np.ndarray, y: np.ndarray, new: np.ndarray, width: int, args: Namespace) -> np.ndarray:
    """Return the leverages (networks, m) of new rows."""
    build, epochs = partial(MLP, X.shape[1], widths=(width, width)), 30 if args.quick else 60
    settings = {"epochs": epochs, "learning_rate": args.learning_rate}
    nets = fit_ensemble(build, X, y, n_networks=args.networks, random_state=width, **settings)
    with warnings.catch_warnings():
        # Relative errors of 1e-8 do not change a rank.
        warnings.simplefilter("ignore", LeverageWarning)
        return run_leverages([LastLayerConformalRegressor(n, scale="leverage").fit_train(X) for n in nets], new)


def measured(report: Report, name: str, width: int, h: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Add the rows of single networks and of ensembles, and return what the targets are about."""
    found = {}
    for kind, runs in (("single", h), (f"ensembles of {MEMBERS}", ensemble_means(h, MEMBERS))):
        stable = leverage_stability(runs)
        report.row(
            data=name,
            width=width,
            networks=kind,
            runs=len(runs),
            correlation=stable.mean_correlation,
            lowest=stable.lowest_correlation,
            variation=stable.variation,
            **{
                "variation * sqrt(width)": stable.variation * width**0.5,
                "eta": stable.mean_spread,
                "reading": spread_reading(stable.mean_spread),
                "correlation with inputs": float(np.mean([spearmanr(run, reference).statistic for run in runs])),
            },
        )
        found[kind.split()[0]] = stable.mean_correlation
    return found


def table(report: Report, name: str, data: tuple[np.ndarray, np.ndarray], args: Namespace) -> None:
    """Measure one data set over all widths."""
    X, y = data
    half = len(y) // 2
    space = InputsGeometry().fit(X[:half])
    reference = space.leverage(space.features(X[half:]))
    widths = QUICK_WIDTHS if args.quick else WIDTHS
    found = {}
    for width in widths:
        h = leverages(X[:half], y[:half], X[half:], width, args)
        found[width] = measured(report, name, width, h, reference)
        gain = found[width]["ensembles"] - found[width]["single"]
        report.target(f"{name}, width {width}: correlation of ensembles less that of single networks", gain, 0, ">")
    gain = found[widths[-1]]["single"] - found[widths[0]]["single"]
    report.target(f"{name}: correlation at width {widths[-1]} less that at {widths[0]}", gain, 0, ">")


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--learning-rate", type=float, default=3e-3, help="step size of training (3e-3)")
    arguments.add_argument("--data", nargs="+", help="made, and names of data sets (made concrete power_plant)")
    arguments.add_argument("--networks", type=int, help="how many to train at each width (20; 10 with --quick)")
    args = arguments.parse_args()
    args.networks = args.networks or (10 if args.quick else 20)
    torch.set_num_threads(1)
    report = Report("stability")
    names = args.data or (["made"] if args.quick else ["made", "concrete", "power_plant"])
    for name in names:
        table(report, name, made() if name == "made" else real(name), args)
    return report.finish(args)


if __name__ == "__main__":
    sys.exit(main())
