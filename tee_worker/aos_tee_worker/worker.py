"""The inference worker inside an enclave: it opens sealed prompts, and signs every answer with keys that its hardware attests to."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from aos_inference.errors import InvalidField
from aos_inference.loading import Loaded
from aos_inference.schemas import GenerateRequest
from aos_inference.worker import Generation, Worker
from aos_protocol.attestation.statement import Attestation, EnclaveStatement
from aos_protocol.canonical import JsonValue
from aos_protocol.errors import NotSealed
from aos_protocol.job import Sealed
from aos_protocol.messages import NO_DIGEST
from aos_protocol.sealing import open_prompt, seal_answer
from aos_protocol.typed_data import Domain, ExecutionClaim
from aos_tee_worker.errors import DeviceFailed, PromptUnusable, SealedWrongly, Unattested, UnknownKeyset
from aos_tee_worker.keyring import Keyring, Keys
from aos_tee_worker.metrics import Metrics
from aos_tee_worker.schemas import EnclaveAnswer, EnclaveRequest, SealedAnswer

_log = structlog.get_logger(__name__)

_Kind = TypeVar("_Kind")


@dataclass(kw_only=True)
class Run(Generation):
    """A generation, the request that it answers, and the digest of the keyset that its prompt was sealed to, if it was."""

    request: EnclaveRequest
    keyset: str | None


class TeeWorker(Worker):
    """Serves a model with a keyring beside it. Nothing of a sealed prompt or its answer leaves it, in error messages and logs neither."""

    asked: ClassVar[type[GenerateRequest]] = EnclaveRequest
    answers: ClassVar[tuple[type[BaseModel], ...]] = (EnclaveAnswer, SealedAnswer)

    def __init__(self, model: Loaded, keyring: Keyring, metrics: Metrics) -> None:
        super().__init__(*model)
        self.metrics = metrics
        self._keyring = keyring

    def attest(self, nonce: str) -> Attestation:
        """Have the present keyset attested on a nonce. Takes milliseconds. Raises `InvalidField` unless it is 64 hex digits, `DeviceFailed`."""
        if re.fullmatch("[0-9a-fA-F]{64}", nonce) is None:
            raise InvalidField("nonce: give 64 hex digits, 32 bytes that you have just drawn at random.")
        with self._attesting():
            return self._keyring.attestation(nonce.lower())

    async def prepare(self, request: GenerateRequest) -> Run:
        """Open a sealed prompt, and tokenise.

        Raises what `Worker.prepare` raises, and of a sealed prompt `UnknownKeyset`, `SealedWrongly` and `PromptUnusable`.
        """
        asked = _is(EnclaveRequest, request)
        if asked.sealed is None:
            plain = await super().prepare(asked)
            return _run(plain, asked, keyset=None)
        self._check_model(asked.model)
        keys = self._keys_for(asked.sealed, asked.prover)
        opened = await asyncio.to_thread(_opened, keys, asked.sealed, asked)
        try:
            plain = await super().prepare(opened)
        except InvalidField:
            # Its message is for who asked, and may repeat what was asked: here that would go to the operator.
            raise PromptUnusable from None
        return _run(plain, asked, keyset=keys.digest)

    def answer(self, generation: Generation) -> EnclaveAnswer | SealedAnswer:
        """The signed answer, sealed if its prompt was. Raises `Unattested`, and `UnknownKeyset` if that has just expired."""
        run = _is(Run, generation)
        plain = super().plain_answer(run)
        if run.request.sealed is None or run.keyset is None:
            signed = self._statement(run, plain.text, plain.commitment)
            return EnclaveAnswer(**dict(plain), enclave=signed)
        box = seal_answer(
            plain.model_dump(mode="json"),
            run.request.sealed,
            seed=run.seed.hex(),
            prover=run.prover,
            keyset=run.keyset,
        )
        return SealedAnswer(sealed=box, enclave=self._statement(run, box, NO_DIGEST))

    def _keys_for(self, sealed: Sealed, prover: str) -> Keys:
        """The keys of the first box that is for this enclave behind this operator. Raises `UnknownKeyset`."""
        for box in sealed.boxes:
            keys = self._keyring.find(box.keyset)
            if keys is not None and box.operator == prover:
                return keys
        raise UnknownKeyset(
            f"No box of the sealed prompt is for this enclave behind {prover}: it was restarted, or its keyset has expired. "
            f"Seal the prompt to its present keyset, {self._keyring.current().digest}, of which GET /attestation gives the proof."
        )

    def _statement(self, run: Run, answer: str, commitment: str) -> EnclaveStatement:
        job, execution = run.request.job, run.request.execution
        claim = ExecutionClaim(
            job_id=execution.job_id,
            operator=run.prover,
            prompt=job.prompt_digest(),
            seed=run.seed.hex(),
            answer=hashlib.sha256(answer.encode()).hexdigest(),
            transcript=commitment,
            model=self.card.sha256,
            params=job.params.digest(),
        )
        try:
            with self._attesting():
                domain = Domain(execution.chain_id, execution.registry)
                return self._keyring.statement(claim, domain, run.keyset)
        except DeviceFailed as error:
            # Not `DeviceFailed`'s own 503: whoever is told to come again has the whole job run again.
            raise Unattested(f"The hardware gave no attestation for this answer: {error}") from error

    @contextmanager
    def _attesting(self) -> Iterator[None]:
        try:
            yield
        except DeviceFailed as error:
            _log.error("no attestation", reason=str(error))
            raise
        self.metrics.attested()


def _opened(keys: Keys, sealed: Sealed, asked: EnclaveRequest) -> GenerateRequest:
    """What the request asks in the open, with the prompt that was sealed, and nothing else of what stood beside that."""
    try:
        prompt = open_prompt(keys.sealing, keys.digest, sealed, asked.model, asked.job.params)
    except NotSealed:
        raise SealedWrongly from None  # what is wrong inside is told by quoting it
    in_the_open: dict[str, JsonValue] = {
        "model": asked.model,
        "params": asked.params.model_dump(mode="json"),
        "seed": asked.seed,
        "prover": asked.prover,
    }
    try:
        return GenerateRequest.model_validate(prompt | in_the_open)
    except ValidationError:
        raise PromptUnusable from None


def _run(plain: Generation, asked: EnclaveRequest, keyset: str | None) -> Run:
    return Run(
        prompt=plain.prompt,
        params=plain.params,
        seed=plain.seed,
        prover=plain.prover,
        private=keyset is not None,
        wanted=plain.wanted,
        request=asked,
        keyset=keyset,
    )


def _is(kind: type[_Kind], value: object) -> _Kind:
    """What the base class passes through is what this class has asked for or made."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} is no {kind.__name__}")
    return value
