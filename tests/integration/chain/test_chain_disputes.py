"""`aos chain challenge` and what follows, on a real chain: evidence of stories, whose operators are registered there."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from aos_chain.client import Chain
from aos_chain.deployment import write_deployment
from aos_chain.operators import register
from aos_cli import chain_jury
from aos_cli.chain_amounts import ether
from aos_operator.store import PostgresStore
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import JobResult
from aos_protocol.sortition import equal_shares
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import SeatClaim, sign_typed
from aos_protocol.verification import result_claim
from aos_service.database import create_engine, database_url
from support.actors import Actor
from support.anvil import ETHER, Anvil
from support.chain_commands import ChainCommands
from support.evidence import CHEATING, DISPATCHER, HONEST, Bend, Story, honest
from support.network import Network
from unit.operator.world import World

OPERATORS = 6
BOND = ETHER * 60 // 100 // OPERATORS
STAKE = ETHER // 100


class Court:
    """A network whose operators are those of the stories, on the chain with their bonds; and somebody who challenges."""

    def __init__(
        self, commands: ChainCommands, anvil: Anvil, where: dict[str, Any], challenger: Signer
    ) -> None:
        self.commands = commands
        self.anvil = anvil
        self.where = where
        self.challenger = challenger

    def story(self, bend: Bend = honest, **job: Any) -> Story:
        """A job that these operators ran, drawn on the chain's registry."""
        story = Story(bend=bend, chain=self.where, operators=OPERATORS, **job)
        story.own()
        return story

    async def challenge(self, story: Story, ground: str, *more: str) -> str:
        evidence = self.commands.evidence(story.document())
        accused = story.document()["rounds"][0]["committee"][0]["operator"]
        return await self.commands.aos(
            "challenge", story.job_id, accused, "--ground", ground, *evidence, *more, key=self.challenger
        )

    async def refused(self, story: Story, ground: str, operator: str | None = None) -> str:
        evidence = self.commands.evidence(story.document())
        accused = operator or story.document()["rounds"][0]["committee"][0]["operator"]
        return await self.commands.fails(
            "challenge", story.job_id, accused, "--ground", ground, *evidence, key=self.challenger
        )

    async def paid(self) -> str:
        return await self.commands.aos("credit", "--withdraw", key=self.challenger)


@pytest_asyncio.fixture
async def court(tmp_path: Path, anvil: Anvil, chain: Chain, network: Network) -> AsyncIterator[Court]:
    signers = [Actor(number, honest).signer for number in range(2, OPERATORS + 2)]
    shares = equal_shares([signer.address for signer in signers])
    for signer, (_, start, end) in zip(signers, shares, strict=True):
        await anvil.rpc("anvil_setBalance", signer.address, hex(10 * ETHER))
        await register(chain, network.deployment, signer, start, end)
    block = await anvil.head()
    await anvil.mine()
    commands = ChainCommands(tmp_path, anvil.url)
    write_deployment(commands.deployment, network.deployment)
    block_hash = (await chain.block_hash(block) or "").removeprefix("0x")
    where = {
        "chain_id": network.deployment.chain_id,
        "registry": network.deployment.registry,
        "block": block,
        "block_hash": block_hash,
    }
    yield Court(commands, anvil, where, await anvil.signer())


def executor(story: Story) -> Actor:
    address = story.document()["rounds"][0]["committee"][0]["operator"]
    return next(actor for actor in story.crew if actor.address == address)


def jurors(story: Story, count: int) -> list[Signer]:
    return [actor.signer for actor in story.crew if actor.address != executor(story).address][:count]


async def test_a_mismatch_is_decided_by_jurors(court: Court) -> None:
    commands, story = court.commands, court.story()
    assert (await court.challenge(story, "mismatch")).startswith("challenge 1 is open: aos chain status 1")
    waiting = await commands.json("1")
    assert (waiting["state"], waiting["ground"], waiting["job_id"]) == ("open", "mismatch", story.job_id)
    assert waiting["next"][0].endswith("more: aos chain answer 1")
    assert "locked by a challenge" in await commands.aos("status")
    foreign = await commands.fails("answer", "1", key=court.challenger)
    assert foreign.startswith(
        f"challenge 1 is against {executor(story).address}: only its own key answers it"
    )
    assert "waits for an answer: there is nothing to vote on" in await commands.fails(
        "vote", "1", "--verdict", "match", key=jurors(story, 1)[0]
    )
    assert "a jury votes now" in await commands.aos("answer", "1", key=executor(story).signer)
    early = await commands.fails("vote", "1", "--verdict", "match", key=jurors(story, 1)[0])
    assert early.startswith(
        "the contract refuses: the jury's blocks are not all there yet; jurors are drawn on 17 blocks"
    )
    await court.anvil.mine(17)
    for juror in jurors(story, 3):
        said = await commands.aos("vote", "1", "--verdict", "mismatch", key=juror)
    assert said.endswith("votes mismatch; so far: 3 mismatch\n")
    assert "the operator is a party" in await commands.fails(
        "vote", "1", "--verdict", "match", key=executor(story).signer
    )
    assert "the window is not over; aos chain status ID shows when it is" in await commands.fails(
        "close", "1", key=court.challenger
    )
    await court.anvil.travel(600)
    assert (await commands.json("1"))["next"] == ["anybody: aos chain close 1"]
    assert (
        await commands.aos("close", "1", key=court.challenger)
        == "challenge 1 is upheld: the operator has lost\n"
    )
    slashed, stake = BOND // 2 + STAKE, STAKE
    won = stake + STAKE // 2 + (slashed - STAKE) // 2
    assert await court.paid() == f"{ether(won)} paid to {court.challenger.address}\n"
    assert (
        await commands.aos("credit", key=court.challenger) == f"0 ETH is owed to {court.challenger.address}\n"
    )
    assert "owes" in await commands.fails("credit", "--withdraw", key=court.challenger)
    shown = await commands.aos("status", executor(story).address)
    assert "challenge 1 (mismatch) is upheld: the operator has lost" in shown
    assert "challenged already" in await court.refused(story, "mismatch")


@pytest.mark.parametrize(("distance", "verdict"), [(HONEST, "match"), (CHEATING, "mismatch")])
async def test_a_juror_has_its_worker_score_the_answer(
    court: Court, monkeypatch: pytest.MonkeyPatch, distance: float, verdict: str
) -> None:
    commands, story = court.commands, court.story(distance=distance)
    await court.challenge(story, "mismatch")
    await commands.aos("answer", "1", key=executor(story).signer)
    await court.anvil.mine(17)
    numbers = story._numbers(story.document()["rounds"][0]["results"][0])[0]
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: _Worker(numbers.to_json()))
    evidence = commands.evidence(story.document())
    said = await commands.aos("vote", "1", "--worker", "http://worker", *evidence, key=jurors(story, 1)[0])
    assert said.endswith(f"votes {verdict}; so far: 1 {verdict}\n")
    both = await commands.fails(
        "vote", "1", "--worker", "http://worker", "--verdict", "match", key=jurors(story, 2)[1]
    )
    assert both == "give --verdict with what you found, or --worker URL to find it out"


async def test_a_jury_that_the_chain_forgot_is_drawn_anew(court: Court) -> None:
    commands, story = court.commands, court.story()
    await court.challenge(story, "mismatch")
    await commands.aos("answer", "1", key=executor(story).signer)
    await court.anvil.mine(300)
    vote = ("vote", "1", "--verdict", "match")
    assert "a new jury is drawn" in await commands.aos(*vote, key=jurors(story, 1)[0])
    await court.anvil.mine(17)
    assert "so far: 1 match" in await commands.aos(*vote, key=jurors(story, 1)[0])


async def test_evidence_of_another_job_decides_nothing(court: Court) -> None:
    story, other = court.story(), court.story(prompt="What is AOS?")
    await court.challenge(story, "mismatch")
    await court.commands.aos("answer", "1", key=executor(story).signer)
    await court.anvil.mine(17)
    evidence = court.commands.evidence(other.document())
    said = await court.commands.fails(
        "vote", "1", "--worker", "http://worker", *evidence, key=jurors(story, 1)[0]
    )
    assert "this evidence does not hold the challenged result" in said


async def filled_up(court: Court) -> tuple[Story, SeatClaim]:
    """A job whose executor's ticket selected nobody, challenged for it; and the seat that it had."""
    stories = (court.story(prompt=f"What is {number}?") for number in range(100))
    story = next(story for story in stories if story.document()["rounds"][0]["committee"][0]["filled"])
    assert (await court.challenge(story, "membership")).startswith("challenge 1 is open")
    return story, SeatClaim(story.job_id, executor(story).address, "executor", "", "", court.where["block"])


async def test_who_filled_the_committee_shows_its_seat(court: Court) -> None:
    story, seat = await filled_up(court)
    none = await court.commands.fails("answer", "1", key=executor(story).signer)
    assert none.endswith("with the settings of the operator that it is against, or --seat SIGNATURE")
    forged = sign_typed(court.challenger, story.domain, seat)
    assert "the signature is another key's" in await court.commands.fails(
        "answer", "1", "--seat", forged, key=executor(story).signer
    )
    signed = sign_typed(DISPATCHER, story.domain, seat)
    said = await court.commands.aos("answer", "1", "--seat", signed, key=executor(story).signer)
    assert said == "challenge 1 is rejected: the seat is the dispatcher's word\n"


class Desk:
    """An operator's settings and database, as `aos chain answer` finds them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.file = folder / "config-operator.yaml"
        settings = {
            "db": {"pg_db_url": url},
            "queue": {"queue_url": "redis://127.0.0.1:1/0"},
            "net": {"dispatcher_url": "ws://127.0.0.1:1/ws"},
            "node": {"dispatcher_address": DISPATCHER.address},
        }
        self.file.write_text(yaml.safe_dump(settings))

    async def keep(self, seat: SeatClaim, signature: str, **changes: Any) -> None:
        """Have the operator take a dispatch for this seat."""
        members = {"job_id": seat.job_id, "role": seat.role, "tag": seat.tag, "position": seat.position}
        members |= {"registry_block": seat.registry_block, "seat": signature}
        engine = create_engine(
            database_url(self.url), pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20
        )
        await PostgresStore(engine, seat.operator).take(World().job(**members | changes))
        await engine.dispose()


@pytest_asyncio.fixture
async def desk(tmp_path: Path, new_database: Callable[[str], Awaitable[str]]) -> Desk:
    return Desk(tmp_path, await new_database("operator"))


async def test_an_operator_s_database_has_its_seat(court: Court, desk: Desk) -> None:
    story, seat = await filled_up(court)
    await desk.keep(seat, "00" * 65, tag="malicious", position="before", role="verifier")
    await desk.keep(seat, sign_typed(DISPATCHER, story.domain, seat))
    said = await court.commands.aos(
        "answer", "1", "--operator-config", str(desk.file), key=executor(story).signer
    )
    assert said == "challenge 1 is rejected: the seat is the dispatcher's word\n"


async def test_a_database_without_that_seat_is_told_before_anything_is_paid(court: Court, desk: Desk) -> None:
    story, seat = await filled_up(court)
    answer = ("answer", "1", "--operator-config", str(desk.file))
    fails, key = court.commands.fails, executor(story).signer

    missing = await fails(*answer, key=key)
    assert f"has no dispatch of job {story.job_id} to {seat.operator}: name the settings of" in missing
    await desk.keep(seat, "00" * 65, tag="suspicion", position="after", role="verifier")
    other = await fails(*answer, key=key)
    assert "for another seat than the challenged result's (verifier under suspicion, after, by the" in other
    assert f"registry of block {seat.registry_block}): if the dispatch of that one" in other
    await desk.keep(seat, sign_typed(court.challenger, story.domain, seat))
    forged = await fails(*answer, key=key)
    assert f"is that of {court.challenger.address}, not of the dispatcher {DISPATCHER.address}" in forged
    both = await fails(*answer, "--seat", "00" * 65, key=key)
    assert both.startswith("give --seat or --operator-config, not both")
    assert (await court.commands.json("1"))["state"] == "open"


async def test_operator_settings_that_cannot_be_used_are_told(
    court: Court, tmp_path: Path, new_database: Callable[[None], Awaitable[str]]
) -> None:
    story, _ = await filled_up(court)
    absent, empty = tmp_path / "absent.yaml", Desk(tmp_path, await new_database(None))
    for file, told in ((absent, str(absent)), (empty.file, "has no tables yet")):
        said = await court.commands.fails(
            "answer", "1", "--operator-config", str(file), key=executor(story).signer
        )
        assert told in said


async def test_a_member_that_was_selected_is_not_challenged(court: Court) -> None:
    stories = (court.story(prompt=f"What is {number}?") for number in range(100))
    story = next(story for story in stories if not story.document()["rounds"][0]["committee"][0]["filled"])
    assert await court.refused(story, "membership") == "the contract refuses: the ticket selects the operator"


async def test_two_results_for_one_entry_of_the_clock_convict(court: Court) -> None:
    first, second = court.story(), court.story(_said_otherwise)
    files = court.commands.evidence(second.document(), "second.json")
    said = await court.challenge(first, "equivocation", *files)
    accused = executor(first).address
    assert said == (
        f"{accused} is convicted: 0.1 ETH of bond taken, 0.05 ETH of it burned; 0.05 ETH is yours: aos chain credit --withdraw\n"
    )
    assert await court.paid() == f"0.05 ETH paid to {court.challenger.address}\n"
    assert "signed no two different results" in await court.refused(first, "equivocation")
    assert (await court.commands.json(accused))["end"] == 0


async def test_a_ticket_that_does_not_hold_convicts(court: Court) -> None:
    assert "is convicted" in await court.challenge(court.story(_forged_ticket), "proof")


async def test_a_ticket_that_holds_does_not(court: Court) -> None:
    assert await court.refused(court.story(), "proof") == "the contract refuses: the proof holds"


async def test_a_result_in_another_s_name_convicts_who_signed_it(court: Court) -> None:
    story = court.story()
    thief = jurors(story, 1)[0]
    _sign_again(story, thief)
    assert (await court.challenge(story, "key")).startswith(f"{thief.address} is convicted: 0.1 ETH")


async def test_a_result_signed_by_its_operator_convicts_nobody(court: Court) -> None:
    assert "the operator signed it itself" in await court.refused(court.story(), "key")


async def test_results_that_are_not_there_or_not_of_this_network(court: Court) -> None:
    story = court.story()
    nobody = await court.refused(story, "mismatch", court.challenger.address)
    assert nobody.startswith(
        f"operator {court.challenger.address} signed no result of job {story.job_id}; results are of 0x"
    )
    elsewhere = Story()
    elsewhere.own()
    assert "the result was signed for a network without a chain" in await court.refused(elsewhere, "mismatch")


class _Worker:
    """A worker that finds these numbers."""

    def __init__(self, score: dict[str, Any]) -> None:
        self._score = score

    async def score(self, _job: object, _subject: object) -> dict[str, Any]:
        return {"scores": [self._score]}

    async def close(self) -> None:
        return None


def _said_otherwise(_actor: Actor, said: dict[str, Any]) -> None:
    if "result" in said:
        said["result"] = "quite another answer"


def _forged_ticket(_actor: Actor, said: dict[str, Any]) -> None:
    proof = said["vrf"]["vrf_proof"]
    said["vrf"] = said["vrf"] | {"vrf_proof": proof[:-2] + ("00" if proof[-2:] != "00" else "01")}


def _sign_again(story: Story, key: Signer) -> None:
    """Put a result in its place that names the operator, and that another one signed."""
    round_ = story.rounds[0]
    said = json.loads(round_["results"][0])["params"][0]
    result = parse_message(JobResult, said)
    transcript = Transcript.from_json(said["transcript"])
    claim = result_claim(result, story.request.job.params.digest(), transcript, seed=story.seed["value"])
    said["signature"] = sign_typed(key, story.domain, claim)
    round_["results"] = [seal_request(executor(story).signer, "8", "job_result", [said]).text]
