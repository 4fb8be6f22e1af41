"""Full conformal prediction for ridge and kernel ridge: every row trains and every row calibrates."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import (
    LeverageWarning,
    check_confidence_level,
    check_in,
    unchanged_on_failure,
    warn_caller,
)
from hatband.conformal.band import Band, Ends, warn_if_too_few
from hatband.conformal.calibration.calibration import check_alike
from hatband.conformal.distribution import PredictiveDistribution, RowwiseDistribution, defined_rows
from hatband.conformal.exact_smoother import fit_smoother
from hatband.conformal.full_scores import CACHED_NUMBERS, SCORES, rows_near
from hatband.conformal.regressor import IntervalRegressor, RegressorWrapper, check_rows
from hatband.fitted.rows import TrainingData
from hatband.formulas.full_conformal import CrossedRows, predictive_atoms
from hatband.formulas.order_statistics import upper_rank


class FullConformalRegressor(RegressorWrapper, IntervalRegressor):
    """Intervals of all t with |t - mu(x)| / sqrt(1 + h(x)) no larger than the rows' own, all refitted with (x, t).

    No rows are set aside: the band comes from the residuals and leverages of one fit, as if the model had been
    refitted for every candidate t. For models that are linear in y: least squares, ridge, kernel ridge, Gaussian
    processes with fixed hyperparameters, and these at the end of a Pipeline.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        A fixed linear smoother of y, whose penalty, kernel and features do not depend on y.
    method : {"studentised", "absolute", "deleted"}, default="studentised"
        What is compared: |e| / sqrt(1 - h), |e| or |e| / (1 - h). "studentised" gives one bounded interval and covers
        rows of low and of high leverage alike; the others may give several pieces (`predict_set`) or unbounded ones.
    geometry : "auto" or Geometry, default="auto"
        "auto" reads features or kernel, ridge and intercept from the fitted estimator; a Geometry must describe it.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    allow_tuned : bool, default=False
        Accept estimators that tune hyperparameters on the rows they are fitted to (RidgeCV, searches): the guarantee
        is lost, and a warning says so.
    block_size : int or None, default=None
        New rows worked on at once; None takes as many as keep a block near a million numbers.

    Attributes
    ----------
    estimator_ : fitted estimator
    smoother_ : Smoother
        The space of the model, residuals and leverages of the training rows, and these rows in the coordinates
        of the factor (8 n d bytes; a kernel keeps its rows and two n x n arrays).

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows, and at most 1 / (n + 1) more without ties, when the
    features, kernel and penalty are fixed in advance. Transformers of a Pipeline are held as the n rows made them: the
    guarantee is exact for those that learn nothing (PolynomialFeatures) and approximate otherwise (StandardScaler).
    With `sample_weight` the fit is weighted and a new row has weight 1; a row's score is its leave-one-out residual
    over sqrt(1 + its leave-one-out leverage), as if it had come new. Rows of different weight are not exchangeable:
    the guarantee is for weights of 1, and approximate otherwise (24 rows, weights drawn from 0.2 to 3, level 0.8:
    coverage 0.804, standard error 0.007). Intervals are per output, not joint.

    Cost: one factorisation; per new row d^2 + n d for the cross-leverages (n^2 for a kernel) and O(n) selection, for
    the other scores O(n log n). Memory: one array of block_size x n. A kernel takes at most 20,000 rows; beyond, use a
    Pipeline of scikit-learn's Nystroem and Ridge. Nouretdinov, Melluish and Vovk (2001),
    "Ridge regression confidence machine"; Burnaev and Vovk (2014), arXiv 1404.2083.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import FullConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y_pred, interval = FullConformalRegressor().fit(X[:400], y[:400]).predict_interval(X[400:])
    >>> interval.shape
    (42, 2)
    """

    _trained_by: ClassVar[tuple[str, str]] = ("smoother_", "fit")

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Literal["studentised", "absolute", "deleted"] = "studentised",
        geometry: Any = "auto",
        confidence_level: Any = 0.9,
        allow_tuned: bool = False,
        block_size: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.geometry = geometry
        self.confidence_level = confidence_level
        self.allow_tuned = allow_tuned
        self.block_size = block_size

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Fit the estimator to all rows, and measure them.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of n rows
            Passed to the estimator unchanged.
        y : array-like (n,) or (n, q)
            Target, finite. One column as (n, 1) keeps its axis in the intervals.
        sample_weight : array-like (n,), optional
            Importance in training, >= 0.
        **fit_params : dict
            Further fit parameters of the estimator.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the estimator is not a fixed linear smoother of y, its predictions differ from its geometry's, y is not
            finite, or a weight is negative.
        """
        data = TrainingData.checked(X, y, sample_weight, fit_params)
        check_confidence_level(self.confidence_level)
        check_in(self.method, tuple(SCORES), "method")
        with unchanged_on_failure(self):
            data = data.with_rows(check_rows(self, X, reset=True))
            smoother, training, _ = fit_smoother(self, self._regressor(), data)
            self.smoother_ = smoother.prepared(training)
            self.estimator_ = self.smoother_.estimator
            self.n_outputs_, self.single_target_ = data.y.shape[1], data.is_single
        return self

    @property
    def space_(self) -> Any:
        """The space of the fitted model."""
        return self.smoother_.space

    @property
    def scores_(self) -> Array:
        """Signed studentised residuals e_i / sqrt(1 - h_i) (n, q) of the training rows."""
        return self.smoother_.studentised_residuals

    # ---------------------------------------------------------------- prediction

    def _band(self, X: Any) -> Band:
        features = self.smoother_.space.features(X)
        prediction = self.smoother_.predict(features)
        width = np.sqrt(1 + self.smoother_.space.leverage(features).reshape(len(features), -1))
        return Band(prediction, prediction, width)

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        check_alike(self, groups, likelihood_ratio)
        features = self.smoother_.space.features(X)
        bounds = np.empty((len(levels), 2, len(features), self.n_outputs_))
        ranks = [upper_rank(self.smoother_.n_samples, level) for level in levels]
        for part, j, fit in self._crossed(features, ranks if self.method == "studentised" else None):
            for position, level in enumerate(levels):
                bounds[position, 0, part, j], bounds[position, 1, part, j] = SCORES[self.method].bounds(fit, level)
        self._warn(levels, bounds)
        return self.smoother_.predict(features), [(low, high) for low, high in bounds]

    def predict_set(self, X: Any, confidence_level: float | None = None) -> list[Any]:
        """Return all conforming candidates of each row, as closed pieces in increasing order.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows
        confidence_level : float in (0, 1), optional
            The constructor's level by default; one level only.

        Returns
        -------
        sets : list of m arrays (pieces, 2)
            The first piece begins at -inf and the last ends at inf where the set has no end. For y with an output
            axis, one list of q arrays per row.

        Raises
        ------
        ValueError
            If there is more than one level.
        """
        self._check_trained("predict_set")
        level = self.confidence_level if confidence_level is None else confidence_level
        if not check_confidence_level(level)[1]:
            raise ValueError(f"predict_set takes one confidence_level; got {level!r}. Call it once per level.")
        features = self._features(X)
        sets: list[list[Array]] = [[] for _ in range(len(features))]
        for part, _, fit in self._crossed(features):
            for row, pieces in zip(range(part.start, part.stop), SCORES[self.method].sets(fit, level), strict=True):
                sets[row].append(pieces)
        hulls = np.array([[(pieces[0, 0], pieces[-1, 1]) for pieces in row] for row in sets])
        self._warn([level], np.moveaxis(hulls, -1, 0)[None])
        return [row[0] for row in sets] if self.single_target_ else sets

    def predictive_distribution(self, X: Any) -> PredictiveDistribution:
        """Return the distribution whose atoms are those of a refit with the new row; no rows are held out.

        The studentised least squares prediction machine: atom i is the y at which the studentised residual of the new
        row passes that of row i.

        Parameters
        ----------
        X : array-like, sparse matrix or DataFrame of m rows

        Returns
        -------
        PredictiveDistribution

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the model interpolates every row.

        Notes
        -----
        The rank of y among the atoms is uniform under what the guarantee of the intervals needs. Cost: d^2 + n d +
        n log n per row and question, in blocks of rows. Vovk, Shen, Manokhin and Xie (2019), "Nonparametric predictive
        distributions based on conformal prediction".
        """
        self._check_trained("predictive_distribution")
        features = self._features(X)
        defined = defined_rows(~self.smoother_.interpolated)

        def atoms() -> Iterator[tuple[slice, int, Array]]:
            for part, j, fit in self._crossed(features):
                yield part, j, predictive_atoms(fit)[:, defined]

        return RowwiseDistribution(
            atoms,
            n_rows=len(features),
            n_outputs=self.n_outputs_,
            n_atoms=int(defined.sum()),
            single_target=self.single_target_,
        )

    def _features(self, X: Any) -> Any:
        return self.smoother_.space.features(self._checked(X))

    def _crossed(self, features: Any, ranks: list[int] | None = None) -> Iterator[tuple[Any, int, CrossedRows]]:
        """Yield (index of new rows, output, new rows with training rows): all, or those that can have a given rank."""
        choose, size = None if ranks is None else rows_near(self.smoother_, ranks), self.block_size
        if choose is None:
            size = min(size or len(features), max(1, CACHED_NUMBERS // self.smoother_.n_samples))
        for block in self.smoother_.crossed(features, size, choose):
            yield from ((block.index, j, rows) for j, rows in block.outputs())

    # ---------------------------------------------------------------- warnings

    def _warn(self, levels: list[Any], bounds: Array) -> None:
        """Warn why intervals are infinite, if any is."""
        unbounded = np.isinf(bounds).any(axis=(0, 1, 3)).sum()
        few = warn_if_too_few("rows", self.smoother_.n_samples, levels, symmetric=True)
        if unbounded and not few:
            warn_caller(self._why_unbounded(unbounded, bounds.shape[2]), LeverageWarning)

    def _why_unbounded(self, unbounded: int, rows: int) -> str:
        interpolated = self.smoother_.interpolated.any(axis=1)
        return (
            f"{unbounded} of {rows} rows have an unbounded prediction set. That happens outside the span of the "
            f"training rows (a ridge > 0 helps), at rows of high leverage with method='absolute' or 'deleted' "
            f"('studentised' is bounded), and when the fit interpolates its rows: "
            f"{interpolated.sum()} of {len(interpolated)} here."
        )
