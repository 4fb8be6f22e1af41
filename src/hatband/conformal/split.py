"""Split conformal prediction around any regressor, with a band shaped by the leverage of the model as it was fitted."""

from typing import Any, Literal

from sklearn.linear_model import Ridge

from hatband.conformal.base import BaseSplitConformal


class SplitConformalRegressor(BaseSplitConformal):
    """Prediction intervals mu(x) -+ q (1 + h(x))^1/2 around any regressor, valid with a stated probability.

    The rows are split: one part trains the estimator and sets the space in which leverage h(x) is measured, the other
    calibrates the threshold q. The interval is wide where the model is ignorant and holds for any estimator.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        Any scikit-learn regressor, Pipeline or search; inside ``FrozenEstimator``, one that is already fitted.
    geometry : "auto", Geometry or transformer, default="auto"
        The space of leverage. "auto" reads it from the fitted estimator, its ridge and intercept included
        (see `hatband.geometry`); a transformer is cloned and fitted on the training X.
    scale : str, Scale or callable(rows) -> width, default="auto"
        The shape of the band: "auto" chooses between the others by cross-validation on honest training residuals
        (`AutoScale`); "constant" and "leverage" are fixed; "strength", "magnitude", "quantile" and "laplace" are
        learned from these residuals; or your own.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval is to hold.
    calibration_size : float or int, default=0.25
        Share or number of rows that `fit` keeps for calibration; 0 trains only.
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    groups : None, str, callable, LeverageBins or Groups, default=None
        Calibrate each group of rows by itself: a column name, a callable(X) -> labels, bins of leverage, or `Groups`
        with what to do about small and unseen groups. None: groups are those passed with the rows, if any are.
    likelihood_ratio : None, callable or ClassifierRatio, default=None
        For new rows from another population: its density over that of the calibration rows, as a callable(X), or
        learned from `X_target` given to fit. None: it is passed with the rows, if it is.
    joint : bool, default=False
        Intervals of several outputs that hold all at once, P(all outputs inside) >= level, instead of each by itself.
    residuals : {"auto", "unseen"}, default="auto"
        For frozen models and scales that learn from residuals: "unseen" states that the rows given to `fit_train` were
        not used to train the frozen model.
    random_state : int, RandomState or None, default=None
        Draws the calibration rows.
    n_jobs : int or None, default=None
        Processes for the refits that honest residuals of some estimators need.

    Attributes
    ----------
    estimator_ : fitted estimator
    space_ : Space
        The fitted geometry; it holds training rows for kernels only.
    scale_ : fitted scale
    scores_ : array (n_cal, q)
        Signed calibration scores (y - prediction - shift) / width.
    residuals_from_ : str or None
        Where the residuals came from that the scale learned from.
    effective_sample_size_ : float
        Equally heavy rows that the calibration rows are worth: (sum w)^2 / sum w^2 for likelihood ratios w, else n_cal.
    calibration_indices_ : array (n_cal,)
        After `fit`: which rows calibrated.

    Notes
    -----
    P(y in interval) >= confidence_level for exchangeable rows, whatever estimator, geometry and scale: the threshold
    is the ceil((n + 1) level)-th smallest score, by exact rational arithmetic. With groups it holds in every group;
    with the true likelihood ratio, for rows of the other population, each of which counts with its own weight. Cost
    beyond the estimator's own: one factorisation, n d^2 + d^3 / 3. Papadopoulos et al. (2002); Lei et al. (2018);
    Fadnavis (2026), arXiv 2602.12693; groups: Vovk (2012); likelihood ratio: Tibshirani et al. (2019).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y_pred, interval = SplitConformalRegressor(random_state=0).fit(X, y).predict_interval(X[:3])
    >>> y_pred.shape, interval.shape
    ((3,), (3, 2))
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        geometry: Any = "auto",
        scale: Any = "auto",
        confidence_level: Any = 0.9,
        calibration_size: float = 0.25,
        symmetric: bool = True,
        groups: Any = None,
        likelihood_ratio: Any = None,
        joint: bool = False,
        residuals: Literal["auto", "unseen"] = "auto",
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.calibration_size = calibration_size
        self.symmetric = symmetric
        self.groups = groups
        self.likelihood_ratio = likelihood_ratio
        self.joint = joint
        self.residuals = residuals
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _regressor(self) -> Any:
        return Ridge() if self.estimator is None else self.estimator
