"""Transcripts: a closed JSON form, a commitment that binds all of it, and single steps that prove themselves."""

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aos_protocol.errors import InvalidTranscript
from aos_protocol.transcript import Params, StepProof, Transcript

DIGEST = hashlib.sha256(b"a model").hexdigest()
SEED = "5e" * 32
PROVER = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
PRINTS = bytes(range(48))
"""Fingerprints of three tokens; as half-precision numbers all of them are finite."""


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def document(**changes: Any) -> dict[str, Any]:
    """A valid transcript as JSON, with members replaced."""
    base: dict[str, Any] = {
        "rule": 1,
        "model": DIGEST,
        "engine": "llama.cpp b1",
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": ["\n\n", "é"]},
        "seed": SEED,
        "prover": PROVER,
        "prompt_tokens": [1, 17, 9],
        "output_tokens": [5, 0, 2],
        "fingerprints": base64_text(PRINTS),
        "finish_reason": "eos",
    }
    return base | changes


def drawn(steps: list[tuple[int, bytes]], **changes: Any) -> dict[str, Any]:
    """A valid transcript of these tokens and fingerprints."""
    fingerprints = base64_text(b"".join(data for _, data in steps))
    return document(output_tokens=[token for token, _ in steps], fingerprints=fingerprints, **changes)


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


tokens = st.integers(0, 2**24 - 1)
half_rows = st.lists(st.integers(0, 0x7BFF) | st.integers(0x8000, 0xFBFF), min_size=8, max_size=8).map(
    lambda halves: b"".join(half.to_bytes(2, "little") for half in halves)
)
documents = st.builds(
    drawn,
    st.lists(st.tuples(tokens, half_rows), min_size=1, max_size=8),
    prompt_tokens=st.lists(tokens, min_size=1, max_size=20),
    finish_reason=st.sampled_from(["eos", "stop", "length"]),
)


@given(documents)
def test_json_round_trip(value: dict[str, Any]) -> None:
    transcript = Transcript.from_json(value)
    assert transcript.to_json() == value
    assert Transcript.from_json(json.loads(json.dumps(transcript.to_json()))) == transcript


def test_the_commitment_follows_the_written_format() -> None:
    """Computed here from the docstring alone, without the package's canonical JSON or Merkle code."""
    header = (
        '{"engine":"llama.cpp b1","finish_reason":"eos","model":"' + DIGEST + '",'
        '"params":{"max_tokens":8,"stop":["\\n\\n","é"],"temperature":1,"top_p":0.5},'
        '"prompt_tokens":[1,17,9],"prover":"' + PROVER + '","rule":1,"seed":"' + SEED + '","steps":3}'
    ).encode()
    steps = [words(i, token) + PRINTS[16 * i : 16 * i + 16] for i, token in enumerate([5, 0, 2])]
    transcript = Transcript.from_json(document())
    assert transcript.leaves() == [header, *steps]
    a, b, c, d = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (header, *steps))
    left, right = hashlib.sha256(b"\x01" + a + b).digest(), hashlib.sha256(b"\x01" + c + d).digest()
    assert transcript.commitment() == hashlib.sha256(b"\x01" + left + right).hexdigest()


@given(documents)
def test_every_step_proves_itself(value: dict[str, Any]) -> None:
    transcript = Transcript.from_json(value)
    commitment = transcript.commitment()
    prints = base64.b64decode(value["fingerprints"])
    for position, token in enumerate(value["output_tokens"]):
        proof = transcript.step_proof(position)
        shown = (proof.position, proof.token, bytes.fromhex(proof.fingerprint))
        assert shown == (position, token, prints[16 * position : 16 * position + 16])
        StepProof.model_validate(json.loads(proof.model_dump_json())).check(commitment)


def changed(text: str, place: int) -> str:
    """The hex text with one digit replaced by another."""
    return text[:place] + f"{int(text[place], 16) ^ 1:x}" + text[place + 1 :]


def forgeries(proof: dict[str, Any]) -> list[dict[str, Any]]:
    """The step proof with each of its bytes changed, and with nodes taken away or added."""
    forged = [proof | {"position": proof["position"] ^ 1}]
    forged += [proof | {"token": proof["token"] ^ (1 << bit)} for bit in range(24)]
    forged += [proof | {"fingerprint": changed(proof["fingerprint"], place)} for place in range(32)]
    for member in ("proof", "header_proof"):
        nodes = proof[member]
        forged += [proof | {member: nodes[:-1]}, proof | {member: [*nodes, "0" * 64]}]
        for index, node in enumerate(nodes):
            others = [changed(node, place) for place in range(64)]
            forged += [proof | {member: [*nodes[:index], other, *nodes[index + 1 :]]} for other in others]
    header = proof["header"]
    for name, value in header.items():
        forged.append(proof | {"header": {key: kept for key, kept in header.items() if key != name}})
        other = value + 1 if isinstance(value, int) else [*value, 1] if isinstance(value, list) else "other"
        forged.append(proof | {"header": header | {name: other}})
    return [*forged, proof | {"header": header | {"more": 1}}]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_changed_byte_of_a_step_proof_is_found(position: int) -> None:
    transcript = Transcript.from_json(document())
    commitment = transcript.commitment()
    forged = forgeries(transcript.step_proof(position).model_dump(mode="json"))
    assert len(forged) > 300
    for wrong in forged:
        with pytest.raises(InvalidTranscript):
            StepProof.model_validate(wrong).check(commitment)


@pytest.mark.parametrize("commitment", ["0" * 64, "5e", "", "no hex at all"])
def test_a_step_proof_holds_for_its_own_commitment_only(commitment: str) -> None:
    with pytest.raises(InvalidTranscript, match=r"header|hex"):
        Transcript.from_json(document()).step_proof(0).check(commitment)


@pytest.mark.parametrize("steps", [None, 0, -1, True, 3.0, "3", 2**20 + 1, 2**60])
def test_a_header_that_does_not_say_how_many_steps_there_are_proves_nothing(steps: object) -> None:
    transcript = Transcript.from_json(document())
    proof = transcript.step_proof(0)
    wrong = proof.model_copy(update={"header": proof.header | {"steps": steps}})
    with pytest.raises(InvalidTranscript):
        wrong.check(transcript.commitment())


def test_a_header_without_a_canonical_form_proves_nothing() -> None:
    transcript = Transcript.from_json(document())
    proof = transcript.step_proof(0)
    wrong = proof.model_copy(update={"header": proof.header | {"rule": float("nan")}})
    with pytest.raises(InvalidTranscript, match="canonical"):
        wrong.check(transcript.commitment())


@pytest.mark.parametrize(
    "change",
    [
        {"position": -1},
        {"token": 2**24},
        {"fingerprint": "0" * 30},
        {"fingerprint": "Z" * 32},
        {"proof": ["0" * 63]},
        {"proof": ["0" * 64] * 33},
        {"header": []},
        {"more": 1},
    ],
)
def test_a_malformed_step_proof_is_none(change: dict[str, Any]) -> None:
    good = Transcript.from_json(document()).step_proof(0).model_dump(mode="json")
    with pytest.raises(ValidationError, match=next(iter(change))):
        StepProof.model_validate(good | change)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": 2},
        {"model": "0" * 64},
        {"engine": "another"},
        {"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 9, "stop": ["\n\n", "é"]}},
        {"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": []}},
        {"seed": "5f" + SEED[2:]},
        {"prover": PROVER[:-1] + "e"},
        {"prompt_tokens": [1, 17]},
        {"output_tokens": [5, 2, 0]},
        {"output_tokens": [5, 0], "fingerprints": base64_text(PRINTS[:32])},
        {"fingerprints": base64_text(PRINTS[:-2] + b"\x00\x00")},
        {"fingerprints": base64_text(PRINTS[16:] + PRINTS[:16])},
        {"finish_reason": "stop"},
    ],
)
def test_the_commitment_binds_every_member(change: dict[str, Any]) -> None:
    changed = Transcript.from_json(document(**change))
    assert changed.commitment() != Transcript.from_json(document()).commitment()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rule": 0}, "rule"),
        ({"rule": "1"}, "rule"),
        ({"rule": True}, "rule"),
        ({"model": DIGEST.upper()}, "model"),
        ({"model": DIGEST + "\n"}, "model"),
        ({"engine": ""}, "engine"),
        ({"engine": "a\0b"}, "engine"),
        ({"engine": "\ud800"}, "engine"),
        ({"engine": "x" * 1025}, "engine"),
        ({"seed": SEED.upper()}, "seed"),
        ({"seed": SEED[:-1]}, "seed"),
        ({"seed": None}, "seed"),
        ({"prover": ""}, "prover"),
        ({"prover": "x" * 65}, "prover"),
        ({"prover": "a\0"}, "prover"),
        ({"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8}}, "params.stop"),
        ({"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": [""]}}, "params.stop.0"),
        ({"params": {"temperature": -1.0, "top_p": 0.5, "max_tokens": 8, "stop": []}}, "params.temperature"),
        (
            {"params": {"temperature": float("nan"), "top_p": 0.5, "max_tokens": 8, "stop": []}},
            "params.temperature",
        ),
        ({"params": {"temperature": 1.0, "top_p": 0, "max_tokens": 8, "stop": []}}, "params.top_p"),
        ({"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8.0, "stop": []}}, "params.max_tokens"),
        ({"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 2, "stop": []}}, "max_tokens"),
        ({"prompt_tokens": []}, "prompt_tokens"),
        ({"prompt_tokens": [-1]}, "prompt_tokens.0"),
        ({"prompt_tokens": [1.0]}, "prompt_tokens.0"),
        ({"prompt_tokens": "123"}, "prompt_tokens"),
        ({"output_tokens": []}, "output_tokens"),
        ({"output_tokens": [1, 2**24]}, "output_tokens.1"),
        ({"output_tokens": [True]}, "output_tokens.0"),
        ({"output_tokens": [1] * 9}, "max_tokens"),
        ({"fingerprints": ""}, "Fingerprints of 3 tokens"),
        ({"fingerprints": None}, "fingerprints"),
        ({"fingerprints": base64_text(PRINTS[:-1])}, "of 48 bytes, not of 47"),
        ({"fingerprints": base64_text(PRINTS + b"\0")}, "of 48 bytes, not of 49"),
        ({"fingerprints": base64_text(PRINTS) + "\n"}, "base64"),
        ({"fingerprints": "é" * 64}, "base64"),
        ({"fingerprints": "-" * 64}, "base64"),
        ({"fingerprints": base64_text(PRINTS[:-2] + b"\x00\x7c")}, "not finite"),
        ({"fingerprints": base64_text(PRINTS[:-2] + b"\x01\xfe")}, "not finite"),
        ({"finish_reason": "done"}, "finish_reason"),
        ({"extra": 1}, "extra"),
    ],
)
def test_wrong_documents_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidTranscript) as caught:
        Transcript.from_json(document(**change))
    assert named in str(caught.value)


@pytest.mark.parametrize("member", document())
def test_no_member_may_be_missing(member: str) -> None:
    value = document()
    del value[member]
    with pytest.raises(InvalidTranscript, match=member):
        Transcript.from_json(value)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidTranscript, match="transcript"):
        Transcript.from_json(value)


@pytest.mark.parametrize("step", [-1, 3])
def test_no_proof_for_a_step_that_is_not_there(step: int) -> None:
    with pytest.raises(InvalidTranscript, match="No step"):
        Transcript.from_json(document()).step_proof(step)


def test_it_is_frozen() -> None:
    transcript = Transcript.from_json(document())
    assert isinstance(transcript.params, Params)
    with pytest.raises(ValidationError, match="frozen"):
        transcript.rule = 2  # type: ignore[misc]
