"""Made rows and designs for the tests of scales."""

import numpy as np

from hatband.fitted.rows import Rows


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
