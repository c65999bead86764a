"""What an enclave says: its keyset, the attestation that binds it, and what it signs of each answer.

Hardware signs few bytes, so these are the same for every kind of enclave: the 32-byte digest of the keyset, and the 32-byte
nonce of whoever asks. Nitro documents have fields for both (`user_data`, `nonce`) and for the result key (`public_key`); a TDX quote
or an SEV-SNP report has both, one after the other, as its 64 bytes of report data.
"""

import base64
import hashlib
from typing import Annotated, Any, Final, Literal, Protocol, Self

from pydantic import Field, StringConstraints, model_validator

from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidAttestation, InvalidKey
from aos_protocol.fields import Base64, Hex32, Message, PublicKey, ShortText, Signature, parse_message
from aos_protocol.identity import address_of
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, ModelOffer
from aos_protocol.typed_data import Domain, ExecutionClaim, recover_typed

Kind = Literal["nitro", "tdx", "sev-snp", "simulated"]
"""What vouches for an enclave. `simulated` vouches for nothing: it has the form of Nitro's, under a root that anybody can make."""

KEYSET_VERSION: Final = "aos-keyset/1"
_MOST_DOCUMENT: Final = 64 << 10

Seconds = Annotated[int, Field(ge=0, lt=253_402_300_800)]
"""Unix seconds of a year that calendars can write, which is below 10000."""


class Keyset(Message):
    """The keys that an enclave made when it started, what it runs, and until when they hold; times are Unix seconds.

    `result_key` signs results (secp256k1, compressed), `encryption_key` is what prompts are sealed to (X25519). `build` is what the
    enclave calls itself; what counts is what its hardware measured.
    """

    version: Literal["aos-keyset/1"]
    kind: Kind
    result_key: PublicKey
    encryption_key: Hex32
    model: ModelOffer
    build: ShortText
    created_at: Seconds
    expires_at: Seconds

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.expires_at <= self.created_at:
            raise ValueError("the keyset expires before it is made")
        return self

    def digest(self) -> str:
        """Return the SHA-256 hex of the keyset's RFC 8785 JSON, which attestations bind."""
        return digest(self.to_json())

    @property
    def address(self) -> str:
        """The EIP-55 address of the result key. Raises `InvalidKey` when it is no point of the curve."""
        return address_of(bytes.fromhex(self.result_key))


class Attestation(Message):
    """A signed document of an enclave's hardware, the keyset that it binds, and when it was made (Unix seconds).

    `document` is a COSE_Sign1 (nitro, simulated), a quote (tdx) or a report (sev-snp). `collateral` is what its vendor says of the hardware:
    of TDX, what a PCCS gives; of SEV-SNP, the certificates `vcek`, `ask` and `ark` in PEM.
    """

    kind: Kind
    document: Annotated[Base64, StringConstraints(min_length=1, max_length=_MOST_DOCUMENT)]
    keyset: Keyset
    issued_at: Seconds
    collateral: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.keyset.kind != self.kind:
            raise ValueError(f"the keyset is of kind {self.keyset.kind}, the attestation of {self.kind}")
        return self

    def document_bytes(self) -> bytes:
        """Return the document as the hardware made it."""
        return base64.b64decode(self.document)


class EnclaveStatement(Message):
    """An enclave's word on one answer: its signature over `ExecutionClaim`, and an attestation whose nonce is the job's seed."""

    attestation: Attestation
    signature: Signature


class Answered(Protocol):
    """What an enclave's word is held against: a `messages.JobResult`, or what an operator is about to make one of."""

    @property
    def job_id(self) -> str:
        """The job, 64 hex digits."""
        ...

    @property
    def operator(self) -> str:
        """Who answers, in EIP-55 form."""
        ...

    @property
    def result(self) -> str:
        """The answer's text, or the sealed answer in base64."""
        ...

    @property
    def model(self) -> ModelOffer:
        """The model that it is said to be from."""
        ...

    @property
    def enclave(self) -> dict[str, Any] | None:
        """The `EnclaveStatement` in JSON, unchecked."""
        ...


def report_data(keyset_digest: str, nonce: str) -> bytes:
    """Return the 64 bytes that a quote or report binds: the keyset's digest, then the nonce, both 64 hex digits."""
    return bytes.fromhex(keyset_digest) + bytes.fromhex(nonce)


def statement_digest(statement: dict[str, Any] | None) -> str:
    """Return what an operator's signature covers of the enclave's statement: SHA-256 hex of its RFC 8785 JSON, zeros without one."""
    return NO_DIGEST if statement is None else digest(statement)


def execution_claim(result: Answered, job: JobSpec, seed: str, commitment: str) -> ExecutionClaim:
    """Return what the enclave's EIP-712 signature on this result to a job must cover.

    `seed` is the job's, `commitment` the transcript's, zeros if the answer is sealed.
    """
    return ExecutionClaim(
        job_id=result.job_id,
        operator=result.operator,
        prompt=job.prompt_digest(),
        seed=seed,
        answer=hashlib.sha256(result.result.encode()).hexdigest(),
        transcript=commitment,
        model=result.model.sha256,
        params=job.params.digest(),
    )


def check_statement(
    result: Answered, job: JobSpec, seed: str, commitment: str, domain: Domain
) -> EnclaveStatement:
    """Verify that an answer to this job, with this seed, is signed with the key of the keyset that comes with it; return the statement.

    1. The keyset is for the result's model.  2. A sealed prompt has a box for it, and for this operator.  3. Its key has signed
    `execution_claim`, whose `commitment` is the transcript's, zeros of a sealed answer. Whether that keyset is an enclave's is for `appraisal.appraise` to say. Raises `InvalidMessage`, `InvalidSignature` or `InvalidAttestation`.
    """
    statement = parse_message(EnclaveStatement, result.enclave)
    keyset = statement.attestation.keyset
    if keyset.model != result.model:
        own, wanted = keyset.model, result.model
        raise InvalidAttestation(
            f"the enclave's keyset is for model {own.name} {own.sha256}, not {wanted.name} {wanted.sha256}"
        )
    if job.sealed is not None and not job.sealed.has_box(result.operator, keyset.digest()):
        raise InvalidAttestation(
            f"the prompt was not sealed to keyset {keyset.digest()}, with which {result.operator} answers"
        )
    claim = execution_claim(result, job, seed, commitment)
    signer = recover_typed(domain, claim, statement.signature)
    try:
        address = keyset.address
    except InvalidKey as error:
        raise InvalidAttestation(f"the keyset's result key is unusable: {error}") from None
    if signer != address:
        raise InvalidAttestation(f"the answer is signed by {signer}, not by the enclave's key, {address}")
    return statement
