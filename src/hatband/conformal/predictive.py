"""Predictive distributions of fitted models: split, leave-one-out and full."""

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from hatband._checks_calibration import check_pooled
from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_widths
from hatband.conformal.base import BaseSplitConformal
from hatband.conformal.calibration.ranking import PooledRanking
from hatband.conformal.distribution import PredictiveDistribution, RowwiseDistribution, ScaledDistribution
from hatband.conformal.full import FullConformalRegressor
from hatband.conformal.full_scores import crossed
from hatband.conformal.held_out.jackknife import JackknifePlusRegressor
from hatband.conformal.inputs import check_rows
from hatband.conformal.target import PlainTarget
from hatband.fitted.rows import new_rows
from hatband.fitted.smoother import Smoother
from hatband.formulas.full_conformal import predictive_atoms
from hatband.geometry import Features

# Numbers held at once where atoms of a transformed target are worked out.
BLOCK_NUMBERS = 2**20


@functools.singledispatch
def predictive_distribution(model: Any, X: Any) -> PredictiveDistribution:
    """Return the whole conformal predictive distribution of each row: cdf, quantiles, CRPS, p-values.

    From a split-conformal model the atoms are mu(x) + shift + width(x) s_i over its calibration scores s_i. From a
    `JackknifePlusRegressor` they are the same with leave-one-out scores s_i, as in `leave_one_out_distribution`. From a
    `FullConformalRegressor` they are those of the studentised least squares prediction machine, each of them exact for
    a refit with the new row: no row is set aside.

    Parameters
    ----------
    model : fitted estimator
        SplitConformalRegressor and its kin, JackknifePlusRegressor, FullConformalRegressor.
    X : array-like, sparse matrix or DataFrame of m rows

    Returns
    -------
    PredictiveDistribution
        Of one row each: `cdf`, `quantile`, `interval`, `crps`, `pvalue`, `pit`.

    Raises
    ------
    TypeError
        If the model is none of these.
    ValueError
        If it was calibrated by groups or with a likelihood ratio: its scores are then not one sample.

    Notes
    -----
    The rank of y among the atoms is uniform for exchangeable rows, for split models always, for full ones under what
    they need for their guarantee; for leave-one-out atoms only in the limit.
    Cost: for split models O(log n) per row and question and no n_test x n_cal array; for full ones d^2 + n d + n log n
    per row and question, in blocks of rows. Vovk, Shen, Manokhin and Xie (2019); Vovk, Petej, Nouretdinov, Manokhin
    and Gammerman (2020), "Computationally efficient versions of conformal predictive distributions".

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor, predictive_distribution
    >>> X, y = load_diabetes(return_X_y=True)
    >>> law = predictive_distribution(SplitConformalRegressor(random_state=0).fit(X, y), X)
    >>> law.quantile([0.1, 0.5, 0.9]).shape, law.crps(y).shape
    ((442, 3), (442,))
    """
    raise TypeError(
        "predictive_distribution needs a fitted SplitConformalRegressor (or one of its kin), JackknifePlusRegressor or "
        f"FullConformalRegressor; got {type(model).__name__}."
    )


@predictive_distribution.register
def _of_split(model: BaseSplitConformal, X: Any) -> PredictiveDistribution:
    model._check_calibrated("predictive_distribution")
    check_pooled(isinstance(model.calibration_.ranking, PooledRanking))
    rows = new_rows(model.model_, model.space_, check_rows(model, X, reset=False), model.n_outputs_)
    shift, width = model.scale_.predict(rows)
    width = check_widths(width, lambda: np.isinf(rows.leverage), len(rows), type(model.scale_).__name__)
    center = model.target_.read(rows.prediction) + shift
    law = ScaledDistribution(center, width, model.scores_, model.single_target_)
    return law if isinstance(model.target_, PlainTarget) else _mapped(law, model.target_)


def _mapped(law: ScaledDistribution, target: Any) -> RowwiseDistribution:
    """Bring atoms to the scale of y by an increasing map; beyond its range they are infinite."""
    rows = max(1, BLOCK_NUMBERS // (law.n_atoms * law.n_outputs))

    def blocks() -> Iterator[tuple[slice, int, Array]]:
        for start in range(0, law.n_rows, rows):
            part = slice(start, min(start + rows, law.n_rows))
            center, width = law.center[part, None, :], law.width[part, None, :]
            atoms = center + width * law.scores
            mapped = target.backward(atoms.reshape(-1, law.n_outputs)).reshape(atoms.shape)
            mapped = np.where(np.isnan(mapped), np.copysign(np.inf, atoms - center), mapped)
            yield from ((part, j, mapped[..., j]) for j in range(law.n_outputs))

    return RowwiseDistribution(
        blocks,
        n_rows=law.n_rows,
        n_outputs=law.n_outputs,
        n_atoms=law.n_atoms,
        single_target=law.single_target,
    )


@predictive_distribution.register
def _of_jackknife(model: JackknifePlusRegressor, X: Any) -> PredictiveDistribution:
    check_is_fitted(model, "held_out_")
    held_out = model.held_out_
    features = held_out.features(check_rows(model, X, reset=False))
    defined = _defined(np.isfinite(held_out.scores))
    center, width = held_out.prediction(features), held_out.width(features)
    return ScaledDistribution(center, width, held_out.scores[defined], model.single_target_)


@predictive_distribution.register
def _of_full(model: FullConformalRegressor, X: Any) -> PredictiveDistribution:
    check_is_fitted(model, "smoother_")
    smoother = model.smoother_
    features = smoother.space.features(check_rows(model, X, reset=False))
    defined = _defined_rows(smoother)
    return RowwiseDistribution(
        _FullAtoms(smoother, features, defined, model.block_size).blocks,
        n_rows=len(features),
        n_outputs=smoother.n_outputs,
        n_atoms=int(defined.sum()),
        single_target=model.single_target_,
    )


@dataclass(frozen=True, eq=False)
class _FullAtoms:
    smoother: Smoother
    features: Features
    defined: Array
    rows: int | None

    def blocks(self) -> Iterator[tuple[slice, int, Array]]:
        for part, j, fit in crossed(self.smoother, self.features, self.rows):
            yield part, j, predictive_atoms(fit)[:, self.defined]


def leave_one_out_distribution(model: FullConformalRegressor, X: Any) -> ScaledDistribution:
    """Return the distribution with atoms mu(x) + sqrt(1 + h(x)) e_i / sqrt(1 - h_i): no calibration rows, O(log n).

    The studentised residual e_i / sqrt(1 - h_i) is the leave-one-out residual of row i over the standard deviation
    sqrt(1 + h_-i(x_i)) that its prediction error had; a new row has sqrt(1 + h(x)).

    Parameters
    ----------
    model : fitted FullConformalRegressor
        Its score does not matter.
    X : array-like, sparse matrix or DataFrame of m rows

    Returns
    -------
    ScaledDistribution

    Raises
    ------
    TypeError
        If the model is no FullConformalRegressor.
    NotFittedError
        If the model is not fitted.
    ValueError
        If it interpolates every row, so that none has a leave-one-out residual.

    Notes
    -----
    Calibrated in the limit, and close to it for n much larger than the effective dimension: it leaves out the shift
    exp(-+theta_i) by which `predictive_distribution`, exact at any n and n times as costly, moves each atom. Pion and
    Vazquez (2024), arXiv 2407.08271, for Gaussian processes.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import FullConformalRegressor, leave_one_out_distribution
    >>> X, y = load_diabetes(return_X_y=True)
    >>> law = leave_one_out_distribution(FullConformalRegressor().fit(X, y), X)
    >>> law.n_atoms, law.interval(0.9).shape
    (442, (442, 2))
    """
    if not isinstance(model, FullConformalRegressor):
        raise TypeError(
            f"leave_one_out_distribution needs a fitted FullConformalRegressor; got {type(model).__name__}. Use "
            "predictive_distribution, which takes others too."
        )
    check_is_fitted(model, "smoother_")
    smoother = model.smoother_
    features = smoother.space.features(check_rows(model, X, reset=False))
    h = smoother.space.leverage(features).reshape(len(features), -1)
    defined = _defined_rows(smoother)
    scores = smoother.studentised_residuals[defined]
    center = smoother.predict(features)
    return ScaledDistribution(center, np.sqrt(1 + h), scores, model.single_target_)


def _defined_rows(smoother: Smoother) -> Array:
    return _defined(~smoother.interpolated)


def _defined(known: Array) -> Array:
    """Return which rows have a leave-one-out residual in all outputs: those that the fit does not interpolate."""
    defined = known.all(axis=1)
    lost = int((~defined).sum())
    if lost == len(defined):
        raise ValueError(
            "a predictive distribution needs rows that the model does not interpolate; it interpolates all "
            f"{lost} rows. Give it a ridge > 0, or more rows than features."
        )
    if lost:
        warnings.warn(
            f"the model interpolates {lost} of {len(defined)} rows: they say nothing of new ones and are left out. A "
            "ridge > 0 keeps them.",
            LeverageWarning,
            stacklevel=4,
        )
    return defined
