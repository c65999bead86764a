"""`provider.yaml`: Symmetry's keys, and where the dispatcher is, which Symmetry has a DHT for."""

import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal

from coincurve import PublicKey
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)

from aos_cli.provider_secret import check_secret
from aos_protocol.errors import InvalidAddress
from aos_protocol.fields import storable
from aos_protocol.identity import address_of, checksum_address

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})|\[?[0-9A-Fa-f:.]{2,45}\]?")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")
_X_ONLY = re.compile(r"[0-9a-fA-F]{64}")
_COMPRESSED = re.compile(r"0[23][0-9a-fA-F]{64}")


def _text(value: object) -> object:
    if isinstance(value, bool | int | float):
        raise ValueError("is a number to YAML: put it in quotes")  # noqa: TRY004 - pydantic shows a ValueError only
    return value


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("must be a host name or an IP address, without http:// and without a port")
    return f"[{text}]" if ":" in text and not text.startswith("[") else text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("must be a path such as /v1, without host and query")
    return text.rstrip("/")


def _secret(secret: SecretStr) -> SecretStr:
    check_secret(secret.get_secret_value())
    return secret


def _empty_is_none(secret: SecretStr | None) -> SecretStr | None:
    return secret if secret is not None and secret.get_secret_value() else None


class ServerKey:
    """The dispatcher that is believed, by its secp256k1 key.

    Written as the key's x coordinate (64 hex digits, as in BIP 340), as a compressed point (66, SEC 1), or as the key's EIP-55 address.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._addresses = _addresses(text)

    def fits(self, address: str) -> bool:
        """Whether the key of this address is the one. Of a key known by its x coordinate there are two, the one the other's negative."""
        return address in self._addresses

    def __str__(self) -> str:
        return self.text


def _addresses(text: str) -> frozenset[str]:
    points = (
        ["02" + text, "03" + text]
        if _X_ONLY.fullmatch(text)
        else [text]
        if _COMPRESSED.fullmatch(text)
        else []
    )
    if not points:
        try:
            return frozenset([checksum_address(text)])
        except InvalidAddress:
            raise ValueError(
                "must be the dispatcher's key: 64 hex digits (its x coordinate), 66 (the compressed point) or its 0x address; "
                "GET /api/network/providers shows it as server_key"
            ) from None
    try:
        return frozenset(address_of(PublicKey(bytes.fromhex(point)).format()) for point in points)
    except ValueError:
        raise ValueError("is no point of secp256k1: copy it again from the dispatcher's owner") from None


def _dispatcher_url(text: str) -> str:
    # Late, since an operator's settings bring a database's libraries, half of what any `aos` command would otherwise load.
    from aos_operator.settings import dispatcher_url

    return dispatcher_url(text)


def _server_key(text: str) -> str:
    ServerKey(text)
    return text


Text = Annotated[
    str, StringConstraints(min_length=1, max_length=256), AfterValidator(storable), BeforeValidator(_text)
]
Message = Annotated[
    str, StringConstraints(min_length=1, max_length=65_536), AfterValidator(storable), BeforeValidator(_text)
]
Secret = Annotated[SecretStr, BeforeValidator(_text)]


class ProviderSettings(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_hostname: Annotated[str, BeforeValidator(_text), AfterValidator(_host)] = Field(alias="apiHostname")
    api_key: Annotated[Secret | None, AfterValidator(_empty_is_none)] = Field(None, alias="apiKey")
    api_base_path: Annotated[str, BeforeValidator(_text), AfterValidator(_path)] = Field(
        "/v1", alias="apiBasePath"
    )
    api_port: int = Field(alias="apiPort", ge=1, le=65_535)
    api_protocol: Literal["http", "https"] = Field("http", alias="apiProtocol")
    model: Text = Field(alias="modelName")
    name: Text
    server_key: Annotated[str, BeforeValidator(_text), AfterValidator(_server_key)] = Field(alias="serverKey")
    server_url: Annotated[str, AfterValidator(_dispatcher_url)] = Field(
        "ws://127.0.0.1:8000/ws", alias="serverUrl"
    )
    system_message: Message | None = Field(None, alias="systemMessage")
    user_secret: Annotated[Secret, AfterValidator(_secret)] = Field(alias="userSecret")

    @property
    def origin(self) -> str:
        """Where the model server is: protocol, host and port."""
        return f"{self.api_protocol}://{self.api_hostname}:{self.api_port}"

    @property
    def api_url(self) -> str:
        """Where its OpenAI-compatible API begins, such as http://localhost:11434/v1."""
        return self.origin + self.api_base_path

    @property
    def pin(self) -> ServerKey:
        """The dispatcher that is believed."""
        return ServerKey(self.server_key)


def default_file() -> Path:
    """`~/.config/aos/provider.yaml`, below XDG_CONFIG_HOME where that is set."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "aos" / "provider.yaml"


def memory_file(address: str) -> Path:
    """Where a provider of this address keeps its memory, below XDG_DATA_HOME where that is set."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "aos" / "provider" / address / "memory.sqlite"


def _xdg(variable: str, otherwise: str) -> Path:
    given = Path(os.environ.get(variable) or "")
    # XDG Base Directory Specification: a path that is not absolute is ignored.
    return given if given.is_absolute() else Path.home() / otherwise


def template(secret: str | None = None) -> str:
    """A commented file to begin with; its identity comes from `secret`, by default a new random one."""
    return _TEMPLATE.replace("USER_SECRET", secret or secrets.token_urlsafe(24))


_TEMPLATE = """\
# A provider of an AOS network: `aos provider` reads this file. The keys are Symmetry's; serverUrl is ours.
# chmod 600 it: apiKey and userSecret are secrets. A value may name an environment variable: apiKey: ${MY_API_KEY}

# The model server on this machine, or one that you trust with every prompt: anything that speaks OpenAI's API.
# Ollama listens on 11434, LM Studio on 1234, llama.cpp's llama-server on 8080, vLLM on 8000.
apiHostname: localhost
apiPort: 11434
apiProtocol: http
apiBasePath: /v1
# Sent to apiHostname, and to nobody else. Leave it empty if the server asks for none.
apiKey:

# The model to offer, by the name that the server has for it: it is the model's name on the network, too.
modelName: llama3:8b

# How the network's pages call this provider.
name: provider

# The dispatcher: where it is, and its key, by which it is believed. Nothing is said to one that has another key.
# Its owner knows the key; `aos up` prints it, and GET /api/network/providers of the dispatcher shows it as server_key.
serverUrl: http://127.0.0.1:8000
serverKey: "SERVER_KEY"

# Put before every conversation that brings no system message of its own. Results say that there was one, by its SHA-256.
# systemMessage: "You are a helpful assistant."

# This provider's identity: its key is derived from it. Who knows it can sign in this provider's name, and who loses it begins
# anew: keep a copy. It was made from the system's randomness; anything that people think up can be guessed.
userSecret: "USER_SECRET"
"""
