"""A worker without a model, for tests and benchmarks: it writes the prompt's own bytes back, as tokens.

It behaves like a model whose vocabulary are the 256 bytes and whose logits leave no doubt: LEVEL for the byte to write (0 where the prompt has
ended), 0 for any other. So its tokens, fingerprints and scores follow the protocol's own rules, and a verifier finds what does not fit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_operator.backends.protocol import Execution, Hear, Piece
from aos_operator.errors import WorkerRefused
from aos_operator.subjects import Subject
from aos_protocol import fingerprint
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel
from aos_protocol.sampling import RULE_VERSION, sampling_seed
from aos_protocol.score_document import Contradiction
from aos_protocol.scoring import Accumulator
from aos_protocol.transcript import Transcript

ENGINE: Final = "stub"
"""The engine that its transcripts and scores name, so that nobody takes them for a model's."""

VOCABULARY: Final = 256
LEVEL: Final = 1000.0
"""So far above the others that no noise of the sampling rule reaches it, at any temperature."""

_Logits: TypeAlias = NDArray[np.float32]


class StubWorker:
    """`Backend` that serves `models` (name to SHA-256) at once and always gives the same answer to the same job."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = dict(models)

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`."""
        return [ServedModel(name=name, sha256=digest) for name, digest in self._models.items()]

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`. A stub is no enclave. It tells its text character by character."""
        if execution is not None:
            raise WorkerRefused("a stub signs nothing: it is no enclave")
        answer = stub_answer(job, self._digest(job), seed, prover)
        if hear is not None:
            for character in answer["text"]:
                hear(Piece(character))
        return answer

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`."""
        return stub_score(job, self._digest(job), subject)

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`."""
        raise WorkerRefused(f"a stub has nothing to attest on {nonce}: it is no enclave")

    def _digest(self, job: JobSpec) -> str:
        digest = self._models.get(job.model)
        if digest is None:
            raise WorkerRefused(f"no model {job.model} here; there are: {', '.join(self._models)}")
        return digest


def stub_answer(job: JobSpec, model_sha256: str, seed: str, prover: str) -> dict[str, Any]:
    """Return what `POST /v1/generate` would: text, transcript, commitment and usage, all fitting the job."""
    prompt = _prompt(job)
    output = prompt[: job.params.max_tokens]
    along = fingerprint.directions(bytes.fromhex(seed), prover, VOCABULARY)
    made = fingerprint.project(_logits(prompt, len(output)), along)
    transcript = Transcript.from_json(
        {
            "rule": RULE_VERSION,
            "model": model_sha256,
            "engine": ENGINE,
            "params": job.params.model_dump(),
            "seed": seed,
            "prover": prover,
            "prompt_tokens": prompt,
            "output_tokens": output,
            "fingerprints": fingerprint.to_text(fingerprint.pack(made)),
            "finish_reason": "length" if len(output) < len(prompt) else "eos",
        }
    )
    return {
        "text": _spelled(output),
        "finish_reason": transcript.finish_reason,
        "transcript": transcript.to_json(),
        "commitment": transcript.commitment(),
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(output)},
    }


def stub_score(job: JobSpec, model_sha256: str, subject: Subject) -> dict[str, Any]:
    """Return what `POST /v1/score` would, for one item. Raises `WorkerRefused` for tokens that are no bytes."""
    claim = subject.claim
    tokens = claim.output_tokens or list((claim.text or "").encode())
    if max(tokens) >= VOCABULARY:
        raise WorkerRefused(f"token {max(tokens)} is not in the vocabulary of {VOCABULARY} bytes")
    seed = None if claim.seed is None else bytes.fromhex(claim.seed)
    along = claimed = None
    if claim.fingerprints is not None and claim.prover is not None and seed is not None:
        along = fingerprint.directions(seed, claim.prover, VOCABULARY)
        claimed = fingerprint.unpack(fingerprint.from_text(claim.fingerprints, len(tokens)))
    scored = Accumulator(
        tokens,
        job.params.temperature,
        job.params.top_p,
        seed=None if seed is None else sampling_seed(seed),
        along=along,
        claimed=claimed,
    )
    scored.add(_logits(_prompt(job), len(tokens)))
    contradiction = _contradiction(job, subject)
    score = scored.score(subject.digest, model_sha256, ENGINE, contradiction=contradiction)
    return {"scores": [score.to_json()]}


def _contradiction(job: JobSpec, subject: Subject) -> Contradiction | None:
    """What an answer says of its prompt and text against its own tokens; how it ends, the stub does not judge."""
    if subject.transcript is None:
        return None
    if list(subject.transcript.prompt_tokens) != _prompt(job):
        return "prompt"
    return None if _spelled(subject.transcript.output_tokens) == subject.text else "text"


def _spelled(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def _prompt(job: JobSpec) -> list[int]:
    return list(job.prompt_bytes()) or [0]


def _logits(prompt: Sequence[int], positions: int) -> _Logits:
    """The logits at output positions 0 and up: shape (positions, VOCABULARY)."""
    written = [*prompt, *[0] * positions][:positions]
    logits = np.zeros((positions, VOCABULARY), dtype=np.float32)
    logits[np.arange(positions), written] = LEVEL
    return logits
