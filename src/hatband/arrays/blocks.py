"""Blocks of rows: their size, their memory, and their distribution over the cores."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
from threadpoolctl import ThreadpoolController  # a dependency of scikit-learn

from hatband.arrays.typing import Array

# A block of rows fits the cache (2 MB) unless that left too few rows for full BLAS speed; it never passes 32 MB.
_CACHE_ENTRIES, _MOST_ENTRIES, _HUGE_ENTRIES = 2**18, 2**22, 2**19 + 2**12
_DEVICE_ENTRIES, _PART_BLOCKS = 2**24, 8
_SHARING = threading.Lock()


def block_rows(n_features: int) -> int:
    """Return how many rows go into one block: 1,024 to 4,096, fewer where there are very many features."""
    cached = min(max(_CACHE_ENTRIES // max(n_features, 1), 1_024), 4_096)
    return min(cached, max(_MOST_ENTRIES // max(n_features, 1), 64))


def device_rows(n_features: int) -> int:
    """Return how many rows go into one block on an accelerator: 128 MB, because each kernel launch has a cost."""
    return min(max(_DEVICE_ENTRIES // max(n_features, 1), 1_024), 65_536)


def empty_block(rows: int, width: int) -> Array:
    """Return an uninitialised block of rows, to be reused."""
    entries = rows * width
    # NumPy asks for huge pages from 4 MB on; on small ones a block that fills the cache is a fifth slower.
    fewest = 0 if entries < _CACHE_ENTRIES // 4 else _HUGE_ENTRIES
    return np.empty(max(entries, fewest))[:entries].reshape(rows, width)


def share(work: Callable[[slice], None], count: int, size: int) -> None:
    """Call work(part) for parts that cover range(count), in parallel if every core gets two blocks of `size` rows.

    A core then reads what it has written itself, and what is not BLAS is shared out too. Meanwhile BLAS has one thread
    a core. The memory of one block is needed for each core.
    """
    fair = count // max(2 * size, 1)
    workers = min(_blas_threads(), fair) if fair > 1 else 1
    # The number of BLAS threads belongs to the whole process: only one call at a time may change and restore it.
    if workers < 2 or not _SHARING.acquire(blocking=False):
        work(slice(0, count))
        return
    # More parts than cores: threads of BLAS that have just worked go on spinning, and hold one of the cores up.
    pieces = max(workers, count // (_PART_BLOCKS * size))
    edges = [count * i // pieces for i in range(pieces + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    try:
        with _blas_libraries().limit(limits=1), ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, parts))
    finally:
        _SHARING.release()


def _blas_threads() -> int:
    """Return how many threads BLAS may use here: what the user, the environment or joblib has set."""
    return max((library["num_threads"] for library in _blas_libraries().info()), default=1)


@cache
def _blas_libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
