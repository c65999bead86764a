"""What the client of a direct session finds out before its prompt leaves, and before it believes an answer."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from aos_cli.client import DispatcherClient
from aos_cli.direct import open_session
from aos_cli.errors import CliError
from aos_dispatcher.settings import NO_REGISTRY
from aos_protocol.direct import sign_session
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer, Session
from aos_protocol.sealing import SealingKey
from aos_protocol.typed_data import Domain
from integration.dispatcher.direct_net import WANTED, Direct


@pytest_asyncio.fixture
async def net(network: Any) -> AsyncIterator[Direct]:
    running = Direct(network)
    yield running
    for operator in running.operators:
        await operator.close()


def _foreign(said: dict[str, Any], signer: Signer) -> None:
    """A dispatcher that puts a key of its own into the operator's session, and signs that."""
    bent = Session(
        **{**said["session"], "model": ModelOffer(**said["session"]["model"]), "key": SealingKey().public}
    )
    said["session"] = sign_session(signer, Domain(0, NO_REGISTRY), bent).to_json()


BENDS: dict[str, tuple[Callable[[dict[str, Any], Signer], Any], str]] = {
    "a key of the dispatcher's own": (_foreign, "not this session"),
    "a changed session": (lambda said, _: said["session"].update(key="ab" * 32), "not by the dispatcher"),
    "an acceptance of nothing": (lambda said, _: said.update(accepted="{}"), "frame"),
    "a receipt of another request": (
        lambda said, _: said["receipt"].update(request_digest="ab" * 32),
        "another request",
    ),
    "another number": (lambda said, _: said["receipt"].update(sequence=77), "does not hold"),
    "another project": (lambda said, _: said["request"].update({"from": "somebody"}), "another request"),
    "no session": (lambda said, _: said.pop("session"), "no session"),
    "no request": (lambda said, _: said.update(request=7), "no session"),
}


async def test_before_the_prompt_leaves_the_session_has_to_hold(
    net: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await net.operator()
    begin = DispatcherClient.begin_session
    for how, (bend, why) in BENDS.items():

        async def bent(self: DispatcherClient, wanted: Any, bend: Any = bend) -> Any:
            said = await begin(self, wanted)
            bend(said, net.network.signer)
            return said

        monkeypatch.setattr(DispatcherClient, "begin_session", bent)
        with pytest.raises(CliError) as refused:
            await net.open()
        assert why in str(refused.value), how
    assert operator.worker.asked == []


async def test_an_operator_that_was_not_drawn_is_not_told_the_prompt(
    net: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence names who executes; a session with another one of the network does not fit it."""
    await net.operator()
    evidence = DispatcherClient.evidence

    async def bent(self: DispatcherClient, job_id: str) -> Any:
        document = await evidence(self, job_id)
        document["rounds"][0]["committee"][0]["state"] = "lost"
        return document

    monkeypatch.setattr(DispatcherClient, "evidence", bent)
    with pytest.raises(CliError, match="the prompt was not sent"):
        await net.open()


async def test_another_dispatcher_than_the_one_that_is_trusted_gets_no_prompt(net: Direct) -> None:
    await net.operator()
    async with net.client() as client:
        with pytest.raises(CliError, match="not of 0x"):
            await open_session(client, WANTED, dispatcher="0x" + "11" * 20)


async def test_an_answer_that_was_not_signed_for_is_found_out(net: Direct) -> None:
    """Whoever holds the operator's key can say one thing to the client and sign another; the client finds that."""
    await net.operator()
    opened = await net.open()
    await net.read(opened)
    opened.opener._text.append(" And more.")
    (failed,) = [said for said in await net.verified(opened) if "FAIL" in said]
    assert failed.startswith("AOS-DIRECT-1 FAIL")
    assert "not the one that its operator signed for" in failed
