"""Ether and times as people write them, exactly: no amount ever becomes a floating-point number."""

import re
from typing import Final

import typer

WEI: Final = 10**18
"""Wei in an ether."""

_ETHER = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,18}))?")
_TIME = re.compile(r"([0-9]{1,10})([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def wei(text: str) -> int:
    """Read an amount of ether such as `0.05`, in wei. Raises `typer.BadParameter`, a usage error."""
    found = _ETHER.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no amount of ether: write it like 2 or 0.05, with at most 18 decimals and no unit"
        )
    whole, decimals = found.groups("")
    return int(whole) * WEI + int(decimals.ljust(18, "0"))


def ether(amount: int) -> str:
    """Return wei as an amount of ether, exactly, with its unit."""
    whole, rest = divmod(amount, WEI)
    decimals = f"{rest:018}".rstrip("0")
    return f"{whole}.{decimals} ETH" if decimals else f"{whole} ETH"


def seconds(text: str) -> int:
    """Read a time such as `90`, `15m`, `12h` or `7d`, in seconds. Raises `typer.BadParameter`, a usage error."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no time: write seconds, or a number with s, m, h or d, such as 12h"
        )
    number, unit = found.groups()
    return int(number) * _SECONDS[unit]


def span(duration: int) -> str:
    """Return a time in words of its largest units, such as `2 h 5 min`."""
    parts = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, duration = divmod(duration, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"
