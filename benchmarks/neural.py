"""Intervals around neural networks on real regression sets at 90 %: CLAPS and learned scales against plain split.

First table: perceptrons of two hidden layers of 64, trained by squared error or, with a noise head, by the Gaussian
likelihood. Every split draws at most `--rows` rows with its own seed: 40 % train, 10 % stop the training and fit noise
and learned scales, a quarter calibrates, a quarter tests. All methods of a network see the same rows and the same
network; ratios of the interval score are to the constant width around it.

Second table: one hidden layer of 50. Split (half trains, a quarter calibrates) with constant width and with the
leverage of the whole network, against studentised full conformal prediction on the linearised network, which trains on
both parts.

A cell is one split of one set. Cells are kept as JSON in `--cells`, so a run can be interrupted; delete the folder to
measure anew.
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
import torch
from threadpoolctl import threadpool_limits

from _chance import is_outside
from _neural import BASE, LEVEL, METHODS, Pair, scales, whole_network
from _report import Report, parser
from coverage import made_sets
from hatband.datasets import load

SETS = ["concrete", "yacht", "power_plant", "protein_casp", "bike_sharing", "california_housing"]
SMALL = ["concrete", "yacht"]
ROUTES = ["split", "split / leverage", "full, studentised"]
FALSE_ALARM = 1e-3
TARGET = 0.92
QUICK_ROWS, QUICK_SPLITS = 1_000, 1


def sets(args: Namespace) -> Iterator[tuple[str, Pair | None]]:
    """Yield one set at a time, None if it is not available; a quick run without a folder downloads nothing."""
    if args.quick and not os.environ.get("HATBAND_DATA"):
        yield from ((name, Pair(*data)) for name, data in made_sets().items())
        return
    for name in SETS:
        try:
            found = load(name)
            yield name, Pair(found.data, found.target)
        except FileNotFoundError as missing:
            print(missing)
            yield name, None


def cell(file: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what is in a file, measured first where it is not there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = measure()
        file.write_text(json.dumps(found))
    return dict(json.loads(file.read_text()))


def cells(args: Namespace, kind: str, name: str, data: Pair, measure: Callable[..., Any]) -> list[dict[str, Any]]:
    """Return the cells of one set, one per split."""
    cap = QUICK_ROWS if args.quick else args.rows
    splits = args.splits or (QUICK_SPLITS if args.quick else 10)
    found = []
    for seed in range(splits):
        file = args.cells / f"{kind}-{name}-{cap}-{seed}.json"
        found.append(cell(file, lambda seed=seed: measure(data, seed, cap)))  # type: ignore[misc]
    print(f"{kind}, {name}: {splits} splits", flush=True)
    return found


def ratio(found: list[dict[str, Any]], name: str, base: str, figure: str = "score") -> float:
    """Return the mean over splits of a figure over that of the base."""
    return float(np.mean([one[name][figure] / one[base][figure] for one in found]))


def coverage(found: list[dict[str, Any]], name: str) -> float:
    """Return the share of test rows covered."""
    return float(np.mean([one[name]["inside"] / one[name]["tests"] for one in found]))


def outside(found: list[dict[str, Any]], tail: float) -> int:
    """Count coverages that no split-conformal method without ties would have."""
    return sum(
        is_outside(one["inside"], one["inside"], one["calibration_rows"], one["tests"], level=LEVEL, tail=tail)
        for figures in found
        for one in figures.values()
    )


def compare_scales(report: Report, table: dict[str, list[dict[str, Any]]], whole: bool) -> None:
    """Report every method around every network, and the targets."""
    for loss, methods in METHODS.items():
        means = {}
        for name in methods:
            key, base = f"{loss}, {name}", f"{loss}, {BASE}"
            ratios = {chosen: ratio(found, key, base) for chosen, found in table.items()}
            means[name] = float(np.mean(list(ratios.values())))
            report.row(
                network=loss,
                method=name,
                coverage=round(float(np.mean([coverage(found, key) for found in table.values()])), 4),
                **{chosen: round(value, 3) for chosen, value in ratios.items()},
                mean=round(means[name], 4),
                **{
                    "to squared split": round(
                        float(np.mean([ratio(f, key, "squared, split") for f in table.values()])), 4
                    )
                },
            )
        best = min(means["CLAPS v4"], means["auto"])
        title = f"{loss} networks: mean ratio of interval score to split, the better of CLAPS v4 and auto"
        report.target(title, best if whole and set(table) == set(SETS) else None, TARGET)
    judged = [one for found in table.values() for one in found]
    tail = FALSE_ALARM / (2 * sum(map(len, judged)))
    title = f"coverages of {sum(map(len, judged))} outside exact bounds (false-alarm rate {FALSE_ALARM:g} a run)"
    report.target(title, outside(judged, tail), 0)


def compare_routes(report: Report, table: dict[str, list[dict[str, Any]]]) -> None:
    """Report split and full conformal intervals on small sets, and whether their scores come in the published order."""
    for name, found in table.items():
        for route in ROUTES:
            report.row(
                set=name,
                splits=len(found),
                route=route,
                **{"coverage, all rows": round(coverage(found, route), 4)},
                width=round(float(np.mean([one[route]["width"] for one in found])), 4),
                **{"interval score": round(float(np.mean([one[route]["score"] for one in found])), 4)},
                **{"score / split": round(ratio(found, route, "split"), 4)},
                **{"width / split": round(ratio(found, route, "split", "width"), 4)},
            )
        scores = [np.mean([one[route]["score"] for one in found]) for route in ROUTES]
        known = name in SMALL
        report.target(
            f"{name}: score of full over leverage-scaled split", scores[2] / scores[1] if known else None, 1.0
        )
        report.target(
            f"{name}: score of leverage-scaled split over split", scores[1] / scores[0] if known else None, 1.0
        )


def main(args: Namespace) -> int:
    report = Report("neural")
    table: dict[str, list[dict[str, Any]]] = {}
    small: dict[str, list[dict[str, Any]]] = {}
    for name, data in sets(args):
        if data is None:
            report.target(f"{name}: all targets", None, 0)
            continue
        table[name] = cells(args, "scales", name, data, scales)
        if name in SMALL or name not in SETS:
            small[name] = cells(args, "routes", name, data, whole_network)
    if table:
        compare_scales(report, table, whole=not args.quick)
        compare_routes(report, small)
    return report.finish(args)


def arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=6_000, help="largest number of rows of a split")
    options.add_argument("--splits", type=int, default=0, help="splits per set (default: 10, quick: 1)")
    default = Path(__file__).parent / "results" / "neural_cells"
    options.add_argument("--cells", type=Path, default=default, metavar="FOLDER", help="where cells are kept")
    return options.parse_args()


if __name__ == "__main__":
    # What a scale says of too few rows is a figure here, not news.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        code = main(arguments())
    sys.exit(code)
