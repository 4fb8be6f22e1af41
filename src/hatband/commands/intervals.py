"""``python -m hatband intervals``: from two tables to a table of intervals, and facts for judging them."""

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_calibration_size
from hatband.commands.base import Answer, CommandError, IntervalsRequest, Table
from hatband.commands.recipes import MAX_LEVELS, RECIPES, chosen
from hatband.commands.tables import (
    Columns,
    check_output,
    first_line,
    quoted,
    read_table,
    require_pandas,
    target_of,
    write_table,
)
from hatband.conformal import SplitConformalRegressor
from hatband.formulas.metrics import covered
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.scales import AutoScale, Scale

SCALES = ("constant", "leverage", "auto")
MINIMUM_TRAINING_ROWS = 10
# A number with a decimal comma, or with commas between its thousands.
_WITH_COMMAS = re.compile(r"[-+]?\d[\d.]*,[\d,.]*\d")


def run_intervals(request: IntervalsRequest) -> None:
    """Train, calibrate, predict, write the table, print the facts."""
    require_pandas()
    check_output(request.output, (request.train, request.new))
    if request.index == request.target:
        raise CommandError(f"--target and --index both name {request.target!r}")
    columns, train = read_training(request)
    new = read_new(request, columns)
    answer = solve(request, columns, train, new)
    write_table(result_table(request, new, answer), request.output)
    for line in facts(request, columns, train, new, answer):
        print(line)


def read_training(request: IntervalsRequest) -> tuple[Columns, Table]:
    """Rows of the training file that have a target."""
    table = read_table(request.train, request.index)
    target = target_of(table, request.target, request.train)
    kept = ~np.isnan(target)
    if not kept.any():
        raise CommandError(f"the target {request.target!r} is missing in every row of {request.train}")
    features = table.drop(columns=request.target).loc[kept]
    columns = Columns.of(features, request.train)
    check_size(request, int(kept.sum()))
    return columns, Table(request.train, columns.select(features, request.train), target[kept], int((~kept).sum()))


def check_size(request: IntervalsRequest, rows: int) -> None:
    """Raise if there are too few calibration rows for the level, or too few rows to train on."""
    try:
        calibration = check_calibration_size(request.calibration_size, rows)
    except ValueError as error:
        raise CommandError(f"{request.train} has {rows} rows with a target: {first_line(error)}") from error
    needed = max(minimum_calibration_size(level) for level in request.levels)
    if calibration < needed or rows - calibration < MINIMUM_TRAINING_ROWS:
        raise CommandError(
            f"too few rows: {rows} with a target in {request.train} make {calibration} for calibration and "
            f"{rows - calibration} for training; level {max(request.levels):g} needs at least {needed} and "
            f"{MINIMUM_TRAINING_ROWS}. Give more rows, another --calibration-size or a lower --confidence"
        )


def read_new(request: IntervalsRequest, columns: Columns) -> Table:
    """Rows to predict, with their target if the file has it."""
    table = read_table(request.new, request.index)
    target = target_of(table, request.target, request.new) if request.target in table else None
    used = {*columns.names, *columns.empty, request.target}
    unused = tuple(name for name in table.columns if name not in used)
    return Table(request.new, columns.select(table, request.new), target, unused=unused)


def solve(request: IntervalsRequest, columns: Columns, train: Table, new: Table) -> Answer:
    """Fit, calibrate and predict; warnings become notes."""
    recipe = RECIPES[request.estimator](columns, request.seed)
    model = SplitConformalRegressor(
        recipe.estimator,
        geometry=recipe.geometry,
        scale=request.scale,
        confidence_level=request.levels[0],
        calibration_size=request.calibration_size,
        random_state=request.seed,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(train.features, train.target)
            prediction, interval = model.predict_interval(new.features, confidence_level=list(request.levels))
            leverage = model.leverage(new.features)
        except ValueError as error:
            raise CommandError(f"{request.estimator} cannot use {train.path}: {first_line(error)}") from error
    notes = dict.fromkeys(first_line(warning.message) for warning in caught)
    return Answer(model, prediction, interval, leverage, tuple(notes))


def result_table(request: IntervalsRequest, new: Table, answer: Answer) -> Any:
    """One row per new row, in the same order, with the same index."""
    columns = {"prediction": answer.prediction}
    for position, level in enumerate(request.levels):
        suffix = "" if len(request.levels) == 1 else f"_{level}"
        lower, upper = answer.interval[:, :, position].T
        columns |= {f"lower{suffix}": lower, f"upper{suffix}": upper}
    return require_pandas().DataFrame(columns | {"leverage": answer.leverage}, index=new.features.index)


def facts(request: IntervalsRequest, columns: Columns, train: Table, new: Table, answer: Answer) -> Iterator[str]:
    """Yield one line per fact; each starts with its kind."""
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
    """Return the name of the class, or of the chosen candidate with the reason."""
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
    """Share of new rows far from the training rows, compared with calibration rows, also unseen by the model."""
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
