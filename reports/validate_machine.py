"""`rooftrace validate --this-machine`: real PyTorch networks on this machine, measured and predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reports.arguments import ReportError
from reports.calibrate_machine import error_row, report, shown_calls
from reports.explain import percent
from reports.export import version
from reports.measure.networks import Judged, judged_networks
from reports.measure.session import NAME, Session, run, setting, software
from reports.measure.timing import Case
from reports.outcome import Outcome
from reports.tables import table
from reports.units import format_quantity
from reports.validation import Validation
from simulator import Accelerator, simulate
from workloads import Trace

HEADERS = ("network", "sizes", "measured", "predicted", "error", "roofline")


@dataclass(frozen=True, eq=False)
class MachineValidation:
    """Networks with what they took and what was predicted, arrays of (networks,) in seconds.

    roofline_s: the largest of FLOP over peak and bytes over memory bandwidth, op by op."""

    session: Session
    networks: tuple[Judged, ...]
    measured_s: np.ndarray
    predicted_s: np.ndarray
    roofline_s: np.ndarray

    @property
    def error(self) -> np.ndarray:
        return self.predicted_s / self.measured_s - 1.0

    def of(self, kind: str) -> np.ndarray:
        return np.array([network.kind == kind for network in self.networks])


def validate_this_machine(arguments) -> Outcome:
    """Measure and calibrate the machine and time the networks, all in one run; show predicted beside measured.

    A prediction is the network's trace on the calibrated chip, plus what a call of nn.LSTM or nn.GRU was found to add
    at other sizes. Raises `ReportError` before anything is measured: PyTorch, scipy or a GPU missing.
    """
    for name in ("on", "set", "zero_shot", "check", "readme"):
        if getattr(arguments, name, None):
            raise ReportError(f"--this-machine measures: it takes no {name.replace('_', '-')}")
    if (arguments.backend or "torch") != "torch":
        raise ReportError(f"backend: the networks are PyTorch's, got {arguments.backend!r}")
    chosen = setting("torch", arguments.device or "cpu", arguments.threads, arguments.quick)
    networks = judged_networks(chosen.backend, chosen.quick)
    session = run(chosen, [Case({}, network.make) for network in networks])
    found = judged(session, networks)
    return Outcome(
        lines=[*report(session), "", *judged_lines(found)],
        notes=[("note", text) for text in chosen.notes],
        rows=lambda: rows(found),
        document=lambda: document(found),
        chart=lambda: chart(found),
    )


def judged(session: Session, networks: list[Judged]) -> MachineValidation:
    """The networks predicted on the calibrated chip of a session that timed them."""
    calls, chip = session.calibration.call_s, session.accelerator
    predicted = [float(simulate(n.trace, chip).latency_s) + calls.get(n.kind, 0.0) for n in networks]
    rooflines = [roofline_s(n.trace, chip) for n in networks]
    return MachineValidation(session, tuple(networks), session.others_s, np.array(predicted), np.array(rooflines))


def roofline_s(trace: Trace, chip: Accelerator) -> float:
    """The plain roofline: each op the larger of its FLOP over the peak and its bytes over the memory bandwidth. [s]"""
    bytes_ = trace.weight_bytes + trace.input_bytes + trace.output_bytes + trace.state_bytes + trace.cache_bytes
    peak = np.array([chip.peak_flops_per_s(dtype) for dtype in trace.dtype.tolist()])
    time = np.maximum(trace.matrix_flops / peak, bytes_ / chip.outer.bandwidth_bytes_per_s)
    return float((time * trace.repeats).sum())


def judged_lines(found: MachineValidation) -> list[str]:
    """One line a network, then the errors of each kind."""
    body = [
        [n.kind, n.sizes, *(format_quantity(s, "s") for s in (measured, predicted)), f"{100 * error:+.0f} %",
         f"{100 * (roofline / measured - 1):+.0f} %"]
        for n, measured, predicted, error, roofline in zip(
            found.networks, found.measured_s, found.predicted_s, found.error, found.roofline_s, strict=True
        )
    ]  # fmt: skip
    lines = [f"networks nothing was fitted to, on {found.session.accelerator.title}:"]
    lines += [*table(HEADERS, body, right=HEADERS[2:]).splitlines(), ""]
    kinds = dict.fromkeys(n.kind for n in found.networks)
    summary = []
    for kind in kinds:
        which = found.of(kind)
        size = np.abs(found.roofline_s[which] / found.measured_s[which] - 1)
        summary.append([*error_row(kind, found.error[which]), percent(size.mean())])
    headers = ("network", "judged", "bias", "median", "mean", "worst", "roofline mean")
    return [*lines, *table(headers, summary, right=headers[1:]).splitlines()]


def rows(found: MachineValidation) -> list[dict]:
    """One row a network, SI units."""
    return [
        {"network": n.kind, "sizes": n.sizes, "measured_s": float(m), "predicted_s": float(p), "roofline_s": float(r)}
        for n, m, p, r in zip(found.networks, found.measured_s, found.predicted_s, found.roofline_s, strict=True)
    ]


def document(found: MachineValidation) -> Mapping:
    """Everything in SI units: the networks, the chip's fitted constants, what calls add, how it was measured."""
    session = found.session
    return {
        "schema": "rooftrace machine validation 1",
        "rooftrace": version(),
        "software": software(session.setting),
        "machine": session.accelerator.title,
        "samples": session.timings.rounds,
        "spread": session.timings.spread,
        "networks": rows(found),
        "fitted": dict(session.calibration.values),
        "call_s": shown_calls(session),
        "measurements": [dict(record) for record in session.records],
    }


def chart(found: MachineValidation):
    """Scatter chart, predicted over measured."""
    from reports.validation_chart import scatter

    count = len(found.networks)
    labels = {name: np.full(count, "", dtype=object) for name in ("set", "dtype", "phase", "network")}
    labels |= {"device": np.full(count, NAME, dtype=object), "kind": np.array([n.kind for n in found.networks])}
    unknown = np.full(count, np.nan)
    shown = Validation(
        labels=labels, measured_s=found.measured_s, predicted_s=found.predicted_s, low_s=unknown, high_s=unknown,
        roofline_s=found.roofline_s, roofline_layer_s=found.roofline_s, fitted=np.zeros(count, bool),
        missing=np.full(count, "", dtype=object), chips={NAME: found.session.accelerator},
    )  # fmt: skip
    return scatter(shown, title=found.session.accelerator.title)
