"""Direct sessions, from the client's side: the prompt goes to the operator that was drawn, sealed, and nobody else can read it or the answer.

    opened = await open_session(client, wanted, dispatcher=address)
    async for text in answer(client, opened):
        ...
    checks = await verify(client, opened)

Before the prompt leaves, the dispatcher's signatures, the operator's own, and the draw have been held against each other (docs/direct.md).
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from aos_cli.checks import Expected, Submission, check_job, domain_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.direct_wire import pieces
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer, ReceiptRefused
from aos_cli.receipts import verify_receipt
from aos_protocol.direct import (
    AnswerOpener,
    Bond,
    Prompt,
    check_acceptance,
    check_answer,
    check_session,
    seal_prompt,
)
from aos_protocol.errors import InvalidEvidence, InvalidMessage, ProtocolError
from aos_protocol.evidence import Check, check_evidence, round_views
from aos_protocol.fields import parse_message
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import Receipt, Session
from aos_protocol.sealing import SealingKey

DIRECT: Final = "AOS-DIRECT-1"

_DRAWN: Final = frozenset(
    {"AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1", "AOS-TICKET-1", "AOS-COMMITTEE-1", "AOS-ROLE-1"}
)
"""What must pass before a prompt leaves: the operator is the one that the job's own seed drew, by its signed ticket."""


@dataclass(frozen=True)
class Wanted:
    """What to ask: `said` is `{"prompt": ...}` or `{"messages": [...]}`, `params` those that are not the defaults."""

    model: str
    params: JsonObject
    user: str
    said: JsonObject


@dataclass
class Opened:
    """A verified session, and what opens its answer. `way` says how the operator was reached, once it was."""

    submission: Submission
    session: Session
    relay: str
    bond: Bond
    prompt: Prompt
    opener: AnswerOpener
    way: str = ""

    @property
    def job_id(self) -> str:
        """The job, 64 hex digits."""
        return self.session.job_id


async def open_session(client: DispatcherClient, wanted: Wanted, *, dispatcher: str | None) -> Opened:
    """Ask for a session and verify it; nothing but a commitment to the prompt has left then.

    1. The receipt binds the request, and that is what was wanted.  2. The dispatcher signed the session, for that job.  3. The operator itself
    accepted it, and with it the key.  4. The evidence shows that this operator was drawn to execute, with this seed and model.
    `dispatcher` is the address that must have signed, None for whoever answers. Raises `CliError` when anything does not hold.
    """
    key = SealingKey()
    try:
        prompt = Prompt.fresh(wanted.said)
        answer = await client.begin_session(_body(wanted, prompt, key))
        session, receipt = _read(answer)
        document = await client.evidence(session.job_id)
        job = {"tag": "opml", "model": wanted.model, "params": wanted.params, "direct": _direct(prompt, key)}
        request = {"from": answer["request"]["from"], "tag": "", "user": wanted.user, "job": job}
        domain = domain_of(document)
        verify_receipt(receipt, request, dispatcher=dispatcher, domain=domain)
        check_session(session, domain, dispatcher=receipt.dispatcher, job_id=receipt.job_id)
        check_acceptance(session, str(answer.get("accepted")))
        _check_drawn(document, session, wanted.model)
        bond = Bond(session.job_id, session.operator, parse_message(SubmitRequest, request).job)
    except (ProtocolError, ReceiptRefused) as error:
        raise CliError(f"the prompt was not sent, since the session does not hold: {error}") from error
    if session.expires_at <= time.time():
        raise CliError(
            "the prompt was not sent: the session has expired already, or this machine's clock is wrong"
        )
    opener = AnswerOpener(bond, prompt, key)
    return Opened(Submission(request, receipt), session, str(answer.get("relay")), bond, prompt, opener)


async def answer(client: DispatcherClient, opened: Opened) -> AsyncGenerator[str, None]:
    """Send the prompt and return the answer's text as it comes, each piece opened. Raises `CliError` when it is not whole, or there is none."""
    try:
        box = seal_prompt(opened.prompt, opened.bond, opened.session.key)
        sent = pieces(client, opened.session.url, opened.session.job_id, opened.relay, box)
        async with aclosing(sent) as chunks:
            async for opened.way, chunk in chunks:
                text = opened.opener.take(chunk)
                if text:
                    yield text
        ending = opened.opener.ending()
    except ProtocolError as error:
        raise CliError(
            f"do not rely on this answer: {error}; the session is void, and the job will say what became of it: aos detail {opened.job_id}"
        ) from error
    if ending.error is not None:
        raise CliError(f"{opened.session.operator} gave no answer: {ending.error}")


async def verify(client: DispatcherClient, opened: Opened, *, dispatcher: str | None) -> list[Check]:
    """Wait for the job's end, and hold the answer that was read against what its operator signed and everything that the evidence shows."""
    await client.until_ended(opened.job_id)
    rows, document = await client.results(opened.job_id), await client.evidence(opened.job_id)
    expected = Expected(opened.job_id, dispatcher, rows, submission=opened.submission)
    return [*check_job(document, expected), _check_direct(document, opened)]


def _check_direct(document: JsonObject, opened: Opened) -> Check:
    what = "the answer that was read is the one that its operator signed for, to exactly this prompt"
    try:
        found = [
            result
            for view in round_views(document)
            for result in view.results
            if result.answered and result.operator == opened.session.operator
        ]
        if len(found) != 1:
            raise InvalidEvidence(f"it has signed {len(found)} results")
        opener = opened.opener
        transcript = check_answer(found[0], opened.bond, opened.session.seed, opener.text, opener.ending())
    except ProtocolError as error:
        return Check(DIRECT, "FAIL", f"{what}: {error}")
    shown = "its transcript too" if transcript is not None else "its backend shows no transcript"
    return Check(DIRECT, "PASS", f"{what}; {shown}")


def _body(wanted: Wanted, prompt: Prompt, key: SealingKey) -> JsonObject:
    asked = {"user": wanted.user, "model": wanted.model, "params": wanted.params}
    return asked | _direct(prompt, key)


def _direct(prompt: Prompt, key: SealingKey) -> JsonObject:
    return {"client_key": key.public, "commitment": prompt.commitment()}


def _read(answer: JsonObject) -> tuple[Session, Receipt]:
    try:
        if not isinstance(answer.get("request"), dict) or not isinstance(answer["request"].get("from"), str):
            raise InvalidMessage("there is no request in it")
        return parse_message(Session, answer.get("session")), parse_message(Receipt, answer.get("receipt"))
    except InvalidMessage as error:
        raise BadAnswer(f"the dispatcher's answer holds no session that can be read: {error}") from error


def _check_drawn(document: JsonObject, session: Session, model: str) -> None:
    """Raise `InvalidEvidence` unless the session's operator was drawn to execute this job, with this seed and model."""
    checks = check_evidence(document, dispatcher=session.dispatcher, job_id=session.job_id)
    good = {check.id for check in checks if check.status == "PASS"}
    bad = [f"{check.id} {check.what}" for check in checks if check.id in _DRAWN and check.status != "PASS"]
    if bad or not good >= _DRAWN:
        raise InvalidEvidence(f"the draw does not show that {session.operator} was chosen: {'; '.join(bad)}")
    (view,) = [view for view in round_views(document) if view.is_own]
    executor = view.executor
    if executor is None or executor.operator != session.operator:
        raise InvalidEvidence(f"{session.operator} is not the executor that was drawn")
    told: tuple[Any, ...] = (session.seed, session.model, session.model.name)
    if told != (view.evidence.seed.value, view.document.model, model):
        raise InvalidEvidence("the session's seed or model is not the job's")
