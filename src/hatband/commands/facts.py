"""What a reader needs to trust a table of intervals, or not to."""

import math
import re
from collections.abc import Iterator

import numpy as np

from hatband.arrays.typing import Array
from hatband.commands.base import Answer, IntervalsRequest, Table
from hatband.commands.columns import Columns
from hatband.commands.recipes import MAX_LEVELS, chosen
from hatband.commands.tables import quoted
from hatband.formulas.metrics import covered
from hatband.scales import AutoScale, Scale

# A number with a decimal comma, or with commas between its thousands.
_WITH_COMMAS = re.compile(r"[-+]?\d[\d.]*,[\d,.]*\d")


def facts(request: IntervalsRequest, columns: Columns, train: Table, new: Table, answer: Answer) -> Iterator[str]:
    """Yield one line per fact, its kind first."""
    yield _row_fact(request, train, new, len(answer.model.scores_))
    numbers, texts = len(columns.numbers), len(columns.texts)
    yield f"features  {_count(numbers, 'number')}, {_count(texts, 'text')}; {chosen(answer.model.estimator_)}"
    yield f"scale     {request.scale} ({_scale(answer.model.scale_)})"
    for position, level in enumerate(request.levels):
        yield _level_fact(level, *answer.interval[:, :, position].T)
    yield (
        f"promise   a new row drawn like those of {train.path} lies inside with a probability of at least the level,\n"
        "          averaged over rows and splits; not for each kind of row"
    )
    yield _leverage_fact(train, answer)
    if new.target is not None:
        yield from _coverage_facts(request, new.target, answer)
    yield from (f"note      {note}" for note in [*_column_notes(columns, train, new), *answer.notes])
    yield f"wrote     {request.output}: {_count(len(new), 'row')} in the order of {new.path}"


def _row_fact(request: IntervalsRequest, train: Table, new: Table, calibration: int) -> str:
    line = f"rows      {len(train) - calibration} trained on, {calibration} calibrated on, {len(new)} new"
    return line + (f"; {train.dropped} of {train.path} left out: no {request.target!r}" if train.dropped else "")


def _scale(scale: Scale) -> str:
    """Name the class, or what was chosen and why."""
    if not isinstance(scale, AutoScale):
        return type(scale).__name__
    chosen = next(entry for entry in scale.report_ if entry["chosen"])
    return f"{chosen['candidate']}: {chosen.get('reason', 'best or simplest of those near it in cross-validation')}"


def _level_fact(level: float, lower: Array, upper: Array) -> str:
    finite = np.isfinite(upper) & np.isfinite(lower)
    if not finite.any():
        return f"level     {level:g}: every interval is infinite"
    infinite = f", {(~finite).sum()} infinite ones not counted" if not finite.all() else ""
    return f"level     {level:g}: mean width {(upper - lower)[finite].mean():.4g}{infinite}"


def _leverage_fact(train: Table, answer: Answer) -> str:
    """New rows far from the training rows, measured by rows that the model has not trained on either."""
    seen = answer.model.leverage(train.features.iloc[answer.model.calibration_indices_])
    limit = np.quantile(seen, 0.99, method="inverted_cdf")
    return (
        f"leverage  {np.mean(answer.leverage > limit):.1%} of the new rows lie beyond {limit:.3g}, the 99% quantile of "
        "the calibration rows;\n          about 1% would if both files came from one source"
    )


def _coverage_facts(request: IntervalsRequest, target: Array, answer: Answer) -> Iterator[str]:
    known = np.isfinite(target)
    rows = int(known.sum())
    for position, level in enumerate(request.levels if rows else ()):
        share = np.mean(covered(target[known], *answer.interval[known, :, position].T))
        error = math.sqrt(share * (1 - share) / rows)
        yield f"coverage  {share:.1%} (s.e. {error:.1%}) of {rows} new rows with {request.target!r}, level {level:g}"


def _column_notes(columns: Columns, train: Table, new: Table) -> Iterator[str]:
    if columns.empty:
        yield f"no values in {quoted(columns.empty)} of {train.path}; left out"
    for name, seen in columns.texts.items():
        grouped = next((text for text in sorted(seen) if _WITH_COMMAS.fullmatch(text)), None)
        if grouped is not None and sum(bool(_WITH_COMMAS.fullmatch(text)) for text in seen) > len(seen) / 2:
            yield f"{name!r} is read as text, because of its commas: {grouped!r}; write numbers as 1234.5"
        elif len(seen) == len(train):
            yield f"every row has its own {name!r}; if it names the rows, say --index {name!r}"
        elif len(seen) > MAX_LEVELS:
            yield f"{name!r} has {len(seen)} levels; the rarest count as one"
    for name, count in columns.unseen(new.features).items():
        yield f"{_count(count, 'new row')} with a {name!r} that {train.path} does not have: none of its levels"
    if new.unused:
        yield f"not used, as {train.path} does not have them: {quoted(new.unused)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
