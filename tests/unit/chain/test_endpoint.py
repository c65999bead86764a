"""RPC URLs: which are taken, and what is shown of them."""

import pytest

from aos_chain.client import Chain
from aos_chain.endpoint import Endpoint
from aos_chain.errors import ChainError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://rpc.example/v3/KEY?apikey=KEY#KEY", "https://rpc.example"),
        ("https://user:KEY@rpc.example:444/", "https://rpc.example:444"),
        ("http://[::1]:8545/KEY", "http://[::1]:8545"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    endpoint = Endpoint(url, 1.0)
    assert endpoint.name == shown
    assert repr(endpoint) == f"Endpoint({shown})"
    assert repr(Chain.connect(url)) == f"Chain({shown})"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "KEY",
        "rpc.example/KEY",
        "ws://rpc.example/KEY",
        "http://",
        "http://host:KEY",
        "http://[KEY",
        "file:///KEY",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ChainError, match="the RPC URL cannot be read: give http") as raised:
        Chain.connect(url)
    assert "KEY" not in str(raised.value)
    assert raised.value.__cause__ is None
