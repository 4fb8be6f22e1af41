"""Intervals that adapt: learned scales against the ways other packages have, on real regression sets at 90 %.

Every split draws at most `--rows` rows with its own seed: half train, a quarter calibrates, a quarter tests. All
methods see the same rows and the same model; what they learn, they learn from the training half (MAPIE's normalised
score takes a share of the calibration quarter instead). Ranked are the methods that keep the model's prediction as
base; conformal quantile regression, which has a centre of its own, is ranked with boosting and shown apart with Ridge.
The default is judged by its rank among the fixed scales and the methods of others; the learned scales by name, from
which it chooses, stand beside it, and the rank among all methods is shown too.

A cell is one split of one set with one model. Cells are kept as JSON in `--cells` and only missing methods are run, so
a run can be interrupted; delete the folder to measure anew.
"""

import json
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import betabinom, rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from _adaptive import LEVEL, METHODS, Parts, absent, measured
from _report import Report, parser
from coverage import made_sets
from hatband.datasets import load, names
from hatband.formulas.order_statistics import upper_rank

FALSE_ALARM = 1e-3
CHOSEN = "AutoScale"
OWN_CENTRE = "CQR, boosting"
BY_NAME = ("strength", "magnitude", "quantile")
# Sizes of the cells of a quick run: other cells than those of a full one.
QUICK_ROWS, QUICK_SPLITS = 1_200, 2

MODELS: dict[str, Callable[[int], Any]] = {
    "ridge": lambda seed: make_pipeline(StandardScaler(), Ridge()),
    "boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
}
TARGETS = {"ridge": (0.62, 0.58), "boosting": (0.72, 0.68)}


def sets(args: Namespace) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | None]]:
    """Yield one set at a time, None if it is not available; a quick run without a folder downloads nothing."""
    if args.quick and not os.environ.get("HATBAND_DATA"):
        yield from made_sets().items()
        return
    quick = ["communities", "concrete", "cpu_act", "yacht"]
    for name in args.sets or (quick if args.quick else [name for name in names() if name != "diabetes"]):
        try:
            found = load(name)
            yield name, (found.data, found.target)
        except FileNotFoundError as missing:
            print(missing)
            yield name, None


def parts(data: tuple[np.ndarray, np.ndarray], seed: int, cap: int) -> Parts:
    """Draw the rows of one split: half, a quarter, a quarter."""
    X, y = data
    rows = np.random.default_rng(1_000 + seed).permutation(len(y))[:cap]
    train, calibrate, test = np.split(rows, [len(rows) // 2, len(rows) // 2 + len(rows) // 4])
    return Parts(X[train], y[train], X[calibrate], y[calibrate], X[test], y[test])


def cell(file: Path, model: str, data: tuple[np.ndarray, np.ndarray], seed: int, cap: int) -> dict[str, Any]:
    """Return the figures of every method in one cell, running those that its file does not have."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    missing = [name for name in METHODS if name not in found and name not in absent()]
    if missing:
        rows = parts(data, seed, cap)
        found |= {name: measured(METHODS[name], MODELS[model](seed), rows, seed) for name in missing}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    return {name: found[name] for name in METHODS if name in found}


def summary(cells: list[dict[str, Any]], method: str) -> dict[str, float]:
    """Return means over the splits of one set and model: ratios are to the constant width on the same split."""
    mine, constant = [cell[method] for cell in cells], [cell["constant"] for cell in cells]
    error = [_debiased(figures["deciles"]) for figures in mine]
    return {
        "coverage": _mean(figures["coverage"] for figures in mine),
        "width": _mean(a["width"] / b["width"] for a, b in zip(mine, constant, strict=True)),
        "score": _mean(a["score"] / b["score"] for a, b in zip(mine, constant, strict=True)),
        "error": float(np.mean(error)),
        "seconds": _mean(figures["seconds"] for figures in mine),
    }


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _debiased(deciles: list[list[int]]) -> float:
    """Mean over deciles of (coverage - level)^2 less the binomial variance that a perfect method has too."""
    inside, size = np.array(deciles, dtype=float).T
    share = inside / size
    return float(np.mean((share - LEVEL) ** 2 - share * (1 - share) / np.maximum(size - 1, 1)))


def outside(cells: list[dict[str, Any]], method: str, tail: float) -> int:
    """Count the splits whose coverage no split-conformal method would have, ties in the scores allowed for."""
    count = 0
    for figures in (cell[method] for cell in cells):
        n, tests = figures["calibration_rows"], figures["tests"]
        rank = upper_rank(n, LEVEL)
        law = betabinom(tests, rank, n + 1 - rank)
        count += bool(figures["inside"] < law.ppf(tail) or figures["strictly"] > law.isf(tail))
    return count


def compare(report: Report, table: dict[tuple[str, str, str], dict[str, float]], set_names: list[str]) -> None:
    """Report means over sets, ranks among the methods that are ranked, and the targets of the default."""
    for model in MODELS:
        methods = [name for name in METHODS if (set_names[0], model, name) in table]
        ranked = [name for name in methods if model == "boosting" or name != OWN_CENTRE]
        ranks = mean_ranks(table, model, set_names, ranked)
        rivals = mean_ranks(table, model, set_names, [name for name in ranked if name not in BY_NAME])
        for name in methods:
            rows = [table[key, model, name] for key in set_names]
            report.row(
                model=model,
                method=name,
                sets=len(rows),
                coverage=round(_mean(row["coverage"] for row in rows), 4),
                **{
                    "score ratio": round(_mean(row["score"] for row in rows), 4),
                    "worst set": round(max(row["score"] for row in rows), 3),
                    "width ratio": round(_mean(row["width"] for row in rows), 4),
                    "decile error x 1e4": round(1e4 * _mean(row["error"] for row in rows), 2),
                    "mean rank": round(rivals[name], 2) if name in rivals else None,
                    "rank of all": round(ranks[name], 2) if name in ranks else None,
                    "seconds": round(_mean(row["seconds"] for row in rows), 2),
                },
            )
        _targets(report, model, table, set_names, rivals)


def mean_ranks(table: Any, model: str, set_names: list[str], methods: list[str]) -> dict[str, float]:
    """Return the mean over sets of each method's rank by interval score; 1 is the best."""
    scores = np.array([[table[key, model, name]["score"] for name in methods] for key in set_names])
    return dict(zip(methods, rankdata(scores, axis=1).mean(axis=0).tolist(), strict=True))


def _targets(report: Report, model: str, table: Any, set_names: list[str], ranks: dict[str, float]) -> None:
    ratios = [table[key, model, CHOSEN]["score"] for key in set_names]
    complete = len(set_names) == len(names()) - 1
    limit, stretch = TARGETS[model]
    mean = float(np.mean(ratios)) if complete else None
    report.target(f"{model}: mean ratio of interval score to constant", mean, limit)
    report.target(f"{model}: the same, stretch", mean, stretch)
    report.target(f"{model}: worst set", max(ratios), 1.02)
    report.target(f"{model}: mean rank less the best other's", ranks.pop(CHOSEN) - min(ranks.values()), 0)


def main(args: Namespace) -> int:
    report = Report("adaptive")
    for name, reason in absent().items():
        print(f"{name} is left out: {reason}")
    splits = args.splits or (QUICK_SPLITS if args.quick else 10)
    cap = QUICK_ROWS if args.quick else args.rows
    table, set_names, costs, judged = {}, [], [], []
    for set_name, data in sets(args):
        if data is None:
            report.target(f"{set_name}: all targets", None, 0)
            continue
        set_names.append(set_name)
        for model in MODELS:
            files = [args.cells / f"{set_name}-{model}-{cap}-{seed}.json" for seed in range(splits)]
            cells = [cell(file, model, data, seed, cap) for seed, file in enumerate(files)]
            judged += cells
            costs.append(_mean(found[CHOSEN]["cost"] for found in cells if "cost" in found[CHOSEN]))
            for name in cells[0]:
                table[set_name, model, name] = summary(cells, name)
                rounded = {key: round(value, 5) for key, value in table[set_name, model, name].items()}
                report.row(set=set_name, model=model, splits=splits, method=name, **rounded)
            print(f"{set_name}, {model}: {table[set_name, model, CHOSEN]['score']:.4f}", flush=True)
    if set_names:
        compare(report, table, set_names)
        exact = [name for name in METHODS if METHODS[name].exact and name not in absent()]
        tail = FALSE_ALARM / (2 * len(judged) * len(exact))
        for name in exact:
            title = f"{name}: splits of {len(judged)} outside exact bounds (false-alarm rate {FALSE_ALARM:g} a run)"
            report.target(title, outside(judged, name, tail), 0)
        title = "cost of AutoScale.fit, in fits of two boosted quantile regressions, median over sets and models"
        report.target(title, float(np.median(costs)), 3.0)
    return report.finish(args)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=6_000, help="largest number of rows of a split")
    options.add_argument("--splits", type=int, default=0, help="splits per set (default: 10, quick: 2)")
    options.add_argument("--sets", nargs="+", metavar="NAME", help="sets to run (default: all fourteen)")
    default = Path(__file__).parent / "results" / "adaptive_cells"
    options.add_argument("--cells", type=Path, default=default, metavar="FOLDER", help="where cells are kept")
    return options.parse_args()


if __name__ == "__main__":
    # Infinite leverages, and what other packages say of themselves, are figures here, not news.
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        code = main(arguments())
    sys.exit(code)
