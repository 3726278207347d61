"""What a process uses, as Linux tells it in /proc."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple


class Use(NamedTuple):
    """What a process uses: memory in MiB, threads, open files."""

    memory_mib: float
    threads: int
    files: int

    @classmethod
    def of(cls, process: int) -> Use:
        """Returns what it uses now."""
        about = pathlib.Path(f"/proc/{process}")
        status = dict(
            line.split(":", 1) for line in (about / "status").read_text().splitlines()
        )
        kib = int(status["VmRSS"].split()[0])
        files = len(list((about / "fd").iterdir()))
        return cls(round(kib / 1024, 1), int(status["Threads"]), files)


def cpu_s(process: int) -> float:
    """Returns the processor time of a process."""
    # After the name, which is in parentheses; the fields are those of proc(5).
    fields = (
        pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
