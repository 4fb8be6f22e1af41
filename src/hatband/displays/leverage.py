"""Width and coverage of intervals against the leverage of their rows."""

from typing import Any, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_at_least, check_confidence_level, check_interval_rows
from hatband.diagnostics import binomial_interval
from hatband.formulas.metrics import covered


class LeverageDisplay:
    """Interval width, and coverage = covered rows / rows of each leverage bin, against leverage.

    A band of constant width covers rows of low leverage too often and rows of high leverage too rarely, as far as the
    error of the fit is what differs between them. This picture shows whether that happens, and what a scale does
    about it: the left axes hold coverage by leverage bin with bars and the nominal line, the right axes the widths.
    Draw a second display on the same axes by ``second.plot(ax=first.axes_)``.

    Parameters
    ----------
    leverage, width : ndarray of shape (m,)
        The points of the right axes. Rows with infinite leverage or width are not drawn; the label counts them.
    bin_leverage : ndarray of shape (b,)
        Where each bin stands on the leverage axis.
    bin_coverage, bin_coverage_low, bin_coverage_high : ndarray of shape (b,)
        Coverage of each bin and the ends of its bar.
    confidence_level : float
        Where the nominal line stands.
    name : str, optional
        Label in the legend.

    Attributes
    ----------
    axes_ : pair of matplotlib Axes
        Coverage and width.
    figure_ : matplotlib Figure
    errorbar_, nominal_, points_ : matplotlib artists

    See Also
    --------
    LeverageDisplay.from_estimator : From a calibrated estimator and rows that it has not seen.
    LeverageDisplay.from_predictions : From intervals of any origin and leverages.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.displays import LeverageDisplay
    >>> leverage, y, interval = np.geomspace(0.01, 1, 50), np.zeros(50), np.tile([-1.0, 1.0], (50, 1))
    >>> display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.9, n_bins=5)
    >>> display.bin_coverage
    array([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        *,
        leverage: Array,
        width: Array,
        bin_leverage: Array,
        bin_coverage: Array,
        bin_coverage_low: Array,
        bin_coverage_high: Array,
        confidence_level: float,
        name: str | None = None,
    ) -> None:
        self.leverage = leverage
        self.width = width
        self.bin_leverage = bin_leverage
        self.bin_coverage = bin_coverage
        self.bin_coverage_low = bin_coverage_low
        self.bin_coverage_high = bin_coverage_high
        self.confidence_level = confidence_level
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        confidence_level: float | None = None,
        n_bins: int = 10,
        name: str | None = None,
        ax: Any = None,
        **plot_kwargs: Any,
    ) -> Self:
        """Draw the intervals that a calibrated estimator gives to rows (X, y) that it has not seen.

        Parameters
        ----------
        estimator : fitted estimator with ``predict_interval`` and ``leverage``
        X, y : array-like with m rows
            Not used to train or calibrate.
        confidence_level : float, optional
            Default: the estimator's.
        n_bins : int
            Bins of about equally many rows.
        name : str, optional
            Label in the legend; default: the class of the scale, where there is one.
        ax : pair of matplotlib Axes, one Axes to be divided, or None
        **plot_kwargs
            Passed to `plot`.

        Returns
        -------
        LeverageDisplay

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import Ridge
        >>> from hatband import SplitConformalRegressor
        >>> from hatband.displays import LeverageDisplay
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = SplitConformalRegressor(Ridge(), random_state=0).fit(X[:300], y[:300])
        >>> display = LeverageDisplay.from_estimator(model, X[300:], y[300:], n_bins=5)
        >>> len(display.bin_coverage)
        5
        """
        level = _one_level(estimator.confidence_level if confidence_level is None else confidence_level)
        _, interval = estimator.predict_interval(X, confidence_level=level)
        if name is None and getattr(estimator, "scale_", None) is not None:
            name = type(estimator.scale_).__name__
        return cls.from_predictions(
            y,
            interval,
            estimator.leverage(X),
            confidence_level=level,
            n_bins=n_bins,
            name=name,
            ax=ax,
            **plot_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        interval: Any,
        leverage: Any,
        *,
        confidence_level: float,
        n_bins: int = 10,
        name: str | None = None,
        ax: Any = None,
        **plot_kwargs: Any,
    ) -> Self:
        """Draw intervals from any source against the leverages of their rows.

        Parameters
        ----------
        y_true : array-like of shape (m,)
        interval : array-like of shape (m, 2)
            Lower and upper ends, of one output at one level.
        leverage : array-like of shape (m,)
        confidence_level : float
            The level that the intervals claim.
        n_bins : int
            Bins of about equally many rows; rows of equal leverage share a bin.
        name : str, optional
            Label in the legend.
        ax : pair of matplotlib Axes, one Axes to be divided, or None
        **plot_kwargs
            Passed to `plot`.

        Returns
        -------
        LeverageDisplay

        Notes
        -----
        Bars are exact 95 % binomial (Clopper-Pearson) bounds. They take the rows as independent given the model; the
        calibration rows move all bins together and are not in the bars.

        Examples
        --------
        >>> import numpy as np
        >>> from hatband.displays import LeverageDisplay
        >>> interval = np.tile([-1.0, 1.0], (4, 1))
        >>> display = LeverageDisplay.from_predictions(
        ...     [0, 0, 0, 2], interval, [0.1, 0.1, 0.2, 0.2], confidence_level=0.9, n_bins=2
        ... )
        >>> display.bin_coverage
        array([1. , 0.5])
        """
        y, interval, leverage = check_interval_rows(y_true, interval, leverage)
        level = _one_level(confidence_level)
        inside = covered(y, interval[:, 0], interval[:, 1])
        groups = leverage_groups(leverage, check_at_least(n_bins, 1, "n_bins"))
        members = [groups == group for group in np.unique(groups)]
        rows = np.array([member.sum() for member in members])
        hits = np.array([inside[member].sum() for member in members])
        low, high = binomial_interval(hits, rows)
        display = cls(
            leverage=leverage,
            width=interval[:, 1] - interval[:, 0],
            bin_leverage=np.array([np.median(leverage[member]) for member in members]),
            bin_coverage=hits / rows,
            bin_coverage_low=low,
            bin_coverage_high=high,
            confidence_level=level,
            name=name,
        )
        return display.plot(ax=ax, **plot_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        points_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the two axes.

        Parameters
        ----------
        ax : pair of matplotlib Axes, one Axes to be divided, or None
            Coverage and width, in this order; None makes a figure.
        name : str, optional
            Label in the legend, instead of the display's own.
        errorbar_kwargs, points_kwargs : dict, optional
            Passed to matplotlib's ``errorbar`` and ``plot``.

        Returns
        -------
        LeverageDisplay

        Examples
        --------
        >>> import numpy as np
        >>> from hatband.displays import LeverageDisplay
        >>> interval = np.tile([-1.0, 1.0], (4, 1))
        >>> display = LeverageDisplay.from_predictions(np.zeros(4), interval, np.ones(4), confidence_level=0.9)
        >>> display.plot(name="again").axes_[0].get_ylabel()
        'coverage'
        """
        require_matplotlib("LeverageDisplay.plot")
        self.axes_ = coverage_axes, width_axes = _axes_pair(ax)
        self.figure_ = coverage_axes.figure
        name = self.name if name is None else name
        self._plot_coverage(coverage_axes, name, errorbar_kwargs or {})
        self._plot_width(width_axes, name, points_kwargs or {})
        for axes in self.axes_:
            _leverage_axis(axes, log=bool((self.leverage > 0).all()))
        if name is not None:
            coverage_axes.legend(loc="lower left")
        return self

    def _plot_coverage(self, axes: Any, name: str | None, kwargs: dict[str, Any]) -> None:
        finite = np.isfinite(self.bin_leverage)
        centre = self.bin_coverage[finite]
        bars = np.abs(np.stack([self.bin_coverage_low[finite], self.bin_coverage_high[finite]]) - centre)
        settings = {"marker": "o", "capsize": 3, "label": name} | kwargs
        self.errorbar_ = axes.errorbar(self.bin_leverage[finite], centre, yerr=bars, **settings)
        self.nominal_ = axes.axhline(self.confidence_level, color="0.4", linestyle="--", linewidth=1, zorder=0)
        axes.set_ylabel("coverage")

    def _plot_width(self, axes: Any, name: str | None, kwargs: dict[str, Any]) -> None:
        finite = np.isfinite(self.leverage) & np.isfinite(self.width)
        settings = {"marker": ".", "linestyle": "none", "label": name} | kwargs
        [self.points_] = axes.plot(self.leverage[finite], self.width[finite], **settings)
        hidden = int((~finite).sum())
        axes.set_ylabel(f"interval width ({hidden} infinite not drawn)" if hidden else "interval width")
        axes.autoscale(axis="y")  # a display drawn here before has fixed the limits to its own points
        axes.set_ylim(0, 1.03 * axes.get_ylim()[1])


def require_matplotlib(caller: str) -> None:
    """Raise an ImportError that says how to get matplotlib, unless it can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{caller} needs matplotlib: pip install "hatband[plot]"') from error


def _one_level(level: Any) -> Any:
    """Return a confidence level that must be one number."""
    levels, single = check_confidence_level(level)
    if not single:
        raise ValueError(f"confidence_level must be one number here, not a list; got {level!r}.")
    return levels[0]


def leverage_groups(leverage: Array, n_groups: int) -> Array:
    """Number of the leverage group, 0 (lowest) to n_groups - 1, of each row; ties share one, infinity is in the last.

    Examples
    --------
    >>> from hatband.displays.leverage import leverage_groups
    >>> leverage_groups([0.1, 0.4, 0.2, 0.3, float("inf")], 5)
    array([0, 3, 1, 2, 4])
    """
    last = -(-np.arange(1, n_groups) * np.size(leverage) // n_groups) - 1  # the last row of each group but the highest
    return np.searchsorted(np.sort(leverage)[last], leverage, side="left")


def _leverage_axis(axes: Any, log: bool) -> None:
    """Set a logarithmic axis with plain numbers, unless a leverage is 0."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xlabel("leverage")
    axes.set_xscale("log" if log else "linear")
    if log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _axes_pair(ax: Any) -> tuple[Any, Any]:
    """Return two axes: new ones, the two that were passed, or two halves of the single one that was passed."""
    if ax is None:
        from matplotlib import pyplot

        _, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    elif np.ndim(ax) == 0:
        left, right = ax.get_subplotspec().subgridspec(1, 2).subplots(sharex=True)
        ax.set_axis_off()
    else:
        left, right = ax
    return left, right
