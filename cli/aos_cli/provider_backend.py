"""What a provider puts between its model server and the network: its name, and its system message."""

import hashlib
from collections.abc import Sequence
from typing import Any

from aos_operator.backends.protocol import Backend, Execution, Hear
from aos_operator.subjects import Subject
from aos_protocol.job import ChatMessage, JobSpec
from aos_protocol.messages import Instance, ServedModel


class Provided:
    """`Backend` that offers one model of another, under a provider's name.

    A `system` message goes before the messages of a conversation that has none; the answer's record then has its SHA-256. A raw prompt
    stays as it is: what it means to the model is the project's affair.
    """

    def __init__(self, inner: Backend, model: str, name: str, system: str | None) -> None:
        self._inner = inner
        self._model = model
        self._instance = Instance(project=name)
        self._system = system

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`."""
        served = await self._inner.models()
        named = {"instances": [self._instance]}
        return [model.model_copy(update=named) for model in served if model.name == self._model]

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        if self._system is None or not _takes_one(job):
            return await self._inner.generate(job, seed, prover, execution, hear)
        answer = await self._inner.generate(_told(job, self._system), seed, prover, execution, hear)
        system = hashlib.sha256(self._system.encode()).hexdigest()
        return {**answer, "record": {**answer["record"], "system": system}}

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`."""
        return await self._inner.score(job, subject)

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`."""
        return await self._inner.attestation(nonce)


def _takes_one(job: JobSpec) -> bool:
    return job.messages is not None and all(turn.role != "system" for turn in job.messages)


def _told(job: JobSpec, system: str) -> JobSpec:
    turns = [ChatMessage(role="system", content=system), *(job.messages or [])]
    return job.model_copy(update={"messages": turns})
