"""Geometry of trees: two rows are alike in so far as the trees put them into the same leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeRegressor

from hatband.arrays.typing import Array
from hatband.geometry.base import Geometry
from hatband.geometry.convert import as_numbers
from hatband.geometry.inputs import InputsGeometry
from hatband.geometry.kernel import Kernel, blocks
from hatband.geometry.nystroem import DualOrNystroem
from hatband.geometry.registry import geometry_for

# k(x, x) = 1, so with this ridge a row that shares no leaf with any training row has leverage 1 (plus 1/n).
RIDGE = 1.0
# Up to this many nodes leaf indicators are multiplied as dense matrices.
_FEW_LEAVES = 4096


@dataclass(frozen=True, eq=False)
class LeafKernel(Kernel):
    """k(x, z) = share of the trees in which x and z fall into the same leaf.

    Parameters
    ----------
    trees : fitted estimator
        Its ``apply`` gives the leaf of each row in each tree.

    Notes
    -----
    A feature for each leaf would do the same and be 250,000 columns for a forest grown on 4,000 rows. A block of
    rows is one sparse product of leaf indicators: about m * k * trees / leaves additions.
    Scornet, "Random forests and kernel methods", IEEE Transactions on Information Theory 62, 2016 (KeRF).
    """

    trees: Any

    def rows(self, X: Any) -> Array:
        """Return the leaf of each row in each tree, shape (m, trees)."""
        return np.asarray(self.trees.apply(X)).reshape(np.shape(X)[0], -1).astype(np.int32)

    def __call__(self, rows: Array, others: Array) -> Array:
        """Return k(x, z), shape (m, k)."""
        width = 1 + int(max(rows.max(initial=0), others.max(initial=0)))
        indicators = _indicators(others, width)
        result = np.empty((len(rows), len(others)))
        for part, block in blocks(rows):
            result[part] = _together(_indicators(block, width), indicators)
        return np.divide(result, rows.shape[1], out=result)

    def diagonal(self, rows: Array) -> Array:
        """Return k(x, x) = 1, shape (m,)."""
        return np.ones(len(rows))


def _together(indicators: sparse.csr_array, others: sparse.csr_array) -> Array:
    """Count the leaves that rows share; shallow trees have few leaves with many rows: there dense is faster."""
    if others.shape[1] <= _FEW_LEAVES:
        return indicators.toarray() @ others.toarray().T
    return (indicators @ others.T).toarray()


def _indicators(leaves: Array, width: int) -> sparse.csr_array:
    """Return a 0/1 matrix with a column for each node of each tree; float32 counts up to 2^24 exactly."""
    count, trees = leaves.shape
    columns = leaves + width * np.arange(trees, dtype=np.int64)
    start = np.arange(0, leaves.size + 1, trees)
    return sparse.csr_array((np.ones(leaves.size, np.float32), columns.ravel(), start), shape=(count, width * trees))


@dataclass(frozen=True, eq=False)
class BaggedTrees:
    """The trees of a BaggingRegressor, each with the columns that it was grown on.

    Parameters
    ----------
    members : sequence of (tree, array of int)
        Fitted trees and their columns.
    """

    members: Sequence[tuple[DecisionTreeRegressor, Array]]

    def apply(self, X: Any) -> Array:
        """Return the leaf of each row in each tree, shape (m, trees)."""
        values = as_numbers(X)
        return np.column_stack([tree.apply(values[:, columns]) for tree, columns in self.members])


@geometry_for(RandomForestRegressor, ExtraTreesRegressor, GradientBoostingRegressor, DecisionTreeRegressor)
def trees(model: Any) -> Geometry:
    """The leaf kernel with ridge 1 and an intercept, for a constant added to y moves every prediction by it."""
    return DualOrNystroem(LeafKernel(model), RIDGE)


@geometry_for(BaggingRegressor)
def bagging(model: BaggingRegressor) -> Geometry:
    """The leaf kernel when all members are trees, else the inputs."""
    if not all(isinstance(member, DecisionTreeRegressor) for member in model.estimators_):
        return InputsGeometry()
    members = tuple(zip(model.estimators_, model.estimators_features_, strict=True))
    return DualOrNystroem(LeafKernel(BaggedTrees(members)), RIDGE)
