"""A fitted model taken apart into transformers and a final step, through the wrappers of scikit-learn."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import SelectorMixin, VarianceThreshold
from sklearn.frozen import FrozenEstimator

# The common base of the searches has no public name, and the halving ones hide behind an experimental import.
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from hatband.geometry.base import FROM_STRONG_TO_WEAK, Exactness, check_exactness, registered


def weakest(*claims: Exactness) -> Exactness:
    """Return the weakest of several claims about leave-one-out: "exact" before "given" before "none"."""
    return max(map(check_exactness, claims), key=FROM_STRONG_TO_WEAK.index)


@dataclass(frozen=True)
class Steps:
    """A fitted estimator, taken apart.

    Parameters
    ----------
    transformers : tuple of fitted transformers
        What X goes through, in order, before it reaches the model.
    model : fitted estimator
        The model at the end, whose geometry is measured.
    predictor : fitted estimator
        The object whose ``predict`` takes the transformed rows and answers like the whole: the model itself, unless
        predictions are mapped back (TransformedTargetRegressor) or averaged (VotingRegressor).
    exactness : {"exact", "given", "none"}
        The most that the wrappers and transformers let leave-one-out claim.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from hatband.geometry.model import Steps
    >>> Steps(transformers=(), model=Ridge(), predictor=Ridge()).exactness
    'exact'
    """

    transformers: tuple[Any, ...]
    model: Any
    predictor: Any
    exactness: Exactness = "exact"


@functools.singledispatch
def steps_of(estimator: Any) -> Steps:
    """Split a fitted estimator into its transformers, its model, and the object that predicts from transformed rows.

    Looks through Pipeline (steps set to 'passthrough' are left out), GridSearchCV and the other searches,
    FrozenEstimator, TransformedTargetRegressor and VotingRegressor; any other estimator is its own final step. A
    wrapper of one's own that keeps a fitted regressor in an attribute is added by
    ``steps_of.register(Wrapper, holds("regressor_"))``; any other by a function that returns `Steps`.

    Parameters
    ----------
    estimator : fitted estimator
        The model as it was given raw X.

    Returns
    -------
    Steps
        Transformers, model, predictor, and the most that leave-one-out may claim.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> steps_of(make_pipeline(StandardScaler(), Ridge()).fit([[1.0], [2.0]], [1.0, 2.0])).model
    Ridge()
    """
    return Steps((), estimator, estimator)


def holds(name: str, exactness: Exactness = "none") -> Callable[[Any], Steps]:
    """Return a function for ``steps_of.register``: the wrapper predicts through the fitted regressor it holds.

    Rows go through the transformers of the regressor once; the wrapper predicts from what these return.

    Parameters
    ----------
    name : str
        The attribute of the wrapper that is the fitted regressor, and that its ``predict`` calls.
    exactness : {"exact", "given", "none"}, default="none"
        The most that leave-one-out may claim: "exact" where the wrapper predicts what the regressor does.

    Examples
    --------
    >>> from sklearn.compose import TransformedTargetRegressor
    >>> from sklearn.linear_model import Ridge
    >>> model = TransformedTargetRegressor(Ridge()).fit([[1.0], [2.0]], [1.0, 2.0])
    >>> holds("regressor_")(model).model
    Ridge()
    """

    def of_wrapper(wrapper: Any) -> Steps:
        check_is_fitted(wrapper)
        inner = registered(steps_of, getattr(wrapper, name), Steps)
        predictor = with_fitted(wrapper, name, inner.predictor)
        return replace(inner, predictor=predictor, exactness=weakest(inner.exactness, exactness))

    return of_wrapper


steps_of.register(TransformedTargetRegressor, holds("regressor_"))


@steps_of.register
def _pipeline(estimator: Pipeline) -> Steps:
    *names_and_transformers, (_, last) = estimator.steps
    own = tuple(step for _, step in names_and_transformers if step is not None and step != "passthrough")
    inner = registered(steps_of, last, Steps)
    return replace(
        inner,
        transformers=own + inner.transformers,
        exactness=weakest(inner.exactness, *("none" if needs_target(step) else "exact" for step in own)),
    )


@steps_of.register
def _search(estimator: BaseSearchCV) -> Steps:
    check_is_fitted(estimator)
    if not estimator.refit:
        raise ValueError(
            f"{type(estimator).__name__} must refit its best model to be measured; got refit=False. Pass refit=True."
        )
    inner = registered(steps_of, estimator.best_estimator_, Steps)
    return replace(inner, exactness=weakest(inner.exactness, "given"))


@steps_of.register
def _frozen(estimator: FrozenEstimator) -> Steps:
    return registered(steps_of, estimator.estimator, Steps)


def final_step(estimator: Any) -> Any:
    """Return the fitted object whose ``predict`` takes X after the transformers and predicts as the estimator does."""
    return registered(steps_of, estimator, Steps).predictor


def with_fitted(wrapper: Any, name: str, value: Any) -> Any:
    """Return a shallow copy of a fitted wrapper with other parts; the wrapper itself does not change."""
    twin = copy.copy(wrapper)
    setattr(twin, name, value)
    return twin


def needs_target(transformer: Any) -> bool:
    """Whether a transformer, or one inside it, learns from y, so that the prediction is not linear in y."""
    if isinstance(transformer, FrozenEstimator) or not isinstance(transformer, BaseEstimator):
        return False
    return any(_learns_from_target(part) for part in [transformer, *transformer.get_params(deep=True).values()])


def _learns_from_target(part: Any) -> bool:
    # SelectKBest says that it needs no y, for score functions without one.
    if isinstance(part, SelectorMixin):
        return not isinstance(part, VarianceThreshold)
    return isinstance(part, BaseEstimator) and get_tags(part).target_tags.required
