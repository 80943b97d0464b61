"""Facts about the machine and what is installed, without anything that names either."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

__all__ = ["facts"]

# The numbers of a kernel; what follows may name its maker or its machine.
_RELEASE = re.compile(r"[\d.]*")

_PACKAGES = (
    "proxyflow",
    "numpy",
    "cloudpickle",
    "lz4",
    "xxhash",
    "distributed",
    "proxystore",
    "proxystore-ex",
    "joblib",
    "loky",
    "ray",
    "lazy-object-proxy",
    "wrapt",
    "lmdb",
    "redis",
    "persist-queue",
    "fsspec",
    "s3fs",
    "pandas",
    "pyarrow",
    "matplotlib",
)


def facts() -> dict[str, str]:
    """Return what the figures depend on, by name."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return {
        "Processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores usable",
        "Memory": f"{memory:.1f} GiB",
        "Kernel": f"{platform.system()} {_release()}",
        "Huge pages for shared memory": _shared_huge_pages(),
        "Load when it began": f"{os.getloadavg()[0]:.1f} (mean of a minute)",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Packages": ", ".join(_versions()),
    }


def _release() -> str:
    found = _RELEASE.match(platform.release())
    return found[0] if found else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _shared_huge_pages() -> str:
    """Return the chosen one of the kernel's choices, which it shows in brackets."""
    path = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not path.exists():
        return "unknown"
    return path.read_text().partition("[")[2].partition("]")[0]


def _versions() -> list[str]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
