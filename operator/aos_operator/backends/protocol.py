"""What the operator asks of whatever runs its models: one protocol for all kinds of servers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from aos_operator.subjects import Subject
from aos_protocol.job import ImageSpec, JobSpec
from aos_protocol.messages import ServedModel, TokenLogprob
from aos_protocol.typed_data import Domain


@dataclass(frozen=True)
class Piece:
    """Some more of an answer's text, with the logprobs of its tokens if the job wants them and the backend has them."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Queued:
    """The job waits on its backend; `position` is its place, from 1."""

    position: int


Hear: TypeAlias = Callable[[Piece | Queued], None]
"""Takes what comes of a job while it runs; called on the event loop, it must return at once."""


@dataclass(frozen=True)
class Execution:
    """What an enclave has to know to sign its answer to a job: the job's id, and where the signature is to be valid."""

    job_id: str
    domain: Domain

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the enclave is sent."""
        return {"job_id": self.job_id, "chain_id": self.domain.chain_id, "registry": self.domain.registry}


@runtime_checkable
class Painter(Protocol):
    """What a backend besides is that makes images (kinds 1 and 2 of its models)."""

    async def paint(self, job: JobSpec, image: ImageSpec, source: bytes | None) -> dict[str, Any]:
        """Make the images that a job asks for, of a `source` if there is one to be edited; return the backend's unchecked answer.

        That is an object with `text` (`aos_protocol.images.images_text`), a `record` that has the same images, and `blobs`, their bytes by
        digest. Raises as `Backend.generate` does.
        """
        ...


class Backend(Protocol):
    """Runs models. Every method raises `WorkerUnavailable` when trying again may help, as `WorkerBusy` when it is there, and full."""

    async def models(self) -> Sequence[ServedModel]:
        """Return the models that are served now, each with what it takes and what can be shown of its answers."""
        ...

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """Run a job with its seed (64 hex digits), with fingerprints of `prover`, and return the backend's unchecked answer.

        That is the object that `POST /v1/generate` of our worker gives (docs/worker.md), or one with `text`, a `record`
        (`aos_protocol.record.Record`) and, if the job wants them, `logprobs`. With `hear`, text is told as it comes; all of it together is the
        answer's text. A `tee` job has an `execution`, whose answer the enclave signs. Raises `WorkerRefused` when the backend says that this job cannot
        be done.
        """
        ...

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """Score what is said to be an answer to a job and return the worker's unchecked answer, `{"scores": [...]}`.

        Raises `WorkerRefused` when the backend says that this cannot be scored.
        """
        ...

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """Have the enclave attest itself on a nonce (64 hex digits), and return its unchecked `Attestation`.

        Raises `WorkerRefused` when the backend is no enclave.
        """
        ...
