import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aos_protocol import merkle
from aos_protocol.errors import InvalidTranscript
from aos_protocol.transcript import Params, Transcript

DIGEST = hashlib.sha256(b"a model").hexdigest()


def document(**changes: Any) -> dict[str, Any]:
    """A valid transcript as JSON, with members replaced."""
    base: dict[str, Any] = {
        "rule": 1,
        "model": DIGEST,
        "engine": "llama.cpp b1",
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": ["\n\n", "é"]},
        "prompt_tokens": [1, 17, 9],
        "output_tokens": [5, 0, 2],
        "finish_reason": "eos",
    }
    return base | changes


tokens = st.integers(0, 2**24 - 1)
documents = st.builds(
    document,
    prompt_tokens=st.lists(tokens, min_size=1, max_size=20),
    output_tokens=st.lists(tokens, min_size=1, max_size=8),
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
        '"prompt_tokens":[1,17,9],"rule":1,"steps":3}'
    ).encode()
    steps = [bytes([i, 0, 0, 0, token, 0, 0, 0]) for i, token in enumerate([5, 0, 2])]
    a, b, c, d = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (header, *steps))
    left, right = hashlib.sha256(b"\x01" + a + b).digest(), hashlib.sha256(b"\x01" + c + d).digest()
    expected = hashlib.sha256(b"\x01" + left + right).hexdigest()
    assert Transcript.from_json(document()).commitment() == expected


@given(documents, st.data())
def test_each_step_proves_itself_and_no_other(value: dict[str, Any], data: st.DataObject) -> None:
    transcript = Transcript.from_json(value)
    count = len(transcript.output_tokens)
    step = data.draw(st.integers(0, count - 1))
    proof, root = transcript.step_proof(step), bytes.fromhex(transcript.commitment())
    leaf = step.to_bytes(4, "little") + transcript.output_tokens[step].to_bytes(4, "little")
    assert merkle.verify_inclusion(leaf, 1 + step, count + 1, proof, root)
    changed = step.to_bytes(4, "little") + (transcript.output_tokens[step] ^ 1).to_bytes(4, "little")
    assert not merkle.verify_inclusion(changed, 1 + step, count + 1, proof, root)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": 2},
        {"model": "0" * 64},
        {"engine": "another"},
        {"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 9, "stop": ["\n\n", "é"]}},
        {"params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 8, "stop": []}},
        {"prompt_tokens": [1, 17]},
        {"output_tokens": [5, 2, 0]},
        {"output_tokens": [5, 0]},
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
