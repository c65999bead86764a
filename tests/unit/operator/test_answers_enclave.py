"""What an enclave answers is held against the job before this operator signs it, too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aos_operator.answers import accept_answer
from aos_operator.backends.protocol import Execution
from aos_operator.errors import AnswerRejected
from aos_operator.tasks import Outcome
from aos_protocol.job import Sealed
from aos_protocol.messages import NO_DIGEST, Dispatch
from aos_protocol.sealing import open_answer
from aos_protocol.typed_data import Domain
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import REPLY, SECRET, private_job
from unit.operator.world import EXECUTOR, OPERATOR, World

WORLD = World()
JOB = WORLD.job(kind="tee")

Answer = dict[str, Any]


def execution(job: Dispatch) -> Execution:
    return Execution(job.job_id, WORLD.domain)


async def answered(enclave: SimulatedEnclave, job: Dispatch = JOB, **changes: Any) -> Answer:
    """The enclave's answer to a job, or to one that was changed on the way: its `seed`, `prover` or `execution`."""
    asked = {"seed": job.seed, "prover": OPERATOR.address, "execution": execution(job), **changes}
    return await enclave.generate(job.job, **asked)


def accepted(answer: Answer, job: Dispatch = JOB) -> Outcome:
    return accept_answer(answer, job, OPERATOR.address, execution(job))


class TestOpenJob:
    async def test_its_answer_comes_with_the_enclave_s_statement(self, enclave: SimulatedEnclave) -> None:
        answer = await answered(enclave)
        outcome = accepted(answer)
        assert (outcome.result, outcome.reason) == ("What is AI?", "")
        assert (outcome.transcript, outcome.commitment) == (answer["transcript"], answer["commitment"])
        assert outcome.enclave == answer["enclave"]
        assert outcome.attestation == "simulated"

    @pytest.mark.parametrize(
        ("bent", "reason"),
        [
            (lambda said: {key: said[key] for key in said if key != "enclave"}, "is it a tee-worker?"),
            (lambda said: {**said, "enclave": None}, "is it a tee-worker?"),
            (lambda said: {**said, "enclave": []}, "is it a tee-worker?"),
            (lambda said: {**said, "enclave": {"signature": "00" * 65}}, "attestation: Field required"),
            (
                lambda said: {**said, "enclave": {**said["enclave"], "more": 1}},
                "more: Extra inputs are not permitted",
            ),
            (
                lambda said: {**said, "enclave": {**said["enclave"], "signature": "00" * 65}},
                "does not hold",
            ),
            (lambda said: {**said, "text": "something else"}, "not by the enclave's key"),
            (lambda said: {**said, "commitment": NO_DIGEST}, "commitment is not that of its transcript"),
            (lambda said: {**said, "text": None}, "no text"),
        ],
    )
    async def test_one_that_was_changed_is_rejected(
        self, enclave: SimulatedEnclave, bent: Callable[[Answer], Answer], reason: str
    ) -> None:
        with pytest.raises(AnswerRejected, match=reason.replace("?", r"\?")):
            accepted(bent(await answered(enclave)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"execution": Execution("ab" * 32, WORLD.domain)},
            {"execution": Execution(JOB.job_id, Domain(1, WORLD.domain.registry))},
            {"execution": Execution(JOB.job_id, Domain(WORLD.domain.chain_id, EXECUTOR.address))},
        ],
    )
    async def test_one_signed_for_another_job_or_another_chain_is_rejected(
        self, enclave: SimulatedEnclave, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(AnswerRejected, match="not by the enclave's key"):
            accepted(await answered(enclave, **changes))

    async def test_one_to_another_prompt_is_rejected(self, enclave: SimulatedEnclave) -> None:
        """All that the operator sees of it fits: only the enclave knows what it was asked."""
        other = WORLD.job("Tell me a secret", kind="tee")
        answer = await answered(enclave, other, seed=JOB.seed, execution=execution(JOB))
        with pytest.raises(AnswerRejected, match="not by the enclave's key"):
            accepted(answer)

    async def test_one_of_another_operator_s_is_rejected(self, enclave: SimulatedEnclave) -> None:
        with pytest.raises(AnswerRejected, match="fingerprints are those of"):
            accepted(await answered(enclave, prover=EXECUTOR.address))

    async def test_a_statement_of_another_enclave_is_rejected(self, enclave: SimulatedEnclave) -> None:
        before = await answered(enclave)
        enclave.restart()
        after = await answered(enclave)
        mixed = {**before["enclave"], "attestation": after["enclave"]["attestation"]}
        with pytest.raises(AnswerRejected, match="not by the enclave's key"):
            accepted({**before, "enclave": mixed})

    @pytest.mark.parametrize(
        ("own", "said"),
        [({"sha256": "cd" * 32}, "demo.gguf cdcd"), ({"name": "other.gguf"}, "other.gguf abab")],
    )
    async def test_a_keyset_for_another_model_is_rejected(
        self, enclave: SimulatedEnclave, own: dict[str, str], said: str
    ) -> None:
        answer = await answered(enclave)
        answer["enclave"]["attestation"]["keyset"]["model"] |= own
        with pytest.raises(AnswerRejected, match=f"keyset is for model {said}.*, not demo.gguf abab"):
            accepted(answer)

    async def test_the_answer_to_a_job_for_no_enclave_may_not_have_one(
        self, enclave: SimulatedEnclave
    ) -> None:
        job = WORLD.job()
        answer = await answered(enclave, job)
        with pytest.raises(AnswerRejected, match="to a job that was for none"):
            accept_answer(answer, job, OPERATOR.address)
        del answer["enclave"]
        assert accept_answer(answer, job, OPERATOR.address).attestation is None


class TestPrivateJob:
    async def test_its_answer_is_what_only_the_project_can_read(self, enclave: SimulatedEnclave) -> None:
        job = private_job(WORLD, enclave)
        outcome = accepted(await answered(enclave, job), job)
        assert (outcome.transcript, outcome.commitment, outcome.reason) == (None, NO_DIGEST, "")
        assert outcome.attestation == "simulated"
        assert job.job.sealed is not None
        keyset = enclave.keyring.current().digest
        told = open_answer(
            REPLY, outcome.result, job.job.sealed, seed=job.seed, prover=OPERATOR.address, keyset=keyset
        )
        assert told["text"] == SECRET

    @pytest.mark.parametrize(
        ("bent", "reason"),
        [
            (lambda said: {"sealed": said["sealed"]}, "enclave: Field required"),
            (lambda said: {"enclave": said["enclave"]}, "sealed: Field required"),
            (lambda said: {**said, "sealed": ""}, "sealed: "),
            (lambda said: {**said, "sealed": "not base64"}, "is not base64"),
            (lambda said: {**said, "sealed": said["sealed"] + "\n"}, "is not"),
            (lambda said: {**said, "sealed": "AAAA" * (1 << 20) + "AAAA"}, "at most 4194304"),
            (lambda said: {**said, "text": SECRET}, "text: Extra inputs"),
            (lambda said: {**said, "usage": {}}, "usage: Extra inputs"),
            (lambda said: {**said, "sealed": "AAAA"}, "not by the enclave's key"),
        ],
    )
    async def test_one_that_was_changed_or_tells_more_is_rejected(
        self, enclave: SimulatedEnclave, bent: Callable[[Answer], Answer], reason: str
    ) -> None:
        job = private_job(WORLD, enclave)
        with pytest.raises(AnswerRejected, match=reason) as caught:
            accepted(bent(await answered(enclave, job)), job)
        assert SECRET not in str(caught.value)

    async def test_an_answer_in_the_open_is_rejected(self, enclave: SimulatedEnclave) -> None:
        job = private_job(WORLD, enclave)
        with pytest.raises(AnswerRejected, match="sealed: Field required"):
            accepted(await answered(enclave), job)

    async def test_an_enclave_that_the_prompt_was_not_sealed_to_cannot_answer(
        self, enclave: SimulatedEnclave
    ) -> None:
        job = private_job(WORLD, enclave)
        answer = await answered(enclave, job)
        assert job.job.sealed is not None
        [box] = job.job.sealed.boxes
        elsewhere = Sealed(
            suite=job.job.sealed.suite,
            reply_key=job.job.sealed.reply_key,
            boxes=[box.model_copy(update={"keyset": "ab" * 32})],
        )
        other = job.model_copy(update={"job": job.job.model_copy(update={"sealed": elsewhere})})
        with pytest.raises(AnswerRejected, match="was not sealed to keyset"):
            accepted(answer, other)


async def test_an_outcome_that_is_withdrawn_brings_no_statement(enclave: SimulatedEnclave) -> None:
    outcome = accepted(await answered(enclave))
    assert outcome.withdrawn("too large") == Outcome.failed("too large")
    assert replace(outcome, enclave=None).attestation is None
