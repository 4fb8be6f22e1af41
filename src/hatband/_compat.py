"""Differences between the supported versions of scikit-learn."""

from collections.abc import Callable
from typing import Any, TypeVar

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

__all__ = ["CALLBACKS_SUPPORTED", "CallbackSupportMixin", "with_callbacks"]
