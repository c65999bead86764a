"""A worker without a model, for tests and benchmarks: it writes the prompt's own bytes back, as tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from aos_operator.errors import WorkerRefused
from aos_protocol.messages import JobSpec, ModelOffer
from aos_protocol.sampling import RULE_VERSION
from aos_protocol.transcript import Transcript

ENGINE = "stub"
"""The engine that its transcripts name, so that nobody takes them for a model's."""


class StubWorker:
    """`Worker` that serves `models` (name to SHA-256) at once and always gives the same answer to the same job."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = dict(models)

    async def models(self) -> Sequence[ModelOffer]:
        """See `Worker.models`."""
        return [ModelOffer(name=name, sha256=digest) for name, digest in self._models.items()]

    async def generate(self, job: JobSpec, seed: str) -> dict[str, Any]:  # noqa: ARG002 (a boundary's signature)
        """See `Worker.generate`."""
        digest = self._models.get(job.model)
        if digest is None:
            raise WorkerRefused(f"no model {job.model} here; there are: {', '.join(self._models)}")
        return stub_answer(job, digest)


def stub_answer(job: JobSpec, model_sha256: str) -> dict[str, Any]:
    """Return what `POST /v1/generate` would: text, transcript, commitment and usage, all fitting the job."""
    prompt = list(job.prompt_bytes()) or [0]
    output = prompt[: job.params.max_tokens]
    transcript = Transcript.from_json(
        {
            "rule": RULE_VERSION,
            "model": model_sha256,
            "engine": ENGINE,
            "params": job.params.model_dump(),
            "prompt_tokens": prompt,
            "output_tokens": output,
            "finish_reason": "length" if len(output) < len(prompt) else "eos",
        }
    )
    return {
        "text": bytes(output).decode(errors="replace"),
        "finish_reason": transcript.finish_reason,
        "transcript": transcript.to_json(),
        "commitment": transcript.commitment(),
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(output)},
    }
