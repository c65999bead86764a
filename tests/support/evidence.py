"""Whole jobs without I/O: the evidence that an honest dispatcher and honest operators would leave, all keys real.

story = Story("suspicion")
story.own()
story.challenge()
document = story.document()

`Story(enclaves=True)` is a `tee` job, run by simulated enclaves; `Story(sealed=True)` one whose prompt only they can read;
`Story(record=TEXT_ONLY)` one whose operators show no transcripts. `Story(chain=CHAIN)` one whose registry is a contract's, and whose log is anchored.
"""

from collections.abc import Sequence
from typing import Any

from aos_protocol import fingerprint, merkle, sortition, vrf
from aos_protocol.canonical import digest
from aos_protocol.evidence_view import open_result
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_reply
from aos_protocol.identity import Signer
from aos_protocol.job import Params, SubmitRequest
from aos_protocol.log_entries import job_entries
from aos_protocol.messages import Draw, Ticket
from aos_protocol.record import Record
from aos_protocol.score_document import Score
from aos_protocol.sealing import SealingKey, seal_prompt
from aos_protocol.shown import digest_of, read_shown
from aos_protocol.sortition import Candidate
from aos_protocol.typed_data import ChallengeClaim, Domain, ReceiptClaim, TreeHeadClaim, sign_typed
from aos_protocol.verdict import judge, overall
from aos_protocol.verification import Terms, check_ticket
from support.actors import DOMAIN, MODEL, NO_REGISTRY, TOKENS, Actor, Bend, honest, merged
from support.calibration import calibration
from support.evidence_rows import rows_of

__all__ = [
    "CALIBRATION", "CAUSE", "CHAIN", "CHEATING", "CLAIM", "DISPATCHER", "DOMAIN", "FINGERPRINTED", "HONEST", "MODEL", "NO_REGISTRY", "PROJECT",
    "REQUEST", "SEEDED", "TEXT_ONLY", "TOKENS", "TOKEN_IDS", "Actor", "Bend", "Story", "honest", "honest_evidence", "logged", "rows_of", "sealed_job",
]  # fmt: skip

DISPATCHER = Signer(b"\x11" * 32)
CALIBRATION = calibration(MODEL.sha256)
CAUSE = "c" * 64
"""A tagged job of the same user, by which a story's job gets rounds."""
CHAIN: dict[str, Any] = {
    "chain_id": 31337,
    "registry": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "block": 1234,
    "block_hash": "b" * 64,
}
"""A registry contract at a block, as evidence names it."""
ANCHOR = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"

REQUEST: dict[str, Any] = {
    "from": "shop",
    "tag": "",
    "user": "device 1",
    "job": {
        "tag": "opml",
        "prompt": "What is AI?",
        "model": MODEL.name,
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024},
    },
}
PROJECT = SealingKey(b"\x33" * 32)
"""To whom the answers to sealed prompts are sealed."""
Drawn = dict[str, tuple[str, Ticket, Candidate]]
"""Of a draw, by operator: the signed frame of its ticket, the ticket, and its place."""
CLAIM = {"output_tokens": TOKENS}
SEEDED = CLAIM | {"seed": "5" * 64}
FINGERPRINTED = SEEDED | {"prover": "somebody", "fingerprints": fingerprint.to_text(bytes(16 * len(TOKENS)))}
TEXT_ONLY: dict[str, Any] = {
    "version": 1, "level": "text", "backend": "ollama", "engine": "0.5", "finish_reason": "eos", "prompt_tokens": 3,
    "completion_tokens": 3,
}  # fmt: skip
"""What an operator shows of an answer whose tokens it does not know."""
TOKEN_IDS = TEXT_ONLY | {"level": "token_ids", "backend": "llama.cpp", "output_tokens": TOKENS}
UNSCORED: dict[str, Any] = {
    "outcome": "inconclusive", "level": None, "reason": "there is nothing that could be scored", "statistics": {}, "tokens_needed": None,
}  # fmt: skip
HONEST, CHEATING = 0.001, 0.3
"""Distances between fingerprints of the calibration's own model, and of a coarser one."""


def honest_evidence(tag: str = "", operators: int = 4, audit_ppm: int = 1_000_000) -> dict[str, Any]:
    """The evidence of a completed job that verifiers found to match."""
    story = Story(tag, operators=operators, audit_ppm=audit_ppm)
    story.own()
    return story.document()


class Story:
    """One job of an honest network, told round by round. `lost` members are away when they are called, and replaced.

    `distance` is what every verifier measures between claimed and own fingerprints: 0.001 is honest, 0.3 is another model's.
    With `enclaves` every operator has one, and the job's type is `tee`; with `sealed` its prompt is sealed to all of them but the last.
    With a `record`, they show that in place of transcripts, and the dispatcher wanted `least` at least. `chain` is where the registry was read, null for the dispatcher's own. A later job of one dispatcher has a higher `sequence`,
    and the `crew` of the one before it, who count on.
    """

    def __init__(
        self,
        tag: str = "",
        *,
        operators: int = 6,
        audit_ppm: int = 1_000_000,
        calibrated: bool = True,
        distance: float = HONEST,
        bend: Bend = honest,
        enclaves: bool = False,
        sealed: bool = False,
        chain: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        least: str | None = None,
        sequence: int = 1,
        crew: list[Actor] | None = None,
        **job: Any,
    ) -> None:
        self.chain = chain
        self.sequence = sequence
        self.domain = Domain(chain["chain_id"], chain["registry"]) if chain else DOMAIN
        self.crew = crew or [
            Actor(number, bend, enclaves or sealed, self.domain) for number in range(2, operators + 2)
        ]
        for actor in self.crew:
            actor.record = record
        self.record, self.least = record, least
        if enclaves or sealed:
            job["tag"] = "tee"
        self.body = REQUEST | {"tag": tag, "job": REQUEST["job"] | job}
        if sealed:
            self.body["job"] = sealed_job(self.body["job"], self.crew[:-1])
        self.request = parse_message(SubmitRequest, self.body)
        self.job_id = sortition.job_id(DISPATCHER.address, sequence, self.body)
        self.audit_ppm = audit_ppm
        self.distance = distance
        self.calibrated = calibrated and not sealed
        self.seed = self._seed(0)
        self.rounds: list[dict[str, Any]] = []
        self.rejections: list[dict[str, str]] = []
        self._clock = {"1": "1"}
        self._ended: dict[str, str] = {}

    def own(self, *, lost: int = 0, cause_tag: str = "", cause: str = CAUSE) -> dict[str, Any]:
        """The job's own round; with `cause_tag`, under the tag that an earlier job of the user, `cause`, brought."""
        tag = cause_tag or self.request.tag
        round_ = self._hold(tag, "after" if tag else "", cause=cause if cause_tag else None, lost=lost)
        self._ended = dict(self._clock)
        return round_

    def before(self, tag: str) -> dict[str, Any]:
        """Another look at the job, because a later one of its user is tagged."""
        return self._hold(tag, "before", cause=CAUSE)

    def challenge(
        self, *, round_: int = 0, by: str = "dispatcher", purpose: str = "challenge"
    ) -> dict[str, Any]:
        """Another committee's look at the executor's result of an earlier round.

        An `operator` that challenges is one that neither made that result nor sat on its committee's first seat; an appeal is
        its maker's.
        """
        held = self.rounds[round_]
        said = open_result(held["results"][0])
        challenger = None
        if by == "operator":
            own = purpose == "appeal"
            challenger = next(actor for actor in self.crew if (actor.address == said.operator) == own)
        row = f"{said.operator}_{self.job_id}_{held['tag']}"
        plea = _plea(by, purpose, row, challenger, self.domain)
        number = 1 + max(other["challenge"] for other in self.rounds)
        return self._hold("suspicion", "after", challenge=number, challenged=held["results"][0], plea=plea)

    def reject(self) -> None:
        """An operator's answer comes once more, after everything, and is refused."""
        frame = self.rounds[0]["results"][0]
        self.rejections.append(
            {"operator": open_result(frame).operator, "reason": "the job has ended", "frame": frame}
        )

    def document(self) -> dict[str, Any]:
        """The evidence of everything held so far."""
        receipt = ReceiptClaim(self.job_id, self.sequence, digest(self.body))
        document = {
            "version": "aos-evidence/1",
            "dispatcher": {"address": DISPATCHER.address, "public_key": DISPATCHER.public_key.hex()},
            "domain": {"chain_id": self.domain.chain_id, "registry": self.domain.registry},
            "job": {
                "job_id": self.job_id,
                "sequence": self.sequence,
                "request": self.body,
                "request_digest": digest(self.body),
                "receipt": sign_typed(DISPATCHER, self.domain, receipt),
                "status": "completed",
                "reason": "",
                "clock": self._ended,
            },
            "seed": self.seed,
            "policy": {"audit_ppm": self.audit_ppm} | ({"least_evidence": self.least} if self.least else {}),
            "calibrations": [CALIBRATION.to_json()] if self.calibrated else [],
            "rounds": self.rounds,
            "rejections": self.rejections,
            "log": None,
        }
        return document | {"log": logged(document)}

    def _seed(self, challenge: int) -> dict[str, str]:
        alpha = sortition.seed_alpha(self.job_id, challenge)
        proof = vrf.prove(DISPATCHER, alpha)
        return {"value": vrf.verify(DISPATCHER.public_key, alpha, proof).hex(), "proof": proof.hex()}

    def _tick(self, *known: dict[str, str]) -> dict[str, str]:
        self._clock = merged(self._clock, {"1": str(int(self._clock["1"]) + 1)}, *known)
        return dict(self._clock)

    def _hold(
        self,
        tag: str,
        position: str,
        *,
        challenge: int = 0,
        cause: str | None = None,
        challenged: str | None = None,
        plea: dict[str, Any] | None = None,
        lost: int = 0,
    ) -> dict[str, Any]:
        seed = self._seed(challenge) if challenge else self.seed
        without = {open_result(challenged).operator, plea["operator"]} if challenged and plea else set()
        draw_clock = self._tick()
        drawn = self._draw(tag, position, challenge, seed, draw_clock, without)
        points = self._points(list(drawn), tag, seed)
        sealed = self.request.job.sealed is not None
        audit = not (tag or sealed) and sortition.audited(bytes.fromhex(self.seed["value"]), self.audit_ppm)
        ranking = sortition.rank((candidate for _, _, candidate in drawn.values()), points)
        members = sortition.committee(ranking, sortition.committee_minimum(tag, audit=audit), alone=sealed)
        dispatched = self._tick(*(drawn[member.operator][1].clock for member in members))
        executes = challenged is None and self.request.job.claim is None
        seats = self._seats(ranking[: len(members) + lost], lost, executes=executes)
        terms = Terms(
            job_id=self.job_id,
            user=self.request.user,
            job=self.request.job,
            seed=self.seed["value"],
            tag=tag,
            position=position,
            model_sha256=MODEL.sha256,
            dispatch_clock=dispatched,
            dispatcher=DISPATCHER.address,
            challenge=challenge,
            challenge_seed=seed["value"],
            registry_block=self._registry_block,
        )
        results = self._execute(terms, seats, drawn) if executes else []
        subject = challenged or (results[0] if executes else None)
        unscorable = self._send_home(seats) if executes else False
        scored = len(seats) > lost + executes and not unscorable
        scores = self._score(terms, seats, drawn, subject) if scored else []
        self._tick()
        round_ = {
            "verify_id": str(len(self.rounds) + 1),
            "tag": tag,
            "position": position,
            "challenge": challenge,
            "cause": cause,
            "seed": seed if challenge else None,
            "subject": challenged,
            "plea": plea,
            "model": MODEL.to_json(),
            "status": "completed",
            "registry": self._registry(),
            "draw_clock": draw_clock,
            "electorate": [
                {"operator": operator, "frame": frame, "reason": ""}
                for operator, (frame, _, _) in drawn.items()
            ],
            "dispatch_clock": dispatched,
            "committee": seats,
            "results": results,
            "scores": scores,
            "calibration": CALIBRATION.digest() if self.calibrated else None,
            "verdict": UNSCORED if unscorable else self._verdict(subject, len(scores)),
        }
        self.rounds.append(round_)
        return round_

    def _draw(
        self,
        tag: str,
        position: str,
        challenge: int,
        seed: dict[str, str],
        clock: dict[str, str],
        without: set[str],
    ) -> Drawn:
        """Every asked operator's frame, ticket and place: of those that may be asked, as many as an electorate has."""
        drawn, sealed = {}, self.request.job.sealed
        entries = {entry["operator"]: entry for entry in self._registry()["operators"]}
        here = [actor.address for actor in self.crew if actor.address not in without and not actor.away]
        here = [operator for operator in here if sealed is None or operator in sealed.operators]
        for entry in map(entries.__getitem__, self._points(here, tag, seed) or here):
            draw = Draw(
                job_id=self.job_id,
                tag=tag,
                position=position,
                challenge=challenge,
                job_type=self.request.job.tag,
                model=MODEL,
                seed=seed["value"],
                seed_proof=seed["proof"],
                vrf_prompt_hash=self.request.job.prompt_hash(),
                range_start=entry["start"],
                range_end=entry["end"],
                registry_block=self._registry_block,
                clock=clock,
            )
            actor = self._actor(entry["operator"])
            ticket = actor.ticket(draw)
            reply = {"code": 200, "message": "success", "ticket": ticket.to_json()}
            frame = seal_reply(actor.signer, "7", reply).text
            drawn[actor.address] = (frame, ticket, check_ticket(ticket, draw, actor.address))
        return drawn

    def _points(self, here: list[str], tag: str, seed: dict[str, str]) -> dict[str, int] | None:
        """The electorate of these operators with its points; None where all of them are asked."""
        most = sortition.electorate_size(tag)
        if len(here) < most or len(self.crew) <= most:
            return None
        shares = sortition.equal_shares([actor.address for actor in self.crew])
        return sortition.Holders(shares).electorate(bytes.fromhex(seed["value"]), here.__contains__, most)

    def _seats(self, candidates: Sequence[Candidate], lost: int, *, executes: bool) -> list[dict[str, Any]]:
        return [
            {
                "operator": candidate.operator,
                "role": "executor" if executes and rank <= lost else "verifier",
                "filled": not candidate.selected,
                "state": "lost" if rank < lost else "answered",
                "reason": "away" if rank < lost else "",
            }
            for rank, candidate in enumerate(candidates)
        ]

    def _execute(self, terms: Terms, seats: list[dict[str, Any]], drawn: Drawn) -> list[str]:
        """The answers of a round: the executor's first, then those of verifiers that execute, too."""
        frames = []
        for seat in seats:
            if seat["state"] == "answered" and (seat["role"] == "executor" or terms.tag == "malicious"):
                actor = self._actor(seat["operator"])
                frame, said = actor.result(terms, drawn[actor.address][1], seat["role"])
                frames.append(frame)
                self._tick(said.clock)
        return frames

    def _send_home(self, seats: list[dict[str, Any]]) -> bool:
        """Whether nobody can score the answer, in which case its verifiers are given up."""
        if self.record is None or self.record.get("output_tokens"):
            return False
        for seat in seats:
            if seat["role"] == "verifier":
                seat |= {"state": "refused", "reason": UNSCORED["reason"]}
        return True

    def _score(
        self, terms: Terms, seats: list[dict[str, Any]], drawn: Drawn, subject: str | None
    ) -> list[str]:
        """The scores of a round, all with the same numbers; `subject` is the answer's frame, None for the claim."""
        numbers, operator, known = self._numbers(subject)
        call = self._tick(known)
        frames = []
        for seat in seats:
            if seat["state"] == "answered" and seat["role"] == "verifier":
                actor = self._actor(seat["operator"])
                frames.append(actor.score(terms, drawn[actor.address][1], numbers, operator, call))
                self._tick({str(actor.number): str(actor.counter)})
        return frames

    def _verdict(self, subject: str | None, scores: int) -> dict[str, Any] | None:
        if not scores:
            return None
        numbers, _, _ = self._numbers(subject)
        verdict = overall([judge(numbers, CALIBRATION if self.calibrated else None)] * scores)
        return {
            "outcome": verdict.outcome,
            "level": verdict.level,
            "reason": verdict.reason,
            "statistics": dict(verdict.statistics),
            "tokens_needed": verdict.tokens_needed,
        }

    def _numbers(self, subject: str | None) -> tuple[Score, str | None, dict[str, str]]:
        """What every verifier measures, of whose answer, and that answer's clock."""
        if subject is None:
            claim = self.request.job.claim
            assert claim is not None
            level = "fingerprint" if claim.fingerprints else "seeded" if claim.seed else "likelihood"
            return self._score_of(level, claim.digest()), None, {}
        said = open_result(subject)
        shown = read_shown(said)
        level = "likelihood" if isinstance(shown, Record) else "fingerprint"
        return self._score_of(level, digest_of(shown)), said.operator, said.clock

    def _score_of(self, level: Any, subject: str) -> Score:
        count = len(TOKENS)
        return Score(
            level=level,
            subject=subject,
            model=MODEL.sha256,
            engine="scripted",
            positions=count,
            distances=[self.distance] * count if level == "fingerprint" else None,
            margins=[0.0] * count if level != "likelihood" else None,
            surprisals=[3.0] * count,
            winners=TOKENS,
            entropy=9.5,
            variance=0.75,
        )

    @property
    def _registry_block(self) -> int:
        return self.chain["block"] if self.chain else 0

    def _actor(self, address: str) -> Actor:
        return next(actor for actor in self.crew if actor.address == address)

    def _registry(self) -> dict[str, Any]:
        shares = sortition.equal_shares([actor.address for actor in self.crew])
        return {
            "max_range": sortition.MAX_RANGE,
            "chain": self.chain,
            "operators": [
                {"operator": address, "number": actor.number, "start": start, "end": end}
                for actor, (address, start, end) in zip(self.crew, shares, strict=True)
            ],
        }


def logged(document: dict[str, Any], before: int = 5) -> dict[str, Any]:
    """The log of a dispatcher that wrote this job down, after `before` other entries and with one more behind it.

    Where signatures are valid on a chain, that has the head of before that last entry.
    """
    entries = job_entries(document)
    leaves = [f"another entry {number}".encode() for number in range(before)]
    leaves += [entry.encode() for entry in entries] + [b"one more entry"]
    domain = Domain(document["domain"]["chain_id"], document["domain"]["registry"])
    return {
        "head": signed_head(leaves, domain),
        "entries": [
            {
                "index": before + place,
                "text": entry,
                "proof": [node.hex() for node in merkle.inclusion_proof(leaves, before + place)],
            }
            for place, entry in enumerate(entries)
        ],
        "anchor": _anchor(leaves, domain) if domain.chain_id else None,
    }


def signed_head(leaves: Sequence[bytes], domain: Domain = DOMAIN) -> dict[str, Any]:
    """The dispatcher's head of a log with these entries."""
    claim = TreeHeadClaim(DISPATCHER.address, len(leaves), merkle.root(leaves).hex(), 1_790_000_000)
    return {
        "size": claim.size,
        "root": claim.root,
        "timestamp": claim.timestamp,
        "signature": sign_typed(DISPATCHER, domain, claim),
    }


def _anchor(leaves: Sequence[bytes], domain: Domain) -> dict[str, Any]:
    size = len(leaves) - 1
    return {
        "chain_id": domain.chain_id,
        "contract": ANCHOR,
        "size": size,
        "root": merkle.root(leaves[:size]).hex(),
        "block": 1300,
        "proof": [node.hex() for node in merkle.consistency_proof(leaves, size)],
    }


def _plea(by: str, purpose: str, row: str, operator: Actor | None, domain: Domain) -> dict[str, Any]:
    plea = {"purpose": purpose, "by": by, "operator": None, "reason": "it reads oddly", "signature": None}
    if operator is None:
        return plea
    claim = ChallengeClaim(operator.address, purpose, row, "it reads oddly")
    return plea | {
        "operator": operator.address,
        "signature": sign_typed(operator.signer, domain, claim),
    }


def sealed_job(job: dict[str, Any], readers: Sequence[Actor]) -> dict[str, Any]:
    """The same job with its prompt sealed to the enclaves of these operators."""
    sealed = seal_prompt(
        {"prompt": job["prompt"]},
        (job["model"], parse_message(Params, job["params"])),
        PROJECT.public,
        [(actor.address, actor.enclave.keyset) for actor in readers],
    )
    return {name: value for name, value in job.items() if name != "prompt"} | {"sealed": sealed.to_json()}
