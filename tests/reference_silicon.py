"""The slow twin of the silicon: one design, plain floats and loops, written from the model's description.

Imports nothing from the simulator; the unit costs are read from the same file, numbers only. An accelerator is read
through its attributes, a trace through `rows()`, what was simulated through dictionaries of plain numbers.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from pathlib import Path

COSTS = tomllib.loads((Path(__file__).parents[1] / "simulator" / "silicon.toml").read_text(encoding="utf-8"))
SIZES = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "int32": 4,
    "bf16": 2,
    "fp16": 2,
    "int16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5,
}
PRODUCTS = ("matmul", "convolution", "attention")


def cost(table: str, name: str):
    return COSTS[table][name]["value"]


def by_family(name: str, family: str) -> float:
    return cost("control", name)[COSTS["control"]["families"].index(family)]


def on_line(x: float, known, values) -> float:
    """On straight lines through the points, on logarithmic scales of both; the end lines go on."""
    points = sorted(zip(known, values, strict=True))
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x < x1 or (x1, y1) == points[-1]:
            return y0 * (y1 / y0) ** (math.log(x / x0) / math.log(x1 / x0))
    raise AssertionError("no points")


def at_node(table: str, name: str, node: float, nodes: str = "nm") -> float:
    return on_line(node, COSTS[table][nodes], cost(table, name))


def node_of(chip) -> float:
    return 7.0 if chip.package.process_nm is None else chip.package.process_nm


def accumulator(dtype: str) -> str:
    if dtype == "fp64":
        return "fp64"
    return "int32" if dtype.startswith("int") else "fp32"


def arithmetic_j(part: str, dtype: str, node: float) -> float:
    row = COSTS[part]["types"].index(dtype)
    return on_line(node, (45, 7), [cost(part, f"energy_{nm}nm_j")[row] for nm in (45, 7)])


def fused_j(dtype: str, node: float) -> float:
    return arithmetic_j("multiply", dtype, node) + arithmetic_j("add", accumulator(dtype), node)


def lanes(chip) -> float:
    """Vector lanes beside each matrix unit."""
    return chip.vector.count * chip.vector.flops_per_cycle / 2 / chip.matrix.count


def on_lanes(dtype: str, chip) -> bool:
    if chip.matrix.dataflow == "weight-stationary":
        return False
    return chip.matrix.macs_per_cycle[dtype] <= 1.1 * lanes(chip) * max(1, 4 / SIZES[dtype])


def instruction_j(chip) -> float:
    node = node_of(chip)
    if chip.family == "gpu":
        return at_node("datapath", "instruction_j", node)
    if chip.family == "cpu":
        return at_node("datapath", "cpu_instruction_j", node) / max(1.0, lanes(chip))
    return cost("datapath", "array_energy_overhead") * fused_j("fp32", node)


def mac_j(dtype: str, chip) -> float:
    arithmetic = fused_j(dtype, node_of(chip))
    if on_lanes(dtype, chip):
        return arithmetic + instruction_j(chip) / max(1, 4 / SIZES[dtype])
    return arithmetic * (1 + cost("datapath", "array_energy_overhead"))


def vector_flop_j(chip) -> float:
    return (fused_j("fp32", node_of(chip)) + instruction_j(chip)) / 2


def special_j(chip) -> float:
    return cost("datapath", "special_multiplies") * fused_j("fp32", node_of(chip)) + instruction_j(chip)


def technology(name: str, chip) -> str:
    level = chip.memory[name]
    if level.technology is not None:
        return level.technology
    if name == list(chip.memory)[-1]:
        return COSTS["memory"]["of_family"][COSTS["memory"]["families"].index(chip.family)]
    return "cache" if chip.family == "gpu" and level.scope == "chip" else "sram"


def on_die(name: str, chip) -> bool:
    return technology(name, chip) in ("sram", "cache")


def of_technology(cost_name: str, name: str, chip) -> float:
    return cost("memory", cost_name)[COSTS["memory"]["technologies"].index(technology(name, chip))]


# -- area ------------------------------------------------------------------------------------------


def transistors_mm2(node: float) -> float:
    return at_node("logic", "mm2_per_million_transistors", node)


def mac_um2(dtype: str) -> float:
    multiply = cost("multiply", "area_45nm_um2")[COSTS["multiply"]["types"].index(dtype)]
    return multiply + cost("add", "area_45nm_um2")[COSTS["add"]["types"].index(accumulator(dtype))]


def sram_mm2(capacity: float, kind: str, node: float) -> float:
    overhead = cost("sram", "overhead")[COSTS["sram"]["kinds"].index(kind)]
    return capacity * 8 * at_node("sram", "cell_um2", node) * overhead / 1e6


def stacks(name: str, chip) -> int:
    each = chip.memory[name].interface_bytes_per_s or of_technology("interface_bytes_per_s", name, chip)
    return math.ceil(chip.memory[name].bandwidth_bytes_per_s / each - 1e-6)


def area_by_part_mm2(chip) -> dict[str, float]:
    node, family = node_of(chip), chip.family
    shrink = transistors_mm2(node) / transistors_mm2(45)
    physical = 1 / (chip.package.enabled_share or 1)
    registers = cost("datapath", "array_registers_um2") if chip.matrix.dataflow == "weight-stationary" else 0
    shared, doubles = [0.0], 0.0
    for dtype, macs in chip.matrix.macs_per_cycle.items():
        if dtype == "fp64":
            doubles = macs * (mac_um2(dtype) + registers)
        elif not on_lanes(dtype, chip):
            shared.append(macs * (mac_um2(dtype) + registers))
    parts = {"matrix": chip.matrix.count * physical * (max(shared) + doubles) * shrink / 1e6}
    fused_units = chip.vector.flops_per_cycle / 2
    fused_units += chip.vector.special_per_cycle * cost("datapath", "special_multiplies")
    file = chip.vector.register_bytes
    file = by_family("register_bytes", family) if file is None else file
    units = chip.vector.count * physical
    parts["vector"] = units * fused_units * mac_um2("fp32") * shrink / 1e6 + sram_mm2(units * file, "sram", node)
    core = by_family("area_7nm_mm2", family) * transistors_mm2(node) / transistors_mm2(7)
    parts["control"] = chip.matrix.count * physical * core
    for name, level in chip.memory.items():
        if on_die(name, chip):
            capacity = level.capacity_bytes * (physical if level.scope == "unit" else 1)
            parts[name] = sram_mm2(capacity, technology(name, chip), node)
    other = by_family("other_share", family) * sum(parts.values())
    parts["memory interfaces"] = parts["link"] = 0.0
    for name in chip.memory:
        if not on_die(name, chip):
            each = of_technology("phy_mm2", name, chip)
            each += of_technology("controller_million_transistors", name, chip) * transistors_mm2(node)
            parts["memory interfaces"] += stacks(name, chip) * each
    if chip.link is not None:
        each = cost("link", "phy_mm2_per_byte_per_s")
        each += cost("link", "controller_million_transistors_per_byte_per_s") * transistors_mm2(node)
        parts["link"] = chip.link.bandwidth_bytes_per_s * each
    return parts | {"other": other}


def area_mm2(chip) -> float:
    return sum(area_by_part_mm2(chip).values())


def number_of_dies(chip) -> int:
    return max(1, math.ceil(area_mm2(chip) / cost("price", "reticle_mm2")))


def level_j_per_byte(name: str, chip) -> float:
    level, node = chip.memory[name], node_of(chip)
    if level.energy_j_per_byte is not None:
        return level.energy_j_per_byte
    if not on_die(name, chip):
        return of_technology("energy_j_per_byte", name, chip)
    private = level.scope == "unit"
    bank = min(level.capacity_bytes / (chip.matrix.count if private else 1), COSTS["sram"]["bank_bytes"][-1])
    both = [on_line(bank, COSTS["sram"]["bank_bytes"], cost("sram", f"energy_{nm}nm_j_per_byte")) for nm in (45, 7)]
    access = on_line(node, (45, 7), both)
    if private:
        return access
    regions = number_of_dies(chip) * (1 if technology(name, chip) == "cache" else chip.matrix.count)
    edge = math.sqrt(area_mm2(chip) / regions)
    return access + at_node("wire", "energy_j_per_byte_mm", node) * cost("wire", "die_edges") * edge


def static_w(chip) -> float:
    return at_node("static", "w_per_mm2", node_of(chip)) * area_mm2(chip)


# -- price -----------------------------------------------------------------------------------------


def dies_usd(area: float, largest: float, wafer: float, defects: float, clustering: float) -> float:
    number = max(1, math.ceil(area / largest))
    each, across = area / number, cost("price", "wafer_mm")
    whole = math.pi * across**2 / 4 / each - math.pi * across / math.sqrt(2 * each)
    return number * wafer / (whole * (1 + each * defects / clustering) ** -clustering)


def price_usd(chip) -> float:
    node = node_of(chip)
    wafer, defects = at_node("price", "wafer_usd", node), at_node("price", "defects_per_mm2", node, "defect_nm")
    total = dies_usd(area_mm2(chip), cost("price", "reticle_mm2"), wafer, defects, cost("price", "clustering"))
    footprint = 0.0
    for name, level in chip.memory.items():
        if not on_die(name, chip):
            total += level.capacity_bytes / 1e9 * of_technology("price_usd_per_gb", name, chip)
            footprint += stacks(name, chip) * of_technology("stack_mm2", name, chip)
    if footprint:
        wafer = at_node("price", "wafer_usd", COSTS["price"]["interposer_nm"])
        total += dies_usd(area_mm2(chip) + footprint, 2500.0, wafer, 0.0, 1.0)
    return total + cost("price", "package_usd")


# -- energy of a trace -----------------------------------------------------------------------------


def row_energy_j(row, chip, traffic_bytes: dict[str, float], seconds: float) -> float:
    """Energy of one run of a row that moves `traffic_bytes` and is charged `seconds` of static power."""
    used = row["vector_flops"] * vector_flop_j(chip) + row["special_ops"] * special_j(chip)
    if row["kind"] in PRODUCTS:
        used += row["matrix_flops"] / 2 * mac_j(row["dtype"], chip)
    for name, moved in traffic_bytes.items():
        used += moved * level_j_per_byte(name, chip)
    if row["kind"] == "collective":
        used += row["input_bytes"] * cost("link", "energy_j_per_byte")
    return used + seconds * static_w(chip)
