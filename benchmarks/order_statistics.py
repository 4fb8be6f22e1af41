"""Ranks against exact rational arithmetic on the grid of every n up to 2,000 and levels 0.5, 0.501, ... 0.999.

Beside the ranks of hatband stand the everyday floating-point expressions, with the number of cells that they get wrong.
"""

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from _report import Report, parser
from hatband.formulas.order_statistics import exact_level, upper_rank

FORMS: dict[str, Callable[[int], Any]] = {
    "k / 1000": lambda k: k / 1000,
    "1 - (1000 - k) / 1000": lambda k: 1 - (1000 - k) / 1000,
    "float32(k / 1000)": lambda k: np.float32(k / 1000),
    "float32(1) - float32((1000 - k) / 1000)": lambda k: np.float32(1) - np.float32((1000 - k) / 1000),
}
RANKS: dict[str, Callable[[int, Any], int]] = {
    "hatband.formulas.order_statistics.upper_rank": upper_rank,
    "ceil((n + 1) * level)": lambda n, level: math.ceil((n + 1) * level),
    "ceil(level * (1 + 1 / n) * n)": lambda n, level: math.ceil(level * (1 + 1 / n) * n),
    "n + 1 - floor((n + 1) * (1 - level))": lambda n, level: n + 1 - math.floor((n + 1) * (1 - level)),
}


def main() -> int:
    args = parser(__doc__).parse_args()
    sizes = range(1, 2001, 20 if args.quick else 1)
    report = Report("order_statistics")
    for form, as_level in FORMS.items():
        for name, rank in RANKS.items():
            wrong = sum(count_wrong(rank, as_level(k), k, sizes) for k in range(500, 1000))
            report.row(level=form, rank=name, cells=500 * len(sizes), wrong=wrong)
            if rank is upper_rank:
                report.target(f"wrong ranks, level as {form}", wrong, 0, "==")
    return report.finish(args)


def count_wrong(rank: Callable[[int, Any], int], level: Any, k: int, sizes: range) -> int:
    if rank is upper_rank and exact_level(level) == Fraction(k, 1000):
        level = Fraction(k, 1000)  # what upper_rank makes of it, made once
    return sum(rank(n, level) != -(-(n + 1) * k // 1000) for n in sizes)


if __name__ == "__main__":
    sys.exit(main())
