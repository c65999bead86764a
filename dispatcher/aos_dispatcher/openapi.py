"""What OpenAPI shows: the answers' shapes, the errors, and the submit body with its token."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from aos_dispatcher.tables import JsonObject
from aos_protocol.attestation.statement import Attestation, Kind
from aos_protocol.evidence_document import DomainDocument, VerdictDocument
from aos_protocol.fields import Address, EvidenceLevel, Hex32, Message, Role
from aos_protocol.job import SubmitRequest
from aos_protocol.log import LogEntry, TreeHead
from aos_protocol.messages import Receipt, Vrf


class Answer(BaseModel):
    """Base of every successful answer."""

    model_config = ConfigDict(populate_by_name=True)

    code: Literal[200] = 200


class Error(BaseModel):
    """Every error: the HTTP status once more, and what is wrong."""

    code: int = Field(examples=[422])
    message: str


class TooManyError(Error):
    """Refused for how many there are: which limit, and where a queue is full, how many wait before this one."""

    limit: (
        Literal["rate", "daily", "waiting", "dispatcher", "challenges", "token", "address", "listeners"]
        | None
    ) = None
    position: int | None = None


class SubmitAnswer(Answer):
    """The job's id, and the dispatcher's signed receipt for it."""

    result: Hex32
    receipt: Receipt


Outcome = Literal["match", "mismatch", "inconclusive"]


class ResultRow(BaseModel):
    """What one member of a committee said. `id` is `<operator>_<job id>_<tag>`, a challenge's with its number behind; times are UTC.

    `attestation` is what vouches for the enclave that gave the answer, `build` what the dispatcher's policy calls it, with
    ` (debug)` behind where its host could read it; both null where no enclave did. `evidence` is how much the answer shows, `backend` the kind of
    server that gave it where that shows no transcript; both null of a score, and null for a worker of ours. `signature` signs the answer or the score, as `signs` says. An executor's `verdict` is its committee's on its answer, a
    verifier's is what follows from its own score; null before it is there, and then `reason` says why.
    """

    id: str
    job_id: Hex32
    operator: Address
    result: str
    verify_id: str
    vrf: Vrf
    clock: dict[str, str]
    signature: str
    signs: Literal["answer", "score"]
    attestation: Kind | None
    build: str | None
    evidence: EvidenceLevel | None
    backend: str | None
    job_type: str
    tag: str
    position: str
    challenge: int
    role: Role
    verdict: Outcome | None
    reason: str
    created_at: str


class ResultAnswer(Answer):
    """The results so far."""

    result: list[ResultRow]


class LookMember(BaseModel):
    """One member of a round's committee, how far it came, and what follows from its score."""

    operator: Address
    role: Role
    state: Literal["assigned", "answered", "refused", "lost"]
    verdict: Outcome | None
    reason: str


class Look(BaseModel):
    """One round of a job. `result` is the challenged one's id, `cause` the tagged job that this round is held for."""

    verify_id: str
    purpose: Literal["job", "audit", "before", "challenge", "appeal"]
    tag: str
    position: str
    challenge: int
    cause: Hex32 | None
    result: str | None
    status: str
    verdict: Outcome | None
    reason: str
    members: list[LookMember]


class Detail(BaseModel):
    """A job's request, where it stands, its verdict, and the rounds that led to it.

    `attestation` is what vouches for the enclave that gave the answer; null where no enclave did. `final_at` is when the answer is final unless it is challenged; null until it is completed, and while a challenge is open.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: Hex32
    project: str = Field(alias="from")
    job: JsonObject
    user: str
    job_type: str
    status: Literal["created", "dispatched", "completed", "failed", "cancelled"]
    reason: str
    tag: str
    clock: dict[str, str]
    sequence: int
    created_at: str
    finished_at: str | None
    attestation: Kind | None
    verdict: VerdictDocument | None
    rounds: list[Look]
    final: bool
    final_at: str | None


class DetailAnswer(Answer):
    """One job."""

    result: Detail


class Attested(BaseModel):
    """What an operator's enclave answered; the dispatcher only passes it on, so appraise it yourself."""

    operator: Address
    attestation: Attestation


class Unattested(BaseModel):
    """An operator that gave no attestation, and why."""

    operator: Address
    reason: str


class AttestationAnswer(Answer):
    """The `tee` operators of a model that are connected, at most 16 of them, by address."""

    result: list[Attested | Unattested]


class CancelAnswer(Answer):
    """`cancelled`, or the status in which the job had already ended."""

    result: str


class SignedHead(TreeHead):
    """A head and the dispatcher whose log it is: the signer of the EIP-712 struct TreeHead in this domain, the network's."""

    dispatcher: Address
    domain: DomainDocument


class HeadAnswer(Answer):
    """The newest head."""

    result: SignedHead


class EntriesView(BaseModel):
    """Entries as they were hashed, text for text; the first has the index `start`."""

    start: int
    entries: list[str]


class EntriesAnswer(Answer):
    """A stretch of the log."""

    result: EntriesView


class ProvenEntry(LogEntry):
    """An entry and its inclusion proof (RFC 9162, section 2.1.3) in the log of `size` entries."""

    size: int


class ProofAnswer(Answer):
    """One entry."""

    result: ProvenEntry


class Growth(BaseModel):
    """A consistency proof (RFC 9162, section 2.1.4)."""

    first: int
    second: int
    proof: list[Hex32]


class ConsistencyAnswer(Answer):
    """How the log has grown."""

    result: Growth


class AnchorView(BaseModel):
    """A head that the chain's contract has taken: the block, and the transaction that brought it there."""

    size: int
    root: Hex32
    block: int
    transaction: str


class AnchorsAnswer(Answer):
    """All anchors, oldest first; none without a chain."""

    result: list[AnchorView]


class LoggedAnswer(Answer):
    """What the first `log_size` entries of the transparency log come to."""

    log_size: int


class NumberedOperator(BaseModel):
    """An operator and its number, which is for ever."""

    operator: Address
    number: int


class OperatorsAnswer(LoggedAnswer):
    """All operators, by number."""

    result: list[NumberedOperator]


class NamedModel(BaseModel):
    """The file that a model's name stands for, and the digest of the calibration by which its scores are judged."""

    name: str
    job_type: str
    sha256: Hex32
    calibration: Hex32 | None


class ModelsAnswer(LoggedAnswer):
    """All models, by name."""

    result: list[NamedModel]


class SubmitBody(SubmitRequest):
    """A job as a project submits it."""

    verify: str = Field(description="The project's API token.")


_SAID = {
    400: "The body is not a JSON object in UTF-8.",
    401: "The API token is missing, unknown, expired or revoked.",
    403: "The API token does not belong to this project, or may not do this.",
    404: "There is no such job, operator or model.",
    409: "The Idempotency-Key was used with another request, or what is asked for is not possible (any more).",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The request cannot be served as it stands; the message names the field, or lists what there is.",
    429: "Too much at once: jobs or challenges of one project, or unknown API tokens of one address. Try again after Retry-After.",
    500: "The transparency log is damaged: somebody changed the database behind the dispatcher's back.",
}
_AGAIN = {
    "Retry-After": {
        "description": "Seconds until it makes sense to try again.",
        "schema": {"type": "integer"},
    }
}
_RATE = {
    f"x-ratelimit-{name}": {
        "description": f"Where the project has a rate: {said}",
        "schema": {"type": "integer"},
    }
    for name, said in (
        ("limit", "how many jobs it may submit at once."),
        ("remaining", "how many of them are left now."),
        ("reset", "seconds until all of them are there again."),
    )
}
_TOO_MANY = {
    "model": TooManyError,
    "description": "A limit was met: of the project, of the dispatcher's queue, of open challenges, or of wrong tokens.",
    "headers": _AGAIN | _RATE,
}
_AWAY = {
    "model": Error,
    "description": "The database does not answer, or too many ask at the same time, or the process is being stopped.",
    "headers": _AGAIN,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: {"model": Error, "description": said} for code, said in _SAID.items()},
    429: _TOO_MANY,
    503: _AWAY,
}
SUBMITTED: dict[int | str, dict[str, Any]] = {200: {"headers": _RATE}}


class JobQuery(Message):
    """The body of every request that names a job."""

    job_id: Hex32 = Field(examples=["5814075a7a4b7bc4db5450e7bc3ee2893562e3b2d9deb66a14da4e99d7276e0a"])


_bodies: dict[str, type[BaseModel]] = {}


def json_request(model: type[BaseModel]) -> JsonObject:
    """Return the OpenAPI request body of an endpoint that reads its JSON strictly by itself; `describe` adds the model's schema."""
    _bodies[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> JsonObject:
    """Return the OpenAPI document, with the bodies that `json_request` refers to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        bodies = [(model, "validation") for model in _bodies.values()]
        _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        document["components"]["schemas"] |= schemas["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
