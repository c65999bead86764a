"""Quotas against a slow reference: a bucket of fractions that is filled second by second, and days that are counted."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.quotas import DAY_NS, SECOND_NS, Quota, Usage, seconds

TODAY = 20_000 * DAY_NS + 5 * SECOND_NS
ARRIVALS = st.lists(
    st.one_of(st.integers(0, 3 * SECOND_NS), st.sampled_from([0, 1, SECOND_NS // 3, SECOND_NS, DAY_NS])),
    min_size=1,
    max_size=60,
)
RATES = st.one_of(st.sampled_from([1 / 3600, 0.3, 1.0, 7.0, 1e6]), st.floats(1 / 3600, 1e6))


class SlowBucket:
    """A bucket of `size` places, of which one comes back in each `interval`; nothing is rounded."""

    def __init__(self, size: int, interval: int) -> None:
        self.size = size
        self.interval = interval
        self.level = Fraction(size)
        self.at = 0

    def take(self, now: int) -> bool:
        if now > self.at:
            self.level = min(Fraction(self.size), self.level + Fraction(now - self.at, self.interval))
            self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@given(gaps=ARRIVALS, rate=RATES, burst=st.integers(1, 9))
def test_the_rate_lets_in_what_a_bucket_of_fractions_does(gaps: list[int], rate: float, burst: int) -> None:
    quota, usage, now = Quota(rate=rate, burst=burst), Usage(), TODAY
    slow = SlowBucket(burst, quota.interval)
    for gap in gaps:
        now += gap
        standing = usage.standing(quota, now)
        late = usage.late(quota, now)
        assert standing is not None
        assert (standing.remaining == 0) == (late > 0)
        assert slow.take(now) == (late == 0)
        assert standing.remaining <= standing.limit == burst
        if late == 0:
            usage.take(quota, now)
            left = usage.standing(quota, now)
            assert left is not None
            assert left.remaining == standing.remaining - 1 == int(slow.level)


@given(gaps=ARRIVALS, rate=RATES, burst=st.integers(1, 9))
def test_whoever_comes_again_when_told_to_is_let_in_and_not_before(
    gaps: list[int], rate: float, burst: int
) -> None:
    quota, usage, now = Quota(rate=rate, burst=burst), Usage(), TODAY
    for gap in gaps:
        now += gap
        if late := usage.late(quota, now):
            assert usage.late(quota, now + late - 1) == 1
            assert usage.late(quota, now + late) == 0
            assert seconds(late) >= 1
        else:
            usage.take(quota, now)


@given(gaps=ARRIVALS, daily=st.integers(1, 5))
def test_a_day_has_so_many_jobs_and_the_next_one_again(gaps: list[int], daily: int) -> None:
    quota, usage, now = Quota(daily=daily), Usage(), TODAY
    let_in: Counter[int] = Counter()
    for gap in gaps:
        now += gap
        spent = usage.spent(quota, now)
        assert (spent == 0) == (let_in[now // DAY_NS] < daily)
        if spent:
            assert (now + spent) % DAY_NS == 0
            assert usage.spent(quota, now + spent) == 0
        else:
            usage.take(quota, now)
            let_in[now // DAY_NS] += 1
    assert usage.accepted == sum(let_in.values())


def test_a_clock_that_was_set_back_over_midnight_brings_no_second_day() -> None:
    quota, usage = Quota(daily=1), Usage()
    midnight = 20_001 * DAY_NS
    usage.take(quota, midnight)
    assert usage.spent(quota, midnight - 1) > 0
    assert usage.spent(quota, midnight) > 0


def test_without_limits_nothing_is_late_or_spent_and_there_is_nothing_to_say() -> None:
    usage = Usage()
    for _ in range(100):
        usage.take(Quota(), TODAY)
    assert (usage.late(Quota(), TODAY), usage.spent(Quota(), TODAY)) == (0, 0)
    assert usage.standing(Quota(), TODAY) is None


def test_what_the_headers_say() -> None:
    quota, usage = Quota(rate=0.5, burst=3), Usage()
    usage.take(quota, TODAY)
    standing = usage.standing(quota, TODAY + 1)
    assert standing is not None
    assert standing.headers() == {
        "x-ratelimit-limit": "3",
        "x-ratelimit-remaining": "2",
        "x-ratelimit-reset": "2",
    }
