"""The kinds of key-value caches that the worker offers."""

from typing import Final, Literal, TypeAlias

CacheType: TypeAlias = Literal["F16", "Q8_0", "Q4_0"]

BITS: Final[dict[CacheType, float]] = {"F16": 16, "Q8_0": 8.5, "Q4_0": 4.5}
"""Memory a number takes; the quantised kinds have a scale for every 32."""
