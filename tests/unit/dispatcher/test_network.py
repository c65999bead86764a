"""What is shown of the network: sums over figures, in the documented shapes, of a bounded size where it is pushed."""

from typing import Any

import pytest

from aos_dispatcher.figures import Figures
from aos_dispatcher.hub import Peer
from aos_dispatcher.network import portrait, summary
from aos_dispatcher.network_documents import MOST_PUSHED, Network, Summary
from aos_dispatcher.rounds_store import tokens_of
from aos_protocol.frames import Frame
from aos_protocol.identity import Signer
from aos_protocol.messages import DirectOffer, Instance, JobResult, ServedModel

SIGNER = Signer.generate()
LLAMA = ServedModel(name="llama", sha256="1" * 64, evidence="text", able=["chat", "fim"])
PAINTER = ServedModel(
    name="painter", sha256="2" * 64, kinds=[1, 2], instances=[Instance(project="art", cid="c0ffee", kind=1)]
)
WHOSE = {"dispatcher": SIGNER.address, "server_key": SIGNER.public_key[1:].hex()}


async def nowhere(_frame: Frame) -> None:
    """Nothing is said to these peers."""


def peer(number: int, *models: ServedModel, url: str | None = None) -> Peer:
    return Peer(
        Signer.generate().address,
        number,
        epoch=1,
        serves={("opml", model.name): model for model in models},
        signer=SIGNER,
        send=nowhere,
        direct=DirectOffer(key="0" * 64, url=url),
    )


def test_a_portrait_adds_up_what_was_counted() -> None:
    one, two = peer(2, LLAMA, PAINTER, url="https://provider.example"), peer(3, LLAMA)
    llama = ("opml", "llama")
    shown = portrait(
        [two, one],
        Figures(
            rounds={
                (llama, "created"): 5,
                (llama, "dispatched"): 2,
                (("opml", "gone"), "created"): 1,
            },
            seats={(one.address, "executor"): 2, (two.address, "verifier"): 1},
            tokens={(one.address, llama): 600, (two.address, llama): 60, ("0xgone", llama): 6},
            verdicts={
                (one.address, "match"): 3,
                (one.address, "mismatch"): 1,
                (two.address, "inconclusive"): 2,
            },
        ),
        {two.address},
    )
    network = Network.model_validate(shown | WHOSE | {"as_of": "2026-01-01 00:00:00"})
    assert network.connected == 2
    assert (network.jobs.waiting, network.jobs.running) == (6, 2)
    assert network.tokens_per_second == 11.1
    assert network.verdicts.model_dump() == {"match": 3, "mismatch": 1, "inconclusive": 2, "match_rate": 0.75}
    assert [(m.name, m.providers, m.jobs.waiting, m.tokens_per_second) for m in network.models] == [
        ("llama", 2, 5, 11.1),
        ("painter", 1, 0, 0),
    ]
    first, second = network.providers
    assert (first.number, first.standing, first.direct, first.tokens_per_second) == (2, "good", True, 10.0)
    assert (second.number, second.standing, second.direct) == (3, "suspended", False)
    assert (first.jobs.executing, second.jobs.verifying) == (2, 1)
    assert (first.verdicts.match_rate, second.verdicts.match_rate) == (0.75, None)
    assert (first.models[0].evidence, first.models[0].able) == ("text", ["chat", "fim"])
    assert first.models[1].instances[0].model_dump() == {
        "node_id": one.address,
        "project": "art",
        "model": "painter",
        "cid": "c0ffee",
        "kind": 1,
    }


def test_a_name_with_two_files_is_two_models() -> None:
    shown = portrait([peer(2, LLAMA), peer(3, LLAMA.model_copy(update={"sha256": "3" * 64}))], Figures(), ())
    assert [(model["sha256"][0], model["providers"]) for model in shown["models"]] == [("1", 1), ("3", 1)]


def test_what_is_pushed_names_the_busiest_and_says_how_many_it_does_not_name() -> None:
    peers = [peer(number, LLAMA) for number in range(2, MOST_PUSHED + 7)]
    busy = {peers[-1].address, peers[-2].address, peers[3].address}
    shown = portrait(peers, Figures(seats={(address, "executor"): 1 for address in busy}), ())
    pushed = Summary.model_validate(summary(shown) | WHOSE)
    assert (len(pushed.providers), pushed.providers_left_out) == (MOST_PUSHED, 5)
    assert (len(pushed.models), pushed.models_left_out) == (1, 0)
    assert busy <= {provider.address for provider in pushed.providers}
    numbers = [provider.number for provider in pushed.providers]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"transcript": {"output_tokens": [4, 5, 6]}}, 3),
        ({"record": {"completion_tokens": 7}}, 7),
        ({"record": {"completion_tokens": 7, "output_tokens": [1]}}, 1),
        ({"record": {"completion_tokens": 10**30}}, 16),
        ({"record": {"images": []}}, None),
        ({}, None),
    ],
)
def test_tokens_of_an_answer_are_counted_and_no_more_than_its_job_allows(
    said: dict[str, Any], tokens: int | None
) -> None:
    assert tokens_of(JobResult.model_construct(**{"transcript": None, "record": None} | said), 16) == tokens
