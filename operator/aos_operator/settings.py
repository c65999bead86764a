"""Settings of an operator: what `config-operator.yaml` may contain, with AOS's names, types and defaults.

Keys of AOS that have no meaning here are accepted, and `notices` says so.
"""

import ssl
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import URL

from aos_operator.backends.settings import BackendSettings
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address
from aos_service.database import database_url
from aos_service.tls import client_context
from aos_service.tracing import Telemetry
from aos_service.transport import worker_address


def _address(text: str) -> str:
    try:
        return checksum_address(text)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None


def dispatcher_url(text: str) -> str:
    """Return the address of a dispatcher's `/ws` for one that people write, with http:// or without the path. Raises `ValueError`."""
    parts = urlsplit(text)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError("must be ws://host:port/ws or wss://host/ws (http:// and https:// stand for them)")
    path = parts.path.rstrip("/")
    if parts.scheme != scheme or not path:
        path = path.removesuffix("/ws") + "/ws"
    return parts._replace(scheme=scheme, path=path).geturl()


def _dispatcher_urls(given: object) -> object:
    """One URL, or several of one dispatcher's processes."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return given
    return tuple(map(dispatcher_url, texts))


def _worker_url(text: str) -> str:
    worker_address(text)
    return text.rstrip("/")


def _listen(text: str) -> str:
    """Read `host:port`, also with http:// before it."""
    bare = text.removeprefix("http://").rstrip("/")
    parts = urlsplit(f"//{bare}")
    if not parts.hostname or not parts.port or parts.path or parts.query:
        raise ValueError("must be host:port, as in 127.0.0.1:21001")
    return bare


def _outer_url(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.port == 0
        or parts.query
        or parts.fragment
    ):
        raise ValueError("must be http://host:port or https://host, as clients reach this operator")
    return text.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """One block of the file: closed, so that a misspelt key is found rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Database(Group):
    """PostgreSQL: where, and how many connections; time-outs in seconds."""

    pg_db_url: SecretStr
    pg_db_name: str | None = Field(None, min_length=1)
    max_connect_pool: Positive = 30
    min_connect_pool: Positive = Field(10, validate_default=True)
    connect_timeout: Seconds = 30
    acquire_timeout: Seconds = 60

    @field_validator("pg_db_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("postgres://", "postgresql://")):
            raise ValueError(
                "must be postgres://user:password@host:port/name or postgres://user@/name?host=/folder"
            )
        return url

    @field_validator("pg_db_name")
    @classmethod
    def _names_the_same(cls, name: str | None, info: ValidationInfo) -> str | None:
        url = info.data.get("pg_db_url")
        in_url = urlsplit(url.get_secret_value()).path.strip("/") if url is not None else ""
        if name and in_url and name != in_url:
            raise ValueError(f"is not the database that pg_db_url names ({in_url}): leave one of them out")
        return name

    def url(self) -> URL:
        """Return the database's address. Raises `DatabaseError` when it cannot be read or names no database."""
        parts = urlsplit(self.pg_db_url.get_secret_value())
        if self.pg_db_name and not parts.path.strip("/"):
            parts = parts._replace(path="/" + quote(self.pg_db_name, safe=""))
        return database_url(parts.geturl())

    @field_validator("min_connect_pool")
    @classmethod
    def _fits(cls, minimum: int, info: ValidationInfo) -> int:
        if minimum > info.data.get("max_connect_pool", minimum):
            raise ValueError("must not exceed max_connect_pool")
        return minimum


class Queue(Group):
    """Redis: where, and the last part of the stream's name, `aos:{operator}:{topic}`."""

    queue_url: SecretStr
    topic: str = Field("task", pattern=r"^[A-Za-z0-9_.-]{1,64}$")

    @field_validator("queue_url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be redis://host:port/0, rediss://host:port/0 or unix:///folder/redis.sock")
        return url


class Tls(Group):
    """PEM files for wss://: by which authorities a dispatcher is believed (else the system's), and what this operator shows when asked."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = Field(None, validate_default=True)

    @field_validator("key")
    @classmethod
    def _goes_with_the_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("certificate") is None):
            raise ValueError("and certificate are given together, or not at all")
        return key

    def context(self) -> ssl.SSLContext:
        """Return what connects by these files. Raises `TlsError` or `KeyFileError` when one cannot be used."""
        return client_context(self.ca, self.certificate, self.key)


class Net(Group):
    """Where the dispatcher and the worker are. Several `dispatcher_url` are those of processes that are one dispatcher.

    Clients of direct sessions reach this operator at `outer_url`, for which it listens on `rest_url`; without that, on loopback, on the same port.
    """

    dispatcher_url: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_dispatcher_urls)]
    tls: Tls | None = None
    worker_url: Annotated[str, AfterValidator(_worker_url)] = "http://127.0.0.1:5005"
    worker_timeout: Seconds = 900
    worker_concurrency: Positive = 4
    rest_url: Annotated[str, AfterValidator(_listen)] | None = None
    outer_url: Annotated[str, AfterValidator(_outer_url)] | None = None
    callback_url: str | None = None
    tee_llm_cid: int = Field(15, ge=3, le=2**32 - 1)
    tee_llm_port: int = Field(5005, ge=1, le=2**32 - 1)

    @field_validator("tls")
    @classmethod
    def _is_of_use(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        if tls is not None and not all(url.startswith("wss:") for url in info.data.get("dispatcher_url", ())):
            raise ValueError(
                "is for TLS, and dispatcher_url names none: write wss://host:port/ws, or leave tls out"
            )
        return tls

    @property
    def listen(self) -> tuple[str, int] | None:
        """Host and port for clients of direct sessions; None when they reach this operator by way of the dispatcher only."""
        if self.outer_url is None:
            return None
        if self.rest_url is None:
            outer = urlsplit(self.outer_url)
            return "127.0.0.1", outer.port or {"http": 80, "https": 443}[outer.scheme]
        parts = urlsplit(f"//{self.rest_url}")
        return str(parts.hostname), int(parts.port or 0)


class Node(Group):
    """Who this operator is, whom it trusts, and what it takes on."""

    node_id: Address | None = None
    signer_key: SecretStr | None = None
    keystore: Path | None = None
    keystore_password_file: Path | None = None
    vrf_key: SecretStr | None = None
    dispatcher_address: Address
    node_type: Literal["opml", "tee"] = "opml"
    cache_msg_maximum: Positive = 500
    heartbeat_interval: Seconds = 10
    ai_models: list[str] = Field(default_factory=list, max_length=256)

    @field_validator("vrf_key")
    @classmethod
    def _is_signer_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        signer = info.data.get("signer_key")
        if key is not None and (signer is None or _digits(key) != _digits(signer)):
            raise ValueError(
                "must be the same as signer_key, or left out: a ticket counts only when it is drawn with the operator's "
                "own key, else anybody could try keys until one is selected"
            )
        return key


class Chain(Group):
    """The registry contract `vrf_range_contract`, created in block `deployed_at` or later, and a chain's RPC endpoint to read it through.

    Without them, ranges are what the dispatcher says. `confirmations` is how many blocks must be on top of one before it counts.
    """

    chain_rpc_url: SecretStr | None = None
    vrf_range_contract: Address | None = Field(None, validate_default=True)
    deployed_at: int = Field(0, ge=0)
    confirmations: int = Field(1, ge=0)
    vrf_sort_precision: int | None = None

    @field_validator("chain_rpc_url")
    @classmethod
    def _is_http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and urlsplit(url.get_secret_value()).scheme not in {"http", "https"}:
            raise ValueError("must be http://host:port or https://host/path")
        return url

    @field_validator("vrf_range_contract")
    @classmethod
    def _goes_with_the_endpoint(cls, contract: str | None, info: ValidationInfo) -> str | None:
        if "chain_rpc_url" not in info.data:  # it is wrong itself
            return contract
        if (contract is None) != (info.data["chain_rpc_url"] is None):
            raise ValueError(
                "and chain_rpc_url are given together, or not at all: the registry, and where it is read"
            )
        return contract


class Api(Group):
    """How many stored tasks are read at a time when the operator starts."""

    read_maximum: Positive = 20


class Registration(Group):
    """The port of this machine's loopback on which models register themselves; DBC's is 6000."""

    port: int = Field(6000, ge=1, le=65_535)


class NodeSettings(Group):
    """What an operator needs to know wherever its memory is kept."""

    net: Net
    node: Node
    api: Api = Api()


class OperatorSettings(NodeSettings):
    """The whole file."""

    db: Database
    queue: Queue
    chain: Chain = Chain()
    telemetry: Telemetry = Telemetry()
    backends: Annotated[list[BackendSettings], Field(max_length=64)] = []
    registration: Registration | None = None

    @field_validator("backends")
    @classmethod
    def _instead_of_the_worker(
        cls, backends: list[BackendSettings], info: ValidationInfo
    ) -> list[BackendSettings]:
        node, net = info.data.get("node"), info.data.get("net")
        if backends and node is not None and node.node_type == "tee":
            raise ValueError("are for node_type opml: an enclave is an operator's only worker")
        if backends and net is not None and "worker_url" in net.model_fields_set:
            raise ValueError(
                "stand in place of net.worker_url: leave it out, and write {kind: worker, url: ...}"
            )
        return backends

    @field_validator("registration")
    @classmethod
    def _is_for_no_enclave(
        cls, registration: Registration | None, info: ValidationInfo
    ) -> Registration | None:
        node = info.data.get("node")
        if registration is not None and node is not None and node.node_type == "tee":
            raise ValueError("is for node_type opml: an enclave is an operator's only worker")
        return registration

    @property
    def has_worker(self) -> bool:
        """Whether there is one worker at `worker_url`: not beside `backends`, nor where models register and the settings name none."""
        return not self.backends and (self.registration is None or "worker_url" in self.net.model_fields_set)

    @property
    def worker_url(self) -> str:
        """Where the worker is: `net.worker_url`; unless that is given, a `tee` operator's is the enclave on vsock."""
        if self._on_vsock:
            return f"vsock://{self.net.tee_llm_cid}:{self.net.tee_llm_port}"
        return self.net.worker_url

    @property
    def _on_vsock(self) -> bool:
        return self.node.node_type == "tee" and "worker_url" not in self.net.model_fields_set

    def notices(self) -> list[str]:
        """Say which keys of the file have no effect in this version, and what holds instead."""
        said = [
            f"{key} has no effect: {why}"
            for key, value, why in (
                ("net.callback_url", self.net.callback_url, "workers answer in the response"),
                ("chain.vrf_sort_precision", self.chain.vrf_sort_precision, "selection is exact"),
            )
            if value is not None
        ]
        said += [
            f"net.{key} has no effect: node_type is opml, or net.worker_url says where the enclave is"
            for key in ("tee_llm_cid", "tee_llm_port")
            if key in self.net.model_fields_set and not self._on_vsock
        ]
        if self.net.rest_url is not None and self.net.outer_url is None:
            said.append(
                "net.rest_url has no effect: without net.outer_url, clients are not told where to come"
            )
        return said


def _digits(key: SecretStr) -> str:
    return key.get_secret_value().lower().removeprefix("0x")
