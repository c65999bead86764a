"""Messages are strict and closed, and say which field is wrong without repeating what was sent."""

import base64
import hashlib
import re
from typing import Any

import pytest

from aos_protocol.canonical import canonical, digest
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.job import MAX_BOX_CHARACTERS, Claim, JobSpec, Params, Sealed, SubmitRequest
from aos_protocol.messages import (
    Attest,
    Challenge,
    Draw,
    JobScore,
    ModelOffer,
    Receipt,
    Reply,
    ScoreCall,
    Ticket,
    Welcome,
)

JOB = {
    "tag": "opml",
    "prompt": "What is AI?",
    "model": "m.gguf",
    "params": {"temperature": 1.0, "top_p": 0.5},
}
SUBMIT = {"from": "shop", "tag": "", "user": "device", "job": JOB}


def test_the_published_example_is_understood_and_kept() -> None:
    request = parse_message(SubmitRequest, SUBMIT)
    assert (request.project, request.tag, request.user) == ("shop", "", "device")
    assert request.job.params == Params(temperature=1.0, top_p=0.5)
    assert request.job.params.max_tokens == 256


def test_an_integer_is_a_number_but_a_boolean_or_a_text_is_not() -> None:
    assert parse_message(Params, {"temperature": 1}).temperature == 1.0
    for wrong in (True, "1", None, [1], float("inf"), float("nan")):
        with pytest.raises(InvalidMessage, match="temperature"):
            parse_message(Params, {"temperature": wrong})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": ""}, "from"),
        ({"from": "x" * 257}, "from"),
        ({"tag": "evil"}, "tag"),
        ({"user": 7}, "user"),
        ({"user": "a\0b"}, "user"),
        ({"user": "\ud800"}, "user"),
        ({"nonsense": 1}, "nonsense"),
        ({"job": JOB | {"tag": "gpu"}}, "job.tag"),
        ({"job": JOB | {"messages": [{"role": "user", "content": "hi"}]}}, "job"),
        ({"job": JOB | {"params": {"top_p": 0}}}, "job.params.top_p"),
        ({"job": JOB | {"params": {"top_p": 1.1}}}, "job.params.top_p"),
        ({"job": JOB | {"params": {"max_tokens": 0}}}, "job.params.max_tokens"),
        ({"job": JOB | {"params": {"max_tokens": 1.0}}}, "job.params.max_tokens"),
        ({"job": JOB | {"params": {"stop": ["a"] * 17}}}, "job.params.stop"),
        ({"job": JOB | {"params": {"stop": [""]}}}, "job.params.stop.0"),
        ({"job": JOB | {"params": {"typical_p": 1}}}, "job.params.typical_p"),
    ],
)
def test_a_wrong_field_is_named_and_not_echoed(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_message(SubmitRequest, SUBMIT | change)
    assert f"{field}:" in str(caught.value)
    assert "What is AI?" not in str(caught.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidMessage, match=r"user: .*; job\.tag: "):
        parse_message(SubmitRequest, SUBMIT | {"user": "", "job": JOB | {"tag": "gpu"}})


@pytest.mark.parametrize("value", [None, [], "text", 7, {}])
def test_what_is_no_such_object_is_refused(value: Any) -> None:
    for kind in (SubmitRequest, Draw, Welcome, ModelOffer):
        with pytest.raises(InvalidMessage, match=kind.__name__):
            parse_message(kind, value)


def test_a_prompt_hash_covers_the_prompt_or_the_canonical_messages() -> None:
    plain = parse_message(JobSpec, JOB)
    assert plain.prompt_hash() == hashlib.sha512(b"What is AI?").hexdigest()
    turns = [{"role": "user", "content": "é"}]
    chat = parse_message(JobSpec, {"tag": "opml", "model": "m", "messages": turns})
    assert chat.prompt_bytes() == canonical(turns)


def test_params_have_one_digest_whether_defaults_are_written_or_not() -> None:
    written = {"temperature": 1, "top_p": 1.0, "max_tokens": 256, "stop": []}
    assert parse_message(Params, {}).digest() == parse_message(Params, written).digest() == digest(written)
    assert parse_message(Params, {"top_p": 0.5}).digest() != Params().digest()


def test_addresses_must_be_in_eip55_form() -> None:
    good = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
    receipt = {"job_id": "a" * 64, "sequence": 1, "request_digest": "b" * 64, "signature": "c" * 130}
    assert parse_message(Receipt, receipt | {"dispatcher": good}).dispatcher == good
    for bad in (good.lower(), good.swapcase(), good[:-1], "0x", "", 7):
        with pytest.raises(InvalidMessage, match="dispatcher"):
            parse_message(Receipt, receipt | {"dispatcher": bad})


@pytest.mark.parametrize(
    "clock", [{"0": "1"}, {"1": 1}, {"1": "-1"}, {"01": "1"}, {"1": "x"}, [], {"1": str(2**63)}]
)
def test_clocks_are_maps_of_positive_decimal_strings(clock: Any) -> None:
    with pytest.raises(InvalidMessage, match="clock"):
        parse_message(Welcome, {"number": 2, "clock": clock})


def test_a_reply_with_a_control_character_cannot_reach_the_database() -> None:
    with pytest.raises(InvalidMessage, match="message"):
        parse_message(Reply, {"code": 500, "message": "\0"})


def test_what_travels_has_the_published_names_and_no_nulls() -> None:
    said = parse_message(SubmitRequest, SUBMIT).to_json()
    assert said["from"] == "shop"
    assert "messages" not in said["job"]
    assert parse_message(SubmitRequest, said).to_json() == said


FINGERPRINTS = base64.b64encode(bytes(32)).decode()
CLAIM = {"output_tokens": [4, 2], "seed": "a" * 64, "prover": "0xabc", "fingerprints": FINGERPRINTS}


@pytest.mark.parametrize(
    "claim", [{"text": "So it is."}, {"output_tokens": [4]}, {"text": "x", "seed": "a" * 64}, CLAIM]
)
def test_a_claim_is_part_of_the_request_and_so_of_the_job_s_id(claim: dict[str, Any]) -> None:
    job = parse_message(JobSpec, JOB | {"claim": claim})
    assert job.claim is not None
    assert job.claim.digest() == digest(claim)
    assert job.to_json()["claim"] == claim


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        ({}, "exactly one of text and output_tokens"),
        ({"text": "x", "output_tokens": [1]}, "exactly one of text and output_tokens"),
        ({"text": ""}, "text: "),
        ({"output_tokens": []}, "output_tokens: "),
        ({"output_tokens": [2**24]}, "output_tokens.0: "),
        ({"output_tokens": [True]}, "output_tokens.0: "),
        ({"text": "x", "seed": "A" * 64}, "seed: "),
        ({"text": "x", "prover": ""}, "prover: "),
        ({"text": "x", "unknown": 1}, "unknown: "),
        ({key: value for key, value in CLAIM.items() if key != "seed"}, "fingerprints need"),
        ({key: value for key, value in CLAIM.items() if key != "prover"}, "fingerprints need"),
        (
            {**{key: value for key, value in CLAIM.items() if key != "output_tokens"}, "text": "x"},
            "fingerprints need",
        ),
        (CLAIM | {"output_tokens": [4]}, "base64 of 16 bytes"),
        (CLAIM | {"fingerprints": FINGERPRINTS.rstrip("=")}, "base64"),
        (CLAIM | {"fingerprints": base64.b64encode(b"\x00\x7c" * 16).decode()}, "finite"),
    ],
)
def test_a_claim_that_cannot_be_scored_says_what_is_wrong(claim: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidMessage, match=re.escape(why)):
        parse_message(Claim, claim)


BOX = {
    "operator": "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
    "keyset": "2c" * 32,
    "box": base64.b64encode(bytes(60)).decode(),
}
SECOND = BOX | {"operator": "0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF", "keyset": "2d" * 32}
SEALED: dict[str, Any] = {"suite": "0x0020-0x0001-0x0002", "reply_key": "4e" * 32, "boxes": [BOX, SECOND]}
PRIVATE: dict[str, Any] = {"tag": "tee", "model": "m.gguf", "sealed": SEALED}


def test_a_sealed_prompt_stands_for_the_prompt_wherever_that_is_hashed() -> None:
    job = parse_message(JobSpec, PRIVATE)
    assert job.sealed is not None
    assert job.to_json() == PRIVATE | {"params": Params().to_json()}
    assert job.prompt_bytes() == canonical(SEALED)
    assert job.prompt_hash() == hashlib.sha512(canonical(SEALED)).hexdigest()
    assert job.prompt_digest() == digest(SEALED)
    assert job.sealed.operators == {BOX["operator"], SECOND["operator"]}


@pytest.mark.parametrize(
    ("job", "bound"),
    [
        (JOB, b"What is AI?"),
        ({"tag": "tee", "model": "m", "prompt": "é"}, "é".encode()),
        (
            {"tag": "tee", "model": "m", "messages": [{"role": "user", "content": "é"}]},
            canonical([{"role": "user", "content": "é"}]),
        ),
    ],
)
def test_a_prompt_s_two_digests_are_of_the_same_bytes(job: dict[str, Any], bound: bytes) -> None:
    said = parse_message(JobSpec, job)
    assert said.prompt_hash() == hashlib.sha512(bound).hexdigest()
    assert said.prompt_digest() == hashlib.sha256(bound).hexdigest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tag": "opml"}, "a sealed prompt needs job type tee, and allows no claim"),
        ({"claim": {"text": "x"}}, "a sealed prompt needs job type tee, and allows no claim"),
        ({"prompt": "What is AI?"}, "exactly one of prompt, messages, sealed and direct"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "exactly one of prompt, messages, sealed and direct",
        ),
        ({"sealed": None}, "exactly one of prompt, messages, sealed and direct"),
    ],
    ids=str,
)
def test_a_sealed_prompt_is_the_only_one_of_a_tee_job(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        parse_message(JobSpec, PRIVATE | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite": "0x0020-0x0001-0x0001"}, "suite: "),
        ({"reply_key": "4E" * 32}, "reply_key: "),
        ({"reply_key": "4e" * 31}, "reply_key: "),
        ({"boxes": []}, "boxes: "),
        ({"boxes": [BOX | {"keyset": f"{number:064x}"} for number in range(17)]}, "boxes: "),
        ({"boxes": [BOX, SECOND | {"keyset": BOX["keyset"]}]}, "two boxes are for the same keyset"),
        ({"boxes": [BOX | {"operator": BOX["operator"].lower()}]}, "boxes.0.operator: "),
        ({"boxes": [BOX | {"box": ""}]}, "boxes.0.box: "),
        ({"boxes": [BOX | {"box": "AB=="}]}, "boxes.0.box: is not the one base64 form"),
        ({"boxes": [BOX | {"box": BOX["box"] + "\n"}]}, "boxes.0.box: is not base64"),
        (
            {"boxes": [BOX | {"box": "A" * (MAX_BOX_CHARACTERS + 4)}]},
            f"at most {MAX_BOX_CHARACTERS} are taken",
        ),
        ({"boxes": [BOX | {"note": "x"}]}, "boxes.0.note: "),
        ({"enc": "00"}, "enc: "),
    ],
    ids=lambda change: str(change)[:40],
)
def test_sealed_prompts_are_strict_and_closed(change: dict[str, Any], said: str) -> None:
    assert parse_message(Sealed, SEALED).to_json() == SEALED
    with pytest.raises(InvalidMessage, match=said):
        parse_message(Sealed, SEALED | change)


def test_a_box_is_one_operator_s_and_one_keyset_s() -> None:
    sealed = parse_message(Sealed, SEALED)
    assert sealed.has_box(BOX["operator"], BOX["keyset"])
    assert not sealed.has_box(BOX["operator"], SECOND["keyset"])
    assert not sealed.has_box(SECOND["operator"], BOX["keyset"])


def test_an_operator_may_stand_before_two_enclaves() -> None:
    both = SEALED | {"boxes": [BOX, BOX | {"keyset": SECOND["keyset"]}]}
    assert parse_message(Sealed, both).operators == {BOX["operator"]}


@pytest.mark.parametrize(
    "change", [{"nonce": "a" * 63}, {"nonce": "A" * 64}, {"model": ""}, {"operator": "x"}]
)
def test_a_call_for_an_attestation_names_model_and_nonce(change: dict[str, Any]) -> None:
    call = {"model": "m.gguf", "nonce": "a" * 64}
    assert parse_message(Attest, call).to_json() == call
    with pytest.raises(InvalidMessage, match=f"Attest: {next(iter(change))}: "):
        parse_message(Attest, call | change)


def test_a_reply_may_carry_an_attestation() -> None:
    said = {"code": 200, "message": "success", "attestation": {"kind": "nitro"}}
    assert parse_message(Reply, said).to_json() == said
    assert parse_message(Reply, {"code": 200, "message": "success"}).attestation is None


@pytest.mark.parametrize("kind", [Draw, Ticket])
def test_a_draw_without_a_challenge_s_number_is_an_ordinary_one(kind: Any) -> None:
    assert kind.model_fields["challenge"].default == 0


SCORED: dict[str, Any] = {
    "user": "device", "job_id": "a" * 64, "tag": "", "position": "", "challenge": 0, "subject": "b" * 64,
    "subject_operator": None, "score": None, "reason": "no such model", "clock": {"2": "1"},
    "vrf": {
        "selected": True, "vrf_prompt_hash": "c" * 128, "vrf_random_value": "d" * 64,
        "vrf_verify_pubkey": "02" + "e" * 64, "vrf_proof": "f" * 162,
    },
    "operator": "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf", "signature": "0" * 130,
    "model": {"name": "m.gguf", "sha256": "1" * 64},
}  # fmt: skip


def test_a_verifier_without_a_score_says_why() -> None:
    assert not parse_message(JobScore, SCORED).answered
    assert parse_message(JobScore, SCORED | {"reason": "", "score": {"level": "greedy"}}).answered


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"challenge": -1}, "challenge"),
        ({"challenge": True}, "challenge"),
        ({"subject": "b" * 63}, "subject"),
        ({"subject_operator": "0x12"}, "subject_operator"),
        ({"score": [1]}, "score"),
        ({"reason": "x" * 4097}, "reason"),
        ({"role": "verifier"}, "role"),
    ],
)
def test_a_score_is_as_strict_as_a_result(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage, match=f"JobScore: {field}: "):
        parse_message(JobScore, SCORED | change)


CALL: dict[str, Any] = {
    "user": "device", "seed": "5" * 64, "seed_proof": "6" * 162, "job_seed": "7" * 64, "job_seed_proof": "8" * 162,
    "tag": "suspicion", "position": "after", "challenge": 1, "signature": "0" * 130, "clock": {"1": "7"},
    "job_id": "a" * 64, "job": JOB, "sequence": 3, "request_digest": "b" * 64, "range_start": 0, "range_end": 600_000,
    "model": {"name": "m.gguf", "sha256": "1" * 64},
}  # fmt: skip


def test_a_call_for_a_score_names_both_seeds_and_its_challenge() -> None:
    call = parse_message(ScoreCall, CALL)
    assert (call.seed, call.job_seed, call.challenge, call.subject) == ("5" * 64, "7" * 64, 1, None)
    assert parse_message(ScoreCall, CALL | {"subject": "a frame"}).subject == "a frame"
    assert parse_message(ScoreCall, call.to_json()) == call


@pytest.mark.parametrize("member", CALL)
def test_a_call_for_a_score_leaves_nothing_out(member: str) -> None:
    with pytest.raises(InvalidMessage, match=f"ScoreCall: {member}: Field required"):
        parse_message(ScoreCall, {name: value for name, value in CALL.items() if name != member})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"challenge": -1}, "challenge"),
        ({"challenge": 2**31}, "challenge"),
        ({"challenge": "1"}, "challenge"),
        ({"challenge": None}, "challenge"),
        ({"job_seed": "7" * 63}, "job_seed"),
        ({"job_seed_proof": "8" * 161}, "job_seed_proof"),
        ({"subject": {}}, "subject"),
        ({"sequence": 0}, "sequence"),
        ({"job": JOB | {"claim": {}}}, "job.claim"),
        ({"role": "verifier"}, "role"),
    ],
)
def test_a_wrong_call_for_a_score_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage, match=f"ScoreCall: {field}: "):
        parse_message(ScoreCall, CALL | change)


def test_challenges_are_counted_up_to_31_bits() -> None:
    assert parse_message(ScoreCall, CALL | {"challenge": 2**31 - 1}).challenge == 2**31 - 1
    assert parse_message(JobScore, SCORED | {"challenge": 2**31 - 1}).challenge == 2**31 - 1


def test_the_longest_claim_is_taken_and_a_longer_one_refused() -> None:
    longest = [1] * 65_536
    claim = parse_message(Claim, {"output_tokens": longest})
    assert claim.output_tokens == longest
    with pytest.raises(InvalidMessage, match="output_tokens: "):
        parse_message(Claim, {"output_tokens": [*longest, 1]})


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "a" * 63},
        {"dispatcher": "0x12"},
        {"public_key": "04" + "e" * 64},
        {"chain_id": -1},
        {"registry": "0x"},
        {"more": 1},
    ],
)
def test_the_first_word_of_a_dispatcher_is_as_strict(change: dict[str, Any]) -> None:
    first = {
        "nonce": "a" * 64,
        "dispatcher": SCORED["operator"],
        "public_key": "02" + "e" * 64,
        "chain_id": 0,
        "registry": "0x" + "0" * 40,
    }
    assert parse_message(Challenge, first).to_json() == first
    with pytest.raises(InvalidMessage, match=f"Challenge: {next(iter(change))}: "):
        parse_message(Challenge, first | change)
