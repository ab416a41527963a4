"""The neural Turing machine: counts by hand, against a machine run number by number, laws, training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import preset, simulate
from workloads import TraceError, neural_turing_machine, training
from workloads.turing_machine import CONTROLLERS

SMALL = {"hidden": 5, "sequence_length": 4, "locations": 6, "width": 3, "inputs": 2, "outputs": 2, "batch": 2}


def machine(**changes):
    return neural_turing_machine(**{**SMALL, **changes})


def only(trace, op):
    (row,) = [row for row in trace.rows() if row["op"] == op]
    return row


# -- by hand -----------------------------------------------------------------------------------------


def test_one_read_and_one_write_head_by_hand():
    # N = 6 locations of M = 3, H = 5, two inputs and 3 values read; three shifts; 4 steps of 2 sequences
    trace = machine()
    controller = 4 * 5 * (2 + 3 + 5)
    head_values = 2 * (3 + 1 + 1 + 3 + 1) + 2 * 3  # key, strength, gate, shifts, sharpness; erase and add
    heads, addressed, read, output = 5 * head_values, 2 * 6 * 3, 1 * 6 * 3, (5 + 3) * 2
    assert trace.total_matrix_flops == 2 * 4 * 2 * (controller + heads + addressed + read + output)
    assert trace.total_parameters == controller + 2 * 20 + heads + head_values + output + 2

    keys = only(trace, "keys times memory")
    assert [keys[c] for c in ("batch", "m", "n", "k")] == [2, 2, 6, 3]
    assert (keys["state_bytes"], keys["input_bytes"], keys["output_bytes"]) == (4 * 36, 4 * 2 * 6, 4 * 2 * 12)
    found = only(trace, "read")
    assert [found[c] for c in ("batch", "m", "n", "k", "state_bytes")] == [2, 1, 3, 6, 4 * 36]
    write = only(trace, "write")
    assert (write["vector_flops"], write["special_ops"]) == ((5 + 2) * 36, 2 * 12)
    assert write["state_bytes"] == 2 * 4 * 36  # the memory read and written
    weights = only(trace, "location weights")
    assert weights["state_bytes"] == 2 * 4 * 2 * 12
    for row in trace.rows():
        if row["layer"] == "machine" and row["op"] != "initialise memory":
            assert row["serial_steps"] == row["repeats"] == row["path_runs"] == 4
    assert trace.footprint()["cache"] == 4 * 36


class Tally:
    """A head's addressing, reading and writing on plain numbers, counting vector and special operations."""

    def __init__(self):
        self.vector = self.special = 0

    def v(self, value, count=1):
        self.vector += count
        return value

    def s(self, value, count=1):
        self.special += count
        return value

    def softmax(self, values):
        """Largest, subtract, exp, sum, scale: four operations and an exp a value."""
        exps = [self.s(math.exp(x - max(values))) for x in values]
        return [self.v(e / sum(exps), 4) for e in exps]

    def inverse_norm(self, vector):
        return self.s(1 / math.sqrt(sum(self.v(x * x, 2) for x in vector)), 2)

    def softplus(self, x):
        return self.s(math.log(self.v(1 + math.exp(x))), 2)

    def address(self, head, scores, inverse, old, width, shifts):
        """Equations 5 to 9 from a head's raw values; the products of key and locations are given."""
        key = [self.s(math.tanh(x)) for x in head[:width]]
        strength, gate = self.softplus(head[width]), self.s(1 / (1 + math.exp(-head[width + 1])))
        moves = self.softmax(head[width + 2 : width + 2 + shifts])
        sharpness = self.v(1 + self.softplus(head[width + 2 + shifts]))
        of_key = self.inverse_norm(key)
        content = self.softmax([self.v(s * n * of_key * strength, 3) for s, n in zip(scores, inverse, strict=True)])
        mixed = [self.v(w + gate * (c - w), 3) for c, w in zip(content, old, strict=True)]
        n = len(mixed)
        moved = [sum(self.v(mixed[(i - j) % n] * moves[j], 2) for j in range(shifts)) for i in range(n)]
        sharp = [self.s(self.v(math.exp(sharpness * math.log(w))), 2) for w in moved]
        inverse_sum = self.s(1 / sum(self.v(w) for w in sharp))
        return [self.v(w * inverse_sum) for w in sharp]


@pytest.mark.parametrize(("reads", "writes", "shift"), [(1, 1, 1), (3, 2, 2), (2, 1, 0)])
def test_operations_equal_a_machine_run_number_by_number(reads, writes, shift):
    n, m, shifts, random, tally = 6, 3, 2 * shift + 1, np.random.default_rng(0), Tally()
    heads = reads + writes
    for _ in range(2):
        memory, old = random.normal(size=(n, m)), [[1 / n] * n] * heads
        for _ in range(4):
            raw, scores = random.normal(size=(heads, m + 3 + shifts)), random.normal(size=(heads, n))
            inverse = [tally.inverse_norm(row) for row in memory]
            old = [tally.address(raw[h], scores[h], inverse, old[h], m, shifts) for h in range(heads)]
            for w in old[reads:]:
                erase = [tally.s(1 / (1 + math.exp(-x))) for x in random.normal(size=m)]
                added = random.normal(size=m)
                memory = np.array(
                    [
                        [tally.v(memory[i, j] * (1 - w[i] * erase[j]) + w[i] * added[j], 5) for j in range(m)]
                        for i in range(n)
                    ]
                )
    trace = machine(read_heads=reads, write_heads=writes, shift=shift)
    ops = ("head functions", "cosine similarity", "content weights", "location weights", "write")
    rows = [only(trace, op) for op in ops]
    assert sum(row["repeats"] * row["vector_flops"] for row in rows) == tally.vector
    # the numbers above take the sum of shift weights' exp in `softmax`; nothing else is special
    assert sum(row["repeats"] * row["special_ops"] for row in rows) == tally.special


# -- laws --------------------------------------------------------------------------------------------


@given(
    locations=st.integers(3, 200),
    width=st.integers(1, 40),
    reads=st.integers(1, 4),
    writes=st.integers(1, 3),
    batch=st.integers(1, 8),
)
def test_memory_traffic_grows_with_the_memory_and_not_with_weights(locations, width, reads, writes, batch):
    trace = machine(locations=locations, width=width, read_heads=reads, write_heads=writes, batch=batch)
    memory = 4 * batch * locations * width
    weights = 4 * batch * (reads + writes) * locations
    found = 4 * batch * reads * width
    held = sum(row["state_bytes"] for row in trace.rows() if row["op"] not in ("step product", "gates"))
    assert held == memory * (2 + 2 * writes) + 2 * weights
    step = only(trace, "step product")
    assert step["state_bytes"] == found + 4 * batch * (5 + 20)  # read, h and the gates' sums
    assert trace.footprint()["cache"] == memory


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_path_is_the_distance_and_rows_do_not_grow(controller):
    trace = machine(controller=controller, sequence_length=50)
    assert trace.path_length(0, 49) == 49
    assert trace.path_length(49, 0) == math.inf
    assert len(machine(controller=controller, sequence_length=10**6)) == len(trace)


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_training_is_three_times_the_forward_products(controller, layers):
    forward = machine(controller=controller, layers=layers)
    trace = training(forward)
    assert trace.total_matrix_flops == 3 * forward.total_matrix_flops
    # every step's memory is kept, as read and as written
    (kept,) = [row["saved_bytes"] for row in trace.rows() if row["op"] == "write"]
    assert kept == 2 * 4 * 36


def test_layers_of_the_controller_alternate_with_the_memory():
    trace = machine(layers=3)
    products = [row for row in trace.rows() if row["op"].startswith("step product")]
    assert [row["k"] for row in products] == [2 + 3 + 5, 10, 10]
    assert {row["layer"] for row in products} == {"machine"}


def test_a_large_memory_binds_the_step():
    chip = preset("v100-sxm")
    small, large = (
        simulate(neural_turing_machine(100, sequence_length=20, locations=n, width=20, batch=8), chip)
        for n in (128, 2**20)
    )
    rows = large.trace.op == "write"
    assert large.bound[rows][0] == "dram"
    assert large.latency_s > 20 * small.latency_s


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controller": "lsmt"}, "controller: unknown 'lsmt'.*'lstm'"),
        ({"locations": 0}, "locations must be a whole number of 1 or more, got 0"),
        ({"width": 2.5}, "width must be a whole number of 1 or more, got 2.5"),
        ({"read_heads": 0}, "read_heads must be a whole number of 1 or more, got 0"),
        ({"shift": 3}, "shift must reach no more than the 6 locations, got 3"),
        ({"shift": -1}, "shift must be a whole number of 0 or more, got -1"),
        ({"bias": 1}, "bias must be True or False, got 1"),
    ],
)
def test_bad_request_is_one_clear_error(changes, message):
    with pytest.raises(TraceError, match=f"neural turing machine: {message}"):
        machine(**changes)
