"""Rates of requests in a real Valkey: the same as in Python, exact over processes, and kept by each process alone while it is away."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
import pytest_asyncio
import redis.asyncio as redis
from fastapi import Request
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from aos_cli.embedded import EmbeddedValkey
from aos_dispatcher.attempts import caller_address
from aos_dispatcher.errors import RedisAway, TooMany, Unprocessable
from aos_dispatcher.gateway.throttle import admit
from aos_dispatcher.metrics import THROTTLE_ALONE
from aos_dispatcher.rates import SECOND_US, SLOWEST_RATE, Bucket, Level, Rate, decide
from aos_dispatcher.settings import Gateway
from aos_dispatcher.throttling import LocalBuckets, RedisBuckets, Throttle
from aos_dispatcher.tokens import present

Network: TypeAlias = Any  # of conftest.py, which is no module to import
HOUR_US = round(SECOND_US / SLOWEST_RATE)
SHARER = Path(__file__).with_name("share_buckets.py")


def hourly(name: str, burst: int) -> Bucket:
    """A bucket that gets nothing back while a test runs."""
    return Bucket("token", name, Rate(SLOWEST_RATE, burst))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, a Redis that is there is not taken for one that is away."""
    monkeypatch.setattr("aos_dispatcher.throttling._PATIENCE_S", 30.0)


@pytest_asyncio.fixture
async def buckets(redis_url: str, patient: None) -> AsyncIterator[RedisBuckets]:
    shared = RedisBuckets(redis_url, "test:")
    yield shared
    await shared.close()


def near(level: Level, expected: Level) -> bool:
    """Whether two levels are the same but for the moments that lie between two looks at them."""
    return all(
        0 <= before - after < 60 * SECOND_US
        for before, after in ((expected.late, level.late), (expected.missing, level.missing))
    )


async def test_the_script_decides_as_the_program_does(buckets: RedisBuckets) -> None:
    chance = random.Random(7)
    three = [hourly("a", 40), hourly("b", 60), Bucket("address", "c", Rate(1 / 1800, 50))]
    missing, admitted = dict.fromkeys("abc", 0), 0
    for _ in range(150):
        asked = chance.sample(three, chance.randint(1, 3))
        cost = chance.choice([1, 1, 2, 7])
        now = 1_800_000_000 * SECOND_US
        expected = decide([b.rate for b in asked], [now + missing[b.key] for b in asked], cost, now)
        levels = await buckets.take(asked, cost)
        assert all(near(*pair) for pair in zip(levels, expected, strict=True))
        if not any(level.late for level in expected):
            admitted += 1
            missing |= {b.key: level.missing for b, level in zip(asked, expected, strict=True)}
    assert 20 < admitted < 120  # both ways were taken


async def test_places_come_back_by_the_clock_of_redis(buckets: RedisBuckets) -> None:
    quick = Bucket("token", "quick", Rate(50, 1))
    (level,) = await buckets.take([quick], 1)
    assert level.late == 0
    while not level.late:  # two within a fiftieth of a second
        (level,) = await buckets.take([quick], 1)
    assert level.late <= SECOND_US // 50
    await asyncio.sleep(level.late / SECOND_US)  # what is tested is that time passes
    assert (await buckets.take([quick], 1))[0].late == 0


async def test_a_full_bucket_needs_no_key_and_what_is_there_is_whole_microseconds(
    buckets: RedisBuckets, redis_url: str
) -> None:
    await buckets.take([hourly("x", 5), Bucket("token", "y", Rate(10_000, 5))], 1)
    async with redis.from_url(redis_url, decode_responses=True) as client:
        assert (await client.get("test:x")).isdigit()
        assert len(await client.get("test:x")) == 16
        assert 3_500_000 < await client.pttl("test:x") <= 3_600_001
        assert await client.pttl("test:y") <= 2


async def test_what_strangers_write_into_a_bucket_makes_it_full_or_sends_us_away(
    buckets: RedisBuckets, redis_url: str
) -> None:
    async with redis.from_url(redis_url) as client:
        await client.set("test:x", "rubbish")
        assert await buckets.take([hourly("x", 2)], 1) == [Level(0, HOUR_US)]
        await client.set("test:x", "9" * 30)  # in a thousand million years
        (level,) = await buckets.take([hourly("x", 2)], 1)
        assert level == Level(HOUR_US, 2 * HOUR_US)
        await client.delete("test:x")
        await client.lpush("test:x", "1")
        with pytest.raises(RedisAway):
            await buckets.take([hourly("x", 2)], 1)


async def test_requests_at_the_same_time_share_round_trips_and_are_counted_each(
    buckets: RedisBuckets,
) -> None:
    limit = hourly("storm", 70)
    levels = await asyncio.gather(*(buckets.take([limit], 1) for _ in range(200)))
    assert sum(level.late == 0 for (level,) in levels) == 70


async def test_two_processes_share_exactly(redis_url: str) -> None:
    command = [sys.executable, str(SHARER), redis_url, "150"]
    children = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(2)
    ]
    said = await asyncio.gather(*(child.communicate() for child in children))
    assert [child.returncode for child in children] == [0, 0]
    assert sum(int(out) for out, _ in said) == 101


@pytest_asyncio.fixture
async def valkey(server_data: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server of this test's own, to be stopped and started."""
    async with EmbeddedValkey(server_data / "valkey-throttle", durable=False) as server:
        yield server


async def test_while_redis_is_away_a_process_limits_by_itself_and_says_so_once(
    valkey: EmbeddedValkey, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos_dispatcher.throttling._AWAY_S", 0.0)
    throttle = Throttle(RedisBuckets(valkey.url(), "test:"))
    known, fresh = hourly("known", 5), hourly("fresh", 4)

    async def let_in(bucket: Bucket, count: int) -> int:
        taken = [await throttle.take([bucket], 1) for _ in range(count)]
        return sum(level.late == 0 for (level,) in taken)

    assert await let_in(known, 3) == 3
    with capture_logs() as logs:
        await valkey.stop()
        assert await let_in(known, 5) == 2  # what was spent before is spent
        assert await let_in(fresh, 9) == 4  # and nobody is let in, or kept out, just because of that
        assert REGISTRY.get_sample_value("aos_throttle_alone") == 1
        await valkey.start()
        assert await let_in(hourly("new", 2), 3) == 2
    assert [entry["event"].split(";")[0] for entry in logs] == [
        "redis does not count requests",
        "redis counts requests again",
    ]
    assert REGISTRY.get_sample_value("aos_throttle_alone") == 0
    await throttle.close()


async def fresh(shared: RedisBuckets) -> Level:
    """Take one request out of a bucket that was never used; out of another one, whenever Redis has not answered in time."""
    while True:
        with suppress(RedisAway):
            (level,) = await shared.take([hourly(str(uuid4()), 9)], 1)
            return level


async def test_a_redis_that_hangs_is_away_and_its_late_answers_are_nobodys(valkey: EmbeddedValkey) -> None:
    shared = RedisBuckets(valkey.url(), "test:")
    await fresh(shared)
    pid = valkey.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        outcomes = await asyncio.gather(
            *(shared.take([hourly("one", 9)], 3) for _ in range(3)), return_exceptions=True
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [type(outcome) for outcome in outcomes] == [RedisAway] * 3
    assert await fresh(shared) == Level(0, HOUR_US)
    await shared.close()


async def test_a_redis_that_is_away_is_asked_again_only_after_a_while_and_by_one(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos_dispatcher.throttling._AWAY_S", 600.0)
    shared = RedisBuckets(redis_url, "test:")
    asked = 0

    async def away(*_: object) -> list[Level]:
        nonlocal asked
        asked += 1
        raise RedisAway("for now")

    monkeypatch.setattr(shared, "take", away)
    throttle = Throttle(shared)
    await asyncio.gather(*(throttle.take([hourly("x", 3)], 1) for _ in range(20)))
    told = asked
    await asyncio.gather(*(throttle.take([hourly("x", 3)], 1) for _ in range(20)))
    assert asked == told
    throttle._ask_at -= 600
    await asyncio.gather(*(throttle.take([hourly("x", 3)], 1) for _ in range(20)))
    assert asked == told + 1
    await throttle.close()
    THROTTLE_ALONE.set(0)


def request(token: str) -> Request:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "method": "POST", "path": "/v1/x", "headers": headers})


@pytest.fixture
def door(network: Network) -> Callable[..., Any]:
    """Ask for admission with a token, from an address, under settings of the gateway, always at the same moment."""
    network.dispatcher.front.throttle._local = LocalBuckets(lambda: 1_800_000_000.0)

    async def ask(token: str = "", *, address: str = "192.0.2.1", cost: int = 1, **settings: float) -> Any:
        gateway = Gateway.model_validate(settings)
        service = network.dispatcher
        object.__setattr__(service, "settings", service.settings.model_copy(update={"gateway": gateway}))
        caller_address.set(address)
        return await admit(request(token or network.token), service, "shop", cost)

    return ask


def limits(headers: dict[str, str]) -> tuple[str, str]:
    return headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]


async def test_answers_say_what_the_tighter_limit_leaves(door: Callable[..., Any]) -> None:
    settings = {"token_rate": 0.01, "token_burst": 5, "address_rate": 0.01, "address_burst": 4}
    told = await door(**settings)
    assert limits(told) == ("4", "3")
    assert told["x-ratelimit-reset-requests"] == "1m40s"
    assert limits(await door(**settings, address="192.0.2.2")) == ("5", "3")
    assert await door(token_rate=0, address_rate=0) == {}


async def test_a_refusal_says_which_limit_and_when_to_come_again(door: Callable[..., Any]) -> None:
    settings = {"token_rate": 0.01, "token_burst": 3, "address_rate": 0.001, "address_burst": 3}
    before = REGISTRY.get_sample_value("aos_submissions_refused_total", {"limit": "address"}) or 0
    await door(**settings, cost=3)
    with pytest.raises(TooMany, match=r"this address sends faster than 0\.001 requests a second") as refused:
        await door(**settings)
    assert refused.value.limit == "address"
    assert refused.value.retry_after == 1000
    assert limits(refused.value.headers) == ("3", "0")
    assert refused.value.headers["x-ratelimit-reset-requests"] == "50m0s"
    after = REGISTRY.get_sample_value("aos_submissions_refused_total", {"limit": "address"})
    assert after == before + 1


async def test_what_never_fits_is_refused_by_name_and_costs_nothing(door: Callable[..., Any]) -> None:
    settings = {"token_rate": 0.01, "token_burst": 3}
    with pytest.raises(Unprocessable, match="n: 4 answers are more than the 3 that this API token may ask"):
        await door(**settings, cost=4)
    assert limits(await door(**settings)) == ("3", "2")


async def test_addresses_of_one_ipv6_network_count_together_and_a_unix_socket_has_none(
    door: Callable[..., Any],
) -> None:
    settings = {"token_rate": 0, "address_rate": 0.01, "address_burst": 2}
    assert limits(await door(**settings, address="2001:db8::1")) == ("2", "1")
    assert limits(await door(**settings, address="2001:db8::ffff:2")) == ("2", "0")
    assert limits(await door(**settings, address="2001:db8:0:1::1")) == ("2", "1")
    assert await door(**settings, address="") == {}


async def test_tokens_of_one_project_count_apart_and_secrets_are_no_keys(
    network: Network, door: Callable[..., Any]
) -> None:
    other = await network.project("other")
    first = network.token
    settings = {"token_rate": 0.01, "token_burst": 2, "address_rate": 0}
    assert limits(await door(first, **settings)) == ("2", "1")
    assert limits(await door(other + "x", **settings)) == ("2", "1")  # none: its project's
    keys = list(network.dispatcher.front.throttle._local._full_at)
    presented = present(first)
    assert presented is not None
    assert keys == [f"token:{presented.id}", "token:project:shop"]
