"""What in a process's log tells of a defect of ours."""

import re

_MARKS = re.compile(
    r"Traceback|internal error|Internal Server Error|never retrieved|never awaited|Task was destroyed"
)


def marks(log: str) -> list[str]:
    """Lines of a log that tell of a defect."""
    return [line[:3000] for line in log.splitlines() if _MARKS.search(line)]
