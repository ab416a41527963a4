"""The silicon of a design: area, edge, power, price and unit energies from its fields and the unit costs.

Composes `energy` (formulas) and `unit_costs` (numbers) over the fields of an accelerator. Everything broadcasts: a
field may be an array of candidates. Not modelled: voltage and clock are one point (a faster clock costs power in
proportion, and no area); a design larger than the reticle is cut into equal dies at no cost for what joins them;
spare units raise the area, and no credit is taken for the dies they save.
"""

from __future__ import annotations

import functools
from functools import cached_property

import numpy as np

from simulator import energy
from simulator.unit_costs import costs
from workloads.trace import ELEMENT_BYTES

#: Memory on the die; every other technology of `silicon.toml` stands outside it.
ON_CHIP = ("sram", "cache")
#: A type runs on the vector lanes when the matrix units multiply it no faster than these; some presets count its rate
#: per cycle of a somewhat slower matrix clock.
LANE_TOLERANCE = 1.1
#: A node in the middle of what was published, where a design states none.
USUAL_NODE_NM = 7.0


class Silicon:
    """Area, edge, power, price and unit energies of `accelerator`, a design or a space of them.

    `bound` is "value", or the "low" or "high" end of every unit cost at once. Results are of any shape that
    broadcasts to `accelerator.shape`.
    """

    def __init__(self, accelerator, bound: str = "value"):
        self.accelerator, self.bound = accelerator, bound
        self.costs = costs(bound)
        self._usual = costs()

    # -- what the design is made of ----------------------------------------------------------------

    @cached_property
    def node_nm(self):
        """Process node; `USUAL_NODE_NM` where the design states none."""
        return _or(self.accelerator.package.process_nm, USUAL_NODE_NM)

    @cached_property
    def technology(self) -> dict[str, str]:
        """Technology of each memory level: stated, or on chip but for the farthest, which is the family's usual."""
        chip, found = self.accelerator, {}
        for name, level in chip.memory.items():
            usual = "cache" if chip.family == "gpu" and level.scope == "chip" else "sram"
            if level is chip.outer:
                usual = self.costs["memory.of_family"][self.costs["memory.families"].index(chip.family)]
            found[name] = _or(level.technology, usual)
        return found

    def _of_family(self, path: str) -> float:
        return float(self.costs[path][self.costs["control.families"].index(self.accelerator.family)])

    def _of_technology(self, name: str, level: str) -> float:
        return float(self.costs[f"memory.{name}"][self.costs["memory.technologies"].index(self.technology[level])])

    def _by_node(self, path: str, nodes: str):
        if np.ndim(self.node_nm):
            return energy.interpolated(self.node_nm, self.costs[nodes], self.costs[path])
        return _at_node(self.node_nm, path, nodes, self.bound)

    @cached_property
    def _physical_share(self):
        """Units on the die over units switched on."""
        return 1.0 / _or(self.accelerator.package.enabled_share, 1.0)

    @cached_property
    def _lanes(self):
        """Vector lanes for each matrix unit, one multiply-add a cycle each."""
        chip = self.accelerator
        return chip.vector.count * chip.vector.flops_per_cycle / (2.0 * chip.matrix.count)

    def runs_on_lanes(self, dtype: str):
        """Whether products in `dtype` run on the vector lanes, several narrow elements to an instruction."""
        chip = self.accelerator
        if chip.matrix.dataflow != "output-stationary":
            return False
        return chip.matrix.macs_per_cycle[dtype] <= LANE_TOLERANCE * self._lanes * _packed(dtype)

    # -- energy ------------------------------------------------------------------------------------

    def _arithmetic(self, part: str, dtype: str):
        """Energy of one multiplication or addition of a type at the design's node. [J]"""
        kind = dtype if part == "multiply" else _accumulator(dtype)
        row = self.costs[f"{part}.types"].index(kind)
        both = tuple(float(self.costs[f"{part}.energy_{node}nm_j"][row]) for node in (45, 7))
        if np.ndim(self.node_nm):
            return energy.interpolated(self.node_nm, (45.0, 7.0), both)
        return _between_nodes(self.node_nm, both)

    @cached_property
    def _instruction_j(self):
        """Energy of one lane's share of an instruction beside its arithmetic; arrays pay as they do for products."""
        chip = self.accelerator
        if chip.family == "gpu":
            return self._by_node("datapath.instruction_j", "datapath.nm")
        if chip.family == "cpu":  # one instruction drives all lanes of a core
            return self._by_node("datapath.cpu_instruction_j", "datapath.nm") / np.maximum(1.0, self._lanes)
        both = self._arithmetic("multiply", "fp32") + self._arithmetic("add", "fp32")
        return self.costs["datapath.array_energy_overhead"] * both

    def mac_j(self, dtype: str):
        """Energy of one multiply-accumulate in `dtype`, with its operands and instruction. [J]"""
        multiply, add = self._arithmetic("multiply", dtype), self._arithmetic("add", dtype)
        in_array = energy.array_mac_j(multiply, add, self.costs["datapath.array_energy_overhead"])
        on_lane = energy.lane_mac_j(multiply, add, self._instruction_j, _packed(dtype))
        return np.where(self.runs_on_lanes(dtype), on_lane, in_array)

    @cached_property
    def vector_flop_j(self):
        """Energy of one addition or multiplication of the vector units: half a fused one in fp32. [J]"""
        both = self._arithmetic("multiply", "fp32") + self._arithmetic("add", "fp32")
        return (both + self._instruction_j) / 2.0

    @cached_property
    def special_j(self):
        """Energy of one transcendental. [J]"""
        both = self._arithmetic("multiply", "fp32") + self._arithmetic("add", "fp32")
        return self.costs["datapath.special_multiplies"] * both + self._instruction_j

    @cached_property
    def level_j_per_byte(self) -> dict[str, object]:
        """Energy to move a byte at each memory level: the field where given, else by technology, bank and node."""
        return {name: self._level_j_per_byte(name, level) for name, level in self.accelerator.memory.items()}

    def _level_j_per_byte(self, name: str, level):
        if level.energy_j_per_byte is not None:
            return level.energy_j_per_byte
        if self.technology[name] not in ON_CHIP:
            return self._of_technology("energy_j_per_byte", name)
        private = level.scope == "unit"
        banks = [self.costs[f"sram.energy_{node}nm_j_per_byte"] for node in (45, 7)]
        bank_bytes = level.capacity_bytes / (self.accelerator.matrix.count if private else 1.0)
        access = energy.sram_j_per_byte(bank_bytes, self.node_nm, self.costs["sram.bank_bytes"], (45.0, 7.0), banks)
        if private:
            return access
        # a cache serves the whole die from wherever a line lies; banks stand beside the unit they feed
        regions = self._dies * (1.0 if self.technology[name] == "cache" else self.accelerator.matrix.count)
        edge_mm = np.sqrt(self.area_mm2 / regions)
        wire = self._by_node("wire.energy_j_per_byte_mm", "wire.nm") * self.costs["wire.die_edges"] * edge_mm
        return access + wire

    @property
    def in_memory_j_per_byte(self):
        """Energy to read a byte from a bank of a memory that computes: the field where given, else the level's. [J]"""
        chip = self.accelerator
        return _or(chip.in_memory.energy_j_per_byte, self.level_j_per_byte[chip.in_memory_level])

    @property
    def link_j_per_byte(self) -> float:
        """Energy to send a byte to another device. [J/byte]"""
        return self.costs["link.energy_j_per_byte"]

    # -- area --------------------------------------------------------------------------------------

    @cached_property
    def _logic_scale(self):
        """Area of logic at the design's node over its area at 45 nm."""
        at_45 = _at_node(45.0, "logic.mm2_per_million_transistors", "logic.nm", "value")
        return self._by_node("logic.mm2_per_million_transistors", "logic.nm") / at_45

    def _mac_um2(self, dtype: str) -> float:
        """Area of a multiplier and the adder behind it at 45 nm."""
        multiply = self.costs["multiply.area_45nm_um2"][self.costs["multiply.types"].index(dtype)]
        add = self.costs["add.area_45nm_um2"][self.costs["add.types"].index(_accumulator(dtype))]
        return float(multiply + add)

    @cached_property
    def area_by_part_mm2(self) -> dict[str, object]:
        """Area by part: matrix, vector, control, each memory level on the die, memory interfaces, link, other."""
        chip = self.accelerator
        parts = {"matrix": self._matrix_mm2, "vector": self._vector_mm2, "control": self._control_mm2}
        for name, level in chip.memory.items():
            if self.technology[name] in ON_CHIP:
                private = level.scope == "unit"
                capacity = level.capacity_bytes * (self._physical_share if private else 1.0)
                parts[name] = self._sram_mm2(capacity, self.technology[name])
        other = self._of_family("control.other_share") * sum(parts.values())
        return parts | {"memory interfaces": self._interfaces_mm2, "link": self._link_mm2, "other": other}

    @cached_property
    def _matrix_mm2(self):
        """Arithmetic of the matrix units: of types up to 32 bits the dearest, which the others share; fp64 beside it.

        What runs on the vector lanes takes no area here.
        """
        matrix = self.accelerator.matrix
        registers = self.costs["datapath.array_registers_um2"] * (matrix.dataflow == "weight-stationary")
        narrow = wide = 0.0
        for dtype, macs in matrix.macs_per_cycle.items():
            um2 = macs * (self._mac_um2(dtype) + registers)
            if dtype == "fp64":
                wide = um2
            else:
                narrow = np.maximum(narrow, np.where(self.runs_on_lanes(dtype), 0.0, um2))
        return matrix.count * self._physical_share * (narrow + wide) * self._logic_scale * 1e-6

    @cached_property
    def _vector_mm2(self):
        """Lanes, transcendental units and register files."""
        vector = self.accelerator.vector
        lanes = vector.flops_per_cycle / 2.0 + vector.special_per_cycle * self.costs["datapath.special_multiplies"]
        units = vector.count * self._physical_share
        registers = _or(vector.register_bytes, self._of_family("control.register_bytes"))
        logic = units * lanes * self._mac_um2("fp32") * self._logic_scale * 1e-6
        return logic + self._sram_mm2(units * registers, "sram")

    @cached_property
    def _control_mm2(self):
        nodes = self._usual["logic.nm"], self._usual["logic.mm2_per_million_transistors"]
        scale = energy.interpolated(self.node_nm, *nodes) / energy.interpolated(7.0, *nodes)
        units = self.accelerator.matrix.count * self._physical_share
        return units * self._of_family("control.area_7nm_mm2") * scale

    def _sram_mm2(self, capacity_bytes, kind: str):
        cell = self._by_node("sram.cell_um2", "sram.nm")
        return energy.sram_mm2(capacity_bytes, cell, self.costs["sram.overhead"][self.costs["sram.kinds"].index(kind)])

    @cached_property
    def interfaces(self) -> dict[str, object]:
        """How many stacks, devices or channels each memory level outside the die has."""
        found = {}
        for name, level in self.accelerator.memory.items():
            if self.technology[name] not in ON_CHIP:
                each = _or(level.interface_bytes_per_s, self._of_technology_usual("interface_bytes_per_s", name))
                found[name] = energy.interfaces(level.bandwidth_bytes_per_s, each)
        return found

    def _of_technology_usual(self, name: str, level: str) -> float:
        return float(self._usual[f"memory.{name}"][self._usual["memory.technologies"].index(self.technology[level])])

    @cached_property
    def _interfaces_mm2(self):
        transistors_mm2 = self._by_node("logic.mm2_per_million_transistors", "logic.nm")
        total = 0.0
        for name, number in self.interfaces.items():
            controller = self._of_technology("controller_million_transistors", name) * transistors_mm2
            total = total + number * (self._of_technology("phy_mm2", name) + controller)
        return total

    @cached_property
    def _link_mm2(self):
        if self.accelerator.link is None:
            return 0.0
        transistors_mm2 = self._by_node("logic.mm2_per_million_transistors", "logic.nm")
        controller = self.costs["link.controller_million_transistors_per_byte_per_s"] * transistors_mm2
        each = self.costs["link.phy_mm2_per_byte_per_s"] + controller
        return self.accelerator.link.bandwidth_bytes_per_s * each

    @cached_property
    def area_mm2(self):
        """Area of all dies together: the sum of its parts. [mm2]"""
        return sum(self.area_by_part_mm2.values())

    @cached_property
    def _dies(self):
        return energy.dies(self.area_mm2, self.costs["price.reticle_mm2"])

    @cached_property
    def shoreline_mm(self):
        """Edge of the die that memory interfaces and links take. [mm]"""
        link = self.accelerator.link
        used = 0.0 if link is None else link.bandwidth_bytes_per_s * self.costs["link.edge_mm_per_byte_per_s"]
        for name, number in self.interfaces.items():
            used = used + number * self._of_technology("edge_mm", name)
        return used

    @cached_property
    def shoreline_available_mm(self):
        """Edge of the dies that interfaces can use: a share of the perimeter. [mm]"""
        return self.costs["price.usable_edge"] * energy.perimeter_mm(self.area_mm2, self._dies)

    # -- power -------------------------------------------------------------------------------------

    @cached_property
    def static_power_w(self):
        """Power drawn with nothing to do: leakage, clocks, memory standby. [W]"""
        return self._by_node("static.w_per_mm2", "static.nm") * self.area_mm2

    @cached_property
    def peak_power_by_part_w(self) -> dict[str, object]:
        """Power the package is designed for: the dearest arithmetic and every memory level and link at full rate,
        times the share of that which parts of the family are designed for, and static power."""
        chip, designed = self.accelerator, self._of_family("control.design_power")
        arithmetic = chip.vector_flops_per_s * self.vector_flop_j
        for dtype in chip.dtypes:
            arithmetic = np.maximum(arithmetic, chip.peak_flops_per_s(dtype) / 2.0 * self.mac_j(dtype))
        parts = {"arithmetic": arithmetic}
        for name, level in chip.memory.items():
            parts[name] = level.bandwidth_bytes_per_s * self.level_j_per_byte[name]
        if chip.in_memory is not None:  # its banks, or its interface
            inside = chip.in_memory.bandwidth_bytes_per_s * self.in_memory_j_per_byte
            parts["in_memory"] = np.maximum(0.0, inside - parts[chip.in_memory_level])
        if chip.link is not None:
            parts["link"] = chip.link.bandwidth_bytes_per_s * self.link_j_per_byte
        return {name: designed * power_w for name, power_w in parts.items()} | {"static": self.static_power_w}

    @cached_property
    def peak_power_w(self):
        """Sum of `peak_power_by_part_w`: what cooling must carry. [W]"""
        return sum(self.peak_power_by_part_w.values())

    # -- price -------------------------------------------------------------------------------------

    @cached_property
    def die_price_usd(self):
        """Good dies, from the price of a wafer and the yield. [USD]"""
        return energy.die_usd(
            self.area_mm2,
            self.costs["price.reticle_mm2"],
            self._by_node("price.wafer_usd", "price.nm"),
            self.costs["price.wafer_mm"],
            self._by_node("price.defects_per_mm2", "price.defect_nm"),
            self.costs["price.clustering"],
        )

    @cached_property
    def memory_price_usd(self):
        """Memory outside the die, by capacity. [USD]"""
        total = 0.0
        for name in self.interfaces:
            gigabytes = self.accelerator.memory[name].capacity_bytes / 1e9
            total = total + gigabytes * self._of_technology("price_usd_per_gb", name)
        return total

    @cached_property
    def package_price_usd(self):
        """Package and assembly; where memory is stacked, also the interposer that carries it and the dies. [USD]"""
        stacks = sum(number * self._of_technology("stack_mm2", name) for name, number in self.interfaces.items())
        carried = np.where(np.greater(stacks, 0), self.area_mm2 + stacks, 1.0)
        wafer = energy.interpolated(
            self.costs["price.interposer_nm"], self.costs["price.nm"], self.costs["price.wafer_usd"]
        )
        # an interposer is larger than a reticle and stitched: cut at the largest square that packs a wafer well
        interposer = energy.die_usd(carried, 2500.0, wafer, self.costs["price.wafer_mm"], 0.0, 1.0)
        return self.costs["price.package_usd"] + np.where(np.greater(stacks, 0), interposer, 0.0)

    @cached_property
    def price_usd(self):
        """Parts of one device: dies, memory, package. Not a list price: development and margin come on top. [USD]"""
        return self.die_price_usd + self.memory_price_usd + self.package_price_usd


@functools.lru_cache
def _at_node(node_nm: float, path: str, nodes: str, bound: str) -> float:
    """A unit cost listed over nodes at one node: the same for every chunk of a sweep."""
    return energy.interpolated(node_nm, costs(bound)[nodes], costs(bound)[path])


@functools.lru_cache
def _between_nodes(node_nm: float, both: tuple[float, float]) -> float:
    """A unit cost known at 45 and 7 nm, at one node."""
    return energy.interpolated(node_nm, (45.0, 7.0), both)


def marginal_cost(accelerator, dtype: str) -> dict[str, dict[str, object]]:
    """What one more TFLOP/s and one more TB/s of the farthest memory cost in area and in edge of the die.

    {"per_tflops": {"mm2", "shoreline_mm"}, "per_tb_per_s": {"mm2", "shoreline_mm"}}; each of `accelerator.shape`.
    Compute is a matrix unit with everything that comes with it: arithmetic, control, private memory, a share of the
    rest of the die; it takes no edge, so only area limits it. Bandwidth takes its interfaces' area and edge; the edge
    grows with the square root of the area only. Zero edge where the farthest memory is on the die.
    """
    silicon = accelerator.silicon
    parts = silicon.area_by_part_mm2
    private = sum(parts[name] for name, level in accelerator.memory.items() if level.scope == "unit")
    units = parts["matrix"] + parts["vector"] + parts["control"] + private
    compute_mm2 = units * (1.0 + silicon._of_family("control.other_share"))
    tflops = accelerator.peak_flops_per_s(dtype) / 1e12
    far = list(accelerator.memory)[-1]
    number = silicon.interfaces.get(far, 0.0)
    tb_per_s = accelerator.outer.bandwidth_bytes_per_s / 1e12
    edge = number * silicon._of_technology("edge_mm", far) if far in silicon.interfaces else 0.0
    bandwidth_mm2 = parts[far] if far in parts else parts["memory interfaces"]

    def shaped(value):
        return of_shape(value, accelerator.shape)

    return {
        "per_tflops": {"mm2": shaped(compute_mm2 / tflops), "shoreline_mm": shaped(0.0)},
        "per_tb_per_s": {"mm2": shaped(bandwidth_mm2 / tb_per_s), "shoreline_mm": shaped(edge / tb_per_s)},
    }


def of_shape(value, shape: tuple[int, ...]):
    """`value` broadcast to `shape`, a plain float for one design."""
    return np.broadcast_to(np.asarray(value, float), shape) if shape else float(value)


def _or(value, otherwise):
    return otherwise if value is None else value


def _packed(dtype: str) -> float:
    """Elements of a type that share one lane of 32 bits."""
    return max(1.0, 4.0 / ELEMENT_BYTES[dtype])


def _accumulator(dtype: str) -> str:
    if dtype == "fp64":
        return "fp64"
    return "int32" if dtype.startswith("int") else "fp32"
