"""``python -m hatband intervals``: from two tables to a table of intervals, and the facts to judge them by."""

import warnings
from typing import Any

import numpy as np

from hatband.checks import check_calibration_size
from hatband.commands.base import Answer, CommandError, IntervalsRequest, Table
from hatband.commands.columns import Columns, target_of
from hatband.commands.facts import facts
from hatband.commands.recipes import RECIPES
from hatband.commands.tables import check_output, first_line, read_table, require_pandas, write_table
from hatband.conformal import SplitConformalRegressor
from hatband.formulas.order_statistics import minimum_calibration_size

SCALES = ("constant", "leverage", "auto")
MINIMUM_TRAINING_ROWS = 10


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
    """Refuse a calibration set too small for the level, or too few rows to train on."""
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
    """Rows to predict; their target too, where the file has it."""
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
    """One row per new row, in the same order, under the same index."""
    columns = {"prediction": answer.prediction}
    for position, level in enumerate(request.levels):
        suffix = "" if len(request.levels) == 1 else f"_{level}"
        lower, upper = answer.interval[:, :, position].T
        columns |= {f"lower{suffix}": lower, f"upper{suffix}": upper}
    return require_pandas().DataFrame(columns | {"leverage": answer.leverage}, index=new.features.index)
