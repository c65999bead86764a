"""Calls for an attestation: relayed as they are, a few at a time, and never for long."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_operator.attesting import AT_ONCE, Attesting
from aos_operator.errors import Refused, WorkerRefused, WorkerUnavailable
from aos_operator.stub import StubWorker
from aos_protocol.attestation.statement import Attestation
from aos_protocol.fields import parse_message
from aos_protocol.messages import Attest
from support.enclave_workers import SimulatedEnclave
from unit.operator.world import MODEL

CALL = Attest(model=MODEL.name, nonce="5a" * 32)


class Saying(StubWorker):
    """A worker that waits for `go`, and gives this attestation or raises this error."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        super().__init__({})
        self.answer = answer
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[str] = []

    async def attestation(self, nonce: str) -> dict[str, Any]:
        self.asked.append(nonce)
        await self.go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def refused(worker: StubWorker, patience: float = 5) -> Refused:
    with pytest.raises(Refused) as caught:
        await Attesting(worker, patience).attest(CALL, MODEL)
    return caught.value


async def test_the_enclave_attests_itself_on_the_nonce(enclave: SimulatedEnclave) -> None:
    with capture_logs() as logs:
        attestation = await Attesting(enclave).attest(CALL, MODEL)
    keyset = parse_message(Attestation, attestation).keyset
    assert keyset == enclave.keyring.current().keyset
    [entry] = [entry for entry in logs if entry["event"] == "relayed an attestation"]
    assert (entry["attestation"], entry["nonce"]) == ("simulated", CALL.nonce)


async def test_one_that_cannot_be_read_is_not_passed_on() -> None:
    error = await refused(Saying({"kind": "nitro"}))
    assert error.code == 502
    assert "cannot be read" in str(error)


async def test_one_for_another_model_is_not_passed_on(enclave: SimulatedEnclave) -> None:
    other = MODEL.model_copy(update={"sha256": "cd" * 32})
    with pytest.raises(Refused, match="the enclave runs model") as caught:
        await Attesting(enclave).attest(CALL, other)
    assert caught.value.code == 502


async def test_a_worker_that_is_no_enclave_is_named_as_such() -> None:
    error = await refused(Saying(WorkerRefused("Not Found (HTTP 404)")))
    assert (error.code, "Not Found (HTTP 404); is it a tee-worker?" in str(error)) == (502, True)
    assert "it is no enclave" in str(await refused(StubWorker({})))


async def test_a_worker_that_is_away_says_so_in_its_own_words() -> None:
    with pytest.raises(WorkerUnavailable, match="the device is gone"):
        await Attesting(Saying(WorkerUnavailable("the device is gone"))).attest(CALL, MODEL)


async def test_nobody_waits_for_ever() -> None:
    silent = Saying({})
    silent.go.clear()
    error = await refused(silent, patience=0.01)
    assert (error.code, str(error)) == (504, "the enclave gave no attestation within 0.01 s")


async def test_only_a_few_are_made_at_once_and_the_others_need_not_wait(enclave: SimulatedEnclave) -> None:
    worker = Saying(await enclave.attestation(CALL.nonce))
    worker.go.clear()
    attesting = Attesting(worker)
    asking = [asyncio.create_task(attesting.attest(CALL, MODEL)) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="8 attestations are being made") as caught:
        await attesting.attest(CALL, MODEL)
    assert caught.value.code == 429
    worker.go.set()
    await asyncio.gather(*asking)
    await attesting.attest(CALL, MODEL)
    assert len(worker.asked) == AT_ONCE + 1
