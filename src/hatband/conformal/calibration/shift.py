"""Covariate shift: likelihood ratios that weight calibration rows for new rows from another population."""

from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import _num_samples, check_is_fitted

from hatband.arrays.typing import Array


class ClassifierRatio(BaseEstimator):
    """Likelihood ratio w(x) = (n / m) p(x) / (1 - p(x)), p the probability of being one of m target rows, not one of n.

    Parameters
    ----------
    classifier : classifier with predict_proba, default=None
        Tells target rows from others; cloned. None: logistic regression on standardised columns.

    Attributes
    ----------
    classifier_ : fitted classifier

    Raises
    ------
    TypeError
        In fit, if the classifier has no predict_proba.

    Notes
    -----
    Probabilities are kept inside [1 / (N + 2), 1 - 1 / (N + 2)], N = n + m: more cannot be known from N rows. With an
    estimated ratio the guarantee holds up to the error of the estimate, half its mean absolute error (Lei and Candes
    2021, *Conformal inference of counterfactuals and individual treatment effects*). Tibshirani, Foygel Barber, Candes
    and Ramdas (2019), *Conformal prediction under covariate shift*.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import ClassifierRatio
    >>> X = np.random.default_rng(0).standard_normal((500, 1))
    >>> ratio = ClassifierRatio().fit(X, X + 1)
    >>> weights = ratio.predict(np.array([[-1.0], [2.0]]))
    >>> bool(weights[0] < 0.5 < 2 < weights[1])
    True
    """

    def __init__(self, classifier: Any = None) -> None:
        self.classifier = classifier

    def fit(self, X: Any, X_target: Any) -> Self:
        """Learn to tell rows of X from rows of X_target.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Rows of the population of the calibration rows, but not these rows.
        X_target : the same of m rows
            Rows of the population to predict for, but not the rows that will be predicted.

        Returns
        -------
        self
        """
        default = make_pipeline(StandardScaler(with_mean=not sparse.issparse(X)), LogisticRegression())
        classifier = default if self.classifier is None else clone(self.classifier)
        if not callable(getattr(classifier, "predict_proba", None)):
            raise TypeError(
                f"ClassifierRatio needs a classifier with predict_proba; {type(classifier).__name__} has none. Wrap it "
                "in CalibratedClassifierCV."
            )
        n, m = _num_samples(X), _num_samples(X_target)
        self.classifier_ = classifier.fit(_stacked(X, X_target), np.repeat([0, 1], [n, m]))
        self.n_rows_ = (n, m)
        return self

    def predict(self, X: Any) -> Array:
        """Return the likelihood ratio of each row.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of k rows

        Returns
        -------
        ratio : array (k,)
            Finite and > 0.
        """
        check_is_fitted(self, "classifier_")
        n, m = self.n_rows_
        least = 1 / (n + m + 2)
        target = np.clip(self.classifier_.predict_proba(X)[:, 1], least, 1 - least)
        return (n / m) * target / (1 - target)


def fit_ratio(ratio: Any, X: Any, X_target: Any) -> Any:
    """Return the likelihood ratio as a callable(X), after learning it from training rows X where needed; or None."""
    learns = all(callable(getattr(ratio, method, None)) for method in ("fit", "predict"))
    _check_target_rows(ratio if learns else None, X_target)
    if learns:
        return clone(ratio).fit(X, X_target).predict
    if ratio is None or callable(ratio):
        return ratio
    raise TypeError(
        "likelihood_ratio must be None, a callable(X) -> ratios, or an object with fit(X, X_target) and predict(X) "
        f"such as ClassifierRatio; got {type(ratio).__name__}. Arrays go to fit, calibrate and predict_interval."
    )


def _stacked(X: Any, below: Any) -> Any:
    """Append rows below rows, and keep the type of the container."""
    package = type(X).__module__.partition(".")[0]
    if sparse.issparse(X):
        return sparse.vstack([X, below], format="csr")
    if package == "pandas":
        import pandas as pd

        return pd.concat([X, below], ignore_index=True)
    if package == "polars":
        import polars as pl

        return pl.concat([X, below])
    return np.concatenate([np.asarray(X), np.asarray(below)])


def _check_target_rows(learner: Any, X_target: Any) -> None:
    """Raise unless X_target is passed exactly when the likelihood ratio must be learned from it."""
    if learner is not None and X_target is None:
        raise ValueError(
            f"likelihood_ratio={learner!r} is learned from rows of the population to predict for; X_target is missing. "
            "Pass fit(X, y, X_target=...) or fit_train(X, y, X_target=...); if the ratio is fitted already, pass "
            "likelihood_ratio=ratio.predict."
        )
    if learner is None and X_target is not None:
        raise ValueError(
            "X_target is only used to learn a likelihood ratio, but this likelihood_ratio learns nothing. Leave "
            "X_target out, or construct with likelihood_ratio=ClassifierRatio(...)."
        )
