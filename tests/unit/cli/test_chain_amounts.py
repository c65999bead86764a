"""Ether and times: exact, and whatever is neither is a usage error."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from aos_cli.chain_amounts import ether, seconds, span, wei


@given(st.integers(0, 10**40))
def test_an_amount_that_is_shown_is_the_one_that_is_read(amount: int) -> None:
    shown = ether(amount)
    assert shown.endswith(" ETH")
    if amount < 10**48:
        assert wei(shown.removesuffix(" ETH")) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1", 10**18), ("0.1", 10**17), ("0.000000000000000001", 1), ("007.50", 75 * 10**17), ("0", 0)],
)
def test_amounts(text: str, amount: int) -> None:
    assert wei(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "0.0000000000000000001", "1 ETH", "nan", "٣", "1_0"],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no amount of ether: write it like 2 or 0\.05"):
        wei(text)


@pytest.mark.parametrize(
    ("text", "time"), [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("0", 0)]
)
def test_times(text: str, time: int) -> None:
    assert seconds(text) == time


@pytest.mark.parametrize("text", ["", "d", "1.5h", "-1", "1w", "1 d", "1d2h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        seconds(text)


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (3_600, "1 h"),
        (7_501, "2 h 5 min"),
        (86_401, "1 d 1 s"),
        (14 * 86_400, "14 d"),
    ],
)
def test_times_in_words(time: int, said: str) -> None:
    assert span(time) == said
