"""How much memory the machine has to spare."""

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")


def available(meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that can be had without swapping, as Linux estimates them; None where it does not say."""
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
