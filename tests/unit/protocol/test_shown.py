"""What answers come with: which record goes with which answer and job, what may be scored of it, and that its signature binds it."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.canonical import canonical
from aos_protocol.errors import InvalidRecord, InvalidTranscript
from aos_protocol.fields import EVIDENCE_LEVELS, EvidenceLevel, parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, ModelOffer, TokenLogprob
from aos_protocol.record import Record, named_model_digest
from aos_protocol.shown import (
    check_level,
    check_record,
    claimed,
    digest_of,
    is_weaker,
    level_of,
    read_record,
    score_item,
    unscorable,
)
from aos_protocol.transcript import Params, Transcript

TRANSCRIPT = Transcript(
    rule=1, model="ab" * 32, engine="e", params=Params(temperature=1.0, top_p=1.0, max_tokens=9, stop=()),
    seed="cd" * 32, prover="0xme", prompt_tokens=(1, 2), output_tokens=(3,), fingerprints="A" * 22 + "==", finish_reason="length",
)  # fmt: skip
FILE = ModelOffer(name="m", sha256="ab" * 32)
NAMED = ModelOffer(name="m", sha256=named_model_digest("m"))
TEXT = {"level": "text", "backend": "ollama"}
IDS = TEXT | {"level": "token_ids", "output_tokens": [5, 6]}
IMAGE: dict[str, Any] = {"sha256": "ab" * 32, "media_type": "image/png", "size": 9, "width": 64, "height": 64}
PAINTED = TEXT | {"images": [IMAGE]}
NAMES = canonical({"images": [IMAGE]}).decode()
ONE = [TokenLogprob(token="x", logprob=-0.5, top=[("x", -0.5), ("y", -1.0)])]
DIRECT = {"direct": {"client_key": "ab" * 32, "commitment": "cd" * 32}, "prompt": None}
COMMITTED = TEXT | {"level": "fingerprints", "transcript": "ef" * 32}


def job(**changes: Any) -> JobSpec:
    said = {"tag": "opml", "prompt": "x", "model": "m", "params": {"max_tokens": 2}} | changes
    return parse_message(JobSpec, {name: value for name, value in said.items() if value is not None})


GOOD: dict[str, tuple[dict[str, Any], str, list[TokenLogprob] | None, dict[str, Any]]] = {
    "text": (TEXT, "answer", None, {}),
    "an empty text": (TEXT, "", None, {}),
    "token ids": (IDS, "answer", None, {}),
    "no token of an empty text": (IDS | {"output_tokens": []}, "", None, {}),
    "logprobs that were asked for": (TEXT, "answer", ONE, {"logprobs": 2}),
    "none of no token": (TEXT, "", [], {"logprobs": 2}),
    "logprobs of that level": (TEXT | {"level": "logprobs"}, "answer", ONE, {}),
    "token ids with logprobs": (IDS, "answer", ONE, {"logprobs": 20}),
    "images": (PAINTED, NAMES, None, {"image": {"n": 1}}),
    "a direct prompt": (TEXT, "commitments", None, DIRECT),
    "a direct prompt's transcript": (COMMITTED, "commitments", None, DIRECT),
    "a direct prompt's token ids, which its client has": (TEXT | {"level": "token_ids"}, "c", None, DIRECT),
}

BAD: dict[str, tuple[dict[str, Any], str, list[TokenLogprob] | None, dict[str, Any], str]] = {
    "of an enclave": (TEXT, "a", None, {"tag": "tee"}, "tee job must come with its transcript"),
    "a transcript in the open": (COMMITTED, "a", None, {}, "show the transcript"),
    "fingerprints without one": (
        TEXT | {"level": "fingerprints"},
        "a",
        None,
        DIRECT,
        "commitment of a transcript",
    ),
    "a transcript of a weaker level": (
        IDS | {"transcript": "ef" * 32},
        "a",
        None,
        {},
        "commitment of a transcript",
    ),
    "token ids without tokens": (TEXT | {"level": "token_ids"}, "a", None, {}, "has output_tokens"),
    "tokens of a weaker level": (IDS | {"level": "text"}, "a", None, {}, "has output_tokens"),
    "too many tokens": (
        IDS | {"output_tokens": [1, 2, 3]},
        "a",
        None,
        {},
        "3 output tokens exceed max_tokens 2",
    ),
    "a text of no tokens": (IDS | {"output_tokens": []}, "a", None, {}, "no output token"),
    "logprobs nobody asked for": (TEXT, "a", ONE, {}, "does not ask for"),
    "no logprobs": (TEXT, "a", None, {"logprobs": 0}, "there are none"),
    "no logprobs of that level": (TEXT | {"level": "logprobs"}, "a", None, {}, "there are none"),
    "more logprobs than wanted": (TEXT, "a", ONE, {"logprobs": 1}, "more alternatives"),
    "images nobody asked for": (PAINTED, NAMES, None, {}, "images if the job asks"),
    "no images": (TEXT, "a", None, {"image": {"n": 1}}, "images if the job asks"),
    "too few images": (PAINTED, NAMES, None, {"image": {"n": 2}}, "asks for 2 images, and the record has 1"),
    "other images": (
        PAINTED,
        NAMES.replace("ab", "cd"),
        None,
        {"image": {"n": 1}},
        "does not name the images",
    ),
    "images with tokens": (
        PAINTED | IDS | {"images": [IMAGE]},
        NAMES,
        None,
        {"image": {"n": 1}},
        "level text",
    ),
    "images with logprobs": (PAINTED, NAMES, ONE, {"image": {"n": 1}}, "images have no logprobs"),
    "tokens of a direct prompt": (IDS, "a", None, DIRECT, "which only its client reads"),
    "logprobs of a direct prompt": (TEXT, "a", ONE, DIRECT, "which only its client reads"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_record_that_fits(name: str) -> None:
    said, text, logprobs, changes = GOOD[name]
    check_record(read_record(said), text, logprobs, job(**changes))


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_does_not_fit(name: str) -> None:
    said, text, logprobs, changes, why = BAD[name]
    with pytest.raises(InvalidRecord, match=why):
        check_record(read_record(said), text, logprobs, job(**changes))


@pytest.mark.parametrize(
    "changes", [{"more": 1}, {"version": 2}, {"backend": ""}, {"level": "most"}, {"output_tokens": [-1]}, {"images": []}]
)  # fmt: skip
def test_what_is_no_record(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord, match="Record: "):
        read_record(TEXT | changes)


@pytest.mark.parametrize("value", [None, [], "text", 7])
def test_something_else_is_no_record(value: object) -> None:
    with pytest.raises(InvalidRecord):
        read_record(value)


@pytest.mark.parametrize(("level", "than"), list(itertools.product(EVIDENCE_LEVELS, repeat=2)))
def test_levels_from_the_strongest_to_the_weakest(level: EvidenceLevel, than: EvidenceLevel) -> None:
    weaker = is_weaker(level, than)
    assert weaker == (
        ["fingerprints", "token_ids", "logprobs", "text"].index(level) > EVIDENCE_LEVELS.index(than)
    )
    shown = Record(level=level, backend="b")
    if weaker:
        with pytest.raises(InvalidRecord, match=f"the answer shows {level} only, and what I want is {than}"):
            check_level(shown, than, "what I want")
    else:
        check_level(shown, than, "what I want")


def test_a_transcript_shows_all() -> None:
    check_level(TRANSCRIPT, "fingerprints", "what I want")
    assert (level_of(TRANSCRIPT), level_of(None)) == ("fingerprints", "fingerprints")


def test_what_the_signature_binds() -> None:
    record = read_record(TEXT)
    assert digest_of(TRANSCRIPT) == TRANSCRIPT.commitment()
    assert digest_of(record) == record.digest() != NO_DIGEST
    assert digest_of(None) == NO_DIGEST


@given(
    st.lists(st.integers(0, 2**24 - 1), max_size=4),
    st.sampled_from(["eos", "stop", "length"]),
    st.text("ab", min_size=1),
)
def test_every_member_changes_the_digest(tokens: list[int], finish: str, engine: str) -> None:
    base = read_record(TEXT)
    for change in (
        {"output_tokens": tokens},
        {"finish_reason": finish},
        {"engine": engine},
        {"system": "ab" * 32},
    ):
        other = read_record(TEXT | change)
        assert (other.digest() == base.digest()) == (other == base)
        assert read_record(other.to_json()).digest() == other.digest()


@pytest.mark.parametrize(
    ("said", "model", "why"),
    [
        (IDS, FILE, ""), (TEXT, FILE, "ollama shows text of its answers, and no tokens"),
        (IDS | {"output_tokens": []}, FILE, "and no tokens"), (IDS, NAMED, "known by name only"),
        (PAINTED, FILE, "images are not scored"), (COMMITTED, FILE, "nobody else has anything to score"),
    ],
)  # fmt: skip
def test_what_nobody_can_score(said: dict[str, Any], model: ModelOffer, why: str) -> None:
    found = unscorable(read_record(said), model)
    assert why in found
    assert bool(found) == bool(why)


def test_a_transcript_can_be_scored_and_of_a_sealed_answer_nothing_is_said() -> None:
    assert unscorable(TRANSCRIPT, NAMED) == unscorable(None, FILE) == ""


def test_what_an_answer_claims_of_the_model() -> None:
    whole, tokens = claimed(TRANSCRIPT), claimed(read_record(IDS))
    assert (whole.output_tokens, whole.seed, whole.prover) == ([3], TRANSCRIPT.seed, "0xme")
    assert tokens.to_json() == {"output_tokens": [5, 6]}
    for said in (TEXT, IDS | {"output_tokens": []}):
        with pytest.raises(InvalidRecord, match="nothing that could be scored"):
            claimed(read_record(said))


def test_what_a_worker_is_asked_to_score() -> None:
    asked = job(suffix="y", seed=7, logprobs=1, stream=True)
    common = {"prompt": "x", "suffix": "y", "params": asked.params.to_json(), "subject": "ee" * 32}
    assert score_item(asked, "ee" * 32, "text", read_record(IDS)) == common | {
        "output_tokens": [5, 6], "answer": {"text": "text"},
    }  # fmt: skip
    assert score_item(asked, "ee" * 32, "text", TRANSCRIPT) == common | {
        "output_tokens": [3], "seed": TRANSCRIPT.seed, "prover": "0xme", "fingerprints": TRANSCRIPT.fingerprints,
        "answer": {"text": "text", "finish_reason": "length", "prompt_tokens": [1, 2]},
    }  # fmt: skip
    claim = job(claim={"text": "so they say"})
    assert score_item(claim, claim.claim.digest() if claim.claim else "")["text"] == "so they say"


def test_a_text_that_cannot_be_scored_is_not_asked_for() -> None:
    with pytest.raises(InvalidRecord, match="shows text only"):
        score_item(job(), "ee" * 32, "text", read_record(TEXT))


def test_a_transcript_that_is_none_is_told_as_such() -> None:
    with pytest.raises(InvalidTranscript):
        Transcript.from_json({"output_tokens": []})
