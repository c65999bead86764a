"""Operators' workers that cheat, each in one way. Every one of them keeps its story straight as far as it can: model, parameters, seed,
prover and commitment in the transcript are those that the dispatcher expects, so that only scoring can tell."""

import random
from typing import Any

import numpy as np

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.backends.worker import HttpWorker
from aos_protocol.fingerprint import pack, to_text
from aos_protocol.job import JobSpec
from aos_protocol.transcript import Transcript

Answer = dict[str, Any]

TIMEOUT_S = 30.0


def retold(answer: Answer, text: str | None = None, **changes: Any) -> Answer:
    """The answer with another text and these changes to its transcript, committed to anew."""
    transcript = Transcript.from_json(answer["transcript"] | changes)
    return answer | {
        "text": answer["text"] if text is None else text,
        "finish_reason": transcript.finish_reason,
        "transcript": transcript.to_json(),
        "commitment": transcript.commitment(),
    }


def asking(job: JobSpec, **changes: Any) -> JobSpec:
    """The job with other members."""
    return JobSpec.model_validate(job.to_json() | changes)


class Cheat(HttpWorker):
    """Honest until a subclass says otherwise; `others` are workers on other models than the one that is announced."""

    def __init__(self, url: str, others: dict[str, str]) -> None:
        super().__init__(url, TIMEOUT_S)
        self._others = {name: HttpWorker(other, TIMEOUT_S) for name, other in others.items()}

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> Answer:
        """See `Backend.generate`."""
        assert execution is None, "these cheats have no enclave"
        return await self.cheat(job, seed, prover)

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """Answer a job."""
        return await self.honest(job, seed, prover)

    async def honest(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """What the announced model answers."""
        return await super().generate(job, seed, prover)

    async def by_another(self, name: str, job: JobSpec, seed: str, prover: str) -> Answer:
        """What another model answers, passed off as the announced one's."""
        worker, own = self._others[name], (await self.models())[0]
        served = (await worker.models())[0]
        answer = await worker.generate(asking(job, model=served.name), seed, prover)
        return retold(answer, model=own.sha256)

    async def close(self) -> None:
        """Close all connections."""
        await super().close()
        for worker in self._others.values():
            await worker.close()


class SmallerQuantisation(Cheat):
    """Runs Q4_0 weights."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        return await self.by_another("quantised", job, seed, prover)


class OtherCheckpoint(Cheat):
    """Runs weights that differ by less than a hundredth."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        return await self.by_another("checkpoint", job, seed, prover)


class OtherTemperature(Cheat):
    """Draws at four fifths of the temperature."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        params = job.params.model_dump(mode="json")
        cooler = asking(job, params=params | {"temperature": job.params.temperature * 0.8})
        return retold(await self.honest(cooler, seed, prover), params=params)


class OtherSeed(Cheat):
    """Draws by a seed that it likes better."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        return retold(await self.honest(job, "5e" * 32, prover), seed=seed)


class HiddenPrompt(Cheat):
    """Puts a sentence of its own before the prompt, and shows the prompt without it."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        answer = await self.honest(asking(job, prompt=f"Buy more shoes. {job.prompt}"), seed, prover)
        shown = await self.honest(_shortest(job), seed, prover)
        return retold(answer, prompt_tokens=shown["transcript"]["prompt_tokens"])


class TruncatedPrompt(Cheat):
    """Reads the first half of the prompt only, and shows all of it."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        assert job.prompt is not None
        answer = await self.honest(asking(job, prompt=job.prompt[: len(job.prompt) // 2]), seed, prover)
        shown = await self.honest(_shortest(job), seed, prover)
        return retold(answer, prompt_tokens=shown["transcript"]["prompt_tokens"])


class EditedToken(Cheat):
    """Generates honestly, then puts another token in the place of one."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        answer = await self.honest(job, seed, prover)
        tokens = list(answer["transcript"]["output_tokens"])
        tokens[len(tokens) // 2] ^= 1
        return retold(answer, output_tokens=tokens)


class EditedText(Cheat):
    """Generates honestly, then changes what the answer says, but not its transcript."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        answer = await self.honest(job, seed, prover)
        return retold(answer, text=answer["text"] + " Buy more shoes.")


class CopiedAnswer(Cheat):
    """Takes an answer that another operator gave to the same job, and gives it as its own."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        others = await self.honest(job, seed, "0x" + "22" * 20)
        return retold(others, prover=prover)


class MadeUpTranscript(Cheat):
    """Writes words and fingerprints without any model."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        answer = await self.honest(_shortest(job), seed, prover)
        count = min(job.params.max_tokens, 64)
        dice = random.Random(seed)
        return retold(
            answer,
            params=job.params.model_dump(mode="json"),
            output_tokens=[dice.randrange(300, 2000) for _ in range(count)],
            fingerprints=to_text(
                pack(np.array([[dice.gauss(0, 3) for _ in range(8)] for _ in range(count)]))
            ),
            finish_reason="length",
        )


class EmptyAnswer(Cheat):
    """Computes one token's logits, and says that the model ended there."""

    async def cheat(self, job: JobSpec, seed: str, prover: str) -> Answer:
        """See `Cheat.cheat`."""
        answer = await self.honest(_shortest(job), seed, prover)
        eos = 1
        return retold(
            answer,
            text="",
            params=job.params.model_dump(mode="json"),
            output_tokens=[eos],
            finish_reason="eos",
        )


def _shortest(job: JobSpec) -> JobSpec:
    return asking(job, params=job.params.model_dump(mode="json") | {"max_tokens": 1})


CHEATS: tuple[type[Cheat], ...] = (
    SmallerQuantisation,
    OtherCheckpoint,
    OtherTemperature,
    OtherSeed,
    HiddenPrompt,
    TruncatedPrompt,
    EditedToken,
    EditedText,
    CopiedAnswer,
    MadeUpTranscript,
    EmptyAnswer,
)
