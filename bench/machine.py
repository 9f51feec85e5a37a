"""The machine of a measurement: processors, disk, and the load of other processes."""

import os
import platform
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("fastapi", "starlette", "uvicorn", "pydantic", "sqlmodel", "SQLAlchemy", "psycopg", "python-jose")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def peak_megabytes(process: int) -> float:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def all_cpu_seconds() -> float:
    """Processor time that everybody on the machine has used so far, idle and waiting left out."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, *_ = fields
    return (user + nice + system + interrupts + soft_interrupts) / TICKS_PER_SECOND


def family_of(pid: int) -> list[int]:
    """A process's parent and all children of that parent: one PostgreSQL, seen from one of its backends."""
    try:
        parent = _parent(pid)
    except OSError:
        return []
    return [parent, *children_of(parent)]


def children_of(pid: int) -> list[int]:
    """Processes that this one started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _parent(int(folder.name)) == pid:
                found.append(int(folder.name))
    return found


def cpu_by_process(processes: Iterable[int]) -> dict[int, float]:
    """Processor time of each; those that have ended meanwhile are left out."""
    found = {}
    for one in processes:
        with suppress(OSError):
            found[one] = cpu_seconds(one)
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def fdatasync_microseconds(rounds: int = 50) -> float:
    """Median time of a small durable write in the folder for temporary files."""
    taken = []
    with tempfile.TemporaryFile() as file:
        for _ in range(rounds):
            file.write(b"x" * 512)
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2] * 1e6


def describe() -> dict[str, object]:
    """The machine and the versions, for the result file."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "fdatasync_us": round(fdatasync_microseconds()),
        "versions": {name: version(name) for name in _PACKAGES},
    }
