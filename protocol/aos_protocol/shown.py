"""What an answer comes with: its run's transcript, or where its backend can show none, a record of what it does show."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from aos_protocol.canonical import JsonObject, canonical
from aos_protocol.errors import InvalidMessage, InvalidRecord, InvalidTranscript
from aos_protocol.fields import EVIDENCE_LEVELS, EvidenceLevel, parse_message
from aos_protocol.job import Claim, JobSpec
from aos_protocol.messages import NO_DIGEST, JobResult, ModelOffer, TokenLogprob
from aos_protocol.record import Record, named_model_digest
from aos_protocol.transcript import Transcript

Shown: TypeAlias = Transcript | Record

_TRANSCRIPTS: Final[EvidenceLevel] = "fingerprints"


def digest_of(shown: Shown | None) -> str:
    """Return what the operator's signature binds of it: a transcript's commitment, a record's digest, zeros of nothing."""
    if shown is None:
        return NO_DIGEST
    return shown.commitment() if isinstance(shown, Transcript) else shown.digest()


def level_of(shown: Shown | None) -> EvidenceLevel:
    """Return how much is shown. An answer without either is sealed: its transcript is inside."""
    return shown.level if isinstance(shown, Record) else _TRANSCRIPTS


def is_weaker(level: EvidenceLevel, than: EvidenceLevel) -> bool:
    """Whether less is shown at a level than at another one."""
    return EVIDENCE_LEVELS.index(level) > EVIDENCE_LEVELS.index(than)


def read_shown(result: JobResult) -> Shown | None:
    """Read what a result comes with, whatever it should. Raises `InvalidTranscript` or `InvalidRecord`."""
    if result.record is None:
        return None if result.transcript is None else Transcript.from_json(result.transcript)
    if result.transcript is not None:
        raise InvalidRecord("an answer has a transcript or a record, not both")
    return read_record(result.record)


def read_record(value: object) -> Record:
    """Read a record. Raises `InvalidRecord` that names what is wrong."""
    try:
        return parse_message(Record, value)
    except InvalidMessage as error:
        raise InvalidRecord(str(error)) from None


def check_shown(result: JobResult, job: JobSpec) -> Shown | None:
    """Return what a result comes with, if that is what its job allows.

    An answer has a transcript, or a record in its place; one to a `tee` job has its transcript, to a sealed prompt neither, and one to a direct
    prompt or of images a record. A refusal has nothing. Raises `InvalidTranscript` or `InvalidRecord`.
    """
    if not result.answered:
        _check_nothing(result, "a refusal cannot have a {}")
        return None
    if job.sealed is not None:
        _check_nothing(result, "the {} of an answer to a sealed prompt belongs inside the sealed answer")
        return None
    shown = read_shown(result)
    if isinstance(shown, Record):
        check_record(shown, result.result, result.logprobs, job)
        return shown
    if job.direct is not None or job.image is not None:
        kind = "to a direct prompt" if job.direct is not None else "of images"
        raise InvalidRecord(f"an answer {kind} must come with a record, and has no transcript")
    if shown is None:
        raise InvalidTranscript("an answer must come with its transcript, or with a record in its place")
    check_logprobs(result.logprobs, job)
    return shown


def check_record(record: Record, text: str, logprobs: Sequence[TokenLogprob] | None, job: JobSpec) -> None:
    """Raise `InvalidRecord` unless an answer of this text can have such a record: it shows what its level says, and as much as the job allows."""
    if job.tag == "tee":
        raise InvalidRecord("an answer to a tee job must come with its transcript: a record is none")
    if (record.transcript is not None) != (record.level == _TRANSCRIPTS):
        raise InvalidRecord(
            "a record of level fingerprints, and no other, has the commitment of a transcript"
        )
    if record.transcript is not None and job.direct is None:
        raise InvalidRecord("a record of level fingerprints belongs to a direct prompt: show the transcript")
    if (record.images is None) != (job.image is None):
        raise InvalidRecord("a record has images if the job asks for them, and only then")
    if job.direct is not None:
        if record.output_tokens is not None or logprobs is not None:
            raise InvalidRecord(
                "tokens of an answer to a direct prompt belong into the answer, which only its client reads"
            )
    elif record.images is not None:
        if logprobs is not None:
            raise InvalidRecord("images have no logprobs")
        _check_images(record, text, job)
    else:
        _check_tokens(record, text, job)
        check_logprobs(logprobs, job, shown=record.level == "logprobs")


def check_logprobs(logprobs: Sequence[TokenLogprob] | None, job: JobSpec, *, shown: bool = False) -> None:
    """Raise `InvalidRecord` unless there are logprobs if the job asks for them, or something says that they are `shown`, and only then."""
    if logprobs is None:
        if shown or job.logprobs is not None:
            raise InvalidRecord("logprobs are asked for, or said to be shown, and there are none")
        return
    if job.logprobs is None and not shown:
        raise InvalidRecord("there are logprobs that the job does not ask for")
    if job.logprobs is not None and any(len(token.top) > job.logprobs for token in logprobs):
        raise InvalidRecord(
            f"there are more alternatives of a token than {job.logprobs}, which is what the job asks for"
        )


def check_level(shown: Shown | None, wanted: EvidenceLevel, whose: str) -> None:
    """Raise `InvalidRecord` if an answer shows less than what `whose` says is wanted."""
    level = level_of(shown)
    if is_weaker(level, wanted):
        raise InvalidRecord(f"the answer shows {level} only, and {whose} is {wanted}")


def unscorable(shown: Shown | None, model: ModelOffer) -> str:
    """Say why nobody can score an answer that comes with this; an empty text for one that somebody may be able to."""
    if not isinstance(shown, Record):
        return ""
    made = f"{shown.backend} shows {shown.level} of its answers"
    if shown.images is not None:
        return "images are not scored: their operator's signature is all that vouches for them"
    if shown.transcript is not None:
        return "prompt and answer are known to the client and its operator only, so nobody else has anything to score"
    if not shown.output_tokens:
        return f"{made}, and no tokens, so there is nothing that could be scored"
    if model.sha256 == named_model_digest(model.name):
        return f"{made}, and its model is known by name only, so nobody else has the file to score it with"
    return ""


def claimed(shown: Shown) -> Claim:
    """Return what an answer that comes with this claims of the model: with its own seed and fingerprints, if it shows them.

    Raises `InvalidRecord` when it has no tokens, hence nothing that could be scored.
    """
    if not shown.output_tokens:
        raise InvalidRecord(f"the answer shows {level_of(shown)} only: there is nothing that could be scored")
    tokens = list(shown.output_tokens)
    if isinstance(shown, Record):
        return Claim(output_tokens=tokens)
    return Claim(output_tokens=tokens, seed=shown.seed, prover=shown.prover, fingerprints=shown.fingerprints)


def score_item(job: JobSpec, digest: str, text: str = "", shown: Shown | None = None) -> JsonObject:
    """Return what a worker is asked to score (docs/worker.md): an answer of this text that comes with `shown`, else the job's claim.

    The prompt is the job's own, so that an answer to another one shows. Raises `InvalidRecord` for what cannot be scored.
    """
    asked = job.to_json()
    item: JsonObject = {
        name: asked[name] for name in ("prompt", "suffix", "messages", "params") if name in asked
    }
    item["subject"] = digest
    if shown is None:
        return item | (job.claim.to_json() if job.claim else {})
    said: JsonObject = {"text": text}
    if isinstance(shown, Transcript):
        said |= {"finish_reason": shown.finish_reason, "prompt_tokens": list(shown.prompt_tokens)}
    return item | claimed(shown).to_json() | {"answer": said}


def _check_nothing(result: JobResult, why: str) -> None:
    if result.transcript is not None:
        raise InvalidTranscript(why.format("transcript"))
    if result.record is not None or result.logprobs is not None:
        raise InvalidRecord(why.format("record" if result.record is not None else "logprob"))


def _check_tokens(record: Record, text: str, job: JobSpec) -> None:
    tokens = record.output_tokens
    if (tokens is None) != (record.level != "token_ids"):
        raise InvalidRecord("a record of level token_ids, and no other, has output_tokens")
    if tokens is None:
        return
    if len(tokens) > job.params.max_tokens:
        raise InvalidRecord(f"{len(tokens)} output tokens exceed max_tokens {job.params.max_tokens}")
    if text and not tokens:
        raise InvalidRecord("there is a text, and no output token that it was made of")


def _check_images(record: Record, text: str, job: JobSpec) -> None:
    images, wanted = record.images or [], job.image.n if job.image else 0
    if record.level != "text" or record.output_tokens is not None:
        raise InvalidRecord("an answer of images has a record of level text, without tokens")
    if len(images) != wanted:
        raise InvalidRecord(f"the job asks for {wanted} images, and the record has {len(images)}")
    if text.encode() != canonical({"images": [image.to_json() for image in images]}):
        raise InvalidRecord("the answer does not name the images of its record")
