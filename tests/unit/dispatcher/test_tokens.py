"""What a token looks like, how guessing is limited, and how long what is known of one is remembered."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.aged import AgedCache
from aos_dispatcher.attempts import WINDOW_S, Attempts
from aos_dispatcher.errors import TooManyGuesses
from aos_dispatcher.tokens import present
from aos_service.redaction import redact_text
from support.tokens import BASE62, token

MOST = 20
SCANNED_FOR = re.compile(r"\baos_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b")
"""What docs/security.md tells scanners of source code to look for."""


def test_a_token_is_found_by_a_scanner_and_names_its_id() -> None:
    found = SCANNED_FOR.search(f'const TOKEN = "{token()}";')
    assert found is not None
    presented = present(found[0])
    assert presented is not None
    assert presented.id == "4fzNqS0bX9aT"


def test_a_token_of_before_has_no_id() -> None:
    presented = present("aos_" + "x_-" * 14 + "y")
    assert presented is not None
    assert presented.id is None


@given(st.text(max_size=80))
def test_what_is_no_token_is_none_whatever_it_is(text: str) -> None:
    assert present(text) is None or text.startswith("aos_")


@given(st.integers(0, 65), st.sampled_from(BASE62))
def test_a_token_with_one_character_changed_costs_no_query(place: int, character: str) -> None:
    good = token()
    changed = good[:place] + character + good[place + 1 :]
    assert changed == good or present(changed) is None


@pytest.mark.parametrize("text", ["", "aos_", "\ud800" * 66, token() + "\n", token()[:-1], f" {token()}"])
def test_what_looks_nearly_like_one_is_none(text: str) -> None:
    assert present(text) is None


def test_logs_show_the_id_of_a_token_and_never_the_token() -> None:
    for old_or_new in (token(), "aos_" + "x_-" * 14 + "y"):
        for text in (old_or_new, f"refused {old_or_new}, sorry", f"'{old_or_new}'"):
            assert old_or_new not in redact_text(text)
    assert redact_text(f"token {token()} was refused") == "token aos_4fzNqS0bX9aT_*** was refused"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(attempts: Attempts, address: str, times: int) -> None:
    for _ in range(times):
        attempts.check(address)
        attempts.failed(address)


def test_an_address_that_guesses_is_not_heard_until_its_minute_is_over() -> None:
    clock = Clock()
    attempts = Attempts(MOST, clock)
    fail(attempts, "192.0.2.1", MOST)
    clock.now += 10.5
    with pytest.raises(TooManyGuesses) as refused:
        attempts.check("192.0.2.1")
    assert refused.value.status == 429
    assert refused.value.retry_after == 50
    attempts.check("192.0.2.2")
    clock.now += WINDOW_S - 10.5
    fail(attempts, "192.0.2.1", MOST)
    with pytest.raises(TooManyGuesses):
        attempts.check("192.0.2.1")


def test_a_subscriber_s_addresses_are_one() -> None:
    attempts = Attempts(MOST, Clock())
    for host in range(MOST):
        fail(attempts, f"2001:db8:1:2::{host:x}", 1)
    with pytest.raises(TooManyGuesses):
        attempts.check("2001:db8:1:2:ffff::1")
    attempts.check("2001:db8:1:3::1")
    fail(attempts, "192.0.2.7", MOST - 1)
    fail(attempts, "::ffff:192.0.2.7", 1)
    with pytest.raises(TooManyGuesses):
        attempts.check("192.0.2.7")


def test_the_table_of_addresses_is_bounded_and_keeps_the_newest() -> None:
    clock = Clock()
    attempts = Attempts(MOST, clock)
    for number in range(5000):
        clock.now += 0.001
        fail(attempts, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", MOST)
    assert len(attempts) == 4096
    attempts.check("10.0.0.0")
    with pytest.raises(TooManyGuesses):
        attempts.check("10.0.19.135")


def test_a_cache_forgets_by_age_however_often_it_is_asked_and_by_size() -> None:
    clock = Clock()
    cache: AgedCache[str, int] = AgedCache(5, 2, clock)
    cache.put("a", 1)
    for _ in range(4):
        clock.now += 1
        assert cache.get("a") == 1
    cache.put("b", 2)
    clock.now += 1
    assert (cache.get("a"), cache.get("b")) == (None, 2)
    cache.put("c", 3)
    cache.put("d", 4)
    assert (cache.get("b"), cache.get("c"), cache.get("d"), len(cache)) == (None, 3, 4, 2)
