"""Which enclaves this dispatcher believes: the `tee` jobs that its attestation policy lets in, and the answers that it lets through."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, get_args

import structlog

from aos_dispatcher.errors import Unprocessable
from aos_dispatcher.metrics import ATTESTATIONS
from aos_protocol.attestation.appraisal import Appraisal, appraise
from aos_protocol.attestation.policy import AttestationPolicy, ModelPolicy
from aos_protocol.attestation.statement import EnclaveStatement, Kind
from aos_protocol.errors import InvalidAttestation
from aos_protocol.job import JobSpec
from aos_protocol.messages import JobResult

log = structlog.get_logger()

_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_NO_POLICY: Final = "this dispatcher has no attestation policy"


class Enclaves:
    """Holds `tee` jobs, and the enclaves that answer them, against one policy; without a policy it believes none."""

    def __init__(self, policy: AttestationPolicy | None) -> None:
        self._policy = policy

    def announce(self) -> None:
        """Log which kinds of enclaves are trusted for which models; called once, when the dispatcher starts."""
        if self._policy is None:
            log.info("no attestation policy, so no tee jobs are taken: attestation.policy names one")
            return
        trusted = {name: _kinds(model) for name, model in self._policy.models.items()}
        log.info("attestation policy", digest=self._policy.digest(), trusted=trusted)
        simulated = sorted(name for name, kinds in trusted.items() if "simulated" in kinds)
        if simulated:
            log.warning(
                "simulated enclaves are trusted, which prove nothing about hardware", models=simulated
            )

    def admit(self, job: JobSpec, sha256: str) -> None:
        """Raise `Unprocessable` for a `tee` job that no enclave could answer by the policy; its model is the file `sha256`."""
        if job.tag != "tee":
            return
        if self._policy is None:
            raise Unprocessable(
                f"{_NO_POLICY}, so it takes no tee jobs: submit this one as opml, or ask the owner to set attestation.policy"
            )
        wanted = self._policy.models.get(job.model)
        if wanted is None:
            there_is = ", ".join(self._policy.models) or "none"
            raise Unprocessable(
                f"the dispatcher's attestation policy has no entry for model {job.model}; there is: {there_is}"
            )
        if wanted.sha256 not in {None, sha256}:
            raise Unprocessable(
                f"model {job.model} is the file {sha256} here, and the attestation policy is for {wanted.sha256}: "
                "the owner must correct one of them"
            )

    async def appraise(self, result: JobResult, statement: EnclaveStatement, nonce: str) -> Appraisal:
        """Return what the policy says of the enclave that gave this answer, now and off the event loop; the nonce is the job's seed.

        Raises `InvalidAttestation`.
        """
        if self._policy is None:
            raise InvalidAttestation(f"{_NO_POLICY} (any more), so it believes no enclave")
        return await asyncio.to_thread(
            appraise,
            statement.attestation,
            self._policy,
            model=result.model.name,
            nonce=nonce,
            now=int(time.time()),
        )


@contextmanager
def refusals_seen(result: JobResult) -> Iterator[None]:
    """Count and log an enclave that is refused inside, by the kind that it says it is."""
    try:
        yield
    except InvalidAttestation as error:
        kind = _said_kind(result)
        ATTESTATIONS.labels(kind, "refused").inc()
        log.warning(
            "attestation refused",
            job_id=result.job_id,
            operator=result.operator,
            attestation=kind,
            why=str(error),
        )
        raise


def _kinds(model: ModelPolicy) -> list[Kind]:
    return [kind for kind in _KINDS if model.trusted(kind) is not None]


def _said_kind(result: JobResult) -> str:
    """Return a kind that exists, whatever was sent: it becomes the label of a metric."""
    attestation = (result.enclave or {}).get("attestation")
    kind = attestation.get("kind") if isinstance(attestation, dict) else None
    return kind if kind in _KINDS else "none"
