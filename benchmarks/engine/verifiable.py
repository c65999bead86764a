"""What it costs that output can be verified: fingerprints, transcript, commitment and signatures on and off.

On: the worker as it is, and of every answer what an operator does with it, when it arrives: the transcript checked, its commitment computed again,
the result signed (EIP-712) and sealed in a frame. Off: a worker that has none of it (`start_plain_worker.py`), and the answer's text.
"""

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import contenders
import httpx
from figures import Series, Spent, Table
from options import Options

from aos_protocol.canonical import digest
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ResultClaim, sign_typed

_ON: Final = "verifiable"
_OFF: Final = "plain worker"
_PLAIN: Final = (str(Path(__file__).parent / "start_plain_worker.py"),)
_DOMAIN: Final = Domain(31337, "0x" + "5f" * 20)
_DIGEST: Final = "5a" * 32


class Operator(contenders.Worker):
    """A worker whose answers are checked and signed, in this process, whose time counts."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, path: str) -> None:
        super().__init__(process, client, path)
        self._signer = Signer.generate()
        self._signing = 0.0

    def now(self) -> Spent:
        """See Contender; the time for checking and signing is included."""
        worker = super().now()
        return Spent(worker.wall, worker.cpu + self._signing)

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await super()._ask(body)
        start = time.thread_time()
        self._sign(answer)
        self._signing += time.thread_time() - start
        return answer

    def _sign(self, answer: dict[str, Any]) -> None:
        transcript = Transcript.from_json(answer["transcript"])
        commitment = transcript.commitment()
        if commitment != answer["commitment"]:
            raise contenders.Failed("the worker's commitment is not that of its transcript")
        text = hashlib.sha256(answer["text"].encode()).hexdigest()
        claim = ResultClaim(
            job_id=_DIGEST,
            dispatcher=self._signer.address,
            operator=self._signer.address,
            role="executor",
            tag="",
            position="",
            counter=1,
            registry_block=0,
            answer=text,
            transcript=commitment,
            model=transcript.model,
            params=digest(transcript.params.model_dump(mode="json")),
            vrf_proof=_DIGEST,
            clock=digest({"1": "2"}),
            attestation="0" * 64,
        )
        signature = sign_typed(self._signer, _DOMAIN, claim)
        result = {"result": answer["text"], "transcript": transcript.to_json(), "signature": signature}
        seal_request(self._signer, "1", "job_result", [result])


async def measure(options: Options, jobs: int) -> Table:
    """Both in turns; which one begins changes from round to round."""
    setting, series = options.setting(jobs), Series()
    async with AsyncExitStack() as stack:
        running: dict[str, contenders.Worker] = {
            _ON: await stack.enter_async_context(contenders.worker(setting, Operator)),
            _OFF: await stack.enter_async_context(contenders.worker(setting, contenders.PlainWorker, _PLAIN)),
        }
        for contender in running.values():
            await contender.generate(options.prompts(2, 0), 8)
        for number in range(1, 1 + options.rounds):
            for name in ((_ON, _OFF), (_OFF, _ON))[number % 2]:
                spent = await running[name].generate(options.prompts(jobs, number), options.output)
                series.add(name, spent / (jobs * options.output))
    return series.table(f"{jobs} jobs at once: output tokens", _ON, "rate")
