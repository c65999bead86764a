"""What a malicious operator or network sends is refused with a reason, kept, and harms nobody else."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import websockets

from aos_protocol import vrf
from aos_protocol.frames import seal_object, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch
from support.lot import drawn
from support.operators import ScriptedOperator

Change = dict[str, Any]


async def outcome(network: Any, operator: ScriptedOperator) -> tuple[str, list[dict[str, Any]]]:
    """Submit a job to the only operator; how it ended, and what was rejected."""
    job_id = await network.submit()
    detail = await network.finished(job_id)
    assert await network.results(job_id) == [] or detail["status"] == "completed"
    rejections: list[dict[str, Any]] = (await network.evidence(job_id))["rejections"]
    return detail["status"], rejections


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"result": "another answer"}, "signed by"),
        ({"user": "somebody else"}, "user"),
        ({"tag": "malicious"}, "no open job"),
        ({"position": "before"}, "position"),
        ({"signature": "0" * 130}, "v is 0"),
        ({"signature": ""}, "signature"),
        ({"job_id": "0" * 64}, "no open job"),
        ({"model": {"name": "tiny.gguf", "sha256": "cd" * 32}}, "names model"),
        ({"clock": {"2": "999"}}, "clock"),
        ({"transcript": None}, "transcript"),
        ({"unknown": 1}, "unknown"),
        ({"vrf": {}}, "vrf"),
    ],
)
async def test_a_result_that_fails_a_check_is_kept_and_never_shown(
    network: Any, change: Change, why: str
) -> None:
    operator = await network.operator()
    operator.bend_result = lambda said: {k: v for k, v in (said | change).items() if v is not None}
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.replies))
    assert operator.replies[0]["code"] == 400
    assert why in operator.replies[0]["message"]
    assert await network.results(job_id) == []


def resigned(change: Callable[[dict[str, Any]], Change]) -> Callable[[ScriptedOperator], None]:
    """Let an operator sign a changed result properly, as a cheat would."""

    def bend(operator: ScriptedOperator) -> None:
        def resign(said: dict[str, Any]) -> dict[str, Any]:
            dispatch: Dispatch = operator.dispatched[-1]
            return operator.signed(said | change(said), dispatch)

        operator.bend_result = resign

    return bend


@pytest.mark.parametrize(
    ("cheat", "why"),
    [
        (resigned(lambda said: {"transcript": said["transcript"] | {"model": "ee" * 32}}), "made with model"),
        (
            resigned(
                lambda said: {
                    "transcript": said["transcript"]
                    | {"params": said["transcript"]["params"] | {"temperature": 0.1}}
                }
            ),
            "other parameters",
        ),
        (
            resigned(lambda said: {"vrf": said["vrf"] | {"selected": not said["vrf"]["selected"]}}),
            "another ticket",
        ),
        (resigned(lambda said: {"clock": {"2": said["clock"]["2"]}}), "does not dominate"),
        (resigned(lambda said: {"role": "verifier"}), "role"),
    ],
)
async def test_a_properly_signed_lie_is_refused(network: Any, cheat: Callable[..., None], why: str) -> None:
    operator = await network.operator()
    cheat(operator)
    status, rejections = await outcome(network, operator)
    assert status == "failed"
    assert why in rejections[0]["reason"]
    assert json.loads(rejections[0]["frame"])["method"] == "job_result"


async def test_a_cheat_is_replaced_by_an_honest_operator(network: Any) -> None:
    cheat = await network.operator()
    resigned(lambda said: {"transcript": said["transcript"] | {"model": "ee" * 32}})(cheat)
    honest = await network.operator()
    for first in (cheat, honest):
        job_id = await drawn(network, lambda lot, first=first: lot.executor == first.signer.address)
        assert (await network.finished(job_id))["status"] == "completed"
        answers = [row for row in await network.results(job_id) if row["signs"] == "answer"]
        assert [row["operator"] for row in answers] == [honest.signer.address]
    assert cheat.dispatched


@pytest.mark.parametrize(
    "bend",
    [
        lambda reply: reply | {"ticket": reply["ticket"] | {"operator": Signer.generate().address}},
        lambda reply: reply | {"ticket": reply["ticket"] | {"job_id": "0" * 64}},
        lambda reply: (
            reply | {"ticket": reply["ticket"] | {"vrf": reply["ticket"]["vrf"] | {"vrf_proof": "0" * 162}}}
        ),
        lambda reply: (
            reply | {"ticket": reply["ticket"] | {"vrf": reply["ticket"]["vrf"] | {"selected": None}}}
        ),
        lambda reply: {"code": 429, "message": "the queue is full"},
        lambda reply: {"code": 200, "message": "success"},
        lambda reply: {"message": "\0"},
    ],
)
async def test_a_bad_ticket_does_not_count_and_its_frame_is_evidence(network: Any, bend: Any) -> None:
    honest, bent = await network.operator(), await network.operator()
    bent.bend_ticket = bend
    job_id = await network.submit(tag="suspicion")
    assert (await network.finished(job_id))["status"] == "completed"
    electorate = (await network.evidence(job_id))["rounds"][0]["electorate"]
    reasons = {elector["operator"]: elector["reason"] for elector in electorate}
    assert reasons[honest.signer.address] == ""
    assert reasons[bent.signer.address] != ""
    assert [row["operator"] for row in await network.results(job_id)] == [honest.signer.address]


async def test_a_stolen_ticket_does_not_pass(network: Any) -> None:
    """An operator answers with a proof of another key, honestly made."""
    honest, thief = await network.operator(), await network.operator()
    other = Signer.generate()

    def steal(reply: dict[str, Any]) -> dict[str, Any]:
        ticket = dict(reply["ticket"]["vrf"])
        proof = vrf.prove(other, b"anything")
        ticket |= {"vrf_verify_pubkey": other.public_key.hex(), "vrf_proof": proof.hex()}
        return reply | {"ticket": reply["ticket"] | {"vrf": ticket}}

    thief.bend_ticket = steal
    job_id = await network.submit(tag="suspicion")
    await network.finished(job_id)
    assert [row["operator"] for row in await network.results(job_id)] == [honest.signer.address]


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"id":1}',
        "\x00",
        '{"id":"1","method":"job_result","params":[],"result":null,"address":"","hash":"","signature":""}',
        '{"a":' * 2000,
        "9" * 5000,
        '{"id":"1","id":"2"}',
        b"\xff\xfe",
    ],
)
async def test_junk_is_counted_and_the_connection_lives(network: Any, junk: Any) -> None:
    operator = await network.operator()
    await operator.send(junk)
    assert (await network.finished(await network.submit()))["status"] == "completed"
    metrics = (await network.client.get("/metrics")).text
    assert "aos_frames_refused_total" in metrics


async def test_an_oversized_frame_is_refused_with_its_size(network: Any) -> None:
    operator = await network.operator()
    frame = operator.request("job_result", {"pad": "x" * 70_000})
    await operator.send(frame.text)
    assert (await network.finished(await network.submit()))["status"] == "completed"


async def test_a_frame_of_another_key_is_refused_on_this_connection(network: Any) -> None:
    operator = await network.operator()
    stranger = Signer.generate()
    await operator.send(seal_request(stranger, "77", "job_result", [{"clock": {"2": "50"}}]).text)
    await operator.wait(lambda: bool(operator.replies))
    assert operator.replies[0]["code"] == 400
    assert "belongs to" in operator.replies[0]["message"]


async def test_a_replayed_result_frame_is_refused(network: Any) -> None:
    operator = await network.operator()
    sent: list[str] = []

    def keep(text: str) -> str:
        sent.append(text)
        return text

    operator.bend_frame = keep
    job_id = await network.submit()
    await network.finished(job_id)
    await operator.wait(lambda: len(operator.replies) == 1)
    await operator.send(sent[0])
    await operator.wait(lambda: len(operator.replies) == 2)
    assert operator.replies[1]["code"] == 409
    assert "replay" in operator.replies[1]["message"]
    assert len(await network.results(job_id)) == 1


async def test_the_same_counter_for_other_content_is_equivocation(network: Any) -> None:
    operator = await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    operator.counter -= 1
    operator.answer = "two-faced"
    await operator.send_result(operator.dispatched[0])
    await operator.wait(lambda: len(operator.replies) == 2)
    assert "equivocation" in operator.replies[1]["message"]
    rejections = (await network.evidence(job_id))["rejections"]
    assert "equivocation" in rejections[0]["reason"]


async def test_a_result_sent_again_is_accepted_once(network: Any) -> None:
    operator = await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    await operator.send_result(operator.dispatched[0])
    await operator.wait(lambda: len(operator.replies) == 2)
    assert [reply["code"] for reply in operator.replies] == [200, 200]
    assert len(await network.results(job_id)) == 1


async def test_another_answer_after_the_first_is_refused_and_kept(network: Any) -> None:
    operator = await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    operator.answer = "on second thought"
    await operator.send_result(operator.dispatched[0])
    await operator.wait(lambda: len(operator.replies) == 2)
    assert operator.replies[1]["code"] == 400
    assert len((await network.evidence(job_id))["rejections"]) == 1


async def test_a_connect_for_another_connection_is_refused(network: Any) -> None:
    operator = await network.operator(connect=False)
    operator.bend_connect = lambda said: seal_object(operator.signer, said | {"nonce": "0" * 64})
    refusal = await operator.connect()
    assert refusal["code"] == 400
    assert "another challenge" in refusal["message"]


async def test_a_connect_sealed_by_another_key_is_refused(network: Any) -> None:
    operator = await network.operator(connect=False)
    operator.bend_connect = lambda said: seal_object(Signer.generate(), said)
    assert "is signed by" in (await operator.connect())["message"]


async def test_a_hundred_bad_frames_close_the_connection(network: Any) -> None:
    operator = await network.operator()
    for _ in range(100):
        await operator.send("{}")
    assert "refused" in await operator.closed()


async def test_silence_after_the_challenge_holds_no_place(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos_dispatcher.link._HANDSHAKE_S", 0.1)
    async with websockets.connect(network.ws) as socket:
        await socket.recv()
        await asyncio.wait_for(socket.wait_closed(), 30)
    assert len(network.dispatcher.hub) == 0
