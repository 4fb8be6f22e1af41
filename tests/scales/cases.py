"""Every kind of scale, and made rows and designs to test them on."""

import numpy as np

from hatband import AutoScale, ConstantScale, LeverageScale, MagnitudeScale, QuantileScale, StrengthScale
from hatband.fitted.rows import Rows
from hatband.scales import LaplaceScale, Scale
from hatband.scales.base import CallableScale
from hatband.scales.learners import boosted_quantiles


def rows_of(leverage, prediction=None, inputs=None):
    """Rows with one output; prediction and inputs are zeros unless given."""
    zeros = np.zeros((len(leverage), 1))
    return Rows(
        len(leverage),
        inputs=lambda: zeros if inputs is None else inputs,
        leverage=lambda: leverage,
        sampling_leverage=lambda: leverage,
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
        if rows is None or residuals is None:
            raise ValueError("Nearest learns from training rows and their residuals")
        used = np.ones(len(rows), bool) if sample_weight is None else sample_weight > 0
        self.leverage_, self.size_ = rows.leverage[used], np.abs(residuals[used])
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
    return np.exp(np.nan_to_num(rows.inputs[:, 0]))


# Every kind of scale, as a function that makes it. A new scale goes in here, and every promise of a scale is tested.
SCALES = {
    "constant": ConstantScale,
    "leverage": LeverageScale,
    "leverage to the power 1.5": lambda: LeverageScale(1.5),
    "sampling leverage": lambda: LeverageScale(form="sampling"),
    "strength": StrengthScale,
    "sampling strength": lambda: StrengthScale(form="sampling"),
    "magnitude": lambda: MagnitudeScale(random_state=0),
    "magnitude of few columns": lambda: MagnitudeScale(columns=("leverage", "prediction"), growth=False),
    "quantile": lambda: QuantileScale(n_trees=30, random_state=0),
    "quantile of a regressor": lambda: QuantileScale(0.8, boosted_quantiles()),
    "laplace": lambda: LaplaceScale(random_state=0),
    "laplace of given noise": lambda: LaplaceScale(width_of_inputs),
    "auto": lambda: AutoScale({"constant": ConstantScale(), "magnitude": MagnitudeScale()}, random_state=0),
    "auto with a blend": lambda: AutoScale(
        {"m": MagnitudeScale(), "q": QuantileScale(n_trees=10), "b": ("m", "q")}, random_state=0
    ),
    "a user's function": lambda: CallableScale(width_of_leverage),
    "a user's scale": Nearest,
    "a user's object": Unweighted,
}
