"""Evidence of tee and sealed jobs: honest documents pass, and each way to bend one fails the checks that are made for it."""

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import execution_claim
from aos_protocol.evidence import Check, answers, check_evidence, round_views
from aos_protocol.evidence_enclave import appraisals
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, JobResult
from aos_protocol.sealing import open_answer
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ExecutionClaim, sign_typed
from support.actors import TEXT, transcript
from support.enclaves import Enclave
from support.enclaves import policy as trusting
from support.evidence import DISPATCHER, DOMAIN, MODEL, PROJECT, Actor, Bend, Story, honest, sealed_job

POLICY = trusting(MODEL.name)
JOB = ["AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1"]
LOGGED = ["AOS-HEAD-1", "AOS-LOG-1", "AOS-CLOCK-2"]
DRAW = ["AOS-TICKET-1", "AOS-COMMITTEE-1", "AOS-ROLE-1"]
ENCLAVE = ["AOS-ENCLAVE-1", "AOS-ATTEST-1"]
REST = ["AOS-CLOCK-1", "AOS-MODEL-1", "AOS-COMPLETE-1"]
SIMULATED = "simulated (SIMULATED: this proves nothing about hardware)"


def checks(document: Any, policy: AttestationPolicy | None = POLICY) -> list[Check]:
    job_id = document["job"]["job_id"]
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=job_id, policy=policy)


def failing(document: Any, policy: AttestationPolicy | None = POLICY) -> dict[str, str]:
    return {check.id: check.what for check in checks(document, policy) if check.status == "FAIL"}


def told(bend: Bend = honest, **how: Any) -> Story:
    story = Story(**{"audit_ppm": 0, "operators": 4, "bend": in_answers(bend)} | how)
    story.own()
    return story


def in_answers(bend: Bend) -> Bend:
    """Bend what operators say of their enclaves' answers, and leave scores alone."""
    return lambda actor, said: bend(actor, said) if "enclave" in said or "transcript" in said else None


def bent(bend: Bend, **how: Any) -> dict[str, str]:
    """The checks that fail of a job whose operators say something else than their enclaves did."""
    return failing(told(**{"enclaves": True} | how, bend=bend).document())


# Honest jobs


def test_a_tee_job_passes_and_shouts_that_it_is_simulated() -> None:
    outcome = checks(told(enclaves=True, operators=5, audit_ppm=1_000_000).document())
    answered = ["AOS-RESULT-1", "AOS-TRANSCRIPT-1", "AOS-SCORE-1"]
    verdict = ["AOS-VERDICT-1", "AOS-MATCH-1"]
    assert [check.id for check in outcome] == [
        *JOB,
        *LOGGED,
        *DRAW,
        "AOS-AUDIT-1",
        *answered,
        *REST,
        *ENCLAVE,
        *verdict,
    ]
    assert {check.status for check in outcome} == {"PASS"}
    for check in outcome:
        assert (SIMULATED in check.what) == (check.id in ENCLAVE)


def test_without_a_policy_the_attestation_is_skipped_and_still_said_to_be_simulated() -> None:
    outcome = {check.id: check for check in checks(told(enclaves=True).document(), None)}
    assert outcome["AOS-ENCLAVE-1"].status == "PASS"
    assert outcome["AOS-ATTEST-1"].status == "SKIP"
    assert "give one with --policy" in outcome["AOS-ATTEST-1"].what
    assert all(SIMULATED in outcome[name].what for name in ENCLAVE)


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_every_answer_to_a_tagged_tee_job_has_its_enclave_s_word(tag: str) -> None:
    story = told(enclaves=True, tag=tag, operators=6)
    outcome = checks(story.document())
    assert {check.status for check in outcome} == {"PASS"}
    (view,) = round_views(story.document())
    found = appraisals(view, POLICY)
    assert len(found) == len(view.results) == (1 if tag == "suspicion" else len(view.document.committee))
    assert {appraisal.build for appraisal in found} == {"this checkout"}


def test_a_challenge_of_a_tee_job_has_nothing_of_enclaves_in_it() -> None:
    story = told(enclaves=True, operators=6)
    story.challenge()
    outcome = checks(story.document())
    assert {check.status for check in outcome} == {"PASS"}
    assert [check.id for check in outcome if check.id in ENCLAVE] == ENCLAVE


def test_a_sealed_job_passes_without_transcript_and_match() -> None:
    """Nobody else can read what there is to score, though every untagged job of this dispatcher is audited."""
    story = told(sealed=True, audit_ppm=1_000_000)
    outcome = checks(story.document())
    assert [check.id for check in outcome] == [
        *JOB,
        *LOGGED,
        *DRAW,
        "AOS-AUDIT-1",
        "AOS-RESULT-1",
        *REST,
        *ENCLAVE,
    ]
    assert {check.status for check in outcome} == {"PASS"}
    assert len(story.rounds[0]["committee"]) == 1


def test_the_prompt_and_the_answer_of_a_sealed_job_are_nowhere_in_its_evidence() -> None:
    story = told(sealed=True)
    text = json.dumps(story.document())
    assert "What is AI?" not in text
    assert TEXT not in text
    (said,) = answers(story.document())
    sealed = story.request.job.sealed
    assert sealed is not None
    (actor,) = [actor for actor in story.crew if actor.address == said.operator]
    place = {"seed": story.seed["value"], "prover": said.operator, "keyset": actor.enclave.keyset.digest()}
    assert open_answer(PROJECT, said.result, sealed, **place)["text"] == TEXT


def test_a_lost_enclave_is_replaced_by_the_next_that_can_read_the_prompt() -> None:
    story = Story(sealed=True, audit_ppm=0, operators=4)
    story.own(lost=1)
    assert [seat["state"] for seat in story.rounds[0]["committee"]] == ["lost", "answered"]
    assert failing(story.document()) == {}


def test_an_unanswered_round_has_no_enclave_to_look_at() -> None:
    document = told(enclaves=True).document()
    document["rounds"][0] |= {"results": [], "electorate": None, "status": "failed"}
    outcome = {check.id: check.status for check in checks(document)}
    assert (outcome["AOS-ENCLAVE-1"], outcome["AOS-ATTEST-1"]) == ("SKIP", "SKIP")


# What an operator may do to its enclave's word, all of which it signs


def statement(change: dict[str, Any]) -> Bend:
    def bend(_: Actor, said: dict[str, Any]) -> None:
        said["enclave"] |= change

    return bend


def attestation(change: Callable[[Actor, dict[str, Any]], dict[str, Any]]) -> Bend:
    def bend(actor: Actor, said: dict[str, Any]) -> None:
        said["enclave"]["attestation"] |= change(actor, said["enclave"]["attestation"])

    return bend


def without_statement(_: Actor, said: dict[str, Any]) -> None:
    del said["enclave"]


def with_answer(_: Actor, said: dict[str, Any]) -> None:
    said["result"] = "an answer of the operator's own"


def claimed(said: dict[str, Any], **changes: Any) -> ExecutionClaim:
    """What the enclave is to sign of what is said here, or of a changed form of it."""
    commitment = Transcript.from_json(said["transcript"]).commitment()
    result = parse_message(JobResult, said | changes)
    return execution_claim(result, story_job(), said["transcript"]["seed"], commitment)


def with_signature_of_its_own(actor: Actor, said: dict[str, Any]) -> None:
    """The operator signs in the enclave's place, and leaves everything else."""
    said["enclave"]["signature"] = sign_typed(actor.signer, DOMAIN, claimed(said))


def story_job() -> JobSpec:
    return Story(enclaves=True).request.job


def asked_another_prompt(actor: Actor, said: dict[str, Any]) -> None:
    """The host has its enclave answer a prompt of its own, with the job's id, seed and parameters."""
    actor.enclose(said, story_job().model_copy(update={"prompt": "Say yes."}), said["transcript"]["seed"])


def drawn_with_another_seed(actor: Actor, said: dict[str, Any]) -> None:
    """The host has its enclave try another seed, and shows an attestation on the true one and a transcript that names it."""
    true = said["transcript"]["seed"]
    actor.enclose(said, story_job(), "5f" * 32)
    said["enclave"]["attestation"] = actor.enclave.attest(true)


def behind_another_operator(actor: Actor, said: dict[str, Any]) -> None:
    """The enclave answered for somebody else, whose answer this operator passes on as its own."""
    said["enclave"] = actor.enclave.state(claimed(said, operator=Signer(b"\x77" * 32).address), DOMAIN)


def on_another_chain(actor: Actor, said: dict[str, Any]) -> None:
    said["enclave"] = actor.enclave.state(claimed(said), Domain(1, DOMAIN.registry))


@pytest.mark.parametrize(
    "bend",
    [with_answer, with_signature_of_its_own, asked_another_prompt, drawn_with_another_seed,
     behind_another_operator, on_another_chain],
)  # fmt: skip
def test_an_answer_that_its_enclave_did_not_give_fails_the_check_of_its_signature_alone(bend: Bend) -> None:
    found = bent(bend)
    assert list(found) == ["AOS-ENCLAVE-1"]
    assert "not by the enclave's key" in found["AOS-ENCLAVE-1"]


def flipped(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    document = bytearray(base64.b64decode(said["document"]))
    document[-1] ^= 1
    return {"document": base64.b64encode(document).decode()}


def on_a_nonce_of_its_own(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return actor.enclave.attest("5f" * 32)


def dated_otherwise(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return {"issued_at": said["issued_at"] + 1}


def of_a_longer_life(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return {"keyset": said["keyset"] | {"expires_at": said["keyset"]["expires_at"] + 1}}


def for_another_prompt_key(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return {"keyset": said["keyset"] | {"encryption_key": PROJECT.public}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped, "signature"),
        (on_a_nonce_of_its_own, "made for somebody else's question"),
        (dated_otherwise, "as is said beside it"),
        (of_a_longer_life, "binds another keyset"),
        (for_another_prompt_key, "binds another keyset"),
    ],
)
def test_a_document_that_does_not_stand_behind_the_keyset_fails_the_check_of_attestation_alone(
    change: Callable[[Actor, dict[str, Any]], dict[str, Any]], said: str
) -> None:
    document = told(enclaves=True, bend=attestation(change)).document()
    found = failing(document)
    assert list(found) == ["AOS-ATTEST-1"]
    assert said in found["AOS-ATTEST-1"]
    assert failing(document, None) == {}  # which is why a SKIP is no PASS


def another_enclave_s(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    """A good attestation on the job's seed, of an enclave that did not answer."""
    seed = told_seed(said)
    return Enclave(99, MODEL).attest(seed)


def told_seed(said: dict[str, Any]) -> str:
    document = base64.b64decode(said["document"])
    return document[document.index(b"nonce") + 7 :][:32].hex()


def a_key_of_its_own(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return {"keyset": said["keyset"] | {"result_key": actor.signer.public_key.hex()}}


def for_another_model(actor: Actor, said: dict[str, Any]) -> dict[str, Any]:
    return {"keyset": said["keyset"] | {"model": {"name": MODEL.name, "sha256": "3e" * 32}}}


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        (another_enclave_s, ["AOS-ENCLAVE-1"]),
        (a_key_of_its_own, ENCLAVE),
        (for_another_model, ENCLAVE),
        (lambda *_: {"kind": "nitro"}, ENCLAVE),
        (lambda *_: {"document": "AB=="}, ENCLAVE),
        (lambda *_: {"comment": "hello"}, ENCLAVE),
    ],
)
def test_a_keyset_that_is_not_the_answer_s_fails_where_it_does_not_fit(
    change: Callable[[Actor, dict[str, Any]], dict[str, Any]], ids: list[str]
) -> None:
    assert list(bent(attestation(change))) == ids


@pytest.mark.parametrize(
    "bend", [without_statement, statement({"signature": "0" * 129}), statement({"more": 1})]
)
def test_what_is_no_statement_fails_both_checks_of_enclaves_and_no_other(bend: Bend) -> None:
    assert list(bent(bend)) == ENCLAVE


def test_an_operator_with_a_key_of_its_own_passes_for_an_enclave_only_without_a_policy() -> None:
    """The whole forgery: a keyset of the operator's, which signs, and a genuine document of its real enclave."""

    def bend(actor: Actor, said: dict[str, Any]) -> None:
        genuine = said["enclave"]["attestation"]
        with_signature_of_its_own(actor, said)
        said["enclave"]["attestation"] = genuine | a_key_of_its_own(actor, genuine)

    document = told(enclaves=True, bend=bend).document()
    found = failing(document)
    assert list(found) == ["AOS-ATTEST-1"]
    assert "binds another keyset" in found["AOS-ATTEST-1"]
    assert failing(document, None) == {}


def test_the_policy_decides_on_root_build_and_model() -> None:
    document = told(enclaves=True).document()
    entry = POLICY.to_json()["models"][MODEL.name]["simulated"]
    other_build = copy.deepcopy(entry["builds"])
    other_build[0]["measurements"]["pcr0"] = "ab" * 48
    policies = {
        "no entry for model tiny.gguf": trusting("another.gguf"),
        "runs no build that the policy trusts": trusting(
            MODEL.name, simulated=entry | {"builds": other_build}
        ),
        "not " + "3e" * 32: trusting(MODEL.name, sha256="3e" * 32),
        "root": trusting(MODEL.name, simulated=entry | {"roots": ["1d" * 32]}),
        "simulated, which proves nothing": trusting_nitro_only(),
    }
    for said, policy in policies.items():
        found = failing(document, policy)
        assert list(found) == ["AOS-ATTEST-1"]
        assert said in found["AOS-ATTEST-1"]


def trusting_nitro_only() -> AttestationPolicy:
    builds = POLICY.to_json()["models"][MODEL.name]["simulated"]["builds"]
    document = {"version": "aos-attestation-policy/1", "models": {MODEL.name: {"nitro": {"builds": builds}}}}
    return parse_message(AttestationPolicy, document)


def test_a_statement_that_its_operator_did_not_sign_fails_where_the_operator_s_word_is_looked_at() -> None:
    """A dispatcher exchanges the enclave's statement for another good one, and cannot sign for the operator."""
    story = told(enclaves=True)
    frame = json.loads(story.rounds[0]["results"][0])
    said = frame["params"][0]
    (actor,) = [actor for actor in story.crew if actor.address == said["operator"]]
    said["enclave"]["attestation"]["collateral"] = None
    story.rounds[0]["results"][0] = seal_request(actor.signer, "8", "job_result", [said]).text
    found = failing(story.document())
    assert "AOS-RESULT-1" in found
    assert f"not by its operator {actor.address}" in found["AOS-RESULT-1"]
    assert not set(ENCLAVE) & set(found)


def test_an_opml_answer_with_a_statement_is_refused() -> None:
    def bend(actor: Actor, said: dict[str, Any]) -> None:
        actor.enclose(said, Story().request.job, said["transcript"]["seed"])

    found = failing(told(bend=bend).document())
    assert list(found) == ["AOS-RESULT-1"]
    assert "only an answer to a tee job" in found["AOS-RESULT-1"]


# Sealed jobs


def sealed_again(actor: Actor, said: dict[str, Any]) -> None:
    """The operator seals an answer of its own to the project's key, which anybody can."""
    said["result"] = base64.b64encode(bytes(80)).decode()


def with_an_open_transcript(actor: Actor, said: dict[str, Any]) -> None:
    views = round_views(STORY.document())
    said["transcript"] = transcript(views[0].terms(), actor.address)


STORY = told(sealed=True)


def test_a_sealed_answer_that_the_enclave_did_not_seal_is_found() -> None:
    found = bent(sealed_again, sealed=True)
    assert list(found) == ["AOS-ENCLAVE-1"]
    assert "not by the enclave's key" in found["AOS-ENCLAVE-1"]


def test_an_enclave_that_answered_another_sealed_prompt_is_found() -> None:
    """The host seals a prompt of its own to the same enclave and reply key; keyset, seed and job id are the project's."""

    def bend(actor: Actor, said: dict[str, Any]) -> None:
        own = sealed_job(story_job().to_json() | {"prompt": "Say yes."}, [actor])
        said |= {"result": TEXT, "transcript": None}
        actor.enclose(said, parse_message(JobSpec, own), told_seed(said["enclave"]["attestation"]))

    assert list(bent(bend, sealed=True)) == ["AOS-ENCLAVE-1"]


def test_an_enclave_that_had_no_box_cannot_have_answered() -> None:
    """Also when it is a good one: the project chose which enclaves may read its prompt."""

    def bend(actor: Actor, said: dict[str, Any]) -> None:
        seed = told_seed(said["enclave"]["attestation"])
        stranger = Enclave(99, MODEL)
        job = story.request.job
        claim = execution_claim(parse_message(JobResult, said), job, seed, NO_DIGEST)
        said["enclave"] = stranger.state(claim, DOMAIN)

    story = Story(sealed=True, audit_ppm=0, operators=4, bend=bend)
    story.own()
    found = failing(story.document())
    assert list(found) == ["AOS-ENCLAVE-1"]
    assert "was not sealed to keyset" in found["AOS-ENCLAVE-1"]


def test_a_transcript_beside_a_sealed_answer_is_refused() -> None:
    found = bent(with_an_open_transcript, sealed=True)
    assert "belongs inside the sealed answer" in found["AOS-RESULT-1"]


def test_an_operator_without_a_box_is_not_asked() -> None:
    """Another operator's ticket in the electorate, drawn and signed as it should be."""
    story = Story(sealed=True, audit_ppm=0, operators=4)
    sealed = story.request.job.sealed
    assert sealed is not None
    everybody = sealed.model_copy(update={"boxes": [*sealed.boxes, sealed.boxes[0].model_copy(
        update={"operator": story.crew[-1].address, "keyset": "1d" * 32}
    )]})  # fmt: skip
    request, drawn_on = story.request, story.request.job.prompt_hash()
    widened = request.job.model_copy(update={"sealed": everybody})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(widened), "prompt_hash", lambda _: drawn_on)
        story.request = request.model_copy(update={"job": widened})
        story.own()
    story.request = request
    found = failing(story.document())
    assert "the prompt is not sealed to its enclave" in found["AOS-COMMITTEE-1"]


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_a_sealed_job_has_no_tag(tag: str) -> None:
    found = failing(told(sealed=True, tag=tag).document())
    assert "a sealed or direct prompt cannot be verified under a tag" in found["AOS-COMMITTEE-1"]


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_a_sealed_job_is_not_run_again_because_of_another(tag: str) -> None:
    story = told(sealed=True)
    story.before(tag)
    found = [check for check in checks(story.document()) if check.status == "FAIL"]
    assert ("AOS-COMMITTEE-1", True) in {(check.id, "under a tag" in check.what) for check in found}


def test_a_sealed_job_has_one_member() -> None:
    """A second seat, though it is the next in the draw's order."""
    story = told(sealed=True)
    round_ = story.rounds[0]
    ranking = round_views(story.document())[0].ranking
    round_["committee"].append(
        round_["committee"][0]
        | {
            "operator": ranking[1].operator,
            "role": "verifier",
            "filled": not ranking[1].selected,
            "state": "lost",
        }
    )
    round_["committee"][1]["state"] = "answered"
    found = failing(story.document())
    assert "the seats are not the head of the draw" in found["AOS-COMMITTEE-1"]


def test_nobody_scores_a_sealed_answer() -> None:
    document = told(sealed=True).document()
    scored = told(operators=4, audit_ppm=1_000_000).document()
    document["rounds"][0] |= {
        "scores": scored["rounds"][0]["scores"],
        "verdict": scored["rounds"][0]["verdict"],
    }
    found = failing(document)
    assert {"AOS-SCORE-1", "AOS-VERDICT-1"} <= set(found)


def test_a_changed_box_is_another_request() -> None:
    story = told(sealed=True)
    document = copy.deepcopy(story.document())
    box = document["job"]["request"]["job"]["sealed"]["boxes"][0]
    other = base64.b64decode(box["box"])
    box["box"] = base64.b64encode(bytes([other[0] ^ 1]) + other[1:]).decode()
    assert {"AOS-JOB-1", "AOS-RECEIPT-1", "AOS-ENCLAVE-1"} <= set(failing(document))


def test_a_refusal_has_no_statement() -> None:
    """An enclave that could not answer says nothing, and no check of enclaves holds that against it."""

    def bend(actor: Actor, said: dict[str, Any]) -> None:
        said |= {"result": "", "reason": "the enclave is gone", "transcript": None}
        said.pop("enclave", None)

    found = failing(told(sealed=True, bend=bend).document())
    assert not set(ENCLAVE) & set(found)
