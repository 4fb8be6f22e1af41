"""Every kind of scale, and made rows and designs to test them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from guide import RECIPES
from hatband import AutoScale, ConstantScale, LeverageScale, MagnitudeScale, QuantileScale, StrengthScale
from hatband.fitted.rows import Rows
from hatband.scales import LaplaceScale, Scale, check_training_rows
from hatband.scales.base import CallableScale
from hatband.scales.learners import boosted_quantiles


def rows_of(leverage, prediction=None, inputs=None, sampling=None):
    """Rows; prediction and inputs are zeros unless given, and sampling leverage is the leverage."""
    zeros = np.zeros((len(leverage), 1))
    return Rows(
        len(leverage),
        inputs=lambda: zeros if inputs is None else inputs,
        leverage=lambda: leverage,
        sampling_leverage=lambda: leverage if sampling is None else sampling,
        prediction=lambda: zeros if prediction is None else prediction,
    )


def draw(rng, n, noise=lambda x: 0.2 + np.abs(x)):
    """Three inputs, the second of which moves y and the first its noise."""
    X = rng.uniform(-2, 2, (n, 3))
    return X, X[:, 1] + noise(X[:, 0]) * rng.standard_normal(n)


def chosen(report, output=0):
    """Names of the candidates that a report marks for an output."""
    return [entry["candidate"] for entry in report if entry["chosen"] and entry["output"] == output]


class Nearest(Scale):
    """A user's scale: the median |residual| of the 30 rows of nearest leverage; a row of weight 0 is not there."""

    needs_residuals, pointwise = True, True

    def fit(self, rows, residuals=None, sample_weight=None):
        rows, residuals, _ = check_training_rows(self, rows, residuals, sample_weight)
        self.leverage_, self.size_ = rows.leverage, np.abs(residuals)
        return self

    def predict(self, rows):
        nearest = np.abs(rows.leverage[:, None] - self.leverage_).argsort(axis=1, kind="stable")[:, :30]
        return 0.0, np.median(self.size_[nearest], axis=1)


class Unweighted:
    """A user's object with fit and predict that is no Scale and knows no weights."""

    needs_residuals = True

    def __init__(self, share=0.5):
        self.share = share

    def get_params(self, deep=True):
        return {"share": self.share}

    def set_params(self, **parameters):
        vars(self).update(parameters)
        return self

    def fit(self, rows, residuals):
        if rows is None:
            raise ValueError("Unweighted learns from training rows")
        self.size_ = np.quantile(np.abs(residuals), self.share, axis=0)
        return self

    def predict(self, rows):
        return 0.0, np.ones((len(rows), 1)) * self.size_


def width_of_leverage(rows):
    """A user's function."""
    return (1 + rows.leverage) ** 0.3


def width_of_inputs(rows):
    """A user's noise."""
    return np.exp(np.clip(np.nan_to_num(rows.inputs[:, 0]), -30, 30))


@dataclass(frozen=True)
class Case:
    """A scale, as a function that makes it, and what it is excused from; each excuse is a reason in words."""

    make: Callable[[], Any]
    narrow_far_out: str = ""
    """Why rows far off the data may have narrower intervals than training rows."""
    reads_leverage_alone: str = ""
    """Why a scale that reads leverage only is not declared pointwise."""

    def __call__(self):
        return self.make()


FUNCTION = "a function cannot declare anything"
OWN_WIDTHS = "a width for each output is learned, and a pointwise scale has one for each leverage"

# Every kind of scale. A new scale goes in here, and every promise of a scale is tested.
SCALES = {
    "constant": Case(ConstantScale),
    "leverage": Case(LeverageScale),
    "leverage to the power 1.5": Case(lambda: LeverageScale(1.5)),
    "sampling leverage": Case(
        lambda: LeverageScale(form="sampling"), narrow_far_out="sampling leverage tends to 0 far off the data"
    ),
    "strength": Case(StrengthScale, reads_leverage_alone=OWN_WIDTHS),
    "sampling strength": Case(lambda: StrengthScale(form="sampling"), reads_leverage_alone=OWN_WIDTHS),
    "magnitude": Case(lambda: MagnitudeScale(random_state=0)),
    "magnitude of few columns": Case(lambda: MagnitudeScale(columns=("leverage", "prediction"), growth=False)),
    "quantile": Case(lambda: QuantileScale(n_trees=30, random_state=0)),
    "quantile of a regressor": Case(lambda: QuantileScale(0.8, boosted_quantiles())),
    "laplace": Case(lambda: LaplaceScale(random_state=0)),
    "laplace of given noise": Case(lambda: LaplaceScale(width_of_inputs)),
    "auto": Case(
        lambda: AutoScale({"constant": ConstantScale(), "magnitude": MagnitudeScale()}, random_state=0),
    ),
    "auto with a blend": Case(
        lambda: AutoScale({"m": MagnitudeScale(), "q": QuantileScale(n_trees=10), "b": ("m", "q")}, random_state=0)
    ),
    "a user's function": Case(lambda: CallableScale(width_of_leverage), reads_leverage_alone=FUNCTION),
    "a user's scale": Case(Nearest, narrow_far_out="the nearest rows are all that it looks at"),
    "a user's object": Case(Unweighted, reads_leverage_alone=OWN_WIDTHS),
    "the recipe of CONTRIBUTING.md": Case(RECIPES.PredictionScale),
}
