"""PyTorch: calibrated intervals for a trained module, from the leverage of its last layer."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("hatband.nn needs PyTorch; install it with: pip install 'hatband[torch]'.") from error

__all__: list[str] = []
