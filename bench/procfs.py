"""What a process costs: CPU seconds of all its threads and its resident memory, read from /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB = 1024


def cpu_seconds(pid: int) -> float:
    """User plus system time of the process, all threads, in seconds (resolution 10 ms).

    Raises:
        FileNotFoundError: there is no such process any more.
    """
    return parse_cpu_seconds(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"))


def parse_cpu_seconds(stat: str) -> float:
    """``utime + stime`` of a line of ``/proc/<pid>/stat``; the command's name in it may hold spaces and brackets."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest ever) of the process, in bytes."""
    return parse_memory_bytes(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), name)


def parse_memory_bytes(status: str, name: str) -> int:
    """One memory line of ``/proc/<pid>/status`` in bytes; 0 for a process without memory (a zombie)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * KIB if found else 0


@dataclass(slots=True)
class Cost:
    """Follows one process: CPU since ``start_cpu`` and samples of its memory over time."""

    pid: int
    rss_bytes: list[int] = field(default_factory=list)

    def cpu(self) -> float:
        return cpu_seconds(self.pid)

    def sample_memory(self) -> None:
        self.rss_bytes.append(memory_bytes(self.pid))

    def peak_mib(self) -> float:
        return round(memory_bytes(self.pid, "VmHWM") / KIB**2, 1)

    def growth_mib(self) -> float:
        """Memory at the end against the middle of the samples: near zero when it is flat."""
        return growth_mib(self.rss_bytes)


def growth_mib(samples: list[int]) -> float:
    """Median of the last tenth of the samples less the median of the tenth in the middle, in MiB."""
    if len(samples) < 10:
        return 0.0
    width = max(1, len(samples) // 10)
    middle = len(samples) // 2
    centre, end = sorted(samples[middle - width // 2 : middle - width // 2 + width]), sorted(samples[-width:])
    return round((end[len(end) // 2] - centre[len(centre) // 2]) / KIB**2, 1)
