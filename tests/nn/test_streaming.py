"""Statistics of features over loaders: equal to those of all rows at once, in flat memory, over processes."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from hatband.arrays import backend as backends
from hatband.arrays.backend import backend_of
from hatband.checks import LeverageWarning
from hatband.linalg import GramStatistics
from hatband.nn import LastLayerConformalRegressor, all_reduce, feature_statistics
from hatband.nn.measure import streaming as streaming_module
from hatband.nn.measure.streaming import RunningGram
from nn.cases import WIDTH, loader, network, phi, rows
from pretend_device import DEVICE, PRETENDED


def dense(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and centred Gram matrix."""
    mean = values.mean(axis=0)
    return mean, (values - mean).T @ (values - mean)


def host(values) -> np.ndarray:
    return np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values)


@pytest.mark.parametrize("batch_size", [1, 17, 1_000])
def test_statistics_of_batches_are_those_of_all_rows(net, batch_size):
    X, y = rows(300, n_outputs=2)

    found = feature_statistics(net, loader(X, y, batch_size))

    mean, gram = dense(np.column_stack([phi(net, X), y.double().numpy()]))
    assert (found.n_samples, found.weight, found.n_features, found.n_targets) == (300, 300.0, WIDTH, 2)
    # Features of a float32 network depend on the size of the batch in their last digit.
    np.testing.assert_allclose(host(found.centre.mean), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(host(found.joint), gram, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [[5], [1, 2, 3, 4], [40, 1], [64, 64]])
def test_blocks_of_any_size_give_the_same_sums_to_rounding(device, monkeypatch, rng, sizes):
    monkeypatch.setattr(streaming_module, "rows_per_block", lambda backend, n_columns: 16)
    values = rng.normal(size=(sum(sizes), 3)) * [1, 10, 100] + [0, 1e3, -1e5]
    running = RunningGram(backend_of(torch.zeros(1, device=device)), 3, 0)

    for part in np.split(values, np.cumsum(sizes)[:-1]):
        running.add(torch.tensor(part, device=device))

    found, (mean, gram) = running.statistics(), dense(values)
    np.testing.assert_allclose(host(found.mean), mean, rtol=1e-13)
    np.testing.assert_allclose(host(found.gram), gram, rtol=1e-11, atol=1e-11 * abs(gram).max())


def test_sorted_rows_lose_nothing(device, monkeypatch):
    monkeypatch.setattr(streaming_module, "rows_per_block", lambda backend, n_columns: 64)
    values = np.linspace(0, 1e6, 4_096)[:, None] ** [1, 0.5]
    running = RunningGram(backend_of(torch.zeros(1, device=device)), 2, 0)

    running.add(torch.tensor(values, device=device))

    np.testing.assert_allclose(host(running.statistics().gram), dense(values)[1], rtol=1e-11)


def test_statistics_can_be_read_more_than_once_while_rows_come_in(device, rng):
    values = torch.tensor(rng.normal(size=(20, 3)), device=device)
    running = RunningGram(backend_of(values), 3, 0)
    running.add(values[:8])
    first = host(running.statistics().gram).copy()
    running.add(values[8:])

    np.testing.assert_allclose(first, dense(host(values[:8]))[1])
    np.testing.assert_allclose(host(running.statistics().gram), dense(host(values))[1])


def test_parts_merge_to_the_whole(net):
    X, y = rows(200)

    merged = feature_statistics(net, X[:70], y[:70]).merge(feature_statistics(net, X[70:], y[70:]))

    whole = feature_statistics(net, X, y)
    np.testing.assert_allclose(host(merged.joint), host(whole.joint), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("first", ["cpu", "device"])
def test_parts_measured_on_two_devices_merge_where_the_first_is(device, first):
    X, y = rows(200)
    here, there = (device, "cpu") if first == "device" else ("cpu", device)
    one = feature_statistics(network(dtype=torch.float64).to(here), X[:70], y[:70])

    merged = one.merge(feature_statistics(network(dtype=torch.float64).to(there), X[70:], y[70:]))

    assert merged.joint.device == torch.device(here)
    whole = feature_statistics(network(dtype=torch.float64), X, y)
    assert merged.n_samples == 200
    np.testing.assert_allclose(host(merged.joint), host(whole.joint), rtol=1e-12, atol=1e-12)


def test_batches_that_differ_are_refused(net):
    X, y = rows(40)

    with pytest.raises(ValueError, match="12 features and 1 targets"):
        feature_statistics(net, [(X, y), (X, torch.stack([y, y], 1))])


def bytes_alive() -> int:
    tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
    # What torch.func wraps has no memory of its own, and other tests may have left some.
    return sum(t.untyped_storage().nbytes() for t in tensors if not is_functorch_wrapped_tensor(t))


class Weighed(nn.Module):
    """A network that notes how many bytes of tensors are alive, every few passes."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen, self.calls = network(), [], 0

    def forward(self, x):
        if self.calls % 20 == 0:
            self.seen.append(bytes_alive())
        self.calls += 1
        return self.inner(x)


def test_memory_does_not_grow_with_the_number_of_rows():
    X, y = rows(500)

    def peak(repeats: int) -> int:
        # What other tests have left behind may go at any time.
        gc.collect()
        before, net = bytes_alive(), Weighed()
        LastLayerConformalRegressor(net, scale="leverage").fit_train([(X, y)] * repeats)
        assert len(net.seen) == repeats // 20 + 1
        return max(net.seen) - before

    # Blocks hold at most 4,096 rows: 10,000 rows fill them, and 30,000 need no more.
    assert peak(61) < 1.05 * peak(21)


@PRETENDED
def test_a_device_without_float64_is_left_for_the_cpu_with_one_warning(monkeypatch):
    net, (X, y) = network(), rows(100)
    expected = LastLayerConformalRegressor(net, scale="leverage").fit_train(X, y).calibrate(X, y)
    monkeypatch.setattr(backends, "has_float64", lambda device: device != DEVICE)

    with pytest.warns(LeverageWarning, match="float64") as warnings:
        model = LastLayerConformalRegressor(net, scale="leverage", device=DEVICE).fit_train(X, y)
    model.calibrate(X, y)

    assert len(warnings) == 1
    np.testing.assert_array_equal(model.predict_interval(X)[1], expected.predict_interval(X)[1])


# ---------------------------------------------------------------- processes


def meet_and_fit(rank: int, folder: str) -> None:
    """One of two processes: it sees its own rows, and writes what it found."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    X, y = rows(101)
    own = slice(0, 30) if rank == 0 else slice(30, None)
    model = LastLayerConformalRegressor(network(dtype=torch.float64), scale="leverage", ridge=0.3)
    model.fit_train(X[own], y[own], merge=all_reduce)
    np.savez(f"{folder}/{rank}.npz", leverage=model.leverage(X), joint=model.space_.statistics.joint)
    refused = GramStatistics.empty(2 + rank)
    try:
        all_reduce(refused)
    except ValueError as error:
        Path(f"{folder}/{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


class Meeting:
    """Two threads in the place of two processes: what one sends the other gets."""

    def __init__(self):
        self.barrier, self.sent, self.own = threading.Barrier(2, timeout=60), [None, None], threading.local()

    def exchanged(self, value):
        self.sent[self.own.rank] = value
        self.barrier.wait()
        both = list(self.sent)
        self.barrier.wait()
        return both

    def all_reduce(self, tensor, group=None):
        tensor.copy_(sum(self.exchanged(tensor.clone())))

    def all_gather_object(self, found, value, group=None):
        found[:] = self.exchanged(value)

    def run(self, work):
        def of_rank(rank):
            self.own.rank = rank
            return work(rank)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(of_rank, range(2)))


@pytest.fixture
def meeting(monkeypatch):
    meeting = Meeting()
    for name in ("all_reduce", "all_gather_object"):
        monkeypatch.setattr(dist, name, getattr(meeting, name))
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_backend": "gloo"}.items():
        monkeypatch.setattr(dist, name, lambda *group, value=value: value)
    return meeting


@pytest.mark.parametrize("first", [0, 30])
def test_sums_that_meet_are_those_of_all_rows(meeting, first, rng):
    values = rng.normal(loc=[1e3, 0, -1e5], size=(101, 3))
    parts = [GramStatistics.of(part) if len(part) else GramStatistics.empty(3) for part in np.split(values, [first])]

    mean, gram = dense(values)
    for found in meeting.run(lambda rank: all_reduce(parts[rank])):
        assert (found.n_samples, found.weight) == (101, 101.0)
        np.testing.assert_allclose(found.centre.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(found.gram, gram, rtol=1e-9, atol=1e-9 * abs(gram).max())


def test_sums_of_other_features_are_refused_by_all(meeting):
    def refused(rank):
        with pytest.raises(ValueError, match=r"\[\(2, 0\), \(3, 0\)\]"):
            all_reduce(GramStatistics.empty(2 + rank))
        return True

    assert meeting.run(refused) == [True, True]


@pytest.mark.slow
def test_two_processes_find_what_one_finds_with_the_rows_of_both(tmp_path):
    mp.spawn(meet_and_fit, args=(str(tmp_path),), nprocs=2)

    X, y = rows(101)
    whole = LastLayerConformalRegressor(network(dtype=torch.float64), scale="leverage", ridge=0.3).fit_train(X, y)
    for rank in range(2):
        seen = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(seen["joint"], whole.space_.statistics.joint, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(seen["leverage"], whole.leverage(X), rtol=1e-10)
        assert "[(2, 0), (3, 0)]" in (tmp_path / f"{rank}.txt").read_text()


def test_processes_that_have_not_met_are_told_so():
    with pytest.raises(RuntimeError, match="init_process_group"):
        all_reduce(GramStatistics.empty(2))


def test_processes_cannot_learn_a_scale_from_their_own_rows(net):
    X, y = rows(50)
    model = LastLayerConformalRegressor(net, scale="strength", fit_train_rows="unseen")

    with pytest.raises(ValueError, match="the same rows in every process"):
        model.fit_train(X, y, merge=lambda statistics: statistics)
    model.fit_train(X, y, merge=lambda statistics: statistics, validation=rows(50, 1))

    assert model.residuals_from_ == "validation rows"


def test_a_process_without_rows_does_not_change_the_others(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        empty = all_reduce(GramStatistics.empty(3, 1))
        some = GramStatistics.of(np.eye(3) + 1e6)
        whole = all_reduce(some)
    finally:
        dist.destroy_process_group()

    assert (empty.n_samples, empty.weight) == (0, 0.0)
    np.testing.assert_allclose(whole.gram, some.gram, rtol=1e-9)


def test_buffers_of_the_network_are_left_alone(device):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).to(device)
    before = net[1].running_mean.clone()

    feature_statistics(net, rows(50)[0])

    assert torch.equal(net[1].running_mean, before)
