"""What a machine says of itself: cores, vector width, caches, memory, software. Every number with where it was read."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Instruction sets and the fp32 lanes of their registers, widest first; the flags of /proc/cpuinfo that name them.
VECTORS = (("avx512f", 16), ("avx2", 8), ("avx", 8), ("sse2", 4), ("asimd", 4), ("neon", 4))


@dataclass(frozen=True)
class Cache:
    """One level of cache: bytes of all instances the usable cores have, how many those are, where it was read."""

    level: int
    capacity_bytes: int
    instances: int
    source: str


@dataclass(frozen=True)
class Machine:
    """A processor. clock_hz is None where the system does not say; lanes: fp32 numbers in one vector register."""

    title: str
    cores: int
    cores_source: str
    lanes: int
    lanes_source: str
    clock_hz: float | None
    clock_source: str
    memory_bytes: int
    memory_source: str
    caches: tuple[Cache, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)

    def cache(self, level: int) -> Cache | None:
        return next((cache for cache in self.caches if cache.level == level), None)

    @property
    def last_cache_bytes(self) -> int:
        """Capacity of the largest cache; 32 MiB where the system does not say, so that what must miss it does."""
        return max((cache.capacity_bytes for cache in self.caches), default=32 * 2**20)


def read_machine(root: str | Path = "/", cpus: set[int] | None = None) -> Machine:
    """The machine this runs on; files are looked for below `root`, `cpus` default to those this process may use."""
    root = Path(root)
    cpus = cpus or _usable_cpus()
    information = _text(root / "proc/cpuinfo")
    flags = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", information, re.M))))
    vector = next(((name, lanes) for name, lanes in VECTORS if name in flags), None)
    clock, clock_source = _clock(root, information)
    memory, memory_source = _memory(root)
    name = re.search(r"^model name\s*:\s*(.+)$", information, re.M)
    return Machine(
        title=name.group(1).strip() if name else platform.processor() or platform.machine() or "processor",
        cores=len(cpus),
        cores_source="cores this process may run on, as the system reports them",
        lanes=vector[1] if vector else 4,
        lanes_source=f"/proc/cpuinfo: {vector[0]}, {32 * vector[1]} bits" if vector else
        "assumed: 128 bits, the least of today's vector units; the system does not say",
        clock_hz=clock,
        clock_source=clock_source,
        memory_bytes=memory,
        memory_source=memory_source,
        caches=_caches(root, cpus),
        software={"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"},
    )  # fmt: skip


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _clock(root: Path, information: str) -> tuple[float | None, str]:
    highest = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if highest.isdigit():
        return int(highest) * 1e3, "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    now = [float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", information, re.M)]
    if now and max(now) > 0:
        return max(now) * 1e6, "/proc/cpuinfo: cpu MHz"
    return None, ""


def _memory(root: Path) -> tuple[int, str]:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.M)
    if found:
        return int(found.group(1)) * 1024, "/proc/meminfo: MemTotal"
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "sysconf: physical pages times page size"
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30, "assumed: 8 GiB, the system does not say"


def _caches(root: Path, cpus: set[int]) -> tuple[Cache, ...]:
    """Data and unified caches of the usable cores; an instance shared by several counts once."""
    found: dict[int, dict[str, int]] = {}
    for cpu in sorted(cpus):
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
            level, kind = _text(index / "level").strip(), _text(index / "type").strip()
            size = re.fullmatch(r"(\d+)([KMG]?)", _text(index / "size").strip())
            if kind in ("Data", "Unified") and level.isdigit() and size:
                shared = _text(index / "shared_cpu_list").strip() or str(cpu)
                scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size.group(2)]
                found.setdefault(int(level), {})[shared] = int(size.group(1)) * scale
    source = "/sys/devices/system/cpu/cpu*/cache: size, shared_cpu_list"
    return tuple(
        Cache(level, sum(sizes.values()), len(sizes), source)
        for level, sizes in sorted(found.items())
        if sum(sizes.values())
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
