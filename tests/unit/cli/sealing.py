"""A private job without I/O: its prompt sealed to a simulated enclave, and the evidence that an honest network would leave."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aos_cli.failures import ApiError
from aos_protocol import sortition
from aos_protocol.attestation.policy import VERSION, AttestationPolicy
from aos_protocol.attestation.statement import execution_claim
from aos_protocol.fields import parse_message
from aos_protocol.job import Params, Sealed, SubmitRequest
from aos_protocol.messages import NO_DIGEST, JobResult, Receipt
from aos_protocol.sealing import SealingKey, seal_answer, seal_prompt
from aos_protocol.transcript import Transcript
from aos_tee_worker.keyring import Keyring
from aos_tee_worker.simulator import SimulatedDevice, ensure_root, measurements
from support.evidence import DISPATCHER, DOMAIN, MODEL, REQUEST, Actor, Bend, Story, rows_of
from unit.cli.fake import FakeDispatcher

ANSWER = "machines that perceive, learn and act"
NONCE = "7" * 64
OPERATOR = Actor(2, lambda _actor, _said: None).address
"""Who a story's only operator is."""

Change = Callable[[dict[str, Any]], None]


def unchanged(_answer: dict[str, Any]) -> None:
    """Seal the honest answer."""


@dataclass
class Enclave:
    """A simulated enclave, and a policy that trusts it for the model of the tests."""

    keyring: Keyring
    policy: AttestationPolicy

    def attested(self, nonce: str = NONCE, operator: str = OPERATOR) -> dict[str, Any]:
        """What a dispatcher passes on of it."""
        return {"operator": operator, "attestation": self.keyring.attestation(nonce).to_json()}


def enclave(folder: Path) -> Enclave:
    """An enclave with fresh keys, under the root in a folder."""
    trusted = {
        "roots": [ensure_root(folder)],
        "builds": [{"name": "simulated", "measurements": measurements()}],
    }
    models = {MODEL.name: {"sha256": MODEL.sha256, "simulated": trusted}}
    policy = parse_message(AttestationPolicy, {"version": VERSION, "allow_simulated": True, "models": models})
    return Enclave(Keyring(SimulatedDevice(folder), MODEL, "enclave of the tests"), policy)


def sealed_to(own: Enclave, key: SealingKey, prompt: str = "What is AI?") -> Sealed:
    """A prompt sealed to one enclave."""
    params = parse_message(Params, REQUEST["job"]["params"])
    keysets = [(OPERATOR, own.keyring.current().keyset)]
    return seal_prompt({"prompt": prompt}, (MODEL.name, params), key.public, keysets)


def private_request(sealed: Sealed) -> dict[str, Any]:
    """The request of a private job."""
    job = {name: value for name, value in REQUEST["job"].items() if name != "prompt"}
    return REQUEST | {"job": job | {"tag": "tee", "sealed": sealed.to_json()}}


def answered(
    request: dict[str, Any], by: Enclave, *, instead: Sealed | None = None, change: Change = unchanged
) -> dict[str, Any]:
    """The evidence of a private job that an enclave has answered.

    A host that cheats has it answer another prompt `instead`; `change` changes what is sealed as the answer.
    """
    story = _PrivateStory(request, lambda actor, said: _seal(story, actor, said, by, instead, change))
    story.own()
    return story.document()


class _PrivateStory(Story):
    """A story of one operator, which executes alone."""

    def __init__(self, request: dict[str, Any], bend: Bend) -> None:
        super().__init__(operators=1, audit_ppm=0, bend=bend)
        self.body = request
        self.request = parse_message(SubmitRequest, request)
        self.job_id = sortition.job_id(DISPATCHER.address, 1, request)
        self.seed = self._seed(0)


def _seal(
    story: Story, actor: Actor, said: dict[str, Any], by: Enclave, instead: Sealed | None, change: Change
) -> None:
    """Turn an open result into that of an enclave."""
    transcript = Transcript.from_json(said["transcript"])
    answer = {
        "text": ANSWER,
        "finish_reason": transcript.finish_reason,
        "transcript": transcript.to_json(),
        "commitment": transcript.commitment(),
        "usage": {"prompt_tokens": 3, "completion_tokens": 3},
    }
    change(answer)
    keyset, seed, job = by.keyring.current().digest, story.seed["value"], story.request.job
    read = instead or job.sealed
    assert read is not None
    said["transcript"] = None
    said["result"] = seal_answer(answer, read, seed=seed, prover=actor.address, keyset=keyset)
    claim = execution_claim(parse_message(JobResult, said), job, seed, NO_DIGEST)
    said["enclave"] = by.keyring.statement(claim, DOMAIN).to_json()


class PrivateDispatcher(FakeDispatcher):
    """Passes on what an enclave says of itself, and has it answer what is submitted; what it does instead can be set."""

    def __init__(self, own: Enclave) -> None:
        super().__init__()
        self.own = own
        self.others: list[dict[str, Any]] = []
        self.instead: Sealed | None = None
        self.refusal: ApiError | None = None
        self.requests: list[dict[str, Any]] = []

    async def attestations(self, model: str, nonce: str) -> list[dict[str, Any]]:
        self.asked.append((model, nonce))
        return [*self.others, self.own.attested(nonce)]

    async def detail(self, job_id: str) -> dict[str, Any]:
        return await super().detail(job_id) | {"attestation": "simulated", "job": self.requests[-1]["job"]}

    async def until_ended(self, job_id: str) -> dict[str, Any]:
        return await self.detail(job_id)

    async def submit(self, request: dict[str, Any], *, idempotency_key: str | None) -> Receipt:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.verdict = None
        self.document = answered(request, self.own, instead=self.instead)
        self.rows = [row | {"attestation": "simulated"} for row in rows_of(self.document)]
        job = self.document["job"]
        return Receipt(
            job_id=job["job_id"],
            sequence=1,
            request_digest=job["request_digest"],
            dispatcher=DISPATCHER.address,
            signature=job["receipt"],
        )
