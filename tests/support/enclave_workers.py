"""An enclave's worker in this process: the stub's answers, signed with keys that a simulated device vouches for."""

from pathlib import Path
from typing import Any

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.errors import WorkerRefused
from aos_operator.stub import StubWorker, stub_answer
from aos_protocol.attestation.policy import VERSION, AttestationPolicy
from aos_protocol.attestation.statement import execution_claim
from aos_protocol.errors import NotSealed
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, JobResult, ModelOffer
from aos_protocol.sealing import open_prompt, seal_answer
from aos_tee_worker.keyring import Keyring
from aos_tee_worker.simulator import SimulatedDevice, ensure_root, measurements

BUILD = "enclave of the tests"


class SimulatedEnclave(StubWorker):
    """`Backend` that is an enclave, and says what `tee-worker` would; `folder` holds the simulator's root.

    `restart` gives it new keys, as a crash would.
    """

    def __init__(self, folder: Path, model: ModelOffer) -> None:
        super().__init__({model.name: model.sha256})
        self.folder = folder
        self._model = model
        self._device = SimulatedDevice(folder)
        self.restart()

    def restart(self) -> None:
        """Forget all keys, and make others."""
        self.keyring = Keyring(self._device, self._model, BUILD)

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        if execution is None:
            raise WorkerRefused("execution: Field required (HTTP 422)")
        keyset = self.keyring.current().digest
        made = stub_answer(self._opened(job, keyset), self._model.sha256, seed, prover)
        if job.sealed is None:
            return {
                **made,
                "enclave": self._signed(made["text"], made["commitment"], job, seed, prover, execution),
            }
        box = seal_answer(made, job.sealed, seed=seed, prover=prover, keyset=keyset)
        return {"sealed": box, "enclave": self._signed(box, NO_DIGEST, job, seed, prover, execution)}

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`."""
        return self.keyring.attestation(nonce).to_json()

    def _signed(
        self, text: str, commitment: str, job: JobSpec, seed: str, prover: str, execution: Execution
    ) -> dict[str, Any]:
        answer = JobResult.model_construct(
            job_id=execution.job_id, operator=prover, result=text, model=self._model
        )
        claim = execution_claim(answer, job, seed, commitment)
        return self.keyring.statement(claim, execution.domain).to_json()

    def _opened(self, job: JobSpec, keyset: str) -> JobSpec:
        if job.sealed is None:
            return job
        try:
            prompt = open_prompt(self.keyring.current().sealing, keyset, job.sealed, job.model, job.params)
        except NotSealed as error:
            raise WorkerRefused(f"{error} (HTTP 422)") from error
        asked = {"tag": "tee", "model": job.model, "params": job.params.to_json(), **prompt}
        return parse_message(JobSpec, asked)


def policy_of(folder: Path, *models: ModelOffer) -> AttestationPolicy:
    """Trust enclaves like `SimulatedEnclave`, under the root in this folder, for these models."""
    trusted = {
        "roots": [ensure_root(folder)],
        "builds": [{"name": "simulated", "measurements": measurements()}],
    }
    return parse_message(
        AttestationPolicy,
        {
            "version": VERSION,
            "allow_simulated": True,
            "models": {model.name: {"sha256": model.sha256, "simulated": trusted} for model in models},
        },
    )
