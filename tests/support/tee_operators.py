"""An operator with a simulated enclave, that a test drives by hand: honest by default, and every word of the enclave can be bent."""

from typing import Any

from aos_protocol.attestation.statement import execution_claim
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.identity import Signer
from aos_protocol.messages import NO_DIGEST, Dispatch, JobResult
from aos_protocol.sealing import open_prompt, seal_answer
from aos_protocol.transcript import Transcript
from support.enclaves import Enclave
from support.operators import MODEL, Bend, ScriptedOperator, transcript


class TeeOperator(ScriptedOperator):
    """`enclave` answers its jobs, and `signs_with` (the same, unless a test says otherwise) is whose statement goes with them.

    `bend_statement` changes the statement before the operator signs the result; None leaves it out. `opened` are the sealed prompts
    that the enclave could read, `attest_reply` what is said to a call for an attestation in place of the honest answer.
    """

    def __init__(self, signer: Signer, url: str, enclave: Enclave) -> None:
        super().__init__(signer, url)
        self.worker = "tee"
        self.enclave = enclave
        self.signs_with: Enclave | None = None
        self.bend_statement: Bend | None = lambda statement: statement
        self.opened: list[dict[str, Any]] = []
        self.attest_reply: dict[str, Any] | None = None
        self.attests = True
        self._made: dict[str, dict[str, Any]] = {}

    def signed(self, said: dict[str, Any], dispatch: Dispatch) -> dict[str, Any]:
        """Have the enclave sign what it answered, and its operator all of it; a result sent again has the same statement."""
        said = {name: value for name, value in said.items() if name != "enclave"}
        if said["reason"]:
            return super().signed(said, dispatch)
        if dispatch.job.sealed is not None:
            said = said | {"result": self._sealed(dispatch)}
            said.pop("transcript")
        if self.bend_statement is not None:
            said = said | {"enclave": self.bend_statement(self.statement(said, dispatch))}
        return super().signed(said, dispatch)

    def statement(self, said: dict[str, Any], dispatch: Dispatch) -> dict[str, Any]:
        """What the enclave says of this result to this job."""
        result = parse_message(JobResult, said)
        commitment = Transcript.from_json(result.transcript).commitment() if result.transcript else NO_DIGEST
        claim = execution_claim(result, dispatch.job, dispatch.seed, commitment)
        signed = f"{claim}"
        if signed not in self._made:
            self._made[signed] = (self.signs_with or self.enclave).state(claim, self.domain)
        return self._made[signed]

    def _sealed(self, dispatch: Dispatch) -> str:
        job, keyset, sealed = dispatch.job, self.enclave.keyset.digest(), dispatch.job.sealed
        assert sealed is not None
        if dispatch.job_id not in self._made:
            self.opened.append(open_prompt(self.enclave.sealing, keyset, sealed, job.model, job.params))
            made = {"text": self.answer, "transcript": transcript(dispatch, self.signer.address)}
            where = {"seed": dispatch.seed, "prover": self.signer.address, "keyset": keyset}
            self._made[dispatch.job_id] = {"box": seal_answer(made, sealed, **where)}
        box: str = self._made[dispatch.job_id]["box"]
        return box

    async def _on_attest(self, frame: Frame) -> None:
        if not self.attests:
            return
        honest = {
            "code": 200,
            "message": "success",
            "attestation": self.enclave.attest(frame.params[0]["nonce"]),
        }
        await self._reply(frame, honest if self.attest_reply is None else self.attest_reply)


def enclave(number: int, **changes: Any) -> Enclave:
    """An enclave that serves the scripted operators' model."""
    return Enclave(number, model=MODEL, **changes)
