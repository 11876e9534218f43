"""What the figures were measured on: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

__all__ = ["Load", "describe"]

_PACKAGES = ("onceflow", "numpy", "msgspec", "pyarrow", "lmdb", "rocksdict", "pytest-benchmark")
_SYNCS = 100


def describe(state: Path) -> dict[str, Any]:
    """CPU, memory, kernel, the disk under ``state`` and what a sync on it takes, versions, load."""
    device, kind = _file_system(state)
    median, p99 = _sync_latency(state)
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": kind,
        "device": device,
        "fdatasync_p50_s": median,
        "fdatasync_p99_s": p99,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_average": list(psutil.getloadavg()),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Onceflow may also run from a checkout.
        return "not installed"


def _file_system(path: Path) -> tuple[str, str]:
    resolved = str(path.resolve())
    mounts = [part for part in psutil.disk_partitions(all=True) if Path(resolved).is_relative_to(part.mountpoint)]
    deepest = max(mounts, key=lambda part: len(part.mountpoint))
    return deepest.device, deepest.fstype


def _sync_latency(path: Path) -> tuple[float, float]:
    """Median and p99 of fdatasync after a write of 4 KiB: the least that any durable commit takes here."""
    found: list[float] = []
    with tempfile.TemporaryFile(dir=path) as file:
        for _ in range(_SYNCS):
            os.pwrite(file.fileno(), os.urandom(4096), 0)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - start)
    return float(np.median(found)), float(np.quantile(found, 0.99))


class Load:
    """How busy everybody else kept the CPUs while something was measured: figures of a busy machine are low."""

    def __init__(self) -> None:
        self._before = self._now()

    def others(self) -> float:
        """Share of all cores that other processes used since the beginning."""
        wall, busy, own = (after - before for after, before in zip(self._now(), self._before, strict=True))
        return max(0.0, busy - own) / (wall * (psutil.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = os.times()
        return time.monotonic(), sum(times[:8]) - idle, own.user + own.system + own.children_user + own.children_system
