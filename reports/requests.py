"""What a user names at the command line, as objects: networks with settings, chips with changed fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from reports.arguments import ReportError
from reports.sources import Source, kind_of, read
from reports.units import parse_field
from simulator import Accelerator, load_accelerator, preset
from workloads import Trace, TraceError, network, network_info
from workloads.trace import element_bytes, nearest

CHIP_SUFFIXES = (".toml",)
#: Bits of the float types, narrowest first: what a network may run in when the chip lacks its own type.
FLOAT_BITS = {"fp8": 8, "fp16": 16, "bf16": 16, "tf32": 19, "fp32": 32, "fp64": 64}


@dataclass(frozen=True)
class Workload:
    """A network by name with `settings` on top of its own, or one in a file (see `reports.sources`), which has none.

    Trained when `optimiser` is given. `dims`: sizes of the dynamic dimensions of an ONNX model.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    optimiser: str | None = None
    dims: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        if self.dims and kind_of(self.name) != "onnx":
            raise ReportError(f"dims applies to an .onnx file, not to {self.name}")
        if self.is_file and self.settings:
            setting = next(iter(self.settings))
            raise ReportError(f"{setting} applies to a network by name; {self.name} states its own")
        if not self.is_file:
            info = _known(self.name)
            for setting, value in self.settings.items():
                if setting not in info.settings:
                    raise ReportError(f"{self.name}: unknown setting {setting!r}{nearest(setting, info.settings)}")
                if isinstance(info.defaults.get(setting), list) and not isinstance(value, list):
                    raise ReportError(f"{self.name}: {setting} is a list, got {value!r}")

    @property
    def is_file(self) -> bool:
        """Whether the name is that of a file, or of a function in one."""
        return kind_of(self.name) is not None

    @cached_property
    def _source(self) -> Source:
        return read(self.name, self.optimiser, self.dims)

    @property
    def profile(self):
        """The Profile with measured times where the file is one, else None. Raises `TraceError` for a bad file."""
        return self._source.profile if self.is_file else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the import of a file warned of. Raises `TraceError` for a bad file."""
        return self._source.warnings if self.is_file else ()

    def trace(self, **more) -> Trace:
        """The trace, with `more` settings on top. Raises `TraceError`."""
        if self.is_file:
            return self._source.trace
        trace = network(self.name, **{**self.settings, **more})
        if self.optimiser is None:
            return trace
        from workloads.training import training

        return training(trace, self.optimiser)

    def trace_for(self, chip: Accelerator, **more) -> tuple[Trace, str]:
        """The trace, with `more` settings on top, in an element type the chip has, and a note where that is not the
        network's own ('' otherwise).

        Without a dtype in the settings a type the chip lacks is replaced by one with as many bits or more (see
        `substitute`). Raises `ReportError`, naming the types the chip has, where there is none.
        """
        trace = self.trace(**more)
        needed = trace.dtype[trace.is_product].tolist()
        missing = [d for d in dict.fromkeys(needed) if d not in chip.dtypes]
        if not missing or self.is_file or "dtype" in self.settings:
            return trace, ""
        own = max(missing, key=element_bytes)
        other = substitute(own, chip.dtypes)
        if other is None:
            raise ReportError(
                f"{chip.name} has no element type as wide as the {own} of {self.name}; "
                f"choose one it has with --dtype: {', '.join(chip.dtypes)}"
            )
        return self.trace(**more, dtype=other), f"{self.name} runs in {other} on {chip.name}, which has no {own}"


def _known(name: str):
    """What is known of a network by name. Raises `TraceError` for an unknown one, `ReportError` for a folder."""
    try:
        return network_info(name)
    except TraceError:
        if Path(name).is_dir():
            raise ReportError(f"{name} is a folder, not a network: name a file in it") from None
        raise


def substitute(dtype: str, available: Sequence[str]) -> str | None:
    """The element type to use where `dtype` is missing: the other 16-bit float for a 16-bit float, else the
    narrowest float that is wider; never one with fewer bits. None where there is none."""
    if dtype in available:
        return dtype
    if FLOAT_BITS.get(dtype) == 16:
        least = 16
    else:
        least = FLOAT_BITS.get(dtype, 8 * element_bytes(dtype)) + 1
    wide_enough = [d for d, bits in FLOAT_BITS.items() if bits >= least and d in available]
    return wide_enough[0] if wide_enough else None


def chip(name: str, changes: Sequence[tuple[str, str]] = ()) -> tuple[Accelerator, dict[str, object]]:
    """A preset, or a chip from a .toml file, with fields changed; and the changes as field: value in SI units.

    `changes` are pairs of a field's dotted path, with or without its unit, and a value as typed ("2TB/s"). They are
    named in the title. Raises `AcceleratorError` for an unknown chip or field and `UnitError` for a value.
    """
    base = load_accelerator(name) if name.lower().endswith(CHIP_SUFFIXES) else preset(name)
    values: dict[str, object] = {}
    for given, text in changes:
        path = base.path(given)
        if path in values:
            raise ReportError(f"{given} is set twice")
        current = base.fields.get(path, 0.0)
        names = current is None and path.endswith((".level", ".technology"))  # unstated, and a name once stated
        values[path] = parse_field(path, text, "" if names else current)
    if not values:
        return base, {}
    described = [f"{given} = {text}" for given, text in changes]
    if len(described) > 2:
        described = [described[0], f"{len(described) - 1} more fields"]
    return base.replace(values, title=f"{base.title} with {' and '.join(described)}"), values
