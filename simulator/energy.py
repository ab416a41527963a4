"""What work, silicon and time cost: energy per operation and byte, area, yield and price. Bare arrays, which broadcast.

Units: joules, square millimetres, watts, US dollars. Nodes are process names in nanometres.
"""

from __future__ import annotations

import numpy as np

SECONDS_PER_YEAR = 365.25 * 24 * 3600
JOULES_PER_KWH = 3.6e6


def interpolated(x, known, values):
    """`values` at `known` points (ascending or descending), read at `x` on logarithmic scales of both.

    Straight lines between the points, the end lines carried on beyond them. A value of zero anywhere is refused by
    the logarithm: costs are positive. Same shape as `x`.
    """
    known, values = np.asarray(known, float), np.asarray(values, float)
    order = np.argsort(known)
    at, log_known, log_values = np.log(x), np.log(known[order]), np.log(values[order])
    slopes = np.diff(log_values) / np.diff(log_known)
    left = np.clip(np.searchsorted(log_known, at, side="right") - 1, 0, len(slopes) - 1)
    return np.exp(log_values[left] + (at - log_known[left]) * slopes[left])


# -- energy ------------------------------------------------------------------------------------------


def array_mac_j(multiply_j, add_j, overhead):
    """Energy of one multiply-accumulate of a matrix array: arithmetic and the operands' way to it. [J]"""
    return (multiply_j + add_j) * (1.0 + overhead)


def lane_mac_j(multiply_j, add_j, instruction_j, per_instruction):
    """Energy of one multiply-accumulate of a lane, which shares an instruction with `per_instruction` of them. [J]

    Ref.: Dally, Hot Chips 35, 2023: fetch, decode and operands cost 20 times a half-precision multiply-add.
    """
    return multiply_j + add_j + instruction_j / per_instruction


def sram_j_per_byte(bank_bytes, node_nm, known_bytes, nodes_nm, known_j_per_byte):
    """Energy to read or write a byte of on-chip memory, by the size of the bank and the node. [J/byte]

    `known_j_per_byte` has one list over `known_bytes` for each of the two `nodes_nm`. Banks beyond the largest known
    are taken as several of it. Ref.: Horowitz, ISSCC 2014; Jouppi et al., ISCA 2021, table 2.
    """
    bank_bytes = np.minimum(bank_bytes, np.max(known_bytes))
    first, second = (interpolated(bank_bytes, known_bytes, row) for row in known_j_per_byte)
    share = (np.log(node_nm) - np.log(nodes_nm[0])) / (np.log(nodes_nm[1]) - np.log(nodes_nm[0]))
    return np.exp(np.log(first) * (1.0 - share) + np.log(second) * share)


# -- area --------------------------------------------------------------------------------------------


def sram_mm2(capacity_bytes, cell_um2, overhead):
    """Area of on-chip memory: its cells, and what decoders, sense amplifiers, ports and tags add. [mm2]"""
    return capacity_bytes * 8.0 * cell_um2 * overhead * 1e-6


def interfaces(bandwidth_bytes_per_s, each_bytes_per_s):
    """How many whole stacks, devices or channels a bandwidth takes."""
    return np.ceil(bandwidth_bytes_per_s / each_bytes_per_s * (1.0 - 1e-9))


def dies(area_mm2, reticle_mm2):
    """How many dies a design is cut into, none beyond the reticle."""
    return np.maximum(1.0, np.ceil(area_mm2 / reticle_mm2))


def perimeter_mm(area_mm2, number_of_dies):
    """Edge of `number_of_dies` square dies of `area_mm2` together. [mm]"""
    return 4.0 * np.sqrt(area_mm2 * number_of_dies)


# -- price -------------------------------------------------------------------------------------------


def dies_per_wafer(die_mm2, wafer_mm):
    """Whole dies on a round wafer: its area over the die's, less those its edge cuts.

    Ref.: Hennessy and Patterson, Computer Architecture, 6th ed., 2017, section 1.6.
    """
    return np.pi * (wafer_mm / 2.0) ** 2 / die_mm2 - np.pi * wafer_mm / np.sqrt(2.0 * die_mm2)


def negative_binomial_yield(die_mm2, defects_per_mm2, clustering):
    """Share of dies without a defect; defects cluster, the less the larger `clustering`. (0..1)

    Ref.: Stapper, Armstrong and Saji, Integrated circuit yield statistics, Proc. IEEE 71(4), 1983.
    """
    return (1.0 + die_mm2 * defects_per_mm2 / clustering) ** -clustering


def die_usd(area_mm2, reticle_mm2, wafer_usd, wafer_mm, defects_per_mm2, clustering):
    """Price of the good dies of one design, cut at the reticle: wafer over good dies a wafer. [USD]"""
    number = dies(area_mm2, reticle_mm2)
    each = area_mm2 / number
    good = dies_per_wafer(each, wafer_mm) * negative_binomial_yield(each, defects_per_mm2, clustering)
    return number * wafer_usd / good


def running_usd_per_s(device_usd, life_years, load, power_w, usd_per_kwh, facility_overhead):
    """What a second of work costs: the device spread over its working life, and the electricity. [USD/s]

    `load` is the share of the life it works (0..1].
    """
    device = device_usd / (life_years * SECONDS_PER_YEAR * load)
    return device + power_w * facility_overhead * usd_per_kwh / JOULES_PER_KWH
