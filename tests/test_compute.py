"""Compute units: published cases, limits that follow from the definition, arrays against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import CLOSED_FORM

from simulator import compute

_VAST = 1e30  # a rate that never binds


def near(expected):
    return pytest.approx(expected, rel=CLOSED_FORM, abs=0)


def column(value):
    """An op quantity: shape (ops, 1)."""
    return np.atleast_1d(np.asarray(value, float))[:, None]


def blocks(m, n, k, *, batch=1, useful=1.0, size=1.0, other=0.0, attention=False, **machine):
    """`output_stationary` for products of `size`-byte elements; by default nothing but the MACs binds."""
    m, n, k, batch = (column(x) for x in (m, n, k, batch))
    settings = {
        "count": 1.0,
        "clock_hz": 1.0,
        "macs_per_cycle": 1.0,
        "sustained": 1.0,
        "tile_m": 1.0,
        "tile_n": 1.0,
        "tile_k": 1.0,
        "operand_macs": 0.0,
        "feed_bytes_per_cycle": _VAST,
        "loop_cycles_per_byte": 0.0,
        "prologue_cycles": 0.0,
        "resident_results": 0.0,
        "batched_tile": 1.0,
        "reach_bytes": None,
        "reach_cost": 0.0,
        "split_cycles": 0.0,
        "max_split": 1.0,
        "shared_bytes_per_s": _VAST,
    }
    settings |= {"thin_tile": machine.get("tile_m", 1.0)} | machine
    return compute.output_stationary(
        batch=batch,
        m=m,
        n=n,
        k=k,
        useful=column(useful),
        is_attention=column(attention) > 0,
        a_bytes=batch * m * k * size,
        b_bytes=batch * k * n * size,
        other_bytes=column(other),
        a_element_bytes=column(size),
        b_element_bytes=column(size),
        **settings,
    )


def array(m, n, k, *, batch=1, useful=1.0, size=1.0, other=0.0, **machine):
    """`weight_stationary` likewise: one tile a cycle wide, no load."""
    m, n, k, batch = (column(x) for x in (m, n, k, batch))
    settings = {
        "count": 1.0,
        "clock_hz": 1.0,
        "macs_per_cycle": 1.0,
        "sustained": 1.0,
        "tile_m": 1.0,
        "tile_n": 1.0,
        "tile_k": 1.0,
        "feed_bytes_per_cycle": _VAST,
        "load_cycles": 0.0,
        "prologue_cycles": 0.0,
        "shared_bytes_per_s": _VAST,
    }
    return compute.weight_stationary(
        batch=batch,
        m=m,
        n=n,
        k=k,
        useful=column(useful),
        a_bytes=batch * m * k * size,
        b_bytes=batch * k * n * size,
        other_bytes=column(other),
        a_element_bytes=column(size),
        **(settings | machine),
    )


def time_s(product) -> float:
    return max(product.matrix_s.item(), product.feed_s.item())


# -- output-stationary -----------------------------------------------------------------------------


def test_tile_quantisation_as_nvidia_shows_it():
    """256 x 256 is four tiles of 128 x 128; one more column needs two more tiles, half as much work again.

    NVIDIA, Matrix Multiplication Background User's Guide, DU-09799-001, 2023, section 3.1.
    """
    whole = blocks(256, 256, 64, tile_m=128.0, tile_n=128.0)
    edge = blocks(256, 257, 64, tile_m=128.0, tile_n=128.0)
    assert whole.matrix_s.item() == near(4 * 128 * 128 * 64)
    assert edge.matrix_s.item() == near(1.5 * whole.matrix_s.item())


def test_wave_quantisation_as_nvidia_shows_it():
    """An A100 has 108 multiprocessors: 108 tiles of 256 x 128 are one wave, a single tile more takes a second wave.

    NVIDIA, Matrix Multiplication Background User's Guide, DU-09799-001, 2023, section 3.2.
    """
    gpu = {"count": 108.0, "tile_m": 256.0, "tile_n": 128.0}
    wave = blocks(9 * 256, 12 * 128, 64, **gpu)
    more = blocks(9 * 256, 12 * 128 + 1, 64, **gpu)
    assert wave.matrix_s.item() == near(256 * 128 * 64)
    assert more.matrix_s.item() == near(2 * 256 * 128 * 64)


def test_a_product_of_whole_waves_takes_its_macs_over_the_peak():
    """The limit without waste: m n k / (units x MAC per cycle x clock x sustained)."""
    product = blocks(4096, 4096, 4096, count=16.0, clock_hz=2e9, macs_per_cycle=512.0, sustained=0.5, tile_m=32.0,
                     tile_n=32.0, tile_k=32.0)  # fmt: skip
    assert product.matrix_s.item() == near(4096**3 / (16 * 512 * 2e9 * 0.5))
    assert product.busy_s.item() == near(product.matrix_s.item())


def test_the_smallest_product_costs_one_tile_or_the_prologue():
    """1 x 1 x 1 on 8 x 16 x 4 tiles of 2 MAC/cycle, 300 cycles of prologue meanwhile; thin blocks are no smaller."""
    product = blocks(1, 1, 1, tile_m=8.0, tile_n=16.0, tile_k=4.0, macs_per_cycle=2.0, prologue_cycles=300.0)
    assert product.matrix_s.item() == near(8 * 16 * 4 / 2)
    assert product.feed_s.item() == near(300)


def test_thin_blocks_waste_less_on_thin_products():
    """One row of 512 columns with 64 x 64 tiles: 8 tiles of 64 rows cost 8 x 64 x 64 k; `thin_tile` 2: 2 x 512 k."""
    plain = blocks(1, 512, 10, tile_m=64.0, tile_n=64.0, thin_tile=64.0)
    thin = blocks(1, 512, 10, tile_m=64.0, tile_n=64.0, thin_tile=2.0)
    assert plain.matrix_s.item() == near(64 * 512 * 10)
    assert thin.matrix_s.item() == near(2 * 512 * 10)
    standing = blocks(512, 1, 10, tile_m=64.0, tile_n=64.0, thin_tile=2.0)
    assert standing.matrix_s.item() == near(2 * 512 * 10)


def test_idle_units_of_the_last_wave_are_not_busy():
    """Six tiles on four units: two waves, one and a half of them used."""
    product = blocks(2, 3, 10, count=4.0)
    assert product.matrix_s.item() == near(2 * 10)
    assert product.busy_s.item() == near(1.5 * 10)


def test_operands_are_fed_at_their_own_rate():
    """One 8 x 8 block over k 5 feeds best: (8 + 8) x 2 bytes x 5 at 4 bytes a cycle; its 320 MAC take less."""
    product = blocks(8, 8, 5, size=2.0, tile_m=2.0, tile_n=2.0, macs_per_cycle=100.0, feed_bytes_per_cycle=4.0)
    assert product.feed_s.item() == near((8 + 8) * 2 * 5 / 4)
    assert product.matrix_s.item() == near(64 * 5 / 100)
    assert product.busy_s.item() == near(product.matrix_s.item())


def test_blocks_reread_their_operands_from_the_shared_memory():
    """64 x 64 in blocks of 16 x 16: A is read for each column of blocks, B for each row. Memory decides."""
    product = blocks(64, 64, 10, tile_m=4.0, tile_n=4.0, shared_bytes_per_s=1e-3, other=100.0)
    assert product.shared_bytes.item() == 640 * 4 + 640 * 4 + 100


def test_partial_sums_of_a_split_are_exchanged():
    """One 4 x 4 tile, k 64, shared by 16 units: 16 fp32 partial sums of 16 results, written and read."""
    product = blocks(4, 4, 64, count=16.0, tile_m=4.0, tile_n=4.0, tile_k=4.0, max_split=16.0)
    assert product.matrix_s.item() == near(4 * 4 * 4)
    assert product.shared_bytes.item() == 256 + 256 + 2 * 4 * 16 * 16


def test_what_a_product_keeps_from_others_is_that_of_its_most_frugal_tiling():
    """Alone it takes 64 + 10 cycles of all 16 units, split; beside others one unit could do it in 1024, and
    without partial sums only the operands cross the shared memory."""
    machine = {"count": 16.0, "tile_m": 4.0, "tile_n": 4.0, "tile_k": 4.0, "max_split": 16.0, "split_cycles": 10.0}
    product = blocks(4, 4, 64, **machine)
    assert product.matrix_s.item() == near(74)
    assert product.busy_s.item() == near(1024 / 16)
    assert product.least_shared_bytes.item() == 256 + 256


@pytest.mark.parametrize(("limit", "expected"), [(1, 64), (2, 32), (3, 32), (8, 8), (15, 8), (16, 4), (64, 4)])
def test_no_block_is_split_further_than_the_machine_allows(limit, expected):
    product = blocks(4, 4, 64, count=16.0, tile_m=4.0, tile_n=4.0, tile_k=4.0, max_split=float(limit))
    assert product.matrix_s.item() == near(16 * expected)


def test_a_product_is_split_to_fill_the_units_and_no_further():
    """Four tiles on 16 units: shared by 8 each there are two blocks a unit; a split by 16 is not open."""
    machine = {"tile_m": 4.0, "tile_n": 4.0, "thin_tile": 4.0, "tile_k": 4.0, "max_split": 64.0}
    product = blocks(8, 8, 1024, count=16.0, **machine)
    assert product.shared_bytes.item() == 8192 * 2 + 8192 * 2 + 2 * 4 * 4 * 64  # by 4: one wave already
    assert product.matrix_s.item() == near(16 * 256)
    alone = blocks(8, 8, 1024, count=2.0, **machine)  # four tiles are two waves of two units
    assert alone.matrix_s.item() == near(2 * 16 * 1024)
    assert alone.shared_bytes.item() == 8192 * 2 + 8192 * 2


def test_loading_operands_takes_issue_slots():
    """A 4 x 4 block over k 10: 16 MAC and 8 operand elements at the price of 3 MAC each, for each of the terms."""
    product = blocks(4, 4, 10, tile_m=4.0, tile_n=4.0, thin_tile=4.0, macs_per_cycle=2.0, operand_macs=3.0)
    assert product.matrix_s.item() == near((16 + 8 * 3) * 10 / 2)
    large = blocks(1024, 1024, 10, tile_m=256.0, tile_n=256.0, operand_macs=3.0)
    assert large.matrix_s.item() / 1024**2 / 10 == near(1 + 3 * 2 * 1024 / 1024**2)


def test_a_block_that_runs_alone_waits_for_its_terms():
    """k 10 of 4-byte elements at 6 cycles a byte and 5 to start: 245 cycles, although 16 MAC a term take 160."""
    machine = {"tile_m": 4.0, "tile_n": 4.0, "thin_tile": 4.0, "size": 4.0, "max_split": 1.0}
    machine |= {"loop_cycles_per_byte": 6.0, "prologue_cycles": 5.0}
    alone = blocks(4, 4, 10, **machine)
    assert (alone.matrix_s.item(), alone.feed_s.item()) == (near(160), near(245))
    # two such blocks on one unit wait for each other, unless both fit it
    apart = blocks(4, 4, 10, batch=2, **machine)
    assert apart.feed_s.item() == near(2 * 245)
    together = blocks(4, 4, 10, batch=2, **machine, resident_results=32.0)
    assert (together.matrix_s.item(), together.feed_s.item()) == (near(320), near(245))
    crowd = blocks(4, 4, 10, batch=100, **machine, resident_results=1e9)
    assert crowd.feed_s.item() == near(np.ceil(100 / compute.RESIDENT_BLOCKS) * 245)


def test_products_of_a_batch_are_not_split_and_take_large_blocks():
    machine = {"count": 16.0, "tile_m": 4.0, "tile_n": 4.0, "thin_tile": 4.0, "tile_k": 4.0, "max_split": 16.0}
    single, batch = blocks(4, 4, 64, **machine), blocks(4, 4, 64, batch=2, **machine)
    assert (single.matrix_s.item(), batch.matrix_s.item()) == (near(16 * 4), near(16 * 64))
    coarse = blocks(4, 4, 64, batch=2, **machine, batched_tile=8.0)
    assert coarse.matrix_s.item() == near(64 * 64)  # 8 x 8 for 4 x 4
    assert blocks(4, 4, 64, **machine, batched_tile=8.0).matrix_s.item() == near(16 * 4)
    fused = blocks(4, 4, 64, batch=2, attention=True, **machine, batched_tile=8.0)
    assert fused.matrix_s.item() == near(2 * 16 / 16 * 64)  # split as it likes


def test_the_last_wave_of_fused_attention_is_even():
    """Five blocks on four units: two waves of a product, five quarters of one of attention."""
    machine = {"count": 4.0, "tile_m": 4.0, "tile_n": 4.0, "thin_tile": 4.0}
    assert blocks(4, 4, 10, batch=5, **machine).matrix_s.item() == near(2 * 160)
    assert blocks(4, 4, 10, batch=5, attention=True, **machine).matrix_s.item() == near(1.25 * 160)
    assert blocks(4, 4, 10, batch=3, attention=True, **machine).matrix_s.item() == near(160)


def test_rows_far_apart_leave_the_reach_of_the_page_table():
    """8 rows of 100 bytes: nothing where a unit reaches 800, half of the cost where it reaches 400."""
    machine = {"tile_m": 4.0, "tile_n": 4.0, "thin_tile": 4.0, "reach_cost": 3.0}
    assert blocks(4, 4, 100, **machine, reach_bytes=800.0).matrix_s.item() == near(1600)
    assert blocks(4, 4, 100, **machine, reach_bytes=400.0).matrix_s.item() == near(1600 * (1 + 3 * 0.5))


def test_a_mask_saves_its_share():
    assert blocks(8, 8, 10, useful=0.5).matrix_s.item() == near(320)
    assert array(8, 8, 10, useful=0.5).matrix_s.item() == near(80 * 4 + 2)


# -- weight-stationary -----------------------------------------------------------------------------


def test_600_by_600_takes_nine_steps_on_256_and_four_on_512_wide_arrays():
    """Jouppi et al., ISCA 2017, section 7: nine steps of a 256 x 256 array against four of a 512 x 512 one."""
    narrow = array(1000, 600, 600, tile_n=256.0, tile_k=256.0, macs_per_cycle=256.0**2)
    wide = array(1000, 600, 600, tile_n=512.0, tile_k=512.0, macs_per_cycle=512.0**2)
    assert narrow.matrix_s.item() == near(9 * 1000 + 512)
    assert wide.matrix_s.item() == near(4 * 1000 + 1024)


def test_a_weight_tile_takes_about_2_us_from_the_memory_of_the_first_tpu():
    """The same section: 18 us for the nine 64 KiB tiles of 600 x 600, 32 us for four 256 KiB tiles, at 34 GB/s."""
    for side, published_us in ((256, 18), (512, 32)):
        stored = 600 * 600 * compute.padded_share(600.0, 600.0, float(side), float(side))
        assert published_us * 0.95 <= stored / 34e9 * 1e6 <= published_us


def test_a_pass_is_no_shorter_than_the_load_of_the_next_tile():
    """5 rows a pass, 4 passes, 9 cycles to load; fill 2 + 2 + 3."""
    product = array(5, 4, 4, tile_n=2.0, tile_k=2.0, macs_per_cycle=4.0, load_cycles=9.0, prologue_cycles=3.0)
    assert product.matrix_s.item() == near(4 * 5 + 7)
    assert product.feed_s.item() == near(4 * 9 + 7)
    assert product.busy_s.item() == near(4 * 9 + 7)


def test_rows_are_fed_at_their_own_rate():
    """2-byte elements, 4 terms a row: 8 bytes at 2 a cycle, 4 cycles for each of 10 rows."""
    product = array(10, 4, 4, size=2.0, tile_n=4.0, tile_k=4.0, macs_per_cycle=16.0, feed_bytes_per_cycle=2.0)
    assert product.matrix_s.item() == near(10 + 8)
    assert product.feed_s.item() == near(40 + 8)


def test_idle_arrays_share_the_rows():
    """One pass of 64 rows on 4 arrays: 16 rows each; three more copies of the 16 weights are read."""
    product = array(64, 4, 4, count=4.0, tile_n=4.0, tile_k=4.0, macs_per_cycle=16.0)
    assert product.matrix_s.item() == near(16 + 8)
    assert product.shared_bytes.item() == 64 * 4 + 4 * 16


def test_rows_come_in_whole_tiles():
    """33 rows in tiles of 16 are 48."""
    product = array(33, 4, 4, tile_m=16.0, tile_n=4.0, tile_k=4.0, macs_per_cycle=16.0)
    assert product.matrix_s.item() == near(48 + 8)


def test_inputs_pass_every_column_of_tiles():
    product = array(10, 12, 4, tile_n=4.0, tile_k=4.0, macs_per_cycle=16.0, other=5.0)
    assert product.shared_bytes.item() == 3 * 40 + 48 + 5


@pytest.mark.parametrize("split_rows", [1, 7, 64, 1000])
def test_many_rows_reach_the_peak(split_rows):
    """The limit without waste: fill and drain vanish beside the rows."""
    product = array(split_rows * 1e6, 256, 256, tile_n=256.0, tile_k=256.0, macs_per_cycle=65536.0)
    assert product.matrix_s.item() == pytest.approx(split_rows * 1e6, rel=1e-3)
    assert product.matrix_s.item() > split_rows * 1e6


# -- both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataflow", [blocks, array])
@pytest.mark.parametrize("size", ["m", "n", "k", "batch"])
def test_no_product_gets_faster_when_a_size_grows(dataflow, size):
    """The promise of `output_stationary`, judged as it judges: the units and the shared memory together."""
    machine = {"count": 6.0, "tile_m": 8.0, "tile_n": 16.0, "tile_k": 4.0, "macs_per_cycle": 32.0}
    machine |= {"feed_bytes_per_cycle": 24.0, "prologue_cycles": 11.0}
    if dataflow is blocks:
        machine |= {"operand_macs": 2.0, "loop_cycles_per_byte": 3.0, "resident_results": 300.0, "batched_tile": 16.0}
        machine |= {"split_cycles": 7.0, "max_split": 16.0, "reach_bytes": 500.0, "reach_cost": 1.0}
    shapes = {"m": 50, "n": 70, "k": 90, "batch": 3} | {size: np.arange(1, 400)}
    sizes = {name: np.broadcast_to(value, 399) for name, value in shapes.items()}
    for bandwidth in (1.0, 50.0, _VAST):
        found = dataflow(**sizes, **machine, shared_bytes_per_s=bandwidth)
        judged = np.maximum(np.maximum(found.matrix_s, found.feed_s), found.shared_bytes / bandwidth)[:, 0]
        assert (np.diff(judged) >= -1e-12 * judged[1:]).all()
        assert judged[-1] > judged[0]


@pytest.mark.parametrize("dataflow", [blocks, array])
def test_arrays_equal_a_loop(dataflow):
    """Ops down, designs across: every element is what a call with that op and that design alone gives."""
    sizes = [(1, 1, 1), (16, 4096, 1024), (33, 100, 7), (257, 65, 300)]
    designs = [(1.0, 8.0, 16.0, 1e3), (4.0, 32.0, 16.0, 1e6), (80.0, 100.0, 30.0, 1e9)]
    common = {"tile_k": 16.0, "macs_per_cycle": 8.0, "feed_bytes_per_cycle": 10.0, "prologue_cycles": 5.0}
    m, n, k = np.array(sizes).T
    count, tile_m, tile_n, bandwidth = np.array(designs).T
    fast = dataflow(m, n, k, count=count, tile_m=tile_m, tile_n=tile_n, shared_bytes_per_s=bandwidth, **common)
    for (row, (m, n, k)), (across, design) in itertools.product(enumerate(sizes), enumerate(designs)):
        count, tile_m, tile_n, bandwidth = design
        slow = dataflow(m, n, k, count=count, tile_m=tile_m, tile_n=tile_n, shared_bytes_per_s=bandwidth, **common)
        for name, values in fast._asdict().items():
            assert values[row, across] == getattr(slow, name).item(), name


@pytest.mark.parametrize("dataflow", [blocks, array])
def test_one_array_field_among_scalars(dataflow):
    """Whichever field is the only array, the other quantities spread over the designs."""
    common = {"count": 4.0, "clock_hz": 2.0, "macs_per_cycle": 8.0, "sustained": 0.5, "tile_m": 4.0, "tile_n": 8.0}
    common |= {"tile_k": 2.0, "feed_bytes_per_cycle": 10.0, "prologue_cycles": 5.0, "shared_bytes_per_s": 100.0}
    if dataflow is blocks:
        common |= {"max_split": 4.0, "thin_tile": 2.0, "batched_tile": 4.0, "operand_macs": 1.0, "split_cycles": 3.0}
        common |= {"loop_cycles_per_byte": 2.0, "resident_results": 40.0, "reach_bytes": 99.0, "reach_cost": 1.0}
    else:
        common |= {"load_cycles": 20.0}
    for name, value in common.items():
        other = value / 2 if name == "sustained" else value * 2
        both = dataflow([16, 5], [40, 9], [30, 8], **common | {name: np.array([value, other])})
        for across, single in enumerate((value, other)):
            alone = dataflow([16, 5], [40, 9], [30, 8], **common | {name: single})
            for quantity, values in both._asdict().items():
                values = np.broadcast_to(values, (2, 2))
                assert values[:, across].tolist() == getattr(alone, quantity)[:, 0].tolist(), (name, quantity)


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [(600.0, 600.0, 768**2 / 600**2), (256.0, 512.0, 1.0), (1.0, 1.0, 65536.0), (257.0, 256.0, 512 / 257)],
)
def test_padded_share(n, k, expected):
    assert compute.padded_share(n, k, 256.0, 256.0) == near(expected)


def test_padded_share_of_arrays_equals_a_loop():
    n, k = np.arange(1.0, 40.0)[:, None], np.arange(1.0, 40.0)[None]
    share = compute.padded_share(n, k, 8.0, 16.0)
    assert (share >= 1).all()
    slow = [[compute.padded_share(a, b, 8.0, 16.0) for b in range(1, 40)] for a in range(1, 40)]
    np.testing.assert_array_equal(share, slow)


def test_unit_time():
    """80 multiprocessors of 128 FLOP/cycle at 1.53 GHz (V100 whitepaper, table 1: 15.7 TFLOP/s in fp32)."""
    per_second = 80 * 128 * 1.53e9
    assert compute.unit_time_s(15.7e12, per_second, 1.0) == pytest.approx(1.0, rel=0.003)
    assert compute.unit_time_s(0.0, per_second, 0.5) == 0.0
    assert compute.unit_time_s(per_second, per_second, 0.5) == near(2.0)
    times = compute.unit_time_s(column([1.0, 2.0]), np.array([1.0, 4.0]), 0.5)
    assert times.tolist() == [[2.0, 0.5], [4.0, 1.0]]
