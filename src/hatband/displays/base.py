"""What every picture needs."""


def require_matplotlib(caller: str) -> None:
    """Raise an ImportError that says how to get matplotlib, unless it can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{caller} needs matplotlib: pip install "hatband[plot]"') from error
