"""Rates of requests against a slow reference: buckets of fractions, all of which must have room."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.rates import (
    FASTEST_RATE,
    LARGEST_BURST,
    SECOND_US,
    SLOWEST_RATE,
    Bucket,
    Level,
    Rate,
    decide,
    duration,
    seconds,
)
from aos_dispatcher.throttling import LocalBuckets

NOW = 1_800_000_000 * SECOND_US
GAPS = st.one_of(st.integers(0, 3 * SECOND_US), st.sampled_from([0, 1, SECOND_US // 3, SECOND_US]))
RATES = st.builds(
    Rate,
    st.one_of(st.sampled_from([SLOWEST_RATE, 0.3, 1.0, 7.0, FASTEST_RATE]), st.floats(0.1, FASTEST_RATE)),
    st.integers(1, 9),
)


class SlowBucket:
    """A bucket whose places come back one in each interval; nothing is rounded."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.level = Fraction(rate.burst)
        self.at = NOW

    def fill(self, now: int) -> None:
        back = Fraction(now - self.at, self.rate.interval)
        self.level, self.at = min(Fraction(self.rate.burst), self.level + back), now


@given(
    rates=st.lists(RATES, min_size=1, max_size=3),
    asked=st.lists(st.tuples(GAPS, st.integers(1, 9)), min_size=1, max_size=50),
)
def test_all_buckets_have_room_or_none_is_touched(rates: list[Rate], asked: list[tuple[int, int]]) -> None:
    slow, full_at, now = [SlowBucket(rate) for rate in rates], [0] * len(rates), NOW
    for gap, cost in asked:
        now += gap
        for bucket in slow:
            bucket.fill(now)
        fits = all(bucket.level >= cost for bucket in slow)
        levels = decide(rates, full_at, cost, now)
        assert fits == (not any(level.late for level in levels))
        for index, (bucket, level) in enumerate(zip(slow, levels, strict=True)):
            if fits:
                bucket.level -= cost
                full_at[index] = now + level.missing
            assert (level.late == 0) or bucket.level < cost
            assert Fraction(level.missing, bucket.rate.interval) == bucket.rate.burst - bucket.level
            assert level.remaining(bucket.rate) == int(bucket.level)


@given(rate=RATES, asked=st.lists(st.tuples(GAPS, st.integers(1, 9)), min_size=1, max_size=50))
def test_whoever_comes_again_when_told_to_is_let_in_and_not_before(
    rate: Rate, asked: list[tuple[int, int]]
) -> None:
    full_at, now = 0, NOW
    for gap, cost in asked:
        now += gap
        (level,) = decide([rate], [full_at], cost, now)
        if level.late and cost <= rate.burst:
            assert decide([rate], [full_at], cost, now + level.late - 1)[0].late == 1
            assert decide([rate], [full_at], cost, now + level.late)[0].late == 0
        elif not level.late:
            full_at = now + level.missing


@given(rate=RATES, future=st.integers(0, 2**53 - 1 - NOW), cost=st.integers(1, 9))
def test_a_clock_that_was_set_back_holds_nobody_up_for_longer_than_a_full_burst(
    rate: Rate, future: int, cost: int
) -> None:
    level = Level.of(rate, NOW + future, cost, NOW)
    assert level.late <= cost * rate.interval
    assert level.missing <= rate.burst * rate.interval


def test_all_times_stay_within_what_a_double_holds_exactly() -> None:
    slowest = Rate(SLOWEST_RATE, LARGEST_BURST)
    latest = NOW + 2 * slowest.burst * slowest.interval
    assert latest < 2**53
    assert Rate(FASTEST_RATE, 1).interval == 100


@pytest.mark.parametrize(
    ("microseconds", "written"),
    [
        (0, "0s"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_500_000, "1.5s"),
        (8_640_000, "8.64s"),
        (59_999_999, "1m0s"),
        (360_000_000, "6m0s"),
        (3_600_000_000, "1h0m0s"),
        (90_061_250_000, "25h1m1.25s"),
    ],
)
def test_durations_are_written_as_openai_does(microseconds: int, written: str) -> None:
    assert duration(microseconds) == written


def test_seconds_are_rounded_up() -> None:
    assert [seconds(0), seconds(1), seconds(SECOND_US), seconds(SECOND_US + 1)] == [0, 1, 1, 2]


def test_a_processs_own_buckets_follow_its_clock() -> None:
    now = 1000.0
    buckets = LocalBuckets(lambda: now)
    token = Bucket("token", "token:a", Rate(1, 2))
    address = Bucket("address", "address:b", Rate(1, 3))
    assert [buckets.take([token, address], 1)[0].late for _ in range(3)] == [0, 0, SECOND_US]
    # What the token's limit refused cost the address nothing.
    assert buckets.take([address], 1)[0] == Level(0, 3 * SECOND_US)
    now += 2
    assert [buckets.take([token], 1)[0].late for _ in range(3)] == [0, 0, SECOND_US]


def test_buckets_in_memory_are_bounded_and_the_least_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aos_dispatcher.throttling._MOST_BUCKETS", 3)
    buckets = LocalBuckets(lambda: 1000.0)
    rate = Rate(SLOWEST_RATE, 1)
    named = {name: Bucket("token", name, rate) for name in "abcd"}
    for name in "abc":
        assert buckets.take([named[name]], 1)[0].late == 0
    buckets.follow([named["a"]], [Level(0, rate.interval)])
    assert buckets.take([named["d"]], 1)[0].late == 0
    assert len(buckets) == 3
    assert buckets.take([named["a"]], 1)[0].late > 0
    assert buckets.take([named["b"]], 1)[0].late == 0  # forgotten, and so full
