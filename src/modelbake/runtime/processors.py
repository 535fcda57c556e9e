"""How many threads pay: the cores that this process may use, which in a container are fewer than the machine's."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Cores of the process's affinity, those that share a core counted once, but no more than its control groups' quota.

    `root` is the folder that has proc/ and sys/. Linux: cgroup version 2's cpu.max and version 1's cpu.cfs_quota_us
    (Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst); elsewhere all processors.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    cores = {_read(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in processors}
    # Part of a processor is worth a thread: it runs whenever the others wait for their quota.
    return math.ceil(min(len(cores), _quota(root)))


def _quota(root: Path) -> float:
    """Processors' worth of time that the control groups of the process allow; infinite where nothing bounds it."""
    bounds = [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # A container sees its own group at the top, whatever the path says, and outside each parent bounds its children.
        here = PurePosixPath(path.lstrip("/"))
        for group in (here, *here.parents):
            bounds.append(_group_quota(mount / group))
    return min(bounds)


def _group_quota(folder: Path) -> float:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    # Unbounded is "max" in version 2 and -1 in version 1.
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        return int(quota) / int(period)
    return math.inf


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    return ""
