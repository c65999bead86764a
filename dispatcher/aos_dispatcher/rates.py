"""How fast somebody may send requests: a rate with a burst, for many at once. No I/O.

Each is a bucket kept as one number, by the generic cell rate algorithm (ITU-T I.371, annex A), as in `quotas`: `full_at` is when it will be
full again, and a request moves it on by its cost / rate. Times are whole microseconds since 1970: Lua's numbers, in which Redis
counts the same (`throttling`), hold them exactly, since they stay below 2 ** 53.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

SECOND_US: Final = 1_000_000
SLOWEST_RATE: Final = 1 / 3600
FASTEST_RATE: Final = 10_000.0
LARGEST_BURST: Final = 100_000
"""So that the time of a bucket stays within 53 bits: burst / rate is less than 12 years."""


@dataclass(frozen=True)
class Rate:
    """So many requests a second, and up to `burst` at once."""

    rate: float
    burst: int

    @property
    def interval(self) -> int:
        """Microseconds in which one place in the bucket comes back."""
        return round(SECOND_US / self.rate)


@dataclass(frozen=True)
class Bucket:
    """Whose requests are counted together: by which `limit`, under which key, at which rate."""

    limit: str
    key: str
    rate: Rate


@dataclass(frozen=True)
class Level:
    """Where a bucket stands, in microseconds: `late` until it has room for what was refused (0: it had), `missing` until it is full again."""

    late: int
    missing: int

    @classmethod
    def of(cls, rate: Rate, full_at: int, cost: int, now: int) -> Self:
        """Return where a bucket stands at `now`, before `cost` requests are taken from it."""
        room = rate.burst * rate.interval
        # Later than this it cannot be: clocks were set back, or the rate was lower.
        missing = min(max(0, full_at - now), room)
        return cls(max(0, missing + cost * rate.interval - room), missing)

    def remaining(self, rate: Rate) -> int:
        """Return how many requests the bucket has room for."""
        return max(0, rate.burst - -(-self.missing // rate.interval))


def decide(rates: Sequence[Rate], full_at: Sequence[int], cost: int, now: int) -> list[Level]:
    """Take `cost` requests out of all buckets, or out of none when one has no room: then one at least is `late`."""
    levels = [Level.of(rate, full, cost, now) for rate, full in zip(rates, full_at, strict=True)]
    if any(level.late for level in levels):
        return levels
    return [Level(0, level.missing + cost * rate.interval) for rate, level in zip(rates, levels, strict=True)]


def duration(microseconds: int) -> str:
    """Write a duration as OpenAI's headers do: `20ms`, `1.5s`, `6m0s`, `1h0m0s`; rounded up to milliseconds."""
    milliseconds = -(-microseconds // 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def seconds(microseconds: int) -> int:
    """Return whole seconds, rounded up."""
    return -(-microseconds // SECOND_US)
