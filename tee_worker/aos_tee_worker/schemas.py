"""The bodies that the enclave's HTTP API has beside the inference worker's."""

from functools import cached_property
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aos_inference.schemas import Answer, GenerateRequest
from aos_protocol.attestation.statement import EnclaveStatement
from aos_protocol.fields import Address, Hex32, describe
from aos_protocol.job import ChatMessage, JobSpec, Params, Sealed


class Execution(BaseModel):
    """What the enclave's signature names beside the answer: the job, and the EIP-712 domain of chain and registry."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    job_id: Hex32
    chain_id: int = Field(ge=0, lt=2**256)
    registry: Address


class EnclaveRequest(GenerateRequest):
    """A job for the enclave: as for the inference worker, or with the prompt `sealed`, and with what it is to sign."""

    prover: Address = Field(
        description="the operator's address, EIP-55, which fingerprints and signature are bound to"
    )
    sealed: Sealed | None = Field(default=None, description="in place of prompt and messages")
    execution: Execution

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.messages, self.sealed)) != 1:
            raise ValueError("give exactly one of prompt, messages and sealed")
        if self.sealed is not None and self.stream:
            raise ValueError("a sealed prompt has a sealed answer, which does not stream: leave stream out")
        try:
            _ = self.job
        except ValidationError as error:
            raise ValueError(f"no job of the network: {describe(error)}") from None
        return self

    @cached_property
    def job(self) -> JobSpec:
        """The job as the network knows it, whose digests the enclave signs."""
        turns = [ChatMessage(role=turn.role, content=turn.content) for turn in self.messages or ()]
        return JobSpec(
            tag="tee",
            prompt=self.prompt,
            suffix=self.suffix,
            messages=turns or None,
            sealed=self.sealed,
            model=self.model,
            params=Params(**self.params.model_dump(mode="json")),
            logprobs=self.logprobs,
        )


class EnclaveAnswer(Answer):
    """The whole output with its transcript, and what the enclave says of it."""

    enclave: EnclaveStatement


class SealedAnswer(BaseModel):
    """The answer to a sealed prompt: an `Answer` that only the job's reply key opens, and what the enclave says of it."""

    sealed: str = Field(description="HPKE message in base64, as aos_protocol.sealing makes it")
    enclave: EnclaveStatement
