"""A sweep on a real cluster: two worker processes of dask on this machine. Needs the extra `cluster`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

from simulator import Metric, sweep
from simulator.metrics import DesignSpaceError

pytestmark = pytest.mark.cluster
distributed = pytest.importorskip("distributed", reason="needs dask.distributed: pip install 'rooftrace[cluster]'")

AXES = {"matrix.count": np.arange(1, 41), "memory.dram.bandwidth": np.geomspace(1e9, 1e11, 50)}
SWEEP = sys.modules["simulator.sweep"]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(SWEEP, "LEAST_CHUNK", 64)
    monkeypatch.setattr(SWEEP, "MOST_CHUNK", 64)


@pytest.fixture(scope="module")
def client():
    """A client of a cluster of two processes that can import the tests' metrics."""
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        client.run(functools.partial(sys.path.insert, 0, str(Path(__file__).parent)))
        yield client


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keep", ["all", "best", "pareto"])
def test_a_cluster_gives_the_same_bits(trace, blocked, small_chunks, client, keep):
    import sweep_workers

    settings = {"metrics": ["latency_s", sweep_workers.units], "keep": keep, "limit": 20, **AXES}
    found = sweep(trace, blocked, executor=client.get_executor(pure=False), **settings)
    local = sweep(trace, blocked, **settings)
    assert found.to_frame().equals(local.to_frame())
    assert found.complete


@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_in_the_middle_loses_nothing(trace, blocked, small_chunks, client, tmp_path):
    import sweep_workers

    mark = tmp_path / "killed"
    before = set(client.scheduler_info()["workers"])
    metric = Metric("latency", sweep_workers.KillOnce(str(mark)))
    found = sweep(trace, blocked, metrics=[metric], executor=client.get_executor(pure=False), **AXES)
    assert mark.exists()
    local = sweep(trace, blocked, metrics=["latency_s"], **AXES)
    assert found["latency"].tolist() == local["latency_s"].tolist()
    assert found.evaluated == 2000
    client.wait_for_workers(2, timeout=30)
    assert set(client.scheduler_info()["workers"]) != before


@pytest.mark.filterwarnings("ignore")
def test_only_reduced_rows_travel(trace, blocked, small_chunks, client):
    """What comes back for each chunk has no more rows than are kept."""
    executor = client.get_executor(pure=False)
    sizes, submit = [], executor.submit

    def watching(task, *arguments):
        future = submit(task, *arguments)
        future.add_done_callback(lambda done: sizes.append(len(done.result())))
        return future

    executor.submit = watching
    found = sweep(trace, blocked, executor=executor, keep="best", limit=3, **AXES)
    assert len(sizes) == found.space.chunks
    assert max(sizes) <= 3


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_gone_is_a_clear_error(trace, blocked, small_chunks):
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        executor = client.get_executor()
    with pytest.raises(DesignSpaceError, match="the executor died"):
        sweep(trace, blocked, executor=executor, **AXES)
