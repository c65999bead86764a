"""Sortition: which operators of the registry run a job, and how anybody recomputes it.

1. The job id binds the request: SHA-256 over the canonical JSON of dispatcher, sequence and request.
2. The seed is the dispatcher's VRF output on the job id, and of a challenge on job id and the challenge's number: it can
   neither be predicted nor chosen.
3. Where more operators could be asked than an electorate has, the seed says which: those who hold the points that it gives.
4. A ticket is an operator's VRF output on `seed || SHA-512(prompt)`.
5. An operator is selected when its ticket's value falls below its threshold, which grows with its
   range in the registry and with the job's tag.
6. The committee is every selected operator, filled up to the tag's minimum in the order of value / threshold. Of an electorate it
   is as many, in the order of value / points. Whoever is lost later is replaced by the next in that same order.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from aos_protocol.canonical import JsonValue, digest
from aos_protocol.errors import InvalidMessage

MAX_RANGE = 600_000
"""Slots of the registry that all operators share; the AOS contract's constant."""

_OUTPUT_BITS = 256

# By how many slots each side of an operator's range is widened, from shares of MAX_RANGE: 0.03 and 0.10.
_WIDEN = {
    ("", ""): 0,
    ("suspicion", "before"): 18_000,
    ("suspicion", "after"): 18_000,
    ("malicious", "before"): 60_000,
    ("malicious", "after"): 18_000,
}
_MINIMUM = {"": 1, "suspicion": 3, "malicious": 5}
_AUDITED_MINIMUM = 2
_AUDIT_DOMAIN = b"aos/audit/1"
# Six times the smallest committee at least, so that hardly anything leaves too few of an electorate (docs/adr/0024).
_ELECTORATE = {"": 16, "suspicion": 32, "malicious": 32}
_ELECTORATE_DOMAIN = b"aos/electorate/1"
ELECTORATE_POINTS = 4096
"""Of a seed, how many points are looked at before operators come by number: a bound where few of many could be asked."""
_MILLION = 1_000_000


@dataclass(frozen=True)
class Candidate:
    """One operator's place in a draw: its ticket's `value` and its `threshold`, both in slots."""

    operator: str
    value: int
    threshold: int

    @property
    def selected(self) -> bool:
        """True when the ticket itself puts the operator on the committee."""
        return self.value < self.threshold


@dataclass(frozen=True)
class Member:
    """A committee member; `filled` when it stands in to reach the minimum without being selected."""

    candidate: Candidate
    filled: bool

    @property
    def operator(self) -> str:
        """The member's EIP-55 address."""
        return self.candidate.operator


def job_id(dispatcher: str, sequence: int, request: JsonValue) -> str:
    """Return the 64 hex digits that bind a request to its place in a dispatcher's sequence.

    Raises `NotCanonical` when the request has no RFC 8785 form.
    """
    return digest({"dispatcher": dispatcher, "sequence": sequence, "request": request})


def seed_alpha(job: str, challenge: int = 0) -> bytes:
    """Return what the dispatcher proves its VRF on: the job id's 32 bytes, then a challenge's number (64 bit, big-endian).

    Number 0 is the job itself and adds nothing, so that a challenge's committee cannot be known before the challenge.
    """
    return bytes.fromhex(job) + (challenge.to_bytes(8, "big") if challenge else b"")


def ticket_alpha(seed: bytes, prompt: bytes) -> bytes:
    """Return what an operator proves its VRF on: the seed's 32 bytes, then SHA-512 of the prompt."""
    return seed + hashlib.sha512(prompt).digest()


def ticket_value(output: bytes, max_range: int = MAX_RANGE) -> int:
    """Scale a 32-byte VRF output, read big-endian, to a slot in `[0, max_range)`."""
    return int.from_bytes(output, "big") * max_range >> _OUTPUT_BITS


def ticket_threshold(start: int, end: int, tag: str, position: str) -> int:
    """Return how many slots select an operator whose registry range is `[start, end)`.

    An operator without a range has no threshold, whatever the tag. Raises `InvalidMessage` for a
    tag and position that the protocol does not know together.
    """
    try:
        widen = _WIDEN[tag, position]
    except KeyError:
        raise InvalidMessage(f"no selection rule for tag {tag!r} at position {position!r}") from None
    return (end - start) + 2 * widen if end > start else 0


def audited(seed: bytes, share_ppm: int) -> bool:
    """Return whether an untagged job with this seed is verified anyway, where `share_ppm` of a million such jobs are."""
    drawn = int.from_bytes(hashlib.sha256(_AUDIT_DOMAIN + seed).digest()[:8], "big")
    return drawn * _MILLION >> 64 < share_ppm


def committee_minimum(tag: str, *, audit: bool = False) -> int:
    """Return how many members a committee has at least, if there are that many operators.

    An untagged job that is audited has a verifier beside its executor.
    """
    return max(_MINIMUM[tag], _AUDITED_MINIMUM if audit else 0)


def electorate_size(tag: str) -> int:
    """Return how many operators a draw under this tag asks for tickets at most."""
    return _ELECTORATE[tag]


def electorate_point(seed: bytes, index: int, max_range: int = MAX_RANGE) -> int:
    """Return the slot in `[0, max_range)` that a seed gives as its point of this index: SHA-256 of a domain, seed and index (64 bit, big-endian)."""
    point = hashlib.sha256(_ELECTORATE_DOMAIN + seed + index.to_bytes(8, "big")).digest()
    return ticket_value(point, max_range)


class Holders:
    """Who holds which slot of a registry's range; made once for a registry, and asked by every draw."""

    def __init__(self, shares: Iterable[tuple[str, int, int]]) -> None:
        """`shares` are `(operator, start, end)` in the order of the operators' numbers; ranges do not overlap, and may leave gaps."""
        self._by_number = list(shares)
        self._held = sorted((start, end, place) for place, (_, start, end) in enumerate(self._by_number))
        self._starts = [start for start, _, _ in self._held]

    def __len__(self) -> int:
        return len(self._by_number)

    def electorate(self, seed: bytes, here: Callable[[str], bool], most: int) -> dict[str, int]:
        """Return, in the order in which this seed finds them, `most` of the operators that are `here`, each with its points.

        The holder of a point gets it, if it is here, until `most` have one: so who is found, and with how many, goes by the width of ranges,
        however they are divided among operators. Where `ELECTORATE_POINTS` were not enough, the others come by number, each as if with one point,
        starting behind the holder of the last one. Fewer than `most` are returned only where fewer are here.
        """
        points: dict[str, int] = {}
        last = -1
        for index in range(ELECTORATE_POINTS):
            place = self._at(electorate_point(seed, index))
            if place is None:
                continue
            last, operator = place, self._by_number[place][0]
            if here(operator):
                points[operator] = points.get(operator, 0) + 1
                if len(points) == most:
                    return points
        for operator, _, _ in self._by_number[last + 1 :] + self._by_number[: last + 1]:
            if here(operator) and len(points) < most:
                points.setdefault(operator, 1)
        return points

    def _at(self, slot: int) -> int | None:
        before = bisect_right(self._starts, slot) - 1
        if before < 0:
            return None
        _, end, place = self._held[before]
        return place if slot < end else None


def electorate_points(
    asked: Collection[str], holders: Holders, seed: bytes, tag: str
) -> dict[str, int] | None:
    """Return the points of those that a draw has asked, in the order of its seed; None where all were asked that could be.

    That is so where fewer were asked than an electorate has, or no more are registered: then their ranges alone decide.
    """
    most = electorate_size(tag)
    if len(asked) < most or len(holders) <= most:
        return None
    return holders.electorate(seed, frozenset(asked).__contains__, len(asked))


def rank(candidates: Iterable[Candidate], points: Mapping[str, int] | None = None) -> list[Candidate]:
    """Order candidates by value / threshold, or in an electorate by value / points, exactly, then by address.

    Those without threshold drop out. An electorate's chances are in its points already: by value / threshold a wide range would count twice.
    """
    eligible = [candidate for candidate in candidates if candidate.threshold > 0]

    def place(candidate: Candidate) -> tuple[Fraction, str]:
        weight = candidate.threshold if points is None else points[candidate.operator]
        return Fraction(candidate.value, weight), candidate.operator

    return sorted(eligible, key=place)


def committee(ranking: Sequence[Candidate], minimum: int, *, alone: bool = False) -> list[Member]:
    """Return the committee of a draw, in order; `ranking` comes from `rank`.

    The committee is the ranking's head, of as many as are selected, and of `minimum` at least. Unless there was an electorate, these are the
    selected ones, as they precede the others. `ranking[len(committee):]` are the reserves, in the order in which they replace lost members. A sealed prompt has
    its executor `alone`: nobody else could read what there is to score.
    """
    size = 1 if alone else max(minimum, sum(candidate.selected for candidate in ranking))
    return [Member(candidate, filled=not candidate.selected) for candidate in ranking[:size]]


def equal_shares(operators: Sequence[str], max_range: int = MAX_RANGE) -> list[tuple[str, int, int]]:
    """Divide the range among operators: `(address, start, end)` in the given order, without gaps.

    This is the registry of a dispatcher that has no chain.
    """
    count = len(operators)
    return [
        (address, index * max_range // count, (index + 1) * max_range // count)
        for index, address in enumerate(operators)
    ]
