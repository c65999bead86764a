"""What one project may submit: a rate with a burst, a number of jobs a day, and how many may wait. No I/O.

The rate is a token bucket kept as one number, the generic cell rate algorithm (ITU-T I.371, annex A): `full_at` is when the
bucket will be full again; a job moves it on by 1 / rate. Times are whole nanoseconds since 1970, so that no rounding adds up.
"""

from dataclasses import dataclass

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
SLOWEST_RATE = 1 / 3600
FASTEST_RATE = 1e6
LARGEST_BURST = 1_000_000
"""So that the bucket's time stays within 64 bits: burst / rate is less than 120 years."""


@dataclass(frozen=True)
class Quota:
    """A project's limits: `rate` in jobs a second with up to `burst` at once, jobs a UTC day, jobs waiting. None: no such limit."""

    rate: float | None = None
    burst: int = 1
    daily: int | None = None
    waiting: int | None = None

    @property
    def interval(self) -> int:
        """Nanoseconds in which one place in the bucket comes back; 0 without a rate."""
        return round(SECOND_NS / self.rate) if self.rate else 0


@dataclass(frozen=True)
class Standing:
    """Where a project's bucket stands: its size, how many jobs it still takes now, and the seconds until it is full again."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return it as the header fields of an answer."""
        fields = {"limit": self.limit, "remaining": self.remaining, "reset": self.reset}
        return {f"x-ratelimit-{name}": str(value) for name, value in fields.items()}


@dataclass
class Usage:
    """What a project has used: `full_at` of its bucket, `used` jobs of the UTC day `day` (since 1970), `accepted` jobs in all."""

    full_at: int = 0
    day: int = 0
    used: int = 0
    accepted: int = 0

    def late(self, quota: Quota, now: int) -> int:
        """Return in how many nanoseconds the rate has room for a job; 0: it has."""
        room = quota.burst * quota.interval
        return max(0, max(self.full_at, now) + quota.interval - room - now)

    def spent(self, quota: Quota, now: int) -> int:
        """Return in how many nanoseconds a new day brings jobs again; 0: there are some left."""
        if quota.daily is None or self._today(now) < quota.daily:
            return 0
        return DAY_NS - now % DAY_NS

    def take(self, quota: Quota, now: int) -> None:
        """Count a job that was let in."""
        self.used = self._today(now) + 1
        self.day = max(self.day, now // DAY_NS)
        self.accepted += 1
        if quota.rate is not None:
            self.full_at = max(self.full_at, now) + quota.interval

    def standing(self, quota: Quota, now: int) -> Standing | None:
        """Return what the rate leaves; None without one."""
        if quota.rate is None:
            return None
        missing = max(0, self.full_at - now)
        remaining = max(0, quota.burst - -(-missing // quota.interval))
        return Standing(quota.burst, remaining, seconds(missing))

    def _today(self, now: int) -> int:
        return self.used if self.day >= now // DAY_NS else 0


def seconds(nanoseconds: int) -> int:
    """Return whole seconds, rounded up."""
    return -(-nanoseconds // SECOND_NS)
