"""What a dispatcher's log says: one entry for each event, in canonical JSON, which binds by digest all that evidence tells of it.

Dispatcher and auditor make entries by the same functions, the one from what it stores, the other from the evidence document: so
whatever changes in a row afterwards, or vanishes, or comes to be, no longer fits the log. Entries hold digests, not texts: of a job
they tell no more than its id, which operators answered, and how it ended.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from aos_protocol.canonical import canonical, digest, parse
from aos_protocol.errors import InvalidEvidence

JsonObject = dict[str, Any]
_PLACE = ("tag", "position", "challenge", "cause", "seed", "plea", "model")
_DRAW = ("draw_clock", "electorate", "dispatch_clock", "calibration")
_STANDING = ("standing", "suspended_at", "appeal")
_FRAUD = ("id", "job_id", "result", "verify_id", "status", "step", "created_at", "details")


def job_entry(job: Mapping[str, Any], seed: JsonObject, policy: JsonObject) -> str:
    """A job was accepted: `job`, `seed` and `policy` as in an evidence document."""
    bound = {
        "request_digest": job["request_digest"],
        "receipt": job["receipt"],
        "seed": seed,
        "policy": policy,
    }
    return _entry("job", job["job_id"], sequence=job["sequence"], digest=digest(bound))


def round_entry(job_id: str, round_: Mapping[str, Any]) -> str:
    """A round was opened, by the project's request, a tagged job, or a challenge with its plea; `round_` as in an evidence document."""
    bound = {name: round_[name] for name in _PLACE} | {"subject": _digest_of(round_["subject"])}
    return _entry("round", job_id, round=round_["verify_id"], digest=digest(bound))


def tickets_entry(job_id: str, round_: Mapping[str, Any], registry: bytes | None = None) -> str:
    """A draw was held: the registry, every ticket as it came (or why there is none), and the clocks.

    `registry` is the round's in canonical JSON, for whoever has that of the draw before: of 2,000 operators it is 250 kB.
    """
    text = registry or canonical(round_["registry"])
    # Of the members that the digest is of, the registry is the last in canonical order.
    bound = canonical({name: round_[name] for name in _DRAW})[:-1] + b',"registry":' + text + b"}"
    return _entry(
        "tickets",
        job_id,
        round=round_["verify_id"],
        asked=len(round_["electorate"]),
        digest=hashlib.sha256(bound).hexdigest(),
    )


def result_entry(job_id: str, verify_id: str, operator: str, frame: str) -> str:
    """A result was accepted: the operator's signed frame."""
    return _entry("result", job_id, round=verify_id, operator=operator, digest=_digest_of(frame))


def score_entry(job_id: str, verify_id: str, operator: str, frame: str) -> str:
    """A score was accepted: the verifier's signed frame."""
    return _entry("score", job_id, round=verify_id, operator=operator, digest=_digest_of(frame))


def verdict_entry(job_id: str, round_: Mapping[str, Any], job: Mapping[str, Any] | None) -> str:
    """A round ended: its status, who sat on its committee and how each seat ended, its verdict.

    `job` is given for the round that the job ends with, whose `reason` and `clock` are bound then.
    """
    bound = {
        "committee": round_["committee"],
        "verdict": round_["verdict"],
        "reason": job["reason"] if job else None,
        "clock": job["clock"] if job else None,
    }
    return _entry("verdict", job_id, round=round_["verify_id"], status=round_["status"], digest=digest(bound))


def rejection_entry(job_id: str | None, rejection: Mapping[str, Any]) -> str:
    """Something that an operator signed was refused: `operator`, `reason` and `frame`; `job_id` is None where it names no job."""
    bound = {"reason": rejection["reason"], "frame": _digest_of(rejection["frame"])}
    return _entry("rejection", job_id, operator=rejection["operator"], digest=digest(bound))


def operator_entry(operator: str, number: int) -> str:
    """An operator got its number, for ever."""
    return _entry("operator", None, operator=operator, number=number)


def standing_entry(operator: str, standing: Mapping[str, Any]) -> str:
    """An operator was suspended, let in again, or appealed: `standing`, `suspended_at` and `appeal` as its standing shows them."""
    return _entry("standing", None, operator=operator, **{name: standing[name] for name in _STANDING})


def model_entry(name: str, job_type: str, sha256: str, calibration: str | None) -> str:
    """A model's name stands for this file from now on, judged by the calibration of this digest."""
    return _entry("model", None, name=name, job_type=job_type, sha256=sha256, calibration=calibration)


def fraud_entry(operator: str, fraud: Mapping[str, Any]) -> str:
    """An operator was found to have cheated, or that finding was withdrawn; `fraud` as the operator's standing shows it.

    What a private project's finding shows to its own token only is bound by `details`.
    """
    bound = {name: fraud[name] for name in _FRAUD} | {"verdict": _without_verifiers(fraud["verdict"])}
    return _entry("fraud", None, operator=operator, fraud=fraud["id"], digest=digest(bound))


def fraud_details(proof: JsonObject | None, verdict: Mapping[str, Any]) -> str:
    """The digest of what only those may see of a finding who may read its job: the step's proof, and what each verifier found."""
    return digest({"proof": proof, "verifiers": verdict.get("verifiers")})


def pool_entry(operator: str, pool: Mapping[str, Any]) -> str:
    """The sequential test over an operator's answers of one model moved on; `pool` as the operator's standing shows it."""
    return _entry("pool", None, operator=operator, model=pool["model"], digest=digest(dict(pool)))


def _without_verifiers(verdict: Mapping[str, Any]) -> JsonObject:
    return {name: value for name, value in verdict.items() if name != "verifiers"}


def job_entries(document: Mapping[str, Any]) -> list[str]:
    """All entries that the log must have about the job of an evidence document, in the order in which they were made.

    Within a round, results and scores may have come in another order; rejections may have come at any time.
    """
    job = document["job"]
    job_id = job["job_id"]
    entries = [job_entry(job, document["seed"], document["policy"])]
    for round_ in document["rounds"]:
        entries += round_entries(job_id, round_, job if is_own(round_) else None)
    return entries + [rejection_entry(job_id, rejection) for rejection in document["rejections"]]


def round_entries(job_id: str, round_: Mapping[str, Any], job: Mapping[str, Any] | None) -> list[str]:
    """The entries about one round, as far as it has come; `job` is given for the round that the job ends with."""
    entries = [round_entry(job_id, round_)]
    if round_["registry"] is not None and round_["electorate"] is not None:
        entries.append(tickets_entry(job_id, round_))
    from_frames = (("results", result_entry), ("scores", score_entry))
    for kind, entry in from_frames:
        entries += [entry(job_id, round_["verify_id"], sender_of(text), text) for text in round_[kind]]
    if round_["status"] in {"completed", "failed", "cancelled"}:
        entries.append(verdict_entry(job_id, round_, job))
    return entries


def is_own(round_: Mapping[str, Any]) -> bool:
    """True for the round that a job ends with, rather than one that looks at it again."""
    return not round_["challenge"] and round_["position"] != "before"


def sender_of(frame: str) -> str:
    """The address that a frame names as its sender, unchecked. Raises `ProtocolError` for what is no frame."""
    body = parse(frame)
    if not isinstance(body, dict) or not isinstance(body.get("address"), str):
        raise InvalidEvidence("a result or score is no signed frame")
    return str(body["address"])


def _digest_of(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _entry(kind: str, job_id: str | None, **members: object) -> str:
    said: JsonObject = {"kind": kind, **members}
    return canonical(said if job_id is None else said | {"job_id": job_id}).decode()
