"""Geometry of the inputs themselves, for models without features of their own, and of any scikit-learn transformer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing

from hatband.arrays.typing import Array
from hatband.checks import check_finite, check_ridge
from hatband.formulas.ridge_choice import INPUTS_RIDGE
from hatband.geometry.base import Exactness, Geometry
from hatband.geometry.convert import as_numbers, kept
from hatband.geometry.features import FeatureGeometry, FeatureSpace
from hatband.geometry.table import InputEncoder


@dataclass(frozen=True, eq=False)
class Scaled:
    """A feature map followed by division by the standard deviation; the mean is subtracted from dense features.

    Parameters
    ----------
    feature_map : fitted transformer
        What makes the features.
    scaler : StandardScaler
        Fitted to the features of the training rows.
    """

    feature_map: Any
    scaler: StandardScaler

    @classmethod
    def of(cls, feature_map: Any, X: Any, sample_weight: Array | None) -> "Scaled":
        """Measure the spread of the training rows' features."""
        features = as_numbers(feature_map.transform(kept(X, feature_map)))
        check_finite(features, "features")
        scaler = StandardScaler(with_mean=not sparse.issparse(features))
        return cls(feature_map, scaler.fit(features, sample_weight=sample_weight))

    def transform(self, X: Any) -> Any:
        """Return the standardised features."""
        features = as_numbers(self.feature_map.transform(kept(X, self.feature_map)))
        check_finite(features, "features")
        return self.scaler.transform(features)


@dataclass(frozen=True)
class InputsGeometry(Geometry):
    """h(x) = 1/n + z' (Z'Z + ridge)^-1 z, z the standardised inputs: how far x lies from the training rows.

    The fallback for models without features of their own. Numbers have their gaps filled by the median, with an
    indicator where training rows had gaps; every other column becomes one 0/1 feature per level, at most the 20 most
    frequent, a rare or new level being all zeros. Takes arrays, CSR matrices, pandas and polars DataFrames.

    Parameters
    ----------
    standardise : bool
        Whether features are centred and divided by their standard deviation. CSR matrices are only divided.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised.
    ridge : float
        Ridge in the sum convention.

    Notes
    -----
    ``InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0)`` is x' (X'X)^-1 x, the leverage of Fadnavis,
    "Leverage-weighted conformal prediction", arXiv 2602.12693.

    Examples
    --------
    >>> import numpy as np
    >>> raw = InputsGeometry(standardise=False, fit_intercept=False, ridge=0.0).fit(2 * np.eye(2))
    >>> raw.leverage(raw.features(np.array([[2.0, 2.0]])))
    array([2.])
    """

    standardise: bool = True
    fit_intercept: bool = True
    ridge: float = INPUTS_RIDGE
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Learn medians, levels and spreads from the training rows X, and factor their features."""
        feature_map: Any = InputEncoder.of(_present(X, sample_weight))
        if self.standardise:
            feature_map = Scaled.of(feature_map, X, sample_weight)
        return FeatureGeometry(check_ridge(self.ridge), self.fit_intercept, "none", feature_map).fit(X, sample_weight)


def _present(X: Any, sample_weight: Array | None) -> Any:
    """Return the rows of positive weight: a row of weight 0 must count like one that is not there."""
    return X if sample_weight is None else _safe_indexing(X, np.flatnonzero(np.asarray(sample_weight)))


@dataclass(frozen=True, eq=False)
class TransformerGeometry(Geometry):
    """h(x) = 1/n + z' (Z'Z + 1)^-1 z, z the standardised output of a transformer fitted to the training rows.

    Parameters
    ----------
    transformer : scikit-learn transformer
        Cloned and fitted without y to the X that the estimator got. FrozenEstimator(transformer) keeps a fitted one.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> space = TransformerGeometry(PolynomialFeatures(2)).fit(np.arange(6.0)[:, None])
    >>> space.leverage(space.features(np.array([[2.0], [60.0]]))).round(1).tolist()
    [0.2, 62658.1]
    """

    transformer: Any
    exactness: Exactness = field(default="none", init=False, repr=False)

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Fit a clone of the transformer to the training rows X, and factor its standardised output."""
        frozen = isinstance(self.transformer, FrozenEstimator)
        fitted = self.transformer if frozen else clone(self.transformer).fit(kept(X, self.transformer))
        feature_map = Scaled.of(fitted, X, sample_weight)
        return FeatureGeometry(1.0, True, "none", feature_map).fit(X, sample_weight)
