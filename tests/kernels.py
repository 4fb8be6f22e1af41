"""The numerical tests under every kind of BLAS kernel that this processor runs, on one thread and on two.

    python tests/kernels.py

OpenBLAS chooses kernels by the processor, and each adds up in an order of its own: what passes here may fail on another
machine. OPENBLAS_CORETYPE makes it choose as for another processor. It is set for the processes started here alone.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# From the oldest processors to the newest, and what OpenBLAS chooses by itself.
CORES = ["Prescott", "Nehalem", "Haswell", "Zen", "SkylakeX", ""]
THREADS = [1, 2]
NUMERICAL = [
    *(f"linalg/test_{name}.py" for name in ("accuracy", "auto", "blocks", "kernel_claims", "kernel_values")),
    *(f"linalg/test_{name}.py" for name in ("properties", "singular", "spectral")),
    *(f"linalg/test_statistics_{name}.py" for name in ("claims", "values")),
    *(f"formulas/test_{name}.py" for name in ("evidence", "leave_one_out", "leverage_functions", "posterior")),
    *(f"geometry/test_{name}.py" for name in ("forests", "inputs", "kernels", "pipelines")),
    *(f"conformal/test_{name}.py" for name in ("intervals", "ridge", "rows")),
    *(f"conformal/test_{name}.py" for name in ("rows_of_few_directions", "rows_without_blocks")),
    "conformal/test_cross.py::test_block_leverage_equals_refits",
    "conformal/test_jackknife.py::test_kernel_bounds_equal_refits",
    "conformal/test_jackknife.py::test_pipelines_are_exact_for_transformers_held_at_their_fit",
    "conformal/test_joint.py::test_groups_and_weights_combine_with_it",
    "conformal/test_groups.py::test_thresholds_of_a_group_are_those_of_its_rows_alone",
    "conformal/test_shift.py::test_groups_are_weighted_within",
]
# Other containers of the same numbers, and torch, which has a BLAS of its own.
LEFT_OUT = "not (torch or float32 or fortran or read-only or memory)"
# Products and factorisations that would stop a processor which lacks the instructions of a kernel.
PROBE = """
import json
import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_info
X = np.random.default_rng(0).normal(size=(300, 200))
for Y in (X, X.astype(np.float32)):
    np.linalg.svd(Y.T @ Y), scipy.linalg.cholesky(Y.T @ Y), scipy.linalg.qr(Y), Y @ Y[0, :]
found = [one for one in threadpool_info() if one["internal_api"] == "openblas"]
print(json.dumps(sorted({(one["architecture"], one["num_threads"]) for one in found})))
"""


@dataclass(frozen=True)
class Setting:
    core: str
    threads: int

    def __str__(self) -> str:
        return f"{self.core or 'own choice'} on {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def environment(self) -> dict[str, str]:
        """That of this process, without what else it says to OpenBLAS."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "GOTO_"))}
        chosen = {"OPENBLAS_CORETYPE": self.core} if self.core else {}
        count = str(self.threads)
        return kept | chosen | {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)


def loaded(setting: Setting) -> str | None:
    """Kernels and threads that NumPy and SciPy really use; None where the processor stops."""
    probe = setting.run("-c", PROBE)
    if probe.returncode < 0:  # ended by a signal: an instruction that it does not know
        return None
    if probe.returncode:
        raise RuntimeError(f"NumPy or SciPy cannot be asked for their kernels: {probe.stderr}")
    return ", ".join(f"{name} x {threads}" for name, threads in json.loads(probe.stdout))


def chosen() -> dict[str, Setting]:
    """The settings by what is really loaded, each once; says which are skipped and why."""
    settings: dict[str, Setting] = {}
    for setting in (Setting(core, threads) for core in CORES for threads in THREADS):
        found = loaded(setting)
        if found is None:
            print(f"skipped: {setting}: this processor does not run it")
        elif found in settings:
            print(f"skipped: {setting}: loads {found} like {settings[found]}")
        else:
            settings[found] = setting
    return settings


def passes(found: str, setting: Setting) -> bool:
    """Whether the numerical tests pass; prints their last line, or all of it where they fail."""
    start = time.perf_counter()
    tests = [f"tests/{name}" for name in NUMERICAL]
    run = setting.run("-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-k", LEFT_OUT, *tests)
    last = run.stdout.strip().splitlines()[-1:] or ["no output"]
    said = last[0] if not run.returncode else f"FAILED\n{run.stdout}\n{run.stderr}"
    print(f"{setting} ({found or 'no OpenBLAS'}), {time.perf_counter() - start:.0f} s: {said}", flush=True)
    return not run.returncode


def main() -> int:
    settings = chosen()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        results = list(pool.map(passes, settings.keys(), settings.values()))
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
