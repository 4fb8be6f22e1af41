"""Folds: the rows that each model has not seen, and the models refitted without these rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from hatband.arrays.typing import Array
from hatband.conformal.band import Band, Ends, mapped_back, reach
from hatband.conformal.held_out.plus import HeldOut, Reach
from hatband.conformal.split import SplitConformalRegressor
from hatband.fitted.cross_leverage import row_blocks
from hatband.fitted.rows import TrainingData

Result = TypeVar("Result")
Fit = TypeVar("Fit", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Without callbacks there is nothing to support."""

    def with_callbacks(method: Fit) -> Fit:
        """Return the method unchanged."""
        return method


CALLBACKS_SUPPORTED = hasattr(CallbackSupportMixin, "set_callbacks")


@dataclass(frozen=True)
class Fold:
    """The rows of one model.

    Parameters
    ----------
    training, held : array of int
        Positions of the rows it is trained on, and of those that it has not seen and is scored on.
    scores : array of int
        Places of its scores among all scores.
    """

    training: Array
    held: Array
    scores: Array


def folds_of(cv: Any, data: TrainingData) -> list[Fold]:
    """Return the folds of a splitter, an iterable of pairs, or a number of folds.

    Scores stand in the order of the rows when each row is held out once, else fold after fold.

    Raises
    ------
    ValueError
        If a fold holds out no row or trains on none.
    """
    y = data.y
    target = y[:, 0] if y.shape[1] == 1 else y
    splits = check_cv(cv).split(data.X, target, data.cv_groups)
    pairs = [(np.asarray(training), np.asarray(held)) for training, held in splits]
    _check_folds([(len(training), len(held)) for training, held in pairs])
    every = np.concatenate([held for _, held in pairs])
    once = len(every) == len(y) and len(np.unique(every)) == len(y)
    ends = np.cumsum([len(held) for _, held in pairs])
    places = [held if once else np.arange(end - len(held), end) for (_, held), end in zip(pairs, ends, strict=True)]
    return [Fold(training, held, place) for (training, held), place in zip(pairs, places, strict=True)]


@dataclass(frozen=True, eq=False)
class Refitted(HeldOut):
    """K models, each trained without one fold and scored on it; leverage and scale are fitted inside the fold.

    Parameters
    ----------
    whole : SplitConformalRegressor
        Trained on all rows.
    models : sequence of SplitConformalRegressor
        Trained on one fold each.
    places : sequence of array of int
        Places of each model's scores.
    scores : array (n, q)
    block_size : int or None
    """

    whole: SplitConformalRegressor
    models: Sequence[SplitConformalRegressor]
    places: Sequence[Array]
    scores: Array
    block_size: int | None = None
    refitted: ClassVar[bool] = True

    @classmethod
    def of(
        cls,
        whole: SplitConformalRegressor,
        folds: Sequence[Fold],
        data: TrainingData,
        *,
        n_jobs: int | None,
        block_size: int | None,
        owner: Any = None,
    ) -> Self:
        """Train a model like `whole` on each fold, and report each to the callbacks of `owner`."""
        runs = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(_trained)(clone(whole), data, fold) for fold in folds
        )
        trained = list(runs if owner is None else reported(owner, runs, len(folds)))
        scores = np.empty((sum(len(fold.held) for fold in folds), whole.n_outputs_))
        for fold, (_, own) in zip(folds, trained, strict=True):
            scores[fold.scores] = own
        return cls(whole, [model for model, _ in trained], [fold.scores for fold in folds], scores, block_size)

    @property
    def estimator(self) -> Any:
        """The estimator fitted to all rows."""
        return self.whole.estimator_

    @property
    def space(self) -> Any:
        """The space of the model of all rows."""
        return self.whole.space_

    @property
    def scale(self) -> Any:
        """The scale of the model of all rows."""
        return self.whole.scale_

    def features(self, X: Any) -> Any:
        """Return X: every model has its own preprocessing."""
        return X

    def prediction(self, features: Any) -> Array:
        """Return what the model of all rows predicts (m, q)."""
        return np.asarray(self.whole.predict(features), dtype=np.float64).reshape(-1, self.whole.n_outputs_)

    def width(self, features: Any) -> Array:
        """Return the width of the model of all rows (m, 1) or (m, q)."""
        return self.band(features).width

    def band(self, features: Any) -> Band:
        """Return the band of the model of all rows."""
        return self.whole._band(features)

    def around(self, features: Any, spread: Array) -> Iterator[Reach]:
        """Yield mu_-k(x) -+ spread_i width_-k(x), k the model that has not seen row i."""
        m, (n, q) = _num_samples(features), spread.shape
        for outer in row_blocks(m, len(self.models) * q, None):
            rows = _safe_indexing(features, np.arange(m)[outer])
            bands = [model._band(rows) for model in self.models]
            for inner in row_blocks(outer.stop - outer.start, n * q, self.block_size):
                low, high = self._block([band.take(inner) for band in bands], spread)
                part = slice(outer.start + inner.start, outer.start + inner.stop)
                yield from (Reach(part, j, low[..., j], high[..., j]) for j in range(q))

    def _block(self, bands: list[Band], spread: Array) -> Ends:
        low, high = np.empty((2, len(bands[0].center), *spread.shape))
        for band, places in zip(bands, self.places, strict=True):
            low[:, places], high[:, places] = _ends(band, spread[places])
        return low, high


def reported(estimator: Any, results: Iterable[Result], total: int) -> Iterator[Result]:
    """Yield results as they are ready, and report each to the callbacks of an estimator.

    ``estimator.set_callbacks(ProgressBar())`` shows a bar, with scikit-learn >= 1.9.
    """
    if not CALLBACKS_SUPPORTED:
        yield from results
        return
    root = estimator._init_callback_context(max_subtasks=total).call_on_fit_task_begin(estimator=estimator)
    for result in results:
        fold = root.subcontext(task_name="fold").call_on_fit_task_begin(estimator=estimator)
        yield result
        fold.call_on_fit_task_end(estimator=estimator)
    root.call_on_fit_task_end(estimator=estimator)


def _trained(model: SplitConformalRegressor, data: TrainingData, fold: Fold) -> tuple[SplitConformalRegressor, Array]:
    """Return a model trained on the rows of a fold, and the scores of the rows held out."""
    rows = data.take(fold.training)
    model.fit_train(rows.X, rows.values, rows.weight, **rows.fit_params)
    held = data.take(fold.held)
    return model, model._band(held.X).scores_alone(held.y)


def _ends(band: Band, spread: Array) -> Ends:
    """Return center -+ spread_i width (m, k, q) in the units of y, for spread (k, q)."""
    shape = (len(band.center), *spread.shape)
    away, center = reach(band.width[:, None], spread), band.center[:, None]
    low, high = (
        mapped_back(band.target, end.reshape(-1, shape[2]), unknown).reshape(shape)
        for end, unknown in ((center - away, -np.inf), (center + away, np.inf))
    )
    return low, high


def _check_folds(sizes: Sequence[tuple[int, int]]) -> None:
    """Raise unless every fold has rows to train on and rows held out."""
    for number, (training, held) in enumerate(sizes):
        if not training or not held:
            raise ValueError(
                f"every fold must train on some rows and hold out some; fold {number} trains on {training} and holds "
                f"out {held}."
            )
    if not sizes:
        raise ValueError("cv must yield at least one fold; got 0.")
