"""Progress of refits, told to scikit-learn's callbacks: ``estimator.set_callbacks(ProgressBar())`` shows a bar."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hatband._compat import CALLBACKS_SUPPORTED

Result = TypeVar("Result")


def reported(estimator: Any, results: Iterable[Result], total: int) -> Iterator[Result]:
    """Yield results as they come, and tell the callbacks of an estimator about each; its fit ends with the last."""
    if not CALLBACKS_SUPPORTED:
        yield from results
        return
    root = estimator._init_callback_context(max_subtasks=total).call_on_fit_task_begin(estimator=estimator)
    for result in results:
        fold = root.subcontext(task_name="fold").call_on_fit_task_begin(estimator=estimator)
        yield result
        fold.call_on_fit_task_end(estimator=estimator)
    root.call_on_fit_task_end(estimator=estimator)
