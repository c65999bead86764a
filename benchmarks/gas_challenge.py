"""What each step of a challenge costs in gas, as a Markdown table.

Usage: PYTHONPATH=tests python benchmarks/gas_challenge.py

The network is the one of the contract's tests (`tests/support/challenges.py`), on py-evm (Prague), eight operators. Figures are of
whole transactions: 21,000, calldata and execution, refunds taken off. What depends on who comes first (a slot that is written for the first time, a
credit's first wei) is as in a network that is new; hints differ by the counters that their input needs, so votes are given as a range.
"""

from collections.abc import Iterator
from dataclasses import replace

from web3.contract.contract import ContractFunction
from web3.types import TxReceipt

from support.challenges import (
    ACCUSED,
    BOND,
    CHALLENGER,
    DRAW,
    JURORS,
    MATCH,
    NO_MATCH,
    Court,
    bound,
)

Row = tuple[str, list[int]]


def main() -> None:
    """Print the table."""
    court = Court()
    print("| step | gas |\n| --- | ---: |")
    for chapter in (at_once, membership, mismatch, not_answered, drawn_again):
        with court.evm.undone():
            for name, used in chapter(court):
                low, high = min(used), max(used)
                print(f"| {name} | {low:,} |" if low == high else f"| {name} | {low:,} to {high:,} |")


def at_once(court: Court) -> Iterator[Row]:
    """The faults that one transaction proves, each of another operator."""
    functions = court.contract.functions
    first, second, third = JURORS[:3]
    claim = court.claim(first)
    signed = court.signed(claim, first), court.signed(replace(claim, answer="77" * 32), first)
    yield "`proveEquivocation`", [_gas(court, functions.proveEquivocation(*signed[0], *signed[1]))]
    alpha, proof = court.ticket(second, selected=True)
    alpha = alpha[:-1] + b"\xff"
    wrong = court.claim(second, vrf_proof=bound(alpha, proof))
    shown = court.shown(second, alpha, proof)
    yield (
        "`proveInvalidProof`",
        [_gas(court, functions.proveInvalidProof(*court.signed(wrong, second), *shown))],
    )
    foreign = functions.proveForeignSignature(*court.signed(court.claim(), third))
    yield "`proveForeignSignature`", [_gas(court, foreign)]


def membership(court: Court) -> Iterator[Row]:
    """A challenge of membership, answered, and another one lost."""
    functions = court.contract.functions
    for answered in (True, False):
        claim, shown = court.drawn(selected=False, job_id=("01" if answered else "02") * 32)
        opened = _gas(court, functions.challengeMembership(*court.signed(claim), *shown), value=BOND)
        identifier = functions.lastChallenge().call()
        if answered:
            yield "`challengeMembership`", [opened]
            yield "`answerSeat`", [_gas(court, functions.answerSeat(identifier, court.seat_signature(claim)))]
        else:
            yield "`close`, membership not answered", [court.close(identifier)["gasUsed"]]


def mismatch(court: Court) -> Iterator[Row]:
    """A challenge of a result with the whole jury, from opening to withdrawing."""
    functions = court.contract.functions
    for verdict, outcome in ((NO_MATCH, "a mismatch"), (MATCH, "a match")):
        claim = court.claim(job_id=f"{verdict:064x}")
        opened = _gas(court, functions.challengeMismatch(*court.signed(claim)), value=BOND)
        identifier = functions.lastChallenge().call()
        answered = _gas(court, functions.answer(identifier), sender=ACCUSED)
        court.evm.mine(DRAW)
        *rest, last = reversed(court.ranking(identifier)[:6])
        first, *others = (court.vote(identifier, juror, verdict)["gasUsed"] for juror in rest)
        evicting = court.vote(identifier, last, verdict)["gasUsed"]
        closed = court.close(identifier)["gasUsed"]
        if verdict == NO_MATCH:
            yield "`challengeMismatch`", [opened]
            yield "`answer`", [answered]
            yield "`vote`, the first, which fixes the seed", [first]
            yield "`vote`, the next four", others
            yield "`vote` that evicts a worse seat", [evicting]
        yield f"`close`, five votes for {outcome}", [closed]
    yield "`withdraw`", [_gas(court, functions.withdraw(), sender=CHALLENGER)]


def not_answered(court: Court) -> Iterator[Row]:
    """A result that its operator does not stand by, and one that no juror votes on."""
    identifier = court.mismatch()
    yield "`close`, mismatch not answered", [court.close(identifier)["gasUsed"]]
    identifier = court.jury(court.claim(job_id="77" * 32))
    yield "`close`, no votes", [court.close(identifier)["gasUsed"]]


def drawn_again(court: Court) -> Iterator[Row]:
    """The seed, fixed without a vote, and drawn anew after nobody did."""
    functions = court.contract.functions
    identifier = court.jury()
    with court.evm.undone():
        yield "`draw`, fixing the seed", [_gas(court, functions.draw(identifier))]
    court.evm.mine(300)
    yield "`draw`, anew", [_gas(court, functions.draw(identifier))]


def _gas(court: Court, call: ContractFunction, *, sender: int = CHALLENGER, value: int = 0) -> int:
    receipt: TxReceipt = court.evm.send(call, sender=sender, value=value)
    return receipt["gasUsed"]


if __name__ == "__main__":
    main()
