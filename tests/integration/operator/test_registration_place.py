"""A registered model is on this machine, at a URL that says what it takes."""

import ipaddress
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.errors import Refused
from aos_operator.registration_place import on_this_machine, place_of
from aos_protocol.fields import ModelKind


@pytest.mark.parametrize(
    ("api", "kind", "base"),
    [
        ("http://127.0.0.1:1042/v1/chat/completions", 0, "http://127.0.0.1:1042/v1"),
        ("http://localhost:1042/v1/chat/completions", 0, "http://localhost:1042/v1"),
        ("https://127.0.0.1/v1/chat/completions", 0, "https://127.0.0.1/v1"),
        ("http://[::1]:1042/v1/chat/completions", 0, "http://[::1]:1042/v1"),
        ("http://127.8.9.10:1042/a/b/v1/images/generations", 1, "http://127.8.9.10:1042/a/b/v1"),
        ("http://127.0.0.1:1042/v1/images/edits", 2, "http://127.0.0.1:1042/v1"),
    ],
)
def test_the_url_says_where_the_api_begins(api: str, kind: ModelKind, base: str) -> None:
    place = place_of(api, kind)
    assert place.base == base
    assert place.models == f"{base}/models"


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("http://198.51.100.1:1042/v1/chat/completions", "on the same machine"),
        ("http://example.com/v1/chat/completions", "on the same machine"),
        ("http://localhost.example.com/v1/chat/completions", "on the same machine"),
        ("http://0.0.0.0:1042/v1/chat/completions", "on the same machine"),
        ("http://[::]:1042/v1/chat/completions", "on the same machine"),
        ("http://[::ffff:198.51.100.1]:1042/v1/chat/completions", "on the same machine"),
        ("http://2130706433/v1/chat/completions", "on the same machine"),
        ("http://0x7f.1/v1/chat/completions", "on the same machine"),
        ("http://169.254.169.254/v1/chat/completions", "on the same machine"),
        ("http://224.0.0.1/v1/chat/completions", "on the same machine"),
        ("ftp://127.0.0.1/v1/chat/completions", "http://HOST:PORT/PATH"),
        ("unix:/run/model.sock", "http://HOST:PORT/PATH"),
        ("127.0.0.1:1042/v1/chat/completions", "http://HOST:PORT/PATH"),
        ("http:///v1/chat/completions", "http://HOST:PORT/PATH"),
        ("http://127.0.0.1:0/v1/chat/completions", "http://HOST:PORT/PATH"),
        ("http://127.0.0.1:65536/v1/chat/completions", "is no URL"),
        ("http://[127.0.0.1/v1/chat/completions", "is no URL"),
        ("http://user:password@127.0.0.1/v1/chat/completions", "no user, password"),
        ("http://127.0.0.1@198.51.100.1/v1/chat/completions", "no user, password"),
        ("http://127.0.0.1/v1/chat/completions?key=x", "no user, password"),
        ("http://127.0.0.1/v1/chat/completions#x", "no user, password"),
        ("http://127.0.0.1/v 1/chat/completions", "plain ASCII"),
        ("http://127.0.0.1/\r\nx/chat/completions", "plain ASCII"),
        ("http://127.0.0.1/ü/chat/completions", "plain ASCII"),
        ("http://127.0.0.1/v1/completion", "must end with /chat/completions"),
        ("http://127.0.0.1:1042/chat/completions", "a path before that, such as /v1"),
        ("http://127.0.0.1/v1/images/generations", "must end with /chat/completions"),
    ],
)
def test_others_are_refused_with_what_is_wrong(api: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        place_of(api, 0)
    assert caught.value.code == 400


def test_the_path_goes_with_the_type() -> None:
    with pytest.raises(Refused, match="must end with /images/edits, since the model's type is 2"):
        place_of("http://127.0.0.1/v1/images/generations", 2)


def test_an_address_of_an_own_interface_is_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.9", 9))  # no packet is sent
        assert on_this_machine(probe.getsockname()[0])
    addresses = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    assert all(on_this_machine(str(address)) for address in addresses)


_HOSTS = st.sampled_from(["127.0.0.1", "localhost", "[::1]", "[fe80::1%lo]", "198.51.100.1", "[", "[v1.x]"])
_URLS = st.builds(
    lambda scheme, host, port, path: f"{scheme}://{host}{port}/{path}",
    st.sampled_from(["http", "https", "ws", ""]),
    _HOSTS | st.text(max_size=12),
    st.sampled_from(["", ":", ":80", ":-1", ":65536", ":x"]),
    st.text(max_size=20) | st.just("v1/chat/completions"),
)


@given(_URLS | st.text(max_size=60), st.sampled_from([0, 1, 2]))
def test_whatever_comes_is_on_this_machine_or_refused(api: str, kind: ModelKind) -> None:
    try:
        place = place_of(api, kind)
    except Refused:
        return
    host = httpx.URL(place.models).host
    assert host == "localhost" or ipaddress.ip_address(host).is_loopback
    assert api.startswith(place.base)
