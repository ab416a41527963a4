"""What every study says must read well wherever it runs: on one odd chip, and at absurd bandwidths."""

import re

import pytest

from reports.studies import Bench, StudyError, study
from reports.studies.catalogue import NAMES
from reports.studies.usual import listed, on_chips, ranged, three_digits

SLOW, FAST = [("memory.dram.bandwidth", "1kB/s")], [("memory.dram.bandwidth", "1000000TB/s")]
BENCHES = {
    "raspberry-pi-4": Bench(on=["raspberry-pi-4"]),
    "groq-lpu": Bench(on=["groq-lpu"]),
    "upmem": Bench(on=["upmem"]),
    "slow": Bench(on=["h100-sxm"], changes=SLOW),
    "fast": Bench(on=["v100-sxm", "t4"], changes=FAST),
}
#: Where a study has nothing to judge, which it says in one clear error.
CANNOT = {
    "training-cost": ["groq-lpu"],
    "compute-in-memory": ["raspberry-pi-4", "groq-lpu", "slow", "fast"],
    "edge-and-cloud": ["fast"],
    "budget": ["groq-lpu", "fast"],
}
#: What no text should say: counts that disagree with their nouns, numbers that are none, tuples, Python's exponents.
WRONG = re.compile(
    r"\ball [12] (chips|pairs|cases)\b|\b[01] of (the )?1 |\b1 (edge )?chips\b|\bat never\b|\bof none\b|\bnan\b|\binf\b"
    r"|\(\d+, \d+|\de\+0\d|\bon 0 \(|\b0 FLOP/byte|: [A-Z]o batch|\(none\)|  | ,|\.\.| \.$"
)


@pytest.mark.slow
@pytest.mark.parametrize("where", BENCHES)
@pytest.mark.parametrize("name", NAMES)
def test_texts_read_well_anywhere(name, where):
    if where in CANNOT.get(name, ()):
        with pytest.raises(StudyError, match=f"^{name}: "):
            study(name).run(BENCHES[where])
        return
    finding = study(name).run(BENCHES[where])
    texts = [finding.verdict, finding.limits, *(chart.alt for chart in finding.charts)]
    for text in texts:
        assert not WRONG.search(text), f"{WRONG.search(text)}: {text}"
    for sentence in re.split(r"(?<=[.])\s+", finding.verdict):
        assert sentence[0].isupper() or sentence[0].isdigit()
    for low, high in re.findall(r"\b([\d,.]*\d(?:e-\d+)?) to ([\d,.]*\d(?:e-\d+)?)\b", finding.verdict):
        assert float(low.replace(",", "")) <= float(high.replace(",", "")), finding.verdict


def test_the_chart_of_few_chips_leaves_room_for_its_cells(recwarn):
    for chart in study("compute-or-bandwidth").run(Bench(on=["tpu-v1"])).charts:
        chart.draw().canvas.draw()
    assert not recwarn.list


def test_counts_of_chips_in_words():
    assert [on_chips(*c) for c in ((0, 1), (1, 1), (0, 3), (1, 2), (2, 2), (2, 3), (3, 3))] == [
        "no chip", "the one chip", "no chip", "1 of 2 chips", "both chips", "2 of 3 chips", "all 3 chips",
    ]  # fmt: skip
    assert on_chips(4, 4, "edge chip") == "all 4 edge chips"
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert [three_digits(v) for v in (0.01234, 1.5, 20240.0, 999.6)] == ["0.0123", "1.5", "20,200", "1,000"]
    assert ranged([20240.0, 43210.0]) == "20,200 to 43,200"


def test_two_chips_of_one_name_are_refused():
    with pytest.raises(StudyError, match="two of the chips are called t4"):
        study("memory-bound").run(Bench(on=["t4", "t4"]))
