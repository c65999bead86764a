"""A network on py-evm whose results can be challenged: operators with bonds, their claims, tickets, votes."""

import json
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final

from eth_abi.abi import encode
from eth_hash.auto import keccak
from web3.contract import Contract
from web3.logs import DISCARD
from web3.types import TxReceipt
from web3.utils.address import get_create_address

from aos_chain.hints import coordinates, hints
from aos_protocol import vrf
from aos_protocol.identity import Signer
from aos_protocol.sortition import ticket_threshold, ticket_value
from aos_protocol.typed_data import (
    Domain,
    ResultClaim,
    SeatClaim,
    SignedClaim,
    VoteClaim,
    sign_typed,
)
from support.evm import ETHER, Evm

NOBODY: Final = "0x" + "00" * 20

MEMBERSHIP, MISMATCH, EQUIVOCATION, INVALID_PROOF, FOREIGN_SIGNATURE = 1, 2, 3, 4, 5
OPEN, VOTING, UPHELD, REJECTED, INCONCLUSIVE, UNDECIDED = 1, 2, 3, 4, 5, 6
CANNOT_TELL, MATCH, NO_MATCH = 0, 1, 2

# Odd bonds, here and of the accused, so that no division of them comes out even.
BOND = ETHER + 7
PER_SLOT = 10**14 + 1
ANSWER_WINDOW = 1_000
VOTE_WINDOW = 20_000
MAX_AGE = 1_000
LEAVE_DELAY = 100_000
DRAW = 17
"""From so many blocks after the answer on there is a jury: the last of its 17 blocks is over."""

# Accounts of the chain, by number. The challengers and the dispatcher are no operators.
CHALLENGER, RIVAL, DISPATCHER, ACCUSED = 1, 2, 3, 4
JURORS = (5, 6, 7, 8, 9, 10, 11)
OPERATORS = (ACCUSED, *JURORS)
WIDTHS = dict(zip(OPERATORS, (60_001, 75_000, 30_000, 90_000, 45_000, 75_000, 60_000, 15_000), strict=True))


class Court:
    """The contracts on a fresh chain, and `OPERATORS` registered with the ranges of `WIDTHS`, from 0 on."""

    def __init__(self) -> None:
        self.evm = Evm(12)
        keys = self.evm.tester.backend.account_keys
        self.signers = [Signer(key.to_bytes()) for key in keys[:12]]
        deployer = self.evm.accounts[0]
        nonce = self.evm.web3.eth.get_transaction_count(deployer)
        slasher = get_create_address(deployer, nonce + 2)
        self.registry = self.evm.deploy("OperatorRegistry", slasher, PER_SLOT, LEAVE_DELAY)
        self.sortition = self.evm.deploy("Sortition", self.registry.address)
        self.contract = self.evm.deploy("Challenge", *self.terms())
        self.domain = Domain(self.evm.web3.eth.chain_id, self.registry.address)
        self.ranges: dict[int, tuple[int, int]] = {}
        start = 0
        for operator in OPERATORS:
            self.register(operator, start, start + WIDTHS[operator])
            start += WIDTHS[operator]
        self.evm.mine(2)

    def terms(self, **changes: Any) -> list[Any]:
        """What Challenge is created with, some of it changed."""
        terms = {
            "registry": self.registry.address,
            "sortition": self.sortition.address,
            "bond": BOND,
            "answer_window": ANSWER_WINDOW,
            "vote_window": VOTE_WINDOW,
            "max_age": MAX_AGE,
        }
        return list((terms | changes).values())

    def register(self, operator: int, start: int, end: int) -> None:
        """Give an account a range with the bond that it needs."""
        call = self.registry.functions.registerOperator(self.address(operator), start, end)
        self.evm.send(call, sender=operator, value=(end - start) * PER_SLOT)
        self.ranges[operator] = (start, end)

    # Who, when, and what they own

    def address(self, account: int) -> str:
        return self.signers[account].address

    def bond_of(self, account: int) -> int:
        """The bond that the registry holds of an operator."""
        return int(self.registry.functions.bondOf(self.address(account)).call())

    def locks(self, account: int) -> int:
        return int(self.registry.functions.locks(self.address(account)).call())

    def credits(self) -> dict[int, int]:
        """Who has credit in the contract, and how much."""
        amounts = {number: self.credit(number) for number in range(len(self.signers))}
        return {number: amount for number, amount in amounts.items() if amount}

    def credit(self, account: int) -> int:
        return int(self.contract.functions.credit(self.address(account)).call())

    def burned(self) -> int:
        return int(self.contract.functions.burned().call())

    def state(self, identifier: int) -> int:
        return int(self.read(identifier)[1])

    def read(self, identifier: int) -> Any:
        """A challenge: ground, state, operator, challenger, dispatcher, subject, deadline, juryBlock, drawBlock, seed."""
        return self.contract.functions.challenge(identifier).call()

    def deadline(self, identifier: int) -> int:
        return int(self.read(identifier)[6])

    def at(self, timestamp: int) -> None:
        """Let the next block, and what is called before it, be at this very second."""
        self.evm.tester.time_travel(timestamp)

    def after_window(self, identifier: int) -> None:
        self.at(self.deadline(identifier))

    # What operators and dispatchers sign

    def claim(self, operator: int = ACCUSED, **changes: Any) -> ResultClaim:
        """A result of an account: an executor's in an ordinary job, drawn on the block before the last."""
        claim = ResultClaim(
            job_id="0a" * 32,
            dispatcher=self.address(DISPATCHER),
            operator=self.address(operator),
            role="executor",
            tag="",
            position="",
            counter=17,
            registry_block=self.evm.web3.eth.block_number - 1,
            answer="1b" * 32,
            transcript="2c" * 32,
            model="3d" * 32,
            params="4e" * 32,
            vrf_proof="5f" * 32,
            clock="6a" * 32,
            attestation="00" * 32,
        )
        return replace(claim, **changes)

    def signature(self, claim: SignedClaim, signer: int) -> bytes:
        return bytes.fromhex(sign_typed(self.signers[signer], self.domain, claim))

    def signed(self, claim: ResultClaim, signer: int = ACCUSED) -> tuple[tuple[Any, ...], bytes]:
        """A claim as the contract takes it, and its signature."""
        return as_tuple(claim), self.signature(claim, signer)

    def seat_signature(self, claim: ResultClaim, signer: int = DISPATCHER, **changes: Any) -> bytes:
        """The dispatcher's signature over the seat of a result."""
        seat = SeatClaim(
            job_id=claim.job_id,
            operator=claim.operator,
            role=claim.role,
            tag=claim.tag,
            position=claim.position,
            registry_block=claim.registry_block,
        )
        return self.signature(replace(seat, **changes), signer)

    # Tickets

    def ticket(
        self, operator: int, *, selected: bool, tag: str = "", position: str = ""
    ) -> tuple[bytes, bytes]:
        """An alpha and an honest proof on it, which selects the operator or does not."""
        threshold = ticket_threshold(*self.ranges[operator], tag, position)
        alphas = (bytes(64) + attempt.to_bytes(32, "big") for attempt in count())
        alpha = next(alpha for alpha in alphas if (self.slot(operator, alpha) < threshold) is selected)
        return alpha, self.prove(operator, alpha)

    def prove(self, operator: int, alpha: bytes) -> bytes:
        return vrf.prove(self.signers[operator], alpha)

    def slot(self, operator: int, alpha: bytes) -> int:
        """On which slot of the registry an operator's ticket falls."""
        return ticket_value(self.output(operator, alpha))

    def output(self, operator: int, alpha: bytes) -> bytes:
        return vrf.verify(self.signers[operator].public_key, alpha, self.prove(operator, alpha))

    def shown(self, operator: int, alpha: bytes, proof: bytes) -> tuple[Any, ...]:
        """What the contract is shown of a ticket: key, alpha, proof, hints."""
        key = self.signers[operator].public_key
        return coordinates(key), alpha, proof, hints(key, alpha, proof).abi()

    def drawn(
        self, operator: int = ACCUSED, *, selected: bool, **changes: Any
    ) -> tuple[ResultClaim, tuple[Any, ...]]:
        """A result bound to an honest ticket, and what is shown of it."""
        alpha, proof = self.ticket(operator, selected=selected)
        claim = self.claim(operator, vrf_proof=bound(alpha, proof), **changes)
        return claim, self.shown(operator, alpha, proof)

    # Steps of a challenge

    def open(self, call: Any, *, sender: int = CHALLENGER) -> int:
        """Send a call that opens a challenge, with the bond; the challenge's id."""
        self.evm.send(call, sender=sender, value=BOND)
        return int(self.contract.functions.lastChallenge().call())

    def mismatch(
        self, claim: ResultClaim | None = None, *, sender: int = CHALLENGER, operator: int = ACCUSED
    ) -> int:
        """Challenge a result (by default one of the accused) as a mismatch."""
        claim = claim or self.claim(operator)
        return self.open(
            self.contract.functions.challengeMismatch(*self.signed(claim, operator)), sender=sender
        )

    def jury(self, claim: ResultClaim | None = None) -> int:
        """Challenge a result of the accused, who answers, so that jurors can vote."""
        identifier = self.mismatch(claim)
        self.answer(identifier)
        return identifier

    def answer(self, identifier: int, *, sender: int = ACCUSED) -> None:
        """Have the operator stand by its result, and mine the blocks that the jury is drawn on."""
        self.evm.send(self.contract.functions.answer(identifier), sender=sender)
        self.evm.mine(DRAW)

    def vote(self, identifier: int, juror: int, verdict: int) -> TxReceipt:
        return self.evm.send(self.ballot(identifier, juror, verdict))

    def close(self, identifier: int, *, sender: int = 0) -> TxReceipt:
        """Close a challenge in the first second after its window."""
        if self.evm.now() + 1 < self.deadline(identifier):
            self.after_window(identifier)
        return self.evm.send(self.contract.functions.close(identifier), sender=sender)

    def alpha(self, identifier: int) -> bytes:
        """What jurors prove their tickets on, as the page says it."""
        challenge = encode(["address", "uint256"], [self.contract.address, identifier])
        return self.seed(self.read(identifier)[8]) + keccak(challenge)

    def seed(self, first: int) -> bytes:
        """What a jury is drawn on: the first block's hash, then the last bit of each of the next 16."""
        hashes = [bytes(self.evm.web3.eth.get_block(first + offset)["hash"]) for offset in range(DRAW)]
        bits = "".join(str(each[-1] & 1) for each in hashes[1:])
        return keccak(hashes[0] + int(bits, 2).to_bytes(32, "big"))

    def ballot(self, identifier: int, juror: int, verdict: int, **changes: Any) -> Any:
        """The call that brings in a juror's vote; some arguments by their names in the contract changed."""
        signer, alpha = self.signers[juror], self.alpha(identifier)
        proof = vrf.prove(signer, alpha)
        arguments = {
            "id": identifier,
            "juror": signer.address,
            "verdict": verdict,
            "vote_signature": self.signature(VoteClaim(identifier, signer.address, verdict), juror),
            "public_key": coordinates(signer.public_key),
            "proof": proof,
            "hints": hints(signer.public_key, alpha, proof).abi(),
        }
        return self.contract.functions.vote(*(arguments | changes).values())

    def ranking(self, identifier: int, jurors: tuple[int, ...] = JURORS) -> list[int]:
        """These jurors by their tickets, the best first."""
        return sorted(jurors, key=lambda juror: self.score(identifier, juror))

    def score(self, identifier: int, juror: int) -> int:
        """A juror's VRF output by the width of its range; the lowest five are seated."""
        start, end = self.ranges[juror]
        return int.from_bytes(self.output(juror, self.alpha(identifier)), "big") // (end - start)

    def seated(self, identifier: int) -> dict[int, int]:
        """The jury as far as it has voted: account and verdict."""
        numbers = {signer.address: number for number, signer in enumerate(self.signers)}
        return {
            numbers[juror]: verdict for juror, verdict, _ in self.contract.functions.seats(identifier).call()
        }

    def event(self, receipt: TxReceipt, name: str) -> Any:
        """What the contract's one event of this name says."""
        (event,) = self.contract.events[name]().process_receipt(receipt, errors=DISCARD)
        return event["args"]

    def puppet(self) -> Contract:
        """Deploy an account with code (contracts/Puppet.vy)."""
        compiled = json.loads(
            Path(__file__).with_name("contracts").joinpath("Puppet.json").read_text("utf-8")
        )
        factory = self.evm.web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
        receipt = self.evm.wait(factory.constructor().transact({"from": self.evm.accounts[0]}))
        return self.evm.web3.eth.contract(address=receipt["contractAddress"], abi=compiled["abi"])


class Ledger:
    """Everything that the contracts say of who owns what, read in one call."""

    def __init__(self, court: Court) -> None:
        self.puppet = court.puppet()
        functions, registry = court.contract.functions, court.registry.functions
        operators = [court.address(number) for number in OPERATORS]
        self.calls = [
            *(functions.credit(signer.address) for signer in court.signers),
            *(registry.bondOf(operator) for operator in operators),
            *(registry.locks(operator) for operator in operators),
            functions.burned(),
        ]
        self.targets = [call.address for call in self.calls]
        self.payloads = [call._encode_transaction_data() for call in self.calls]
        self.accounts = len(court.signers)

    def read(self) -> tuple[dict[int, int], dict[int, int], dict[int, int], int]:
        """Credits by account, then bonds and locks by operator, and what was burned."""
        words = self.puppet.functions.read(self.targets, self.payloads).call()
        credited, (*rest, burned) = words[: self.accounts], words[self.accounts :]
        bonds, locks = rest[: len(OPERATORS)], rest[len(OPERATORS) :]
        return (
            dict(enumerate(credited)),
            dict(zip(OPERATORS, bonds, strict=True)),
            dict(zip(OPERATORS, locks, strict=True)),
            burned,
        )


def as_tuple(claim: ResultClaim) -> tuple[Any, ...]:
    """A claim as web3 takes the contract's struct."""
    values = ((getattr(claim, field), kind) for _, kind, field in claim.fields)
    return tuple(bytes.fromhex(value) if kind == "bytes32" else value for value, kind in values)


def bound(alpha: bytes, proof: bytes) -> str:
    """What binds a result to its ticket."""
    return sha256(alpha + proof).hexdigest()


def high(signature: bytes) -> bytes:
    """The other signature of the same digest and key: n - s, and the other v."""
    order = vrf.SECP256K1.order
    s = order - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))
