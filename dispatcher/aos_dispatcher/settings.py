"""Settings of a dispatcher: what `dispatcher -c FILE` may contain. Unknown keys are errors."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from aos_dispatcher.rates import FASTEST_RATE, LARGEST_BURST, SLOWEST_RATE
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.errors import InvalidAddress
from aos_protocol.fields import EvidenceLevel
from aos_protocol.identity import checksum_address
from aos_protocol.images import MAX_IMAGE_BYTES
from aos_protocol.typed_data import Domain
from aos_service.settings import load_settings
from aos_service.tracing import Telemetry

NO_REGISTRY = "0x0000000000000000000000000000000000000000"


def _address(text: str) -> str:
    try:
        return checksum_address(text)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None


Address = Annotated[str, AfterValidator(_address)]


class Group(BaseModel):
    """One block of the file: closed, so that a misspelt key is found rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Database(Group):
    """PostgreSQL: where, how many connections, and how long anything waits for it, in seconds.

    While it does not answer, a request waits for `acquire_timeout` and the longer of the two others at most, and gets 503.
    """

    url: SecretStr
    min_connect_pool: int = Field(10, ge=1)
    max_connect_pool: int = Field(20, ge=1)
    connect_timeout: float = Field(3, gt=0)
    acquire_timeout: float = Field(3, gt=0)
    statement_timeout: float = Field(5, gt=0)


class Identity(Group):
    """The dispatcher's key: an encrypted keystore file (preferred), or the key itself in hex."""

    keystore: Path | None = None
    keystore_password_file: Path | None = None
    signer_key: SecretStr | None = None


class Tls(Group):
    """PEM files: the certificate with its chain, its private key, and whose certificates operators must show, if they must."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Listen(Group):
    """Where HTTP and `/ws` are served, and by which certificate; without `tls`, in the clear.

    `drain` is for how many seconds requests are still served once the process is told to stop: as long as a balancer needs to notice.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    tls: Tls | None = None
    drain: float = Field(0, ge=0, le=600)


class Limits(Group):
    """What is refused for its size (bytes), for its slowness (seconds), and for how much there is already.

    `requests` are those served at the same time, `waiting_jobs` those of all projects that wait for a committee, `wrong_tokens` the API
    tokens that nobody has which one address may send within a minute. An image that a project sends, or has fetched, may have `upload_bytes`,
    one of an answer `blob_bytes`, and all that are kept `blobs_bytes`; each is kept for `blob_hours`.
    """

    head_bytes: int = Field(1 << 16, ge=1024)
    body_bytes: int = Field(1 << 20, ge=1024)
    frame_bytes: int = Field(4 << 20, ge=65_536)
    head_timeout: float = Field(10, gt=0)
    body_timeout: float = Field(30, gt=0)
    connections: int = Field(10_000, ge=1)
    requests: int = Field(1000, ge=1)
    waiting_jobs: int = Field(100_000, ge=1)
    wrong_tokens: int = Field(20, ge=1)
    upload_bytes: int = Field(8 << 20, ge=1024, le=MAX_IMAGE_BYTES)
    blob_bytes: int = Field(16 << 20, ge=1024, le=MAX_IMAGE_BYTES)
    blobs_bytes: int = Field(8 << 30, ge=0)
    blob_hours: float = Field(24, gt=0, le=24 * 366, allow_inf_nan=False)


class Dispatch(Group):
    """How long the dispatch loop waits, in seconds, and how many rounds it runs at once."""

    draw_timeout: float = Field(3, gt=0)
    reassign_after: float = Field(15, gt=0)
    member_timeout: float = Field(300, gt=0)
    job_timeout: float = Field(900, gt=0)
    lease: float = Field(15, gt=0)
    concurrency: int = Field(256, ge=1)


class Sessions(Group):
    """Direct sessions, in seconds: how long a client may take to begin once it has one, and how long it is waited for an operator that takes the job."""

    begin: float = Field(60, ge=1, le=3600)
    wait: float = Field(20, gt=0, le=300)


class Verification(Group):
    """Which share of untagged jobs is verified anyway, what answers have to show at least, and what follows from verdicts.

    Of `least_evidence` less than fingerprints, answers are taken that nobody can check: operators with models that show less may connect.
    """

    audit_share: float = Field(0.1, ge=0, le=1)
    least_evidence: EvidenceLevel = "fingerprints"
    challenge_window: float = Field(3600, ge=0)
    suspend_after: int = Field(2, ge=1)
    open_challenges: int = Field(8, ge=1)

    @property
    def audit_ppm(self) -> int:
        """The share in millionths, as evidence states it."""
        return round(self.audit_share * 1_000_000)


class Chain(Group):
    """The EIP-712 domain of all signatures, zero where there is no chain, and with an RPC endpoint the chain itself.

    With `rpc_url` the registry is the contract `registry`, created in block `deployed_at` or later, and the log is anchored in the
    contract `anchor` every `anchor_interval` seconds (0, or no contract: never). `confirmations` is how many blocks must be on top of one
    before it counts; what was confirmed more than `maximum_age` seconds ago is not drawn by.
    """

    chain_id: int = Field(0, ge=0)
    registry: Address = NO_REGISTRY
    rpc_url: SecretStr | None = Field(None, validate_default=True)
    anchor: Address | None = None
    deployed_at: int = Field(0, ge=0)
    confirmations: int = Field(2, ge=0)
    poll_interval: float = Field(2, gt=0, allow_inf_nan=False)
    maximum_age: float = Field(300, gt=0, allow_inf_nan=False)
    anchor_interval: float = Field(60, ge=0, allow_inf_nan=False)

    @field_validator("rpc_url")
    @classmethod
    def _has_a_registry(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is None:
            return url
        if urlsplit(url.get_secret_value()).scheme not in {"http", "https"}:
            raise ValueError("must be http://host:port or https://host/path")
        if info.data.get("chain_id") == 0 or info.data.get("registry") == NO_REGISTRY:
            raise ValueError(
                "needs chain_id and registry beside it: which chain it is, and where the contract OperatorRegistry is"
            )
        return url

    def domain(self) -> Domain:
        """Return the domain that every signature of this network is made in."""
        return Domain(self.chain_id, self.registry)


class Attestation(Group):
    """Which enclaves are believed: a policy file, relative to the settings file. Without one, no `tee` jobs are taken."""

    policy: Path | None = None


class Cluster(Group):
    """Redis, over which processes with one identity and one database are one dispatcher. Without it a process is alone.

    Every process says each `heartbeat` seconds that it is there, and is forgotten after three that were missed.
    """

    redis_url: SecretStr | None = None
    heartbeat: float = Field(2, gt=0, le=60)

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be redis://host:port/0, rediss://host:port/0 or unix:///folder/redis.sock")
        return url


def _rate(rate: float) -> float:
    if rate and rate < SLOWEST_RATE:
        raise ValueError("must be 0 for no limit, or at least one an hour, 0.000278")
    return rate


RequestRate = Annotated[float, Field(ge=0, le=FASTEST_RATE, allow_inf_nan=False), AfterValidator(_rate)]
Burst = Annotated[int, Field(ge=1, le=LARGEST_BURST)]


class Gateway(Group):
    """What is bounded under `/v1`, and of those who listen to `/ws/stats`.

    Rates are requests a second of one API token and of one address (0: no limit), bursts how many at once. A conversation takes
    `conversation_turns` requests and bytes of JSON, and is forgotten after `conversation_hours` without one; a project has so many
    `conversations`. `listeners` may be connected to this process, and so many of one address. With `fetch_images`, an image to be edited may be
    named by its URL, on one of `fetch_ports`, of a public host; `fetch_allow` are further networks that are trusted.
    """

    token_rate: RequestRate = 20
    token_burst: Burst = 100
    address_rate: RequestRate = 50
    address_burst: Burst = 200
    conversation_turns: int = Field(200, ge=1, le=10_000)
    conversation_bytes: int = Field(262_144, ge=1024, le=8 << 20)
    conversation_hours: float = Field(24, gt=0, le=24 * 3660, allow_inf_nan=False)
    conversations: int = Field(10_000, ge=1)
    listeners: int = Field(1000, ge=0)
    listeners_per_address: int = Field(20, ge=1)
    fetch_images: bool = True
    fetch_ports: frozenset[Annotated[int, Field(ge=1, le=65_535)]] = frozenset({80, 443})
    fetch_allow: tuple[IPv4Network | IPv6Network, ...] = ()


class DispatcherSettings(Group):
    """The whole file."""

    database: Database
    identity: Identity
    listen: Listen = Listen()
    limits: Limits = Limits()
    dispatch: Dispatch = Dispatch()
    sessions: Sessions = Sessions()
    verification: Verification = Verification()
    chain: Chain = Chain()
    attestation: Attestation = Attestation()
    cluster: Cluster = Cluster()
    gateway: Gateway = Gateway()
    telemetry: Telemetry = Telemetry()


def load_policy(settings: DispatcherSettings, file: Path) -> AttestationPolicy | None:
    """Read the attestation policy that the settings in `file` name; None when they name none. Raises `SettingsError`."""
    policy = settings.attestation.policy
    return None if policy is None else load_settings(file.parent / policy, AttestationPolicy)
