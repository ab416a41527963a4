"""The bare formulas of energy, area, yield and price: values by hand and from the papers, limits, arrays as loops."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CLOSED_FORM

from simulator import energy


def near(value):
    return pytest.approx(value, rel=CLOSED_FORM)


# -- interpolation -------------------------------------------------------------------------------------


def test_a_known_point_is_met_and_the_middle_is_the_geometric_mean():
    known, values = [45.0, 7.0], [8.0, 2.0]
    assert energy.interpolated(45.0, known, values) == near(8.0)
    assert energy.interpolated(7.0, known, values) == near(2.0)
    assert energy.interpolated(np.sqrt(45.0 * 7.0), known, values) == near(4.0)


def test_end_lines_go_on():
    """Slope 2 on logarithmic scales from 1 to 2, slope 1 from 2 to 4."""
    known, values = [1.0, 2.0, 4.0], [1.0, 4.0, 8.0]
    assert energy.interpolated(0.5, known, values) == near(0.25)
    assert energy.interpolated(8.0, known, values) == near(16.0)


def test_interpolation_of_arrays_equals_loop():
    known, values = [90.0, 28.0, 7.0, 5.0], [5.0, 3.0, 2.0, 1.0]
    x = np.array([[3.0, 5.0, 6.0], [7.0, 16.0, 120.0]])
    looped = [[float(energy.interpolated(one, known, values)) for one in row] for row in x]
    assert energy.interpolated(x, known, values).tolist() == looped


# -- energy --------------------------------------------------------------------------------------------


def test_a_lane_pays_the_instruction_and_an_array_a_share():
    """Horowitz, 45 nm: fp16 multiply 1.1 pJ, add 0.4 pJ: 1.5 pJ, to which Dally adds 30 pJ (2000 %)."""
    assert energy.lane_mac_j(1.1e-12, 0.4e-12, 30e-12, 1.0) == near(31.5e-12)
    assert energy.lane_mac_j(1.1e-12, 0.4e-12, 30e-12, 2.0) == near(16.5e-12)
    assert energy.array_mac_j(1.1e-12, 0.4e-12, 0.22) == near(1.83e-12)


@pytest.mark.parametrize(
    ("bank", "node", "pico_joules"),
    [(8192, 45, 10.0), (32768, 45, 20.0), (1048576, 45, 100.0), (8192, 7, 7.5), (32768, 7, 8.5), (1048576, 7, 14.0)],
)
def test_sram_meets_both_papers(bank, node, pico_joules):
    """64 bits from three banks at two nodes: Horowitz 2014, figure 1.1.9; Jouppi et al. 2021, table 2."""
    table = np.array([[10.0, 20.0, 100.0], [7.5, 8.5, 14.0]])
    found = energy.sram_j_per_byte(bank, node, [8192, 32768, 1048576], (45.0, 7.0), table)
    assert found == near(pico_joules)


def test_larger_memories_are_banks_of_the_largest():
    table = np.array([[10.0, 20.0, 100.0], [7.5, 8.5, 14.0]])
    banks = [8192, 32768, 1048576]
    largest = energy.sram_j_per_byte(1048576, 28.0, banks, (45.0, 7.0), table)
    assert energy.sram_j_per_byte(1e9, 28.0, banks, (45.0, 7.0), table) == near(largest)


# -- area ----------------------------------------------------------------------------------------------


def test_sram_area_is_cells_and_overhead():
    """2^20 bytes of 0.027 um2 cells: 0.2265 mm2 of cells."""
    assert energy.sram_mm2(2**20, 0.027, 1.0) == near(2**23 * 0.027e-6)
    assert energy.sram_mm2(2**20, 0.027, 3.0) == near(3 * 2**23 * 0.027e-6)


def test_interfaces_are_whole():
    assert energy.interfaces(900e9, 225e9) == 4
    assert energy.interfaces(np.array([1.0, 225e9, 226e9]), 225e9).tolist() == [1, 1, 2]


def test_dies_and_their_edge():
    assert energy.dies(np.array([1.0, 858.0, 859.0, 2400.0]), 858.0).tolist() == [1, 1, 2, 3]
    assert energy.perimeter_mm(400.0, 1) == near(80.0)
    assert energy.perimeter_mm(800.0, 2) == near(160.0)  # two of 20 x 20


# -- price ---------------------------------------------------------------------------------------------


def test_dies_per_wafer_of_the_textbook():
    """Hennessy and Patterson, 6th ed., 1.6: 300 mm wafer, 1.5 cm dies: 270; 1.0 cm: 640."""
    assert round(float(energy.dies_per_wafer(225.0, 300.0))) == 270
    assert round(float(energy.dies_per_wafer(100.0, 300.0))) == 640


def test_yield_by_hand_and_in_its_limits():
    """1 cm2, 0.1 defects a cm2, cluster 3: (1 + 0.1 / 3)^-3. Without defects 1; without clusters Poisson."""
    assert energy.negative_binomial_yield(100.0, 0.001, 3.0) == near((1 + 0.1 / 3) ** -3)
    assert energy.negative_binomial_yield(800.0, 0.0, 3.0) == 1.0
    assert energy.negative_binomial_yield(100.0, 0.01, 1e9) == pytest.approx(np.exp(-1.0), rel=1e-6)


def test_die_price_by_hand():
    """858 mm2 whole on a 300 mm wafer of 9346 USD, no defects: pi 150^2 / 858 - pi 300 / sqrt(1716) dies."""
    whole = np.pi * 150**2 / 858 - np.pi * 300 / np.sqrt(1716)
    assert energy.die_usd(858.0, 858.0, 9346.0, 300.0, 0.0, 3.0) == near(9346 / whole)
    assert energy.die_usd(1716.0, 858.0, 9346.0, 300.0, 0.0, 3.0) == near(2 * 9346 / whole)


def test_running_price_by_hand():
    """A device of 31 557.6 USD over ten years costs 1e-4 USD a second; 1 kW at 0.36 USD a kWh as much."""
    assert energy.running_usd_per_s(31557.6, 10.0, 1.0, 1000.0, 0.36, 1.0) == near(2e-4)
    assert energy.running_usd_per_s(31557.6, 10.0, 0.5, 0.0, 0.36, 1.0) == near(2e-4)
    assert energy.running_usd_per_s(0.0, 10.0, 1.0, 1000.0, 0.36, 1.5) == near(1.5e-4)
