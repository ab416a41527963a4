"""Published measurements: the six networks of the first TPU, against what its hardware counters showed.

Each row of `reports/measured/published/tpu_v1.csv` carries the envelope of modelled over measured rate, and why it is
as wide as it is. No constant of the chip is fitted to these rows: the preset cites the paper's description of the
hardware only.
"""

from __future__ import annotations

import csv

import pytest

from reports.shipped import TPU_V1
from simulator import Result, preset, simulate
from workloads.networks import network

with TPU_V1.open(encoding="utf-8", newline="") as file:
    ROWS = {row["network"]: row for row in csv.DictReader(file)}

every_network = pytest.mark.parametrize("name", ROWS)
judged = pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["low"]])


def modelled(name: str) -> Result:
    return simulate(network(f"tpu-v1-{name.lower()}"), preset("tpu-v1"))


def tera_ops_per_s(result: Result) -> float:
    """Two operations a multiply-accumulate, as the paper counts them."""
    return result.trace.total_matrix_flops / result.latency_s / 1e12


def test_the_rows_carry_source_and_reason():
    assert list(ROWS) == ["MLP0", "MLP1", "LSTM0", "LSTM1", "CNN0", "CNN1"]
    for row in ROWS.values():
        assert "ISCA 2017" in row["source"]
        assert len(row["why"]) > 10


def test_the_envelopes_are_those_agreed():
    """20 % for all that are judged, 35 % for LSTM1."""
    widths = {name: (float(row["low"]), float(row["high"])) for name, row in ROWS.items() if row["low"]}
    assert widths.pop("LSTM1") == (0.65, 1.35)
    assert widths == dict.fromkeys(("MLP0", "MLP1", "LSTM0", "CNN0"), (0.8, 1.2))


@judged
def test_rate_lies_within_its_envelope(name):
    row = ROWS[name]
    ratio = tera_ops_per_s(modelled(name)) / float(row["tera_ops_per_s"])
    assert float(row["low"]) <= ratio <= float(row["high"])


def test_networks_rank_as_published():
    measured = sorted(ROWS, key=lambda name: float(ROWS[name]["tera_ops_per_s"]))
    assert sorted(ROWS, key=lambda name: tera_ops_per_s(modelled(name))) == measured


@every_network
def test_the_bound_is_the_published_one(name):
    """MLPs and LSTMs lie under the slanted part of the roof, CNNs under the flat one."""
    shares = modelled(name).time_share_by_bound()
    largest = max(shares, key=shares.get)
    assert largest == {"memory": "dram", "matrix": "matrix"}[ROWS[name]["roofline_bound"]]
    assert shares[largest] > 0.5


@every_network
def test_the_network_is_as_large_as_published(name):
    """Weights and the batch of table 1, operations per weight byte from the work done once over all weights."""
    row, trace = ROWS[name], network(f"tpu-v1-{name.lower()}")
    assert trace.total_parameters / 1e6 == pytest.approx(float(row["weights_millions"]), rel=0.02)
    assert trace.sequences == int(row["batch"])
    macs_each_step = trace.total_matrix_flops / 2 / trace.tokens
    assert macs_each_step / trace.total_parameters == pytest.approx(float(row["ops_per_weight_byte"]), rel=0.02)


def test_nothing_of_the_chip_comes_from_the_measured_tables():
    for path, cited in preset("tpu-v1").citations.items():
        assert not any(table in cited.source for table in ("table 1", "table 3", "table 7")), path


def test_padded_tiles_are_why_lstm1_is_slow():
    """600 x 600 on 256-wide tiles: three tiles each way, (600 / 768)^2 = 0.61 of each useful.

    Table 3: of 10.5 % active cycles 4.2 % multiply padding, so 0.60 is useful. Without padded storage the same network
    would be quicker by that factor.
    """
    row = ROWS["LSTM1"]
    useful = float(row["useful_macs_pct"]) / float(row["array_active_pct"])
    assert useful == pytest.approx((600 / 768) ** 2, abs=0.02)
    packed = preset("tpu-v1").replace({"matrix.stores_padded_tiles": False})
    trace = network("tpu-v1-lstm1")
    gain = simulate(trace, preset("tpu-v1")).latency_s / simulate(trace, packed).latency_s
    assert gain == pytest.approx((768 / 600) ** 2, rel=0.05)
