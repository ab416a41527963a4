"""Published machines that keep the weights of a recurrence on chip, beside what the model says of them."""

from __future__ import annotations

import numpy as np

from reports.studies.study import Outside
from simulator import Accelerator, preset, simulate
from simulator.sensitivity import free_resources
from workloads import Trace, gru, rnn

#: Register file of a Maxwell multiprocessor: 65,536 registers of 32 bits. NVIDIA Maxwell Tuning Guide, "Occupancy".
REGISTERS_BYTES = 65_536 * 4
#: The largest multiple of 128 whose square of fp32 weights fits the registers of 24 multiprocessors.
PERSISTENT_HIDDEN, PERSISTENT_BATCH, PERSISTENT_STEPS = 1152, 4, 256
DIAMOS = (
    "Diamos et al.: Persistent RNNs: stashing weights on chip, ICLR 2016 workshop submission, abstract (openreview.net)"
)
FOWERS = (
    "Fowers et al.: A configurable cloud-scale DNN processor for real-time AI, ISCA 2018, table of DeepBench results"
)


def persistent(chip: Accelerator) -> Accelerator:
    """A GPU whose kernel keeps the weights in registers over all steps: they cross no memory and feed no more, rows are
    not padded, and a step is started by what a dependent step costs alone."""
    units = chip.fields["matrix.count"]
    changed = {
        "memory.l2.capacity": units * REGISTERS_BYTES,
        "memory.l2.bandwidth": units * chip.fields["matrix.macs_per_cycle.fp32"] * 4 * chip.fields["matrix.clock_hz"],
        "abilities.persistent_recurrence": True,
        "latency.first_steps": 0,
        "matrix.thin_tile": PERSISTENT_BATCH,
        "matrix.operand_macs": 0,
        "matrix.split_cycles": 0,
    }
    return chip.replace(changed | free_resources(chip)["operand feed"])


def steps_utilisation(trace: Trace, chip: Accelerator) -> float:
    """Share of the matrix peak in the steps of a recurrence, its input product left out. (0..1)"""
    result = simulate(trace, chip)
    rows = np.flatnonzero(result.trace.serial_steps > 1)
    flops = float((result.trace.matrix_flops * result.trace.repeats)[rows].sum())
    return flops / float(result.total_s[rows].sum()) / float(chip.peak_flops_per_s("fp32"))


def outside() -> list[Outside]:
    """Persistent kernels on a GPU, and an FPGA with pinned weights."""
    chip = preset("m40")  # the die of the Titan X of that paper, at another clock: shares of the peak are compared
    trace = rnn(1, PERSISTENT_HIDDEN, sequence_length=PERSISTENT_STEPS, batch=PERSISTENT_BATCH, dtype="fp32")
    kept, read = steps_utilisation(trace, persistent(chip)), steps_utilisation(trace, chip)
    pinned = simulate(gru(1, 2816, sequence_length=750, dtype="fp8", hoist_input=False), preset("brainwave-stratix-10"))
    why = "A limit of the model, not a preset: weights in registers, rows unpadded, no wait for operands. "
    return [
        Outside(what="persistent RNN at batch 4 on the GM200 die, share of the fp32 peak", published=45.0,
                computed=100 * kept, unit="% of peak", source=DIAMOS, note=f"{why}Computed for the M40."),
        Outside(what="the same by matrix products, weights read anew", published=45.0 / 30.0, computed=100 * read,
                unit="% of peak", source=DIAMOS, note="Published: 45 % over the speed-up of 30. Computed: the M40."),
        Outside(what="speed-up of the persistent RNN", published=30.0, computed=kept / read, unit="times as fast",
                source=DIAMOS, note="Follows from the two rows above."),
        Outside(what="GRU of 2816 units over 750 steps with pinned weights, batch 1", published=1.987,
                computed=1e3 * float(pinned.latency_s), unit="ms", source=FOWERS,
                note="35.9 TFLOP/s; their abstract says over 35. The preset's time of a dependent step was read off "
                "the smaller GRUs of that table."),
    ]  # fmt: skip
