"""The selection rule: its numbers, its rates, and that anybody recomputes the same committee."""

import hashlib
import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import sortition, vrf
from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidMessage
from aos_protocol.identity import Signer
from aos_protocol.sortition import MAX_RANGE, Candidate

TAGS = [
    ("", ""),
    ("suspicion", "before"),
    ("suspicion", "after"),
    ("malicious", "before"),
    ("malicious", "after"),
]
SEEDS = 10_000
candidates = st.lists(
    st.builds(
        Candidate,
        operator=st.integers(0, 10**6).map(lambda n: f"0x{n:040x}"),
        value=st.integers(0, MAX_RANGE - 1),
        threshold=st.integers(0, 2 * MAX_RANGE),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.operator,
)


def test_max_range_is_the_contracts() -> None:
    assert MAX_RANGE == 600_000


@pytest.mark.parametrize(
    ("tag", "position", "threshold"),
    [
        ("", "", 60_000),
        ("suspicion", "before", 96_000),
        ("suspicion", "after", 96_000),
        ("malicious", "before", 180_000),
        ("malicious", "after", 96_000),
    ],
)
def test_thresholds_by_tag_and_position(tag: str, position: str, threshold: int) -> None:
    assert sortition.ticket_threshold(100_000, 160_000, tag, position) == threshold
    assert sortition.ticket_threshold(100_000, 100_000, tag, position) == 0


@pytest.mark.parametrize(("tag", "position"), [("", "before"), ("suspicion", ""), ("unknown", "after")])
def test_an_unknown_tag_or_position_has_no_rule(tag: str, position: str) -> None:
    with pytest.raises(InvalidMessage, match="no selection rule"):
        sortition.ticket_threshold(0, 1, tag, position)


def test_values_span_the_whole_range() -> None:
    assert sortition.ticket_value(b"\x00" * 32) == 0
    assert sortition.ticket_value(b"\xff" * 32) == MAX_RANGE - 1
    assert sortition.ticket_value(b"\x80" + b"\x00" * 31) == MAX_RANGE // 2


@pytest.mark.parametrize(("tag", "position"), TAGS)
def test_selection_rates_are_what_the_threshold_says(tag: str, position: str) -> None:
    """10,000 seeds a tag, within 4 sigma. Outputs are hashes here, as a VRF's are; its proofs are tested elsewhere."""
    start, end = 150_000, 270_000
    threshold = sortition.ticket_threshold(start, end, tag, position)
    expected = threshold / MAX_RANGE
    outputs = (hashlib.sha256(f"{tag}{position}{n}".encode()).digest() for n in range(SEEDS))
    hits = sum(sortition.ticket_value(output) < threshold for output in outputs)
    sigma = math.sqrt(expected * (1 - expected) / SEEDS)
    assert abs(hits / SEEDS - expected) < 4 * sigma


@pytest.mark.parametrize(("tag", "position"), [("", ""), ("suspicion", "after"), ("malicious", "after")])
def test_real_tickets_are_selected_at_the_rate_of_their_threshold(tag: str, position: str) -> None:
    signer, threshold = Signer(b"\x07" * 32), sortition.ticket_threshold(0, 200_000, tag, position)
    count = 400
    hits = 0
    for n in range(count):
        seed = hashlib.sha256(n.to_bytes(4, "big")).digest()
        proof = vrf.prove(signer, sortition.ticket_alpha(seed, b"What is AI?"))
        output = vrf.verify(signer.public_key, sortition.ticket_alpha(seed, b"What is AI?"), proof)
        hits += Candidate(signer.address, sortition.ticket_value(output), threshold).selected
    expected = threshold / MAX_RANGE
    assert abs(hits / count - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


@given(candidates, st.sampled_from([1, 3, 5]), st.randoms())
def test_a_third_party_recomputes_the_committee(
    drawn: list[Candidate], minimum: int, shuffle: random.Random
) -> None:
    """From the tickets alone, in any order, by the rule's own words."""
    ranking = sortition.rank(drawn)
    committee = sortition.committee(ranking, minimum)
    again = list(drawn)
    shuffle.shuffle(again)
    assert sortition.committee(sortition.rank(again), minimum) == committee

    able = [c for c in drawn if c.threshold > 0]
    selected = {c.operator for c in able if c.value < c.threshold}
    assert {m.operator for m in committee if not m.filled} == selected
    assert len(committee) == max(len(selected), min(minimum, len(able)))
    order = [(Fraction(m.candidate.value, m.candidate.threshold), m.operator) for m in committee]
    assert order == sorted(order)
    outside = [
        Fraction(c.value, c.threshold) for c in able if c.operator not in {m.operator for m in committee}
    ]
    assert not outside or not order or min(outside) >= order[-1][0]


@given(candidates, st.sampled_from([1, 3, 5]))
def test_a_sealed_prompt_has_its_executor_alone_and_the_others_in_reserve(
    drawn: list[Candidate], minimum: int
) -> None:
    """It is the very first of the committee that the draw would have made, however many are selected."""
    ranking = sortition.rank(drawn)
    alone = sortition.committee(ranking, minimum, alone=True)
    assert alone == sortition.committee(ranking, minimum)[:1]
    assert len(alone) == min(1, len(ranking))
    assert [c.operator for c in ranking[len(alone) :]] == [c.operator for c in ranking][1:]


@given(st.lists(st.integers(0, 10**9).map(lambda n: f"0x{n:040x}"), unique=True, min_size=1, max_size=200))
def test_equal_shares_cover_the_range_without_gap_or_overlap(operators: list[str]) -> None:
    shares = sortition.equal_shares(operators)
    assert [address for address, _, _ in shares] == operators
    assert shares[0][1] == 0
    assert shares[-1][2] == MAX_RANGE
    assert all(left[2] == right[1] for left, right in itertools.pairwise(shares))
    sizes = [end - start for _, start, end in shares]
    assert max(sizes) - min(sizes) <= 1


def test_no_operators_have_no_shares() -> None:
    assert sortition.equal_shares([]) == []


def test_a_job_id_binds_dispatcher_sequence_and_request() -> None:
    request = {"from": "shop", "job": {"params": {"temperature": 1.0}}}
    ids = {
        sortition.job_id("0xA", 1, request),
        sortition.job_id("0xB", 1, request),
        sortition.job_id("0xA", 2, request),
        sortition.job_id("0xA", 1, {"from": "shop", "job": {"params": {"temperature": 1.5}}}),
    }
    assert len(ids) == 4
    assert sortition.job_id("0xA", 1, request) == digest(
        {"sequence": 1, "request": request, "dispatcher": "0xA"}
    )
    # 1.0 and 1 are the same number, so they are the same request.
    assert sortition.job_id("0xA", 1, {"from": "shop", "job": {"params": {"temperature": 1}}}) in ids


def test_alphas_are_what_the_design_says() -> None:
    seed = bytes(range(32))
    assert sortition.seed_alpha("ab" * 32) == b"\xab" * 32
    assert sortition.seed_alpha("ab" * 32, 0) == b"\xab" * 32
    assert sortition.seed_alpha("ab" * 32, 258) == b"\xab" * 32 + bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert sortition.ticket_alpha(seed, b"hi") == seed + hashlib.sha512(b"hi").digest()


SEED_BYTES = st.binary(min_size=32, max_size=32)


@given(SEED_BYTES)
def test_no_job_or_every_job_is_audited_at_the_ends(seed: bytes) -> None:
    assert not sortition.audited(seed, 0)
    assert sortition.audited(seed, 1_000_000)


@given(SEED_BYTES, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_who_is_audited_at_a_share_is_so_at_every_greater_one(seed: bytes, one: int, other: int) -> None:
    assert sortition.audited(seed, min(one, other)) <= sortition.audited(seed, max(one, other))


@given(SEED_BYTES, st.integers(0, 1_000_000))
def test_audits_follow_from_the_seed_as_written(seed: bytes, share: int) -> None:
    """A uniform number in [0, 1), from eight bytes of SHA-256, is less than the share: compared as a fraction."""
    drawn = Fraction(int.from_bytes(hashlib.sha256(b"aos/audit/1" + seed).digest()[:8], "big"), 2**64)
    assert sortition.audited(seed, share) == (drawn < Fraction(share, 1_000_000))


@pytest.mark.parametrize("share", [10_000, 50_000, 500_000, 990_000])
def test_the_share_of_audited_jobs_is_the_stated_one(share: int) -> None:
    """10,000 seeds, within 4 sigma."""
    seeds = (hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(SEEDS))
    hits = sum(sortition.audited(seed, share) for seed in seeds)
    expected = share / 1_000_000
    assert abs(hits / SEEDS - expected) < 4 * math.sqrt(expected * (1 - expected) / SEEDS)


@pytest.mark.parametrize(
    ("tag", "plain", "with_audit"), [("", 1, 2), ("suspicion", 3, 3), ("malicious", 5, 5)]
)
def test_an_audit_adds_a_verifier_to_an_executor_alone(tag: str, plain: int, with_audit: int) -> None:
    assert sortition.committee_minimum(tag) == plain
    assert sortition.committee_minimum(tag, audit=False) == plain
    assert sortition.committee_minimum(tag, audit=True) == with_audit
