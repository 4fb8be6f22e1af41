"""The estimators of the command line, each ready for a table with numbers, texts and gaps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from hatband.commands.tables import Columns
from hatband.fitted.loo_ridge import LeaveOneOutRidge

# Everything that is learned from the features is learned inside the estimator, from its training rows alone: otherwise
# calibration rows would differ from new ones, and the guarantee would be lost.
MAX_LEVELS = 50


@dataclass(frozen=True)
class Recipe:
    """An unfitted estimator, and where its leverage is measured."""

    estimator: Any
    geometry: Any = "auto"


def _numeric(columns: Columns) -> ColumnTransformer:
    """Medians for gaps with a column that marks them, unit variance; texts as 0/1 columns, zeros when unknown."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    texts = OneHotEncoder(handle_unknown="ignore", max_categories=MAX_LEVELS, sparse_output=False)
    return ColumnTransformer([("numbers", numbers, list(columns.numbers)), ("texts", texts, list(columns.texts))])


def _ridge(columns: Columns, seed: int) -> Recipe:
    return Recipe(make_pipeline(_numeric(columns), LeaveOneOutRidge()))


def _forest(columns: Columns, seed: int) -> Recipe:
    return Recipe(make_pipeline(_numeric(columns), RandomForestRegressor(random_state=seed)))


def _boosting(columns: Columns, seed: int) -> Recipe:
    """Gaps and categories stay unchanged; leverage is measured with categories as 0/1 columns."""
    texts = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=MAX_LEVELS)
    parts = [("texts", texts, list(columns.texts)), ("numbers", "passthrough", list(columns.numbers))]
    trees = HistGradientBoostingRegressor(categorical_features=range(len(columns.texts)), random_state=seed)
    return Recipe(make_pipeline(ColumnTransformer(parts), trees), geometry=_numeric(columns))


def _mlp(columns: Columns, seed: int) -> Recipe:
    network = MLPRegressor(
        hidden_layer_sizes=(64,),
        learning_rate_init=0.01,
        early_stopping=True,
        n_iter_no_change=20,
        max_iter=1000,
        random_state=seed,
    )
    # A network whose target is not of order one trains badly.
    return Recipe(make_pipeline(_numeric(columns), TransformedTargetRegressor(network, transformer=StandardScaler())))


RECIPES: dict[str, Callable[[Columns, int], Recipe]] = {
    "ridge": _ridge,
    "forest": _forest,
    "boosting": _boosting,
    "mlp": _mlp,
}


def chosen(fitted: Any) -> str:
    """Return the name of the estimator and the settings that it chose."""
    last = fitted[-1] if isinstance(fitted, Pipeline) else fitted
    if isinstance(last, TransformedTargetRegressor):
        last = last.regressor_
    name = type(last).__name__
    return f"ridge {last.ridge_:.3g} chosen by leave-one-out" if isinstance(last, LeaveOneOutRidge) else name
