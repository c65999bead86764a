"""Where a registered model is: at an http(s) URL on this very machine, whose path says what the model takes."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aos_operator.errors import Refused
from aos_protocol.fields import ModelKind

_PATHS: Final[dict[ModelKind, tuple[str, ...]]] = {
    0: ("/chat/completions",),
    1: ("/images/generations",),
    2: ("/images/edits",),
}
"""How the path of a model's URL ends, by its type."""

_LOCAL_NAMES: Final = {"localhost"}


@dataclass(frozen=True)
class Place:
    """A model's API: where it begins, such as `http://127.0.0.1:1042/v1`."""

    base: str

    @property
    def models(self) -> str:
        """Where it lists its models, if it does."""
        return f"{self.base}/models"


def place_of(api: str, kind: ModelKind) -> Place:
    """Read the URL that a model was registered with. Raises `Refused` (400) for one of another machine, or of another type of model."""
    try:
        parts = urlsplit(api)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong("is no URL") from None
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise _wrong("must be http://HOST:PORT/PATH, or https://")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise _wrong("must have no user, password, query or fragment")
    if not api.isascii() or any(character.isspace() or not character.isprintable() for character in api):
        raise _wrong("must be plain ASCII, without blanks")
    if not on_this_machine(host):
        raise _wrong(
            f"names {host}, and a model and its node are on the same machine: write 127.0.0.1, localhost or an address of this machine's own "
            "(a container's port must be published here)"
        )
    base = next((api.removesuffix(end) for end in _PATHS[kind] if parts.path.endswith(end)), None)
    if base is None:
        ends = " or ".join(_PATHS[kind])
        raise _wrong(f"must end with {ends}, since the model's type is {kind}")
    if not urlsplit(base).path.strip("/"):
        raise _wrong("must have a path before that, such as /v1")
    return Place(base)


def on_this_machine(host: str) -> bool:
    """Whether a host is this machine: `localhost`, or an address to which this machine can bind.

    Names are not looked up: what one means may change after it was looked at.
    """
    if host in _LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast or getattr(address, "ipv4_mapped", None) is not None:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))  # no packet is sent; the system refuses addresses that are not its own
        except OSError:
            return False
    return True


def _wrong(what: str) -> Refused:
    return Refused(400, f"api {what}")
