"""What anybody is shown of the network: the shapes of `GET /api/network/providers` and of `/ws/stats` (`network` makes them).

Nothing in them says who asks or what: there are no projects that submit, users, jobs or prompts, and no addresses of machines.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from aos_protocol.fields import Ability, Address, EvidenceLevel, Hex32, ModelKind, WorkerType

MOST_PUSHED: Final = 200
"""How many models, and how many providers, the pushed summary names: the busiest."""


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdicts(_Shown):
    """Verdicts on answers within the last hour. `match_rate` is the share of `match` among those that decided; null where none did."""

    match: int = 0
    mismatch: int = 0
    inconclusive: int = 0
    match_rate: float | None = None


class Queue(_Shown):
    """Jobs that wait for a committee, and jobs that have one and are worked on."""

    waiting: int
    running: int


class Live(_Shown):
    """Answers that an operator is to make now, and answers of others that it is to check."""

    executing: int
    verifying: int


class ModelSummary(_Shown):
    """A model: what its name stands for, how many connected operators serve it, and what is done with it."""

    name: str
    job_type: WorkerType
    sha256: Hex32
    providers: int
    jobs: Queue
    tokens_per_second: float


class ProviderSummary(_Shown):
    """An operator that is connected; `direct` says that clients can reach it themselves, `suspended` that no draw asks it."""

    address: Address
    number: int
    standing: Literal["good", "suspended"]
    direct: bool
    jobs: Live
    tokens_per_second: float
    verdicts: Verdicts


class Identity(_Shown):
    """A running instance of a model: on which node, of which registered project, which model, in which container."""

    node_id: Address
    project: str
    model: str
    cid: str
    kind: ModelKind


class ProvidedModel(_Shown):
    """A model as an operator serves it: of which kinds, what can be shown of its answers, and what it is able to do."""

    name: str
    job_type: WorkerType
    sha256: Hex32
    kinds: list[ModelKind]
    evidence: EvidenceLevel
    able: list[Ability]
    tokens_per_second: float
    instances: list[Identity]


class Provider(ProviderSummary):
    """An operator with all that it serves."""

    models: list[ProvidedModel]


class _Totals(_Shown):
    dispatcher: Address
    server_key: Hex32
    connected: int
    jobs: Queue
    tokens_per_second: float
    verdicts: Verdicts


class Network(_Totals):
    """The whole network at `as_of` (UTC). `server_key` is the x coordinate of the dispatcher's public key, by which clients can pin it."""

    as_of: str
    models: list[ModelSummary]
    providers: list[Provider]


class Summary(_Totals):
    """What `/ws/stats` pushes: the busiest models and providers, at most 200 of each, and how many are not named."""

    models: list[ModelSummary]
    providers: list[ProviderSummary]
    models_left_out: int
    providers_left_out: int


class NetworkAnswer(BaseModel):
    """The answer of `GET /api/network/providers`."""

    code: Literal[200] = 200
    result: Network
