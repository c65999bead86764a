"""What Linux says of a process."""

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of memory that it holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def open_files(pid: int) -> int:
    """How many files and sockets it has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
