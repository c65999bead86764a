"""The protocol of an operator with an enclave, stepped by hand."""

from typing import Any

import pytest

from aos_operator.answers import accept_answer
from aos_operator.backends.protocol import Execution
from aos_operator.errors import Refused
from aos_operator.events import AttestCall, JobCall
from aos_operator.session import Session
from aos_operator.tasks import Outcome, Task
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.statement import EnclaveStatement, statement_digest
from aos_protocol.fields import parse_message
from aos_protocol.messages import Attest, Connect, Dispatch, JobResult, Reply
from support.enclave_workers import SimulatedEnclave, policy_of
from unit.operator.private import private_job
from unit.operator.steps import refusal, said, ticket_in
from unit.operator.world import EXECUTOR, MODEL, OPERATOR, TEE_OFFER, World, opened

NONCE = "5a" * 32


async def answered(world: World, enclave: SimulatedEnclave, dispatch: Dispatch) -> Outcome:
    execution = Execution(dispatch.job_id, world.domain)
    answer = await enclave.generate(dispatch.job, dispatch.seed, OPERATOR.address, execution)
    return accept_answer(answer, dispatch, OPERATOR.address, execution)


def sent(session: Session, dispatch: Dispatch, outcome: Outcome, counter: int = 9) -> str:
    return session.result(Task(dispatch, outcome=outcome), counter)[1]


def test_it_announces_its_type(world: World) -> None:
    session = Session(OPERATOR, world.signer.address, TEE_OFFER)
    connect = parse_message(Connect, said(session.receive(world.challenge())).params[0])
    assert connect.workers == ["tee"]


def test_a_job_for_no_enclave_is_refused(world: World, tee_session: Session) -> None:
    draw = world.draw(world.job())
    reason = refusal(tee_session.receive(world.request("draw", draw.to_json())))
    assert reason == "unsupported worker type, need tee, got opml"


class TestResult:
    @pytest.mark.parametrize("private", [False, True])
    async def test_it_satisfies_the_dispatchers_checks(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave, private: bool
    ) -> None:
        dispatch = private_job(world, enclave) if private else world.job(kind="tee")
        assert isinstance(tee_session.receive(world.request("dispatch_job", dispatch.to_json())), JobCall)
        ticket = ticket_in(world, tee_session, dispatch)
        outcome = await answered(world, enclave, dispatch)
        result = world.verify(opened(sent(tee_session, dispatch, outcome)), dispatch, ticket)
        assert result.enclave == outcome.enclave
        assert (result.transcript is None) == private

    async def test_its_enclave_can_be_appraised_on_the_job_s_seed(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave, enclave_root: Any
    ) -> None:
        dispatch = world.job(kind="tee")
        frame = opened(sent(tee_session, dispatch, await answered(world, enclave, dispatch)))
        statement = parse_message(EnclaveStatement, frame.params[0]["enclave"])
        found = appraise(
            statement.attestation,
            policy_of(enclave_root, MODEL),
            model=MODEL.name,
            nonce=dispatch.seed,
            now=statement.attestation.issued_at,
        )
        assert found.kind == "simulated"

    async def test_the_operator_signs_over_the_statement(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave
    ) -> None:
        dispatch = world.job(kind="tee")
        outcome = await answered(world, enclave, dispatch)
        result = parse_message(JobResult, opened(sent(tee_session, dispatch, outcome)).params[0])
        bare = parse_message(JobResult, opened(sent(tee_session, dispatch, Outcome.failed("no"))).params[0])
        assert statement_digest(result.enclave) == statement_digest(outcome.enclave)
        assert bare.enclave is None
        assert "enclave" not in opened(sent(tee_session, dispatch, Outcome.failed("no"))).params[0]

    async def test_every_sending_brings_the_same_statement(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave
    ) -> None:
        dispatch = world.job(kind="tee")
        outcome = await answered(world, enclave, dispatch)
        first, second = (
            opened(sent(tee_session, dispatch, outcome, counter)).params[0] for counter in (9, 10)
        )
        assert first["enclave"] == second["enclave"]
        assert first["signature"] != second["signature"]

    def test_a_prompt_that_no_enclave_here_can_read_is_not_taken(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave
    ) -> None:
        dispatch = private_job(world, enclave, EXECUTOR.address)
        reason = refusal(tee_session.receive(world.request("dispatch_job", dispatch.to_json())))
        assert reason == "the prompt is not sealed to an enclave of this operator"


class TestAttest:
    def ask(self, world: World, session: Session, **changes: Any) -> Any:
        call = {"model": MODEL.name, "nonce": NONCE, **changes}
        return session.receive(world.request("attest", call))

    async def test_it_is_passed_on_and_answered_with_the_attestation(
        self, world: World, tee_session: Session, enclave: SimulatedEnclave
    ) -> None:
        call = self.ask(world, tee_session)
        assert isinstance(call, AttestCall)
        assert call.attest == Attest(model=MODEL.name, nonce=NONCE)
        made = await enclave.attestation(NONCE)
        frame = opened(tee_session.reply(call.frame_id, attestation=made))
        assert frame.id == call.frame_id
        assert frame.result == {"code": 200, "message": "success", "attestation": made}
        assert parse_message(Reply, frame.result).attestation == made

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model": "other.gguf"}, "this operator does not serve model other.gguf"),
            ({"model": ""}, "model: "),
            ({"nonce": "5a"}, "nonce: "),
            ({"nonce": "5A" * 32}, "nonce: "),
            ({"nonce": None}, "nonce: "),
            ({"policy": {}}, "policy: Extra inputs"),
        ],
    )
    def test_a_call_that_does_not_hold_is_refused(
        self, world: World, tee_session: Session, changes: dict[str, Any], reason: str
    ) -> None:
        assert reason in refusal(self.ask(world, tee_session, **changes))

    def test_an_operator_without_an_enclave_says_so(self, world: World, open_session: Session) -> None:
        reason = refusal(self.ask(world, open_session))
        assert reason == "this operator has no enclave to attest: its type is opml"

    def test_it_waits_for_the_welcome(self, world: World) -> None:
        session = Session(OPERATOR, world.signer.address, TEE_OFFER)
        assert "attest must come after the reply to connect" in refusal(self.ask(world, session))

    def test_a_reason_of_any_length_can_be_sent(self, world: World, tee_session: Session) -> None:
        reply = opened(tee_session.reply("1", 502, str(Refused(502, "x\0" * 5000 + "\ud800")))).result
        assert parse_message(Reply, reply).message == "x" * 4096
