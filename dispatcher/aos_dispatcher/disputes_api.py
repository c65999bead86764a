"""The HTTP API of verification and disputes: a user's rounds, challenges, appeals, and operators' standing."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints, model_validator
from sqlalchemy import Row, select

from aos_dispatcher.api import Body, Service, Token
from aos_dispatcher.challenges import Opened, Plea
from aos_dispatcher.database import Database
from aos_dispatcher.documents import time
from aos_dispatcher.errors import Unprocessable
from aos_dispatcher.openapi import ERRORS, Answer, LoggedAnswer
from aos_dispatcher.projects import Projects
from aos_dispatcher.tables import Job, JsonObject, Project, Round
from aos_protocol.errors import InvalidAddress, InvalidMessage
from aos_protocol.fields import Address, Hex32, M, Message, ShortText, Signature, Tag, Text, parse_message
from aos_protocol.identity import checksum_address

router = APIRouter(responses=ERRORS)

_MOST_ROWS = 100
VerifyId = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$")]
Reason = Annotated[Text, StringConstraints(max_length=1000)]


class VerifyQuery(Message):
    """Whose verification rounds to list: of one project (`from`), or of every one that may be read.

    Rows come newest first; `before` is the `next` of the answer before.
    """

    user: ShortText
    project: ShortText | None = Field(default=None, alias="from")
    before: VerifyId | None = None
    limit: int = Field(20, ge=1, le=_MOST_ROWS)


class VerificationRow(BaseModel):
    """One verification round. `cause` is the tagged job that brought it about, `challenge` the number of a dispute."""

    verify_id: str
    job_id: Hex32
    tag: Tag
    position: str
    challenge: int
    purpose: Literal["job", "audit", "before", "challenge", "appeal"]
    cause: Hex32 | None
    status: Literal["created", "dispatched", "completed", "failed", "cancelled"]
    verdict: Literal["match", "mismatch", "inconclusive"] | None
    reason: str
    created_at: str


class VerifyAnswer(Answer):
    """A page of rounds, and what `before` of the next page is; null on the last."""

    result: list[VerificationRow]
    next: str | None


class ChallengeBody(Message):
    """Which result to score again: an operator's of a job, under a tag if it has several, and why.

    The project sends its token, as `verify` or as `Authorization: Bearer`; an operator its address as `challenger` and a signature.
    """

    job_id: Hex32
    operator: Address
    tag: Tag | None = None
    reason: Reason = ""
    challenger: Address | None = None
    signature: Signature | None = None
    verify: Text | None = Field(default=None, description="The project's API token.")

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if (self.challenger is None) != (self.signature is None):
            raise ValueError("challenger and signature go together")
        return self


class AppealBody(Message):
    """A suspended operator's wish to have a result scored once more that a finding against it is about."""

    operator: Address
    result: Annotated[Text, StringConstraints(min_length=1, max_length=256)]
    reason: Reason
    signature: Signature


class ChallengeView(BaseModel):
    """An open challenge or appeal; its round is `verify_id` in `/api/job/verify`."""

    job_id: Hex32
    result: str
    challenge: int
    verify_id: str
    purpose: Literal["challenge", "appeal"]
    status: Literal["open", "upheld", "rejected", "undecided"]


class ChallengeAnswer(Answer):
    """The challenge that is open now, whoever asked for it first."""

    result: ChallengeView


class FraudView(BaseModel):
    """A finding: the result, the first step that shows it, and its Merkle proof (null where a private project's token lacks).

    `details` is the digest of that proof and of what each verifier found, by which the transparency log binds both.
    """

    id: str
    job_id: Hex32 | None
    result: str | None
    verify_id: str | None
    status: Literal["upheld", "withdrawn"]
    step: int | None
    proof: JsonObject | None
    verdict: JsonObject
    created_at: str
    details: Hex32


class PoolView(BaseModel):
    """The sequential test over an operator's scored answers of one model: tokens so far, and the evidence of cheating in nats."""

    model: Hex32
    tokens: int
    llr: float
    decision: str


class StandingView(BaseModel):
    """Where an operator stands. `suspend_after` is how many findings suspend it."""

    operator: Address
    number: int
    standing: Literal["good", "suspended"]
    suspended_at: str | None
    suspend_after: int
    appeal: Literal["none", "available", "open", "used"]
    frauds: list[FraudView]
    pools: list[PoolView]


class StandingAnswer(LoggedAnswer):
    """One operator's standing."""

    result: StandingView


def _body_of(model: type[BaseModel]) -> JsonObject:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


@router.post("/api/job/verify", response_model=VerifyAnswer, openapi_extra=_body_of(VerifyQuery))
async def verify(service: Service, body: Body, token: Token) -> JsonObject:
    """List a user's verification rounds, newest first: tagged, audited and challenged ones."""
    query = _parse(VerifyQuery, body)
    rows = await verifications(service.database, service.projects, query, token)
    page = rows[: query.limit]
    return {
        "code": 200,
        "result": [_verification(row) for row in page],
        "next": str(page[-1].id) if len(rows) > len(page) else None,
    }


@router.post(
    "/api/job/challenge",
    response_model=ChallengeAnswer,
    openapi_extra=_body_of(ChallengeBody),
)
async def challenge(service: Service, body: Body, token: Token) -> JsonObject:
    """Have an operator's result scored again by a fresh committee, as its project or as a registered operator."""
    asked = _parse(ChallengeBody, body)
    project = None
    if asked.challenger is None:
        project = (await service.jobs.get(asked.job_id)).project_id
        await service.projects.authorise(asked.verify or token, project, "manage")
    result = await service.challenges.result_of(asked.job_id, asked.operator, asked.tag)
    plea = Plea("challenge", result, asked.reason, asked.challenger, asked.signature, project)
    opened = await service.challenges.challenge(plea)
    service.loop.wake()
    return {"code": 200, "result": _view(opened)}


@router.post("/api/operator/appeal", response_model=ChallengeAnswer, openapi_extra=_body_of(AppealBody))
async def appeal(service: Service, body: Body) -> JsonObject:
    """Have a finding looked at once more; a suspended operator may, once."""
    asked = _parse(AppealBody, body)
    opened = await service.challenges.appeal(
        Plea("appeal", asked.result, asked.reason, asked.operator, asked.signature)
    )
    service.loop.wake()
    return {"code": 200, "result": _view(opened)}


@router.get("/api/operator/standing/{address}", response_model=StandingAnswer)
async def standing(service: Service, address: str, token: Token) -> JsonObject:
    """Read where an operator stands, and what was found against it."""
    try:
        operator = checksum_address(address)
    except InvalidAddress as error:
        raise Unprocessable(str(error)) from None
    shown, size = await service.standing.of(operator, token)
    return {"code": 200, "log_size": size, "result": shown}


async def verifications(
    database: Database, projects: Projects, query: VerifyQuery, token: str | None
) -> list[Row[Any]]:
    """Return a user's verification rounds, one more than asked for if there are that many.

    Raises `Unauthorized`, `Forbidden` or `NotFound` for a project that may not be read.
    """
    if query.project is not None:
        await projects.may_read(token, query.project)
    own = await projects.owner(token) if token else None
    rounds = (
        select(Round.__table__)
        .join(Job, Job.id == Round.job_id)
        .join(Project, Project.id == Job.project_id)
        .where(Job.user_id == query.user, (Round.tag != "") | (Round.purpose != "job"))
        .where(~Project.private | (Project.id == own))
        .order_by(Round.id.desc())
        .limit(query.limit + 1)
    )
    if query.project is not None:
        rounds = rounds.where(Project.id == query.project)
    if query.before is not None:
        rounds = rounds.where(Round.id < int(query.before))
    async with database.connect() as connection:
        return list((await connection.execute(rounds)).all())


def _verification(row: Row[Any]) -> JsonObject:
    return {
        "verify_id": str(row.id),
        "job_id": row.job_id,
        "tag": row.tag,
        "position": row.position,
        "challenge": row.challenge,
        "purpose": row.purpose,
        "cause": row.cause,
        "status": row.status,
        "verdict": row.verdict["outcome"] if row.verdict else None,
        "reason": row.verdict["reason"] if row.verdict else row.reason,
        "created_at": time(row.created_at),
    }


def _view(opened: Opened) -> JsonObject:
    return dict(vars(opened))


def _parse(kind: type[M], body: JsonObject) -> M:
    try:
        return parse_message(kind, body)
    except InvalidMessage as error:
        raise Unprocessable(str(error)) from None
