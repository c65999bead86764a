"""Which models are served, and what is said of each."""

from types import SimpleNamespace
from typing import Any

import pytest

from aos_dispatcher.gateway.errors import BadRequest, NotServed, UnknownModel
from aos_dispatcher.gateway.served import Served, check_able, find, served
from aos_dispatcher.hub import Hub, Peer
from aos_protocol.identity import Signer
from aos_protocol.messages import Instance, ServedModel

SHA, OTHER = "ab" * 32, "cd" * 32


async def nothing(_frame: Any) -> None:
    """Send nowhere."""


class Pinned:
    """The names that a dispatcher knows."""

    def __init__(self, *known: tuple[str, str, str]) -> None:
        self._known = list(known)

    async def models(self) -> list[tuple[str, str, str]]:
        return self._known

    async def pins(self, name: str) -> dict[str, str]:
        return {job_type: sha256 for each, job_type, sha256 in self._known if each == name}


def dispatcher(*known: tuple[str, str, str], peers: list[dict[tuple[str, str], ServedModel]]) -> Any:
    hub = Hub()
    for number, serves in enumerate(peers, start=2):
        signer = Signer.generate()
        hub.add(Peer(signer.address, number, epoch=1, serves=serves, signer=signer, send=nothing))
    return SimpleNamespace(hub=hub, operators=Pinned(*known))


def offer(name: str = "m", sha256: str = SHA, **more: Any) -> ServedModel:
    return ServedModel(name=name, sha256=sha256, **more)


async def test_a_model_is_what_its_operators_say_together() -> None:
    here = Instance(project="DecentralGPT", cid="d15c4007271b")
    peers = [
        {("opml", "m"): offer(able=["chat"], evidence="logprobs", instances=[here])},
        {("opml", "m"): offer(able=["fim", "logprobs"])},
        {("opml", "m"): offer(sha256=OTHER, able=["chat"], evidence="text")},
    ]
    service = dispatcher(("m", "opml", SHA), ("away", "opml", OTHER), peers=peers)
    [model] = await served(service)
    assert model == await find(service, "m")
    assert (model.evidence, model.able) == ("logprobs", {"chat", "fim", "logprobs"})
    shown = model.to_json("http://here:1/")
    assert (shown["id"], shown["model"], shown["project"], shown["owned_by"]) == (
        "m",
        "m",
        "DecentralGPT",
        "DecentralGPT",
    )
    assert shown["url"] == "http://here:1/v1/chat/completions"


async def test_what_is_served_changes_with_who_is_there() -> None:
    service = dispatcher(("m", "opml", SHA), peers=[])
    signer = Signer.generate()
    with pytest.raises(NotServed):
        await find(service, "m")
    peer = Peer(signer.address, 2, epoch=1, serves={("opml", "m"): offer()}, signer=signer, send=nothing)
    service.hub.add(peer)
    assert (await find(service, "m")).able == {"chat"}
    again = Peer(
        signer.address, 2, epoch=2, serves={("opml", "m"): offer(able=[])}, signer=signer, send=nothing
    )
    service.hub.add(again)
    assert (await find(service, "m")).able == set()
    service.hub.remove(again)
    assert await served(service) == []


async def test_jobs_are_opml_where_they_can_be() -> None:
    both = {("tee", "m"): offer(), ("opml", "m"): offer(sha256=OTHER)}
    known = (("m", "tee", SHA), ("m", "opml", OTHER))
    service = dispatcher(*known, peers=[both])
    assert [(each.job_type, each.sha256) for each in await served(service)] == [("opml", OTHER)]
    enclaves = dispatcher(*known, peers=[{("tee", "m"): offer()}])
    assert (await find(enclaves, "m")).job_type == "tee"
    assert [each.job_type for each in await served(enclaves)] == ["tee"]


async def test_a_model_is_unknown_or_away() -> None:
    service = dispatcher(("m", "opml", SHA), peers=[{("opml", "m"): offer(sha256=OTHER)}])
    with pytest.raises(UnknownModel):
        await find(service, "other")
    with pytest.raises(NotServed):
        await find(service, "m")
    assert await served(service) == []


@pytest.mark.parametrize(
    ("kinds", "able", "url"),
    [
        ([0], {"chat"}, "/v1/chat/completions"),
        ([0], set(), "/v1/completions"),
        ([1], set(), "/v1/images/generations"),
        ([2], set(), "/v1/images/edits"),
    ],
)
def test_a_model_s_url_is_where_it_is_asked(kinds: Any, able: set[Any], url: str) -> None:
    model = Served("m", "opml", SHA, "text", kinds, frozenset(able), [])
    assert model.to_json("https://here/")["url"] == f"https://here{url}"
    assert model.to_json("https://here/")["owned_by"] == "aos"


def test_what_it_is_not_able_to_is_refused() -> None:
    model = Served("m", "opml", SHA, "text", [0], frozenset({"chat"}), [])
    check_able(model, {"chat": "messages"})
    with pytest.raises(BadRequest, match="able to: chat") as error:
        check_able(model, {"chat": "messages", "fim": "suffix"})
    assert error.value.param == "suffix"
    painter = Served("m", "opml", SHA, "text", [1], frozenset(), [])
    with pytest.raises(BadRequest, match="/v1/images/generations"):
        check_able(painter, {})
